"""A child that answers the messages of ``long_messages``.

Arguments: ``json``, the serializer; ``sync``, a session without threads; a number, its
``handler_threads``.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from long_messages import (
    AskBack,
    Blob,
    Context,
    Count,
    Down,
    Forever,
    Report,
    Step,
    Stubborn,
    Swap,
    WaitFor,
)

from streamipc import (
    IpcPeer,
    IpcSession,
    JsonMessageSerializer,
    Limits,
    NativeMessageSerializer,
    RequestCancelledError,
    RequestContext,
    SyncIpcSession,
    current_request,
)

sys.setswitchinterval(float(os.environ.get("STREAMIPC_SWITCH_INTERVAL", "0.005")))

said: set[str] = set()
changed = threading.Condition()


def say(what: str) -> None:
    with changed:
        said.add(what)
        changed.notify_all()


def wait_for(what: str) -> None:
    with changed:
        assert changed.wait_for(lambda: what in said, timeout=30), what


def register(session: Any) -> None:
    """Answer the messages; ``session`` may be a peer as well."""

    @session.on_request
    def count(msg: Count) -> Iterator[Step]:
        try:
            for number in range(msg.n):
                if number == msg.fail_after:
                    raise ValueError("on purpose")
                yield Step(number)
        except GeneratorExit:
            say(f"{msg.name} closed")
            raise
        return msg.n

    @session.on_request
    def report(msg: Report, context: RequestContext) -> str:
        for item in msg.items:
            context.progress(item)
        return "done"

    @session.on_request
    def forever(msg: Forever, context: RequestContext) -> str:
        noticed = threading.Event()
        if msg.how == "on_cancel":
            context.on_cancel(noticed.set)
        say(f"{msg.name} started")
        try:
            context.progress("started")
            while not noticed.wait(0.001 if msg.how != "on_cancel" else 30):
                if msg.how == "raise_if_cancelled":
                    context.raise_if_cancelled()
                elif context.cancelled:
                    break
        except RequestCancelledError:
            pass
        assert context.cancelled
        say(f"{msg.name} cancelled")
        return "too late"

    @session.on_request
    def stubborn(msg: Stubborn) -> str:
        say(f"{msg.name} started")
        wait_for(f"{msg.name} may end")
        say(f"{msg.name} ended")
        return "at last"

    @session.on_request
    def wait(msg: WaitFor) -> None:
        if msg.say:
            say(msg.what)
        wait_for(msg.what)

    @session.on_request
    def context(msg: Context) -> dict[str, Any]:
        return deep_below()

    def ask(msg: AskBack, session: IpcSession) -> object:
        if msg.timeout is None:
            return session.request(Context()).result()
        return session.request(Context(), timeout=msg.timeout).result()

    @session.on_request
    def ask_on_a_worker(msg: AskBack, session: IpcSession) -> object:
        return NotImplemented if msg.inline else ask(msg, session)

    @session.on_request(inline=True)
    def ask_inline(msg: AskBack, session: IpcSession) -> object:
        return ask(msg, session)

    @session.on_request
    def down(msg: Down, session: IpcSession) -> int:
        return 1 + session.request(Down(msg.depth - 1)).result() if msg.depth else 0

    @session.on_request
    def blob(msg: Blob) -> int:
        return len(msg.data)

    @session.on_request
    def swap(msg: Swap, session: IpcSession) -> int:
        sent = [session.request(Blob(b"x" * msg.size)) for _ in range(msg.count)]
        return sum(future.result() for future in sent)


def deep_below() -> dict[str, Any]:
    context = current_request()
    assert context is not None
    return {
        "remaining": context.time_remaining(),
        "deadline": context.deadline is not None,
        "metadata": dict(context.metadata),
        "id": context.request_id,
        "thread": threading.current_thread().name,
    }


if __name__ == "__main__":
    arguments = sys.argv[1:]
    threads = next((int(text) for text in arguments if text.isdecimal()), 8)
    peer = IpcPeer(
        JsonMessageSerializer() if "json" in arguments else NativeMessageSerializer(),
        handler_threads=threads,
        limits=Limits(blocked_handlers=1000),
        session_type=SyncIpcSession if "sync" in arguments else IpcSession,
    )
    session = peer.create_stdio_session()
    register(session)
    session.serve_forever()
