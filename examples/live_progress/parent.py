"""Draws a progress bar for check sums that a child computes: parent.py [FILE ...].

Without files it makes some of its own. The bar is tqdm's (see requirements.txt).
"""

import os
import sys
import tempfile
from pathlib import Path

from messages import Checked, Sum

from streamipc import IpcPeer

try:
    from tqdm import tqdm
except ImportError:
    sys.exit(
        "This example draws its bar with tqdm, which is not installed here: "
        "python -m pip install -r examples/live_progress/requirements.txt"
    )

child = [sys.executable, str(Path(__file__).with_name("child.py"))]

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        files = sys.argv[1:]
        if not files:
            for number in range(1, 5):
                path = Path(folder, f"file {number}")
                path.write_bytes(bytes(number * (8 << 20)))
                files.append(str(path))
        total = sum(os.path.getsize(name) for name in files)

        with (
            IpcPeer().create_command_session(child) as session,
            tqdm(total=total, unit="B", unit_scale=True) as bar,
        ):

            def advance(item: Checked) -> None:
                bar.set_description(Path(item.file).name, refresh=False)
                bar.update(item.count)

            sums = session.request(Sum(files), timeout=None, on_progress=advance).result()

        for name, digest in sums.items():
            print(f"{digest[:12]}  {Path(name).name}")
