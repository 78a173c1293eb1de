"""How an error is told to the peer: an answer that can be sent, whatever the error is."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._signals import let_through
from ..exceptions import IpcError, SessionClosedError, text_of
from ..messages import ErrorMessage
from ..protocol.envelopes import ErrorResponse, RequestId

if TYPE_CHECKING:
    from ..serializers.base import Buffer

__all__ = ["ErrorReturned", "closed_refusal", "error_frame", "error_message_from"]

_SHORT = 150
"""Characters of a text that must be short."""


def error_frame(
    encode: Callable[[ErrorResponse], list[Buffer]], answer: ErrorResponse
) -> list[Buffer]:
    """Return the frame of an error, shortened if it can't be sent as it is.

    Raises:
        IpcError: the serializer can't carry any error.
    """
    try:
        return encode(answer)
    except IpcError:  # larger than a frame may be, or a text that can't be carried
        error = answer.error
        short = ErrorMessage(_shortened(error.message), _shortened(error.type))
        return encode(ErrorResponse(answer.id, short, answer.code))


def _shortened(text: str) -> str:
    """Return a text that is sure to fit into the smallest frame (1,024 bytes)."""
    text = ascii(text)[1:-1]
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "~"


class ErrorReturned(Exception):
    """A handler returned an ``ErrorMessage``: its request fails, with what that says."""

    def __init__(self, error: ErrorMessage) -> None:
        super().__init__(error)
        self.error = error


def error_message_from(error: BaseException, tracebacks: bool = True) -> ErrorMessage:
    """Return what the peer is told about an exception.

    Args:
        error: the exception.
        tracebacks: whether that includes its traceback, with paths and chained causes.
    """
    if isinstance(error, ErrorReturned):
        said = error.error
        return ErrorMessage(
            str(said.message), str(said.type), str(said.traceback) if tracebacks else ""
        )
    cls = type(error)
    name = (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )
    if not tracebacks:
        return ErrorMessage(text_of(error), name)
    try:
        trace = "".join(traceback.format_exception(cls, error, error.__traceback__))
    except Exception as failure:  # of the exception's own
        let_through(failure)
        trace = ""
    return ErrorMessage(text_of(error), name, trace)


def closed_refusal(id: RequestId) -> ErrorResponse:  # noqa: A002
    """Return the answer to a request that comes while this side is closing."""
    error = SessionClosedError("the peer is closing the session and takes no new requests")
    return ErrorResponse(id, ErrorMessage(str(error), type(error).__name__), "closed")
