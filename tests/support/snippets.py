"""The code in README.md and in the manual: it is executed, and prints what the text says it prints.

How a snippet says what it is, in a comment on the line before its fence:

``<!-- file: FOLDER/NAME -->``
    A file; ``, continued`` appends to it. Each folder is made as it stands and every file
    that holds ``# ->`` is run in it: what stands after each ``# ->`` is what it prints.
``<!-- command: NAME -->``
    A command for a fresh clone; ``.ci/run`` runs it.

A ``json`` snippet needs no comment: each of its lines is an envelope. ``text`` is shown only.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

__all__ = ["Page"]

_SNIPPET = re.compile(
    r"^(?:<!-- (?P<what>file|command): (?P<name>[^,\n]+?)(?P<more>, continued)? -->\n)?"
    r"```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

_PRINTS = re.compile(r"# -> ?(.*)$", re.MULTILINE)

_RUN = """
import runpy, sys
from streamipc.transports import process

process._EXIT_STATUS = 30.0
runpy.run_path(sys.argv[1], run_name="__main__")
"""
"""How a program is run: an error waits 80 ms for a dead child's exit status, and does without
on a machine that takes longer to tell it."""


class Page:
    """A page and the code in it.

    Attributes:
        text: of the page.
        snippets: each with ``what``, ``name``, ``language`` and ``text``.
        files: their text by name.
        programs: names of those that print something.
        links: that lead to files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.snippets = [match.groupdict() for match in _SNIPPET.finditer(self.text)]
        self.files: dict[str, str] = {}
        for snippet in self.snippets:
            if snippet["what"] == "file":
                name = snippet["name"]
                start = self.files[name] + "\n" if snippet["more"] else ""
                self.files[name] = start + snippet["text"]
        self.programs = [name for name, text in self.files.items() if _PRINTS.search(text)]
        self.links = sorted(set(re.findall(r"\]\(([^)#:]+)", self.text)))

    def check_program(self, program: str, folder: Path) -> None:
        """Run a program in a folder that is made for it; it prints what the page says."""
        its_folder, _, file = program.rpartition("/")
        for name, text in self.files.items():
            if name.startswith(f"{its_folder}/"):
                (folder / name.rpartition("/")[2]).write_text(text, encoding="utf-8")

        done = subprocess.run(
            [sys.executable, "-c", _RUN, file],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert done.stderr == ""
        assert done.stdout.splitlines() == _PRINTS.findall(self.files[program])
        assert done.returncode == 0

    def check_all_are_executed(self) -> None:
        """See that no snippet is left out."""
        assert self.text.count("\n```") == 2 * len(self.snippets)
        executed = {program.rpartition("/")[0] for program in self.programs}
        for snippet in self.snippets:
            language, what, name = snippet["language"], snippet["what"], snippet["name"]
            if language in ("python", "js", "javascript"):
                assert what == "file", snippet["text"]
                assert name.rpartition("/")[0] in executed, name
            elif language == "sh":
                assert what == "command", snippet["text"]
            else:
                assert language in ("json", "text"), f"what is done with {language!r}?"
