"""Programs that would start themselves without end, and those that only look like it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import streamipc
from streamipc.transports import _lineage
from streamipc.transports.process import start_process

HOME = Path(streamipc.__file__).resolve().parent.parent

MESSAGES = """
from streamipc import Message, Request

class Hello(Request[str]):
    name: str
"""

COUNT = """
import os, pathlib, sys
with pathlib.Path(os.environ["LOG"]).open("a") as log:
    log.write("started\\n")
"""

SERVE = """
session = IpcPeer().create_stdio_session()

@session.on_request
def hello(msg: Hello) -> str:
    return "hello " + msg.name

session.serve_forever()
"""

ASK = """
with IpcPeer().create_command_session([sys.executable, {command}]) as session:
    print(session.request(Hello("Riki")).result(60))
"""

CHILD = "from parent import Hello\nfrom streamipc import IpcPeer\n" + SERVE
PARENT = COUNT + "from streamipc import IpcPeer\n" + MESSAGES


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[subprocess.CompletedProcess[str], int]]:
    """Run a program made of files; return how it ended, and how many were started in all."""

    def program(*arguments: str, **files: str) -> tuple[subprocess.CompletedProcess[str], int]:
        for name, text in files.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))
        log = tmp_path / "log"
        environment = {**os.environ, "PYTHONPATH": str(HOME), "LOG": str(log)}
        environment.pop(_lineage._VARIABLE, None)
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            errors="backslashreplace",
        )
        return done, log.read_text().count("started")

    return program


def check_is_told(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode != 0
    assert "would go on without end" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr


def test_a_parent_without_a_guard_whose_messages_the_child_imports_is_told_of_it(run) -> None:
    done, started = run("parent.py", parent=PARENT + ASK.format(command="'child.py'"), child=CHILD)

    check_is_told(done)
    assert "is importing that file now, as 'parent'" in done.stderr
    assert started == 2  # the parent, and its import


def test_a_parent_that_starts_its_child_in_a_function_is_told_too(run) -> None:
    main = "def main():" + textwrap.indent(ASK.format(command="'child.py'"), "    ") + "\nmain()"
    done, started = run("parent.py", parent=PARENT + main, child=CHILD)

    check_is_told(done)
    assert started == 2


def test_a_parent_that_is_run_as_a_module_is_told_too(run) -> None:
    done, started = run(
        "-m",
        "shop.parent",
        shop__parent=PARENT + ASK.format(command="'-m', 'shop.child'"),
        shop__child=CHILD.replace("from parent", "from shop.parent"),
    )

    check_is_told(done)
    assert started == 2


def test_an_application_that_starts_its_child_when_a_server_imports_it_is_told_too(run) -> None:
    done, started = run(
        "server.py",
        server="import parent",
        parent=PARENT + ASK.format(command="'child.py'"),
        child=CHILD,
    )

    check_is_told(done)
    assert started == 2


def test_a_parent_that_starts_its_child_on_a_thread_is_told_too(run) -> None:
    start = "\nimport threading\ndef start():" + textwrap.indent(
        ASK.format(command="'child.py'"), "    "
    )
    start += "\nthread = threading.Thread(target=start)\nthread.start()\nthread.join()"
    done, started = run("parent.py", parent=PARENT + start, child=CHILD)

    assert "is importing that file now, as 'parent'" in done.stderr
    assert started == 2


def test_a_chain_whose_links_all_differ_comes_to_an_end(monkeypatch) -> None:
    value = os.pathsep.join([str(_lineage._MOST_GENERATIONS), "0", "1"])
    monkeypatch.setenv(_lineage._VARIABLE, value)

    with pytest.raises(RuntimeError, match="32 ancestors, each started by the one before"):
        start_process(["cat"])


def test_a_script_that_starts_itself_without_a_guard_is_told_of_it(run) -> None:
    done, started = run("parent.py", parent=PARENT + ASK.format(command="__file__"))

    assert done.returncode != 0
    assert "with the same arguments, 3 times in a row" in done.stderr
    assert started == 4


def test_a_guarded_parent_may_be_imported_by_its_child(run) -> None:
    guarded = '\nif __name__ == "__main__":' + textwrap.indent(
        ASK.format(command="'child.py'"), "    "
    )
    done, _ = run("parent.py", parent=PARENT + guarded, child=CHILD)

    assert (done.stdout, done.stderr) == ("hello Riki\n", "")


def test_a_script_may_start_itself_as_a_child_that_is_told_by_its_arguments(run) -> None:
    """Each asks the next, five deep, before it answers: the fourth would be stopped if not told.

    The first one waits until all the others have started: for no time that could be named here.
    """
    program = (
        PARENT
        + """
left = int(sys.argv[1])

def ask():
    with IpcPeer().create_command_session([sys.executable, __file__, str(left - 1)]) as session:
        return session.call(Hello("Riki"), None)

if left == 5:
    print(ask())
else:
    session = IpcPeer().create_stdio_session()

    @session.on_request
    def hello(msg: Hello) -> str:
        return ask() + "!" if left else "hello " + msg.name

    session.serve_forever()
"""
    )
    done, started = run("parent.py", "5", parent=program)

    assert (done.stdout, done.stderr) == ("hello Riki!!!!\n", "")
    assert started == 6


def test_programs_on_the_command_line_are_told_apart(run) -> None:
    """As deep as above, and as patient."""
    source = (
        "with IpcPeer().create_command_session([sys.executable, '-c', {inner!r}]) as s:\n"
        "    s.receive(None)"
    )
    head = COUNT + "from streamipc import IpcPeer, LogMessage\n"
    program = head + "s = IpcPeer().create_stdio_session(); s.notify(LogMessage('end')); s.close()"
    for _ in range(5):
        passed_on = "\ns = IpcPeer().create_stdio_session(); s.notify(LogMessage('x')); s.close()"
        program = head + source.format(inner=program) + passed_on
    done, started = run("-c", program)

    assert done.returncode == 0, done.stderr
    assert started == 6


def test_a_module_that_starts_a_helper_may_be_imported_on_both_sides(run) -> None:
    """The helper is not the one that imports the module: there is an end."""
    helper = """
        import sys
        from messages import Hello
        from streamipc import IpcPeer
        session = IpcPeer().create_command_session([sys.executable, "helper.py"])
    """
    parent = COUNT + "from helping import Hello, IpcPeer, session\n" + ASK
    done, _ = run(
        "parent.py",
        messages=MESSAGES,
        helping=helper,
        helper="from messages import Hello\nfrom streamipc import IpcPeer\n" + SERVE,
        parent=parent.format(command="'child.py'"),
        child="from helping import Hello, IpcPeer, session as helper\n"
        "helper.call(Hello('x'), 60)\n" + SERVE,
    )

    assert (done.stdout, done.stderr) == ("hello Riki\n", "")


def test_the_environment_is_the_users_and_one_variable_more(read_all) -> None:
    before = dict(os.environ)
    transport = start_process(
        [sys.executable, "-S", "-c", "import os; print(*os.environ)"], env={"A": "b"}
    )
    names = set(read_all(transport).decode().split()) - {"LC_CTYPE"}
    transport.shutdown(5)
    transport.close()

    assert names == {"A", _lineage._VARIABLE}
    assert dict(os.environ) == before


@pytest.mark.parametrize("value", ["", "x", "1", "1:2", "a:b:c:d"])
def test_a_variable_that_somebody_else_has_written_is_no_reason_to_fail(value, monkeypatch) -> None:
    monkeypatch.setenv(_lineage._VARIABLE, value)

    assert _lineage.environment_of_child({})[_lineage._VARIABLE].startswith("1:0:")
