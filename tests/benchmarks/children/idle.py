"""What idle sessions cost: ``idle.py SESSIONS SECONDS``; prints a JSON object.

The other ends are in a process of their own: ``idle.py far FD...``, a reading and a
writing descriptor for each session.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc

from messages import Answer, Ask

from streamipc import IpcPeer, IpcSession


def answer(msg: Ask) -> Answer:
    return Answer(msg.number + 1, msg.text)


def far(descriptors: list[int]) -> None:
    peer = IpcPeer()
    peer.on_request(answer)
    pairs = zip(descriptors[::2], descriptors[1::2], strict=True)
    sessions = [peer.create_stream_session(write, read).start() for read, write in pairs]
    for session in sessions:
        session.serve_forever()
    peer.close()


def near(count: int, seconds: float) -> None:
    ours: list[tuple[int, int]] = []
    theirs: list[int] = []
    for _ in range(count + 1):
        there_read, there_write = os.pipe()
        back_read, back_write = os.pipe()
        ours.append((there_write, back_read))
        theirs += (there_read, back_write)
    process = subprocess.Popen(
        [sys.executable, __file__, "far", *map(str, theirs)], pass_fds=theirs
    )
    for descriptor in theirs:
        os.close(descriptor)
    peer = IpcPeer()

    def connect(write: int, read: int) -> IpcSession:
        session = peer.create_stream_session(write, read)
        assert session.request(Ask(7, "a small message")).result().number == 8
        return session

    sessions = [connect(*ours[0])]  # imports what is imported on first use
    gc.collect()
    threads = threading.active_count()
    tracemalloc.start()
    sessions += [connect(*pair) for pair in ours[1:]]
    gc.collect()
    heap = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    time.sleep(seconds / 10)  # what follows the last reply is not idleness
    threads = threading.active_count() - threads
    start, before = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    used = (time.process_time() - before) / (time.perf_counter() - start)
    peer.close()
    process.wait()
    print(json.dumps({"cpu": used * 100, "heap": heap / count / 1024, "threads": threads / count}))


if sys.argv[1] == "far":
    far([int(descriptor) for descriptor in sys.argv[2:]])
else:
    near(int(sys.argv[1]), float(sys.argv[2]))
