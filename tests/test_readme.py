"""Every snippet of README.md is executed, and prints what the README says it prints.

``support/snippets.py`` tells how a snippet says what it is.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from snippets import Page as Document

from streamipc import IpcPeer, JsonMessageSerializer, Message, Request

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = Document(ROOT / "README.md")
README = DOCUMENT.text
SNIPPETS = DOCUMENT.snippets


# The messages that the JSON snippets speak of.


class SayHello(Request[object], wire_name="messages.SayHello"):
    name: str


class Greeting(Message, wire_name="messages.Greeting"):
    text: str


class Page(Message, wire_name="messages.Page"):
    number: int


class Scan(Request[int], wire_name="messages.Scan"):
    pages: int


class Step(Message, wire_name="messages.Step"):
    done: int
    of: int


@pytest.mark.parametrize("program", DOCUMENT.programs)
def test_readme_program_prints_what_the_readme_says(program: str, tmp_path: Path) -> None:
    DOCUMENT.check_program(program, tmp_path)


def test_every_snippet_is_executed() -> None:
    DOCUMENT.check_all_are_executed()


@pytest.mark.parametrize(
    "line", [line for s in SNIPPETS if s["language"] == "json" for line in s["text"].splitlines()]
)
def test_json_envelope_is_read_and_written_as_the_readme_says(line: str) -> None:
    serializer = JsonMessageSerializer()

    envelope = serializer.decode(memoryview(line.encode()))

    assert json.loads(b"".join(serializer.encode(envelope))) == json.loads(line)


def test_the_settings_are_those_of_the_peer() -> None:
    chapter = README[README.index("What `IpcPeer` can be told") : README.index("### Notifications")]
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \| ", chapter, re.MULTILINE))
    parameters = inspect.signature(IpcPeer).parameters

    assert set(parameters) == set(table)
    for name, parameter in parameters.items():
        default = parameter.default
        if isinstance(default, bool):
            assert table[name] == f"`{default}`"
        elif isinstance(default, (int, float)):
            told = float(table[name].removesuffix(" MiB"))
            assert default == told * (2**20 if "MiB" in table[name] else 1), name
    spin = re.search(r"looks for it for up to (\d+) µs", README)
    assert spin is not None
    assert int(spin[1]) == round(parameters["spin"].default * 1e6)


def test_two_set_up_commands_can_be_pasted() -> None:
    commands = {s["name"]: s["text"] for s in SNIPPETS if s["what"] == "command"}

    assert sorted(commands) == ["hello", "tests"]
    for text in commands.values():
        assert text.count("\n") == 1
        checked = subprocess.run(["sh", "-n", "-c", text], capture_output=True, timeout=10)
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("link", DOCUMENT.links)
def test_link_leads_to_a_file(link: str) -> None:
    assert (ROOT / link).exists()


def test_gate_finds_the_commands(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed: .ci/run needs it")
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    function = re.search(r"^readme_command\(\) \{.*?^\}", text, re.MULTILINE | re.DOTALL)
    assert function is not None

    for snippet in SNIPPETS:
        if snippet["what"] == "command":
            source = f"repo={ROOT}\n{function[0]}\nreadme_command {snippet['name']}"
            done = subprocess.run([bash, "-c", source], capture_output=True, text=True, timeout=10)
            assert done.stdout == snippet["text"], done.stderr
