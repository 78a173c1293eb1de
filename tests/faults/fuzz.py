"""Bytes that nobody should send, without end: ``python -m tests.faults.fuzz``.

    python -m tests.faults.fuzz --cases 1000000     # the protocol, no thread, no descriptor
    python -m tests.faults.fuzz --live 10000        # a session over two pipes
    python -m tests.faults.fuzz --only 4711         # one case again, and its bytes

A case is what its number and ``--seed`` make it, so each can be run again. It is made from
frames of every kind, by both serializers: changed, cut, spliced, or made up. Held against:

* nothing is raised, whatever arrives;
* the next good frame is understood. A frame whose damaged length swallows what follows is
  made complete first; one that is larger than allowed is skipped as announced, which may
  be gigabytes, so there the case ends;
* nothing is imported, run or opened: an audit hook (PEP 578) looks on;
* memory stays in proportion to what was sent: ``tracemalloc`` for one case in five hundred,
  the process's own size for all;
* no case takes longer than :data:`LONGEST` seconds.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import queue
import random
import resource
import sys
import threading
import time
import tracemalloc
import zoneinfo
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from streamipc import IpcPeer, LogMessage, Message
from streamipc.engine.error_answers import error_message_from
from streamipc.protocol.connection import Connection
from streamipc.protocol.envelopes import Notification, Request, Response
from streamipc.protocol.events import Undecodable

if __package__:
    from .fuzz_corpus import SERIALIZERS, Corpus, frame
else:  # run by its path, against the streamipc that is installed
    from fuzz_corpus import SERIALIZERS, Corpus, frame

LONGEST = 5.0
"""Seconds that one case may take, on a machine that is busy with other things."""

STUCK = 60
"""Seconds without progress after which the process shows where it is, and exits."""

GROWTH = 64 << 20
"""Bytes by which the process may grow in a run of any length."""

TRACED = 500
"""Of so many cases one is traced. Each time costs the process some 5 KB for good: over 30,000 cases
it grew by 54 bytes a case with one in a hundred traced, and by 0.5 with none (Python 3.11)."""

LIMITS = (16 << 10, 16 << 10, 16 << 10, 300 << 10)
"""``max_frame_size``: mostly small, so that frames are made complete quickly."""


class Call:
    """Stands for a request of ours that waits for its reply."""

    items = True


WATCHED = ("import", "exec", "compile", "open", "os.", "subprocess.", "socket.", "ctypes.", "code.")
"""Audit events, or how they begin."""


def _is_zone(event: str, args: tuple[Any, ...]) -> bool:
    """Tell whether a time zone is read that exists, which is allowed."""
    return event == "open" and str(args[0]).startswith(zoneinfo.TZPATH)


class Onlooker:
    """Notes what is imported, run or opened while ``looking``."""

    def __init__(self) -> None:
        self.looking = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.looking and event.startswith(WATCHED) and not _is_zone(event, args):
            self.seen.append(f"{event} {args!r:.200}")

    def __enter__(self) -> None:
        self.looking = True

    def __exit__(self, *_: object) -> None:
        self.looking = False


class Failure(Exception):
    """What a case has shown."""


def fed(connection: Connection, data: bytes, rng: random.Random) -> Iterator[Any]:
    """Feed data in random cuts; yield each thing that was decoded, and its event."""
    view = memoryview(data)
    whole = rng.random() < 0.5
    while view:
        size = len(view) if whole else rng.choice((1, 3, 8, 9, 100, 5000))
        for decoded in connection.feed(bytes(view[:size])):
            yield decoded, connection.receive(decoded)
        view = view[size:]


def understands(connection: Connection, serializer: Any, rng: random.Random, mark: str) -> bool:
    """Feed a good frame; return whether it was understood."""
    good = frame(b"".join(serializer.encode(Notification(LogMessage(mark)))))
    return any(
        isinstance(event, Notification) and event == Notification(LogMessage(mark))
        for _, event in fed(connection, good, rng)
    )


def skips(decoded: Any) -> bool:
    """Tell whether a frame that is too large is being skipped."""
    return isinstance(decoded, Undecodable) and "skipped a frame" in str(decoded.error)


def run_case(corpus: Corpus, stream: bytes, limit: int, rng: random.Random) -> str:
    """Run one case; return what became of it."""
    connection = Connection(corpus.serializer, limit)
    for id in (1, 2, 9, "text-id"):  # noqa: A001
        connection.calls[id] = Call()
    outcome = "read"
    # What is announced and does not come is made of zeros, which are nothing by themselves.
    for decoded, _ in fed(connection, stream + bytes(limit + 8), rng):
        if skips(decoded):
            return "skipped"
        if isinstance(decoded, Undecodable):
            outcome = "refused"
    if not understands(connection, corpus.serializer, rng, "still there"):
        raise Failure("the next good frame was not understood")
    return outcome


class Run:
    """A number of cases, one after the other."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.corpora = [Corpus(name) for name in SERIALIZERS]
        self.outcomes: Counter[str] = Counter()
        self.slowest = (0.0, 0)
        self.onlooker = Onlooker()
        self.size = 0

    def case(self, number: int) -> tuple[Corpus, bytes, int, random.Random]:
        rng = random.Random((self.seed << 40) + number)
        corpus = rng.choice(self.corpora)
        return corpus, corpus.stream(rng), rng.choice(LIMITS), rng

    def cases(self, numbers: range, run: Callable[..., str]) -> None:
        """Run them; raise at the first that shows something."""
        modules = set(sys.modules)
        for number in numbers:
            if number % 1000 == 0:
                faulthandler.dump_traceback_later(STUCK, exit=True)
            try:
                self._case(number, run)
            except Exception as error:
                new = set(sys.modules) - modules
                raise SystemExit(
                    f"case {number} of seed {self.seed}: {type(error).__name__}: {error}"
                    f"{'; imported: ' if new else ''}{', '.join(new)}"
                ) from error
        faulthandler.cancel_dump_traceback_later()
        assert set(sys.modules) == modules, set(sys.modules) - modules

    def _case(self, number: int, run: Callable[..., str]) -> None:
        corpus, stream, limit, rng = self.case(number)
        traced = number % TRACED == TRACED - 1 and run is run_case
        if traced:
            tracemalloc.start()
        start = time.monotonic()
        with self.onlooker:
            outcome = run(corpus, stream, limit, rng)
        took = time.monotonic() - start
        if traced:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            if peak > (3 << 20) + 100 * len(stream):
                raise Failure(f"{len(stream):,} bytes took {peak:,} bytes of memory")
        self.outcomes[outcome] += 1
        self.slowest = max(self.slowest, (took, number))
        if self.onlooker.seen:
            raise Failure(f"something was imported, run or opened: {self.onlooker.seen}")
        if took > LONGEST:
            raise Failure(f"it took {took:.1f} seconds")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if number % 1000 == 999:
            self.size = self.size or grown
            if grown > self.size + GROWTH:
                raise Failure(f"the process grew from {self.size:,} to {grown:,} bytes")


class Live:
    """A session over two pipes, and the other side of it in our hands."""

    def __init__(self, corpus: Corpus, limit: int) -> None:
        self.serializer = corpus.serializer
        self._incoming, theirs_out = os.pipe()
        theirs_in, self._outgoing = os.pipe()
        peer = IpcPeer(self.serializer, max_frame_size=limit, spin=0)
        self.session = peer.create_stream_session(theirs_out, theirs_in)
        self.session.on_request(self._answer)
        self.session.on_message(self._take)
        self.session.on_exception(self._take)
        self.session.start()
        self._replies: queue.Queue[Any] = queue.Queue()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _answer(self, message: Message) -> Any:
        return message

    def _take(self, _: Any) -> None:
        pass

    def _read(self) -> None:
        connection = Connection(self.serializer, 256 << 20)
        while data := os.read(self._incoming, 1 << 16):
            for decoded in connection.feed(data):
                if type(decoded) is Response:
                    self._replies.put(decoded)

    def answers(self, stream: bytes, mark: str) -> bool:
        """Send bytes and then a request; tell whether that was answered."""
        good = Request(mark, LogMessage(mark))
        data = stream + frame(b"".join(self.serializer.encode(good)))
        while data:
            data = data[os.write(self._outgoing, data) :]
        end = time.monotonic() + STUCK / 2
        while (left := end - time.monotonic()) > 0:
            try:
                if self._replies.get(timeout=left) == Response(mark, LogMessage(mark)):
                    return True
            except queue.Empty:
                break
        return False

    def close(self) -> None:
        os.close(self._outgoing)
        self.session.close(timeout=5)
        self._reading.join(10)
        os.close(self._incoming)


class LiveRun:
    """Runs cases against sessions, each of which lives through all of them."""

    def __init__(self, corpora: list[Corpus]) -> None:
        self._live = {(id(c), limit): Live(c, limit) for c in corpora for limit in set(LIMITS)}
        self._count = 0
        error_message_from(ValueError())  # imports what an answer with an error needs
        for (_, limit), live in self._live.items():
            assert live.answers(frame(b"{") + bytes(limit), "first")  # import what is needed

    def __call__(self, corpus: Corpus, stream: bytes, limit: int, rng: random.Random) -> str:
        """Run one case; see :func:`run_case`, which also foretells what will come of it."""
        outcome = run_case(corpus, stream, limit, rng)
        if outcome == "skipped":
            return outcome
        live = self._live[id(corpus), limit]
        self._count += 1
        if not live.answers(stream + bytes(limit + 8), f"mark {self._count}"):
            raise Failure(f"no answer; {live.session.stats}, closed: {live.session.closed}")
        return outcome

    def close(self) -> None:
        for live in self._live.values():
            live.close()
        end = time.monotonic() + STUCK / 2
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join(max(0.0, end - time.monotonic()))  # close() waits a second for each
        left = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        if left:
            raise SystemExit(f"threads are left: {left}")


def warm_up(run: Run) -> None:
    """Have everything imported that good frames need, and zones that do not exist."""
    for corpus in run.corpora:
        connection = Connection(corpus.serializer, 1 << 20)
        for payload in corpus.payloads:
            for decoded in connection.feed(frame(payload)):
                connection.receive(decoded)
    payload = next(p for p in run.corpora[0].payloads if b"zone_info" in p)
    assert (
        run_case(run.corpora[0], frame(payload.replace(b"UTC", b"XYZ")), 1 << 14, random.Random())
        == "refused"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=0, help="through the protocol alone")
    parser.add_argument("--live", type=int, default=0, help="through a session")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="show one case, and run it")
    options = parser.parse_args()
    run = Run(options.seed)
    warm_up(run)
    if options.only is not None:
        corpus, stream, limit, rng = run.case(options.only)
        print(f"{corpus.serializer!r}, max_frame_size {limit:,}: {stream!r}")
        print(run_case(corpus, stream, limit, rng))
        return
    start = time.monotonic()
    first = options.first
    run.cases(range(first, first + options.cases), run_case)
    if options.live:
        live = LiveRun(run.corpora)
        run.cases(range(first, first + options.live), live)
        live.close()
    took, number = run.slowest
    print(
        f"{options.cases:,} cases, {options.live:,} live, in {time.monotonic() - start:.1f} s: "
        f"{dict(run.outcomes)}; slowest {took * 1000:.0f} ms (case {number}); "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
    )


if __name__ == "__main__":
    main()
