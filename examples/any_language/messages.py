"""Messages with wire names that do not depend on Python's modules."""

from streamipc import Message, Request


class WordCount(Message, wire_name="words.WordCount"):
    words: int
    longest: str
    counts: dict[str, int]


class CountWords(Request[WordCount], wire_name="words.CountWords"):
    text: str


class IsStopWord(Request[bool], wire_name="words.IsStopWord"):
    """Asked by the child."""

    word: str


class Ready(Message, wire_name="words.Ready"):
    """Told by the child when it listens."""

    runtime: str
