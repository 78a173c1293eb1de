"""Turns orders into invoices."""

from datetime import timedelta
from decimal import Decimal

from messages import Invoice, PlaceOrder, Shipping

from streamipc import IpcPeer, JsonMessageSerializer

FEES = {Shipping.POST: Decimal("3.50"), Shipping.COURIER: Decimal("9.00")}

session = IpcPeer(JsonMessageSerializer()).create_stdio_session()


@session.on_request
def place(order: PlaceOrder) -> Invoice:
    goods = sum((item.count * item.price for item in order.items), Decimal())
    return Invoice(
        number=1,
        total=goods + FEES[order.shipping],
        due=order.placed + timedelta(days=14),
    )


session.serve_forever()
