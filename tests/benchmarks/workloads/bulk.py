"""One large message one way: 64 MiB of bytes, or as a numpy array."""

from __future__ import annotations

import fcntl
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from .. import measure
from ..children.memory import peak, reset_peak
from ..children.messages import Peak, Trace, Weigh
from ..contestants import child_command, ours, standard, with_execnet, with_pyro, with_rpyc
from ..runner import OURS, Entry, Goal, Metric, Sample, Size, Workload

BYTES = 64 << 20
REPEATS = 4
GROWN = 1 << 20
"""Bytes: what an unprivileged user may grow a pipe to; see pipe(7)."""

Make = Callable[[int], Any]


def make_bytes(size: int) -> bytes:
    return os.urandom(1 << 12) * (size >> 12)


def make_array(size: int) -> Any:
    import numpy as np

    return np.arange(size >> 3, dtype=np.float64)


def large(size: Size) -> int:
    """Return a number of bytes that is a multiple of a page."""
    return max(size.named(BYTES) & ~0xFFFF, 1 << 16)


def transfers(send: Callable[[Any], object], data: Any, length: int) -> Sample:
    """Send and wait for the receiver's word, again and again; return the median speed."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        weight = send(data)
        seconds.append(time.perf_counter() - start)
        if weight != length:
            raise AssertionError(f"{weight} of {length} bytes came")
    return {"speed": length / statistics.median(seconds) / 1e9}


def session(make: Make, *arguments: str) -> Callable[[Size], Sample]:
    def run(size: Size) -> Sample:
        length = large(size)
        data = make(length)
        with ours.open_session(*arguments) as session, measure.apart(session.pid):
            session.request(Weigh(b"")).result()
            sample = transfers(lambda it: session.request(Weigh(it)).result(), data, length)
        with ours.open_session(*arguments) as session:
            return sample | memory(session, data, length)

    return run


def memory(session: Any, data: Any, length: int) -> Sample:
    """Return how much memory each side comes to use for a transfer, in multiples of the data.

    The sender has the data already: 0 is no copy. The receiver needs 1 to have it.
    """
    session.request(Weigh(b"")).result()
    session.request(Trace()).result()
    before = reset_peak()
    session.request(Weigh(data)).result()
    sender = peak() - before
    receiver = session.request(Peak()).result()
    return {"sender": sender / length, "receiver": receiver / length}


def serve(connection: Connection, raw: bool) -> None:
    """Run in the child: say how large each message was."""
    receive = connection.recv_bytes if raw else connection.recv
    while True:
        try:
            connection.send(weight_of(receive()))
        except EOFError:
            return


def weight_of(data: Any) -> int:
    return getattr(data, "nbytes", None) or len(data)


def connection(make: Make, raw: bool = False) -> Callable[[Size], Sample]:
    def run(size: Size) -> Sample:
        length = large(size)
        with (
            standard.open_connection(serve, raw) as (connection, pid),
            measure.apart(pid),
        ):
            send = connection.send_bytes if raw else connection.send

            def transfer(data: Any) -> Any:
                send(data)
                return connection.recv()

            data = make(length)
            transfer(data[:1])
            return transfers(transfer, data, length)

    return run


def pool(make: Make) -> Callable[[Size], Sample]:
    def run(size: Size) -> Sample:
        length = large(size)
        data = make(length)
        with standard.open_executor() as (executor, pid), measure.apart(pid):
            executor.submit(weight_of, data[:1]).result()
            return transfers(lambda it: executor.submit(weight_of, it).result(), data, length)

    return run


def by_execnet(size: Size) -> Sample:
    length = large(size)
    with with_execnet.open_gateway() as (gateway, pid), measure.apart(pid):
        channel = gateway.remote_exec("for data in channel: channel.send(len(data))")

        def transfer(data: bytes) -> Any:
            channel.send(data)
            return channel.receive(60)

        transfer(b"")
        return transfers(transfer, make_bytes(length), length)


def by_rpyc(size: Size) -> Sample:
    length = large(size)
    with with_rpyc.open_connection() as connection, measure.apart(connection.proc.pid):
        weigh = connection.root.weigh
        weigh(b"")
        return transfers(weigh, make_bytes(length), length)


def by_pyro(size: Size) -> Sample:
    length = large(size)
    with with_pyro.open_daemon() as (make_proxy, pid), measure.apart(pid):
        weigh = make_proxy().weigh
        weigh(b"")
        return transfers(weigh, make_bytes(length), length)


def raw_pipe(grown: bool) -> Callable[[Size], Sample]:
    def run(size: Size) -> Sample:
        length = large(size)
        with subprocess.Popen(
            child_command("raw_sink.py", length),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            there, back = process.stdin.fileno(), process.stdout.fileno()
            if grown:
                fcntl.fcntl(there, fcntl.F_SETPIPE_SZ, GROWN)  # type: ignore[attr-defined]

            def transfer(data: bytes) -> int:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(there, rest) :]
                os.read(back, 1)
                return length

            with measure.apart(process.pid):
                sample = transfers(transfer, make_bytes(length), length)
            process.stdin.close()
            return sample

    return run


# fcntl has the name from Python 3.10 on; Linux only.
LIMITS = (
    Entry("raw pipe", raw_pipe(grown=False), role="limit"),
    Entry("raw pipe, grown to 1 MiB", raw_pipe(grown=True), role="limit"),
)

METRICS = (
    Metric("speed", "GB/s", better="higher"),
    Metric("sender", "×"),
    Metric("receiver", "×"),
)

WORKLOADS = (
    Workload(
        "bulk-bytes",
        "64 MiB one way, bytes; memory that each side uses for it, in multiples",
        METRICS,
        (
            Entry(OURS, session(make_bytes), role="ours"),
            *LIMITS,
            Entry("multiprocessing.Pipe", connection(make_bytes)),
            Entry("… send_bytes()", connection(make_bytes, raw=True), lacks="objects: bytes only"),
            Entry("ProcessPoolExecutor", pool(make_bytes)),
            Entry("execnet", by_execnet, needs="execnet"),
            Entry("rpyc", by_rpyc, needs="rpyc"),
            Entry("Pyro5", by_pyro, needs="Pyro5"),
        ),
        (
            Goal("speed", least=3.0, of=("multiprocessing.Pipe",)),
            Goal("sender", most=1.05),
            Goal("receiver", most=2.05),
        ),
    ),
    Workload(
        "bulk-numpy",
        "64 MiB one way, a numpy array of float64; memory likewise",
        METRICS,
        (
            Entry(OURS, session(make_array, "numpy"), role="ours", needs="numpy"),
            *LIMITS,
            Entry("multiprocessing.Pipe", connection(make_array), needs="numpy"),
            Entry("ProcessPoolExecutor", pool(make_array), needs="numpy"),
        ),
        (
            Goal("speed", least=3.0, of=("multiprocessing.Pipe",)),
            Goal("sender", most=1.05),
            Goal("receiver", most=2.05),
        ),
    ),
)
