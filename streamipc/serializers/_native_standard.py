"""Types of the standard library that are safe to rebuild: how, both ways.

Each type has a ``_reduce_…`` that the writer calls and a ``_build_…`` that the reader
calls with whatever a peer sent. Constructors are called with text or numbers, never
with the private state that pickle would restore unchecked: ``datetime(b"…")`` accepts a
day of 200. Modules are imported when a value needs them.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

from .._shown import escaped, shown
from ..exceptions import SerializationError
from ._native_builders import Builder, need
from ._native_numpy import numpy_reducer
from ._native_pickle import PickleBuffer

__all__ = ["LargeBytes", "standard_reducer"]

Reducer = Callable[[Any], tuple[Builder, tuple[Any, ...]]]


_OUT_OF_BAND = 64 * 1024


class LargeBytes:
    """Stands for bytes or a bytearray that is to be sent from where it is."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self.value = value


def standard_reducer(cls: type) -> Reducer | None:
    """Return what takes objects of exactly ``cls`` apart, if it is known to be safe."""
    reduce = _reducers.get(cls)
    if reduce is None:
        package = cls.__module__.partition(".")[0]
        if package == "numpy":
            reduce = numpy_reducer(cls)
        else:
            reduce = _LATER.get((package, cls.__qualname__))
            # The name alone proves nothing: anyone can call a class datetime.date.
            if reduce and getattr(sys.modules.get(package), cls.__qualname__, None) is not cls:
                return None
        if reduce is not None:
            _reducers[cls] = reduce
    return reduce


# Bytes


def _build_bytes(data: Any) -> bytes:
    return bytes(need(data, memoryview, bytes, bytearray))


def _build_bytearray(data: Any) -> bytearray:
    return bytearray(need(data, memoryview, bytes, bytearray))


def _reduce_large_bytes(obj: LargeBytes) -> tuple[Builder, tuple[Any, ...]]:
    builder = _BYTES if type(obj.value) is bytes else _BYTEARRAY
    return builder, (PickleBuffer(obj.value),)


def _reduce_memoryview(obj: memoryview) -> tuple[Builder, tuple[Any, ...]]:
    shape = list(obj.shape or ())
    try:
        memoryview(b"").cast(obj.format)  # type: ignore[call-overload]
        fits = shape == [0] or 0 not in shape
    except ValueError:
        fits = False
    if not fits:
        raise SerializationError(
            f"a memoryview of the format {shown(obj.format)} and shape {shown(shape)} can't be "
            "sent: Python makes none from bytes"
        )
    data: Any
    if obj.c_contiguous and obj.nbytes >= _OUT_OF_BAND:
        data = PickleBuffer(obj)
    else:
        data = obj.tobytes() if obj.readonly else bytearray(obj.tobytes())
    return _MEMORYVIEW, (data, obj.format, shape)


def _build_memoryview(data: Any, layout: Any, shape: Any) -> memoryview:
    view = memoryview(need(data, memoryview, bytes, bytearray))
    if layout == "B" and shape == [view.nbytes]:
        return view
    if shape == [0] and not view.nbytes:
        return view.cast(need(layout, str))  # with a shape, none that is empty is cast
    return view.cast("B").cast(need(layout, str), need(shape, list))


def _reduce_array(obj: Any) -> tuple[Builder, tuple[Any, ...]]:
    code = obj.typecode
    if code in "uw":
        return _ARRAY, (code, obj.itemsize, obj.tounicode())
    large = len(obj) * obj.itemsize >= _OUT_OF_BAND
    return _ARRAY, (code, obj.itemsize, PickleBuffer(obj) if large else obj.tobytes())


def _build_array(code: Any, item_size: Any, data: Any) -> Any:
    from array import array

    made = array(need(code, str))
    if made.itemsize != item_size:
        raise SerializationError(f"items of array({code!r}) have another size on this platform")
    if code in "uw":
        made.fromunicode(need(data, str))
    else:
        made.frombytes(need(data, memoryview, bytes, bytearray))
    return made


# Numbers and containers


def _build_range(start: Any, stop: Any, step: Any) -> range:
    return range(need(start, int), need(stop, int), need(step, int))


def _build_complex(real: Any, imag: Any) -> complex:
    return complex(need(real, float), need(imag, float))


def _build_ordered_dict(items: Any) -> Any:
    return OrderedDict(need(items, dict))


def _build_counter(items: Any) -> Any:
    return Counter(need(items, dict))


def _build_deque(items: Any, longest: Any) -> Any:
    return deque(need(items, list), need(longest, int, type(None)))


_FACTORIES = {
    cls.__name__: cls
    for cls in (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
}


def _reduce_defaultdict(obj: Any) -> tuple[Builder, tuple[Any, ...]]:
    factory = obj.default_factory
    if factory is None:
        return _DEFAULTDICT, (None, dict(obj))
    name = getattr(factory, "__name__", "")
    if _FACTORIES.get(name) is not factory:
        raise SerializationError(
            f"a defaultdict with the factory {shown(factory)} can't be sent: its factory may be "
            f"one of {', '.join(_FACTORIES)}"
        )
    return _DEFAULTDICT, (name, dict(obj))


def _build_defaultdict(factory: Any, items: Any) -> Any:
    if factory is None:
        return defaultdict(None, need(items, dict))
    if need(factory, str) not in _FACTORIES:
        raise SerializationError(f"a defaultdict may not have the factory {shown(factory)}")
    return defaultdict(_FACTORIES[factory], need(items, dict))


_MAX_FRACTION_BITS = 65_536
"""Reducing a fraction takes quadratic time."""


def _build_fraction(numerator: Any, denominator: Any) -> Any:
    from fractions import Fraction

    for part in (numerator, denominator):
        if need(part, int).bit_length() > _MAX_FRACTION_BITS:
            raise SerializationError(f"a Fraction has more than {_MAX_FRACTION_BITS} bits")
    return Fraction(numerator, denominator)


def _build_decimal(text: Any) -> Any:
    from decimal import Decimal

    return Decimal(need(text, str))


# Dates and times


def _build_date(year: Any, month: Any, day: Any) -> Any:
    import datetime

    return datetime.date(year, month, day)


def _reduce_time(obj: Any) -> tuple[Builder, tuple[Any, ...]]:
    return _TIME, (obj.hour, obj.minute, obj.second, obj.microsecond, obj.tzinfo, obj.fold)


def _build_time(hour: Any, minute: Any, second: Any, micro: Any, zone: Any, fold: Any) -> Any:
    import datetime

    return datetime.time(hour, minute, second, micro, zone, fold=fold)


def _reduce_datetime(obj: Any) -> tuple[Builder, tuple[Any, ...]]:
    return _DATETIME, (
        obj.year, obj.month, obj.day, obj.hour, obj.minute, obj.second, obj.microsecond,
        obj.tzinfo, obj.fold,
    )  # fmt: skip


def _build_datetime(*args: Any) -> Any:
    import datetime

    *parts, fold = args
    if len(parts) != 8:
        raise SerializationError("a datetime needs nine values")
    return datetime.datetime(*parts, fold=fold)


def _build_timedelta(days: Any, seconds: Any, micros: Any) -> Any:
    import datetime

    return datetime.timedelta(need(days, int), need(seconds, int), need(micros, int))


def _reduce_timezone(obj: Any) -> tuple[Builder, tuple[Any, ...]]:
    return _TIMEZONE, obj.__getinitargs__()


def _build_timezone(offset: Any, name: Any = None) -> Any:
    import datetime

    return datetime.timezone(offset) if name is None else datetime.timezone(offset, name)


def _reduce_zone_info(obj: Any) -> tuple[Builder, tuple[Any, ...]]:
    if obj.key is None:
        raise SerializationError("a ZoneInfo without a key can't be sent: make it by its name")
    return _ZONE_INFO, (obj.key,)


def _build_zone_info(key: Any) -> Any:
    import zoneinfo

    # The key becomes part of a file's path, and of the name of a package of tzdata.
    if not re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,3}", need(key, str)):
        raise SerializationError(f"{shown(key)} is no name of a time zone")
    if not any(os.path.isfile(os.path.join(path, key)) for path in zoneinfo.TZPATH) and (
        key not in _packaged_zones()
    ):
        raise SerializationError(f"there is no time zone {escaped(key)} here")
    return zoneinfo.ZoneInfo(key)


@functools.cache
def _packaged_zones() -> frozenset[str]:
    """Return the zones known by the package tzdata: asked for one, it imports by its name."""
    import zoneinfo

    return frozenset(zoneinfo.available_timezones())


# Names of things


def _build_uuid(data: Any) -> Any:
    from uuid import UUID

    return UUID(bytes=need(data, bytes))


def _reduce_path(obj: Any) -> tuple[Builder, tuple[Any, ...]]:
    name = type(obj).__name__
    return _PATH, (name if name.startswith("Pure") else "Path", str(obj))


def _build_path(kind: Any, text: Any) -> Any:
    import pathlib

    # A path of the other system's kind arrives as one of this system.
    if need(kind, str) not in ("Path", "PurePosixPath", "PureWindowsPath"):
        raise SerializationError(f"{shown(kind)} is no kind of path")
    return getattr(pathlib, kind)(need(text, str))


_ADDRESSES = frozenset(
    f"IPv{version}{kind}" for version in (4, 6) for kind in ("Address", "Network", "Interface")
)


def _reduce_address(obj: Any) -> tuple[Builder, tuple[Any, ...]]:
    return _ADDRESS, (type(obj).__name__, str(obj))


def _build_address(kind: Any, text: Any) -> Any:
    import ipaddress

    if need(kind, str) not in _ADDRESSES:
        raise SerializationError(f"{shown(kind)} is no kind of address")
    return getattr(ipaddress, kind)(need(text, str))


_BYTES = Builder("bytes", _build_bytes)
_BYTEARRAY = Builder("bytearray", _build_bytearray)
_MEMORYVIEW = Builder("memoryview", _build_memoryview)
_ARRAY = Builder("array", _build_array)
_RANGE = Builder("range", _build_range)
_SLICE = Builder("slice", slice)
_COMPLEX = Builder("complex", _build_complex)
_ORDERED_DICT = Builder("ordered_dict", _build_ordered_dict)
_COUNTER = Builder("counter", _build_counter)
_DEQUE = Builder("deque", _build_deque)
_DEFAULTDICT = Builder("defaultdict", _build_defaultdict)
_FRACTION = Builder("fraction", _build_fraction)
_DECIMAL = Builder("decimal", _build_decimal)
_DATE = Builder("date", _build_date)
_TIME = Builder("time", _build_time)
_DATETIME = Builder("datetime", _build_datetime)
_TIMEDELTA = Builder("timedelta", _build_timedelta)
_TIMEZONE = Builder("timezone", _build_timezone)
_ZONE_INFO = Builder("zone_info", _build_zone_info)
_UUID = Builder("uuid", _build_uuid)
_PATH = Builder("path", _build_path)
_ADDRESS = Builder("address", _build_address)

_reducers: dict[type, Reducer] = {
    LargeBytes: _reduce_large_bytes,
    memoryview: _reduce_memoryview,
    range: lambda obj: (_RANGE, (obj.start, obj.stop, obj.step)),
    slice: lambda obj: (_SLICE, (obj.start, obj.stop, obj.step)),
    complex: lambda obj: (_COMPLEX, (obj.real, obj.imag)),
    OrderedDict: lambda obj: (_ORDERED_DICT, (dict(obj),)),
    Counter: lambda obj: (_COUNTER, (dict(obj),)),
    deque: lambda obj: (_DEQUE, (list(obj), obj.maxlen)),
    defaultdict: _reduce_defaultdict,
}

_LATER: dict[tuple[str, str], Reducer] = {
    ("array", "array"): _reduce_array,
    ("fractions", "Fraction"): lambda obj: (_FRACTION, (obj.numerator, obj.denominator)),
    ("decimal", "Decimal"): lambda obj: (_DECIMAL, (str(obj),)),
    ("datetime", "date"): lambda obj: (_DATE, (obj.year, obj.month, obj.day)),
    ("datetime", "time"): _reduce_time,
    ("datetime", "datetime"): _reduce_datetime,
    ("datetime", "timedelta"): lambda obj: (
        _TIMEDELTA,
        (obj.days, obj.seconds, obj.microseconds),
    ),
    ("datetime", "timezone"): _reduce_timezone,
    ("zoneinfo", "ZoneInfo"): _reduce_zone_info,
    ("uuid", "UUID"): lambda obj: (_UUID, (obj.bytes,)),
    **dict.fromkeys(
        [
            ("pathlib", name)
            for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
        ],
        _reduce_path,
    ),
    **dict.fromkeys([("ipaddress", name) for name in _ADDRESSES], _reduce_address),
}
"""By package and name, for types whose module is not imported before it is needed."""
