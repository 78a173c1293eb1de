"""One picture of the batch."""

from streamipc import Message, Request


class Made(Message):
    width: int
    height: int


class MakeThumbnail(Request[Made]):
    source: str
    target: str
    size: int
