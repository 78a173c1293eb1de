"""Message classes: dataclasses at once, with a name on the wire."""

from __future__ import annotations

import abc
import dataclasses
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from streamipc import (
    ErrorMessage,
    IpcError,
    LogMessage,
    Message,
    MessageDefinitionError,
    Request,
    SerializationError,
)
from streamipc.messages import message_type, wire_name_of

T = TypeVar("T")


class Point(Message):
    x: int
    y: int = 0


class Named(Point):
    name: str = ""
    tags: list[str] = field(default_factory=list)


class Ask(Request["Point"]):
    """Its reply's type is named before it is defined."""

    later: Later | None = None


class Later(Message):
    text: str


def test_a_message_is_a_dataclass_at_once() -> None:
    assert dataclasses.is_dataclass(Point)
    assert Point(1) == Point(1, 0)
    assert Point(1) != Point(2)
    assert Point(x=1, y=2).y == 2
    assert repr(Point(1, 2)) == "Point(x=1, y=2)"
    assert [f.name for f in dataclasses.fields(Named)] == ["x", "y", "name", "tags"]


def test_a_wrong_argument_is_refused_as_by_any_dataclass() -> None:
    with pytest.raises(TypeError, match="z"):
        Point(1, z=2)  # type: ignore[call-arg]


def test_fields_are_inherited_and_default_factories_are_called_each_time() -> None:
    one, two = Named(1), Named(1)
    one.tags.append("a")

    assert isinstance(one, Point)
    assert two.tags == []


def test_messages_nest() -> None:
    class Line(Message):
        start: Point
        end: Point

    assert Line(Point(1), Point(2)).end.x == 2


def test_a_reference_to_a_later_class_is_fine() -> None:
    assert Ask(Later("x")).later == Later("x")


def test_options_of_dataclass_are_class_keywords() -> None:
    class Frozen(Message, frozen=True, kw_only=True):
        a: int

    message = Frozen(a=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.a = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Frozen(1)  # type: ignore[misc]
    assert {message: "hashable"}[Frozen(a=1)] == "hashable"


def test_slots_give_a_class_that_is_still_registered() -> None:
    class Slotted(Message, slots=True):
        a: int

    assert not hasattr(Slotted(1), "__dict__")
    assert message_type(wire_name_of(Slotted)) is Slotted


def test_methods_of_a_class_with_slots_may_use_super() -> None:
    class Slotted(Message, slots=True):
        a: int

        def __repr__(self) -> str:
            return f"<{super().__repr__()}>"

        def own_class(self) -> type:
            return __class__  # type: ignore[name-defined,no-any-return]

    assert "Slotted object" in repr(Slotted(1))
    assert Slotted(1).own_class() is Slotted


def test_other_class_keywords_go_to_init_subclass() -> None:
    class Tagged(Message):
        tag = ""

        def __init_subclass__(cls, tag: str = "none", **options: Any) -> None:
            super().__init_subclass__(**options)
            cls.tag = tag

    class Red(Tagged, tag="red", frozen=False):
        a: int

    assert Red(1).tag == "red"
    with pytest.raises(TypeError, match="keyword"):

        class Wrong(Message, no_such_option=True):  # type: ignore[call-arg]
            pass


def test_an_explicit_dataclass_on_top_wins() -> None:
    @dataclass(frozen=True, order=True)
    class Ordered(Message):
        a: int
        b: list[int] = field(default_factory=list, compare=False)

    assert Ordered(1, [9]) < Ordered(2, [1])
    assert Ordered(1, [9]) == Ordered(1, [1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        Ordered(1).a = 2  # type: ignore[misc]


def test_an_explicit_dataclass_with_slots_is_registered_as_the_class_it_makes() -> None:
    @dataclass(slots=True)
    class Slotted(Message, wire_name="tests.explicit-slots"):
        a: int

    assert message_type("tests.explicit-slots") is Slotted
    assert not hasattr(Slotted(1), "__dict__")


def test_what_is_written_in_the_class_is_kept() -> None:
    class Quiet(Message):
        secret: str

        def __repr__(self) -> str:
            return "Quiet(...)"

        def __post_init__(self) -> None:
            self.secret = self.secret.upper()

    assert repr(Quiet("x")) == "Quiet(...)"
    assert Quiet("x").secret == "X"


def test_a_message_may_be_generic_and_abstract() -> None:
    class Box(Message, Generic[T]):
        item: T

    class Shape(Message, abc.ABC, abstract=True):
        @abc.abstractmethod
        def area(self) -> float: ...

    class Square(Shape):
        side: float

        def area(self) -> float:
            return self.side**2

    assert Box("x").item == "x"
    assert Box[int](1) == Box(1)
    assert Square(2.0).area() == 4.0
    with pytest.raises(TypeError, match="abstract"):
        Shape()  # type: ignore[abstract]
    with pytest.raises(SerializationError, match="itself can't be sent"):
        wire_name_of(Shape)


@pytest.mark.parametrize("options", [{}, {"slots": True}, {"frozen": True}, {"kw_only": True}])
def test_fields_of_an_abstract_message_are_inherited(options: dict[str, bool]) -> None:
    class Base(Message, abstract=True, **options):
        a: int

    class Derived(Base, **options):
        b: int = 2

    class Plain(Message, abstract=True):
        def label(self) -> str:
            return "label"

    class Frozen(Plain, frozen=True):
        c: int

    assert Derived(a=1) == Derived(a=1, b=2)
    assert message_type(wire_name_of(Derived)) is Derived
    assert Frozen(1).label() == "label"
    with pytest.raises(SerializationError, match="Base itself can't be sent"):
        wire_name_of(Base)


def test_an_explicit_dataclass_on_top_of_an_abstract_message_wins() -> None:
    @dataclass(frozen=True, slots=True)
    class Base(Message, abstract=True):
        a: int

    class Derived(Base, frozen=True):
        pass

    with pytest.raises(dataclasses.FrozenInstanceError):
        Derived(1).a = 2  # type: ignore[misc]
    with pytest.raises(SerializationError, match="Base itself can't be sent"):
        wire_name_of(Base)


def test_requests_may_be_generic_over_anything() -> None:
    class Sum(Request[int]):
        numbers: list[int]

    class Nothing(Request[None]):
        pass

    assert Sum([1, 2]).numbers == [1, 2]
    assert Nothing() == Nothing()


@pytest.mark.parametrize("cls", [Message, Request])
def test_the_base_classes_themselves_are_not_sent(cls: type[Message]) -> None:
    with pytest.raises(SerializationError, match="define a subclass"):
        wire_name_of(cls)


# Names on the wire


def test_the_wire_name_is_module_and_qualified_name() -> None:
    class Inner(Message):
        pass

    assert wire_name_of(Point) == f"{__name__}.Point"
    assert wire_name_of(Inner).endswith("<locals>.Inner")
    assert message_type(wire_name_of(Point)) is Point


def test_a_wire_name_can_be_chosen_and_is_not_inherited() -> None:
    class Chosen(Message, wire_name="tests.chosen"):
        pass

    class Child(Chosen):
        pass

    assert wire_name_of(Chosen) == "tests.chosen"
    assert wire_name_of(Child) != "tests.chosen"


def test_two_classes_of_one_wire_name_are_an_error_that_names_both() -> None:
    class First(Message, wire_name="tests.taken"):
        pass

    with pytest.raises(MessageDefinitionError) as caught:

        class Second(Message, wire_name="tests.taken"):
            pass

    text = str(caught.value)
    assert "First" in text
    assert "Second" in text
    assert "'tests.taken'" in text
    assert "wire_name=" in text
    assert isinstance(caught.value, IpcError)
    assert isinstance(caught.value, TypeError)
    assert message_type("tests.taken") is First


def test_the_same_class_defined_anew_takes_the_place_of_the_old() -> None:
    def define() -> type[Message]:
        class Again(Message):
            pass

        return Again

    first, second = define(), define()
    assert first is not second
    assert message_type(wire_name_of(second)) is second


@pytest.mark.parametrize("name", ["", 7, "x" * 70_000, "ä" * 40_000, "\ud800"])
def test_a_wire_name_that_cant_travel_is_refused(name: Any) -> None:
    with pytest.raises(MessageDefinitionError, match=r"wire_name of .*Bad must be a text"):

        class Bad(Message, wire_name=name):
            pass


def test_an_unknown_name_says_what_to_import() -> None:
    with pytest.raises(SerializationError) as caught:
        message_type("app.messages.Missing")

    assert "'app.messages.Missing'" in str(caught.value)
    assert "import the module that defines it (probably 'app.messages')" in str(caught.value)
    assert "app" not in sys.modules


def test_a_name_without_a_module_is_unknown_too() -> None:
    with pytest.raises(SerializationError, match="unknown message type 'Missing'"):
        message_type("Missing")


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PROGRAM = """
from streamipc import Message

class Mine(Message):
    pass

print(Mine.__wire_name__)
"""


def test_in_a_script_main_is_replaced_by_the_files_own_name(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(PROGRAM)

    assert run(tmp_path, "tool.py") == "tool.Mine"
    assert run(tmp_path, "-m", "tool") == "tool.Mine"


def test_in_a_script_inside_of_a_package_the_package_is_named(tmp_path: Path) -> None:
    package = tmp_path / "app" / "tools"
    package.mkdir(parents=True)
    (tmp_path / "app" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "tool.py").write_text(PROGRAM)
    (package / "__main__.py").write_text(PROGRAM)

    assert run(tmp_path, str(package / "tool.py")) == "app.tools.tool.Mine"
    assert run(tmp_path, "-m", "app.tools.tool") == "app.tools.tool.Mine"
    assert run(tmp_path, "-m", "app.tools") == "app.tools.__main__.Mine"


NESTED = """
from __future__ import annotations

from streamipc import JsonMessageSerializer, Message, NativeMessageSerializer, Request
from streamipc.protocol.envelopes import Notification

class Page(Message, abstract=True):
    below: Mine | None = None

class Mine(Page):
    color: Color | None = None

import enum

class Color(enum.Enum):
    RED = 1

def main():
    message = Mine(Mine(color=Color.RED))
    for serializer in (JsonMessageSerializer(), NativeMessageSerializer()):
        parts = serializer.encode(Notification(message))
        assert serializer.decode(memoryview(b"".join(parts))).message == message
    print(Mine.__wire_name__, flush=True)

if __name__ in ("__main__", "<run_path>"):
    main()
"""

RUN_PATH = "import runpy; runpy.run_path('tool.py'{})"


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("tool.py", "tool"),
        ("-m cProfile -o profile tool.py", "tool"),
        ("-m profile -o profile tool.py", "tool"),
        ("-m trace --count -C counts tool.py", "tool"),
        ("-m trace --listfuncs -C counts tool.py", "tool"),
        ("-m pdb -c continue -c quit tool.py", "tool"),
        ("-m runpy tool", "tool"),
        ("-m cProfile -o profile app/tool.py", "app.tool"),
        ("-m cProfile -o profile -m tool", "tool"),
        ("-m cProfile -o profile -m app.tool", "app.tool"),
        ("-m cProfile -o profile -m app", "app.__main__"),
        ("-m profile -o profile -m app.tool", "app.tool"),
        ("-m trace --count -C counts --module app.tool", "app.tool"),
        ("-m pdb -c continue -c quit -m app.tool", "app.tool"),
        ("-m runpy app", "app.__main__"),
        ("app", "app.__main__"),
        ("run_path.py", "tool"),
        ("run_path_as_main.py", "tool"),
        ("-m cProfile -o profile run_path.py", "tool"),
    ],
)
def test_a_script_that_another_program_runs_has_its_own_name(
    tmp_path: Path, program: str, name: str
) -> None:
    (tmp_path / "app").mkdir()
    for file in ("tool.py", "app/tool.py", "app/__main__.py"):
        (tmp_path / file).write_text(NESTED)
    (tmp_path / "app" / "__init__.py").touch()
    (tmp_path / "run_path.py").write_text(RUN_PATH.format(""))
    (tmp_path / "run_path_as_main.py").write_text(RUN_PATH.format(", run_name='__main__'"))

    assert f"{name}.Mine" in run(tmp_path, *program.split()).splitlines()


@pytest.mark.parametrize(
    "call", ["make()", "thread = threading.Thread(target=make); thread.start(); thread.join()"]
)
def test_a_class_that_another_module_makes_for_a_script_has_the_scripts_name(
    tmp_path: Path, call: str
) -> None:
    (tmp_path / "maker.py").write_text(
        textwrap.dedent("""
            from streamipc import Message

            def make():
                made = type(Message)("Mine", (Message,), {"__module__": "__main__"})
                print(made.__wire_name__, flush=True)
        """)
    )
    (tmp_path / "tool.py").write_text(f"import threading\nfrom maker import make\n{call}\n")

    assert run(tmp_path, "tool.py") == "tool.Mine"


def test_without_a_file_main_stays_main(tmp_path: Path) -> None:
    assert run(tmp_path, "-c", PROGRAM) == "__main__.Mine"


def test_one_file_run_and_imported_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(
        textwrap.dedent("""
            from streamipc import Message, MessageDefinitionError

            class Mine(Message):
                pass

            if __name__ == "__main__":
                try:
                    import tool
                except MessageDefinitionError as error:
                    print(error)
        """)
    )

    assert "move its messages into a module of their own" in run(tmp_path, "tool.py")


def test_a_multiprocessing_child_names_messages_as_its_parent_does(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(
        textwrap.dedent("""
            import multiprocessing
            from streamipc import Message

            class Mine(Message):
                pass

            def show():
                print(Mine.__wire_name__, flush=True)

            if __name__ == "__main__":
                show()
                child = multiprocessing.get_context("spawn").Process(target=show)
                child.start()
                child.join()
        """)
    )

    assert run(tmp_path, "tool.py").split() == ["tool.Mine", "tool.Mine"]


def test_the_built_in_messages_have_names_of_their_own() -> None:
    assert wire_name_of(LogMessage) == "streamipc.LogMessage"
    assert wire_name_of(ErrorMessage) == "streamipc.ErrorMessage"
    assert LogMessage("x").level == "info"
    assert ErrorMessage("x") == ErrorMessage("x", "", "")


def test_a_wire_name_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(MessageDefinitionError, match="must be a text"):

        class Odd(Message, wire_name="half \ud800 of a pair"):
            pass
