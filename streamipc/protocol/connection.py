"""The state machine of one side of a session: bytes in, events out; commands in, frames out.

Theory of operation
-------------------

A connection keeps two tables. ``calls`` holds what this side has asked and not yet seen
answered; ``served`` holds what the other side has asked and this side has not yet
answered. Each entry is in one state: it stands in its table. Leaving the table is final,
so a request can't be answered twice, and a reply can't reach another's request.

What an envelope from the peer does depends only on whether its id stands in the table it
speaks of:

====================  ==========  ============================  =================================
envelope              table       id is there                   id is not there
====================  ==========  ============================  =================================
Request               served      Violation: duplicate id       enters; the request
Response, Error       calls       leaves; the envelope          Late
… unreadable          calls       leaves; ReplyFailed           Late
Progress, wanted      calls       the envelope                  Late
Progress, unwanted    calls       Violation                     Late
Progress, unreadable  calls       ItemFailed                    Late
Credit                served      the envelope                  ignored (it crossed the reply)
Credit, not positive  served      Violation                     Violation
Cancel                served      the envelope                  ignored (it crossed the reply)
Notification          none        the envelope                  the envelope
====================  ==========  ============================  =================================

An event that is an envelope about a request of ours has that as its ``call``.
A request whose window or metadata is beyond the limits is refused and does not enter.

A violation never ends the session: it is reported, and the stream goes on behind it.

As long as nothing that came could be read, the peer may be using another serializer: see
``mismatch.py``. And a frame that is too large may be a request whose id can't be found, with a
serializer of the user's own: then its length is told, and the other side knows what it sent.

Two kinds of methods
--------------------

``encode`` and ``decode_again`` may be called from anywhere, for they touch no state, and so may
``unfinished``. All others belong to whoever reads: one thread at a time.

Nothing is taken before it is done
----------------------------------

Whoever reads may be interrupted, by the handler of a signal, behind any call. What was read stays
in the buffer until it is cut, a frame stays first in ``frames`` until it was applied, and
``current`` says how it was decoded. Whoever comes next goes on there; so a frame may be applied
twice, from the beginning. What must not happen twice is noted until then: :meth:`receive` notes
which request it has taken off the table, in the very step that takes it; ``note`` is for whatever
the caller has to note.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .._shown import reason, shown
from .._signals import let_through
from ..exceptions import (
    IpcError,
    OverloadedError,
    ProtocolError,
    RemoteError,
    RequestCancelledError,
    RequestTimeoutError,
    SerializationError,
    SessionClosedError,
    UnhandledRequestError,
)
from ..messages import ErrorMessage
from .envelopes import (
    MAX_METADATA,
    MAX_WINDOW,
    Cancel,
    Credit,
    Envelope,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    RequestId,
    Response,
    fault_of,
)
from .events import (
    ItemFailed,
    Late,
    Mismatch,
    PeerSkipped,
    Rejected,
    ReplyFailed,
    Skipped,
    Undecodable,
    Violation,
)
from .framing import Apart, FrameDecoder, Junk, Oversized, encode_frame
from .mismatch import format_of, is_request, notice, own_formats

if TYPE_CHECKING:
    from ..serializers.base import Buffer, MessageSerializer
    from .events import Decoded, Event
    from .framing import Frame

__all__ = ["Connection"]

_SKIPPED = "streamipc.skipped"
"""Metadata of the notification that tells the length of a skipped frame."""


class Connection:
    """One side of a session, without any input or output of its own.

    Args:
        serializer: turns envelopes into payloads and back.
        max_frame_size: bytes of the largest payload, both ways.
        sources: how many streams of bytes are read; each is decoded by itself.
    """

    def __init__(
        self, serializer: MessageSerializer, max_frame_size: int, sources: int = 1
    ) -> None:
        self._serializer = serializer
        self.is_ours = type(serializer).__module__.startswith("streamipc.")
        """Whether it is one of the library, which are known to return good envelopes."""
        self._decode_payload: Callable[..., Envelope] = self._decode_first
        self._max_frame_size = max_frame_size
        tail_size = _no_tail
        # Not one that is passed on by __getattr__: it belongs to another decode().
        if hasattr(type(serializer), "tail_size"):
            tail_size = serializer.tail_size  # type: ignore[attr-defined]
        self.frames: deque[Frame] = deque()
        """What was read and is not applied; the first may be in work."""
        self.current: Decoded | None = None
        """The first of ``frames``, decoded."""
        self.note: Any = None
        """What has been done of it."""
        self._ends: Envelope | None = None  # the last that has ended a request of ours
        self._ended: list[Any] = []  # that request; or None, if there was none
        self._decoders = [
            FrameDecoder(max_frame_size, self._is_payload, tail_size, self.frames)
            for _ in range(sources)
        ]
        self.get_buffers = [decoder.get_buffer for decoder in self._decoders]
        """What :meth:`buffer` calls for each source; also for who reads very often."""
        self.buffer_updated = [decoder.buffer_updated for decoder in self._decoders]
        """To be called, for each source, with the log of what was put into the buffer."""
        self.calls: dict[RequestId, Any] = {}
        """Our requests: id -> the caller's object. Its ``items`` are ``None`` if it wants none."""
        self.served: dict[RequestId, Any] = {}
        """The peer's requests: id -> what :meth:`receive` put there, then the server's."""

    # Reading: by one thread at a time.

    def get_buffer(self, source: int = 0) -> memoryview:
        """Return the memory into which the next bytes of a source are to be read."""
        return self.get_buffers[source]()

    def cut_rest(self) -> None:
        """Cut what has arrived and was not cut: somebody was interrupted."""
        for decoder in self._decoders:
            if decoder.is_uncut:
                decoder.cut()

    def decode(self) -> Decoded:
        """Return the first of ``frames``, decoded."""
        item = self.frames[0]
        if type(item) is memoryview:  # nearly always
            try:
                decoded: Decoded = self._decode_payload(item)
            except Exception as error:
                decoded = _undecodable(error)
        else:
            decoded = self._decode(item)
        self.current = decoded
        return decoded

    def applied(self) -> None:
        """Be done with the first of ``frames``."""
        self.current = self.note = None
        self.frames.popleft()

    def decode_again(self, payload: Frame) -> Envelope:
        """Decode once more what was decoded before; from anywhere.

        Raises:
            Exception: of a serializer of the user's own.
        """
        if isinstance(payload, Apart):
            return self._decode_payload(payload.head, payload.tail)
        return self._decode_payload(payload)

    def feed(self, data: bytes, source: int = 0) -> list[Decoded]:
        """Copy ``data`` in and decode it: for tests, and for bytes that are at hand."""
        decoded: list[Decoded] = []
        view = memoryview(data)
        while view:
            buffer = self.get_buffer(source)
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            view = view[count:]
            self.buffer_updated[source]([count])
            decoded += self._decode_all()
        return decoded

    def finish(self, source: int = 0) -> list[Decoded]:
        """Return what the end of a source leaves behind: for tests; see :meth:`end`."""
        self.end(source)
        return self._decode_all()

    def end(self, source: int = 0) -> None:
        """Add what the end of a source leaves behind to ``frames``."""
        self._decoders[source].finish()

    def _decode_all(self) -> list[Decoded]:
        decoded = []
        while self.frames:
            decoded.append(self.decode())
            self.applied()
        return decoded

    def unfinished(self) -> bytes:
        """Return what waits for more and is no frame, most likely; from any thread."""
        return b"".join(decoder.unfinished() for decoder in self._decoders)

    def _decode(self, item: Frame) -> Decoded:
        try:
            if isinstance(item, Apart):
                # Only where tail_size says so, which comes with it.
                return self._decode_payload(item.head, item.tail)
        except Exception as error:
            return _undecodable(error)
        if isinstance(item, Oversized):
            why = f"max_frame_size is {self._max_frame_size:,}"
            if item.reason is not None:
                why = f"no memory for it ({type(item.reason).__name__}: {item.reason})"
            refusal = ProtocolError(f"skipped a frame of {item.length:,} bytes: {why}")
            return Undecodable(refusal, self._header(item.head), item.length)
        assert isinstance(item, Junk)  # decode() has seen to the rest
        return item

    def _decode_first(self, payload: memoryview, *tail: bytes) -> Envelope:
        """Decode what may be the first payload that this side can read."""
        try:
            envelope = self._decode_known(payload, *tail)
        except Exception as error:
            if getattr(error, "envelope", None) is None:
                self._look_for_mismatch(payload)
            raise
        self._decode_payload = self._serializer.decode if self.is_ours else self._decode_known
        return envelope

    def _decode_known(self, payload: memoryview, *tail: bytes) -> Envelope:
        """Decode a payload; refuse what a serializer of the user's own must not return."""
        decode: Callable[..., Envelope] = self._serializer.decode
        envelope = decode(payload, *tail)
        fault = None if self.is_ours else fault_of(envelope)
        if fault is None:
            return envelope
        raise SerializationError(
            f"decode() of the serializer returned a bad {type(envelope).__name__}: {fault}",
            envelope=None if fault.startswith("id ") else envelope,
        )

    def _look_for_mismatch(self, payload: memoryview) -> None:
        theirs = format_of(payload)
        if theirs is None or theirs in own_formats(self._serializer):
            return
        raise _MismatchError(
            f"the peer sends {theirs} payloads, and this side uses "
            f"{type(self._serializer).__name__}: both sides must use the same serializer "
            "(IpcPeer(serializer=...))",
            is_request(payload),
        )

    def _header(self, head: bytes) -> Envelope | None:
        """Return the envelope that the first bytes of a payload announce, if they do."""
        try:
            return self._serializer.decode(memoryview(head))
        except SerializationError as error:
            return error.envelope
        except Exception as error:  # a serializer of the user's own, given half a payload
            let_through(error)
            return None

    def _is_payload(self, head: bytes) -> bool:
        # One of the user's own may need the whole payload to find anything in it.
        return not self.is_ours or self._header(head) is not None

    # Writing: from anywhere.

    def encode(self, envelope: Envelope) -> list[Buffer]:
        """Return the buffers of the frame that holds ``envelope``.

        Raises:
            SerializationError: it can't be represented.
            ProtocolError: it is larger than allowed.
        """
        try:
            payload = self._serializer.encode(envelope)
        except IpcError as error:
            let_through(error)  # what it was made from
            raise
        except Exception as error:  # a serializer of the user's own
            let_through(error)
            raise SerializationError(
                f"{type(error).__name__} while encoding {_name(envelope)}: {error}"
            ) from error
        try:
            return encode_frame(payload, self._max_frame_size)
        except ProtocolError as error:
            raise ProtocolError(f"{_name(envelope)}: {error}") from None

    # State: one call at a time. Others take entries off the tables meanwhile, so each rule
    # that does, does it in one step.

    def receive(self, decoded: Decoded) -> Event | None:
        """Apply what was decoded to the tables; return what it means, if anything."""
        rule = _RULES.get(type(decoded))
        if rule is None:  # a serializer of the user's own
            return Violation(
                SerializationError(
                    f"decode() of the serializer returned {type(decoded).__name__}, no envelope"
                )
            )
        event: Event | None = rule(self, decoded)
        return event

    def _response(self, envelope: Response | ErrorResponse) -> Event:
        call = self._take_call(envelope)
        if call is None:
            return Late(envelope.id, is_answer=True)
        envelope.call = call
        return envelope

    def _take_call(self, envelope: Response | ErrorResponse) -> Any:
        if self._ends is not envelope:
            self._ends, self._ended = envelope, []
        if not self._ended:
            self._ended.extend(map(self.calls.pop, (envelope.id,), (None,)))
        return self._ended[0]

    def _request(self, envelope: Request) -> Event:
        if self.note is not None:
            return envelope  # it has entered, and somebody was interrupted
        known: object = self.served.get(envelope.id)
        if known is not None and known is not envelope:
            return _duplicate(envelope.id)
        if not 0 <= envelope.window <= MAX_WINDOW:
            error = ProtocolError(
                f"window of request {envelope.id!r} is {shown(envelope.window)}, not from 0 to "
                "2**31-1"
            )
            return Rejected(refusal_of(envelope.id, error, "protocol"), error)
        if envelope.metadata:
            size = _metadata_size(envelope.metadata)
            if size > MAX_METADATA:
                error = _too_much_metadata(f"request {envelope.id!r}", size)
                return Rejected(refusal_of(envelope.id, error, "protocol"), error)
        self.served[envelope.id] = envelope
        return envelope

    def _notification(self, envelope: Notification) -> Event:
        if envelope.metadata:
            if _SKIPPED in envelope.metadata and type(envelope.message) is ErrorMessage:
                return PeerSkipped(envelope.metadata[_SKIPPED], envelope)
            size = _metadata_size(envelope.metadata)
            if size > MAX_METADATA:
                name = type(envelope.message).__wire_name__
                return Violation(_too_much_metadata(f"notification {name}", size))
        return envelope

    def _progress(self, envelope: Progress) -> Event:
        call = self.calls.get(envelope.id)
        if call is None:
            return Late(envelope.id)
        if call.items is None:
            return Violation(
                ProtocolError(
                    f"the peer sent an item for request {envelope.id!r}, which takes none"
                )
            )
        envelope.call = call
        return envelope

    def _credit(self, envelope: Credit) -> Event | None:
        if not 0 < envelope.count <= MAX_WINDOW:
            return Violation(
                ProtocolError(
                    f"the peer granted {shown(envelope.count)} items for request {envelope.id!r}, "
                    "not from 1 to 2**31-1"
                )
            )
        if envelope.id not in self.served:
            return None
        return envelope

    def _cancel(self, envelope: Cancel) -> Event | None:
        if envelope.id not in self.served:
            return None
        return envelope

    def _junk(self, junk: Junk) -> Event:
        return junk

    def _undecodable(self, decoded: Undecodable) -> Event:
        error = decoded.error
        envelope = decoded.envelope
        if isinstance(error, _MismatchError):
            return Mismatch(error, notice(str(error)) if error.in_request else None)
        if envelope is None and decoded.length is not None:
            told = Notification(
                ErrorMessage(str(error), type(error).__name__), {_SKIPPED: str(decoded.length)}
            )
            return Skipped(error, told)
        if isinstance(envelope, Request):
            if envelope.id in self.served:  # an answer would look like the other one's
                return _duplicate(envelope.id)
            code = "protocol" if isinstance(error, ProtocolError) else "serialization"
            return Rejected(refusal_of(envelope.id, error, code), error)
        if isinstance(envelope, Progress):
            call = self.calls.get(envelope.id)
            if call is None:
                return Late(envelope.id)
            return ItemFailed(call, error) if call.items is not None else Violation(error)
        if isinstance(envelope, (Response, ErrorResponse)):
            call = self._take_call(envelope)
            if call is None:
                return Late(envelope.id, is_answer=True)
            return ReplyFailed(call, error)
        return Violation(error)


_RULES: dict[type, Any] = {
    Request: Connection._request,
    Response: Connection._response,
    ErrorResponse: Connection._response,
    Notification: Connection._notification,
    Progress: Connection._progress,
    Credit: Connection._credit,
    Cancel: Connection._cancel,
    Junk: Connection._junk,
    Undecodable: Connection._undecodable,
}


class _MismatchError(SerializationError):
    """The peer uses another serializer."""

    def __init__(self, message: str, in_request: bool) -> None:
        super().__init__(message)
        self.in_request = in_request


def _undecodable(error: Exception) -> Undecodable:
    let_through(error, 2)
    if isinstance(error, SerializationError):
        return Undecodable(error, error.envelope)
    wrapped = SerializationError(
        f"decode() of the serializer failed: {reason(error)}{_place_of(error)}"
    )
    wrapped.__cause__ = error  # of a serializer of the user's own
    return Undecodable(wrapped)


def _place_of(error: Exception) -> str:
    """Return where an error was raised: its traceback, which holds the payload, is not kept."""
    place = error.__traceback__
    assert place is not None  # it was caught
    while place.tb_next is not None:
        place = place.tb_next
    file = place.tb_frame.f_code.co_filename.replace("\\", "/")
    return f" ({file.rpartition('/')[2]}, line {place.tb_lineno})"


def _name(envelope: Envelope) -> str:
    """Name what an envelope carries, for people."""
    for field in ("message", "value", "item"):
        name = getattr(type(getattr(envelope, field, None)), "__wire_name__", None)
        if name:
            return str(name)
    kinds: dict[type, str] = {
        Response: "the reply",
        Progress: "the item",
        ErrorResponse: "the error",
    }
    return kinds.get(type(envelope), type(envelope).__name__)


def _duplicate(id: RequestId) -> Violation:  # noqa: A002
    error = ProtocolError(f"the peer used the request id {id!r} twice at a time")
    return Violation(error)


def _metadata_size(metadata: Mapping[str, str]) -> int:
    return sum(len(key) + len(value) for key, value in metadata.items())


def _no_tail(head: memoryview, size: int) -> int:
    return 0


def _too_much_metadata(what: str, size: int) -> ProtocolError:
    return ProtocolError(
        f"the metadata of {what} has {size:,} characters; at most {MAX_METADATA:,} are taken"
    )


_EXCEPTIONS: dict[str, type[IpcError]] = {
    "unhandled": UnhandledRequestError,
    "serialization": SerializationError,
    "overloaded": OverloadedError,
    "cancelled": RequestCancelledError,
    "timeout": RequestTimeoutError,
    "protocol": ProtocolError,
    "closed": SessionClosedError,
}


def error_from(envelope: ErrorResponse) -> IpcError:
    """Return the exception that an error response becomes on the caller's side."""
    error = envelope.error
    kind = _EXCEPTIONS.get(envelope.code)
    if kind is None:
        return RemoteError(error.message, error.type, error.traceback)
    if kind is SessionClosedError:  # the request was refused
        return SessionClosedError(error.message, executed=False)
    made = kind(error.message)
    if isinstance(made, RequestTimeoutError):
        made.answered = True
    return made


def refusal_of(id: RequestId, error: IpcError, code: str) -> ErrorResponse:  # noqa: A002
    """Return the answer to a request that could not be taken."""
    return ErrorResponse(id, ErrorMessage(str(error), type(error).__name__), code)
