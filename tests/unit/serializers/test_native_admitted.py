"""Types of the user's own: how they are found in annotations, and what is kept out."""

from __future__ import annotations

import copyreg
import enum
import functools
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar, Union

import pytest
from native_payloads import call
from typing_extensions import TypeAliasType

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Response
from streamipc.serializers.native import NativeMessageSerializer

SERIALIZER = NativeMessageSerializer()
T = TypeVar("T")

_numbers = iter(range(10**9))


def fresh_enum() -> Any:
    """Return an enumeration that no annotation names yet."""
    return enum.Enum(f"Fresh{next(_numbers)}", "A B", module=__name__)


def message_with(**hints: Any) -> Any:
    name = f"Holder{next(_numbers)}"
    namespace = {"__annotations__": hints, "__module__": __name__, "__qualname__": name}
    return type(Message)(name, (Message,), namespace)


def there_and_back(value: Any, serializer: NativeMessageSerializer = SERIALIZER) -> Any:
    payload = b"".join(serializer.encode(Response(1, value)))
    return serializer.decode(memoryview(payload)).value  # type: ignore[union-attr]


# Where annotations name them


def in_a_dataclass(hint: Any) -> Any:
    made = make_dataclass(f"Record{next(_numbers)}", [("x", int), ("v", hint)])
    made.__module__ = __name__  # of itself since Python 3.12
    return made


def in_a_named_tuple(hint: Any) -> Any:
    return NamedTuple(f"Tuple{next(_numbers)}", [("x", int), ("v", hint)])  # type: ignore[misc]


def in_a_typed_dict(hint: Any) -> Any:
    return TypedDict(f"Dict{next(_numbers)}", {"x": int, "v": hint})  # type: ignore[operator]


def in_a_message(hint: Any) -> Any:
    return message_with(x=int, v=hint)


class Box(Generic[T]):
    item: T


PLACES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda hint: hint,
    "Optional": lambda hint: typing.Optional[hint],  # noqa: UP045
    "union": lambda hint: Union[int, str, hint],
    "list": lambda hint: list[hint],
    "dict": lambda hint: dict[str, list[tuple[int, hint]]],
    "arguments of a Callable": lambda hint: Callable[[int, hint], None],
    "result of a Callable": lambda hint: Callable[[], hint],
    "Literal": lambda hint: Literal["x", hint.A],
    "Annotated": lambda hint: Annotated[hint, "unit"],
    "generic": lambda hint: Box[hint],
    "NewType": lambda hint: NewType("Alias", hint),
    "bound": lambda hint: TypeVar("B", bound=hint),  # type: ignore[misc]
    "constraint": lambda hint: TypeVar("C", int, hint),  # type: ignore[misc]
    "dataclass": in_a_dataclass,
    "NamedTuple": in_a_named_tuple,
    "TypedDict": in_a_typed_dict,
    "message": in_a_message,
    "deeper": lambda hint: in_a_dataclass(list[in_a_named_tuple(in_a_typed_dict(hint))]),
    "type alias": lambda hint: TypeAliasType("Alias", list[hint]),  # type: ignore[misc]
    "type alias with a variable": lambda hint: TypeAliasType("Of", dict[str, T], type_params=(T,))[  # type: ignore[misc]
        hint
    ],
}


@pytest.mark.parametrize("place", PLACES)
def test_an_enum_is_known_wherever_an_annotation_names_it(place: str) -> None:
    known, unknown = fresh_enum(), fresh_enum()
    message_with(first=int, v=PLACES[place](known), last=str)

    assert there_and_back([known.B]) == [known.B]
    with pytest.raises(SerializationError, match="can't be sent"):
        there_and_back([unknown.B])


@pytest.mark.parametrize("place", PLACES)
def test_a_receiver_looks_into_annotations_though_it_sent_nothing(place: str) -> None:
    known = fresh_enum()
    message_with(v=PLACES[place](known))

    assert call("enum", f"{__name__}.{known.__name__}", "B") is known.B


class Leaf(enum.Enum):
    GREEN = 1


class Branch(TypedDict):
    branches: list[Branch]
    leaf: Leaf


class Wood(Message):
    branch: Branch


def test_a_typed_dict_that_names_itself_is_looked_through_once() -> None:
    inner: Branch = {"branches": [], "leaf": Leaf.GREEN}
    wood = Wood({"branches": [inner], "leaf": Leaf.GREEN})

    assert there_and_back(wood) == wood


def test_a_type_alias_with_arguments_is_looked_through_and_so_are_they() -> None:
    leaf, argument = fresh_enum(), fresh_enum()
    alias: Any = TypeAliasType("alias", Union[T, list[leaf]], type_params=(T,))  # type: ignore[misc]
    message_with(v=alias[alias[argument]])

    assert there_and_back([leaf.A, argument.A]) == [leaf.A, argument.A]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements are new in Python 3.12")
def test_a_type_statement_is_looked_through_when_its_names_are_defined() -> None:
    namespace: dict[str, Any] = {"Message": Message, "__name__": __name__, "enum": enum}
    program = (
        "class Leaf(enum.Enum): A = 1\n"
        "class Other(enum.Enum): A = 1\n"
        "class Last(enum.Enum): A = 1\n"
        "type Tree[T] = Leaf | T | list[Tree[T]] | dict[str, Tree[Other]]\n"
        "type Early = Later | Last\n"
        "class Wood(Message, wire_name='tests.Wood'):\n"
        "    early: Early\n"
        "    tree: Tree[int]\n"
    )
    exec(compile(program, "<wood>", "exec", dont_inherit=True), namespace)
    leaf, other, last = (namespace[name].A for name in ("Leaf", "Other", "Last"))
    assert there_and_back([leaf, other]) == [leaf, other]
    with pytest.raises(SerializationError, match="can't be sent"):
        there_and_back(last)

    namespace["Later"] = int

    assert there_and_back(last) is last


def test_dataclasses_and_named_tuples_of_annotations_come_back() -> None:
    record, pair = in_a_dataclass(int), in_a_named_tuple(int)
    message_with(v=list[Union[record, pair]])

    values = [record(1, 2), pair(3, 4)]
    back = there_and_back(values)
    assert back == values
    assert list(map(type, back)) == [record, pair]


class Wide(tuple):  # type: ignore[type-arg]
    """A tuple, but no NamedTuple."""

    __slots__ = ()


class Fielded:
    """Has ``_fields``, but is no tuple."""

    _fields = ("a",)


NO_STATE = (True, (), {}, None, None, None)


@pytest.mark.parametrize("cls", [Wide, Fielded, Box])
def test_an_annotation_admits_no_class_that_could_run_code(cls: Any) -> None:
    message_with(v=cls)

    with pytest.raises(SerializationError, match=rf"{cls.__name__} object can't be sent"):
        there_and_back([cls()])
    for name, *rest in (("namedtuple", ()), ("record", {}), ("enum", "A"), ("object", *NO_STATE)):
        with pytest.raises(SerializationError, match="not allowed here"):
            call(name, f"{__name__}.{cls.__name__}", *rest)


@pytest.fixture
def later() -> Iterator[dict[str, Any]]:
    """Names of this module that the test adds; gone when it ends."""
    before = set(globals())
    yield globals()
    for name in set(globals()) - before:
        del globals()[name]


def test_a_name_that_is_defined_later_is_found_later(later: dict[str, Any]) -> None:
    first, second, third = fresh_enum(), fresh_enum(), fresh_enum()
    message_with(a=first, b="NamedLater", c=second)
    assert there_and_back([first.A, second.A]) == [first.A, second.A]
    with pytest.raises(SerializationError, match="can't be sent"):
        there_and_back(third.A)

    later["NamedLater"] = third

    assert there_and_back(third.A) is third.A


def test_a_name_in_a_dataclass_that_is_defined_later_is_found_later(later: dict[str, Any]) -> None:
    first, second = fresh_enum(), fresh_enum()
    message_with(a=list[in_a_dataclass("DefinedLater")], b=first)
    assert there_and_back(first.A) is first.A
    with pytest.raises(SerializationError, match="can't be sent"):
        there_and_back(second.A)

    later["DefinedLater"] = second

    assert there_and_back(second.A) is second.A


def test_a_name_in_the_body_of_the_class_is_found_beside_one_that_is_not() -> None:
    inner = fresh_enum()
    name = f"Holder{next(_numbers)}"
    namespace = {
        "__annotations__": {"a": "NeverDefined", "b": "list[inner]"},
        "__module__": __name__,
        "__qualname__": name,
        "inner": inner,
    }
    type(Message)(name, (Message,), namespace)

    assert there_and_back(inner.A) is inner.A


def test_a_class_whose_module_is_gone_hides_nothing() -> None:
    inner = fresh_enum()
    name = f"Holder{next(_numbers)}"
    namespace = {
        "__annotations__": {"a": "NeverDefined", "b": inner},
        "__module__": __name__,
        "__qualname__": name,
    }
    cls: Any = type(Message)(name, (Message,), namespace)
    cls.__module__ = "no_such_module"

    assert cls.__module__ not in sys.modules
    assert there_and_back(inner.A) is inner.A


def test_what_could_be_resolved_is_not_looked_through_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else each name that a peer makes up would have all annotations evaluated."""
    looked: list[Any] = []
    original = typing.get_type_hints
    monkeypatch.setattr(
        typing, "get_type_hints", lambda cls, *rest: looked.append(cls) or original(cls, *rest)
    )
    record = in_a_dataclass(list[fresh_enum()])
    alias = TypeAliasType("alias", list[int])  # type: ignore[misc]
    known = message_with(a=list[fresh_enum()], b=alias, c=NewType("c", int), d=record, e=Any)
    gone = message_with(a="list[Any]", b=int)
    gone.__module__ = "no_such_module"
    open_ = message_with(a="NeverDefined")
    for _ in range(3):
        with pytest.raises(SerializationError, match="not allowed here"):
            call("enum", "no.such", "A")

    assert [looked.count(cls) for cls in (known, record, gone, open_)] == [1, 1, 1, 3]


# Flags


class Even(enum.IntFlag):
    TWO = 2
    FOUR = 4


class Bits(enum.IntFlag):
    A = 1
    B = 2


class Rights(enum.Flag):
    READ = 1
    WRITE = 4


class Plain(enum.Enum):
    A = 1


message_with(even=Even, bits=Bits, rights=Rights, plain=Plain)


@pytest.mark.parametrize("value", [1, 3, 8, 6 | 8, -1, -8, 2**64])
def test_bits_that_no_member_has_are_refused(value: int) -> None:
    with pytest.raises(SerializationError, match=f"{value} has bits that no member of .*Even has"):
        call("flag", f"{__name__}.Even", value)
    if value > 0:
        with pytest.raises(SerializationError, match=f"{value} has bits that no member of .*Even"):
            there_and_back(Even(value))


def test_any_mixture_of_members_comes_back() -> None:
    for value in (0, 2, 4, 6):
        assert there_and_back(Even(value)) is Even(value)
        assert call("flag", f"{__name__}.Even", value) is Even(value)
    assert there_and_back(~Bits.A) == Bits.B
    assert there_and_back(Rights.READ | Rights.WRITE) is Rights.READ | Rights.WRITE
    with pytest.raises(SerializationError, match="2 has bits"):
        call("flag", f"{__name__}.Rights", 2)


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("enum", ([], "A"), "a str is needed, not a list"),
        ("enum", (b"x", "A"), "a str is needed, not a bytes"),
        ("enum", (f"{__name__}.Plain", 1), "a str is needed, not a int"),
        ("enum", (f"{__name__}.Plain", "B"), r"Plain has no member 'B'"),
        ("flag", (f"{__name__}.Plain", 1), "Plain is no Flag"),
        ("flag", (f"{__name__}.Even", True), "a int is needed, not a bool"),
        ("flag", (f"{__name__}.Even", "2"), "a int is needed, not a str"),
    ],
)  # fmt: skip
def test_a_member_is_named_by_texts_and_a_flag_by_a_number(
    name: str, args: tuple[Any, ...], text: str
) -> None:
    with pytest.raises(SerializationError, match=text):
        call(name, *args)


# Classes that the user allows


class Two:
    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y


@dataclass
class Guarded:
    x: int
    plain: Any = None

    def __post_init__(self) -> None:
        raise ZeroDivisionError("is not run in the receiver")


class NewOther:
    def __reduce__(self) -> Any:
        return copyreg.__newobj__, (dict,)  # type: ignore[attr-defined]


class NewOtherEx:
    def __reduce__(self) -> Any:
        return copyreg.__newobj_ex__, (dict, (), {})  # type: ignore[attr-defined]


class ByName:
    def __reduce__(self) -> str:
        return "SOMETHING"


class Versioned:
    def __init__(self, protocol: int) -> None:
        self.protocol = protocol

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Versioned, (protocol,)


ALLOWING = NativeMessageSerializer(allow=[Two, Guarded, NewOther, NewOtherEx, ByName, Versioned])


def test_an_allowed_object_with_two_attributes_comes_back() -> None:
    back = there_and_back(Two(1, [2]), ALLOWING)

    assert type(back) is Two
    assert vars(back) == {"x": 1, "y": [2]}


def test_an_allowed_object_is_taken_apart_by_protocol_4_which_has_no_buffers() -> None:
    assert there_and_back(Versioned(0), ALLOWING).protocol == 4


def test_an_allowed_dataclass_is_sent_by_its_fields() -> None:
    guarded = object.__new__(Guarded)
    guarded.x, guarded.plain = 5, None

    assert there_and_back(guarded, ALLOWING) == guarded
    assert call("record", f"{__name__}.Guarded", {"x": 5}, serializer=ALLOWING) == guarded


def test_what_an_allowed_dataclass_names_is_allowed_too() -> None:
    inner = fresh_enum()
    record = in_a_dataclass(list[inner])
    allowing = NativeMessageSerializer(allow=[record])

    assert there_and_back(record(1, [inner.B]), allowing) == record(1, [inner.B])
    with pytest.raises(SerializationError, match="can't be sent"):
        there_and_back(inner.B)


@pytest.mark.parametrize("cls", [NewOther, NewOtherEx, ByName])
def test_an_allowed_class_may_not_name_another_to_be_made(cls: Any) -> None:
    text = (
        rf"{__name__}\.{cls.__name__} can't be sent: its __reduce__ names .*only the class itself"
    )
    with pytest.raises(SerializationError, match=text):
        there_and_back(cls(), ALLOWING)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ((1, 2, 3), "a dict is needed, not a tuple"),
        ([{"x": 1}, None], "a dict is needed, not a list"),
        (({"x": 1}, 5), "a dict is needed, not a int"),
        ("ab", "a dict is needed, not a str"),
        ({5: 1}, "a str is needed, not a int"),
    ],
)
def test_the_state_of_an_allowed_object_is_names_and_values(state: Any, text: str) -> None:
    with pytest.raises(SerializationError, match=text):
        call("object", f"{__name__}.Two", False, (), {}, state, None, None, serializer=ALLOWING)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1, (), {}, None, None, None), "a bool is needed, not a int"),
        ((True, [1, 2], {}, None, None, None), "a tuple is needed, not a list"),
        ((True, (1, 2), None, None, None, None), "a dict is needed, not a NoneType"),
        ((True, (1, 2), {}, None, (), None), "a list is needed, not a tuple"),
        ((True, (1, 2), {}, None, None, ()), "a list is needed, not a tuple"),
    ],
)
def test_the_parts_of_an_allowed_object_have_their_types(
    arguments: tuple[Any, ...], text: str
) -> None:
    with pytest.raises(SerializationError, match=text):
        call("object", f"{__name__}.Two", *arguments, serializer=ALLOWING)


def test_what_cannot_be_sent_is_named_in_full() -> None:
    for value, text in (
        (
            print,
            r"^a value of .*: print \(builtin_function_or_method\) can't be sent: functions and",
        ),
        (threading.Event.set, r"Event\.set \(function\) can't be sent: functions and classes"),
        (Two(1, 2).__init__, r"Two\.__init__ \(method\) can't be sent"),  # type: ignore[misc]
        (types.MethodType(functools.partial(print), 1), r": method \(method\) can't be sent"),
        ((1).__add__, r": int\.__add__ \(method-wrapper\) can't be sent"),
        (Two, r"Two \(type\) can't be sent: functions and classes do not travel"),
        (object(), r": object object can't be sent: .*\(allow=\[object\]\)"),
        (threading.Event(), r": threading\.Event object can't be sent: .*It can't be taken apart"),
    ):
        with pytest.raises(SerializationError, match=text):
            there_and_back(value)
