"""Messages are dataclasses to every observer, from the moment when the class is made."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import pickle
import pydoc
import sys
from typing import Any

import pytest

from streamipc import Message

_numbers = itertools.count()

BODIES = {
    "no fields": "pass",
    "fields": "x: int\ny: str = 'a'\nz: list[int] | None = None",
    "forward references": "x: 'Later'\ny: 'Later | None' = None",
    "a docstring": "'''What it is.'''\nx: int",
    "methods": "x: int = 1\ndef double(self): return 2 * self.x",
    "a property": "x: int = 1\n@property\ndef double(self): return 2 * self.x",
    "an attribute that is no field": "x: int = 1\nlimit = 10",
    "__post_init__": "x: int\ndef __post_init__(self): self.x = self.x + 1",
    "__repr__": "x: int\ndef __repr__(self): return f'<{self.x}>'",
    "__eq__": "x: int\ndef __eq__(self, other): return True",
    "__eq__ and __hash__": "x: int\ndef __eq__(self, o): return True\ndef __hash__(self): return 7",
    "__hash__": "x: int\ndef __hash__(self): return 7",
    "__init__": "x: int\ndef __init__(self, a, *, b=2): self.x = a + b",
    "__match_args__": "x: int = 1\ny: int = 2\n__match_args__ = ('y',)",
    "a private name": "__x: int\n_y: int = 1",
    "an enumeration's member": "x: Color = Color.RED",
    "a tuple and a function type": "x: tuple[int, ...] = ()\ny: type = int",
    "ClassVar": "x: int\nlimit: ClassVar[int] = 10",
    "ClassVar in a module": "x: int\nlimit: typing.ClassVar[int] = 10",
    "ClassVar by another name": "x: int\nlimit: Shared[int] = 10",
    "ClassVar alone": "x: int\nlimit: ClassVar = 10",
    "InitVar": "x: int\nby: InitVar[int] = 2\ndef __post_init__(self, by): self.x *= by",
    "InitVar by another name": "x: int\nf: Once[int]\ndef __post_init__(self, f): self.x *= f",
    "KW_ONLY": "x: int\n_: KW_ONLY\ny: int = 1",
    "field()": "x: list[int] = field(default_factory=list)\ny: int = field(default=1, repr=False)",
    "field() with keyword": "x: int = 1\ny: int = field(kw_only=True)",
    "a field named self": "self: int",
    "a descriptor": "x: int = Descriptor()",
    "a function as default": "x: object = len\ny: object = indented",
    "slots of its own": "__slots__ = ('x',)\nx: int",
}

PRELUDE = """
import enum, typing
from dataclasses import InitVar, KW_ONLY, dataclass, field
from typing import ClassVar
from streamipc import Message
def indented(): ...
Shared = ClassVar
Once = InitVar

class Color(enum.Enum):
    RED = 1

class Descriptor:
    def __get__(self, obj, cls): return 5 if obj is None else obj.__dict__['_x']
    def __set__(self, obj, value): obj.__dict__['_x'] = value
"""


def indented(body: str) -> str:
    return "\n".join(f"    {line}" for line in body.splitlines())


def define(source: str, *, future: bool) -> dict[str, Any]:
    """Run a module of its own, which stays importable for whoever looks up names in it."""
    name = f"made_for_a_test_{next(_numbers)}"
    module = type(sys)(name)
    sys.modules[name] = module
    start = "from __future__ import annotations\n" if future else ""
    exec(compile(start + PRELUDE + source, name, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def pair(body: str, *, future: bool = True) -> tuple[type, type]:
    """Return the same class as a message and as a plain dataclass, of one module."""
    names = define(
        f"class Thing(Message):\n{indented(body)}\n"
        "mine = Thing\n"
        f"@dataclass\nclass Thing:\n{indented(body)}\n",
        future=future,
    )
    return names["mine"], names["Thing"]


def observed(cls: Any) -> dict[str, Any]:
    """Return all that an observer may see of a dataclass."""
    names = ("name", "type", "default", "init", "repr", "hash", "compare", "kw_only")
    fields = [[getattr(f, name) for name in names] for f in dataclasses.fields(cls)]
    signature = inspect.signature(cls)
    methods = {
        name: (method.__qualname__, str(inspect.signature(method)))
        for name in ("__init__", "__repr__", "__eq__", "__replace__")
        if inspect.isfunction(method := cls.__dict__.get(name))
    }
    return {
        "is one": dataclasses.is_dataclass(cls),
        "fields": [
            [item if item is not dataclasses.MISSING else "-" for item in f] for f in fields
        ],
        "params": repr(cls.__dataclass_params__),
        "doc": cls.__doc__,
        "signature": str(signature),
        "annotations": repr(cls.__init__.__annotations__),
        "match_args": cls.__match_args__,
        "hash": cls.__hash__ is None,
        "methods": methods,
        "module of init": cls.__init__.__module__ == cls.__module__,
    }


def made(cls: Any) -> list[Any]:
    """Return what becomes of instances: made, shown, compared, copied, replaced."""
    count = sum(
        p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
        for p in inspect.signature(cls).parameters.values()
    )
    keywords = {
        p.name: 9
        for p in inspect.signature(cls).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    }
    one, two, other = (cls(*[n] * count, **keywords) for n in (1, 1, 2))
    results = [repr(one), one == two, one == other, one != two, one == 1, copy.copy(one) == one]
    if "__init__" not in cls.__dict__ or "InitVar" not in str(cls.__annotations__):
        with_dict = getattr(one, "__dict__", None)
        results.append(with_dict)
    for attempt in (
        lambda: dataclasses.asdict(one),
        lambda: dataclasses.astuple(one),
        lambda: repr(dataclasses.replace(one)),
        lambda: cls(1, 2, 3, 4, 5),
        lambda: cls(unknown=1),
        lambda: hash(one),
    ):
        try:
            results.append(attempt())
        except Exception as error:
            results.append((type(error), str(error)))
    return results


@pytest.mark.parametrize("future", [True, False], ids=["strings", "objects"])
@pytest.mark.parametrize("what", BODIES)
def test_a_message_looks_like_the_dataclass_of_the_same_body(what: str, future: bool) -> None:
    mine, plain = pair(BODIES[what], future=future)

    assert observed(mine) == observed(plain)


@pytest.mark.parametrize("what", BODIES)
def test_a_message_behaves_like_the_dataclass_of_the_same_body(what: str) -> None:
    mine, plain = pair(BODIES[what])

    assert made(mine) == made(plain)


@pytest.mark.parametrize(
    "body",
    ["x: int = 1\ny: int", "x: list[int] = []", "x = field()"],
    ids=["no default after a default", "a list as default", "a field without annotation"],
)
def test_a_wrong_body_is_refused_as_by_dataclass_and_at_once(body: str) -> None:
    with pytest.raises((TypeError, ValueError)) as expected:
        define(f"@dataclass\nclass Thing:\n{indented(body)}\n", future=True)
    with pytest.raises(expected.type) as caught:
        define(f"class Thing(Message):\n{indented(body)}\n", future=True)

    assert str(caught.value) == str(expected.value)


HEIRS = {
    "adds a field": ("x: int", "y: int = 2"),
    "adds none": ("x: int", "pass"),
    "changes a default": ("x: int\ny: int = 1", "y: int = 5"),
    "changes a type": ("x: int\ny: int = 1", "x: str = 'a'"),
    "changes a default without annotation": ("x: int\ny: int = 1", "y = 5"),
    "of a special one": ("x: list[int] = field(default_factory=list)", "y: int = 2"),
    "becomes special": ("x: int", "y: list[int] = field(default_factory=list)"),
    "inherits __post_init__": ("x: int\ndef __post_init__(self): self.x += 1", "y: int = 2"),
    "repeats an annotation": ("x: int = 3", "x: int"),
}


@pytest.mark.parametrize("what", HEIRS)
def test_an_heir_has_the_fields_that_it_has_as_a_dataclass(what: str) -> None:
    base, heir = map(indented, HEIRS[what])
    mine = define(f"class Base(Message):\n{base}\nclass Thing(Base):\n{heir}\n", future=True)
    plain = define(
        f"@dataclass\nclass Base:\n{base}\n@dataclass\nclass Thing(Base):\n{heir}\n", future=True
    )

    assert observed(mine["Thing"]) == observed(plain["Thing"])
    assert observed(mine["Base"]) == observed(plain["Base"])
    assert made(mine["Thing"]) == made(plain["Thing"])


def test_a_mixin_that_is_a_dataclass_gives_its_fields() -> None:
    @dataclasses.dataclass
    class Mixin:
        tags: list[str] = dataclasses.field(default_factory=list)

    class Tagged(Mixin, Message):
        name: str = ""

    assert [f.name for f in dataclasses.fields(Tagged)] == ["tags", "name"]
    assert Tagged(["a"], "b").tags == ["a"]


@pytest.mark.parametrize(
    "options", [{"frozen": True, "order": True}, {"slots": True}, {"eq": False}]
)
def test_an_explicit_dataclass_on_top_starts_from_what_is_written(
    options: dict[str, bool],
) -> None:
    class Mine(Message, wire_name=f"tests.top{next(_numbers)}"):
        x: int
        y: int = 0

    assert repr(Mine(1)).endswith("Mine(x=1, y=0)")
    top: Any = dataclasses.dataclass(**options)(Mine)  # type: ignore[call-overload]

    @dataclasses.dataclass(**options)  # type: ignore[call-overload]
    class Plain:
        x: int
        y: int = 0

    assert repr(top.__dataclass_params__) == repr(Plain.__dataclass_params__)
    assert (top(1) == top(1)) is (Plain(1) == Plain(1))
    assert hasattr(top(1), "__dict__") is hasattr(Plain(1), "__dict__")
    assert (top.__hash__ is None) is (Plain.__hash__ is None)
    if options.get("order"):
        assert top(1) < top(2)


def test_what_a_program_puts_into_the_class_stays() -> None:
    class Patched(Message):
        x: int

    def shout(self: Patched) -> str:
        return "PATCHED"

    made = Patched.__init__

    def init(self: Patched, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        self.x *= 2

    Patched.__repr__ = shout  # type: ignore[method-assign]
    Patched.__init__ = init  # type: ignore[method-assign]

    assert dataclasses.is_dataclass(Patched)
    assert repr(Patched(1)) == "PATCHED"
    assert Patched(1) == Patched(1)
    assert Patched(4).x == 8


def test_super_reaches_what_dataclass_made() -> None:
    class Base(Message):
        x: int

    class Heir(Base):
        y: int = 2

        def __init__(self, x: int) -> None:
            super().__init__(x)
            self.y = 3

        def __repr__(self) -> str:
            return f"<{super().__repr__()}>"

        def __eq__(self, other: object) -> bool:
            return bool(super().__eq__(other))

    assert repr(Heir(1)).endswith("Heir(x=1)>")
    assert repr(Heir(1)).count("<<") == 0
    assert Heir(1) == Heir(1)
    assert Heir(1) != Heir(2)


class Plain(Message):
    x: int
    y: str = "a"


def test_a_plain_message_can_be_pickled_matched_and_documented() -> None:
    message = Plain(1)

    match message:
        case Plain(x, y):
            assert (x, y) == (1, "a")
        case _:
            pytest.fail("no match")
    assert pickle.loads(pickle.dumps(message)) == message
    assert copy.deepcopy(message) == message
    assert "Plain(x: 'int', y: 'str' = 'a')" in pydoc.plain(pydoc.render_doc(Plain))


@pytest.mark.skipif(sys.version_info < (3, 13), reason="copy.replace is new in Python 3.13")
def test_copy_replace_works() -> None:
    class Fresh(Message):
        x: int
        y: int = 0

    assert copy.replace(Fresh(1), y=2) == Fresh(1, 2)  # type: ignore[attr-defined]


def test_a_module_that_is_gone_takes_nothing_along() -> None:
    names = define("class Thing(Message):\n    x: int\n    y: int = 1\n", future=True)
    del sys.modules[names["__name__"]]

    assert repr(names["Thing"](2)) == "Thing(x=2, y=1)"
    assert [f.type for f in dataclasses.fields(names["Thing"])] == ["int", "int"]
