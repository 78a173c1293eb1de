"""When the next worker may be started: at once, after a pause, or only if somebody asks."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff"]

_MOST_DOUBLINGS = 64

_SOUND = 5.0
"""Seconds that a worker has to live to count as sound, whether or not anybody has asked it
anything. What dies later is started again so rarely that no pause is needed."""


class Backoff:
    """Counts workers in a row that died before they had answered a request.

    The first such death costs no pause: a crash that happens once is no crash loop. Each further
    one doubles the pause. Half of it is left to chance, so that the workers of many processes do
    not all start in the same moment.

    Args:
        first: seconds of the first pause.
        longest: seconds of the longest one.
        most: deaths in a row after which workers are started for those who ask only.
        chance: returns a number from 0 to 1.

    Attributes:
        row: such deaths so far.
        not_before: when the next worker may be started, in :func:`time.monotonic` seconds.
    """

    def __init__(
        self, first: float, longest: float, most: int, chance: Callable[[], float] = random.random
    ) -> None:
        self._first = first
        self._longest = longest
        self._most = most
        self._chance = chance
        self.row = 0
        self.not_before = 0.0

    @property
    def is_exhausted(self) -> bool:
        """Whether workers are no longer started unless somebody asks."""
        return self.row >= self._most

    def is_early(self, lived: float, done: int) -> bool:
        """Tell whether a death is one of a crash loop.

        Args:
            lived: seconds since the worker was started.
            done: requests that it has answered.
        """
        return done == 0 and lived < _SOUND

    def died(self, now: float) -> None:
        """Count an early death."""
        self.row += 1
        if self.row == 1:
            self.not_before = now
            return
        pause = min(self._longest, self._first * 2.0 ** min(self.row - 2, _MOST_DOUBLINGS))
        self.not_before = now + pause * (0.5 + self._chance() / 2)

    def proved(self) -> None:
        """Forget the row: a worker has answered, or has lived long enough."""
        self.row = 0
        self.not_before = 0.0

    def pause(self, now: float) -> float:
        """Return the seconds until a worker may be started."""
        return max(0.0, self.not_before - now)
