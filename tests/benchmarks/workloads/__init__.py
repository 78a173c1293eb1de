"""All workloads, in the order of the table."""

from __future__ import annotations

from ..runner import Workload
from . import bulk, calls, concurrent, crowds, one_way, pools, start

WORKLOADS: tuple[Workload, ...] = (
    *calls.WORKLOADS,
    *concurrent.WORKLOADS,
    *one_way.WORKLOADS,
    *bulk.WORKLOADS,
    *start.WORKLOADS,
    *crowds.WORKLOADS,
    *pools.WORKLOADS,
)
