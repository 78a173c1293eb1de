"""Many requests that are not answered yet, and many handlers that sleep."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for_all

from .. import measure
from ..children.messages import Ask, Hold, Sleep
from ..contestants import NUMBER, TEXT, ours, with_jsonrpc
from ..runner import OURS, Entry, Goal, Metric, Sample, Size, Workload
from .calls import P50

PENDING = 10_000
SUBMITTED = 200

PATIENCE = 5.0
"""Seconds; nothing here should wait at all."""

SLOW = 50
THREADS = 64
SECONDS = 0.2


def with_pending(full: int) -> Callable[[Size], Sample]:
    """Return what measures a call, and ``request()`` alone, while others are pending."""

    def run(size: Size) -> Sample:
        count = size.named(full) if full else 0
        with ours.open_session("inline") as session, measure.apart(session.pid):

            def call() -> object:
                return session.request(Ask(NUMBER, TEXT), timeout=PATIENCE).result()

            call()
            held = [session.request(Hold(), timeout=600) for _ in range(count)]
            call()  # it came behind them
            took = measure.latencies(call, size.seconds)
            submitted = []
            for _ in range(SUBMITTED):
                start = time.perf_counter()
                future = session.request(Ask(NUMBER, TEXT))
                submitted.append(time.perf_counter() - start)
                future.result()
            if any(future.done() for future in held):
                raise AssertionError("a request is not pending any more")
            session.kill()
        return {
            "p50": statistics.median(took) * 1e6,
            "request()": statistics.median(submitted) * 1e6,
        }

    return run


def sleepers(size: Size) -> Sample:
    """Fresh child, so that it has to learn that this handler is slow."""
    with ours.open_session(f"threads={THREADS}") as session:
        session.request(Ask(NUMBER, TEXT)).result()
        start = time.perf_counter()
        futures = [session.request(Sleep(SECONDS)) for _ in range(SLOW)]
        for future in futures:
            future.result()
        return {"all": (time.perf_counter() - start) * 1e3}


def sleepers_by_jsonrpc(size: Size) -> Sample:
    with with_jsonrpc.open_endpoint({}, str(THREADS)) as (endpoint, _):
        endpoint.request("ask", {"number": NUMBER, "text": TEXT}).result(30)
        start = time.perf_counter()
        for future in [endpoint.request("sleep", {"seconds": SECONDS}) for _ in range(SLOW)]:
            future.result(30)
        return {"all": (time.perf_counter() - start) * 1e3}


def sleepers_here(size: Size) -> Sample:
    """Threads of this process, no message."""
    with ThreadPoolExecutor(THREADS) as executor:
        start = time.perf_counter()
        wait_for_all([executor.submit(time.sleep, SECONDS) for _ in range(SLOW)])
        return {"all": (time.perf_counter() - start) * 1e3}


WORKLOADS = (
    Workload(
        "pending-10000",
        "the next request while 10,000 are pending on the session",
        (P50, Metric("request()", "µs")),
        (
            Entry(OURS, with_pending(PENDING), role="ours"),
            Entry("none pending", with_pending(0), role="ours too"),
        ),
        (
            Goal("p50", most=1.3, of=("none pending",)),
            Goal("request()", most=1.3, of=("none pending",)),
        ),
    ),
    Workload(
        "slow-handlers",
        "50 handlers at once that sleep for 200 ms, handler_threads=64",
        (Metric("all", "ms"),),
        (
            Entry(OURS, sleepers, role="ours"),
            Entry("threads, no messages", sleepers_here, role="limit"),
            Entry("python-lsp-jsonrpc", sleepers_by_jsonrpc, needs="pylsp_jsonrpc"),
        ),
        (Goal("all", most=400.0),),
    ),
)
