"""The pickler that is written in C, without :mod:`pickle`.

That module has a second one in Python beside it, and imports regular expressions for it.
"""

from __future__ import annotations

try:
    from _pickle import PickleBuffer, Pickler, Unpickler, dumps, loads
except ImportError:  # pragma: no cover - not CPython
    from pickle import PickleBuffer, Pickler, Unpickler, dumps, loads

__all__ = ["PickleBuffer", "Pickler", "Unpickler", "dumps", "loads"]
