"""What runs in the workers of the cluster; each of them imports this module.

On machines of a cluster it must be there as well, and so must ``messages.py`` and ``child.py``.
"""

from __future__ import annotations

from pathlib import Path

from messages import CountPrimes

from streamipc import WorkerPool, python_command

# Starts nothing where it is imported. Each worker of the cluster that is given a task starts one
# child; a worker with several threads has them take turns.
counters = WorkerPool(python_command(Path(__file__).with_name("child.py")))


def count_primes(start: int, stop: int) -> int:
    return counters.call(CountPrimes(start, stop), timeout=60)
