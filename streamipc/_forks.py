"""What becomes of a forked process's copies of our things.

A forked process has a copy of everything but of the threads, except for the one that
forked: a lock that another thread held is locked for ever, and what another thread was in
the midst of stays half done. Two rules make the copies safe to let go of:

* Descriptors are made, and closed, under :data:`steady`, for which a fork waits. So a
  forked process finds every descriptor named by the object that owns it, and no number
  there that has come to mean somebody else's file. Nothing else happens under that lock:
  no callback, no logging, no wait for a thread.
* Whatever has descriptors to let go of, or locks to renew, says so by :func:`forgets`.
"""

from __future__ import annotations

import os
import threading
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["forgets", "forkable_lock", "renew", "steady"]

steady = threading.RLock()
"""Held while descriptors are made or closed; taken before any other lock of ours. It can be
taken again by its holder: ``Popen`` with ``preexec_fn`` runs what a fork does, too."""

_forgetful: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def forgets(thing: object, method: str = "forget_after_fork") -> None:
    """Have a method of ``thing`` called in every forked process, as long as it exists."""
    _forgetful[thing] = method


def renew(lock: Any) -> None:
    """Unlock a lock in a forked process, where the thread that held it may not exist."""
    # As the standard library does with its own (threading, logging, concurrent.futures).
    lock._at_fork_reinit()


def forkable_lock() -> threading.Lock:
    """Return a lock that is renewed in every forked process."""
    lock = threading.Lock()
    forgets(lock, "_at_fork_reinit")
    return lock


def _forget_all() -> None:
    steady.release()
    for thing, method in list(_forgetful.items()):
        try:
            getattr(thing, method)()
        except Exception:
            pass  # one that can't be let go of must not keep the others


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows
    os.register_at_fork(
        before=steady.acquire, after_in_parent=steady.release, after_in_child=_forget_all
    )
