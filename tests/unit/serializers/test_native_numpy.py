"""Arrays, scalars and dtypes of numpy: how they travel, and what a peer can't make of them."""

from __future__ import annotations

from typing import Any

import pytest
from native_payloads import call

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Request, Response
from streamipc.serializers.native import NativeMessageSerializer

SERIALIZER = NativeMessageSerializer()


class Holder(Message, wire_name="tests.numpy.Holder"):
    value: Any


np: Any = pytest.importorskip("numpy")


def received(value: Any, writable: bool = True) -> tuple[Any, Any]:
    payload = b"".join(SERIALIZER.encode(Response(1, value)))
    data = bytearray(payload) if writable else payload
    return SERIALIZER.decode(memoryview(data)).value, np.frombuffer(data, np.uint8)  # type: ignore[union-attr]


ARRAYS = [
    np.arange(10), np.arange(20.0).reshape(4, 5), np.asfortranarray(np.arange(12).reshape(3, 4)),
    np.arange(24).reshape(2, 3, 4)[:, ::2], np.array(5), np.zeros((0, 3)),
    np.zeros((3, 0), order="F"),
    np.array([True, False]), np.array(["a", "bcd"]), np.array([b"x"]), np.array([1 + 2j]),
    np.array(["2024-01-01"], dtype="M8[ns]"), np.array([5], "m8[s]"), np.arange(3, dtype=">i4"),
    np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8", (2,))]), np.zeros(3, np.float16),
    np.zeros(2, [("p", [("q", "u1"), ("r", "S3")])]), np.array("2024", "M8[Y]"),
]  # fmt: skip


@pytest.mark.parametrize("value", ARRAYS, ids=lambda value: f"{value.dtype}{value.shape}")
def test_an_array_comes_back(value: Any) -> None:
    back, _ = received({"a": value})
    assert type(back["a"]) is np.ndarray
    assert back["a"].dtype == value.dtype
    assert back["a"].shape == value.shape
    np.testing.assert_array_equal(back["a"], value)
    assert back["a"].flags.writeable


def test_an_array_lies_over_the_payload_and_is_aligned() -> None:
    for size in (10, 10_000, 1_000_000):
        back, payload = received([b"x", np.arange(size), np.ones(size)])
        for part in back[1:]:
            assert np.shares_memory(part, payload)
            assert part.ctypes.data % 16 == payload.ctypes.data % 16
            part[0] = 7
    assert back[1][0] == 7


def test_an_array_over_a_payload_that_is_read_only_is_read_only() -> None:
    back, payload = received(np.arange(10_000), writable=False)
    assert np.shares_memory(back, payload)
    assert not back.flags.writeable


def test_an_array_that_is_read_only_stays_so() -> None:
    value = np.arange(5)
    value.flags.writeable = False
    assert not received(value)[0].flags.writeable


def test_a_large_array_leaves_without_a_copy() -> None:
    value = np.arange(100_000)
    buffers = SERIALIZER.encode(Request(1, Holder({"x": value})))
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), value) for part in buffers)


def test_many_arrays_come_back_in_one_buffer() -> None:
    value = [np.full(3, i) for i in range(70_000)]
    buffers = SERIALIZER.encode(Response(1, value))
    assert len(buffers) == 1
    # As many as the header can count are told by their lengths; the rest is in the pickle.
    assert bytes(buffers[0][6:8]) == b"\xff\xff"
    back = SERIALIZER.decode(memoryview(buffers[0])).value  # type: ignore[union-attr]
    assert (np.array(back) == np.array(value)).all()


@pytest.mark.parametrize(
    "value",
    [np.float64(1.5), np.int8(-3), np.bool_(True), np.str_("text"), np.str_(""), np.bytes_(b"x"),
     np.datetime64("2024-01-01"), np.complex64(1j), np.zeros(1, [("a", "i4")])[0],
     np.dtype("i4"), np.dtype([("a", "f8")])],
    ids=repr,
)  # fmt: skip
def test_scalars_and_dtypes_of_numpy_come_back(value: Any) -> None:
    back, _ = received([value])
    assert back[0] == value
    assert type(back[0]) is type(value)


@pytest.mark.parametrize(
    "value",
    [np.array([object()]), np.dtype("O"), np.zeros(1, [("a", "O")]), np.ma.array([1]),
     np.zeros(1, {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]})],
    ids=lambda value: f"{type(value).__name__}",
)  # fmt: skip
def test_data_of_numpy_that_is_more_than_bytes_is_refused(value: Any) -> None:
    with pytest.raises(SerializationError, match="can't be sent"):
        SERIALIZER.encode(Response(1, value))


# Payloads made by hand


@pytest.mark.parametrize("spec", ["S0", "U0", "V0", "<U0", [], [("a", "S0")]])
def test_items_of_no_size_take_no_memory_however_many(spec: Any) -> None:
    made = call("numpy_array", spec, (10**9,), "C", b"")

    assert (made.shape, made.nbytes, made.dtype) == ((10**9,), 0, np.dtype(spec))


def test_a_field_of_texts_of_no_length_comes_back() -> None:
    value = np.zeros((3, 2), [("a", "S0"), ("b", "i4")])["a"]
    back, _ = received(value)

    assert (back.dtype, back.shape, back.tolist()) == (value.dtype, (3, 2), value.tolist())


@pytest.mark.parametrize("shape", [(1 << 400_000,) * 1000, (1 << 64,), (1,) * 65, (0,) * 1000])
def test_a_shape_that_no_array_has_is_refused_at_once(shape: tuple[int, ...]) -> None:
    with pytest.raises(SerializationError, match="the shape of a numpy array is malformed"):
        call("numpy_array", "f8", shape, "C", b"")


def test_a_record_that_is_named_again_and_again_is_refused_at_once() -> None:
    spec: Any = "<i4"
    for _ in range(4):
        spec = [("a", spec)] * 1000

    for name, rest in (("numpy_dtype", ()), ("numpy_array", ((1,), "C", b""))):
        with pytest.raises(SerializationError, match="more than 10,000 fields"):
            call(name, spec, *rest)


def test_a_record_of_as_many_fields_as_may_be_comes_back() -> None:
    dtype = np.dtype([(str(number), "u1") for number in range(10_000)])
    assert received([dtype])[0] == [dtype]

    with pytest.raises(SerializationError, match="can't be sent"):
        received([np.dtype([*dtype.descr, ("last", "u1")])])
