"""A job, and the reports that it sends while it runs."""

from streamipc import Message, Request


class CountPrimes(Request[int]):
    below: int
    reports: int


class Report(Message):
    done: int
    total: int
    found: int
