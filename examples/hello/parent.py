"""Starts the child, asks it for a greeting and prints it."""

import sys
from pathlib import Path

from messages import SayHello

from streamipc import IpcPeer

child = [sys.executable, str(Path(__file__).with_name("child.py"))]

if __name__ == "__main__":
    with IpcPeer().create_command_session(child) as session:
        greeting = session.request(SayHello("Riki")).result(timeout=5)
        print(greeting.text)
