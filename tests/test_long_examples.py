"""The examples about long work run as their readers would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

PRINTED = {
    "stream_large_file": """
copied 64 MiB
the same: True
that was enough
""",
    "cancel_and_timeout": """
["search for 'no such hash': started"]
cancelled: True
["search for 'no such hash': stopped"]
took too long
['sleep: woken']
not yet
well rested
""",
    "from_asyncio": """
one: 3
gathered: [3, 4, 3, 4, 3, 4]
line 1 has 3 words
line 2 has 4 words
line 3 has 3 words
line 4 has 4 words
line 5 has 3 words
line 6 has 4 words
lines: 6
too late
""",
}


def run(
    name: str, folder: Path, *arguments: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, str(EXAMPLES / name / "parent.py"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )


@pytest.mark.parametrize("name", PRINTED)
def test_example_prints(name: str, tmp_path: Path) -> None:
    done = run(name, tmp_path)

    assert done.stdout == PRINTED[name].lstrip("\n"), done.stderr
    assert done.returncode == 0
    if name != "stream_large_file":
        assert done.stderr == ""


def test_a_stream_that_is_left_early_closes_the_file_in_the_child(tmp_path: Path) -> None:
    whole, part = run("stream_large_file", tmp_path).stderr.splitlines()

    assert whole == "child: 64 MiB were taken, the file is closed"
    taken = re.fullmatch(r"child: (\d+) MiB were taken, the file is closed", part)
    assert taken is not None
    assert 10 <= int(taken[1]) <= 11 + 4  # the window


def test_live_progress_draws_its_bar(tmp_path: Path) -> None:
    pytest.importorskip("tqdm", reason="tqdm, which draws the bar, is not installed")
    files = []
    for number in range(1, 4):
        file = tmp_path / f"file {number}"
        file.write_bytes(b"x" * (number << 20))
        files.append(str(file))
    done = run("live_progress", tmp_path, *files)

    assert done.returncode == 0, done.stderr
    assert [line[14:] for line in done.stdout.splitlines()] == ["file 1", "file 2", "file 3"]
    bars = re.findall(r"(\d+)%\|", done.stderr)
    assert bars[-1] == "100"
    assert "6.29M/6.29M" in done.stderr


def test_live_progress_says_what_is_missing(tmp_path: Path) -> None:
    # A folder that stands before site-packages, in which tqdm can't be imported.
    (tmp_path / "tqdm.py").write_text("raise ImportError('not here')", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "live_progress" / "parent.py")],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])
            ),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert "pip install -r examples/live_progress/requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr
