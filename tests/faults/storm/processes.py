"""The processes that make trials: started with a specification, heard line by line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import streamipc

__all__ = ["ROOT", "SOURCES", "Speaker", "say"]

ROOT = Path(__file__).resolve().parents[3]

SOURCES = Path(streamipc.__file__).resolve().parent

_TAIL = 6000
"""Characters of standard error that are kept."""


class Speaker:
    """A running module of this package, and what it says: one JSON object a line."""

    def __init__(self, process: subprocess.Popen[str], errors: Any) -> None:
        self._process = process
        self._errors = errors

    def __iter__(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)
        self._process.wait()

    @property
    def returncode(self) -> int | None:
        """Exit status; ``None`` while it runs."""
        return self._process.returncode

    @property
    def last_words(self) -> str:
        """The end of its standard error: where its threads were, if it hung."""
        self._errors.seek(0)
        return self._errors.read()[-_TAIL:]  # type: ignore[no-any-return]

    @classmethod
    @contextlib.contextmanager
    def started(cls, module: str, spec: Any) -> Iterator[Speaker]:
        """Start a module with a specification, a dataclass; kill what is left of it."""
        # A measurement of coverage would take the place of our trace function.
        environment = {key: value for key, value in os.environ.items() if "COV" not in key}
        paths = [str(SOURCES.parent), environment.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [sys.executable, "-m", module, json.dumps(dataclasses.asdict(spec))]
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield cls(process, errors)
            finally:
                process.kill()


def say(what: dict[str, Any]) -> None:
    """Print one line, as such a process does."""
    print(json.dumps(what), flush=True)
