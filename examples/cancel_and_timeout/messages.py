"""Work that may take long."""

from streamipc import Request


class Search(Request[int]):
    """Looks for the first number whose hash starts with ``prefix``; may take for ever."""

    prefix: str


class Sleep(Request[str]):
    """Waits; gives up at once when nobody wants the reply any more."""

    seconds: float


class Journal(Request[list[str]]):
    """What became of the work so far, once there are ``count`` entries."""

    count: int
