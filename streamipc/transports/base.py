"""The contract between the engine and a transport: move bytes and know nothing else."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["Transport"]


@runtime_checkable
class Transport(Protocol):
    """Two directions of bytes.

    Implement it to bring a medium of your own::

        session = IpcPeer().create_session(MyTransport())

    ``read_into`` is called from one thread at a time, ``write`` from one thread at a
    time, and the two at the same time.
    """

    def read_into(self, buffer: memoryview, /) -> int:
        """Block until bytes have arrived, put them into ``buffer``, return how many.

        Returns 0 at the end of the stream. An :class:`OSError` also ends it.
        """
        ...

    def write(self, data: memoryview, /) -> int:
        """Block until some bytes of ``data`` are accepted; return how many.

        Raises:
            OSError: the other side is gone.
        """
        ...

    def close_write(self) -> None:
        """End our direction, so that the peer's reading ends; reading goes on.

        A medium that can't be closed by halves does nothing here. May be called twice.
        """
        ...

    def close(self) -> None:
        """Release everything. A ``read_into`` or ``write`` that blocks must end soon.

        May be called twice, and from any thread.
        """
        ...
