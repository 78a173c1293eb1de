"""Finds prime factors, and keeps one CPU busy with it."""

from messages import Factorise

from streamipc import IpcPeer

session = IpcPeer().create_stdio_session()


@session.on_request
def factorise(msg: Factorise) -> list[int]:
    factors, rest, divisor = [], msg.number, 2
    while divisor * divisor <= rest:
        while rest % divisor == 0:
            factors.append(divisor)
            rest //= divisor
        divisor += 1
    return [*factors, rest] if rest > 1 else factors


session.serve_forever()
