"""Codecs of single values: numbers, text, times, and what else fits into a string."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ._json_codec import Bad, Codec, expected, unexpected

__all__ = [
    "BOOL",
    "FLOAT",
    "INT",
    "NONE",
    "SCALAR_TAGS",
    "STR",
    "from_numpy",
    "scalar_by_tag",
    "scalar_of",
]

NoneType = type(None)


def from_numpy(value: Any) -> Any:
    """Return a bool, an integer or a float of numpy as Python's own; ``None``: it is none.

    It is what a program has from ``array[0]`` or ``array.sum()``, and the same number. Not a
    ``longdouble``, of which something would be lost, and no array without dimensions.
    """
    # While another thread imports it, it may have no such name yet.
    scalar: Any = getattr(sys.modules.get("numpy"), "generic", None)
    if scalar is None or not isinstance(value, scalar) or value.dtype.kind not in "biuf":
        return None
    plain = value.item()
    return plain if type(plain) in (bool, int, float) else None


class _Exact(Codec):
    """``None``, ``bool``, ``str``, ``int``: written as they are."""

    __slots__ = ()

    def __init__(self, name: str, cls: type) -> None:
        super().__init__(name, cls, exact=cls, shapes=[cls], plain=True)

    def accepts(self, value: Any) -> bool:
        return isinstance(value, self.cls or object) and (
            type(value) is not bool or self.cls is bool
        )

    def encode(self, value: Any) -> Any:
        if type(value) is self.exact:
            return value
        if self.accepts(value):
            # A subclass, such as a member of IntEnum, arrives as the plain value.
            return int.__int__(value) if self.cls is int else str.__str__(value)
        plain = from_numpy(value)
        if plain is not None and type(plain) is self.exact:
            return plain
        raise unexpected(self.name, value)

    def decode(self, data: Any) -> Any:
        if type(data) is self.exact:
            return data
        raise expected(self.name, data)

    def text_key(self) -> Codec | None:
        return _EXACT_KEYS.get(self.cls)


class _Float(Codec):
    __slots__ = ()

    def accepts(self, value: Any) -> bool:
        return isinstance(value, (float, int)) and type(value) is not bool

    def encode(self, value: Any) -> Any:
        if type(value) is float:
            return value
        if self.accepts(value):
            with suppress(OverflowError):
                return float(value)
        plain = from_numpy(value)
        if type(plain) in (int, float):
            return float(plain)
        raise unexpected(self.name, value)

    def decode(self, data: Any) -> Any:
        if type(data) is float:
            return data
        if type(data) is int:
            try:
                return float(data)
            except OverflowError:
                raise Bad("expected float, got an integer beyond its range") from None
        if type(data) is dict and "$float" in data:
            return self.unwrap(data)
        raise expected(self.name, data)

    def unwrap(self, data: dict[str, Any]) -> Any:
        text = data["$float"]
        if len(data) == 1 and text in ("nan", "inf", "-inf"):
            return float(text)
        raise Bad('expected {"$float": "nan"}, "inf" or "-inf"')

    def text_key(self) -> Codec | None:
        return _FloatKey("float")


class _IntKey(Codec):
    """An integer as the key of an object: its decimal digits."""

    __slots__ = ()

    def encode(self, value: Any) -> str:
        return str(INT.encode(value))

    def decode(self, data: Any) -> int:
        if re.fullmatch("0|-?[1-9][0-9]*", data):
            return int(data)
        raise expected(self.name, data)


class _FloatKey(Codec):
    __slots__ = ()

    def encode(self, value: Any) -> str:
        return repr(FLOAT.encode(value))

    def decode(self, data: Any) -> float:
        if re.fullmatch(r"-?([0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|inf)|nan", data):
            return float(data)
        raise expected(self.name, data)


class _BoolKey(Codec):
    __slots__ = ()

    def encode(self, value: Any) -> str:
        return "true" if BOOL.encode(value) else "false"

    def decode(self, data: Any) -> bool:
        if data in ("true", "false"):
            return bool(data == "true")
        raise expected(self.name, data)


NONE = _Exact("None", NoneType)
BOOL = _Exact("bool", bool)
INT = _Exact("int", int)
STR = _Exact("str", str)
FLOAT = _Float("float", float, exact=float, shapes=[float, int], plain=True, tag="$float")

_EXACT_KEYS: dict[type | None, Codec] = {
    str: STR,
    int: _IntKey("int"),
    bool: _BoolKey('bool ("true" or "false")'),
}


class Scalar(Codec):
    """A class whose values are written as one string, or one number.

    Args:
        but_not: a subclass whose values would lose something.
        write: turns a value into what stands for it.
        read: turns that into a value; raises ``ValueError``, ``ArithmeticError`` or
            ``NotImplementedError`` where there is none.
    """

    __slots__ = ("_but_not", "_read", "_write")

    def __init__(
        self,
        cls: type,
        tag: str,
        write: Callable[[Any], Any],
        read: Callable[[Any], Any],
        *,
        shapes: tuple[type, ...] = (str,),
        but_not: type | tuple[type, ...] = (),
    ) -> None:
        super().__init__(cls.__name__, cls, shapes=shapes, tag=tag)
        self._write = write
        self._read = read
        self._but_not = but_not

    def accepts(self, value: Any) -> bool:
        return isinstance(value, self.cls or object) and not isinstance(value, self._but_not)

    def encode(self, value: Any) -> Any:
        if self.accepts(value):
            return self._write(value)
        raise unexpected(self.name, value)

    def decode(self, data: Any) -> Any:
        if type(data) in self.shapes:
            with suppress(ValueError, ArithmeticError, NotImplementedError):
                return self._read(data)
        raise expected(self.name, data)

    def text_key(self) -> Codec | None:
        return self if self.shapes == {str} else None


# One function for each row, called when a value or an annotation of that class is met.
# The class exists by then, so its module is loaded: this file imports none of them.


_FOLD = "[_fold=1]"
"""Follows a time that comes twice in the night in which clocks go back, if it is the second
one. A suffix as RFC 9557 has them, with the underscore of those that are not registered."""


def _iso_with_fold(cls: Any) -> Callable[[Any], str]:
    """Return what writes a datetime or a time."""
    isoformat = cls.isoformat  # not that of a subclass

    def write(value: Any) -> str:
        text: str = isoformat(value)
        # An offset tells which of the two it is.
        return f"{text}{_FOLD}" if value.fold and value.utcoffset() is None else text

    return write


def _with_fold(cls: Any, text: str) -> Any:
    if not text.endswith(_FOLD):
        raise ValueError
    made = cls.fromisoformat(text[: -len(_FOLD)])
    if made.tzinfo is not None:
        raise ValueError
    return made.replace(fold=1)


def _datetime(cls: Any) -> Scalar:
    def read(text: str) -> Any:
        # JavaScript's toISOString() ends with Z, which Python 3.10 does not take.
        if text[-1:] in ("Z", "z"):
            text = f"{text[:-1]}+00:00"
        elif text[-1:] == "]":
            return _with_fold(cls, text)
        return cls.fromisoformat(text)

    return Scalar(cls, "$datetime", _iso_with_fold(cls), read)


def _date(cls: Any) -> Scalar:
    import datetime

    return Scalar(cls, "$date", cls.isoformat, cls.fromisoformat, but_not=datetime.datetime)


def _time(cls: Any) -> Scalar:
    def read(text: str) -> Any:
        if text[-1:] in ("Z", "z"):
            text = f"{text[:-1]}+00:00"
        elif text[-1:] == "]":
            return _with_fold(cls, text)
        return cls.fromisoformat(text)

    return Scalar(cls, "$time", _iso_with_fold(cls), read)


def _timedelta(cls: Any) -> Scalar:
    def write(value: Any) -> Any:
        whole = value.days * 86_400 + value.seconds
        if -(2**31) < whole < 2**31 or not value.microseconds:
            return value.total_seconds()
        # In a float of that size there is no room for the microseconds, and how many digits
        # a Decimal has is for the program to say.
        digits = str(whole * 1_000_000 + value.microseconds)
        return f"{digits[:-6]}.{digits[-6:]}"

    def read(data: Any) -> Any:
        if type(data) is str:
            found = re.fullmatch(r"(-?[0-9]{1,15})(?:\.([0-9]{1,6}))?", data)
            if found is None:
                raise ValueError
            whole, part = found.groups("")
            return cls(microseconds=int(f"{whole}{part:0<6}"))
        return cls(seconds=data)

    return Scalar(cls, "$timedelta", write, read, shapes=(int, float, str))


def _decimal(cls: Any) -> Scalar:
    def read(text: str) -> Any:
        if not re.fullmatch(r"[-+]?([0-9.]+([eE][-+]?[0-9]+)?|Infinity|s?NaN[0-9]*)", text):
            raise ValueError
        made = cls(text)
        # A context that does not trap makes NaN of what is no number.
        if made.is_nan() and "NaN" not in text:
            raise ValueError
        return made

    return Scalar(cls, "$decimal", str, read)


def _uuid(cls: Any) -> Scalar:
    return Scalar(cls, "$uuid", str, cls)


def _path(cls: Any) -> Scalar:
    import pathlib

    if issubclass(cls, pathlib.Path):
        tag = "$path"
    elif issubclass(cls, pathlib.PureWindowsPath):
        tag = "$windowspath"
    elif issubclass(cls, pathlib.PurePosixPath):
        tag = "$posixpath"
    else:
        tag = "$purepath"
    return Scalar(cls, tag, str, cls)


def _from_base64(text: str) -> bytes:
    if sys.version_info < (3, 11):  # pragma: no cover - Python 3.10
        import base64

        return base64.b64decode(text, validate=True)
    import binascii

    return binascii.a2b_base64(text, strict_mode=True)


def _bytes(cls: Any) -> Scalar:
    from binascii import b2a_base64

    def write(value: Any) -> str:
        return b2a_base64(value, newline=False).decode("ascii")

    def read(text: str) -> Any:
        return cls(_from_base64(text))

    return Scalar(cls, f"${cls.__name__}", write, read)


def _complex(cls: Any) -> Scalar:
    def read(data: Any) -> complex:
        real, imag = data
        return complex(FLOAT.decode(real), FLOAT.decode(imag))

    return Scalar(cls, "$complex", lambda value: [value.real, value.imag], read, shapes=(list,))


# Module, class, tag, maker. A subclass stands before its base.
_ROWS: tuple[tuple[str, str, str, Callable[[Any], Scalar]], ...] = (
    ("builtins", "bytes", "$bytes", _bytes),
    ("builtins", "bytearray", "$bytearray", _bytes),
    ("builtins", "memoryview", "$memoryview", _bytes),
    ("builtins", "complex", "$complex", _complex),
    ("datetime", "datetime", "$datetime", _datetime),
    ("datetime", "date", "$date", _date),
    ("datetime", "time", "$time", _time),
    ("datetime", "timedelta", "$timedelta", _timedelta),
    ("decimal", "Decimal", "$decimal", _decimal),
    ("uuid", "UUID", "$uuid", _uuid),
    ("pathlib", "Path", "$path", _path),
    ("pathlib", "PureWindowsPath", "$windowspath", _path),
    ("pathlib", "PurePosixPath", "$posixpath", _path),
    ("pathlib", "PurePath", "$purepath", _path),
)

SCALAR_TAGS = {row[2]: row for row in _ROWS}

_made: dict[type, Scalar] = {}


def scalar_of(cls: type) -> Scalar | None:
    """Return the codec of ``cls`` if it is one of the standard classes above."""
    made = _made.get(cls)
    if made is None:
        for module, name, _, maker in _ROWS:
            if getattr(sys.modules.get(module), name, None) is cls:
                made = _made[cls] = maker(cls)
                break
        else:
            # PosixPath and WindowsPath are chosen by the platform: both are a Path.
            pathlib: Any = sys.modules.get("pathlib")
            if pathlib is not None and cls in (pathlib.PosixPath, pathlib.WindowsPath):
                made = _made[cls] = _path(cls)
    return made


def scalar_by_tag(tag: str) -> Scalar | None:
    """Return the codec of a tag, such as ``"$datetime"``."""
    row = SCALAR_TAGS.get(tag)
    if row is None:
        return None
    __import__(row[0])  # one of the standard modules above, whatever the peer says
    return scalar_of(getattr(sys.modules[row[0]], row[1]))
