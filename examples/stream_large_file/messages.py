"""Reading a file in pieces."""

from streamipc import Request


class ReadFile(Request[int]):
    """Streams ``bytes``; replies how many there were."""

    path: str
    piece: int = 1 << 20
    """Bytes."""
