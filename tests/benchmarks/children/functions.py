"""What the workers of other pools run, and ours when they are told a function's name."""

from __future__ import annotations

import os
import time
from typing import Any


def answer(number: int, text: str) -> tuple[int, str]:
    return number + 1, text


def answer_pair(pair: tuple[int, str]) -> tuple[int, str]:
    return answer(*pair)


def weigh(data: Any) -> int:
    """Return the size of something large in bytes."""
    return getattr(data, "nbytes", None) or len(data)


def give_back(data: Any) -> Any:
    return data


def where(seconds: float) -> int:
    """Keep a worker for so long; return its process id."""
    time.sleep(seconds)
    return os.getpid()


def nap(path: str, seconds: float) -> None:
    """Write this process's id into a file, then sleep."""
    _tell(path)
    time.sleep(seconds)


def spin(path: str, seconds: float) -> None:
    """The same, but keep the CPU busy and heed nothing."""
    _tell(path)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def _tell(path: str) -> None:
    with open(f"{path}.new", "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    os.replace(f"{path}.new", path)  # whoever sees the file sees all of it
