"""Variables by which a process tells its children something.

``STREAMIPC_STARTED_BY`` stands in ``transports/_lineage.py``, which alone knows it.
"""

from __future__ import annotations

__all__ = ["ANSWERS_CANCELLED"]

ANSWERS_CANCELLED = "STREAMIPC_ANSWERS_CANCELLED"
"""``1``: the session of this child's standard input and output answers cancelled requests too, with
the code ``cancelled``, when their handlers have ended. A worker pool learns by it which of its
workers are still busy with what nobody wants any more. A child's children do not get it."""
