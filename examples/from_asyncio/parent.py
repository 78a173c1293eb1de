"""Asks a child from coroutines. The loop is the program's own: the library has none."""

import asyncio
import sys
from pathlib import Path

from messages import CountWords, Walk

from streamipc import IpcPeer, IpcSession

POEM = """\
The fog comes
on little cat feet.
It sits looking
over harbor and city
on silent haunches
and then moves on."""


async def main(session: IpcSession) -> None:
    print("one:", await session.request(CountWords("one two three")))

    counts = await asyncio.gather(
        *(asyncio.ensure_future(ask(session, line)) for line in POEM.splitlines())
    )
    print("gathered:", counts)

    with session.stream(Walk(POEM)) as stream:
        async for line in stream:
            print(f"line {line.number} has {line.words} words")
        print("lines:", await stream.future)

    # Cancelling the task, as wait_for does at its timeout, cancels the request.
    try:
        await asyncio.wait_for(ask(session, "never mind"), timeout=0)
    except asyncio.TimeoutError:
        print("too late")


async def ask(session: IpcSession, text: str) -> int:
    return await session.request(CountWords(text))


child = [sys.executable, str(Path(__file__).with_name("child.py"))]

if __name__ == "__main__":
    # Starting and closing wait for the child, so they stand outside the loop.
    with IpcPeer().create_command_session(child) as session:
        asyncio.run(main(session))
