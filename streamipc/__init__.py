"""Typed messages between processes, for synchronous Python.

The names below are the whole public API. Each is imported when it is first used, so that a
program pays for what it needs only.
"""

from __future__ import annotations

import atexit
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import envelopes
    from ._python import python_command
    from .engine.contracts import Stats
    from .exceptions import (
        IpcError,
        MessageDefinitionError,
        OverloadedError,
        ProtocolError,
        RemoteError,
        RequestCancelledError,
        RequestTimeoutError,
        SerializationError,
        SessionClosedError,
        UnhandledRequestError,
        WorkerLostError,
        WorkersUnavailableError,
    )
    from .futures import ResponseFuture, ResponseStream
    from .handlers import RequestContext, current_request
    from .limits import Limits
    from .messages import ErrorMessage, LogMessage, Message, Request
    from .peer import IpcPeer
    from .pool.contracts import PoolStats, WorkerInfo
    from .pool.futures import PoolFuture
    from .pool.mapping import Replies
    from .pool.pool import WorkerPool
    from .pool.streams import PoolStream
    from .protocol.envelopes import CounterIdGenerator, PidHrtimeRequestIdGenerator
    from .serializers.base import MessageSerializer
    from .serializers.json import JsonMessageSerializer
    from .serializers.native import NativeMessageSerializer
    from .session import IpcSession, ProcessSession
    from .sync import SyncIpcSession
    from .transports.base import Transport

__version__ = "0.1.0"

__all__ = [
    "CounterIdGenerator",
    "ErrorMessage",
    "IpcError",
    "IpcPeer",
    "IpcSession",
    "JsonMessageSerializer",
    "Limits",
    "LogMessage",
    "Message",
    "MessageDefinitionError",
    "MessageSerializer",
    "NativeMessageSerializer",
    "OverloadedError",
    "PidHrtimeRequestIdGenerator",
    "PoolFuture",
    "PoolStats",
    "PoolStream",
    "ProcessSession",
    "ProtocolError",
    "RemoteError",
    "Replies",
    "Request",
    "RequestCancelledError",
    "RequestContext",
    "RequestTimeoutError",
    "ResponseFuture",
    "ResponseStream",
    "SerializationError",
    "SessionClosedError",
    "Stats",
    "SyncIpcSession",
    "Transport",
    "UnhandledRequestError",
    "WorkerInfo",
    "WorkerLostError",
    "WorkerPool",
    "WorkersUnavailableError",
    "current_request",
    "envelopes",
    "python_command",
]

_HOMES = {
    "CounterIdGenerator": "protocol.envelopes",
    "ErrorMessage": "messages",
    "IpcPeer": "peer",
    "IpcSession": "session",
    "JsonMessageSerializer": "serializers.json",
    "Limits": "limits",
    "LogMessage": "messages",
    "Message": "messages",
    "MessageSerializer": "serializers.base",
    "NativeMessageSerializer": "serializers.native",
    "PidHrtimeRequestIdGenerator": "protocol.envelopes",
    "PoolFuture": "pool.futures",
    "PoolStats": "pool.contracts",
    "PoolStream": "pool.streams",
    "ProcessSession": "session",
    "Replies": "pool.mapping",
    "Request": "messages",
    "RequestContext": "handlers",
    "ResponseFuture": "futures",
    "ResponseStream": "futures",
    "Stats": "engine.contracts",
    "SyncIpcSession": "sync",
    "Transport": "transports.base",
    "WorkerInfo": "pool.contracts",
    "WorkerPool": "pool.pool",
    "current_request": "handlers",
    "python_command": "_python",
}
"""Where the names live; the others are exceptions."""


def _close_all() -> None:
    """Close the sessions that are still open as the interpreter ends."""
    lifetimes = sys.modules.get(f"{__name__}.engine.lifetimes")
    if lifetimes is not None:
        lifetimes.close_all()


# Now, and not when the first session is made: atexit functions are called in reverse order,
# so those that are registered from here on can still use their sessions.
atexit.register(_close_all)


def __getattr__(name: str) -> Any:
    if name == "envelopes":
        return __import__(f"{__name__}.envelopes", fromlist=["*"])
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = f"{__name__}.{_HOMES.get(name, 'exceptions')}"
    value = getattr(__import__(home, fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
