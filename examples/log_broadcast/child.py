"""Hears what the parent broadcasts, and sends its own log lines to the parent."""

import logging
import sys

from streamipc import IpcPeer, LogMessage

session = IpcPeer().create_stdio_session()


class ToParent(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        session.notify(LogMessage(self.format(record), record.levelname.lower()))


log = logging.getLogger(f"worker {sys.argv[1]}")
log.setLevel(logging.INFO)
log.addHandler(ToParent())


@session.on_message
def hear(msg: LogMessage) -> None:
    log.warning("%s heard: %s", log.name, msg.message)


log.info("%s is up", log.name)
session.serve_forever()
