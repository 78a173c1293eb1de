"""What code below a handler can know about its request."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest
from long_child import deep_below
from long_messages import AskBack, Context, Step

from streamipc import (
    IpcPeer,
    IpcSession,
    JsonMessageSerializer,
    NativeMessageSerializer,
    RequestContext,
    current_request,
)

METADATA = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "ü": ""}


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.mark.parametrize("inline", [False, True])
def test_what_a_handler_sets_in_its_context_stays_there(
    connected: Callable[..., Any], inline: bool
) -> None:
    left, right = connected()

    @right.on_request(inline=inline)
    def context(msg: Context) -> str:
        before = variable.get()
        variable.set("mine")
        return before

    right.start()

    assert [left.call(Context()) for _ in range(20)] == ["unset"] * 20


def test_outside_a_handler_there_is_no_request() -> None:
    assert current_request() is None


@pytest.mark.parametrize("serializer", ["native", "json"])
def test_metadata_arrives_with_a_request(child: Callable[..., list[str]], serializer: str) -> None:
    peer = IpcPeer(JsonMessageSerializer()) if serializer == "json" else IpcPeer()
    with peer.create_command_session(child(serializer)) as session:
        assert session.call(Context(), metadata=METADATA)["metadata"] == METADATA
        assert session.request(Context(), metadata=METADATA).result()["metadata"] == METADATA
        assert session.stream(Context(), metadata=METADATA).result()["metadata"] == METADATA
        assert session.call(Context())["metadata"] == {}
        assert session.call(Context(), metadata={})["metadata"] == {}


def test_metadata_arrives_with_a_notification(connected: Callable[..., Any]) -> None:
    left, right = connected()
    seen: list[dict[str, Any]] = []
    arrived = threading.Event()

    @right.on_message
    def step(msg: Step) -> None:
        seen.append(deep_below())
        arrived.set()

    right.start()
    left.notify(Step(1), metadata=METADATA)

    assert arrived.wait(10)
    assert seen[0]["metadata"] == METADATA
    assert seen[0]["id"] is None
    assert seen[0]["remaining"] == float("inf")


@pytest.mark.parametrize("serializer", [NativeMessageSerializer, JsonMessageSerializer])
def test_texts_of_a_class_derived_from_str_are_metadata_too(
    connected: Callable[..., Any], serializer: Any
) -> None:
    """Such as an enum's members, and the texts that Django has marked as safe."""

    class Text(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "changed"

    left, right = connected(IpcPeer(serializer()), IpcPeer(serializer()))

    @right.on_request
    def context(msg: Context, context: RequestContext) -> dict[str, Any]:
        return dict(context.metadata)

    right.start()
    assert left.call(Context(), metadata={Text("key"): Text("value")}) == {"key": "value"}


def test_metadata_is_copied_when_it_is_given(connected: Callable[..., Any]) -> None:
    left, right = connected()
    right.on_request(Context)(lambda msg: deep_below())
    right.start()
    metadata = {"a": "b"}
    future = left.request(Context(), metadata=metadata)
    metadata["c"] = "d"

    assert future.result(timeout=10)["metadata"] == {"a": "b"}


@pytest.mark.parametrize(
    "metadata",
    [{"a": 1}, {1: "a"}, {"a": None}, {b"a": "b"}, [("a", "b")], "text", 5],
    ids=repr,
)
def test_metadata_of_the_wrong_type_is_refused(session: IpcSession, metadata: Any) -> None:
    for send in (session.request, session.call, session.stream, session.notify):
        message = Step(1) if send == session.notify else Context()
        with pytest.raises(TypeError, match="metadata"):
            send(message, metadata=metadata)  # type: ignore[operator]
    assert session.stats.pending == 0


def test_metadata_that_is_too_big_is_refused(session: IpcSession) -> None:
    most = {"k": "v" * 65_535}

    assert session.call(Context(), metadata=most)["metadata"] == most
    with pytest.raises(ValueError, match=r"65,537 characters; at most 65,536"):
        session.request(Context(), metadata={"k": "v" * 65_536})
    with pytest.raises(ValueError, match="metadata"):
        session.notify(Step(1), metadata={str(n): "v" * 1000 for n in range(100)})


def test_the_request_is_the_handlers_own_in_nested_calls(session: IpcSession) -> None:
    """A handler below a handler sees its own request, and the outer one sees its own again."""

    @session.on_request
    def context(msg: Context, context: RequestContext) -> list[Any]:
        before = current_request()
        inner = session.call(Context(), metadata={"depth": "2"})
        assert before is context is current_request()
        return [dict(context.metadata), inner["metadata"]]

    assert session.call(AskBack(), metadata={"depth": "0"}) == [{}, {"depth": "2"}]


@pytest.mark.parametrize("inline", [False, True])
def test_the_request_is_gone_when_the_handler_has_returned(
    connected: Callable[..., Any], inline: bool
) -> None:
    left, right = connected(None, IpcPeer(handler_threads=1))
    leaked: list[Any] = []
    outer = current_request()

    @right.on_request(inline=inline)
    def context(msg: Context) -> dict[str, Any]:
        return deep_below()

    right.on_close(lambda: leaked.append(current_request()))
    right.start()
    ids = [left.call(Context())["id"] for _ in range(20)]
    right.close()

    assert len(set(ids)) == 20
    assert outer is None
    assert leaked == [None]


def test_each_of_many_requests_sees_its_own(session: IpcSession) -> None:
    futures = [session.request(Context(), metadata={"n": str(n)}) for n in range(200)]
    contexts = [future.result(timeout=20) for future in futures]

    assert [context["metadata"] for context in contexts] == [{"n": str(n)} for n in range(200)]
    assert [context["id"] for context in contexts] == [future.id for future in futures]
