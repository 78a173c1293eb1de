"""A job: check files against their sums, and its progress."""

from streamipc import Message, Request


class Checked(Message):
    """Progress: so many bytes more, and the file they are of."""

    file: str
    count: int


class Sum(Request[dict[str, str]]):
    """Replies the SHA-256 of each file, by name; sends :class:`Checked` meanwhile."""

    files: list[str]
