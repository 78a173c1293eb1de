"""How much memory a process comes to use; Linux only. For both sides."""

from __future__ import annotations

import gc

_RESET_PEAK = "5"
"""What makes the peak start anew, written to clear_refs; see proc_pid_clear_refs(5)."""


def reset_peak() -> int:
    """Start to measure; return the bytes in use now."""
    gc.collect()
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write(_RESET_PEAK)
    return _status("VmRSS")


def peak() -> int:
    """Return the most bytes that were in use since :func:`reset_peak`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) << 10
    raise LookupError(f"/proc/self/status does not say {name}")
