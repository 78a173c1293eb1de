"""What a hostile peer can make a session hold, with the limits as they are by default.

Each queue is filled, and all of them one after the other, with payloads that take 224 times their
size in memory, or just too little to be put back into their bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHILD = Path(__file__).parents[1] / "support" / "memory_child.py"

MOST = 512
"""Megabytes; also the frame that is being decoded is in what is measured."""

FULL = 280
"""Megabytes that are held where ``Limits.held_bytes`` is what has stopped the peer."""

Said = dict[str, Any]


@pytest.mark.parametrize(
    ("queue", "was_filled"),
    [
        ("requests", lambda said: said["held"] >= FULL),
        ("notifications", lambda said: said["paused"] == ["NOTIFICATIONS"]),
        ("received", lambda said: said["stats"]["dropped"]),
        ("items", lambda said: said["held"] >= FULL),
        ("progress", lambda said: said["held"] >= FULL),
        ("errors", lambda said: said["stats"]["unreadable"] == 200 and said["grown"] < 128),
        ("refusals", lambda said: said["paused"] == ["REFUSALS"]),
        ("lifted", lambda said: said["paused"] == ["OVERFULL"]),
        ("junk", lambda said: said["stats"]["junk"] > 1 << 20 and said["grown"] < 256),
        ("all", lambda said: said["held"] >= FULL),
    ],
)
def test_a_hostile_peer_can_make_a_session_hold_so_much_and_no_more(
    queue: str, was_filled: Callable[[Said], object]
) -> None:
    done = subprocess.run(
        [sys.executable, CHILD, queue], capture_output=True, text=True, timeout=300, check=True
    )
    said: Said = json.loads(done.stdout)

    assert said["grown"] < MOST, said
    assert was_filled(said), said
