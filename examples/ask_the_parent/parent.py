"""Asks the child for a sum and answers its questions while it waits."""

import sys
from pathlib import Path

from messages import PriceOf, Total

from streamipc import IpcPeer, RemoteError

PRICES = {"ink": 1025, "paper": 450, "pen": 199}

if __name__ == "__main__":
    child = [sys.executable, str(Path(__file__).with_name("child.py"))]
    session = IpcPeer().create_command_session(child)

    @session.on_request
    def price(msg: PriceOf) -> int:
        return PRICES[msg.article]

    with session:
        cents = session.request(Total(["ink", "paper", "pen"])).result(timeout=30)
        print(f"total: {cents / 100:.2f}")

        try:
            session.request(Total(["ink", "glue"])).result(timeout=30)
        except RemoteError as error:
            print(f"no total: {error}")
