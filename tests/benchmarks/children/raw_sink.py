"""Read messages of so many bytes into one buffer; send a byte back for each."""

import os
import sys

buffer = memoryview(bytearray(int(sys.argv[1])))
while True:
    rest = buffer
    while rest:
        count = os.readv(0, [rest])
        if not count:
            sys.exit()
        rest = rest[count:]
    os.write(1, b"x")
