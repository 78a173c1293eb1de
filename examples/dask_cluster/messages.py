"""One piece of a larger job."""

from streamipc import Request


class CountPrimes(Request[int]):
    start: int
    stop: int
