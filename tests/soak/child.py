"""The other side: answers, and makes traffic of its own when told to.

Arguments: ``json``, the serializer; ``sabotage=WHAT``, the fault that it is to have, to
show that the soak would notice: ``mismatch``, ``lose``, ``twice`` or ``leak``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from streamipc import IpcPeer, JsonMessageSerializer, NativeMessageSerializer

from .checks import keep_no_memory
from .messages import Begin, Die, Finish, Report, Swap, Told, piece
from .side import Side
from .traffic import Traffic


def main() -> None:
    keep_no_memory()
    _dump_when_asked()
    serializer = JsonMessageSerializer() if "json" in sys.argv else NativeMessageSerializer()
    session = IpcPeer(serializer).create_stdio_session()
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        if name == "sabotage":
            _SABOTAGE[value](session)
    side = Side(session)
    running: list[Traffic] = []

    @session.on_request
    def begin(msg: Begin) -> None:
        running.append(Traffic(side, msg.seed, msg.workers))

    @session.on_request
    def finish(msg: Finish) -> Report:
        running.pop().stop()
        side.finish(msg.told)
        side.balance()
        return side.report()

    @session.on_message
    def die(msg: Die) -> None:
        os._exit(3)

    session.serve_forever()
    for traffic in running:
        traffic.stop()
    for problem in side.report().problems:
        print("PROBLEM:", problem, file=sys.stderr)


def _dump_when_asked() -> None:
    """Print what every thread does on SIGUSR1, for a child that seems to be stuck."""
    import faulthandler
    import signal

    faulthandler.register(signal.SIGUSR1, all_threads=True)


# Of the handlers for requests, those that are registered first are asked first.


def _mismatch(session: Any) -> None:
    @session.on_request
    def swap(msg: Swap) -> Any:
        return piece("somebody else's", msg.size) if msg.key.endswith("7") else NotImplemented


def _lose(session: Any) -> None:
    on_message = session.on_message

    def on_message_but_one(handler: Any) -> None:
        if handler.__name__ == "told":
            on_message(Told)(lambda msg: None if msg.number == 7 else handler(msg))
        else:
            on_message(handler)

    session.on_message = on_message_but_one


def _twice(session: Any) -> None:
    notify = session.notify

    def notify_twice(message: Any) -> None:
        notify(message)
        if isinstance(message, Told) and message.number == 7:
            notify(message)

    session.notify = notify_twice


def _leak(session: Any) -> None:
    @session.on_request
    def begin(msg: Begin) -> Any:
        for _ in range(3):
            os.dup(2)
        return NotImplemented


_SABOTAGE = {
    "mismatch": _mismatch,
    "lose": _lose,
    "twice": _twice,
    "leak": _leak,
}

if __name__ == "__main__":
    main()
