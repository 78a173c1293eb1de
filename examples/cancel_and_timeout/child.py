"""Notices in three ways that nobody waits for its work any more."""

import hashlib
import itertools
import threading

from messages import Journal, Search, Sleep

from streamipc import IpcPeer, RequestContext

session = IpcPeer().create_stdio_session()
entries: list[str] = []
added = threading.Condition()


def note(entry: str) -> None:
    with added:
        entries.append(entry)
        added.notify_all()


@session.on_request
def search(msg: Search, context: RequestContext) -> int:
    note(f"search for {msg.prefix!r}: started")
    # A busy loop looks now and then; raise_if_cancelled() would raise instead.
    for number in itertools.count():
        if number % 1000 == 0 and context.cancelled:
            note(f"search for {msg.prefix!r}: stopped")
            break
        if hashlib.md5(b"%d" % number).hexdigest().startswith(msg.prefix):
            return number
    return -1  # nobody will see it


@session.on_request
def sleep(msg: Sleep, context: RequestContext) -> str:
    # A call that blocks is woken: here an event, elsewhere socket.close or process.kill.
    woken = threading.Event()
    context.on_cancel(woken.set)
    if woken.wait(msg.seconds):
        note("sleep: woken")
    return "well rested"


@session.on_request
def journal(msg: Journal) -> list[str]:
    with added:
        added.wait_for(lambda: len(entries) >= msg.count, timeout=10)
        return list(entries)


session.serve_forever()
