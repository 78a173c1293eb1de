"""What is held for the peer, how much of it may be, and whether reading pauses.

All of a session's bounds are kept here; ``streamipc.Limits`` lists them.

Memory
------

Whatever the peer has sent and nobody has taken yet is charged with the bytes of memory that it
takes. To measure them takes as long as to decode them, so it is done only when it matters:

1. A small message among few is not charged at all. All of these together can be told to take no
   more than some 40 MB.
2. Others are charged *roughly* at first: with the most that a frame of their size can come to. If
   the serializer is one of ours, its bytes are looked at (``densest``), and at those of a large one
   if they seem too much.
3. When what is held has reached a sixteenth of the bound (``_fold_at``), those that are charged
   roughly are measured. One that waits and takes far more memory than bytes on the wire is
   *folded*: only its payload is kept, which is decoded once more when its turn comes. The message
   that came last is not folded, so a single one is never decoded twice.
4. Who still does not fit is turned away, as the table in ``Limits`` says.

Invariant: ``total`` is the sum of the charges of all that is held, and no less than the memory
that they take, apart from rule 1.

Pause
-----

Reading pauses while there is a reason for it. ``NOTIFICATIONS`` and ``REFUSALS`` are no reason
while a handler waits for the peer, which may wait for us; ``OVERFULL`` is one all the same.

The engine's lock guards everything here; methods whose names end in ``_locked`` want it held.
"""

from __future__ import annotations

import enum
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..limits import Limits
from ..protocol.framing import Apart
from .footprint import densest, footprint

if TYPE_CHECKING:
    import threading

    from ..protocol.envelopes import Envelope
    from ..protocol.framing import Frame
    from ..serializers.base import Buffer

__all__ = ["FEW", "REACH", "SMALL", "Flow", "Held", "Kind", "Reason"]

REACH = 64
"""So many times ``Limits.waiting_notifications`` may wait where a handler waits for the peer, and
the pause is lifted for its sake."""

SMALL, FEW = 128, 1 << 10
"""Bytes of a frame that is not charged while no more than so many wait; but for items."""

_MEDIUM, _HANDFUL = 2 << 10, 8
"""The same for somewhat larger ones; most sessions never have more at a time."""

_PLAIN = 6 << 10
"""Bytes of memory of a small message, at the most, that is not charged while all that are not come
to no more than a quarter of the bound: a flood of small notifications, of which a read brings some
hundreds at a time, or thousands of requests that wait."""

_ITEMS = 4
"""Items of one stream that are not charged, if they are small."""

_OVERHEAD = 1 << 10
"""Bytes that a message takes besides: the objects that keep track of it."""

_WORST = 224
"""Bytes of memory for one on the wire: an empty set, and the place in a list for it."""

_LOOKED_AT = 1 << 16
"""Bytes of a payload that are looked at when it comes, which takes a microsecond or some ten."""

_FEW_OBJECTS = 1 << 10
"""Objects of a large message that are measured one by one rather than told from its bytes."""

_FOLDS_FROM = 16
"""Bytes of memory for one on the wire from which on a message is folded."""

_FRAME_OVERHEAD = 200
"""Bytes that a frame takes besides its own while it waits to be written."""


class Reason(enum.Enum):
    """Why nothing is read."""

    NOTIFICATIONS = "many notifications wait for their handlers"
    OVERFULL = "so many notifications wait that no more can be held"
    REFUSALS = "the peer does not read what it is refused"


class Kind(enum.Enum):
    """What a message that is held waits for."""

    REQUEST = "for its handler to return"
    NOTIFICATION = "for its handlers"
    RECEIVED = "for receive()"
    ITEM = "for the one who iterates over the stream"


_ITEM = Kind.ITEM
"""To look up a member of an enum takes as long as ten other attributes."""


class Held:
    """One message that is held and charged.

    Attributes:
        envelope: with the message; ``None`` while it is folded.
        payload: what it was decoded from; ``None`` if it is not to be folded.
        due: what it is to be charged.
        bytes: what it is charged; 0 before that, and once it is released.
        waits: nobody uses it yet, so it may be folded.
    """

    __slots__ = ("bytes", "due", "envelope", "kind", "payload", "released", "size", "waits")

    def __init__(
        self, kind: Kind, envelope: Envelope, payload: Frame | None, size: int, charge: int
    ) -> None:
        self.kind = kind
        self.envelope: Envelope | None = envelope
        self.payload = payload
        self.size = size
        self.due = charge
        self.bytes = 0
        self.waits = True
        self.released = False


class Flow:
    """Counts what a session holds, and says whether it may read on.

    Args:
        lock: the engine's.
        limits: the user's.
        max_frame_size: bytes.
        decode: decodes a payload once more.
        is_known: payloads are JSON, or a pickle.
        on_resume: called, with the lock held, when reading may go on.

    Attributes:
        limits: the user's.
        paused: there is a reason not to read.
        handlers_full: as many handlers as may be wait for the peer.
        bound: bytes that may be held.
        many: so many small messages may wait without being charged.
        total: bytes that are.
        held: the same, by kind.
    """

    def __init__(
        self,
        lock: threading.RLock,
        limits: Limits | None = None,
        max_frame_size: int = 0,
        decode: Callable[[Any], Envelope] | None = None,
        is_known: bool = False,
        on_resume: Callable[[], object] = lambda: None,
    ) -> None:
        self._lock = lock
        self.limits = limits = limits or Limits()
        self._decode = decode
        self._is_known = is_known
        self._on_resume = on_resume
        self.reasons: set[Reason] = set()
        self.paused = False
        self.handlers_full = False
        self.bound = max(limits.held_bytes, max_frame_size + (1 << 20))
        self._fold_at = limits.held_bytes // 16
        self.many = limits.held_bytes // (4 * _PLAIN)
        self.total = 0
        self.held = dict.fromkeys(Kind, 0)
        self._rough: dict[Held, None] = {}
        self._given_back: deque[Held] = deque()
        self._unwritten: deque[tuple[list[Buffer], int]] = deque()
        self._unwritten_bytes = 0
        self.refusal_bytes = limits.refusal_bytes
        self._many_notifications = limits.waiting_notifications
        self.most_notifications = REACH * limits.waiting_notifications

    # Why reading pauses.

    def pause_locked(self, reason: Reason) -> None:
        """Have nobody read any more."""
        self.reasons.add(reason)
        self.paused = True

    def resume_locked(self, *reasons: Reason) -> None:
        """Have somebody read on, if there are no other reasons not to."""
        if self.paused:
            self.reasons.difference_update(reasons)
            if not self.reasons:
                self.paused = False
                self._on_resume()

    def handler_waits_locked(self) -> None:
        """A handler waits for the peer: that may wait for us to read."""
        self.resume_locked(Reason.NOTIFICATIONS, Reason.REFUSALS)

    def room_is_awaited_locked(self, waiting: int) -> None:
        """A handler waits for room, and so many notifications wait: the peer may wait for us too.

        Two sides may both wait for room, so one notification less than the most is enough.
        """
        if waiting < self.most_notifications and not self._is_overfull():
            self.resume_locked(Reason.OVERFULL)
        self.handler_waits_locked()

    def _is_overfull(self) -> bool:
        return self.total > self.bound and self.held[Kind.NOTIFICATION] * 4 > self.bound

    def blocked_locked(self, handlers: int) -> None:
        """So many handlers wait for the peer now."""
        self.handlers_full = handlers >= self.limits.blocked_handlers

    # Notifications.

    def level_locked(self, waiting: int) -> int:
        """Return how many notifications wait, or as how many the memory that they take counts."""
        taken = self.held[Kind.NOTIFICATION]
        return max(waiting, taken * self.most_notifications // self.bound) if taken else waiting

    def are_many_locked(self, waiting: int) -> bool:
        """Tell whether so many notifications wait, or take so much memory, that it matters."""
        if not self.total:
            return waiting >= self._many_notifications
        large = self.held[Kind.NOTIFICATION] * 4 > self.bound
        return large or waiting >= self._many_notifications or self.total > self.bound

    def too_many_wait_locked(self, waiting: int, for_peer: bool) -> None:
        """Pause, as many notifications wait.

        Args:
            waiting: how many do.
            for_peer: whether a handler waits for the peer.
        """
        if waiting >= self.most_notifications or self._is_overfull():
            self.pause_locked(Reason.OVERFULL)
        elif not for_peer:
            self.pause_locked(Reason.NOTIFICATIONS)

    def notifications_handled_locked(self, waiting: int) -> None:
        """Some were handled, and so many still wait: read on if they are few."""
        if not self.paused:
            return
        overfull = Reason.OVERFULL in self.reasons
        most = self.most_notifications if overfull else self._many_notifications
        taken = self.held[Kind.NOTIFICATION]
        if not waiting or (waiting * 2 <= most and taken * (2 if overfull else 4) <= self.bound):
            self.resume_locked(Reason.NOTIFICATIONS, Reason.OVERFULL)

    # Refusals.

    def refusal_waits(self, frame: list[Buffer], size: int) -> bool:
        """Count a frame that the peer has caused, and that is not written yet.

        Args:
            frame: is emptied once it is written.
            size: its bytes.

        Returns:
            Whether reading pauses now because of it.
        """
        size += _FRAME_OVERHEAD
        with self._lock:
            unwritten = self._unwritten
            unwritten.append((frame, size))
            self._unwritten_bytes += size
            while unwritten and not unwritten[0][0]:
                self._unwritten_bytes -= unwritten.popleft()[1]
            if self._unwritten_bytes <= self.refusal_bytes or Reason.REFUSALS in self.reasons:
                return False
            self.pause_locked(Reason.REFUSALS)
            return True

    def written(self) -> None:
        """All that waited is written."""
        with self._lock:
            self._unwritten.clear()
            self._unwritten_bytes = 0
            self.resume_locked(Reason.REFUSALS)

    # Memory.

    @property
    def has_too_much_received(self) -> bool:
        """Whether what waits for ``receive()`` is to be less."""
        taken = self.held[Kind.RECEIVED]
        return bool(taken) and (taken * 4 > self.bound or self.total > self.bound)

    def is_too_much(self, held: Held) -> bool:
        """Tell whether what has just come does not fit beside the rest."""
        return self.total > self.bound and self.total > held.bytes

    def is_plain(self, payload: memoryview) -> bool:
        """Tell whether a small message counts nothing while fewer than ``many`` wait."""
        return self._is_known and densest(payload) <= _PLAIN - _OVERHEAD

    def hold(
        self, kind: Kind, envelope: Envelope, payload: Frame | None, waiting: int
    ) -> Held | None:
        """Return what has come and is to be held; ``None``: it counts nothing.

        It is charged by :meth:`charge`, once it stands where whoever comes next finds it.

        Args:
            kind: what it waits for.
            envelope: with the message.
            payload: what it was decoded from; ``None``: it is no frame.
            waiting: how many of the kind wait.
        """
        size = len(payload) if type(payload) is memoryview else size_of(payload)
        few = waiting < (_ITEMS if kind is _ITEM else FEW)
        if few and payload is not None and size < (SMALL if waiting >= _HANDFUL else _MEDIUM):
            return None
        if type(payload) is memoryview and self._is_known and size <= _LOOKED_AT:
            charge = _OVERHEAD + densest(payload)
            if charge <= _PLAIN and waiting < self.many and kind is not _ITEM:
                return None
        elif payload is not None:
            charge = _OVERHEAD + (_WORST + 1) * size
        else:
            charge = _OVERHEAD + footprint(_carried(envelope), self.bound)
        return Held(kind, envelope, payload, size, charge)

    def charge(self, held: Held) -> None:
        """Charge what has come; again is the same as once."""
        with self._lock:
            if not (held.bytes or held.released):
                if held.payload is not None:
                    self._rough[held] = None
                self._charge_locked(held, held.due)
            while self._given_back:
                self._release_locked(self._given_back.popleft())
        if self.total > self._fold_at:
            self._settle(held)

    def begin(self, held: Held) -> Envelope | None:
        """Return what is held, whole, for its handler; ``None`` if it takes too much memory.

        Raises:
            Exception: of a serializer that does not decode a payload the second time.
        """
        with self._lock:
            envelope, payload = held.envelope, held.payload
            held.waits = False
            if envelope is not None:
                held.payload = None
        if envelope is None:
            assert self._decode is not None
            envelope = held.envelope = self._decode(payload)
            held.payload = None  # an interrupt before this leaves it for the next time
        elif (
            held not in self._rough
            or held.bytes <= self.bound
            or self._estimate(held, envelope, payload) <= self.bound
        ):
            return envelope
        self._measure(held, envelope, self.bound)
        with self._lock:  # what is charged roughly may be much less
            rough = sum(one.bytes for one in self._rough)
            return None if self.total - rough > self.bound else envelope

    def take(self, held: Held) -> Envelope:
        """Return what is held, whole, to the one it is for, and charge it no more.

        Raises:
            Exception: as :meth:`begin`.
        """
        with self._lock:
            envelope, payload = held.envelope, held.payload
            self._release_locked(held)
        if envelope is None:
            assert self._decode is not None
            envelope = self._decode(payload)
        return envelope

    def move(self, held: Held, kind: Kind) -> None:
        """Have what was held for one thing wait for another."""
        with self._lock:
            if not held.released:
                held.due = held.bytes or held.due  # in steps, each of which may be the last
                self._charge_locked(held, 0)
                held.kind = kind
                self._charge_locked(held, held.due)

    def release(self, held: Held) -> None:
        """Charge it no more."""
        with self._lock:
            self._release_locked(held)

    def give_back(self, held: Held) -> None:
        """As :meth:`release`, for a finalizer, which must not take the lock."""
        self._given_back.append(held)

    def _release_locked(self, held: Held) -> None:
        if not held.released:
            self._rough.pop(held, None)
            self._charge_locked(held, 0)
            held.released, held.envelope, held.payload = True, None, None

    def _charge_locked(self, held: Held, charge: int) -> None:
        """Have it charged so much, in place of what it is."""
        change = charge - held.bytes
        # First, for an enum hashes by a function in Python, which an interrupt may keep from that.
        self.held[held.kind] += change
        self.total, held.bytes = self.total + change, charge

    def _settle(self, newest: Held) -> None:
        """Measure what is charged roughly, and fold what waits, but for what came last."""
        for held in tuple(self._rough):
            envelope = held.envelope
            if held is newest or envelope is None:
                continue
            if held.waits:
                self._measure(held, envelope, _FOLDS_FROM * held.size + _OVERHEAD, folds=True)
            else:
                self._measure(held, envelope, self.bound)
        others = self.total - newest.bytes
        room = self.bound - others
        kind = newest.kind
        if kind is Kind.RECEIVED or kind is Kind.NOTIFICATION:
            room = min(room, self.bound // 4 - self.held[kind] + newest.bytes)
        elif not others:
            return  # measured by the thread that runs it
        envelope = newest.envelope
        # One that is no frame stays as it is: there is nothing to decode it from once more.
        if envelope is None or newest.payload is None or newest.bytes <= room:
            return
        if self._estimate(newest, envelope, newest.payload) > room:
            self._measure(newest, envelope, max(0, room), folds=True)

    def _estimate(self, held: Held, envelope: Envelope, payload: Frame | None) -> int:
        """Charge less roughly what is large, if that takes little time; return the charge."""
        taken = footprint(_carried(envelope), self.bound, _FEW_OBJECTS)
        if taken > self.bound and self._is_known and payload is not None:
            head = payload.head if isinstance(payload, Apart) else payload
            tail = held.size - len(head)  # type: ignore[arg-type]  # not Junk
            taken = densest(head) + tail  # type: ignore[arg-type]
        charge = _OVERHEAD + taken
        with self._lock:
            if held in self._rough and charge < held.bytes:
                self._charge_locked(held, charge)
        return held.bytes

    def _measure(self, held: Held, envelope: Envelope, limit: int, folds: bool = False) -> None:
        """Charge exactly what is charged roughly; or fold it, if it takes more than ``limit``."""
        taken = footprint(_carried(envelope), limit)
        with self._lock:
            if held.released:
                return
            if folds and taken > limit:
                if not held.waits:
                    return  # it has begun meanwhile: it is measured the next time
                held.envelope = None
                taken = held.size + sys.getsizeof(getattr(envelope, "id", None))
            elif folds:
                held.payload = None
            self._rough.pop(held, None)
            self._charge_locked(held, _OVERHEAD + taken)


def size_of(payload: Frame | None) -> int:
    """Return the bytes of a payload; 0 for what is none."""
    if type(payload) is memoryview:
        return len(payload)
    if isinstance(payload, Apart):
        return len(payload.head) + len(payload.tail)
    return 0


def _carried(envelope: Any) -> tuple[object, ...]:
    """Return what is held for an envelope's sake; it also refers to the call that it belongs to."""
    names = ("id", "message", "metadata", "item")
    return tuple(getattr(envelope, name, None) for name in names)
