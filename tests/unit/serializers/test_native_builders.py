"""What the native serializer's builders make of what a peer sends, to the last value."""

from __future__ import annotations

import array
import collections
import ctypes
import datetime as dt
import fractions
import functools
import gc
import ipaddress
import pathlib
import struct
import sys
import uuid
import weakref
import zoneinfo
from typing import Any

import pytest
from native_payloads import call

from streamipc.exceptions import SerializationError
from streamipc.protocol.envelopes import Response
from streamipc.serializers.native import NativeMessageSerializer

SERIALIZER = NativeMessageSerializer()
FACTORIES = (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)


def there_and_back(value: Any) -> Any:
    payload = bytearray().join(SERIALIZER.encode(Response(1, value)))
    return SERIALIZER.decode(memoryview(payload)).value  # type: ignore[union-attr]


def str_of(case: Any) -> str:
    try:
        return f"{case!r:.40}"
    except ValueError:  # more digits than Python converts
        return "long"


BUILT: list[tuple[str, tuple[Any, ...], Any]] = [
    ("bytes", (b"x",), b"x"),
    ("bytes", (bytearray(b"x"),), b"x"),
    ("bytearray", (b"x",), bytearray(b"x")),
    ("bytearray", (bytearray(b"x"),), bytearray(b"x")),
    ("array", ("b", 1, bytearray(b"a")), array.array("b", b"a")),
    ("range", (1, 10, 3), range(1, 10, 3)),
    ("slice", (1, None, 2), slice(1, None, 2)),
    ("complex", (1.5, -2.0), 1.5 - 2j),
    ("deque", ([1, 2, 3], 2), collections.deque([2, 3], 2)),
    ("deque", ([1], None), collections.deque([1])),
    ("fraction", (6, -4), fractions.Fraction(-3, 2)),
    ("fraction", (2**65_536 - 1, 1), fractions.Fraction(2**65_536 - 1)),
    ("fraction", (-(2**65_536) + 1, 1), fractions.Fraction(-(2**65_536) + 1)),
    ("timedelta", (-1, 2, 3), dt.timedelta(-1, 2, 3)),
    ("timezone", (dt.timedelta(hours=1),), dt.timezone(dt.timedelta(hours=1))),
    ("uuid", (bytes(range(16)),), uuid.UUID(bytes=bytes(range(16)))),
    ("path", ("Path", "a/b"), pathlib.Path("a/b")),
    ("path", ("PurePosixPath", "a"), pathlib.PurePosixPath("a")),
    ("path", ("PureWindowsPath", "a"), pathlib.PureWindowsPath("a")),
    ("address", ("IPv4Network", "10.0.0.0/8"), ipaddress.ip_network("10.0.0.0/8")),
    ("array", ("d", 8, struct.pack("2d", 1, 2)), array.array("d", [1, 2])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "value"), BUILT, ids=str_of)
def test_a_builder_makes_what_it_is_for(name: str, args: tuple[Any, ...], value: Any) -> None:
    # A timedelta among the arguments is no opcode that the reader takes.
    if any(isinstance(part, dt.timedelta) for part in args):
        made = there_and_back(value)
    else:
        made = call(name, *args)
    assert made == value
    assert type(made) is type(value)
    assert getattr(made, "maxlen", None) == getattr(value, "maxlen", None)


REFUSED: list[tuple[str, tuple[Any, ...], str]] = [
    ("bytes", ([1, 2],), "is needed, not a list"),
    ("bytes", ("x",), "is needed, not a str"),
    ("bytearray", (5,), "is needed, not a int"),
    ("memoryview", ([1], "B", [1]), "is needed, not a list"),
    ("memoryview", (b"12345678", "d", [2]), "can't be read"),
    ("memoryview", (b"12345678", "d", (1,)), "a list is needed, not a tuple"),
    ("memoryview", (b"12345678", 5, [1]), "a str is needed, not a int"),
    ("array", (5, 8, b""), "a str is needed, not a int"),
    ("array", ("d", 8, [1.0]), "is needed, not a list"),
    ("array", ("d", 8, b"1234"), "can't be read"),
    ("array", ("d", 7, b""), r"items of array\('d'\) have another size on this platform"),
    ("range", (0.5, 1, 1), "a int is needed, not a float"),
    ("range", (0, True, 1), "a int is needed, not a bool"),
    ("range", (0, 1, "1"), "a int is needed, not a str"),
    ("range", (0, 1, 0), "can't be read"),
    ("complex", (1, 0.5), "a float is needed, not a int"),
    ("complex", (0.5, "1"), "a float is needed, not a str"),
    ("ordered_dict", ([("a", 1)],), "a dict is needed, not a list"),
    ("counter", ("aab",), "a dict is needed, not a str"),
    ("deque", ("abc", None), "a list is needed, not a str"),
    ("deque", ([1], True), "is needed, not a bool"),
    ("deque", ([1], -1), "can't be read"),
    ("defaultdict", (None, [("a", 1)]), "a dict is needed, not a list"),
    ("defaultdict", ("list", [("a", 1)]), "a dict is needed, not a list"),
    ("defaultdict", (5, {}), "a str is needed, not a int"),
    ("defaultdict", ("print", {}), "a defaultdict may not have the factory 'print'"),
    ("fraction", (2**65_536, 1), "a Fraction has more than 65536 bits"),
    ("fraction", (1, 2**65_536), "a Fraction has more than 65536 bits"),
    ("fraction", (1, -(2**65_536)), "a Fraction has more than 65536 bits"),
    ("fraction", (1, 0), "can't be read"),
    ("fraction", ("1/2", 1), "a int is needed, not a str"),
    ("fraction", (1, 0.5), "a int is needed, not a float"),
    ("decimal", (0.5,), "a str is needed, not a float"),
    ("date", (b"\x07\xe8\x02\xc8",), "can't be read"),
    ("date", (2024, 2, 30), "can't be read"),
    ("time", (b"\x01\x02\x03\x04\x05\x06", None, 0, 0, None, 0), "can't be read"),
    ("datetime", (2024, 2, 29, 1, 2, 3, 4, None), "a datetime needs nine values"),
    ("datetime", (2024, 2, 29, 1, 2, 3, 4, None, 0, 0), "a datetime needs nine values"),
    ("timedelta", (0.5, 0, 0), "a int is needed, not a float"),
    ("timedelta", (0, 0.5, 0), "a int is needed, not a float"),
    ("timedelta", (0, 0, "1"), "a int is needed, not a str"),
    ("timedelta", (10**9, 0, 0), "can't be read"),
    ("timezone", (1,), "can't be read"),
    *[
        ("zone_info", (key,), f"{key!r} is no name of a time zone".replace("\\", r"\\"))
        for key in ("", "Europe/", "/Berlin", "Europe//Berlin", "a.b", "a/b/c/d/e", "UTC\n", "ü")
    ],
    ("zone_info", ("Nowhere/At_all",), "there is no time zone Nowhere/At_all here"),
    ("zone_info", ("a-b/c+d/e_f/0",), "there is no time zone a-b/c.d/e_f/0 here"),
    ("zone_info", (5,), "a str is needed, not a int"),
    ("uuid", ("x" * 16,), "a bytes is needed, not a str"),
    ("uuid", (b"x" * 15,), "can't be read"),
    ("path", ("PurePath", "a"), "'PurePath' is no kind of path"),
    ("path", ("PosixPath", "a"), "'PosixPath' is no kind of path"),
    ("path", (5, "a"), "a str is needed, not a int"),
    ("path", ("Path", b"a"), "a str is needed, not a bytes"),
    ("address", ("IPv5Address", "::1"), "'IPv5Address' is no kind of address"),
    ("address", ("IPv4Address", 1), "a str is needed, not a int"),
    ("address", (4, "::1"), "a str is needed, not a int"),
    ("address", ("IPv4Address", "::1"), "can't be read"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "text"), REFUSED, ids=str_of)
def test_a_builder_refuses_what_it_is_not_for(name: str, args: tuple[Any, ...], text: str) -> None:
    with pytest.raises(SerializationError, match=text):
        call(name, *args)


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_defaultdict_keeps_each_factory_that_makes_plain_values(factory: Any) -> None:
    back = there_and_back(collections.defaultdict(factory, {1: 2}))

    assert back.default_factory is factory
    assert back == {1: 2}
    assert call("defaultdict", factory.__name__, {}).default_factory is factory


def test_a_factory_that_only_has_the_name_of_one_is_not_sent() -> None:
    fake = type("list", (), {})
    names = ", ".join(factory.__name__ for factory in FACTORIES)
    for factory in (fake, lambda: 1, functools.partial(dict)):
        with pytest.raises(SerializationError, match=f"its factory may be one of {names}$"):
            there_and_back(collections.defaultdict(factory))


def test_a_class_with_the_name_of_a_standard_one_is_not_sent() -> None:
    for module, name in (("numpy", "ndarray"), ("uuid", "UUID"), ("array", "array")):
        with pytest.raises(SerializationError, match="can't be sent"):
            there_and_back(type(name, (), {"__module__": module})())


def test_nor_is_one_whose_module_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "array")
    with pytest.raises(SerializationError, match=r"array\.array object .* not among the types"):
        there_and_back(type("array", (), {"__module__": "array"})())


def test_a_class_that_can_not_be_sent_is_not_kept_alive() -> None:
    cls = type("Passing", (), {})
    with pytest.raises(SerializationError, match="Passing"):
        there_and_back(cls())
    left = weakref.ref(cls)
    del cls
    gc.collect()
    assert left() is None


@pytest.mark.parametrize("size", [0, 8, 65_528, 65_536, 65_544, 131_080])
def test_a_memoryview_is_as_writable_and_of_the_form_that_it_was(size: int) -> None:
    for data in (bytes(size), bytearray(size)):
        for view in (memoryview(data), memoryview(data)[::2], memoryview(data).cast("d")):
            back = there_and_back(view)
            assert (back.format, back.shape) == (view.format, view.shape)
            assert back.tobytes() == view.tobytes()
    table = memoryview(b"abcdef").cast("B", [2, 3])
    assert there_and_back(table).tolist() == table.tolist()
    assert there_and_back(memoryview(b"ab")).readonly
    assert not there_and_back(memoryview(bytearray(b"ab"))).readonly


def test_an_empty_memoryview_is_no_other_memoryview() -> None:
    with pytest.raises(SerializationError, match="can't be read"):
        call("memoryview", b"12345678", "d", [0])
    for shape in ([1], [0, 3]):
        with pytest.raises(SerializationError, match="can't be read"):
            call("memoryview", b"", "d", shape)


def test_a_memoryview_of_a_foreign_format_is_not_sent() -> None:
    view = memoryview((ctypes.c_int16 * 2)())
    text = rf"a memoryview of the format '{view.format}' and shape \[2\] can't be sent"
    with pytest.raises(SerializationError, match=text):
        there_and_back(view)
    assert there_and_back(view.cast("B")) == view.cast("B")


def test_a_memoryview_that_could_not_be_made_again_is_not_sent() -> None:
    np = pytest.importorskip("numpy")
    assert there_and_back(memoryview(np.array(5.0))).tolist() == 5.0
    for value, text in (
        (np.zeros(2, ">i4"), r"format '>i' and shape \[2\]"),
        (np.zeros((0, 3)), r"format 'd' and shape \[0, 3\]"),
        (np.zeros(1, [("a", "i4")]), r"format 'T\{i:a:\}' and shape \[1\]"),
    ):
        told = f"a memoryview of the {text} can't be sent: Python makes none from bytes$"
        with pytest.raises(SerializationError, match=told):
            there_and_back(memoryview(value))


@pytest.mark.parametrize("count", [8191, 8192, 8193])
def test_an_array_of_any_size_comes_back(count: int) -> None:
    value = array.array("d", range(count))
    assert there_and_back(value) == value
    copied = sum(len(part) for part in SERIALIZER.encode(Response(1, value)) if type(part) is bytes)
    assert (copied < 1000) is (count >= 8192)


def test_a_time_keeps_what_its_equality_does_not_show() -> None:
    assert there_and_back(dt.time(1, fold=1)).fold == 1
    assert there_and_back(dt.datetime(2024, 10, 27, 2, fold=1)).fold == 1
    assert there_and_back(dt.timezone(dt.timedelta(hours=1), "x")).tzname(None) == "x"
    assert there_and_back(dt.timezone(dt.timedelta(hours=1))).tzname(None) == "UTC+01:00"


ZONES = ("America/Argentina/Buenos_Aires", "Etc/GMT+5", "UTC")


@pytest.mark.parametrize("key", [key for key in ZONES if key in zoneinfo.available_timezones()])
def test_a_time_zone_comes_back_by_its_name(key: str) -> None:
    assert there_and_back(zoneinfo.ZoneInfo(key)) is zoneinfo.ZoneInfo(key)


# numpy


@pytest.fixture(name="np")
def numpy() -> Any:
    return pytest.importorskip("numpy")


def nested(depth: int) -> Any:
    spec: Any = "<i4"
    for _ in range(depth):
        spec = [("a", spec)]
    return spec


@pytest.mark.parametrize(
    "spec",
    ["f8", "<f8", ">i2", "|S3", "=U7", "?", "M8[ns]", "<m8[25s]", "<M8[10h]", nested(4),
     [("a", "<i4", (2, 3)), ("b", "S1")], [("a", "<i4", ())]],
    ids=str,
)  # fmt: skip
def test_a_dtype_is_read_in_the_forms_that_numpy_writes(np: Any, spec: Any) -> None:
    assert call("numpy_dtype", spec) == np.dtype(spec)


@pytest.mark.parametrize(
    "spec",
    ["", "f8,f8", "(2,)f8", "i4 ", "f8\n", "float64", "M8[xyz]", "M8[1s/2]", "V12345678901",
     "m8[12345678901s]", 5, None, nested(5), [["a", "i4"]], [("a",)], [("a", "i4", (1,), 0)],
     [(5, "i4")], [(("t", "a"), "i4")], [("a", "i4", [1])], [("a", "i4", 5)],
     [("a", "i4", ("1",))], [("a", "i4", (True,))], [("a", 5)], "i4" * 2],
    ids=str,
)  # fmt: skip
def test_any_other_form_of_a_dtype_is_refused(np: Any, spec: Any) -> None:
    for name, rest in (("numpy_dtype", ()), ("numpy_array", ((0,), "C", b""))):
        with pytest.raises(SerializationError, match=r"malformed|is needed, not a"):
            call(name, spec, *rest)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("f8", [1], "C", b"x" * 8), "a tuple is needed, not a list"),
        (("f8", (True,), "C", b"x" * 8), "the shape of a numpy array is malformed"),
        (("f8", (1.0,), "C", b"x" * 8), "the shape of a numpy array is malformed"),
        (("f8", (1,), 5, b"x" * 8), "a str is needed, not a int"),
        (("f8", (1,), "", b"x" * 8), "is neither C nor F"),
        (("f8", (1,), "CF", b"x" * 8), "is neither C nor F"),
        (("f8", (1,), "C", "x" * 8), "is needed, not a str"),
        (("f8", (1,), "C", b"x" * 7), r"of shape \(1,\) and dtype float64 does not have 7 bytes"),
        (("f8", (2, 3), "C", b"x" * 40), r"of shape \(2, 3\) and dtype float64 does not have 40"),
        (("f8", (), "C", b""), "does not have 0 bytes"),
    ],
)  # fmt: skip
def test_an_array_that_does_not_fit_is_refused(np: Any, args: tuple[Any, ...], text: str) -> None:
    with pytest.raises(SerializationError, match=text):
        call("numpy_array", *args)


def test_an_array_is_built_in_its_order_and_of_many_dimensions(np: Any) -> None:
    data = bytes(range(6))
    assert call("numpy_array", "u1", (2, 3), "C", data).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert call("numpy_array", "u1", (2, 3), "F", data).tolist() == [[0, 2, 4], [1, 3, 5]]
    assert call("numpy_array", "u1", (0, 3), "F", b"").shape == (0, 3)
    most = 64 if np.__version__ >= "2" else 32
    assert call("numpy_array", "u1", (1,) * most, "C", b"x").shape == (1,) * most


def test_an_array_keeps_the_order_of_its_items(np: Any) -> None:
    value = np.arange(24).reshape(2, 3, 4)
    fortran = there_and_back(np.asfortranarray(value))
    assert fortran.flags.f_contiguous
    assert not fortran.flags.c_contiguous
    for other in (value, value[:, ::2], value.transpose(1, 0, 2), value[::-1]):
        back = there_and_back(other)
        assert back.flags.c_contiguous
        assert (back == other).all()


def test_an_array_without_items_keeps_its_dtype(np: Any) -> None:
    for dtype in ("i2", "M8[s]", "S3", [("a", "i4")]):
        back = there_and_back(np.zeros((0, 3), dtype))
        assert (back.dtype, back.shape) == (np.dtype(dtype), (0, 3))


def test_a_large_array_leaves_without_a_copy_in_either_order(np: Any) -> None:
    value = np.zeros((300, 500))
    for array_ in (value, value.T):
        parts = SERIALIZER.encode(Response(1, array_))
        assert any(np.shares_memory(np.frombuffer(part, np.uint8), value) for part in parts)


def test_a_scalar_of_another_size_is_refused(np: Any) -> None:
    assert call("numpy_scalar", "<i4", b"\x05\0\0\0") == 5
    with pytest.raises(SerializationError, match="does not have 3 bytes"):
        call("numpy_scalar", "<i4", b"\x05\0\0")


def test_what_numpy_holds_that_is_more_than_bytes_is_told(np: Any) -> None:
    text = "numpy data of dtype object can't be sent: only numbers, texts, times and records of"
    with pytest.raises(SerializationError, match=text):
        there_and_back(np.array([object()]))


def test_without_numpy_its_arrays_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(
        SerializationError, match="holds a numpy array, but numpy can't be imported"
    ):
        call("numpy_array", "f8", (0,), "C", b"")
