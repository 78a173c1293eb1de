"""Sessions in web applications, under gunicorn and uWSGI as they are run in production.

However a server makes its processes: each answer is the right one, or says that the session
belongs to another process; nothing hangs, and no child outlives its server.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from web_servers import Answer, Server, gunicorn, missing, uwsgi, wrong

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="children are looked for in Linux's /proc"
)

IMPORTED = ["imported", "own"]
USED = ["imported", "used", "own"]

GEVENT = ["--gevent", "20", "--gevent-monkey-patch"]


def case(command: list[str], kinds: Sequence[str] = USED) -> Any:
    """A server that is tried; its name is that of the server and what sets it apart."""
    server = "gunicorn" if "gunicorn" in command else "uwsgi"
    reason = missing("flask", "gevent", server)
    usual = {*gunicorn("gthread"), *uwsgi()}
    options = [part.lstrip("-") for part in command if part not in usual]
    return pytest.param(
        command,
        kinds,
        id=" ".join([server, *(["gthread"] if "gthread" in command else []), *options]),
        marks=pytest.mark.skipif(reason is not None, reason=str(reason)),
    )


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    # Not tmp_path: it is named after the test, and a socket's path must be short.
    return lambda command, kinds: Server(command, tmp_path_factory.mktemp("server"), kinds)


def children_by_worker(answers: Sequence[Answer]) -> dict[str, set[tuple[int, int]]]:
    """Return which child answered which worker, for each kind of session."""
    pairs: dict[str, set[tuple[int, int]]] = {}
    for answer in answers:
        if answer.right:
            pair = (answer.body["worker"], answer.body["child"])
            pairs.setdefault(answer.kind, set()).add(pair)
    return pairs


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        case(gunicorn("sync")),
        case(gunicorn("gthread")),
        case(gunicorn("gevent")),
        case(uwsgi("--lazy-apps")),
        case(uwsgi("--lazy-apps", "--enable-threads", "--threads", "4")),
        case(uwsgi("--lazy-apps", "--gevent", "20", "--gevent-early-monkey-patch")),
    ],
)
def test_each_worker_that_imports_the_application_has_its_own_children(
    serve: Serve, command: list[str], kinds: Sequence[str]
) -> None:
    with serve(command, kinds) as server:
        answers = server.ask_sessions(300)

        assert all(answer.right for answer in answers), wrong(answers, server)
        for kind, pairs in children_by_worker(answers).items():
            workers, children = zip(*pairs, strict=True)
            assert len(pairs) == len(set(workers)) == len(set(children)), (kind, pairs)
            assert pairs <= {(parent, pid) for pid, parent in server.children().items()}

    server.check_log()


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        case(gunicorn("sync", "--preload")),
        case(gunicorn("gthread", "--preload")),
        case(gunicorn("gevent", "--preload")),
        # uWSGI forks in C, which Python does not see: with threads there, which a session in
        # use has, what Python does in the forked process is not defined.
        case(uwsgi(), IMPORTED),
        case(uwsgi("--enable-threads"), IMPORTED),
        case(uwsgi(*GEVENT), IMPORTED),
        # Python is told. (With --py-call-osafterfork uWSGI itself aborts on Python 3.13.)
        case(uwsgi("--enable-threads", "--py-call-uwsgi-fork-hooks")),
    ],
)
def test_a_forked_worker_says_whose_an_imported_session_is_and_uses_its_own(
    serve: Serve, command: list[str], kinds: Sequence[str]
) -> None:
    with serve(command, kinds) as server:
        answers = server.ask_sessions(300)

        for answer in answers:
            assert answer.right if answer.kind == "own" else answer.refused, wrong(answers, server)
        pairs = children_by_worker(answers)["own"]
        assert pairs <= {(parent, pid) for pid, parent in server.children().items()}

    server.check_log()


@pytest.mark.parametrize(("command", "kinds"), [case(uwsgi("--lazy-apps", *GEVENT))])
def test_a_session_imported_before_gevents_patch_says_so_and_one_made_later_answers(
    serve: Serve, command: list[str], kinds: Sequence[str]
) -> None:
    with serve(command, kinds) as server:
        answers = server.ask_sessions(300)

        for answer in answers:
            said_so = "threads were patched after this session" in answer.body.get("error", "")
            assert answer.right or (said_so and answer.kind != "own"), wrong(answers, server)

    # The log is not looked at: on Python 3.13 gevent prints a traceback of its own whenever a
    # child is started after a patch that came late.


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        case(gunicorn("gthread", "--graceful-timeout", "5")),
        case(uwsgi("--lazy-apps", "--enable-threads")),
    ],
)
def test_a_worker_that_is_killed_takes_its_children_and_nobody_elses_answers(
    serve: Serve, command: list[str], kinds: Sequence[str]
) -> None:
    with serve(command, kinds) as server:
        before = server.children()
        victim = next(iter(before.values()))

        answers = server.ask_sessions(600, meanwhile=lambda: os.kill(victim, signal.SIGKILL))

        assert all(answer.right or answer.lost for answer in answers), wrong(answers, server)
        assert sum(answer.right for answer in answers) >= 500, wrong(answers, server)
        theirs = {pid for pid, parent in before.items() if parent == victim}
        server.wait(lambda: theirs.isdisjoint(server.children()), "end of its children")
        server.wait_for_workers(without=[victim])
        assert all(answer.right for answer in server.ask_sessions(60))

    server.check_log()


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        case(gunicorn("sync")),
        case(gunicorn("gthread", "--preload"), ["own"]),
        case(uwsgi("--lazy-apps", "--enable-threads")),
    ],
)
def test_a_reload_under_load_loses_no_request_and_leaves_no_child(
    serve: Serve, command: list[str], kinds: Sequence[str]
) -> None:
    with serve(command, kinds) as server:
        before = server.children()

        answers = server.ask_sessions(
            600, meanwhile=lambda: server.process.send_signal(signal.SIGHUP)
        )

        server.wait(lambda: before.keys().isdisjoint(server.children()), "end of the old children")
        server.wait_for_workers(without=before.values())
        assert all(answer.right for answer in answers), wrong(answers, server)
        assert all(answer.right for answer in server.ask_sessions(60))

    server.check_log()


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        case(gunicorn("gthread", "--max-requests", "40")),
        case(
            uwsgi(
                "--lazy-apps",
                "--enable-threads",
                "--max-requests",
                "40",
                "--min-worker-lifetime",
                "1",
            )
        ),
    ],
)
def test_workers_that_end_after_some_requests_lose_none_and_leave_no_child(
    serve: Serve, command: list[str], kinds: Sequence[str]
) -> None:
    with serve(command, kinds) as server:
        seen: set[int] = set()

        def were_replaced() -> bool:
            answers = server.ask_sessions(100)
            assert all(answer.right for answer in answers), wrong(answers, server)
            seen.update(answer.body["worker"] for answer in answers)
            return len(seen) >= 6

        server.wait(were_replaced, "replacement of workers")
        server.wait(lambda: len({*server.children().values()}) <= 2, "end of the old children")

    server.check_log()
