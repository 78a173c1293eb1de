"""Many small messages in one direction: notifications and streams."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any

from .. import measure
from ..children.messages import Count, Expect, Tell, Told
from ..contestants import (
    TEXT,
    ours,
    standard,
    with_execnet,
    with_jsonrpc,
    with_pyro,
    with_rpyc,
)
from ..runner import OURS, Entry, Goal, Metric, Sample, Size, Workload

NOTIFICATIONS = 50_000
ITEMS = 100_000
SLOW = 10
"""Those that need a round trip for each item get this many times fewer."""


def tell_all(
    tell: Callable[[int], object], told: Callable[[], tuple[int, bool]], count: int
) -> Sample:
    """Send; the clock stops when the other side says that it has handled all."""
    start = time.perf_counter()
    for number in range(count):
        tell(number)
    handled, in_order = told()
    seconds = time.perf_counter() - start
    if handled != count or not in_order:
        raise AssertionError(f"{handled} of {count} handled, in order: {in_order}")
    return {"rate": count / seconds}


def notify(size: Size) -> Sample:
    count = size.count(NOTIFICATIONS)
    with ours.open_session() as session, measure.apart(session.pid):
        session.request(Expect(count)).result()
        return tell_all(
            lambda number: session.notify(Tell(number, TEXT)),
            lambda: session.request(Told()).result(60),
            count,
        )


def count_told(connection: Connection) -> None:
    """Run in the child: count what comes; ``None`` asks for the number."""
    told, in_order = 0, True
    connection.send((told, in_order))
    while (message := connection.recv()) is not None:
        in_order = in_order and message[0] == told
        told += 1
    connection.send((told, in_order))


def notify_by_pipe(size: Size) -> Sample:
    with standard.open_connection(count_told) as (connection, pid), measure.apart(pid):
        connection.recv()

        def told() -> Any:
            connection.send(None)
            return connection.recv()

        return tell_all(
            lambda number: connection.send((number, TEXT)), told, size.count(NOTIFICATIONS)
        )


def notify_by_execnet(size: Size) -> Sample:
    with with_execnet.open_gateway() as (gateway, pid), measure.apart(pid):
        channel = with_execnet.run(gateway, "execnet_count.py")
        channel.receive(30)

        def told() -> Any:
            channel.send(None)
            return channel.receive(60)

        return tell_all(
            lambda number: channel.send((number, TEXT)), told, size.count(NOTIFICATIONS)
        )


def notify_by_rpyc(size: Size) -> Sample:
    import rpyc

    with with_rpyc.open_connection() as connection, measure.apart(connection.proc.pid):
        tell_async = rpyc.async_(connection.root.tell)
        window: deque[Any] = deque()

        def tell(number: int) -> None:
            # Each is answered, and both sides block for good if nobody reads the answers.
            window.append(tell_async(number, TEXT))
            if len(window) > 100:
                window.popleft().wait()

        return tell_all(tell, connection.root.count_told, size.count(NOTIFICATIONS // SLOW))


def notify_by_jsonrpc(size: Size) -> Sample:
    with with_jsonrpc.open_endpoint() as (endpoint, process), measure.apart(process.pid):

        def told() -> Any:
            return endpoint.request("count_told").result(60)

        told()
        return tell_all(
            lambda number: endpoint.notify("tell", {"number": number, "text": TEXT}),
            told,
            size.count(NOTIFICATIONS),
        )


def take_all(items: Iterable[int], count: int) -> Sample:
    """Iterate; make sure that each item comes once and in order."""
    start = time.perf_counter()
    expected = 0
    for item in items:
        if item != expected:
            raise AssertionError(f"item {item!r} came in the place of {expected}")
        expected += 1
    seconds = time.perf_counter() - start
    if expected != count:
        raise AssertionError(f"{expected} of {count} items came")
    return {"rate": count / seconds}


def stream(window: int | None = None) -> Callable[[Size], Sample]:
    options = {} if window is None else {"window": window}

    def run(size: Size) -> Sample:
        count = size.named(ITEMS)
        with ours.open_session() as session, measure.apart(session.pid):
            session.request(Expect(0)).result()
            return take_all(session.stream(Count(count), **options), count)

    return run


def send_items(connection: Connection, count: int) -> None:
    connection.recv()
    for number in range(count):
        connection.send(number)


def stream_by_pipe(size: Size) -> Sample:
    count = size.named(ITEMS)
    with standard.open_connection(send_items, count) as (connection, pid), measure.apart(pid):
        connection.send("go")
        return take_all((connection.recv() for _ in range(count)), count)


def stream_by_execnet(size: Size) -> Sample:
    count = size.named(ITEMS)
    with with_execnet.open_gateway() as (gateway, pid), measure.apart(pid):
        channel = gateway.remote_exec(
            "channel.send(0)\nfor number in range(channel.receive()): channel.send(number)"
        )
        channel.receive(30)
        channel.send(count)
        return take_all(channel, count)


def stream_by_rpyc(size: Size) -> Sample:
    from rpyc.utils.helpers import buffiter

    count = size.named(ITEMS)
    with with_rpyc.open_connection() as connection, measure.apart(connection.proc.pid):
        return take_all(buffiter(connection.root.count(count)), count)


def stream_by_pyro(size: Size) -> Sample:
    count = size.count(ITEMS // SLOW)
    with with_pyro.open_daemon() as (make_proxy, pid), measure.apart(pid):
        return take_all(make_proxy().count(count), count)


RATE = Metric("rate", "/s", better="higher")

WORKLOADS = (
    Workload(
        "notifications",
        "notifications one way, small, in order",
        (RATE,),
        (
            Entry(OURS, notify, role="ours"),
            Entry("multiprocessing.Pipe", notify_by_pipe, lacks="types, threads"),
            Entry("execnet", notify_by_execnet, needs="execnet", lacks="types, a bounded queue"),
            Entry("rpyc", notify_by_rpyc, needs="rpyc", lacks="types; each is answered"),
            Entry("python-lsp-jsonrpc", notify_by_jsonrpc, needs="pylsp_jsonrpc", lacks="types"),
        ),
        (Goal("rate", least=150_000.0),),
    ),
    Workload(
        "stream",
        "a stream of 100,000 small items",
        (RATE,),
        (
            Entry(OURS, stream(), role="ours"),
            Entry("window=1024", stream(1024), role="ours too"),
            Entry("multiprocessing.Pipe", stream_by_pipe, lacks="an end, cancellation, threads"),
            Entry("execnet", stream_by_execnet, needs="execnet", lacks="cancellation, a window"),
            Entry("rpyc", stream_by_rpyc, needs="rpyc", lacks="pushing: chunks are fetched"),
            Entry("Pyro5", stream_by_pyro, needs="Pyro5", lacks="pushing: each item is fetched"),
        ),
        (Goal("rate", least=100_000.0),),
    ),
)
