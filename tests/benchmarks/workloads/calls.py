"""One caller: latency and CPU time of small messages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .. import measure
from ..contestants import (
    Opener,
    ours,
    raw,
    standard,
    with_execnet,
    with_jsonrpc,
    with_pyro,
    with_rpyc,
)
from ..runner import OURS, Entry, Goal, Metric, Sample, Size, Workload

RPC_PEERS = ("ProcessPoolExecutor", "execnet", "rpyc", "python-lsp-jsonrpc", "Pyro5")

P50 = Metric("p50", "µs")
P99 = Metric("p99", "µs")
CPU = Metric("cpu", "µs CPU")


def one_caller(opener: Opener, pause: float = 0.0) -> Callable[[Size], Sample]:
    """Return what measures one thread that asks, waits, and asks again."""

    def run(size: Size) -> Sample:
        with opener() as caller, measure.apart(caller.pid):
            return measure.calls(caller.call, caller.pid, size.seconds, pause)

    return run


def unbound(opener: Opener) -> Callable[[Size], Sample]:
    """The same, but the scheduler puts the processes where it likes."""

    def run(size: Size) -> Sample:
        with opener() as caller:
            return measure.calls(caller.call, caller.pid, size.seconds)

    return run


def one_cpu(opener: Opener) -> Callable[[Size], Sample]:
    def run(size: Size) -> Sample:
        with measure.on_one_cpu():
            return one_caller(opener)(size)

    return run


def peers(how: Callable[[Opener], Callable[[Size], Sample]]) -> tuple[Entry, ...]:
    """Return an entry for each library, measured the same way."""
    return (
        Entry("multiprocessing.Pipe", how(standard.open_pipe), lacks="ids, types, threads"),
        Entry("ProcessPoolExecutor", how(standard.open_pool), lacks="child to parent, deadlines"),
        Entry("execnet", how(with_execnet.open_caller), needs="execnet", lacks="requests, types"),
        Entry("rpyc", how(with_rpyc.open_caller), needs="rpyc", lacks="types"),
        Entry(
            "python-lsp-jsonrpc",
            how(with_jsonrpc.open_caller),
            needs="pylsp_jsonrpc",
            lacks="types, deadlines; this handler blocks its reader",
        ),
        Entry("Pyro5", how(with_pyro.open_caller), needs="Pyro5", lacks="types, child to parent"),
    )


def limits(how: Callable[[Opener], Callable[[Size], Sample]]) -> tuple[Entry, ...]:
    return (
        Entry("raw pipe", how(raw.open_pipe), role="limit"),
        Entry("raw pipe, spinning", how(partial(raw.open_pipe, raw.SPIN)), role="limit"),
    )


WORKLOADS = (
    Workload(
        "call",
        "one caller, small message, default settings",
        (P50, P99, CPU),
        (
            Entry(OURS, one_caller(ours.open_caller), role="ours"),
            *limits(one_caller),
            Entry("pickle alone", unbound(raw.open_pickle), role="limit", lacks="sending"),
            *peers(one_caller),
        ),
        (Goal("p50", most=0.6, of=("raw pipe",)), Goal("p50", most=0.25, of=RPC_PEERS)),
    ),
    Workload(
        "call-spin0",
        "one caller, spin=0",
        (P50, P99, CPU),
        (
            Entry(OURS, one_caller(partial(ours.open_caller, spin=0)), role="ours"),
            *limits(one_caller)[:1],
            *peers(one_caller),
        ),
        (Goal("p50", most=2.2, of=("raw pipe",)), Goal("p50", most=1.0, of=RPC_PEERS)),
    ),
    Workload(
        "call-unbound",
        "one caller, default settings, placed by the scheduler (depends on other load)",
        (P50, P99, CPU),
        (
            Entry(OURS, unbound(ours.open_caller), role="ours"),
            *limits(unbound),
            *peers(unbound),
        ),
        (Goal("p50", most=1.0, of=RPC_PEERS),),
    ),
    Workload(
        "call-one-cpu",
        "one caller, both processes on one CPU",
        (P50, P99, CPU),
        (
            Entry(OURS, one_cpu(ours.open_caller), role="ours"),
            *limits(one_cpu)[:1],
            *peers(one_cpu),
        ),
        (Goal("p50", most=1.0, of=RPC_PEERS),),
    ),
    Workload(
        "json",
        "one caller, JSON serializer",
        (P50, P99, CPU),
        (
            Entry(OURS, one_caller(partial(ours.open_caller, json=True)), role="ours"),
            Entry("native serializer", one_caller(ours.open_caller), role="ours too"),
        ),
        (Goal("p50", most=1.5, of=("native serializer",)),),
    ),
    Workload(
        "cpu-busy",
        "CPU time of a call, one after the other",
        (CPU, P50),
        (
            Entry(OURS, one_caller(ours.open_caller), role="ours"),
            Entry("spin=0", one_caller(partial(ours.open_caller, spin=0)), role="ours too"),
            *limits(one_caller),
        ),
        (Goal("cpu", most=1.0, of=("spin=0",)),),
    ),
    Workload(
        "cpu-10ms",
        "CPU time of a call, one every 10 ms",
        (CPU, P50),
        (
            Entry(OURS, one_caller(ours.open_caller, pause=0.01), role="ours"),
            Entry(
                "spin=0",
                one_caller(partial(ours.open_caller, spin=0), pause=0.01),
                role="ours too",
            ),
            Entry("raw pipe", one_caller(raw.open_pipe, pause=0.01), role="limit"),
        ),
        (Goal("cpu", most=60.0, of=("spin=0",), minus=True),),
    ),
)
