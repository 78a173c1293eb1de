"""The smallest child, for the time that it takes to start."""

from start_messages import Answer, Ask

from streamipc import IpcPeer

session = IpcPeer().create_stdio_session()


@session.on_request
def ask(msg: Ask) -> Answer:
    return Answer(msg.number + 1, msg.text)


session.serve_forever()
