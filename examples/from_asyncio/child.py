"""Plain, synchronous code: the child need not know that its parent runs a loop."""

from collections.abc import Iterator

from messages import CountWords, Line, Walk

from streamipc import IpcPeer

session = IpcPeer().create_stdio_session()


@session.on_request
def count(msg: CountWords) -> int:
    return len(msg.text.split())


@session.on_request
def walk(msg: Walk) -> Iterator[Line]:
    lines = msg.text.splitlines()
    for number, line in enumerate(lines, 1):
        yield Line(number, len(line.split()))
    return len(lines)


session.serve_forever()
