"""Answers SayHello with a Greeting until the parent is gone."""

from messages import Greeting, SayHello

from streamipc import IpcPeer

session = IpcPeer().create_stdio_session()


@session.on_request
def hello(msg: SayHello) -> Greeting:
    return Greeting(f"Hello, {msg.name}!")


session.serve_forever()
