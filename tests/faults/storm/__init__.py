"""Signals that raise, and finalizers that send, at every point of a call.

``python -m tests.faults.storm sweep`` interrupts an operation at its first possible point, at its
second, and so on to the last, and checks after each what must hold. ``reenter`` does the same with
finalizers. ``barrage`` fires real signals at random times.

    points.py      the points, and what happens at one
    bench.py       a session with a child, and the ledger of what must hold
    operations.py  what is interrupted
    finalizers.py  what interrupts it from inside
    trials.py      one operation, interrupted at one point, in a process that may hang or die of it
    processes.py   such a process, and what it says
    sweeps.py      all of its points, and the table of those that failed
    barrage.py     real signals at random times
"""
