"""Futures of requests that nobody has sent."""

from __future__ import annotations

from typing import Any

from streamipc import Message
from streamipc.engine.calls import Call
from streamipc.futures import ResponseFuture

__all__ = ["make_future"]


def make_future(owner: Any, id_: Any, message: Message) -> ResponseFuture[Any]:
    """Return the future of a pending request of this id."""
    return ResponseFuture(Call(owner, id_, message))
