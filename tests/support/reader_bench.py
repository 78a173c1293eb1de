"""A reader on a real pipe, and nothing else of an engine: what benches are built upon."""

from __future__ import annotations

import os
import threading
from typing import Any

from streamipc import JsonMessageSerializer, LogMessage
from streamipc.engine.flow import Flow
from streamipc.engine.poller import Wakeup
from streamipc.engine.reader import Reader
from streamipc.protocol.connection import Connection
from streamipc.protocol.envelopes import Notification

__all__ = ["ReaderBench"]


class ReaderBench:
    """Reads texts that the test writes; :meth:`take` is given each of them."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        self.lock = threading.RLock()
        self.flow = Flow(self.lock)
        self.wakeup = Wakeup()
        self.log: list[int] = []
        self.connection = Connection(JsonMessageSerializer(), 1 << 20)
        self.reader = Reader(
            self.connection,
            self._read_into,
            (self.read_fd,),
            self.wakeup,
            (self.log,),
            self.apply,
            self.on_end,
            self.flow,
        )

    def write(self, *texts: str) -> None:
        """Write them for the reader, all of them at once."""
        frames = [self.connection.encode(Notification(LogMessage(text))) for text in texts]
        os.write(self.write_fd, b"".join(part for frame in frames for part in frame))

    def end_stream(self) -> None:
        """Close the end that is written to."""
        fd, self.write_fd = self.write_fd, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        self.wakeup.close()
        os.close(self.read_fd)
        self.end_stream()

    def apply(self) -> None:
        while self.connection.frames:
            told: Any = self.connection.decode()
            self.take(told.message.message)
            self.connection.applied()

    def take(self, text: str) -> None:
        """Learn of a text that was read."""

    def on_end(self, error: Exception | None) -> None:
        """Learn that the stream has ended."""

    def _read_into(self, buffer: memoryview, source: int) -> int:
        self.log.extend(map(os.readv, (self.read_fd,), ([buffer],)))
        return self.log[0]
