"""How much a session may hold in memory: every bound that a user can set."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from typing import Any

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

__all__ = ["Limits"]

_LARGEST = 1 << 48
_LONGEST = 1e8


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one session holds for its peer, and what happens when that is too much.

    ``IpcPeer(limits=Limits(held_bytes=1 << 30))`` sets it for all sessions of a peer. Bytes are
    bytes of memory, not of the wire: 1 MB of empty sets is 216 MB here, and counts as that.

    ========================= ======= ======= ==================================================
    field                     default unit    at the bound
    ========================= ======= ======= ==================================================
    ``held_bytes``            288 MiB bytes   requests get :class:`OverloadedError`; of what
                                              waits for ``receive()`` the oldest is dropped; a
                                              stream to which more items come fails with
                                              :class:`ProtocolError`; while notifications wait
                                              for handlers, no more is read
    ``waiting_requests``      65,536  number  requests get :class:`OverloadedError`
    ``waiting_notifications`` 1,024   number  no more is read until half of them are handled; if
                                              a handler waits for the peer, 64 times as many
    ``unreceived``            1,024   number  the oldest is dropped, counted in ``stats.dropped``
                                              and logged once
    ``waiting_errors``        1,024   number  errors are counted in ``stats.unreadable`` only
    ``refusal_bytes``         64 MiB  bytes   no more is read until the peer reads
    ``blocked_handlers``      64      number  requests get :class:`OverloadedError`
    ``stream_stall``          3,600   seconds the handler gets :class:`RequestCancelledError`, and
                                              so does the caller
    ========================= ======= ======= ==================================================

    Attributes:
        held_bytes: memory of all messages that have come and are not done with: requests that wait
            or run, notifications that wait for a handler or for ``receive()``, and items of
            streams that nobody has taken. ``receive()`` has a quarter of it. It counts as
            ``max_frame_size`` and 1 MiB if that is more, so that the largest frame can be taken.
            A small message among few counts nothing. From a sixteenth on, what waits and takes
            much more memory than on the wire is put back into its bytes, and read anew when its
            turn comes. A reply belongs to whoever has asked for it, and does not count.
        waiting_requests: requests that wait for a handler thread.
        waiting_notifications: notifications that wait for their handlers. They have a quarter of
            ``held_bytes`` before reading pauses.
        unreceived: notifications that wait for ``receive()``.
        waiting_errors: errors that wait for ``on_exception``.
        refusal_bytes: refusals and the like that the peer does not read. If both sides may come to
            refuse requests of each other, 64 MiB is enough for neither to wait for the other.
        blocked_handlers: handlers that wait for the peer, for the reply to a request of their own
            or for more items to be taken. They do not count among ``handler_threads``, so it is
            also the depth to which two sides can call each other.
        stream_stall: for which a handler waits for its next item to be wanted; ``None``: for ever.

    These are fixed: 64 KiB of the beginning of a line that is no frame, 64 KiB of ``metadata``,
    256 KiB of requests of our own behind which the next one waits for room.

    Raises:
        TypeError, ValueError: a field is of the wrong type, or out of range.
    """

    held_bytes: int = 288 << 20
    waiting_requests: int = 1 << 16
    waiting_notifications: int = 1 << 10
    unreceived: int = 1 << 10
    waiting_errors: int = 1 << 10
    refusal_bytes: int = 64 << 20
    blocked_handlers: int = 64
    stream_stall: float | None = 3600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "stream_stall":
                _check_seconds(field.name, value)
            else:
                least = 1 << 16 if field.name.endswith("_bytes") else 1
                _check_whole(field.name, value, least, _LARGEST)

    @classmethod
    def strict(cls, **changes: Any) -> Self:
        """Return limits for strangers: a session costs them more than it costs us.

        Give a small ``max_frame_size`` along with it, since one frame is always read.

        Args:
            changes: fields that are to have other values.
        """
        bounds: dict[str, Any] = {
            "held_bytes": 16 << 20,
            "waiting_requests": 256,
            "waiting_notifications": 64,
            "unreceived": 64,
            "waiting_errors": 64,
            "refusal_bytes": 4 << 20,
            "blocked_handlers": 8,
            "stream_stall": 30.0,
        }
        return cls(**{**bounds, **changes})


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"Limits.{name} must be a whole number, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"Limits.{name} must be from {least:,} to {most:,}, not {value:,}")


def _check_seconds(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"Limits.{name} must be seconds or None, not {value!r}")
    if not 0 < value <= _LONGEST:
        raise ValueError(f"Limits.{name} must be more than 0 and at most {_LONGEST:,.0f}: {value}")
