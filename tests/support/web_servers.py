"""Web servers as people run them: started, loaded, stopped, and looked at afterwards.

    with WebServer(gunicorn("gthread", application="app:app"), folder) as server:
        replies = server.load([Reply(f"/factors/{number}") for number in range(100)])

A ``Reply`` is what became of one HTTP request, whatever that was.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import queue
import socket
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from services import PATIENCE, Service

__all__ = [
    "CLIENTS",
    "Answer",
    "Reply",
    "Server",
    "WebServer",
    "gunicorn",
    "missing",
    "uwsgi",
    "wrong",
]

SESSIONS = (str(Path(__file__).resolve().parent.parent / "servers" / "app"), "application:app")
"""The application that most of these tests are about: its folder, and its name there."""

WORKERS = 2
CLIENTS = 8
UWSGI = Path(sys.executable).with_name("uwsgi")


def missing(*needed: str) -> str | None:
    """Return why tests with these modules, or uwsgi, can't run here, if so."""
    found = [*needed]
    if "uwsgi" in needed and UWSGI.exists():
        found.remove("uwsgi")
    lacking = [name for name in found if importlib.util.find_spec(name) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)} (pip install 'streamipc[servers]')"
    return None


def gunicorn(worker_class: str, *options: str, application: Sequence[str] = SESSIONS) -> list[str]:
    """Return the command of a server, for ``WebServer``."""
    where, name = application
    return [
        *(sys.executable, "-m", "gunicorn", "--bind", "unix:{folder}/socket"),
        *("--workers", str(WORKERS), "--worker-class", worker_class),
        *("--threads", "4") * (worker_class == "gthread"),
        *("--chdir", where, "--worker-tmp-dir", "{folder}"),
        *options,
        name,
    ]


def uwsgi(*options: str, application: Sequence[str] = SESSIONS) -> list[str]:
    """Return the command of a server, for ``WebServer``."""
    where, name = application
    return [
        *(str(UWSGI), "--master", "--need-app", "--die-on-term", "--disable-logging"),
        *("--processes", str(WORKERS), "--http-socket", "{folder}/socket"),
        *("--virtualenv", sys.prefix, "--chdir", where),
        *("--module", name),
        *options,
    ]


class Reply:
    """One HTTP request, and what became of it.

    Attributes:
        status: 0: there was no reply, and ``body`` says why.
        lost: whether the connection broke, as it does where a worker is killed.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body: dict[str, Any] = {}
        self.lost = False

    @property
    def right(self) -> bool:
        """Whether it is the answer to what was asked."""
        return self.status == 200


class Answer(Reply):
    """Of ``tests/servers/app``, by a session of one kind."""

    def __init__(self, kind: str, payload: str) -> None:
        super().__init__(f"/{kind}/{payload}")
        self.kind = kind
        self.payload = payload

    @property
    def right(self) -> bool:
        return self.status == 200 and self.body["payload"] == self.payload

    @property
    def refused(self) -> bool:
        return self.status == 503 and "this session belongs to process" in self.body["error"]


def wrong(replies: Sequence[Reply], server: Service) -> str:
    """Say what was not right, for the message of an assertion."""
    told = Counter(f"{r.path.split('/')[1]}: {r.status} {r.body}" for r in replies if not r.right)
    return "\n".join([*(f"{n} × {text}" for text, n in told.most_common(8)), server.log()])


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE / 2)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


R = TypeVar("R", bound=Reply)


class WebServer(Service):
    """A server that listens at ``socket`` in its folder, whose path must be short.

    Args:
        command: by ``gunicorn()`` or ``uwsgi()``.
        folder: stands where that says ``{folder}``.
        environment: as for ``Service``.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        command = [word.replace("{folder}", str(folder)) for word in command]
        super().__init__(command, folder, environment=environment)

    def load(
        self, questions: Sequence[R], meanwhile: Callable[[], object] | None = None
    ) -> list[R]:
        """Ask all of this, from several threads at a time; return it when all was answered.

        Args:
            questions: new ones.
            meanwhile: called when half of them have been answered.
        """
        waiting: queue.SimpleQueue[R] = queue.SimpleQueue()
        for question in questions:
            waiting.put(question)
        answers: list[R] = []
        half = threading.Event()
        deadline = time.monotonic() + PATIENCE

        def client() -> None:
            with suppress(queue.Empty):
                while True:
                    question = waiting.get_nowait()
                    if time.monotonic() < deadline:
                        self.ask(question)
                    else:
                        question.body = {"error": "others took too long: not asked"}
                    answers.append(question)
                    if len(answers) >= len(questions) / 2:
                        half.set()

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        half.wait()
        if meanwhile is not None:
            meanwhile()
        for thread in threads:
            thread.join()
        assert len(answers) == len(questions)
        return answers

    def ask(self, question: R) -> R:
        """Send a request; fill in what comes of it."""
        connection = _Connection(self._folder / "socket")
        try:
            connection.request("GET", question.path, headers={"Connection": "close"})
            response = connection.getresponse()
            text = response.read()
            question.headers = dict(response.getheaders())
            question.status = response.status
            question.body = json.loads(text)
        except TimeoutError:
            question.body = {"error": "no answer in time"}
        except (OSError, http.client.HTTPException) as error:
            question.status = 0
            question.body = {"error": repr(error)}
            # EAGAIN: the server accepts nobody and its backlog is full.
            question.lost = not isinstance(error, BlockingIOError)
        except ValueError:
            question.body = {"error": text.decode(errors="replace")}
        finally:
            connection.close()
        return question


class Server(WebServer):
    """A server with ``tests/servers/app``.

    Args:
        command: by ``gunicorn()`` or ``uwsgi()``.
        folder: where it runs; its path must be short enough for a socket in it.
        kinds: the sessions that the application has.
    """

    def __init__(self, command: Sequence[str], folder: Path, kinds: Sequence[str]) -> None:
        super().__init__(command, folder, {"SESSIONS": ",".join(kinds)})
        self.kinds = kinds

    def wait_until_ready(self) -> None:
        self.wait_for_workers()

    def wait_for_workers(self, without: Collection[int] = ()) -> None:
        """Wait until as many workers as there should be have answered, not counting some."""
        seen: set[int] = set()

        def all_answered() -> bool:
            answers = self.ask_sessions(CLIENTS, ["own"])
            seen.update(answer.body["worker"] for answer in answers if answer.right)
            return len(seen.difference(without)) >= WORKERS

        self.wait(all_answered, "answer from every worker")

    def ask_sessions(
        self,
        count: int,
        kinds: Sequence[str] = (),
        meanwhile: Callable[[], object] | None = None,
    ) -> list[Answer]:
        """Send requests, no payload twice; return all answers.

        Args:
            count: of all requests.
            kinds: which sessions are asked, in turn; all of them if none is named.
            meanwhile: as for ``load()``.
        """
        asked = kinds or self.kinds
        questions = [
            Answer(asked[number % len(asked)], str(uuid.uuid4())) for number in range(count)
        ]
        return self.load(questions, meanwhile)
