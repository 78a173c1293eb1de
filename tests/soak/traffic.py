"""Traffic: what the workers of one side ask, tell, cancel and let expire."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import as_completed
from typing import Any

from streamipc import RemoteError, SessionClosedError

from .messages import LARGEST, Down, Fail, Flow, Hold, Swap, piece
from .side import LIMIT, Ended, Side

__all__ = ["Traffic"]

_LATE = 5.0
"""Seconds that a deadline may be noticed late on a machine that is busy with other things."""


class Traffic:
    """Threads that use one session until they are told to stop.

    Args:
        side: whose session it is, and where it is booked.
        seed: the same seed makes every worker do the same things in the same order.
        workers: threads.
    """

    def __init__(self, side: Side, seed: str, workers: int) -> None:
        self._side = side
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=_Worker(side, f"{seed}/{number}", self._stop).run,
                name=f"traffic {seed}/{number}",
                daemon=True,
            )
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> bool:
        """Have every worker finish what it does; return whether all have."""
        self._stop.set()
        deadline = time.monotonic() + 3 * LIMIT
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        if stuck:
            self._side.problem(f"stuck: {', '.join(stuck)}")
        return not stuck


class _Worker:
    def __init__(self, side: Side, name: str, stop: threading.Event) -> None:
        self._side = side
        self._name = name
        self._stop = stop
        self._random = random.Random(name)
        self._keys = 0

    def run(self) -> None:
        does: dict[Callable[[], None], int] = {
            self._swap_small: 30,
            self._swap_large: 3,
            self._tell: 6,
            self._stream: 3,
            self._follow_progress: 2,
            self._nest: 3,
            self._cancel: 3,
            self._expire: 1,
            self._fail: 2,
            self._burst: 1,
        }
        actions, weights = list(does), list(does.values())
        try:
            while not self._stop.is_set():
                self._random.choices(actions, weights)[0]()
        except (Ended, SessionClosedError):
            self._side.count("ended")
        except BaseException as error:
            self._side.problem(f"{self._name}: {error!r}")

    def _key(self) -> str:
        self._keys += 1
        return f"{self._name}/{self._keys}"

    def _ask_swap(self, size: int, size_back: int, pause: float = 0.0) -> tuple[str, int, Any]:
        key = self._key()
        message = Swap(key, piece(key, size), size_back, pause)
        return key, size_back, self._side.ask(self._side.session.request, message)

    def _check_swap(self, key: str, size: int, future: Any, *expected: str) -> None:
        end, value = self._side.outcome(key, future, *(expected or ("replied",)))
        if end == "replied":
            self._side.problem(value.fault(f"{key}<", size))
        elif end == "interrupted":
            self._side.count("swaps interrupted")

    def _swap_small(self) -> None:
        """A few at a time, one of them at times slow."""
        pick = self._random
        pause = pick.random() * 0.01 if pick.random() < 0.05 else 0.0
        asked = []
        try:
            for _ in range(pick.choice((1, 1, 4, 16))):
                asked.append(self._ask_swap(pick.randint(1, 2000), pick.randint(1, 2000), pause))
        finally:
            for one in asked:
                self._check_swap(*one)

    def _swap_large(self) -> None:
        sizes = [int(math.exp(self._random.uniform(0, math.log(LARGEST)))) for _ in range(2)]
        if self._random.random() < 0.05:
            sizes[self._random.randrange(2)] = LARGEST
        self._check_swap(*self._ask_swap(*sizes))

    def _tell(self) -> None:
        size = self._random.choice((1, 100, 10_000))
        for _ in range(self._random.randint(1, 30)):
            self._side.tell(self._name, size)

    def _stream(self) -> None:
        """Take all, or leave early; at times slower than what is yielded."""
        pick, side, key = self._random, self._side, self._key()
        count, size = pick.choice((0, 1, 5, 40, 200)), pick.choice((1, 100, 4000, 100_000))
        leave_at = pick.randint(1, count) if count and pick.random() < 0.4 else 0
        slow = pick.random() < 0.1
        taken = 0
        stream = side.ask(
            side.session.stream, Flow(key, count, size), window=pick.choice((1, 2, 16, 64))
        )
        try:
            with stream:
                for item in stream:
                    side.problem(item.fault(f"{key}.{taken}", size))
                    taken += 1
                    if taken == leave_at:
                        break
                    if slow:
                        time.sleep(0.001)
                else:
                    if stream.result(timeout=LIMIT) != count or taken != count:
                        side.problem(f"{key}: {taken} items of {count}")
        except (SessionClosedError, RemoteError):
            pass  # booked below
        side.count("items", taken)
        side.outcome(key, stream.future, "replied", *(["cancelled"] if leave_at else []))

    def _follow_progress(self) -> None:
        pick, side, key = self._random, self._side, self._key()
        count, size = pick.randint(0, 40), pick.randint(1, 3000)
        items: list[Any] = []
        future = side.ask(side.session.request, Flow(key, count, size), on_progress=items.append)
        end, value = side.outcome(key, future, "replied")
        if end == "replied" and not value == len(items) == count:
            side.problem(f"{key}: {len(items)} progress items of {count}")
        for number, item in enumerate(items):
            side.problem(item.fault(f"{key}.{number}", size))
        side.count("items", len(items))

    def _nest(self) -> None:
        side, key, depth = self._side, self._key(), self._random.randint(0, 8)
        future = side.ask(side.session.request, Down(key, depth))
        end, value = side.outcome(key, future, "replied")
        wanted = key + "".join(f"<{level}" for level in range(1, depth + 1))
        if end == "replied" and value != wanted:
            side.problem(f"{key}: {value!r} in the place of {wanted!r}")

    def _cancel(self) -> None:
        """Cancel what never ends, or race the reply."""
        pick, side = self._random, self._side
        if pick.random() < 0.5:
            asked = self._ask_swap(pick.randint(1, 100_000), pick.randint(1, 100_000))
            cancelled = asked[2].cancel()
            self._check_swap(*asked, "cancelled" if cancelled else "replied")
            return
        key = self._key()
        future = side.ask(side.session.request, Hold(key), timeout=_LATE)
        time.sleep(pick.random() * 0.005)
        side.outcome(key, future, "cancelled" if future.cancel() else "expired")

    def _expire(self) -> None:
        side, key, timeout = self._side, self._key(), self._random.uniform(0.001, 0.05)
        end = time.monotonic() + timeout
        future = side.ask(side.session.request, Hold(key), timeout=timeout)
        if side.outcome(key, future, "expired")[0] == "expired":
            late = time.monotonic() - end
            side.took("late", late)
            if late > _LATE:
                side.problem(f"{key} noticed its deadline {late:.1f} s late")

    def _fail(self) -> None:
        side, key = self._side, self._key()
        end, value = side.outcome(key, side.ask(side.session.request, Fail(key)), "failed")
        if end == "failed" and (value.remote_type, value.remote_message) != ("ValueError", key):
            side.problem(f"{key} failed with another's error: {value!r}")

    def _burst(self) -> None:
        """Many at once; each has its callback called, once."""
        calls = threading.Semaphore(0)
        asked: list[tuple[str, int, Any]] = []
        try:
            for _ in range(64):
                asked.append(self._ask_swap(self._random.randint(1, 5000), 50))
                asked[-1][2].add_done_callback(lambda _: calls.release())
        finally:
            for _ in as_completed([future for _, _, future in asked], timeout=2 * LIMIT):
                pass
            for one in asked:
                self._check_swap(*one)
            if not all(calls.acquire(timeout=LIMIT) for _ in asked):
                self._side.problem(f"{self._name}: a callback was not called")
            if calls.acquire(blocking=False):
                self._side.problem(f"{self._name}: a callback was called twice")
