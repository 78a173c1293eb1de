"""What the application asks its child processes."""

from streamipc import Request


class Factorise(Request[list[int]]):
    number: int
