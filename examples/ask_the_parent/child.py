"""Adds up prices that only the parent knows."""

from messages import PriceOf, Total

from streamipc import IpcPeer

session = IpcPeer().create_stdio_session()


@session.on_request
def total(msg: Total) -> int:
    prices = [session.request(PriceOf(article)) for article in msg.articles]
    return sum(price.result() for price in prices)


session.serve_forever()
