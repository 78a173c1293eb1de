"""Pools of worker processes, behind one small interface: :class:`Pool`.

Those of the standard library and pebble start their workers by spawn, as the rest of the
benchmarks does; loky and joblib have a start method of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from streamipc import WorkerPool

from ..children import functions
from ..children.messages import Ask, GiveBack, Weigh
from . import NUMBER, TEXT, Caller, check, child_command, ours
from .standard import context

__all__ = [
    "Pool",
    "PoolOpener",
    "caller_of",
    "open_executor",
    "open_joblib",
    "open_loky",
    "open_multiprocessing",
    "open_ours",
    "open_pebble",
    "open_sessions",
]

WARM = 0.05
"""Seconds that a task keeps its worker, so that the next one gets another."""


@dataclass
class Pool:
    """Workers that have all started, and the ways to ask them.

    Args:
        pids: the workers' process ids.
        collect: waits for what one of the next three returned.
        ask: asks for a small reply without waiting; ``None``: can't.
        weigh: gives something large, for a small reply; ``None``: can't.
        give_back: gives something large and gets it back; ``None``: can't.
        ask_all: asks so many times; the small replies, in order.
        call: asks and waits for a small reply.
    """

    pids: list[int]
    collect: Callable[[Any], Any]
    ask: Callable[[int], Any] | None = None
    weigh: Callable[[Any], Any] | None = None
    give_back: Callable[[Any], Any] | None = None
    ask_all: Callable[[int], Iterable[Any]] | None = None
    call: Callable[[], Any] | None = None


PoolOpener = Callable[[int], AbstractContextManager[Pool]]
"""Starts so many workers."""


@contextmanager
def caller_of(opener: PoolOpener) -> Iterator[Caller]:
    """Give a pool of one worker as what asks a single child."""
    with opener(1) as pool:
        assert pool.call is not None
        reply = pool.call()
        check(*(reply if isinstance(reply, tuple) else (reply.number, reply.text)))
        yield Caller(pool.pids[0], pool.call)


@contextmanager
def open_ours(size: int, *arguments: str, **options: Any) -> Iterator[Pool]:
    command = child_command("ours.py", *arguments)
    with WorkerPool(command, size=size, ready=Ask(NUMBER, TEXT), **options) as pool:
        if not pool.wait_ready(30):
            raise AssertionError(f"not all workers are ready: {pool.workers}")
        yield Pool(
            [worker.pid for worker in pool.workers if worker.pid is not None],
            collect=lambda future: future.result(),
            ask=lambda number: pool.request(Ask(number, TEXT)),
            weigh=lambda data: pool.request(Weigh(data)),
            give_back=lambda data: pool.request(GiveBack(data)),
            ask_all=lambda count: pool.map(Ask(number, TEXT) for number in range(count)),
            call=lambda: pool.call(Ask(NUMBER, TEXT)),
        )


@contextmanager
def open_sessions(size: int) -> Iterator[Pool]:
    """No pool: sessions that get requests in turn."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(ours.open_session()) for _ in range(size)]
        turns = itertools.cycle(sessions)
        yield Pool(
            [session.pid for session in sessions],
            collect=lambda future: future.result(),
            ask=lambda number: next(turns).request(Ask(number, TEXT)),
            call=lambda: sessions[0].call(Ask(NUMBER, TEXT)),
        )


def of_functions(
    size: int, submit: Callable[..., Any], collect: Callable[[Any], Any], **ways: Any
) -> Pool:
    """Return a pool whose tasks are calls of functions, once all its workers have started."""
    return Pool(
        started(size, lambda: [collect(future) for future in several(submit, size)]),
        collect,
        ask=lambda number: submit(functions.answer, number, TEXT),
        weigh=partial(submit, functions.weigh),
        give_back=partial(submit, functions.give_back),
        **{"call": lambda: collect(submit(functions.answer, NUMBER, TEXT)), **ways},
    )


def several(submit: Callable[..., Any], size: int) -> list[Any]:
    return [submit(functions.where, WARM) for _ in range(size)]


def started(size: int, ask_where: Callable[[], Iterable[int]]) -> list[int]:
    """Ask until so many workers have answered; return their process ids."""
    pids: set[int] = set()
    while len(pids) < size:
        pids.update(ask_where())
    return sorted(pids)


@contextmanager
def open_executor(size: int) -> Iterator[Pool]:
    with ProcessPoolExecutor(size, mp_context=context) as executor:
        yield of_functions(size, executor.submit, lambda future: future.result())


@contextmanager
def open_multiprocessing(size: int) -> Iterator[Pool]:
    with context.Pool(size) as pool:
        yield of_functions(
            size,
            lambda function, *args: pool.apply_async(function, args),
            lambda result: result.get(),
            ask_all=lambda count: pool.imap(
                functions.answer_pair, ((number, TEXT) for number in range(count)), chunksize=1
            ),
            call=lambda: pool.apply(functions.answer, (NUMBER, TEXT)),
        )


@contextmanager
def open_loky(size: int) -> Iterator[Pool]:
    import loky

    with loky.ProcessPoolExecutor(size) as executor:
        yield of_functions(size, executor.submit, lambda future: future.result())


@contextmanager
def open_pebble(size: int) -> Iterator[Pool]:
    import pebble

    with pebble.ProcessPool(size, context=context) as pool:
        yield of_functions(
            size,
            lambda function, *args: pool.schedule(function, args=args),
            lambda future: future.result(),
        )


@contextmanager
def open_joblib(size: int) -> Iterator[Pool]:
    import joblib
    from joblib.externals.loky import get_reusable_executor

    where, answer = joblib.delayed(functions.where), joblib.delayed(functions.answer)
    parallel: Any = joblib.Parallel(n_jobs=size)
    with parallel:
        yield Pool(
            started(size, lambda: parallel(where(WARM) for _ in range(size))),
            collect=lambda result: result,
            ask_all=lambda count: parallel(answer(number, TEXT) for number in range(count)),
        )
    get_reusable_executor().shutdown(kill_workers=True)  # its workers would stay for minutes
