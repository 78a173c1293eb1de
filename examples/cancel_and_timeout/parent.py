"""Starts work that never ends, and loses interest in it in several ways."""

import sys
from pathlib import Path

from messages import Journal, Search, Sleep

from streamipc import IpcPeer, RequestTimeoutError

child = [sys.executable, str(Path(__file__).with_name("child.py"))]

if __name__ == "__main__":
    with IpcPeer().create_command_session(child) as session:
        # Nothing has this hash. Whoever holds the future can give up.
        search = session.request(Search("no such hash"))
        print(session.request(Journal(count=1)).result())
        print("cancelled:", search.cancel())
        print(session.request(Journal(count=2)).result()[1:])

        # A deadline ends the request here, and reaches the handler there.
        try:
            session.request(Sleep(60), timeout=2).result()
        except RequestTimeoutError:
            print("took too long")
        print(session.request(Journal(count=3)).result()[2:])

        # result(timeout=…) bounds this wait only: the request goes on.
        nap = session.request(Sleep(2))
        try:
            nap.result(timeout=0.01)
        except RequestTimeoutError:
            print("not yet")
        print(nap.result())
