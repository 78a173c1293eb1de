"""A fresh interpreter that has imported nothing yet."""

from __future__ import annotations

import os
import subprocess
import sys

__all__ = ["printed"]


def printed(program: str) -> list[str]:
    """Return the lines that ``program`` prints, which can import what we can."""
    # -S: what site loads is of no interest.
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
