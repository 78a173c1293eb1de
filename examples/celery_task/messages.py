"""What the tasks ask their child processes."""

from streamipc import Request


class Factorise(Request[list[int]]):
    number: int
