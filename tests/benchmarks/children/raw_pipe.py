"""Send back what comes; poll for up to so many seconds before each blocking read."""

import os
import select
import sys
import time

spin = float(sys.argv[1])
poller = select.poll()
poller.register(0, select.POLLIN)
poll, clock = poller.poll, time.perf_counter

while True:
    if spin:
        end = clock() + spin
        while not poll(0) and clock() < end:
            pass
    data = os.read(0, 4096)
    if not data:
        break
    os.write(1, data)
