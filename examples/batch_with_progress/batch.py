"""Makes thumbnails of many pictures on all CPUs, and draws a progress bar.

Start it with

    python examples/batch_with_progress/batch.py [PICTURE ...]

Without pictures it makes some of its own, of which one is broken. The thumbnails are written to
a folder ``thumbnails`` in the current one. requirements.txt says what it needs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from messages import MakeThumbnail
from PIL import Image
from tqdm import tqdm

from streamipc import WorkerPool, python_command

SIZE = 64
"""Pixels that a thumbnail has at the most, either way."""


def make_pictures(folder: Path) -> Iterator[Path]:
    for number in range(40):
        path = folder / f"picture {number:02}.png"
        Image.new("RGB", (400, 200 + 5 * number), (6 * number, 90, 150)).save(path)
        yield path
    broken = folder / "broken.png"
    broken.write_bytes(b"no picture")
    yield broken


def make_thumbnails(pictures: list[Path], target: Path) -> None:
    requests = [
        MakeThumbnail(str(picture), str(target / f"{picture.stem}.jpg"), SIZE)
        for picture in pictures
    ]
    made = 0
    command = python_command(Path(__file__).with_name("child.py"))
    # A child that dies of a picture, or does not come back from it within a minute, costs that
    # picture: another child is started, and the batch goes on.
    with WorkerPool(command, size=os.cpu_count() or 1) as pool:
        replies = pool.map(requests, timeout=60, return_exceptions=True)
        bar = tqdm(replies, total=len(requests), unit="picture")
        for request, reply in zip(requests, bar, strict=True):
            if isinstance(reply, Exception):
                tqdm.write(f"{Path(request.source).name}: {type(reply).__name__}: {reply}")
            else:
                made += 1
    print(f"{made} of {len(requests)} thumbnails are in {target.name}")


if __name__ == "__main__":
    folder = Path("thumbnails")
    folder.mkdir(exist_ok=True)
    if len(sys.argv) > 1:
        make_thumbnails([Path(name) for name in sys.argv[1:]], folder)
    else:
        with tempfile.TemporaryDirectory() as pictures:
            make_thumbnails([*make_pictures(Path(pictures))], folder)
