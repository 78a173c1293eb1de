"""What gevent and eventlet have put in the place of the standard library's threads.

gevent works if it has patched threads and ``select`` both: then our threads are greenlets, and
what waits lets other greenlets run. Names are looked up in their modules when they are used, so
that streamipc may be imported before. Three things can't work, and hang or crash the interpreter
if they are tried. So they are refused:

* one of the two patched without the other;
* a session that was made before the patch;
* a session used by several real threads: the event loop of gevent belongs to one of them.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

__all__ = ["Patches", "are_threads_greenlets", "check_patches", "check_sockets"]


def are_threads_greenlets() -> bool:
    """Tell whether gevent has patched threads; whether it has all else, is not looked at."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def check_sockets() -> None:
    """Raise if a thread that waits for a socket would stop all others.

    Raises:
        RuntimeError: threads are greenlets, and sockets are not patched.
    """
    monkey: Any = sys.modules.get("gevent.monkey")
    if are_threads_greenlets() and not monkey.is_module_patched("socket"):
        raise RuntimeError(
            "gevent has patched threads and not socket: reading from a stream without a "
            "descriptor would stop all greenlets. Patch both: gevent.monkey.patch_all()"
        )


def check_patches() -> None:
    """Raise if a session can't work with what is patched now.

    Raises:
        RuntimeError: it can't.
    """
    _greenlets()


def _greenlets() -> bool:
    """Tell whether threads are greenlets; see :func:`check_patches`."""
    patcher: Any = sys.modules.get("eventlet.patcher")
    if patcher is not None and any(map(patcher.is_monkey_patched, ("select", "thread"))):
        raise RuntimeError(
            "eventlet has patched this process, and streamipc does not work with it: its "
            "select has no poll(). Use gevent (gunicorn -k gevent) or threads (gunicorn -k gthread)"
        )
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None:
        return False
    threads, select = are_threads_greenlets(), bool(monkey.is_module_patched("select"))
    if threads is not select:
        patched, left = ("threads", "select") if threads else ("select", "threads")
        raise RuntimeError(
            f"gevent has patched {patched} and not {left}: a wait for a reply would stop all "
            "greenlets, or never end. Patch both: gevent.monkey.patch_all()"
        )
    return threads


class Patches:
    """Remembers for a session how things were when it was made.

    Attributes:
        greenlets: threads are greenlets, so each use must be checked by :meth:`check_thread`.
        lock: what made locks when threads were last looked at.
    """

    __slots__ = ("_native_id", "greenlets", "lock")

    def __init__(self) -> None:
        self.greenlets = _greenlets()
        self.lock = threading.Lock
        self._native_id = threading.get_native_id() if self.greenlets else 0

    def check_thread(self) -> None:
        """Raise in another real thread than the one that made the session.

        Raises:
            RuntimeError: so it is.
        """
        if threading.get_native_id() != self._native_id:
            raise RuntimeError(
                "this session was made by another thread, and gevent has patched this process: a "
                "session belongs to the real thread that made it, and to its greenlets. Make one "
                "for each thread, or hand the work to a greenlet of that thread"
            )

    def check_lock(self) -> None:
        """Raise if threads have become greenlets since the session was made.

        A test or a debugger may have put another lock into :mod:`threading`, too, which is no harm.

        Raises:
            RuntimeError: so it is.
        """
        if _greenlets() and not self.greenlets:
            raise RuntimeError(
                "threads were patched after this session was made, so waiting for it would never "
                "end: call gevent.monkey.patch_all() first, and make sessions after it"
            )
        self.lock = threading.Lock
