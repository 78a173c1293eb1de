"""Which stage a session is at, and who may use it.

It is new, then started, then refuses, for one reason, the first; a copy in a forked process
is forked. The engine's lock guards the changes. Anybody may look without it.

Invariant: while ``is_open``, the session is started and refuses nothing, and no caller needs to be
checked. So who finds it open, at home, goes on; who doesn't calls :meth:`Lifecycle.enter`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .._forks import at_home, look_for_fork
from .._patches import Patches
from ..exceptions import SessionClosedError

if TYPE_CHECKING:
    import threading

    from ..messages import Message
    from .contracts import Host

__all__ = ["Lifecycle", "not_sent"]


class Lifecycle:
    """See the module's text.

    Args:
        start: starts the session, or raises why it can't be used.
        has_heard: tells whether anything has come from the peer.
        on_refusal_locked: called, with the lock held, when it is refused.

    Attributes:
        begun: somebody has begun to start it.
        started: all is done for that.
        is_open: see the module's text.
        is_closing: this side has closed it.
        is_guarded: each use is to be checked by :meth:`check_caller`.
        refusal: makes the error for whoever uses the session now; ``None`` while it takes requests.
    """

    def __init__(
        self,
        lock: threading.RLock,
        host: Host,
        start: Callable[[], None],
        has_heard: Callable[[], bool],
        on_refusal_locked: Callable[[], None],
    ) -> None:
        self._lock = lock
        self._host = host
        self._has_heard = has_heard
        self._on_refusal_locked = on_refusal_locked
        self.start = start
        self.patches = Patches()
        self.is_guarded = self.patches.greenlets
        self.begun = False
        self.started = False
        self.is_open = False
        self.is_closing = False
        self.refusal: Callable[[], SessionClosedError] | None = None
        self._is_forked = False
        self._pid = os.getpid()

    # Who may use it.

    def check_caller(self) -> None:
        """Notice a fork that Python has not seen, and a thread that must not come here.

        Every way in from the user's code comes by here before it takes a lock, which the fork
        may have left locked for ever.

        Raises:
            RuntimeError: see ``_patches.py``.
        """
        if not at_home[0]:
            look_for_fork()
        if self.patches.greenlets:
            self.patches.check_thread()

    def enter(self, message: Message) -> None:
        """Let in who has a message to send and did not find the session open.

        Raises:
            SessionClosedError: it takes nothing any more.
        """
        self.check_caller()
        if self.refusal is not None or not self.started:
            try:
                self.start()
            except SessionClosedError as error:
                raise not_sent(message, error, executed=False) from None

    def is_forked(self) -> bool:
        """Tell whether this is a copy in a forked process."""
        if at_home[0]:
            return self._is_forked
        look_for_fork()
        # Asked by a finalizer, in the midst of it, that may come before our turn.
        return self._is_forked or os.getpid() != self._pid

    def error(self) -> SessionClosedError:
        """Return the error for whoever uses the session now."""
        if self.refusal is None:
            return self.closed_error("the session is ending")
        return self.refusal()

    def closed_error(self, what: str) -> SessionClosedError:
        """Return an error that says how the session has ended, with ``what`` failed for that."""
        return self._host.closed_error(what, not (self.is_closing or self._has_heard()))

    # What becomes of it.

    def begin(self) -> None:
        """Have it count as used: its peer keeps it, and it is to be closed.

        Raises:
            SessionClosedError: it has ended.
        """
        with self._lock:
            if self.refusal is not None:
                raise self.refusal()
            self.begun = True
            self._host.started()

    def open(self) -> None:
        """It is started."""
        with self._lock:
            # In this order, and all in one step: who is interrupted before has not started it.
            self.is_open = self.refusal is None and not self.is_guarded
            self.started = True

    def refuse(self, what: str) -> None:
        """Take no new requests from now on; ``what`` says why, and the first call counts."""
        with self._lock:
            if self.refusal is None:
                self.refusal = partial(self.closed_error, what)
            self.is_open = False
            self._on_refusal_locked()

    def forget_after_fork(self) -> Callable[[], SessionClosedError]:
        """Make this the copy of a session in a forked process; return what makes its error."""
        pid = self._pid

        def reason() -> SessionClosedError:
            return SessionClosedError(
                f"this session belongs to process {pid}, from which this one (pid {os.getpid()}) "
                "was forked: make a session of your own here"
            )

        self._is_forked = self.is_guarded = True
        self.is_open = False
        self.refusal = reason
        return reason


def not_sent(
    message: Message, error: SessionClosedError, executed: bool | None = None
) -> SessionClosedError:
    """Have the error of a session that has ended say what was not sent, or not as a whole."""
    name = getattr(type(message), "__wire_name__", type(message).__name__)
    error.args = (f"{name} was not sent; {error}",)
    error.executed = executed
    return error
