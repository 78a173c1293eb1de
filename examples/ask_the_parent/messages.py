"""What the parent asks of the child, and what the child asks back."""

from streamipc import Request


class Total(Request[int]):
    """Asked by the parent: the sum for these articles, in cents."""

    articles: list[str]


class PriceOf(Request[int]):
    """Asked by the child: the price of one article, in cents."""

    article: str
