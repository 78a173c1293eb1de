"""Tells three children something at once and shows what they log."""

import sys
from pathlib import Path

from streamipc import IpcPeer, IpcSession, LogMessage

child = [sys.executable, str(Path(__file__).with_name("child.py"))]


def show_next(session: IpcSession) -> None:
    line = session.receive(timeout=10)
    assert isinstance(line, LogMessage)
    print(f"{line.level:>7}  {line.message}")


if __name__ == "__main__":
    with IpcPeer() as peer:
        workers = [peer.create_command_session([*child, str(number)]) for number in (1, 2, 3)]
        for worker in workers:
            show_next(worker)

        peer.broadcast(LogMessage("maintenance at noon"))
        for worker in workers:
            show_next(worker)
