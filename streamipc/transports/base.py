"""The contract of a transport: move bytes and know nothing else."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["Transport"]


@runtime_checkable
class Transport(Protocol):
    """Two directions of bytes.

    Implement it to bring a medium of your own::

        session = IpcPeer().create_session(MyTransport())

    ``read_into`` is called from one thread at a time, ``write`` from one thread at a
    time, and the two at the same time. The session has a thread for each, from its start,
    that copies to and from a socket (``pump.py``). So senders respect their deadlines
    although ``write`` blocks, and return when the bytes are in that socket. It holds a few
    hundred KiB each way.

    What the methods raise ends the session, and is quoted in its errors.
    """

    def read_into(self, buffer: memoryview, /) -> int:
        """Block until bytes have arrived, put them into ``buffer``, return how many.

        Returns 0 at the end of the stream. An exception also ends it, after what was
        returned before; only a BlockingIOError or InterruptedError has it called again.
        """
        ...

    def write(self, data: memoryview, /) -> int:
        """Block until some bytes of ``data`` are accepted; return how many.

        ``data`` does not change afterwards, so it may be kept.

        Raises:
            OSError: the other side is gone.
        """
        ...

    def close_write(self) -> None:
        """End our direction, so that the peer's reading ends; reading goes on.

        Called after the last ``write``, on the same thread. A medium that can't be closed by
        halves does nothing here. May be called twice.
        """
        ...

    def close(self) -> None:
        """Release everything. A ``read_into`` or ``write`` that blocks must end soon.

        May be called twice, and from any thread.
        """
        ...
