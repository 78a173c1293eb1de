"""What the views ask the child processes."""

from streamipc import Message, Request


class Suggestions(Message):
    word: str
    nearest: list[str]


class Suggest(Request[Suggestions]):
    word: str
