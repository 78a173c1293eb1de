"""Counting words, line by line."""

from streamipc import Message, Request


class CountWords(Request[int]):
    text: str


class Line(Message):
    number: int
    words: int


class Walk(Request[int]):
    """Streams a :class:`Line` for each line; replies how many there were."""

    text: str
