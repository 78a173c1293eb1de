"""The messages that parent and child have in common."""

from streamipc import Message, Request


class Greeting(Message):
    text: str


class SayHello(Request[Greeting]):
    name: str
