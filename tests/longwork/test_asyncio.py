"""From a running asyncio loop: ``await`` and ``async for``, with no loop of the library's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from long_messages import Blob, Count, Forever, Step, WaitFor

from streamipc import (
    IpcSession,
    RemoteError,
    RequestCancelledError,
    RequestTimeoutError,
    SessionClosedError,
)


def test_a_request_can_be_awaited(session: IpcSession) -> None:
    async def main() -> None:
        assert await session.request(Blob(b"abc")) == 3
        with pytest.raises(RemoteError, match="on purpose"):
            await session.request(Count(1, fail_after=0))
        with pytest.raises(RequestTimeoutError):
            await session.request(Forever("late"), timeout=0.1)

    asyncio.run(main())


def test_a_future_made_outside_the_loop_can_be_awaited_inside(session: IpcSession) -> None:
    early = session.request(Blob(b"abc"))
    done = session.request(Blob(b"ab"))
    done.result(timeout=30)

    async def main() -> list[int]:
        return [await early, await done, await done]

    assert asyncio.run(main()) == [3, 2, 2]


def test_many_requests_are_gathered(session: IpcSession) -> None:
    async def ask(size: int) -> int:
        return await session.request(Blob(b"x" * size))

    async def main() -> list[int]:
        return await asyncio.gather(*(ask(size) for size in range(300)))

    assert asyncio.run(main()) == list(range(300))


@pytest.mark.parametrize("window", [1, 16, 1000])
def test_a_stream_can_be_iterated(session: IpcSession, window: int) -> None:
    async def main() -> tuple[list[Any], int]:
        with session.stream(Count(300), window=window) as stream:
            return [item async for item in stream], await stream.future

    items, reply = asyncio.run(main())
    assert items == [Step(number) for number in range(300)]
    assert reply == 300


def test_streams_and_requests_take_turns_on_one_loop(session: IpcSession) -> None:
    async def consume(n: int) -> int:
        count = 0
        async for item in session.stream(Count(n), window=2):
            assert item == Step(count)
            count += 1
            if count % 10 == 0:
                assert await session.request(Blob(b"x" * count)) == count
        return count

    async def main() -> list[int]:
        return await asyncio.gather(*(consume(n) for n in range(50, 60)))

    assert asyncio.run(main()) == list(range(50, 60))


def test_an_exception_comes_after_the_items(session: IpcSession) -> None:
    items = []

    async def main() -> None:
        async for item in session.stream(Count(9, fail_after=3)):
            items.append(item)

    with pytest.raises(RemoteError, match="on purpose"):
        asyncio.run(main())
    assert items == [Step(0), Step(1), Step(2)]


def test_cancelling_the_task_cancels_the_request(session: IpcSession) -> None:
    async def main() -> None:
        future = session.request(Forever("awaited"))

        async def wait() -> None:
            await future

        task = asyncio.create_task(wait())
        await session.request(WaitFor("awaited started"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert future.cancelled()
        await session.request(WaitFor("awaited cancelled"))

    asyncio.run(main())


def test_a_timeout_of_asyncio_cancels_the_request(session: IpcSession) -> None:
    async def main() -> None:
        asked = asyncio.ensure_future(_await(session.request(Forever("slow"))))
        await session.request(WaitFor("slow started"))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asked, timeout=0.05)
        await session.request(WaitFor("slow cancelled"))

    asyncio.run(main())


async def _await(future: Any) -> Any:
    return await future


def test_cancelling_the_task_closes_the_stream(session: IpcSession) -> None:
    async def main() -> None:
        arrived = asyncio.Event()

        async def consume() -> None:
            async for _ in session.stream(Forever("streamed")):  # type: ignore[var-annotated]
                pass

        task = asyncio.create_task(consume())
        await session.request(WaitFor("streamed started"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await session.request(WaitFor("streamed cancelled"))
        arrived.set()

    asyncio.run(main())


def test_leaving_the_loop_early_closes_the_stream(session: IpcSession) -> None:
    async def main() -> None:
        with session.stream(Count(10**9, name="left")) as stream:
            async for item in stream:
                if item.number == 40:
                    break
        await session.request(WaitFor("left closed"))

    asyncio.run(main())


def test_a_loop_that_is_closed_under_its_task_does_no_harm(session: IpcSession) -> None:
    """What it waited for arrives when the loop is gone."""
    stream = session.stream(WaitFor("go"))

    async def consume() -> None:
        async for _ in stream:
            pass

    loop = asyncio.new_event_loop()
    task = loop.create_task(consume())
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()

    session.call(WaitFor("go", say=True))
    assert stream.result(timeout=30) is None
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.get_coro().close()  # type: ignore[union-attr]


def test_the_end_of_the_session_reaches_the_loop(session: Any) -> None:
    async def main() -> None:
        future = session.request(Forever("one"))
        await session.request(WaitFor("one started"))
        session.kill()
        with pytest.raises(SessionClosedError):
            await future

    asyncio.run(main())


def test_no_thread_of_the_loops_is_made(session: IpcSession) -> None:
    session.call(Blob(b""))

    async def main() -> set[str]:
        await session.request(Blob(b""))
        async for _ in session.stream(Count(5)):
            pass
        return {thread.name for thread in threading.enumerate()}

    names = asyncio.run(main())
    assert all(name == "MainThread" or name.startswith("streamipc-") for name in names), names


def test_stuck_handlers_do_not_delay_the_loop(connected: Callable[..., Any]) -> None:
    from streamipc import IpcPeer

    left, right = connected(IpcPeer(handler_threads=1), IpcPeer())
    stuck, release = threading.Event(), threading.Event()
    right.on_request(Blob)(lambda msg: len(msg.data))

    @left.on_request
    def block(msg: Count) -> None:
        stuck.set()
        assert release.wait(30)

    async def main() -> None:
        blocked = right.request(Count(1))
        left.start()
        await asyncio.to_thread(stuck.wait, 10)
        try:
            assert [await left.request(Blob(b"x" * n)) for n in range(20)] == list(range(20))
        finally:
            release.set()
        await blocked

    asyncio.run(main())


def test_a_request_cancelled_by_the_other_side_is_an_error(connected: Callable[..., Any]) -> None:
    """Not a cancellation: the task goes on."""
    left, right = connected()

    @right.on_request
    def give_up(msg: Count) -> None:
        raise RequestCancelledError("gave up")

    right.start()

    async def main() -> str:
        try:
            await left.request(Count(1))
        except RemoteError as error:
            return str(error)
        return ""

    assert "gave up" in asyncio.run(main())
