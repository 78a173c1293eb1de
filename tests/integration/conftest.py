"""What the tests of whole sessions share.

``wire``
    A session of this process whose other side is the test itself: it writes bytes, and
    reads the frames that come, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamipc import IpcPeer, JsonMessageSerializer

MAGIC = b"\xf3\x4a\x9d\xe2"


class Wire:
    """The other side of ``session``: bytes as they are."""

    def __init__(self, peer: IpcPeer) -> None:
        self._incoming, theirs_out = os.pipe()
        theirs_in, self._outgoing = os.pipe()
        self.session = peer.create_stream_session(theirs_out, theirs_in)
        self._buffer = b""

    @staticmethod
    def frame(payload: bytes) -> bytes:
        return MAGIC + len(payload).to_bytes(4, "big") + payload

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        while data:
            data = data[os.write(self._outgoing, data) :]

    def say(self, **envelope: Any) -> None:
        """Send a frame with a JSON object."""
        self.write(self.frame(json.dumps(envelope).encode()))

    def ask(self, id: int, text: str) -> None:  # noqa: A002
        """Send a request with a LogMessage."""
        self.say(kind="request", id=id, type="streamipc.LogMessage", body={"message": text})

    def tell(self, text: str) -> None:
        """Send a notification with a LogMessage."""
        self.say(kind="notification", type="streamipc.LogMessage", body={"message": text})

    def hear(self, timeout: float = 10) -> dict[str, Any]:
        """Return the next frame."""
        while True:
            if len(self._buffer) >= 8:
                assert self._buffer[:4] == MAGIC
                end = 8 + int.from_bytes(self._buffer[4:8], "big")
                if len(self._buffer) >= end:
                    payload, self._buffer = self._buffer[8:end], self._buffer[end:]
                    heard: dict[str, Any] = json.loads(payload)
                    return heard
            assert select.select([self._incoming], [], [], timeout)[0], "nothing was sent"
            data = os.read(self._incoming, 1 << 16)
            assert data, "the stream ended"
            self._buffer += data

    def silent(self) -> bool:
        """Tell whether nothing has been sent."""
        return not self._buffer and not select.select([self._incoming], [], [], 0)[0]

    def hang_up(self) -> None:
        """End our direction."""
        fd, self._outgoing = self._outgoing, -1
        if fd >= 0:
            os.close(fd)

    def stop_listening(self) -> None:
        """Close the other direction: what is sent meets a broken pipe."""
        fd, self._incoming = self._incoming, -1
        if fd >= 0:
            os.close(fd)


@pytest.fixture
def make_wire() -> Iterator[Callable[..., Wire]]:
    wires: list[Wire] = []

    def make(**options: Any) -> Wire:
        wires.append(Wire(IpcPeer(JsonMessageSerializer(), **options)))
        return wires[-1]

    yield make
    for wire in wires:
        wire.hang_up()
        wire.session.close(timeout=5)
        wire.stop_listening()


@pytest.fixture
def wire(make_wire: Callable[..., Wire]) -> Wire:
    return make_wire()


@pytest.fixture(params=[None, 1e-6], ids=["", "switching-fast"])
def switching(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test twice: as it is, and with threads that switch all the time."""
    with contextlib.ExitStack() as stack:
        if request.param is not None:
            stack.callback(sys.setswitchinterval, sys.getswitchinterval())
            sys.setswitchinterval(request.param)
        yield


def in_threads(count: int, function: Callable[[int], object]) -> None:
    """Call ``function`` with 0, 1, … in as many threads, and raise what one of them raised."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            function(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture(name="in_threads")
def _in_threads() -> Callable[[int, Callable[[int], object]], None]:
    return in_threads
