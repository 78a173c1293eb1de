"""An order with nested messages and rich field types; JSON carries them all."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from enum import Enum

from streamipc import Message, Request


class Shipping(Enum):
    POST = "post"
    COURIER = "courier"


class Item(Message):
    article: str
    count: int
    price: Decimal


class Invoice(Message):
    number: int
    total: Decimal
    due: date


class PlaceOrder(Request[Invoice]):
    placed: date
    items: list[Item]
    shipping: Shipping = Shipping.POST
    note: str | None = None
