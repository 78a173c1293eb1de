"""A child that answers every message of ``shared_messages``: run it, or read it."""

from __future__ import annotations

import sys

from shared_messages import Add, Echo, Fail, Greeting, Note, SayHello

from streamipc import IpcPeer, JsonMessageSerializer, NativeMessageSerializer

serializer = JsonMessageSerializer() if "json" in sys.argv[1:] else NativeMessageSerializer()
session = IpcPeer(serializer).create_stdio_session()


@session.on_request
def hello(msg: SayHello) -> Greeting:
    return Greeting(f"Hello, {msg.name}!")


@session.on_request
def echo(msg: Echo) -> object:
    return msg.value


@session.on_request
def add(msg: Add) -> int:
    return msg.a + msg.b


@session.on_request
def fail(msg: Fail) -> None:
    raise ValueError(msg.text)


@session.on_message
def send_back(msg: Note) -> None:
    session.notify(msg)


session.serve_forever()
