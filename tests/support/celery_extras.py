"""Tasks beside those of examples/celery_task, in the same worker."""

from __future__ import annotations

import multiprocessing

from celery import shared_task


@shared_task  # type: ignore[untyped-decorator]
def start_a_process() -> str:
    """Tell what Celery's processes may not do: have children by multiprocessing."""
    process = multiprocessing.Process(target=print)
    try:
        process.start()
    except AssertionError as error:
        return str(error)
    process.join()
    return "started"


@shared_task(time_limit=1)  # type: ignore[untyped-decorator]
def factorise_in_a_second(number: int) -> list[int]:
    """Have no soft limit: Celery would wait for that before it comes to the hard one."""
    from messages import Factorise  # the example's, which must have been loaded first
    from tasks import calculators

    factors: list[int] = calculators.call(Factorise(number), timeout=None)
    return factors
