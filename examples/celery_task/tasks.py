"""Celery tasks that leave hard work to child processes.

Start a worker, and send it tasks:

    redis-server
    celery --workdir examples/celery_task -A tasks worker --concurrency 2
    celery --workdir examples/celery_task -A tasks call tasks.factorise --args '[1234567890]'

Each process of the worker has a child of its own. Celery does not let these processes have
children by multiprocessing ("daemonic processes are not allowed to have children"); a pool may.
"""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery, Task
from messages import Factorise

from streamipc import WorkerLostError, WorkerPool, WorkersUnavailableError, python_command

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("tasks", broker=REDIS, backend=REDIS)

# This starts nothing: Celery imports it, then forks. Each process starts its own.
calculators = WorkerPool(python_command(Path(__file__).with_name("child.py")))


# The limits are Celery's. The soft one interrupts call(), and the child is killed a second later
# if it is still busy; the hard one kills this process, and the child goes with it.
@app.task(bind=True, soft_time_limit=20, time_limit=30, max_retries=5)
def factorise(self: Task, number: int) -> list[int]:
    try:
        return calculators.call(Factorise(number), timeout=None)
    except WorkersUnavailableError as error:
        raise self.retry(exc=error, countdown=max(1.0, error.retry_after)) from error
    except WorkerLostError as error:
        raise self.retry(exc=error, countdown=0) from error
