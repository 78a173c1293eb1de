"""Where in a value the thing is that can't be sent.

Looked for after the value was refused, so it costs nothing as long as all is well. Nothing
here calls itself: a value may be nested more deeply than Python's calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .._signals import let_through
from ..exceptions import SerializationError

__all__ = ["ATOMS", "find_fault", "items_of"]

Step = tuple[str, Any]
"""``"."`` and the name of a field, ``"["`` and an index or a key, or a text and ``None``."""

ATOMS = frozenset((str, int, float, bool, complex, bytes, bytearray, type(None)))
"""Values of exactly these types hold no others and can always be sent."""


def find_fault(
    root: Any,
    parts_of: Callable[[Any], Iterable[tuple[Step, Any]]],
    may_hold_itself: frozenset[type] | None = None,
) -> tuple[list[Step], Exception | None] | None:
    """Return the steps to the first value that can't be sent, and the reason.

    Args:
        root: what was refused; it is not asked about itself.
        parts_of: returns the values that one holds, with the step to each; raises the reason
            if it can't be sent.
        may_hold_itself: types of which a value may be inside of itself; ``None``: don't look
            for values that are.

    Returns:
        ``None`` if nothing was found. No reason: the value stands in itself.
    """
    steps: list[Step] = []
    above: list[Any] = [root]
    waiting: list[Iterator[tuple[Step, Any]]] = [iter(parts_of(root))]
    seen: dict[int, Any] = {id(root): root}  # the value too: so its id stays its own
    while waiting:
        for step, value in waiting[-1]:
            if type(value) in ATOMS:
                continue
            if id(value) in seen:
                if may_hold_itself is not None and _is_endless(value, above, may_hold_itself):
                    return [*steps, step], None
                continue
            seen[id(value)] = value
            try:
                parts = iter(parts_of(value))
            except Exception as error:
                let_through(error)
                if isinstance(error, SerializationError):
                    # Its frames hold the value, and those that called them hold the error.
                    error.__traceback__ = None
                return [*steps, step], error
            steps.append(step)
            above.append(value)
            waiting.append(parts)
            break
        else:
            waiting.pop()
            above.pop()
            del steps[-1:]
    return None


def _is_endless(value: Any, above: list[Any], may_hold_itself: frozenset[type]) -> bool:
    """Tell whether ``value`` is in itself, with nothing between that may be."""
    for one in reversed(above):
        if type(one) in may_hold_itself:
            return False
        if one is value:
            return True
    return False


def items_of(value: Any) -> Iterator[tuple[Step, Any]]:
    """Yield what a container holds."""
    if isinstance(value, dict):
        for place, (key, item) in enumerate(value.items()):
            if type(key) not in ATOMS:
                yield (f".keys()[{place}]", None), key
            yield ("[", key), item
    elif isinstance(value, (set, frozenset)):
        for item in value:
            yield ("{…}", None), item
    else:
        for place, item in enumerate(value):
            yield ("[", place), item
