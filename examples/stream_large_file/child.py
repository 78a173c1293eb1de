"""Sends a file in pieces, as fast as the other side takes them."""

import sys
from collections.abc import Iterator

from messages import ReadFile

from streamipc import IpcPeer

session = IpcPeer().create_stdio_session()


@session.on_request
def read(msg: ReadFile) -> Iterator[bytes]:
    sent = 0
    try:
        with open(msg.path, "rb") as file:
            while piece := file.read(msg.piece):
                yield piece
                sent += len(piece)
        return sent
    finally:
        # Also when the other side has seen enough: the generator is closed then.
        print(f"child: {sent >> 20} MiB were taken, the file is closed", file=sys.stderr)


session.serve_forever()
