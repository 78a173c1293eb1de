"""Stands for the program that does the work: it counts the primes of a range."""

from messages import CountPrimes

from streamipc import IpcPeer

session = IpcPeer().create_stdio_session()


def is_prime(number: int) -> bool:
    return number > 1 and all(number % i for i in range(2, int(number**0.5) + 1))


@session.on_request
def count(msg: CountPrimes) -> int:
    return sum(map(is_prime, range(msg.start, msg.stop)))


session.serve_forever()
