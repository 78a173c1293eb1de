"""The rules of the house: imports point one way, the protocol does no I/O, files stay small."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamipc

PACKAGE = Path(streamipc.__file__).resolve().parent
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    {
        "_environment",
        "_events",
        "_forks",
        "_log",
        "_patches",
        "_python",
        "_shown",
        "_signals",
        "_threads",
        "exceptions",
        "limits",
    },
    {"messages"},
    {"envelopes", "protocol"},
    {"serializers"},
    {"futures", "handlers", "engine"},
    {"_arguments", "_host", "_registering", "_terminating", "session", "sync"},
    {"peer"},
    {"pool"},
)
"""From the ground up: a file may import from its own floor and from those below it."""

BESIDE = {"transports"}
"""Known to the peer alone; they themselves may use the ground floor."""

CONTRACTS = {"streamipc.serializers.base", "streamipc.transports.base"}
"""The interfaces of both, which every floor may name; they import nothing themselves but the
package, for its name in annotations."""

UPWARDS = {
    "exceptions.py": {"streamipc.envelopes.Envelope"},
    "handlers.py": {"streamipc.IpcSession"},
    "serializers/base.py": {"streamipc.envelopes.Envelope"},
    "session.py": {"streamipc.IpcPeer"},
}
"""What a file names in annotations though it stands above it. ``typing.get_type_hints()`` finds it
by way of the package, which imports it then."""

WIDE = {"BaseException", "Exception", "OSError", "RuntimeError", "TimeoutError"}
"""What the handler of a signal may raise as well."""

TELLS = {
    "_frame_of_failure",
    "_report",
    "interrupt_in",
    "interrupted",
    "is_interrupt",
    "let_through",
    "report",
}
"""They let that through, or see to it that it comes out of the call that waits."""

TAKE_ALL = {
    "a process that was forked just now, or a module that is imported": {
        "_forks.py _wiped_page",
        "_forks.py _forget_all",
        "transports/pipe.py release_after_fork",
    },
    "the exit, which closes all others too": {"engine/lifetimes.py close_all"},
    "threads of ours, where no signal's handler runs": {
        "engine/thread_pool.py _work",
        "transports/_stderr.py _call",
        "transports/_stderr.py _write_waiting",
        "transports/_watch.py _read_stderr",
        "transports/pump.py _copy",
        "transports/pump.py _run",
    },
    "looks at what was raised": {
        "futures.py _awaited",
        "protocol/connection.py _decode",
        "protocol/connection.py decode",
        "serializers/native.py decode",
        "transports/pipe.py read_into",
    },
}

IO_MODULES = {
    "asyncio",
    "concurrent",
    "fcntl",
    "multiprocessing",
    "os",
    "queue",
    "select",
    "selectors",
    "signal",
    "socket",
    "subprocess",
    "threading",
    "time",
}
"""What protocol/ must do without: threads, locks, descriptors, clocks."""

ID_GENERATORS = {"os", "threading", "time"}
"""Allowed in protocol/envelopes.py alone: ids that are unique across processes are made of
the process id and a clock. The connection calls a generator and knows nothing of it."""

STORES = {
    "caller_runs.py": {"error.__context__", "self._here.depth", "task.entered"},
    "io_thread.py": {"task.by_io_thread"},
    "thread_pool.py": {"task.entered", "thread.task", "thread.thread"},
}
"""What these files of engine/ may set besides attributes of ``self``: where a task and a thread of
the pool are. A thread's own depth is no attribute that others see."""

OWN_STATE_ALONE = {
    *STORES,
    "deadlines.py",
    "leader.py",
    "channel.py",
    "poller.py",
    "pool_thread.py",
    "send_gate.py",
    "reader.py",
    "waiters.py",
}
"""Files of engine/ that change nobody else's state."""

SUBCLASSES = {"WriteTask": {"CallTask"}}
"""Classes of engine/ that are made of others there; new ones are composed."""

MAX_LINES = 400

CIRCLES = [
    {
        "serializers._json_build",
        "serializers._json_free",
        "serializers._json_named",
        "serializers._json_records",
    },
]
"""Files that still import each other, be it for types alone; the list is to get shorter."""


def room(file: Path) -> str:
    """Return the floor's name for a file: its folder, or the file's own name."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path, for_types: bool = False) -> Iterator[tuple[int, str]]:
    """Yield line and absolute dotted name of every import, lazy ones too.

    Args:
        file: of the package.
        for_types: also those that only a type checker sees, and by name what a package has.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    unseen = (
        set()
        if for_types
        else {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for statement in node.body
            for inner in ast.walk(statement)
        }
    )
    here = ("streamipc", *file.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            if module == "streamipc" or for_types:  # "from . import peer" names a room
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            if module != "streamipc":
                yield node.lineno, module


@pytest.mark.parametrize("contract", sorted(CONTRACTS))
def test_a_contract_stands_by_itself(contract: str) -> None:
    *folders, name = contract.split(".")[1:]
    files = [PACKAGE.joinpath(*folders, f"{name}.py"), PACKAGE.joinpath(*folders, "__init__.py")]

    used = [module for file in files for _, module in imports(file)]
    assert [module for module in used if module.startswith("streamipc.")] == []


def test_files_ask_the_package_for_these_names_alone_and_in_annotations_alone() -> None:
    named: dict[str, set[str]] = {}
    for file in FILES:
        nodes = [*ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
        hints = [hint for node in nodes for hint in annotations_of(node)]
        inside = {id(inner) for hint in hints for inner in ast.walk(hint)}
        uses = [node for node in nodes if isinstance(node, ast.Name) and node.id == "streamipc"]
        assert [node.lineno for node in uses if id(node) not in inside] == [], file
        if uses:
            texts = " ".join(map(ast.unparse, hints))
            named[file.relative_to(PACKAGE).as_posix()] = {*re.findall(r"streamipc[.\w]+", texts)}

    assert named == UPWARDS


def annotations_of(node: ast.AST) -> list[ast.AST]:
    found = (getattr(node, "annotation", None), getattr(node, "returns", None))
    return [hint for hint in found if hint is not None]


def may_import(mine: str, other: str) -> bool:
    if mine in (other, "__init__"):
        return True
    if mine in BESIDE:
        return other in FLOORS[0]
    if other in BESIDE:
        return mine == "peer"
    return floor_of(other) <= floor_of(mine)


def floor_of(name: str) -> int:
    """Return the number of a room's floor; a new file must be given one."""
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path) -> None:
    mine = room(file)
    wrong = [
        f"line {line}: {mine} imports {module}"
        for line, module in imports(file)
        if module.startswith("streamipc.")
        and module not in CONTRACTS
        and not may_import(mine, module.split(".")[1])
    ]
    assert wrong == []


def test_pools_stand_on_the_public_api() -> None:
    """But for the record of a request, which their futures show, and the end of the process."""
    used = {module for file in (PACKAGE / "pool").glob("*.py") for _, module in imports(file)}

    assert {module for module in used if module.startswith("streamipc.engine")} == {
        "streamipc.engine.calls",
        "streamipc.engine.lifetimes",
    }


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


def test_imports_go_in_no_circle() -> None:
    """Also those for types: who reads one file of a circle has to read all.

    What is named by way of the package (``streamipc.IpcPeer``) is listed in ``UPWARDS``.
    """
    files = {name_of(file): file for file in FILES if file.name != "__init__.py"}
    graph = {
        name: {module.removeprefix("streamipc.") for _, module in imports(file, for_types=True)}
        & (files.keys() - {name})
        for name, file in files.items()
    }
    reached: dict[str, set[str]] = {}
    for name in graph:
        left = [*graph[name]]
        reached[name] = set()
        while left:
            other = left.pop()
            if other not in reached[name]:
                reached[name].add(other)
                left += graph[other]
    circles = {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in graph
        if name in reached[name]
    }

    assert sorted(map(sorted, circles)) == sorted(map(sorted, CIRCLES))


def test_transports_are_asked_through_their_adapter() -> None:
    """What a transport may lack is asked in one place; the peer sees that it has the rest."""
    asked = [
        f"{name_of(file)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("getattr", "hasattr")
        and re.search("transport|endpoint", ast.unparse(node.args[0]))
    ]

    assert {place.partition(":")[0] for place in asked} == {"engine.transport", "peer"}
    assert len([place for place in asked if place.startswith("peer")]) == 1


@pytest.mark.parametrize(
    "file", sorted((PACKAGE / "protocol").glob("*.py")), ids=lambda file: file.name
)
def test_the_protocol_does_no_io(file: Path) -> None:
    allowed = ID_GENERATORS if file.name == "envelopes.py" else set()
    used = {module.split(".")[0] for _, module in imports(file)}

    assert used & IO_MODULES <= allowed


def test_every_room_is_on_a_floor() -> None:
    rooms = {room(file) for file in FILES} - {"__init__"}

    assert rooms == set().union(*FLOORS, BESIDE)


def test_all_that_is_exported_exists() -> None:
    missing = [name for name in streamipc.__all__ if not hasattr(streamipc, name)]
    for found in pkgutil.walk_packages(streamipc.__path__, "streamipc."):
        module = importlib.import_module(found.name)
        missing += [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]

    assert missing == []
    assert sorted(streamipc.__all__) == sorted(set(streamipc.__all__))


def stores(file: Path) -> set[str]:
    """Return the attributes that a file sets or deletes, or sets or deletes an item of."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            while isinstance(node, ast.Subscript):
                node = node.value
            if isinstance(node, ast.Attribute):
                found.add(ast.unparse(node))
    return found


def test_leadership_is_written_in_its_own_file_alone() -> None:
    own = stores(PACKAGE / "engine" / "leader.py")
    names = {store.removeprefix("self.") for store in own}
    assert {"_claims", "prefer_io_thread"} <= names
    others = {
        f"{file.name}: {store}"
        for file in FILES
        if file.name != "leader.py"
        for store in stores(file)
        if store.split(".")[-1] in names and "leader" in store
    }

    assert all(store.startswith("self.") for store in own)
    assert others == set()


@pytest.mark.parametrize("name", sorted(OWN_STATE_ALONE))
def test_a_part_changes_its_own_state_alone(name: str) -> None:
    others = {
        store
        for store in stores(PACKAGE / "engine" / name)
        if not (store.startswith("self.") and store.count(".") == 1)
    }

    assert others <= STORES.get(name, set())


def test_the_engine_is_composed_not_inherited() -> None:
    classes = {
        node.name: {ast.unparse(base) for base in node.bases}
        for file in sorted((PACKAGE / "engine").glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    protocols = {name for name, bases in classes.items() if "Protocol" in bases}
    mixed = {name: bases & (classes.keys() - protocols) for name, bases in classes.items()}

    assert {name: bases for name, bases in mixed.items() if bases} == SUBCLASSES


def takes_more_than_it_names(handler: ast.ExceptHandler) -> bool:
    """Tell whether what the handler of a signal has raised may be taken for what is expected."""
    names = {"BaseException"} if handler.type is None else names_in(handler.type)
    if not names & WIDE:
        return False
    if isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None:
        return False
    calls = [node.func for node in ast.walk(handler) if isinstance(node, ast.Call)]
    return not any(names_in(called) & TELLS for called in calls)


def names_in(node: ast.AST) -> set[str]:
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return names | {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}


def functions_that_take_too_much(file: Path) -> set[str]:
    found: set[str] = set()

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.ExceptHandler) and takes_more_than_it_names(node):
            found.add(f"{file.relative_to(PACKAGE).as_posix()} {function}")
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(file.read_text(encoding="utf-8")), "")
    return found


def test_what_a_signals_handler_raises_is_taken_for_nothing_else() -> None:
    """A ``TimeoutError`` is an ``OSError``, and may come at any line."""
    found = set[str]().union(*map(functions_that_take_too_much, FILES))

    assert found == set().union(*TAKE_ALL.values())


@pytest.mark.filterwarnings("default:files past:UserWarning")
def test_files_are_small_enough_to_say_one_thing() -> None:
    lengths = {
        str(file.relative_to(PACKAGE)): len(file.read_text(encoding="utf-8").splitlines())
        for file in FILES
    }
    long = {name: length for name, length in lengths.items() if length > MAX_LINES}
    if long:
        warnings.warn(f"files past {MAX_LINES} lines; do they say two things? {long}", stacklevel=1)

    assert all(length <= 2 * MAX_LINES for length in lengths.values())
