"""Spreads work over Ray actors, each of which has a child process to do it.

Start it with

    python examples/ray_actor/actor.py

Ray is started here, on this machine; ``ray.init("auto")`` takes the cluster that you have.
"""

from __future__ import annotations

from pathlib import Path

import ray
from messages import CountPrimes

from streamipc import WorkerPool, python_command

PIECES = [CountPrimes(start, start + 5_000) for start in range(0, 40_000, 5_000)]


class Counter:
    """An actor is one process. It has a child of its own, started when it is first asked."""

    def __init__(self) -> None:
        self.pool = WorkerPool(python_command(Path(__file__).with_name("child.py")))

    @ray.method
    def count(self, piece: CountPrimes) -> int:
        return self.pool.call(piece, timeout=60)

    @ray.method
    def children(self) -> list[int | None]:
        return [worker.pid for worker in self.pool.workers]


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False)
    actor = ray.remote(Counter)
    counters = [actor.remote() for _ in range(2)]
    replies = [counters[i % 2].count.remote(piece) for i, piece in enumerate(PIECES)]
    total = sum(ray.get(replies))
    for number, children in enumerate(ray.get([c.children.remote() for c in counters]), start=1):
        print(f"actor {number} has {len(children)} child")
    print(f"{total:,} primes below 40,000")
    ray.shutdown()
