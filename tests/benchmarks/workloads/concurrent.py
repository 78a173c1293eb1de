"""Several requests at once, and requests in the other direction."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from .. import measure
from ..children.messages import Answer, Ask, CallBack, Go, Measured
from ..contestants import (
    Opener,
    ours,
    standard,
    with_execnet,
    with_jsonrpc,
    with_pyro,
    with_rpyc,
)
from ..runner import OURS, Entry, Goal, Metric, Sample, Size, Workload
from .calls import P50, P99, RPC_PEERS, one_caller

THREADS = 8
WINDOW = 64

RATE = Metric("rate", "/s", better="higher")


def threads(opener: Opener) -> Callable[[Size], Sample]:
    """Return what measures several threads with one session, each waiting for its reply."""

    def run(size: Size) -> Sample:
        with opener() as caller, measure.apart(caller.pid):
            assert caller.make_call is not None
            return measure.from_threads(caller.make_call, THREADS, size.seconds)

    return run


def in_flight(opener: Opener) -> Callable[[Size], Sample]:
    """Return what measures one thread with many requests under way."""

    def run(size: Size) -> Sample:
        with opener() as caller, measure.apart(caller.pid):
            assert caller.submit is not None
            assert caller.collect is not None
            return measure.in_flight(caller.submit, caller.collect, WINDOW, size.seconds)

    return run


def summary(took: list[float]) -> Sample:
    return {
        "p50": statistics.median(took) * 1e6,
        "p99": measure.percentile(took, 99) * 1e6,
    }


def answer(msg: Ask) -> Answer:
    return Answer(msg.number + 1, msg.text)


def child_calls(size: Size) -> Sample:
    with ours.open_session("call") as session, measure.apart(session.pid):
        session.on_request(answer)
        session.notify(Go(size.seconds))
        measured = session.receive(timeout=60)
        assert isinstance(measured, Measured)
        return summary(measured.took)


def handler_calls(size: Size) -> Sample:
    with ours.open_session() as session, measure.apart(session.pid):
        session.on_request(answer)
        session.request(CallBack(size.seconds * measure.WARM_UP)).result()
        return summary(session.request(CallBack(size.seconds)).result())


def rpyc_child_calls(size: Size) -> Sample:
    with with_rpyc.open_connection() as connection, measure.apart(connection.proc.pid):
        took = connection.root.call_back(size.seconds, lambda number, text: (number + 1, text))
        return summary(list(took))


def jsonrpc_child_calls(size: Size) -> Sample:
    methods = {"ask": lambda params: {"number": params["number"] + 1, "text": params["text"]}}
    with (
        with_jsonrpc.open_endpoint(methods) as (endpoint, process),
        measure.apart(process.pid),
    ):
        return summary(endpoint.request("call_back", {"seconds": size.seconds}).result(60))


WORKLOADS = (
    Workload(
        "child-calls-parent",
        "child calls parent, small message",
        (P50, P99),
        (
            Entry(OURS, child_calls, role="ours"),
            Entry("from a handler", handler_calls, role="ours too"),
            Entry("parent calls child", one_caller(ours.open_caller), role="ours too"),
            Entry("rpyc", rpyc_child_calls, needs="rpyc", lacks="types"),
            Entry(
                "python-lsp-jsonrpc",
                jsonrpc_child_calls,
                needs="pylsp_jsonrpc",
                lacks="types, deadlines",
            ),
        ),
        (Goal("p50", most=1.2, of=("parent calls child",)),),
    ),
    Workload(
        "threads-8",
        "8 threads, one session, each waiting for its own replies",
        (RATE, P50, P99, Metric("p99/p50", "×")),
        (
            Entry(OURS, threads(ours.open_caller), role="ours"),
            Entry("ProcessPoolExecutor", threads(standard.open_pool), lacks="deadlines"),
            Entry(
                "execnet",
                threads(with_execnet.open_caller),
                needs="execnet",
                lacks="requests, types; a channel for each thread",
            ),
            Entry("rpyc", threads(with_rpyc.open_caller), needs="rpyc", lacks="types"),
            Entry(
                "python-lsp-jsonrpc",
                threads(with_jsonrpc.open_caller),
                needs="pylsp_jsonrpc",
                lacks="types, deadlines; this handler blocks its reader",
            ),
            Entry(
                "Pyro5",
                threads(with_pyro.open_caller),
                needs="Pyro5",
                lacks="types; a connection for each thread",
            ),
        ),
        (Goal("rate", least=3.0, of=RPC_PEERS), Goal("p99/p50", most=12.0)),
    ),
    Workload(
        "in-flight-64",
        "64 requests in flight from one thread",
        (RATE,),
        (
            Entry(OURS, in_flight(ours.open_caller), role="ours"),
            Entry(
                "multiprocessing.Pipe",
                in_flight(standard.open_pipe),
                lacks="ids: replies come in order; types, threads",
            ),
            Entry("ProcessPoolExecutor", in_flight(standard.open_pool), lacks="deadlines"),
            Entry(
                "execnet",
                in_flight(with_execnet.open_caller),
                needs="execnet",
                lacks="ids: replies come in order; types",
            ),
            Entry("rpyc", in_flight(with_rpyc.open_caller), needs="rpyc", lacks="types"),
            Entry(
                "python-lsp-jsonrpc",
                in_flight(with_jsonrpc.open_caller),
                needs="pylsp_jsonrpc",
                lacks="types, deadlines; this handler blocks its reader",
            ),
        ),
        (Goal("rate", least=60_000.0), Goal("rate", least=3.0, of=RPC_PEERS)),
    ),
)
