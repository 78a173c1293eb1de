"""The examples flask_app and django_app, under gunicorn and uWSGI as they are run in production.

Each server is started once, loaded and hurt by one test after the other, and stopped. Whatever
happens to it: each answer is the right one or says what has failed, only those fail that a
killed process had in hand, and no child outlives its server.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from web_servers import CLIENTS, WORKERS, Reply, WebServer, gunicorn, missing, uwsgi, wrong

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="children are looked for in Linux's /proc"
)

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
FLASK = (str(EXAMPLES / "flask_app"), "app:app")
DJANGO = (str(EXAMPLES / "django_app"), "shop.wsgi:application")

# Two primes: found only by trying all numbers below them, which takes a minute or more.
TAKES_TOO_LONG = 999_999_937 * 999_999_929

numbers = itertools.count(1_000_000_000 + random.randrange(1_000_000))


class Factors(Reply):
    """Of examples/flask_app: no number twice."""

    def __init__(self) -> None:
        self.number = next(numbers)
        super().__init__(f"/factors/{self.number}")

    @property
    def right(self) -> bool:
        return (
            self.status == 200
            and self.body["number"] == self.number
            and math.prod(self.body["factors"]) == self.number
        )


class Suggestions(Reply):
    """Of examples/django_app: no word twice."""

    def __init__(self) -> None:
        self.word = f"wardrobe{uuid.uuid4().hex[:4]}"
        super().__init__(f"/suggest/{self.word}/")

    @property
    def right(self) -> bool:
        return self.status == 200 and self.body == {"word": self.word, "nearest": ["wardrobe"]}


class ExampleServer(WebServer):
    """A server with one of the two examples.

    Args:
        command: by ``flask()`` or ``django()``.
        folder: as for ``WebServer``.
    """

    def __init__(self, command: list[str], folder: Path) -> None:
        self.is_flask = FLASK[0] in command
        self.is_gunicorn = "gunicorn" in command
        super().__init__(command, folder)

    def ask_for(
        self, count: int, meanwhile: Callable[[], object] | None = None
    ) -> list[Factors | Suggestions]:
        question = Factors if self.is_flask else Suggestions
        return self.load([question() for _ in range(count)], meanwhile)

    def wait_until_ready(self) -> None:
        self.wait_for_workers()

    def wait_for_workers(self, without: Collection[int] = ()) -> None:
        """Wait until as many workers as there should be have children, not counting some."""

        def all_have() -> bool:
            self.ask_for(CLIENTS)
            return len({*self.children().values()}.difference(without)) >= WORKERS

        self.wait(all_have, "child of every worker")


def case(command: list[str]) -> Any:
    """A server that is tried; its name is that of the application, and what the server has."""
    server = "gunicorn" if "gunicorn" in command else "uwsgi"
    framework = "flask" if FLASK[0] in command else "django"
    reason = missing(framework, "gevent", server)
    usual = {*gunicorn("", application=DJANGO), *uwsgi(application=FLASK), FLASK[1], DJANGO[0]}
    options = [part.lstrip("-") for part in command if part not in {*usual, FLASK[0], DJANGO[1]}]
    return pytest.param(
        command,
        id=" ".join([framework, server, *options]),
        marks=pytest.mark.skipif(reason is not None, reason=str(reason)),
    )


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ExampleServer]:
    """Start a server; at its end stop it, after which no child may be left."""
    with ExampleServer(request.param, tmp_path_factory.mktemp("server")) as server:
        yield server
    server.check_log()


every_server = pytest.mark.parametrize(
    "server",
    [
        case(gunicorn("sync", application=FLASK)),
        case(gunicorn("sync", "--preload", application=DJANGO)),
        case(gunicorn("gthread", application=DJANGO)),
        case(gunicorn("gthread", "--preload", application=FLASK)),
        case(gunicorn("gevent", application=FLASK)),
        case(gunicorn("gevent", "--preload", application=DJANGO)),
        case(uwsgi(application=FLASK)),
        case(uwsgi(application=DJANGO)),
        case(uwsgi("--lazy-apps", application=FLASK)),
        case(uwsgi("--lazy-apps", "--enable-threads", "--threads", "4", application=DJANGO)),
    ],
    indirect=True,
    scope="module",
)


@every_server
def test_each_worker_has_children_of_its_own(server: ExampleServer) -> None:
    answers = server.ask_for(200)

    assert all(answer.right for answer in answers), wrong(answers, server)
    parents = server.children().values()
    assert len({*parents}) == WORKERS, parents
    assert server.process.pid not in parents


@every_server
def test_a_child_that_is_killed_costs_the_answer_that_it_had_in_hand(
    server: ExampleServer,
) -> None:
    victims = [*server.children()][:2]

    def kill() -> None:
        for victim in victims:
            os.kill(victim, signal.SIGKILL)

    answers = server.ask_for(200, meanwhile=kill)

    failed = [answer for answer in answers if not answer.right]
    # The pool of the Django application asks another child.
    assert len(failed) <= (len(victims) if server.is_flask else 0), wrong(answers, server)
    assert all(answer.status == 502 for answer in failed), wrong(answers, server)
    assert {*victims}.isdisjoint(server.children())
    answers = server.ask_for(60)
    assert all(answer.right for answer in answers), wrong(answers, server)


@every_server
def test_a_reload_under_load_costs_no_answer_and_leaves_no_child(server: ExampleServer) -> None:
    before = server.children()

    answers = server.ask_for(200, meanwhile=lambda: server.process.send_signal(signal.SIGHUP))

    # uWSGI's workers rarely drop a connection that they have just accepted, whatever the
    # application: one in 30,000 requests, where every 200th was a reload.
    most = 0 if server.is_gunicorn else 2
    assert sum(answer.lost for answer in answers) <= most, wrong(answers, server)
    assert all(answer.right or answer.lost for answer in answers), wrong(answers, server)
    server.wait(lambda: before.keys().isdisjoint(server.children()), "end of the old children")
    server.wait_for_workers(without=before.values())


@every_server
def test_a_worker_that_is_killed_takes_its_children_along(server: ExampleServer) -> None:
    before = server.children()
    victim = next(iter(before.values()))

    answers = server.ask_for(200, meanwhile=lambda: os.kill(victim, signal.SIGKILL))

    theirs = {pid for pid, parent in before.items() if parent == victim}
    killed = time.monotonic()
    server.wait(lambda: theirs.isdisjoint(server.children()), "end of its children")
    assert time.monotonic() - killed < 10
    assert all(answer.right or answer.lost for answer in answers), wrong(answers, server)
    assert sum(answer.right for answer in answers) >= 200 - 2 * CLIENTS, wrong(answers, server)
    server.wait_for_workers(without=[victim])
    answers = server.ask_for(60)
    assert all(answer.right for answer in answers), wrong(answers, server)


@pytest.mark.parametrize(
    "server",
    [
        case(gunicorn("gthread", "--max-requests", "30", application=DJANGO)),
        case(uwsgi("--max-requests", "30", "--min-worker-lifetime", "1", application=FLASK)),
    ],
    indirect=True,
)
def test_workers_that_end_after_some_requests_lose_none_and_leave_no_child(
    server: ExampleServer,
) -> None:
    seen: set[int] = set()

    def were_replaced() -> bool:
        answers = server.ask_for(60)
        assert all(answer.right for answer in answers), wrong(answers, server)
        seen.update(server.children().values())
        return len(seen) >= 2 * WORKERS

    server.wait(were_replaced, "replacement of workers")
    server.wait(
        lambda: len({*server.children().values()}) <= WORKERS, "end of the old workers' children"
    )


@pytest.mark.parametrize("server", [case(gunicorn("gthread", application=FLASK))], indirect=True)
def test_a_child_that_does_not_come_back_is_killed_and_holds_nobody_up(
    server: ExampleServer,
) -> None:
    stuck = Reply(f"/factors/{TAKES_TOO_LONG}")

    before = server.children()
    answers = server.load([stuck, *(Factors() for _ in range(100))])

    assert stuck.status == 504, wrong(answers, server)
    assert all(answer.right for answer in answers if answer is not stuck), wrong(answers, server)
    server.wait(lambda: not before.keys() <= server.children().keys(), "end of the child")
    assert all(answer.right for answer in server.ask_for(30))
    assert server.ask(Reply("/health")).status == 200


@pytest.mark.skipif(missing("flask", "gunicorn") is not None, reason="see the tests above")
def test_children_that_cannot_start_are_told_with_the_time_to_try_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("server")
    copy = shutil.copytree(FLASK[0], folder / "app")
    child = copy / "child.py"
    right = child.read_text()
    child.write_text("raise SystemExit('the licence has run out')")
    command = gunicorn("gthread", application=(str(copy), "app:app"))

    with WebServer(command, folder) as server:
        server.wait(lambda: server.ask(Reply("/health")).status == 503, "answer")
        refused = [server.ask(Factors()) for _ in range(20)]

        assert {reply.status for reply in refused} == {503}, wrong(refused, server)
        waits = {int(reply.headers["Retry-After"]) for reply in refused}
        assert all(1 <= seconds <= 30 for seconds in waits), waits
        assert "the licence has run out" in server.log()

        child.write_text(right)
        server.wait(lambda: server.ask(Factors()).right, "right answer")
        server.wait(
            lambda: all(one.right for one in server.load([Factors() for _ in range(20)])),
            "right answers only",
        )
