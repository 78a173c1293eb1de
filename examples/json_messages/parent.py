"""Places two orders over JSON: a good one, and one with a field of the wrong type."""

import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

from messages import Item, PlaceOrder, Shipping

from streamipc import IpcPeer, JsonMessageSerializer, SerializationError

child = [sys.executable, str(Path(__file__).with_name("child.py"))]
ink = Item("ink", count=2, price=Decimal("10.25"))
paper = Item("paper", count=1, price="cheap")  # type: ignore[arg-type]

if __name__ == "__main__":
    with IpcPeer(JsonMessageSerializer()).create_command_session(child) as session:
        order = PlaceOrder(date(2024, 2, 20), [ink], shipping=Shipping.COURIER)
        invoice = session.request(order).result(timeout=30)
        print(f"invoice {invoice.number}: {invoice.total}, due {invoice.due:%d %B %Y}")

        try:
            session.request(PlaceOrder(date(2024, 2, 20), [ink, paper])).result(timeout=30)
        except SerializationError as error:
            print(error)
