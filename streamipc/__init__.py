"""Typed messages between processes, for synchronous Python.

The names below are the whole public API.
"""

from __future__ import annotations

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
)
from .futures import ResponseFuture, ResponseStream
from .handlers import RequestContext, current_request
from .messages import ErrorMessage, LogMessage, Message, Request
from .peer import IpcPeer
from .protocol.envelopes import CounterIdGenerator, PidHrtimeRequestIdGenerator
from .serializers.base import MessageSerializer
from .serializers.json import JsonMessageSerializer
from .serializers.native import NativeMessageSerializer
from .session import IpcSession, ProcessSession, Stats
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
    "LogMessage",
    "Message",
    "MessageDefinitionError",
    "MessageSerializer",
    "NativeMessageSerializer",
    "OverloadedError",
    "PidHrtimeRequestIdGenerator",
    "ProcessSession",
    "ProtocolError",
    "RemoteError",
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
    "current_request",
]
