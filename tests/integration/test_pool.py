"""Worker pools with real children: what a user asks of one, and what it answers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import os
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pool_messages import (
    Add,
    AskBack,
    Count,
    Echo,
    Fail,
    Heard,
    Log,
    Name,
    Nap,
    Pid,
    Ready,
    Said,
    Tell,
)

from streamipc import (
    IpcPeer,
    JsonMessageSerializer,
    Limits,
    OverloadedError,
    ProtocolError,
    RemoteError,
    RequestTimeoutError,
    SerializationError,
    SessionClosedError,
    SyncIpcSession,
    UnhandledRequestError,
    WorkerInfo,
    WorkerPool,
)

CHILD = str(Path(__file__).resolve().parents[1] / "support" / "pool_child.py")
COMMAND = [sys.executable, CHILD]

Eventually = Callable[..., None]


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(COMMAND, size=2, name="tests") as pool:
        yield pool


# Asking.


def test_a_call_is_answered_by_a_worker_that_it_starts(pool: WorkerPool) -> None:
    assert pool.workers == []
    assert pool.call(Add(2, 3)) == 5
    assert pool.call(Pid()) != os.getpid()
    assert len(pool.workers) == 1


def test_nothing_is_started_before_it_is_used() -> None:
    threads = threading.active_count()
    pool = WorkerPool(["/no/such/program"], size=4)

    assert (pool.workers, pool.size, pool.closed) == ([], 4, False)
    assert threading.active_count() == threads


def test_a_request_has_a_future(pool: WorkerPool) -> None:
    futures = [pool.request(Add(number)) for number in range(50)]

    done, waiting = concurrent.futures.wait(futures, timeout=30)
    assert (len(done), len(waiting)) == (50, 0)
    assert [future.result() for future in futures] == list(range(1, 51))
    assert futures[3].request == Add(3)
    assert not futures[3].running()
    assert pool.stats.done >= 50


def test_as_many_workers_are_started_as_are_needed(pool: WorkerPool) -> None:
    first, second = pool.request(Nap(0.3)), pool.request(Nap(0.3))

    assert (first.result(), second.result()) == ("rested", "rested")
    assert len(pool.workers) == 2


def test_one_request_at_a_time_is_given_to_a_worker(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with WorkerPool(COMMAND) as pool:
        futures = [pool.request(Log(str(path), str(number), 0.02)) for number in range(5)]
        assert futures[4].running() is False
        [future.result() for future in futures]

    assert path.read_text().split() == ["0", "1", "2", "3", "4"]


def test_several_are_if_it_may_have_several() -> None:
    with WorkerPool(COMMAND, per_worker=3) as pool:
        pool.wait_ready()
        futures = [pool.request(Nap(0.5)) for _ in range(3)]
        assert pool.workers[0].running == 3
        assert [future.result() for future in futures] == ["rested"] * 3
        assert len(pool.workers) == 1


def test_the_error_of_a_handler_is_the_callers(pool: WorkerPool) -> None:
    with pytest.raises(RemoteError, match="no such thing") as caught:
        pool.call(Fail("no such thing"))
    assert caught.value.remote_type == "ValueError"
    future = pool.request(Fail("nor this"))
    for _ in range(2):  # each with a traceback of its own
        with pytest.raises(RemoteError, match="nor this"):
            future.result()
    assert future.exception() is future.exception()


def test_what_can_not_be_sent_takes_no_worker(pool: WorkerPool) -> None:
    class Unsendable:
        pass

    for ask in (pool.call, pool.stream, lambda message: pool.request(message).result()):
        with pytest.raises(SerializationError):
            ask(Echo(Unsendable()))
    assert pool.call(Add(1)) == 2
    assert [worker.running for worker in pool.workers] == [0] * len(pool.workers)


def test_an_unhandled_request_says_so(pool: WorkerPool) -> None:
    with pytest.raises(UnhandledRequestError):
        pool.call(Name())


@pytest.mark.parametrize("wrong", [5, Add, None])
def test_only_messages_are_asked(pool: WorkerPool, wrong: Any) -> None:
    for ask in (pool.call, pool.request, pool.stream):
        with pytest.raises(TypeError, match="takes an instance of a Message class"):
            ask(wrong)


def test_metadata_reaches_the_handler_and_is_checked(pool: WorkerPool) -> None:
    assert pool.call(Add(1), metadata={"trace": "5"}) == 2
    assert pool.request(Add(1), metadata={"trace": "5"}).result() == 2
    with pytest.raises(TypeError, match="metadata"):
        pool.call(Add(1), metadata={"trace": 5})  # type: ignore[dict-item]


def test_progress_is_told(pool: WorkerPool) -> None:
    items: list[int] = []

    assert pool.request(Count(5), on_progress=items.append).result() == 5
    assert items == [0, 1, 2, 3, 4]


def test_a_stream_takes_a_worker_until_it_ends(pool: WorkerPool) -> None:
    with pool.stream(Count(3)) as stream:
        assert list(stream) == [0, 1, 2]
        assert stream.result() == 3
    assert "Count" in repr(stream)
    with pool.stream(Count(1000, pause=0.01)) as stream:
        assert next(stream) == 0
        assert sum(worker.running for worker in pool.workers) == 1
    assert pool.call(Add(1)) == 2


def test_a_stream_that_fails_raises(pool: WorkerPool) -> None:
    with pytest.raises(RemoteError, match="interpreted"):
        list(pool.stream(Count(2, pause="x")))  # type: ignore[arg-type]
    assert pool.call(Add(1)) == 2


# Timeouts and cancellation.


def test_a_request_whose_time_is_over_fails(pool: WorkerPool) -> None:
    future = pool.request(Nap(30), timeout=0.2)

    with pytest.raises(RequestTimeoutError, match=r"Nap within 0\.2 s: a worker had it"):
        future.result()
    with pytest.raises(RequestTimeoutError, match=r"Nap within 0\.2 s"):
        pool.call(Nap(30), timeout=0.2)
    assert pool.stats.timed_out == 2


def test_a_handler_that_heeds_it_keeps_its_worker(pool: WorkerPool) -> None:
    before = pool.call(Pid())
    with pytest.raises(RequestTimeoutError):
        pool.call(Nap(30), timeout=0.1)
    assert pool.drain(10)
    assert pool.call(Pid()) == before
    assert pool.stats.killed == 0


def test_a_request_may_also_wait_too_long_for_a_worker() -> None:
    with WorkerPool(COMMAND) as pool:
        busy = pool.request(Nap(1))
        waiting = pool.request(Add(1), timeout=0.1)
        with pytest.raises(RequestTimeoutError, match="waited for a worker all that time"):
            waiting.result()
        with pytest.raises(RequestTimeoutError, match="waited for a worker all that time"):
            pool.call(Add(1), timeout=0.1)
        assert busy.result() == "rested"


def test_a_wait_may_be_shorter_than_the_request(pool: WorkerPool) -> None:
    future = pool.request(Nap(0.5))

    with pytest.raises(RequestTimeoutError, match="the request itself goes on"):
        future.result(timeout=0.05)
    assert future.result(timeout=1e12) == "rested"


def test_a_waiting_request_can_be_cancelled() -> None:
    with WorkerPool(COMMAND) as pool:
        busy, waiting, last = pool.request(Nap(0.3)), pool.request(Add(1)), pool.request(Add(2))
        assert waiting.cancel()
        assert waiting.cancel()
        assert waiting.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result()
        assert concurrent.futures.wait([waiting], timeout=5).done == {waiting}
        assert (busy.result(), last.result()) == ("rested", 3)
        assert not last.cancel()


def test_the_handler_of_a_cancelled_request_is_told(pool: WorkerPool) -> None:
    before = pool.call(Pid())
    future = pool.request(Nap(30))
    assert future.cancel()
    assert pool.drain(10)
    assert pool.call(Pid()) == before


def test_a_request_of_a_handler_has_what_is_left_of_its_time(
    connected: Callable[..., Any], pool: WorkerPool
) -> None:
    left, right = connected()

    @right.on_request
    def pass_on(msg: Add) -> str:
        with pytest.raises(RequestTimeoutError):
            pool.call(Nap(30))
        return "in time"

    right.start()
    with pytest.raises(RequestTimeoutError):
        left.call(Add(1), timeout=0.3)
    assert pool.drain(10)


def test_the_time_is_the_peers_by_default() -> None:
    with WorkerPool(COMMAND, peer=IpcPeer(timeout=0.2)) as pool:
        with pytest.raises(RequestTimeoutError, match=r"0\.2 s"):
            pool.call(Nap(30))
        assert pool.call(Nap(0.4), timeout=None) == "rested"


# Many.


def test_replies_come_in_order(pool: WorkerPool) -> None:
    assert list(pool.map(Add(number) for number in range(100))) == list(range(1, 101))


def test_replies_come_as_they_are_there(pool: WorkerPool) -> None:
    replies = pool.map([Nap(0.5), Add(1), Add(2)], ordered=False)

    assert [*replies] == [2, 3, "rested"]


def test_messages_are_taken_as_replies_are(pool: WorkerPool) -> None:
    taken: list[int] = []

    def endless() -> Iterator[Add]:
        while True:
            taken.append(len(taken))
            yield Add(taken[-1])

    with pool.map(endless(), window=4) as replies:
        assert [next(replies) for _ in range(10)] == list(range(1, 11))
    assert len(taken) == 14
    assert list(replies) == []


def test_an_error_ends_a_map_and_cancels_the_rest(pool: WorkerPool) -> None:
    replies = pool.map([Add(1), Fail("at the second"), Nap(30), Nap(30)])

    assert next(replies) == 2
    with pytest.raises(RemoteError, match="at the second"):
        next(replies)
    assert list(replies) == []
    assert pool.drain(10)


def test_errors_may_come_in_the_place_of_replies(pool: WorkerPool) -> None:
    first, second, third = pool.map([Add(1), Fail("at the second"), Add(2)], return_exceptions=True)

    assert (first, third) == (2, 3)
    assert isinstance(second, RemoteError)


def test_a_map_that_is_dropped_cancels_what_is_on_its_way(pool: WorkerPool) -> None:
    pool.map([Nap(30), Nap(30), Nap(30)])
    gc.collect()

    assert pool.drain(10)


def test_no_more_than_so_many_requests_wait(eventually: Eventually) -> None:
    with WorkerPool(COMMAND, max_waiting=2) as pool:
        pool.wait_ready()
        first = [pool.request(Nap(0.5)) for _ in range(3)]
        with pytest.raises(RequestTimeoutError, match=r"2 requests wait .* \(max_waiting\)"):
            pool.request(Add(1), timeout=0.05)
        assert pool.request(Add(1)).result() == 2  # when there is room
        assert [future.result() for future in first] == ["rested"] * 3


# Handlers of this side.


def test_handlers_serve_all_workers_present_and_to_come(pool: WorkerPool) -> None:
    said: list[str] = []
    failed: list[BaseException] = []
    pool.on_request(name)
    pool.on_message(Said)(lambda msg: said.append(msg.text))

    @pool.on_exception
    def note(error: BaseException) -> None:
        failed.append(error)

    pool.wait_ready()

    @pool.on_message
    def fails(msg: Said) -> None:
        raise LookupError(msg.text)

    assert list(pool.map([AskBack()] * 4)) == ["the parent"] * 4
    pool.call(Tell("one"))
    pool.resize(3)
    pool.wait_ready()
    pool.call(Tell("two"))
    pool.drain()
    deadline = time.monotonic() + 10
    while len(failed) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(said) == ["one", "two"]
    assert sorted(map(str, failed)) == ["one", "two"]


def name(msg: Name) -> str:
    return "the parent"


def test_what_can_not_be_a_handler_is_refused_at_once(pool: WorkerPool) -> None:
    with pytest.raises(TypeError):
        pool.on_request(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        pool.on_request(Name)("no function")  # type: ignore[type-var]


def test_a_broadcast_reaches_all_workers(pool: WorkerPool) -> None:
    assert pool.broadcast(Said("to nobody")) == {}
    pool.wait_ready()
    assert pool.broadcast(Said("to all")) == {}
    heard = [pool.request(Nap(0.2)) for _ in range(2)]
    assert [future.result() for future in heard] == ["rested"] * 2
    assert pool.call(Heard()) == ["to all"]
    with pytest.raises(TypeError):
        pool.broadcast(Add(1))


def test_a_broadcast_that_fails_tells_where() -> None:
    with WorkerPool(COMMAND, peer=IpcPeer(max_frame_size=1024)) as pool:
        pool.wait_ready()
        ((info, error),) = pool.broadcast(Said("x" * 2000)).items()
        assert info.pid == pool.workers[0].pid
        assert isinstance(error, ProtocolError)


# Looking after workers.


def test_all_are_started_and_waited_for(pool: WorkerPool) -> None:
    assert pool.start() is pool
    assert pool.wait_ready(30) is True
    infos = pool.workers
    assert [(info.state, info.running, info.done) for info in infos] == [("ready", 0, 0)] * 2
    assert all(abs(info.started - time.time()) < 60 for info in infos)
    assert len({info.pid for info in infos}) == 2
    assert pool.stats[:4] == (2, 2, 0, 0)


def test_nobody_gets_a_worker_that_is_not_ready(tmp_path: Path) -> None:
    with WorkerPool([*COMMAND, "never-ready"], ready=Ready(), wait=0.2, start_timeout=60) as pool:
        assert pool.wait_ready(0.1) is False
        assert pool.workers[0].state == "starting"
        with pytest.raises(SessionClosedError, match="none was ready in time"):
            pool.call(Add(1))
        pool.resize(0)  # or its end would be waited for


def test_a_pool_can_be_checked(pool: WorkerPool) -> None:
    assert pool.check() is True
    assert len(pool.workers) == 1
    with WorkerPool(COMMAND, ready=Ready()) as one:
        assert one.check() is True
    assert one.check() is False
    with WorkerPool(["/no/such/program"]) as none:
        assert none.check(timeout=5) is False


def test_it_grows_and_shrinks(pool: WorkerPool, eventually: Eventually) -> None:
    pool.wait_ready()
    pool.resize(3)
    assert pool.wait_ready()
    assert (len(pool.workers), pool.size) == (3, 3)
    busy = [pool.request(Nap(0.3)) for _ in range(3)]
    pool.resize(1)
    assert [future.result() for future in busy] == ["rested"] * 3
    eventually(lambda: len(pool.workers) == 1)
    assert pool.stats.retired == 2


def test_a_rolling_restart_replaces_all_and_nobody_notices(
    pool: WorkerPool, eventually: Eventually
) -> None:
    pool.wait_ready()
    before = {info.pid for info in pool.workers}
    pool.restart()
    while {info.pid for info in pool.workers} & before:
        assert pool.call(Add(1)) == 2
    eventually(lambda: len(pool.workers) == 2)
    assert pool.stats.retired == 2
    assert pool.stats.died == 0


def test_a_worker_is_replaced_after_so_many_requests() -> None:
    with WorkerPool(COMMAND, max_requests=5) as pool:
        pids = [pool.call(Pid()) for _ in range(20)]
    assert max(pids.count(pid) for pid in pids) <= 5


def test_a_worker_of_one_request_each() -> None:
    with WorkerPool(COMMAND, max_requests=1) as pool:
        assert len({pool.call(Pid()) for _ in range(3)}) == 3


def test_a_worker_is_replaced_after_so_long(eventually: Eventually) -> None:
    with WorkerPool(COMMAND, max_lifetime=0.3) as pool:
        first = pool.call(Pid())
        eventually(lambda: pool.call(Pid()) != first)
        assert pool.stats.died == 0


def test_events_are_told(eventually: Eventually) -> None:
    events: list[tuple[str, WorkerInfo]] = []

    def note(event: str, info: WorkerInfo) -> None:
        events.append((event, info))
        raise LookupError("is logged")

    with WorkerPool(COMMAND, on_event=note) as pool:
        pool.call(Add(1))
    eventually(lambda: len(events) == 3)

    assert [event for event, _ in events] == ["started", "ready", "retired"]
    assert len({info.pid for _, info in events}) == 1


def test_a_drain_waits_for_what_was_asked_before(pool: WorkerPool) -> None:
    assert pool.drain(0)
    future = pool.request(Nap(0.4))
    assert pool.drain(0.01) is False
    assert pool.drain() is True
    assert future.done()


# The end.


def test_the_end_of_the_block_waits_for_all() -> None:
    with WorkerPool(COMMAND, size=2) as pool:
        futures = [pool.request(Nap(0.1)) for _ in range(10)]

    assert [future.result() for future in futures] == ["rested"] * 10
    assert pool.closed


def test_a_block_that_fails_does_not_wait_long() -> None:
    futures = []

    def fail() -> None:
        with WorkerPool(COMMAND) as pool:
            futures.extend([pool.request(Nap(60)) for _ in range(3)])
            pool.close(0.2)
            raise KeyError("in the block")

    with pytest.raises(KeyError):
        fail()
    for future in futures:
        with pytest.raises(SessionClosedError):
            future.result()


def test_a_closed_pool_says_so(pool: WorkerPool) -> None:
    pool.call(Add(1))
    pool.close()
    pool.close()

    for use in (pool.call, pool.request, pool.stream):
        with pytest.raises(SessionClosedError, match="the pool 'tests' is closed") as caught:
            use(Add(1))
        assert caught.value.executed is False
    with pytest.raises(SessionClosedError):
        pool.map([Add(1)])
    assert pool.workers == []
    assert repr(pool) == "<WorkerPool 'tests' closed>"


def test_what_waits_when_it_is_closed_in_time_is_answered() -> None:
    pool = WorkerPool(COMMAND)
    futures = [pool.request(Nap(0.1)) for _ in range(3)]
    pool.close(timeout=30)

    assert [future.result() for future in futures] == ["rested"] * 3


def test_it_can_be_closed_from_its_own_event(eventually: Eventually) -> None:
    pool = WorkerPool(COMMAND, on_event=lambda event, info: pool.close())
    with pytest.raises(SessionClosedError):
        [pool.call(Add(1)) for _ in range(10_000)]
    eventually(lambda: pool.workers == [])


def test_a_pool_that_is_dropped_warns_and_ends_its_workers(eventually: Eventually) -> None:
    pools = [WorkerPool(COMMAND)]
    pid = pools[0].call(Pid())
    with pytest.warns(ResourceWarning, match="unclosed <WorkerPool 'pool_child.py'"):
        pools.clear()
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_a_future_keeps_its_pool() -> None:
    future = WorkerPool(COMMAND).request(Add(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert future.result() == 2


def test_it_can_not_be_sent_to_another_process(pool: WorkerPool) -> None:
    with pytest.raises(TypeError, match="belongs to this process"):
        pickle.dumps(pool)


# Commands, children and settings of all kinds.


def test_children_may_speak_json() -> None:
    with WorkerPool([*COMMAND, "json"], peer=IpcPeer(JsonMessageSerializer())) as pool:
        assert pool.call(Add(2, 3)) == 5
        with pytest.raises(RequestTimeoutError):
            pool.call(Nap(30), timeout=0.1)
        assert pool.drain(10)
        assert pool.stats.killed == 0


def test_a_session_may_be_made_by_a_function() -> None:
    peer = IpcPeer()

    def connect() -> Any:
        return peer.create_command_session(COMMAND)

    with WorkerPool(connect, peer=peer) as pool:
        assert pool.call(Add(2, 3)) == 5
        assert pool.name == "connect"
    pool = WorkerPool(lambda: peer.create_command_session(["/no/such/program"]))
    with pool, pytest.raises(SessionClosedError, match="no/such/program"):
        pool.call(Add(1))


def test_a_connection_that_is_lost_is_made_anew(eventually: Eventually) -> None:
    """Neither side is a child: there is no process to kill."""
    here, there = IpcPeer(), IpcPeer()
    may_end = threading.Event()

    @there.on_request
    def add(msg: Add) -> int:
        return msg.a + msg.b

    @there.on_request
    def nap(msg: Nap) -> None:
        may_end.wait(30)

    def connect() -> Any:
        to_there, from_here = reversed(os.pipe())
        to_here, from_there = reversed(os.pipe())
        there.create_stream_session(to_here, from_here).start()
        return here.create_stream_session(to_there, from_there)

    with there, WorkerPool(connect, peer=here, kill_grace=0.1) as pool:
        assert pool.call(Add(1)) == 2
        assert pool.workers[0].pid is None
        there.sessions[0].close()
        eventually(lambda: pool.stats.died == 1)
        assert pool.call(Add(2)) == 3
        with pytest.raises(RequestTimeoutError):
            pool.call(Nap(30), timeout=0.1)
        assert pool.call(Add(3)) == 4
        assert pool.stats.killed == 1
        may_end.set()


def test_a_worker_that_holds_too_much_is_not_asked_for_ever() -> None:
    here = IpcPeer()
    there = IpcPeer(handler_threads=1, limits=Limits(waiting_requests=1))
    may_end = threading.Event()

    @there.on_request
    def nap(msg: Nap) -> str:
        may_end.wait(30)
        return "rested"

    def connect() -> Any:
        to_there, from_here = reversed(os.pipe())
        to_here, from_there = reversed(os.pipe())
        there.create_stream_session(to_here, from_here).start()
        return here.create_stream_session(to_there, from_there)

    with there, WorkerPool(connect, peer=here, per_worker=20) as pool:
        futures = [pool.request(Nap(30)) for _ in range(20)]
        refused = concurrent.futures.wait(futures, timeout=30, return_when="FIRST_EXCEPTION").done
        assert {type(future.exception()) for future in refused} == {OverloadedError}
        may_end.set()
        outcomes = {type(future.exception()) for future in futures}
        assert outcomes == {OverloadedError, type(None)}


def test_a_future_can_be_awaited_and_tells_of_itself(pool: WorkerPool) -> None:
    async def ask() -> int:
        return await pool.request(Add(2, 3))

    assert asyncio.run(ask()) == 5
    future = pool.request(Add(1))
    assert future.result() == 2
    assert future.id == 2
    assert repr(future) == "<PoolFuture of pool_messages.Add, request 2: returned int>"


def test_what_workers_print_may_go_to_a_logger(caplog: pytest.LogCaptureFixture) -> None:
    from pool_messages import Die

    logger = logging.getLogger("tests.words")
    caplog.set_level(logging.INFO)
    with WorkerPool(COMMAND, stderr=logger) as pool, pytest.raises(SessionClosedError):
        pool.call(Die())
    assert ("tests.words", logging.INFO, "about to die") in caplog.record_tuples


def test_sessions_without_threads_can_be_pooled() -> None:
    threads = threading.active_count()
    peer = IpcPeer(session_type=SyncIpcSession)
    with WorkerPool(COMMAND, size=2, peer=peer, kill_grace=0.5) as pool:
        pool.on_request(name)
        assert pool.call(Add(2, 3)) == 5
        assert pool.call(AskBack()) == "the parent"
        assert list(pool.map([Add(1), Add(2)])) == [2, 3]
        assert [type(one) for one in pool.map([Fail("x")], return_exceptions=True)] == [RemoteError]
        assert list(pool.stream(Count(3))) == [0, 1, 2]
        assert pool.wait_ready(30)
        assert pool.check()
        assert threading.active_count() == threads
        with pytest.raises(TypeError, match="request\\(\\) needs a thread"):
            pool.request(Add(1))
        for _ in range(3):  # each takes a worker, which is killed
            with pytest.raises(RequestTimeoutError):
                pool.call(Nap(30, heeds=False), timeout=0.1)
        assert pool.drain(0) is False
        assert pool.drain(20) is True
        assert pool.call(Add(1)) == 2
        assert pool.stats.killed >= 1


def test_without_threads_a_call_waits_for_a_worker_that_is_to_be_killed() -> None:
    peer = IpcPeer(session_type=SyncIpcSession)
    with WorkerPool(COMMAND, peer=peer, ready=Ready(), kill_grace=0.3) as pool:
        pool.wait_ready()
        with pytest.raises(RequestTimeoutError):
            pool.call(Nap(30, heeds=False), timeout=0.1)
        assert pool.call(Add(1)) == 2
        assert pool.stats.killed == 1


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"size": 1.5}, TypeError),
        ({"size": -1}, ValueError),
        ({"size": True}, TypeError),
        ({"per_worker": 0}, ValueError),
        ({"retries": -1}, ValueError),
        ({"max_waiting": 0}, ValueError),
        ({"max_requests": 0}, ValueError),
        ({"max_lifetime": -1}, ValueError),
        ({"backoff": (1, "x")}, TypeError),
        ({"wait": -1}, ValueError),
        ({"kill_grace": None}, TypeError),
        ({"peer": 5}, TypeError),
        ({"ready": Add}, TypeError),
        ({"on_event": 5}, TypeError),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        WorkerPool(COMMAND, **wrong)


def test_its_name_is_the_last_word_of_the_command() -> None:
    assert WorkerPool(COMMAND).name == "pool_child.py"
    assert WorkerPool("serve").name == "serve"
    assert WorkerPool([]).name == "workers"
    assert WorkerPool(COMMAND, name="words").name == "words"
    assert repr(WorkerPool(COMMAND)) == "<WorkerPool 'pool_child.py' size=1>"
