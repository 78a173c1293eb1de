"""What the native serializer refuses at its edges, and how it says so."""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from typing import Any, NamedTuple

import pytest
from native_payloads import call

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification, Response
from streamipc.serializers._native_builders import MODULE, VOCABULARY
from streamipc.serializers._native_layout import Layout, layout_of
from streamipc.serializers._native_numpy import numpy_reducer
from streamipc.serializers.native import NativeMessageSerializer

np: Any = pytest.importorskip("numpy")

SERIALIZER = NativeMessageSerializer()


class Spot(NamedTuple):
    x: int
    y: int


class Map(Message):
    spot: Spot | None = None
    value: Any = None


class Shifty:
    """Makes something else of its arguments."""

    def __new__(cls, *arguments: Any) -> Any:
        return 42 if arguments else object.__new__(cls)


class ByName:
    """Pickles itself as a global."""

    def __reduce__(self) -> str:
        return "SOMETHING"


class Fickle:
    """Can't be taken apart at the first try."""

    tries = 0

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.tries += 1
        if self.tries == 1:
            raise OSError("not now")
        return Fickle, ()


def there_and_back(value: Any, serializer: NativeMessageSerializer = SERIALIZER) -> Any:
    payload = b"".join(serializer.encode(Response(1, value)))
    return serializer.decode(memoryview(payload)).value  # type: ignore[union-attr]


def test_a_named_tuple_needs_all_its_fields() -> None:
    with pytest.raises(SerializationError, match="needs the fields x, y"):
        call("namedtuple", f"{__name__}.Spot", (1,))


def test_an_allowed_class_that_makes_something_else_is_refused() -> None:
    allowing = NativeMessageSerializer(allow=[Shifty])
    arguments = (f"{__name__}.Shifty", True, (1,), {}, None, None, None)

    with pytest.raises(SerializationError, match="made a int of its arguments"):
        call("object", *arguments, serializer=allowing)


def test_an_allowed_class_that_pickles_as_a_global_is_refused() -> None:
    with pytest.raises(SerializationError, match="ByName"):
        there_and_back(ByName(), NativeMessageSerializer(allow=[ByName]))


def test_a_failure_that_no_field_repeats_names_the_message() -> None:
    allowing = NativeMessageSerializer(allow=[Fickle])

    with pytest.raises(SerializationError, match=r"Map.*not now"):
        allowing.encode(Notification(Map(value=Fickle())))


def test_a_builder_is_a_name_and_no_function() -> None:
    with pytest.raises(TypeError, match=r"^builder .message. is a name, not a function$"):
        VOCABULARY["message"]()


def test_what_is_no_builder_is_not_among_them() -> None:
    text = rf"^module '{MODULE}' has no attribute 'no_such'$"
    with pytest.raises(AttributeError, match=text):
        sys.modules[MODULE].no_such  # noqa: B018


def test_only_dataclasses_have_a_layout() -> None:
    with pytest.raises(SerializationError, match="int is no dataclass"):
        Layout(int, "int")


def test_the_layout_of_a_class_is_made_once() -> None:
    class Kept(Message, wire_name="tests.Kept"):
        x: int

    assert layout_of(Kept) is layout_of(Kept)


def test_more_than_256_shared_values_come_back_shared() -> None:
    shared = [[number] for number in range(300)]

    twice = there_and_back([shared, list(reversed(shared))])

    assert twice == [shared, list(reversed(shared))]
    assert all(a is b for a, b in zip(twice[0], reversed(twice[1]), strict=True))


def nested(depth: int) -> Any:
    dtype: Any = "i4"
    for _ in range(depth):
        dtype = [("field", dtype)]
    return np.dtype(dtype)


@pytest.mark.parametrize(
    "dtype",
    [
        nested(6),
        np.dtype({"names": ["a", "b"], "formats": ["i1", "i4"], "offsets": [0, 4]}),
        np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]}),
        np.dtype([(("title", "name"), "i4")]),
    ],
    ids=["deep", "padded", "overlapping", "titled"],
)
def test_records_that_numpy_could_not_rebuild_are_refused(dtype: Any) -> None:
    with pytest.raises(SerializationError, match="can't be sent"):
        SERIALIZER.encode(Response(1, np.zeros(2, dtype)))


def test_without_numpy_an_array_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(SerializationError, match="numpy can't be imported here"):
        call("numpy_array", "<f8", (1,), "C", b"x" * 8)
    assert numpy_reducer(np.ndarray) is None


def bad() -> None:
    """Functions do not travel."""


class Bag(dict[str, Any]):
    """Is allowed, and has items by key."""


REFUSED = "can't be sent: functions and classes do not travel"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([{"a": {"b": 1}}, bad], "[1]"),
        ([{1, 2}, frozenset({3}), bad], "[2]"),
        ([Spot(1, 2), bad], "[1]"),
        ([Map(Spot(1, 2)), bad], "[1]"),
        ([deque([1]), OrderedDict(a=1), bad], "[2]"),
        ([VOCABULARY["message"], bad], "[1]"),
        ([Bag(a=1), bad], "[1]"),
        ([Bag(a=1, b=bad)], "[0]['b']"),
    ],
    ids=["dict", "sets", "namedtuple", "message", "others", "builder", "object", "in an object"],
)
def test_the_path_to_what_cant_be_sent_passes_by_what_can(value: Any, path: str) -> None:
    allowing = NativeMessageSerializer(allow=[Bag])
    with pytest.raises(SerializationError) as caught:
        allowing.encode(Response(1, value))
    assert str(caught.value).startswith(f"value{path}: bad (function) {REFUSED}")


def test_the_path_to_what_holds_itself_passes_by_what_is_shared() -> None:
    shared = Spot(1, 2)
    deep: Any = ()
    for _ in range(100_000):
        deep = (deep,)
    with pytest.raises(SerializationError, match="nests too deeply"):
        SERIALIZER.encode(Response(1, (shared, shared, deep)))


class Gone:
    """A field that can't be read any more."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return 0
        raise OSError("the file is gone")

    def __set__(self, instance: Any, value: Any) -> None:
        """Keep nothing."""


class Backed(Message):
    text: Any = Gone()


def test_what_code_of_the_program_raises_is_told_with_its_place_and_its_cause() -> None:
    with pytest.raises(SerializationError) as caught:
        SERIALIZER.encode(Notification(Map(value=[1, Backed()])))
    assert str(caught.value).startswith(f"{__name__}.Map.value[1] can't be sent: ")
    assert "the file is gone" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
