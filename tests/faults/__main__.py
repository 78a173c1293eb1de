"""``python -m tests.faults``: have children die under load, and say what became of it.

Prints one line for each kind of load; the exit status is 1 if anything went wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))


def main() -> int:
    """Return the exit status."""
    import deaths

    names = list(deaths.LOADS)
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="of each kind of load (1,000)")
    parser.add_argument("--load", action="append", choices=names, help="only this kind of load")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random points")
    parser.add_argument("--faults", type=int, default=10, help="how many faults to print in full")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    print(f"seed {arguments.seed}", flush=True)
    failed = False
    for load in arguments.load or names:
        tally = deaths.series(load, arguments.kills)
        print(deaths.verdict(tally), flush=True)
        for fault in tally.faults[: arguments.faults]:
            print(f"    {fault}", flush=True)
        failed = failed or bool(tally.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
