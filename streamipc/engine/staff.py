"""The members of a crew and what they are given to do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .crew import Crew

__all__ = [
    "IDLE_SECONDS",
    "Job",
    "Member",
    "keep_own_seat",
    "leave_seat",
    "take_seat",
    "working_member",
]

IDLE_SECONDS = 10.0
"""How long a thread without work is kept."""


class Job(Protocol):
    """Something to run; :meth:`run` never raises."""

    @property
    def is_slow(self) -> bool:
        """Whether to give it to a worker rather than to the watcher."""
        ...

    @property
    def is_errand(self) -> bool:
        """Whether the limit of handlers does not count it."""
        ...

    is_handler: bool
    """Whether it calls a handler: an errand may, if it is ``inline``."""

    by_watcher: bool
    """Set while the watcher runs it: it must not wait for room to write its answer."""

    def took(self, seconds: float, /) -> None:
        """Learn from how long it took."""
        ...

    def run(self) -> None:
        """Do it."""
        ...


class Member:
    """One thread of the crew.

    Args:
        crew: whose.
    """

    __slots__ = ("began", "bell", "crew", "job", "polling", "runs", "sleeps_until", "thread")

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.began = False  # its thread runs our code
        self.bell = threading.Lock()
        self.bell.acquire()
        self.job: Job | None = None  # what it runs
        self.runs = 0  # jobs run as the watcher
        self.polling = False  # sleeps in a poll rather than on its bell
        self.sleeps_until: float | None = 0.0  # None: until woken; 0.0: it is awake
        self.thread: threading.Thread


_seats: dict[int, Member] = {}
"""Thread identifier -> member. Not a ``threading.local``, which gevent can't make the greenlets'
own once it is there: this module may be imported before gevent patches ``threading``."""


def take_seat(member: Member) -> None:
    """Note that the calling thread is this member's."""
    _seats[threading.get_ident()] = member


def leave_seat() -> None:
    """The calling thread is no member any more; its identifier may go to another thread."""
    _seats.pop(threading.get_ident(), None)


def keep_own_seat() -> None:
    """Forget the threads that do not exist in this forked process."""
    me = threading.get_ident()
    for ident in list(_seats):
        if ident != me:
            _seats.pop(ident, None)


def working_member() -> Member | None:
    """Return the member, of whatever crew, that the calling thread is, if it runs a job."""
    member = _seats.get(threading.get_ident())
    return member if member is not None and member.job is not None else None
