"""streamipc."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from streamipc import IpcPeer, JsonMessageSerializer, ProcessSession

from ..children.messages import Ask
from . import NUMBER, TEXT, Caller, check, child_command


@contextmanager
def open_session(
    *arguments: str, spin: float | None = None, json: bool = False, **options: Any
) -> Iterator[ProcessSession]:
    """Start ``children/ours.py`` with the same settings on both sides."""
    if spin is not None:
        options["spin"] = spin
        arguments = (*arguments, f"spin={spin}")
    if json:
        options["serializer"] = JsonMessageSerializer()
        arguments = (*arguments, "json")
    with (
        IpcPeer(**options) as peer,
        peer.create_command_session(child_command("ours.py", *arguments)) as session,
    ):
        # Until it answers, the child has not seen yet how many CPUs it may use, and a
        # caller is about to bind it to one.
        answer = session.request(Ask(NUMBER, TEXT)).result()
        check(answer.number, answer.text)
        yield session


@contextmanager
def open_caller(*, spin: float | None = None, json: bool = False) -> Iterator[Caller]:
    with open_session(spin=spin, json=json) as session:

        def call() -> Any:
            return session.request(Ask(NUMBER, TEXT)).result()

        yield Caller(
            session.pid,
            call,
            make_call=lambda: call,
            submit=lambda number: session.request(Ask(number, TEXT)),
            collect=lambda future: future.result(),
        )
