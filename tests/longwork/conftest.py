"""What the tests of long work share.

``STREAMIPC_SWITCH_INTERVAL`` in the environment, in seconds, sets how often Python
switches between threads, here and in the children of these tests.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).resolve().parent.parent / "support"


@pytest.fixture(autouse=True)
def switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(float(os.environ.get("STREAMIPC_SWITCH_INTERVAL", before)))
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def child() -> Callable[..., list[str]]:
    """``child("json", "sync", "2")`` is the command of ``long_child.py``."""

    def command(*arguments: str) -> list[str]:
        return [sys.executable, str(SUPPORT / "long_child.py"), *arguments]

    return command


@pytest.fixture
def session(child: Callable[..., list[str]]) -> Iterator[Any]:
    """A session with a child that is up and answers ``long_messages``."""
    from long_messages import WaitFor

    from streamipc import IpcPeer

    with IpcPeer().create_command_session(child()) as session:
        session.call(WaitFor("up", say=True))
        yield session
