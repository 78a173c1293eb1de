"""The small messages by themselves, as a program has them that needs no others."""

from __future__ import annotations

from streamipc import Message, Request


class Answer(Message, wire_name="bench.start.Answer"):
    number: int
    text: str


class Ask(Request[Answer], wire_name="bench.start.Ask"):
    number: int
    text: str
