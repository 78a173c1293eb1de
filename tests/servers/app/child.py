"""Answers each request, some later than those that came after it."""

import os
import time
import zlib

from messages import Answer, Echo

from streamipc import IpcPeer

session = IpcPeer().create_stdio_session()


@session.on_request
def echo(msg: Echo) -> Answer:
    time.sleep(zlib.crc32(msg.payload.encode()) % 8 / 1000)
    return Answer(msg.payload, os.getpid())


session.serve_forever()
