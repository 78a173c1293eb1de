"""Web servers as people run them: started, loaded, stopped, and looked at afterwards.

    with Server(gunicorn("gthread"), folder, ["imported", "own"]) as server:
        answers = server.load(300)

An ``Answer`` is what became of one HTTP request, whatever that was.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Self

__all__ = ["Answer", "Server", "gunicorn", "missing", "uwsgi"]

APPLICATION = Path(__file__).resolve().parent.parent / "servers" / "app"
PATIENCE = 60.0
"""Seconds that a server has to start, to stop, or to come to what is waited for."""

WORKERS = 2
CLIENTS = 8
UWSGI = Path(sys.executable).with_name("uwsgi")


def missing(server: str) -> str | None:
    """Return why tests with this server can't run here, if so."""
    needed = ["flask", server] if server != "uwsgi" else ["flask"]
    if server != "gunicorn":
        needed.append("gevent")
    lacking = [name for name in dict.fromkeys(needed) if importlib.util.find_spec(name) is None]
    if server == "uwsgi" and not UWSGI.exists():
        lacking.append("uWSGI")
    if lacking:
        return f"not installed: {', '.join(lacking)} (pip install 'streamipc[servers]')"
    return None


def gunicorn(worker_class: str, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "gunicorn", "--bind", "unix:socket"),
        *("--workers", str(WORKERS), "--worker-class", worker_class),
        *("--threads", "4") * (worker_class == "gthread"),
        *("--pythonpath", str(APPLICATION), "--worker-tmp-dir", "."),
        *options,
        "application:app",
    ]


def uwsgi(*options: str) -> list[str]:
    return [
        *(str(UWSGI), "--master", "--need-app", "--die-on-term", "--disable-logging"),
        *("--processes", str(WORKERS), "--http-socket", "socket"),
        *("--virtualenv", sys.prefix, "--pythonpath", str(APPLICATION)),
        *("--module", "application:app"),
        *options,
    ]


@dataclass
class Answer:
    kind: str
    payload: str
    status: int = 0
    """0: there was no answer, and ``body`` says why."""

    body: dict[str, Any] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        return self.status == 200 and self.body["payload"] == self.payload

    @property
    def refused(self) -> bool:
        return self.status == 503 and "this session belongs to process" in self.body["error"]

    @property
    def lost(self) -> bool:
        """Whether the connection broke, as it does where a worker is killed."""
        return self.body.get("lost", False)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE / 2)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Server:
    """A server with ``tests/servers/app``, started here, stopped at the end of ``with``.

    Args:
        command: by ``gunicorn()`` or ``uwsgi()``.
        folder: where it runs; its path must be short enough for a socket in it.
        kinds: the sessions that the application has.
    """

    def __init__(self, command: Sequence[str], folder: Path, kinds: Sequence[str]) -> None:
        self.kinds = kinds
        self._folder = folder
        self._mark = f"mark-{uuid.uuid4()}"
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={
                    **os.environ,
                    "CHILD_MARK": self._mark,
                    "SESSIONS": ",".join(kinds),
                    "PYTHONUNBUFFERED": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        try:
            self.wait_for_workers()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self._kill()

    def wait_for_workers(self, without: Collection[int] = ()) -> None:
        """Wait until as many workers as there should be have answered, not counting some."""
        seen: set[int] = set()

        def all_answered() -> bool:
            answers = self.load(CLIENTS, ["own"])
            seen.update(answer.body["worker"] for answer in answers if answer.right)
            return len(seen.difference(without)) >= WORKERS

        self.wait(all_answered, "answer from every worker")

    def load(
        self,
        count: int,
        kinds: Sequence[str] = (),
        meanwhile: Callable[[], object] = lambda: None,
    ) -> list[Answer]:
        """Send requests from several threads at a time, no payload twice; return all answers.

        Args:
            count: of all requests.
            kinds: which sessions are asked, in turn; all of them if none is named.
            meanwhile: called when half of the requests have been answered.
        """
        waiting: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        for number in range(count):
            kind = (kinds or self.kinds)[number % len(kinds or self.kinds)]
            waiting.put(Answer(kind, str(uuid.uuid4())))
        answers: list[Answer] = []
        half = threading.Event()
        deadline = time.monotonic() + PATIENCE

        def client() -> None:
            with suppress(queue.Empty):
                while True:
                    answer = waiting.get_nowait()
                    if time.monotonic() < deadline:
                        self.ask(answer)
                    else:
                        answer.body = {"error": "others took too long: not asked"}
                    answers.append(answer)
                    if len(answers) >= count / 2:
                        half.set()

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        half.wait()
        meanwhile()
        for thread in threads:
            thread.join()
        assert len(answers) == count
        return answers

    def ask(self, question: Answer) -> None:
        """Send a request; fill in what comes of it."""
        connection = _Connection(self._folder / "socket")
        try:
            connection.request(
                "GET", f"/{question.kind}/{question.payload}", headers={"Connection": "close"}
            )
            response = connection.getresponse()
            text = response.read()
            question.status = response.status
            question.body = json.loads(text)
        except TimeoutError:
            question.body = {"error": "no answer in time"}
        except (OSError, http.client.HTTPException) as error:
            # EAGAIN: the server accepts nobody and its backlog is full.
            lost = not isinstance(error, BlockingIOError)
            question.status = 0
            question.body = {"error": repr(error), "lost": lost}
        except ValueError:
            question.body = {"error": text.decode(errors="replace")}
        finally:
            connection.close()

    def children(self) -> dict[int, int]:
        """Return the children that applications of this server started, each with its parent."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError):
                if self._mark.encode() in (folder / "cmdline").read_bytes():
                    status = (folder / "stat").read_text().rpartition(")")[2].split()
                    found[int(folder.name)] = int(status[1])
        return found

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"the server has ended\n{self.log()}"
            assert time.monotonic() < deadline, f"no {what} in {PATIENCE:g} s\n{self.log()}"
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server as its users do; nothing may be left of it."""
        self.process.terminate()
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server does not stop\n{self.log()}") from None
        deadline = time.monotonic() + PATIENCE
        while self.children() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.children() == {}, self.log()
        assert status == 0, self.log()

    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def _kill(self) -> None:
        for pid in self.children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
