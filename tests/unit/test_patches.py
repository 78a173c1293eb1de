"""What is refused where gevent or eventlet has patched threads.

Stand-ins tell what is patched, and nothing is; the real ones are tried by tests/servers.
"""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from shared_messages import Echo

from streamipc import IpcPeer
from streamipc._patches import Patches, check_patches, check_sockets
from streamipc._threads import _may_take_signals


@pytest.fixture
def gevent(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the modules that gevent says it has patched; the test adds some."""
    patched: set[str] = set()
    monkey = SimpleNamespace(is_module_patched=lambda name: name in patched)
    monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
    return patched


@pytest.fixture
def eventlet(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the modules that eventlet says it has patched; the test adds some."""
    patched: set[str] = set()
    patcher = SimpleNamespace(is_monkey_patched=lambda name: name in patched)
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)
    return patched


def in_a_thread(function: Any) -> BaseException | None:
    """Return what a call in another thread raises."""
    raised: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised[0] if raised else None


@pytest.mark.usefixtures("gevent", "eventlet")
def test_those_that_are_imported_and_have_patched_nothing_do_no_harm() -> None:
    check_patches()
    assert not Patches().greenlets


@pytest.mark.parametrize("modules", [{"select"}, {"thread"}, {"select", "thread"}], ids=sorted)
def test_eventlet_is_refused_with_what_to_use_instead(
    eventlet: set[str], modules: set[str]
) -> None:
    eventlet |= modules
    with pytest.raises(RuntimeError, match=r"does not work with it.*gunicorn -k gevent"):
        check_patches()
    with pytest.raises(RuntimeError, match="eventlet has patched this process"):
        IpcPeer().create_command_session([sys.executable, "-c", ""])


def test_what_else_eventlet_has_patched_is_no_harm(eventlet: set[str]) -> None:
    eventlet |= {"socket", "os"}
    check_patches()


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("threading", "gevent has patched threads and not select"),
        ("select", "gevent has patched select and not threads"),
    ],
)
def test_gevent_is_refused_where_it_has_patched_one_and_not_the_other(
    gevent: set[str], module: str, text: str
) -> None:
    gevent.add(module)
    with pytest.raises(RuntimeError, match=rf"^{text}: .*gevent\.monkey\.patch_all\(\)$"):
        check_patches()
    with pytest.raises(RuntimeError, match=text):
        IpcPeer().create_command_session([sys.executable, "-c", ""])


def test_a_session_of_gevents_belongs_to_the_real_thread_that_made_it(gevent: set[str]) -> None:
    gevent |= {"threading", "select"}
    check_patches()
    patches = Patches()
    assert patches.greenlets
    patches.check_thread()

    refused = in_a_thread(patches.check_thread)

    assert isinstance(refused, RuntimeError)
    assert "this session was made by another thread" in str(refused)
    assert "Make one for each thread" in str(refused)


def test_a_session_that_another_thread_uses_says_so_where_it_is_used(
    gevent: set[str], connected: Any
) -> None:
    gevent |= {"threading", "select"}
    left, _ = connected()
    gevent.clear()  # the threads of this test are real ones

    refused = in_a_thread(lambda: left._engine.lifecycle.check_caller())

    assert isinstance(refused, RuntimeError)
    assert "made by another thread" in str(refused)
    left._engine.lifecycle.check_caller()


def test_a_session_that_was_made_before_the_patch_is_refused(gevent: set[str]) -> None:
    patches = Patches()
    gevent |= {"threading", "select"}
    with pytest.raises(RuntimeError, match="threads were patched after this session was made"):
        patches.check_lock()


def test_another_lock_in_threading_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = Patches()

    def lock() -> Any:
        raise NotImplementedError

    monkeypatch.setattr(threading, "Lock", lock)
    assert patches.lock is not lock
    patches.check_lock()
    assert patches.lock is lock


def test_sockets_that_would_stop_all_greenlets_are_refused(gevent: set[str]) -> None:
    check_sockets()
    gevent.add("threading")
    with pytest.raises(RuntimeError, match="gevent has patched threads and not socket"):
        check_sockets()
    gevent.add("socket")
    check_sockets()


def test_a_greenlet_blocks_no_signals_while_it_starts_a_thread(gevent: set[str]) -> None:
    """The mask is that of the real thread, which mostly is the main thread."""
    gevent |= {"threading", "select"}
    assert in_a_thread(lambda: check(not _may_take_signals())) is None


def check(condition: bool) -> None:
    assert condition


def test_a_session_of_greenlets_works_in_its_thread(gevent: set[str], connected: Any) -> None:
    gevent |= {"threading", "select", "socket"}
    left, right = connected()
    gevent.clear()  # the threads of this test are real ones
    right.on_request(Echo)(lambda msg: msg.value)
    left.start()
    right.start()

    assert left._engine.lifecycle.is_guarded
    assert left.call(Echo("x"), timeout=30) == "x"
