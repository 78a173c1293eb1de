"""A Flask application with sessions of several kinds; the first part of a path picks one.

``imported``: made when this module is imported. ``used``: also asked something then. ``own``:
of each process its own, made when it is first needed.
"""

from __future__ import annotations

import os
import sys
import threading

from flask import Flask
from messages import Echo

from streamipc import IpcPeer, ProcessSession, SessionClosedError

CHILD = [
    # Under uWSGI sys.executable is uWSGI.
    os.path.join(sys.prefix, "bin", "python"),
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "child.py"),
]

app = Flask(__name__)

imported = {
    kind: IpcPeer().create_command_session(CHILD)
    for kind in os.environ["SESSIONS"].split(",")
    if kind != "own"
}
if "used" in imported:
    imported["used"].request(Echo("at import")).result(timeout=20)

# Locks are made late too: one that is made before gevent's patch would block all greenlets.
locks: dict[int, threading.Lock] = {}
own: dict[int, ProcessSession] = {}


def session_of(kind: str) -> ProcessSession:
    if kind != "own":
        return imported[kind]
    pid = os.getpid()
    with locks.setdefault(pid, threading.Lock()):
        if pid not in own:
            own[pid] = IpcPeer().create_command_session(CHILD)
        return own[pid]


@app.get("/<kind>/<payload>")
def echo(kind: str, payload: str) -> tuple[dict[str, object], int]:
    worker = os.getpid()
    try:
        answer = session_of(kind).request(Echo(payload)).result(timeout=20)
    except (SessionClosedError, RuntimeError) as error:
        return {"worker": worker, "error": str(error)}, 503
    return {"worker": worker, "payload": answer.payload, "child": answer.pid}, 200
