"""Every example runs as its reader would run it, and prints exactly what is told here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

ELSEWHERE = {"cancel_and_timeout", "from_asyncio", "live_progress", "stream_large_file"}
"""Run by test_long_examples.py."""

WITH_SERVERS = {
    "batch_with_progress": "Pillow",
    "celery_task": "Celery and Redis",
    "dask_cluster": "Dask",
    "django_app": "Django and a web server",
    "flask_app": "Flask and a web server",
    "ray_actor": "Ray",
}
"""Run by tests/servers, and what they need that is not in the extra ``test``."""

PRINTED = {
    "hello": """
Hello, Riki!
""",
    "json_messages": """
invoice 1: 29.50, due 05 March 2024
body.items[1].price: expected Decimal, got 'cheap' (in messages.PlaceOrder)
""",
    "progress_by_notification": """
1 of 4 parts: 1,229 primes
2 of 4 parts: 2,262 primes
3 of 4 parts: 3,245 primes
4 of 4 parts: 4,203 primes
result: 4,203 primes below 40,000
""",
    "many_workers": """
1 of 8 pieces are done
2 of 8 pieces are done
3 of 8 pieces are done
4 of 8 pieces are done
5 of 8 pieces are done
6 of 8 pieces are done
7 of 8 pieces are done
8 of 8 pieces are done
4,203 primes below 40,000
""",
    "ask_the_parent": """
total: 16.74
no total: streamipc.exceptions.RemoteError: KeyError: 'glue'
""",
    "log_broadcast": """
   info  worker 1 is up
   info  worker 2 is up
   info  worker 3 is up
warning  worker 1 heard: maintenance at noon
warning  worker 2 heard: maintenance at noon
warning  worker 3 heard: maintenance at noon
""",
    "any_language": """
the child runs on Node.js
8 words, the longest is 'élan': {'élan': 1, 'sea': 2}
the child says: RangeError: there is nothing to count
the child does not answer IsStopWord itself
""",
}


@pytest.mark.parametrize("name", PRINTED)
def test_example_prints(name: str, tmp_path: Path) -> None:
    if (EXAMPLES / name / "child.js").exists() and shutil.which("node") is None:
        pytest.skip("Node.js is not installed: there is no node to run child.js")

    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name / "parent.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )

    assert done.stderr == ""
    assert done.stdout == PRINTED[name].lstrip("\n")
    assert done.returncode == 0


def test_every_example_is_run() -> None:
    folders = {folder.name for folder in EXAMPLES.iterdir() if any(folder.glob("*.py"))}

    assert folders == set(PRINTED) | ELSEWHERE | set(WITH_SERVERS)
    run_with_servers = "".join(
        file.read_text(encoding="utf-8")
        for file in (Path(__file__).parent / "servers").glob("*.py")
    )
    assert [name for name in WITH_SERVERS if f'"{name}"' not in run_with_servers] == []
