"""Values and texts of a peer in the text of an error: short, on one line, cheap to make."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import pathlib
import tracemalloc
import uuid
from typing import Any

import pytest

from streamipc._shown import escaped, harmless, name_of_type, reason, shown

NAME = __name__


class Color(enum.Enum):
    RED = 1


class Name(str):
    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("a method of the value was called")

    __repr__ = __len__ = __str__ = __getitem__  # type: ignore[assignment]


class Bag(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise AssertionError("a method of the value was called")

    __repr__ = __len__ = __iter__ = items


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024
UTC = dt.timezone.utc


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (5, "5"),
        (2**255, str(2**255)),
        (2**256, "<int of 257 bits>"),
        (1.5, "1.5"),
        (1j, "1j"),
        ("x" * 80, f"'{'x' * 80}'"),
        ("x" * 81, f"'{'x' * 80}'…"),
        (b"x" * 81, f"b'{'x' * 80}'…"),
        (bytearray(b"x"), "bytearray(b'x')"),
        ([], "[]"),
        ((), "()"),
        (set(), "set()"),
        (frozenset(), "frozenset()"),
        ({}, "{}"),
        ((1,), "(1,)"),
        ([1, "a"], "[1, 'a']"),
        ({1}, "{1}"),
        (frozenset([1]), "frozenset({1})"),
        ({"a": [1]}, "{'a': [1]}"),
        (list(range(9)), "[0, 1, 2, 3, 4, …]"),
        ([[[[[1]]]]], "[[[[…]]]]"),
        (Color.RED, f"<{NAME}.Color.RED>"),
        (Name("a"), f"{NAME}.Name('a')"),
        (Bag(a=1), f"{NAME}.Bag({{'a': 1}})"),
        (Pair(1, 2), f"{NAME}.Pair((1, 2))"),
        (int, "<class 'int'>"),
        (object(), "<object object>"),
        (len, "<builtin_function_or_method object>"),
        (range(10**4500), "<range object>"),
        (pathlib.PurePosixPath("/a"), "PurePosixPath('/a')"),
        (dt.datetime(2024, 5, 1), "datetime.datetime(2024, 5, 1, 0, 0)"),
        (
            dt.datetime(2024, 5, 1, tzinfo=UTC),
            "datetime.datetime(2024, 5, 1, 0, 0) with datetime.timezone",
        ),
        (dt.timezone(dt.timedelta(0), "x" * 10_000), "<datetime.timezone object>"),
        (decimal.Decimal("1.5"), "Decimal('1.5')"),
        (decimal.Decimal("1" * 10_000), "<decimal.Decimal object>"),
        (uuid.UUID(int=0), "UUID('00000000-0000-0000-0000-000000000000')"),
    ],
    ids=lambda case: f"{case!r:.40}" if type(case) in (str, int, list) else type(case).__name__,
)
def test_a_value_is_shown_as_its_repr_or_what_it_is(value: Any, text: str) -> None:
    assert shown(value) == text


def test_scalars_of_numpy_are_shown_with_their_type() -> None:
    np = pytest.importorskip("numpy")
    assert shown(np.int64(2)) == "numpy.int64(2)"
    assert shown(np.float64(2.5)) == "numpy.float64(2.5)"
    assert shown(np.float32(2.5)) == "numpy.float32(2.5)"
    assert shown(np.bool_(True)) == f"{name_of_type(np.bool_)}(True)"
    assert shown(np.str_("a")) == "numpy.str_('a')"
    assert shown(np.array("x" * 100_000)) == "<numpy.ndarray object>"
    assert shown(np.longdouble(1)) == "<numpy.longdouble object>"
    assert shown(np.arange(3)) == "<numpy.ndarray object>"


def test_what_is_shared_again_and_again_takes_no_room() -> None:
    value: Any = "x" * 1000
    for level in range(60):
        value = (value, value) if level % 2 else {"k": value, "l": value, 3: (value, value)}
    tracemalloc.start()
    text = shown(value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(text) < 400
    assert peak < 100_000


def test_a_large_value_is_not_written_out_to_be_cut() -> None:
    for value in ("\x00" * 10_000_000, b"\x00" * 10_000_000, [0] * 1_000_000, 1 << 10_000_000):
        tracemalloc.start()
        text = shown(value)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(text) <= 330
        assert peak < 100_000


def test_a_value_that_holds_itself_is_shown() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert shown(loop) == "[[[[…]]]]"


def test_a_value_whose_class_lies_is_shown() -> None:
    class Liar:
        @property
        def __class__(self) -> Any:
            raise RuntimeError("no")

    assert shown(Liar()) == "a value that can't be shown"


FORGED = [
    "a\nb",
    "a\rb",
    "a\x1b[2Jb",
    "a\x00b",
    "a\x7fb",
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "a\u202eb",
    "a\u2066b",
    "a\u200fb",
    "a\x9b2Jb",
    "a\ud800b",
]


@pytest.mark.parametrize("text", FORGED, ids=ascii)
def test_what_is_not_printable_is_escaped(text: str) -> None:
    name = "a\nb" if "\0" in text or "\ud800" in text else text  # no class has such a name
    for told in (
        escaped(text),
        shown(text),
        shown({text: [text]}),
        shown(Name(text)),
        shown(Pair(text, 1)),
        shown(type(name, (), {})()),
        shown(type(name, (), {})),
        shown(pathlib.PurePosixPath(text)),
        reason(ValueError(text)),
        reason(KeyError(text)),
        reason(type(name, (Exception,), {})(1)),
    ):
        assert told.isprintable()
        assert "a\\" in told


def test_a_long_text_is_cut() -> None:
    assert escaped("x" * 200) == "x" * 200
    assert escaped("x" * 201) == f"{'x' * 200}…"
    assert escaped("\n" * 5, 2) == "\\n\\n…"
    assert len(shown("\U000e0001" * 1000)) <= 321
    assert len(reason(ValueError("x" * 1000))) < 330


def test_the_reason_is_what_python_would_say() -> None:
    assert reason(ValueError("no")) == "ValueError: no"
    assert reason(ValueError()) == "ValueError"
    assert reason(KeyError("a")) == "KeyError: 'a'"
    assert reason(OSError(2, "gone")) == "FileNotFoundError: [Errno 2] gone"
    assert reason(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")).startswith("UnicodeDecodeErr")
    assert reason(ValueError([1] * 9)) == "ValueError: [1, 1, 1, 1, 1, …]"
    assert reason(ValueError((), "a")) == "ValueError: ((), 'a')"


def test_an_exception_without_a_text_is_told() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert reason(Mute()) == "Mute: a text that can't be made"


def test_only_what_has_nothing_to_hide_may_be_a_cause() -> None:
    fine = ValueError("no")
    assert harmless(fine) is fine
    assert harmless(ValueError("a\nb")) is None
    assert harmless(ValueError("x" * 1000)) is None
    chained = ValueError("no")
    chained.__context__ = ValueError("a\nb")
    assert harmless(chained) is None
