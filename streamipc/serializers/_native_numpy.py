"""numpy's arrays, scalars and dtypes, where numpy is installed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

from .._shown import escaped, shown
from ..exceptions import SerializationError
from ._native_builders import Builder, need
from ._native_pickle import PickleBuffer

__all__ = ["numpy_reducer"]

Reducer = Callable[[Any], tuple[Builder, tuple[Any, ...]]]

_MAX_DIMENSIONS = 64
"""As many as numpy has. Multiplying more, or longer, numbers takes quadratic time."""

_MAX_FIELDS = 10_000
"""Fields of a dtype, those of a record in it counted each time that it stands there: a
pickle may name one list a thousand times, and in that another."""


def numpy_reducer(cls: type) -> Reducer | None:
    """Return what takes objects of a class of numpy apart, if it is known to be safe."""
    np: Any = sys.modules.get("numpy")
    if np is None:
        return None
    if cls is np.ndarray:
        return _reduce_array
    if issubclass(cls, np.generic):
        return _reduce_scalar
    if issubclass(cls, np.dtype):
        return lambda obj: (_DTYPE, (_spec(obj),))
    return None


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise SerializationError(
            "the body holds a numpy array, but numpy can't be imported here"
        ) from error
    return numpy


def _spec(dtype: Any) -> Any:
    """Return ``dtype`` as text, or as a list of fields."""
    if not dtype.hasobject:
        spec = dtype.str if dtype.names is None else dtype.descr
        try:
            if _dtype(spec) == dtype:
                return spec
        except (SerializationError, TypeError, ValueError):
            pass
    raise SerializationError(
        f"numpy data of dtype {_described(dtype)} can't be sent: only numbers, texts, times and "
        "records of these can"
    )


def _described(dtype: Any) -> str:
    """Return what a dtype is called: its ``str`` tells of each field of each record in it."""
    return escaped(dtype.name) if dtype.names is None else f"record ({shown(dtype.names)})"


def _dtype(spec: Any) -> Any:
    _check(spec, 4)
    dtype = _numpy().dtype(spec)
    if dtype.hasobject:
        raise SerializationError("numpy data may not hold Python objects")
    return dtype


def _check(spec: Any, depth: int) -> int:
    """Raise unless ``spec`` is of the form of ``dtype.str`` and ``dtype.descr``; count its fields.

    numpy takes other texts too, and has Python compile what looks like a number in them.
    """
    if type(spec) is str and re.fullmatch(
        r"[<>|=]?[?A-Za-z]\d{0,10}(\[\d{0,10}[A-Za-z]{1,2}\])?", spec
    ):
        return 1
    if type(spec) is list and depth:
        count = 0
        for field in spec:
            if (
                type(field) is not tuple
                or not 2 <= len(field) <= 3
                or type(field[0]) is not str
                or not all(type(size) is int for size in (field[2:] and need(field[2], tuple)))
            ):
                raise SerializationError("a dtype of numpy is malformed")
            count += _check(field[1], depth - 1)
            if count > _MAX_FIELDS:
                raise SerializationError(f"a dtype of numpy has more than {_MAX_FIELDS:,} fields")
        return count
    raise SerializationError("a dtype of numpy is malformed")


def _flat(array: Any) -> Any:
    """Return the bytes of a contiguous array, without a copy, as an array."""
    return array.reshape(-1).view(_numpy().uint8) if array.nbytes else b""


def _reduce_array(obj: Any) -> tuple[Builder, tuple[Any, ...]]:
    spec = _spec(obj.dtype)
    order = "C"
    flat = obj
    if not obj.flags.c_contiguous and obj.nbytes:
        if obj.flags.f_contiguous:
            order = "F"
            flat = obj.T
        else:
            flat = obj.copy(order="C")
    return _ARRAY, (spec, obj.shape, order, PickleBuffer(_flat(flat)))


def _build_array(spec: Any, shape: Any, order: Any, data: Any) -> Any:
    dtype = _dtype(spec)
    if len(need(shape, tuple)) > _MAX_DIMENSIONS or not all(
        type(size) is int and 0 <= size <= sys.maxsize for size in shape
    ):
        raise SerializationError("the shape of a numpy array is malformed")
    if need(order, str) not in ("C", "F"):
        raise SerializationError("the order of a numpy array is neither C nor F")
    size = memoryview(need(data, memoryview, bytes, bytearray)).nbytes
    from math import prod

    if prod(shape) * dtype.itemsize != size:
        raise SerializationError(
            f"a numpy array of shape {shown(shape)} and dtype {_described(dtype)} does not have "
            f"{size} bytes"
        )
    np = _numpy()
    if not dtype.itemsize:
        # numpy makes texts of no length one long, however many; not as a field of a record.
        return np.empty(shape, [("", dtype)], order)["f0"]
    if not size:
        return np.empty(shape, dtype, order)
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _reduce_scalar(obj: Any) -> tuple[Builder, tuple[Any, ...]]:
    array = _numpy().asarray(obj)  # its dtype has room for one character of an empty text
    return _SCALAR, (_spec(array.dtype), array.tobytes())


def _build_scalar(spec: Any, data: Any) -> Any:
    return _build_array(spec, (), "C", data)[()]


_ARRAY = Builder("numpy_array", _build_array)
_SCALAR = Builder("numpy_scalar", _build_scalar)
_DTYPE = Builder("numpy_dtype", _dtype)
