"""The pickler that is written in C, without the second one in Python that :mod:`pickle` holds."""

from __future__ import annotations

try:
    from _pickle import PickleBuffer, Pickler, Unpickler, dumps, loads
except ImportError:  # pragma: no cover - not CPython
    from pickle import PickleBuffer, Pickler, Unpickler, dumps, loads

__all__ = ["PickleBuffer", "Pickler", "Unpickler", "dumps", "loads"]
