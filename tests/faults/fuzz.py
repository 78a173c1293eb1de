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
* memory stays in proportion to what was sent: ``tracemalloc`` for one case in a hundred,
  the process's own size for all;
* no case takes longer than :data:`LONGEST` seconds.
"""

from __future__ import annotations

import argparse
import datetime
import decimal
import enum
import faulthandler
import fractions
import ipaddress
import os
import pathlib
import pickletools
import queue
import random
import resource
import sys
import threading
import time
import tracemalloc
import uuid
import zoneinfo
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

from streamipc import (
    ErrorMessage,
    IpcPeer,
    JsonMessageSerializer,
    LogMessage,
    Message,
    NativeMessageSerializer,
)
from streamipc.protocol.connection import Connection, NotificationReceived, Undecodable
from streamipc.protocol.envelopes import (
    Cancel,
    Credit,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)
from streamipc.serializers._native_builders import MODULE, VOCABULARY

LONGEST = 5.0
"""Seconds that one case may take, on a machine that is busy with other things."""

STUCK = 60
"""Seconds without progress after which the process shows where it is, and exits."""

GROWTH = 64 << 20
"""Bytes by which the process may grow in a run of any length."""

LIMITS = (16 << 10, 16 << 10, 16 << 10, 300 << 10)
"""``max_frame_size``: mostly small, so that frames are made complete quickly."""

MAGIC = b"\xf3\x4a\x9d\xe2"


class Color(enum.Enum):
    RED = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Leaf(Message, frozen=True):
    number: int = 0
    color: Color = Color.RED
    access: Access | None = None


class Wide(Message):
    text: str
    leaf: Leaf
    leaves: list[Leaf]
    table: dict[str, int | None]
    when: datetime.datetime
    money: decimal.Decimal
    key: uuid.UUID
    where: pathlib.Path
    data: bytes
    anything: Any = None


class Call:
    """Stands for a request of ours that waits for its reply."""

    wants_items = True


def envelopes() -> list[Any]:
    """Return envelopes of all kinds, with values of all types."""
    leaf = Leaf(5, Color.RED, Access.READ | Access.WRITE)
    zone = datetime.timezone(datetime.timedelta(hours=2))
    when = datetime.datetime(2024, 2, 29, 12, 30, 1, 5, zone)
    rich: list[Any] = [
        decimal.Decimal("1.50"), uuid.UUID(int=7), when, when.date(), when.timetz(), zone,
        datetime.timedelta(1, 2, 3), pathlib.PurePosixPath("/a/b"), {1, 2}, frozenset("ab"),
        deque([1, 2], 5), 2**80, -1, 1.5, 1 + 2j, b"bytes", bytearray(b"array"), (1, (2, (3,))),
        OrderedDict(a=1), {(1, 2): "pair"}, leaf, [leaf, leaf], None, True, "\u20ac" * 50,
    ]  # fmt: skip
    native_only = [
        range(3), slice(1, 2), fractions.Fraction(1, 3), zoneinfo.ZoneInfo("UTC"),
        ipaddress.ip_address("::1"),
        memoryview(b"view"), Color.RED, Access.WRITE, Counter("aab"),
    ]  # fmt: skip
    wide = Wide(
        "text", leaf, [leaf, Leaf()], {"a": 1, "b": None}, when, decimal.Decimal("2.5"),
        uuid.UUID(int=1), pathlib.Path("/x"), b"\0\1" * 20, {"k": [1, "x", None]},
    )  # fmt: skip
    return [
        Request(3, wide, 1.5, {"traceparent": "00-1"}, 16),
        Request("text-id", leaf),
        Request(1, LogMessage("do")),
        Notification(wide, {"a": "b"}),
        Notification(LogMessage("tell", "debug")),
        Response(1, rich),
        Response(2, wide),
        Response("text-id", None),
        Response(2**64 - 1, {"k": [1.5, "x"], "l": [{}, [], ""]}),
        ErrorResponse(2, ErrorMessage("no", "ValueError", "Traceback"), "handler"),
        ErrorResponse(2, ErrorMessage("no"), "overloaded"),
        Progress(1, rich[:5]),
        Progress("text-id", leaf),
        Credit(3, 16),
        Cancel("text-id"),
        *(Response(2, value) for value in rich),
        *(Progress(9, value) for value in native_only),
    ]


SERIALIZERS: dict[str, Any] = {"native": NativeMessageSerializer(), "json": JsonMessageSerializer()}


def payloads(serializer: Any) -> list[bytes]:
    """Return what a serializer makes of them, and large data out of band."""
    made = []
    for envelope in envelopes():
        try:
            made.append(b"".join(serializer.encode(envelope)))
        except Exception:  # JSON has no word for it
            assert serializer is SERIALIZERS["json"]
    made.append(b"".join(serializer.encode(Response(1, b"x" * 70_000))))
    try:
        import numpy
    except ImportError:
        return made
    if serializer is SERIALIZERS["native"]:
        array = numpy.arange(12, dtype="f4").reshape(3, 4)
        values = [array, array.T, numpy.float64(2), array.dtype, numpy.array(["a", "bc"])]
        values.append(numpy.zeros(2, [("a", "i4"), ("b", "M8[s]")]))
        made += [b"".join(serializer.encode(Response(2, value))) for value in values]
    return made


def frame(payload: bytes) -> bytes:
    return MAGIC + len(payload).to_bytes(4, "big") + payload


# Doing harm. Each takes a source of randomness and bytes, and returns bytes.

OPCODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]

PICKLED = [
    *OPCODES, b"\x80\x05", b"h\x00", b"K\x07", b"\x8c\x01a", b"C\x02ab", b"\x8a\x01\x01",
    b"cos\nsystem\n", b"(S'id'\nios\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"\x82\x01",
    b"X\xff\xff\xff\x7f", b"\x96" + b"\xff" * 7 + b"\0", b"r\xff\xff\xff\x7f", b"\x95" + bytes(8),
    *(
        b"\x8c" + bytes([len(MODULE)]) + MODULE.encode() + b"\x8c" + bytes([len(name)])
        + name.encode() + b"\x93" for name in VOCABULARY
    ),
]  # fmt: skip

WRITTEN = [
    token.encode() for token in (
        "[" * 300, "{\"a\":" * 200, "]",
        "}", ",", ":", "\"", "null", "true", "-", "1e999", "1e-999",
        "9" * 400, "9" * 5000, "-0", "0.1e", "NaN", "Infinity", "-Infinity", "\\ud800", "\\udc00",
        "\\u0000", "\\", "\"kind\":\"request\",", "\"id\":1,", "\"id\":1.0,", "\"id\":true,",
        "\"id\":-1,", "\"id\":18446744073709551616,", "\"type\":\"os.system\",", "\"$type\":",
        "{\"$decimal\":\"1e999999999\"}", "{\"$decimal\":\"NaN\"}", "{\"$timedelta\":1e300}",
        "{\"$datetime\":\"9999-99-99\"}", "{\"$bytes\":\"=\"}", "{\"$map\":[[[],1]]}",
        "{\"$set\":[[]]}", "{\"$enum\":\"os\",\"value\":1}", "{\"$type\":\"streamipc.Message\"}",
        "{\"$complex\":[1]}", "{\"$uuid\":\"\"}", "{\"$path\":\"\\u0000\"}", "{\"$float\":\"x\"}",
    )
]  # fmt: skip
WRITTEN += [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\0"]


def mutated(rng: random.Random, data: bytes, tokens: list[bytes]) -> bytes:
    """Return ``data`` with a few changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(8)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind == 2:
            del changed[at : at + rng.randint(1, 9)]
        elif kind == 3:
            changed[at:at] = rng.choice(tokens)
        elif kind == 4:
            token = rng.choice(tokens)
            changed[at : at + len(token)] = token
        elif kind == 5:  # a number somewhere
            number = rng.choice((0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63))
            size = rng.choice((1, 2, 4, 8))
            order = rng.choice(("big", "little"))
            changed[at : at + size] = (number & (256**size - 1)).to_bytes(size, order)
        elif kind == 6:
            stop = at + rng.randint(1, 40)
            changed[at:at] = bytes(changed[at:stop]) * rng.choice((1, 1, 2, 50))
        else:
            del changed[at:]
    return bytes(changed)


def made_up(rng: random.Random, payload: bytes, tokens: list[bytes]) -> bytes:
    """Return a good beginning and a body of nothing but words of the language."""
    if payload[:1] == b"{":
        start = payload[: rng.choice((1, 20, 40))]
    else:
        start = payload[:28] + (b"\x80\x05" if payload[4:6] == b"\0\0" else b"")
    body = b"".join(rng.choice(tokens) for _ in range(rng.randint(1, 25)))
    return start + body + rng.choice((b".", b"}", b""))


def deep(rng: random.Random, payload: bytes, tokens: list[bytes]) -> bytes:
    """Return one word of the language, a great many times."""
    start = payload[: rng.choice((1, 28, 40))]
    token = rng.choice(tokens)
    count = min(rng.choice((10, 1000, 6000)), (15 << 10) // len(token) + 1)
    return (start + token * count)[: 15 << 10]


class Corpus:
    """The good frames of one serializer, and what can be done to them."""

    def __init__(self, name: str) -> None:
        self.serializer = SERIALIZERS[name]
        self.payloads = payloads(self.serializer)
        self.tokens = PICKLED if name == "native" else WRITTEN

    def stream(self, rng: random.Random) -> bytes:
        """Return the bytes of a case."""
        return b"".join(self._part(rng) for _ in range(rng.choice((1, 1, 2, 4))))

    def _part(self, rng: random.Random) -> bytes:
        payload = rng.choice(self.payloads)
        kind = rng.randrange(12)
        if kind < 5:
            return frame(mutated(rng, payload, self.tokens))
        if kind == 5:
            return mutated(rng, frame(payload), self.tokens)
        if kind == 6:
            other = rng.choice(self.payloads)
            return frame(
                payload[: rng.randrange(len(payload))] + other[rng.randrange(len(other)) :]
            )
        if kind == 7:
            return rng.randbytes(rng.choice((1, 8, 100, 3000)))
        if kind == 8:
            return frame(made_up(rng, payload, self.tokens))
        if kind == 9:
            return frame(deep(rng, payload, self.tokens))
        if kind == 10:  # a frame whose length is a lie
            length = rng.choice(
                (0, 1, len(payload) + 9, 5000, 16 << 10, 1 << 20, rng.getrandbits(32))
            )
            return MAGIC + length.to_bytes(4, "big") + payload
        return MAGIC[: rng.randint(1, 4)] * rng.randint(1, 300) + frame(payload)


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
        isinstance(event, NotificationReceived)
        and event.notification == Notification(LogMessage(mark))
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
        traced = number % 100 == 99 and run is run_case
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
