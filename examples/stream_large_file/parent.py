"""Copies a large file through a child: neither side holds more than a few pieces of it."""

import sys
import tempfile
from pathlib import Path

from messages import ReadFile

from streamipc import IpcPeer

child = [sys.executable, str(Path(__file__).with_name("child.py"))]

if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as folder,
        IpcPeer().create_command_session(child, stderr=None) as session,
    ):
        source = Path(folder, "source")
        with source.open("wb") as file:
            for number in range(64):
                file.write(number.to_bytes(1, "big") * (1 << 20))

        # At most 4 pieces are on their way; then the child waits until one is taken.
        copy = Path(folder, "copy")
        with copy.open("wb") as file, session.stream(ReadFile(str(source)), window=4) as stream:
            for piece in stream:
                file.write(piece)
            print(f"copied {stream.result() >> 20} MiB")
        print(f"the same: {copy.read_bytes() == source.read_bytes()}")

        # Leaving the block before the end closes the file in the child.
        with session.stream(ReadFile(str(source)), window=4) as stream:
            for piece in stream:
                if piece[0] == 10:
                    print("that was enough")
                    break
