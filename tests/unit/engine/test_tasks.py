"""Tasks never raise: whatever the user's code does is said to somebody."""

from __future__ import annotations

from typing import Any

import pytest
from calls import make_future

from streamipc import LogMessage
from streamipc.engine.tasks import CallbacksTask, CallTask


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_called_function_raises_is_reported(error: BaseException) -> None:
    reported: list[BaseException] = []

    def fail() -> None:
        raise error

    CallTask(fail, reported.append).run()

    assert reported == [error]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_concurrent_futures_lets_out_of_a_callback_is_reported(error: BaseException) -> None:
    reported: list[BaseException] = []
    future: Any = make_future(None, 1, LogMessage("x"))  # type: ignore[arg-type]

    def fail(_: Any) -> None:
        raise error

    future.add_done_callback(fail)
    future._call.settle("reply", None)

    CallbacksTask(future, reported.append).run()

    assert reported == [error]
