"""Gives eight pieces of work to four children and takes the results as they come."""

import sys
from concurrent.futures import as_completed
from itertools import cycle
from pathlib import Path

from messages import CountPrimes

from streamipc import IpcPeer

child = [sys.executable, str(Path(__file__).with_name("child.py"))]
pieces = [CountPrimes(start, start + 5_000) for start in range(0, 40_000, 5_000)]

if __name__ == "__main__":
    with IpcPeer(timeout=120) as peer:
        workers = [peer.create_command_session(child) for _ in range(4)]
        jobs = [worker.request(piece) for worker, piece in zip(cycle(workers), pieces)]

        total = 0
        for number, job in enumerate(as_completed(jobs), start=1):
            total += job.result()
            print(f"{number} of {len(jobs)} pieces are done")

    print(f"{total:,} primes below 40,000")
