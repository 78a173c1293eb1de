"""Payloads made by hand to do harm: each is refused, and nothing happens."""

from __future__ import annotations

import copyreg
import decimal
import enum
import gc
import pickle
import pickletools
import random
import struct
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from streamipc.exceptions import SerializationError
from streamipc.messages import ErrorMessage, Message
from streamipc.protocol.envelopes import (
    Cancel,
    Credit,
    ErrorResponse,
    Notification,
    Request,
    Response,
)
from streamipc.serializers import _native_scan
from streamipc.serializers._native_builders import MODULE, VOCABULARY
from streamipc.serializers.native import NativeMessageSerializer

SERIALIZER = NativeMessageSerializer()
calls: list[Any] = []


def canary(*args: Any) -> None:
    calls.append(args)


class Canary:
    def __setstate__(self, state: Any) -> None:
        canary(state)


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Access(enum.Flag):
    READ = 1


class Paint(Message):
    color: Color
    access: Access | None = None


class Key(Message, frozen=True):
    inner: Any


@pytest.fixture(autouse=True)
def nothing_is_called() -> Iterator[None]:
    calls.clear()
    yield
    assert not calls


def response(body: bytes) -> memoryview:
    return memoryview(struct.pack(">BBHHHIQd", 2, 0, 0, 0, 0, 0, 1, 0.0) + body)


def refused(body: bytes, text: str = ".") -> None:
    with pytest.raises(SerializationError, match=text) as caught:
        SERIALIZER.decode(response(body))
    assert caught.value.envelope == Response(1, None)


def text(value: str) -> bytes:
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def global_(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def builder(name: str) -> bytes:
    return global_(MODULE, name)


START = b"\x80\x05"
HERE = __name__


def test_the_helpers_make_payloads_that_are_read() -> None:
    body = START + builder("complex") + b"G" + struct.pack(">d", 1) + b"G" + bytes(8) + b"\x86R."
    assert SERIALIZER.decode(response(body)) == Response(1, 1 + 0j)
    assert SERIALIZER.decode(response(START + b"]K\x01a.")) == Response(1, [1])


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), (HERE, "canary"), ("streamipc.messages", "Message"),
     (MODULE, "need"), (MODULE, "layout_of"), (MODULE, "Builder"), (MODULE, "Builder.build"),
     (MODULE, "VOCABULARY.clear"), (MODULE, ""), ("", ""), ("pathlib", "Path"), ("", "complex"),
     ("builtins", "complex"), (MODULE.rpartition(".")[0], "complex"), (HERE, "message")],
)  # fmt: skip
def test_no_global_but_a_builder_is_found(module: str, name: str) -> None:
    refused(START + global_(module, name) + text("x") + b"\x85R.", "is not allowed")
    refused(START + global_(module, name) + b".", "is not allowed")


def test_a_module_is_not_imported() -> None:
    refused(START + global_("antigravity", "fly") + b")R.", r"antigravity\.fly is not allowed")


OPCODES = {
    "GLOBAL": f"c{HERE}\ncanary\n)R".encode(),
    "INST": f"({text('x').decode('latin1')}i{HERE}\ncanary\n".encode("latin1"),
    "OBJ": b"(" + f"c{HERE}\ncanary\n".encode() + b"o",
    "NEWOBJ": builder("range") + b")\x81",
    "NEWOBJ_EX": builder("range") + b")}\x92",
    "BUILD": b"}}b",
    "EXT1": b"\x82\xf0)R",
    "EXT2": b"\x83\xf0\x00)R",
    "EXT4": b"\x84\xf0\x00\x00\x00)R",
    "PERSID": b"Pid\n",
    "BINPERSID": b"NQ",
    "INT": b"I1\n",
    "LONG": b"L1L\n",
    "FLOAT": b"F1.5\n",
    "STRING": b"S'x'\n",
    "BINSTRING": b"T\x01\x00\x00\x00x",
    "SHORT_BINSTRING": b"U\x01x",
    "UNICODE": b"Vx\n",
    "LIST": b"(l",
    "DICT": b"(d",
    "DUP": b"N2\x86",
    "GET": b"N\x94g0\n",
    "PUT": b"Np0\n",
    "BINPUT": b"Nq\x00",
    "LONG_BINPUT": b"Nr\xff\xff\xff\x7f",
    "PROTO": b"\x80\x05N",
    "STOP": b"N.N",
    "unknown": b"\xff",
}


@pytest.mark.parametrize("opcode", OPCODES)
@pytest.mark.parametrize("rich", [False, True], ids=["plain", "rich"])
def test_an_opcode_that_the_encoder_never_writes_is_refused(opcode: str, rich: bool) -> None:
    copyreg.add_extension(HERE, "canary", 0xF0)
    copyreg._extension_cache[0xF0] = canary  # type: ignore[attr-defined]
    try:
        before = b"(" + builder("range") + b"K\x01K\x02K\x03\x87R" if rich else b"("
        refused(START + before + OPCODES[opcode] + b"t.")
        refused(START + before + text("x" * 40) * 2 + OPCODES[opcode] + b"t.")
    finally:
        copyreg.remove_extension(HERE, "canary", 0xF0)


def test_the_list_of_refused_opcodes_is_complete() -> None:
    allowed = {
        "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
        "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
        "BYTEARRAY8", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
        "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS", "FROZENSET", "MARK",
        "MEMOIZE", "BINGET", "LONG_BINGET", "STACK_GLOBAL", "REDUCE", "NEXT_BUFFER",
        "READONLY_BUFFER", "POP", "POP_MARK", "FRAME",
    }  # fmt: skip
    known = {opcode.name for opcode in pickletools.opcodes}
    assert known - allowed == set(OPCODES) - {"unknown"}


def test_build_changes_no_enum_member() -> None:
    state = b"}" + text("_value_") + b"K\x63sb"
    enum_ = builder("enum") + text(f"{HERE}.Color") + text("RED") + b"\x86R"
    assert SERIALIZER.decode(response(START + enum_ + b".")) == Response(1, Color.RED)
    refused(START + enum_ + state + b".", "opcode that is not allowed")
    assert Color.RED.value == 1


LENGTHS = {
    "SHORT_BINUNICODE": b"\x8c\xff",
    "BINUNICODE": b"X\xff\xff\xff\xff",
    "BINUNICODE8": b"\x8d" + b"\xff" * 7 + b"\x00",
    "BINUNICODE8, negative": b"\x8d" + b"\xff" * 8,
    "SHORT_BINBYTES": b"C\xff",
    "BINBYTES": b"B\xff\xff\xff\x7f",
    "BINBYTES8": b"\x8e" + (2**33).to_bytes(8, "little"),
    "BYTEARRAY8": b"\x96" + (2**33).to_bytes(8, "little"),
    "BYTEARRAY8, negative": b"\x96" + b"\xff" * 8,
    "LONG1": b"\x8a\xff",
    "LONG4": b"\x8b\xff\xff\xff\x7f",
    "LONG4, negative": b"\x8b\xff\xff\xff\xff",
    "FRAME": b"\x95" + (2**40).to_bytes(8, "little") + b"N",
    "FRAME, negative": b"\x95" + b"\xff" * 8 + b"N",
    "LONG_BINGET": b"j\xff\xff\xff\xff",
    "BINGET": b"h\xff",
    "BININT": b"J\x00",
    "BINFLOAT": b"G\x00",
}


@pytest.mark.parametrize("opcode", LENGTHS)
@pytest.mark.parametrize("rich", [False, True], ids=["plain", "rich"])
def test_a_length_past_the_end_allocates_nothing(opcode: str, rich: bool) -> None:
    before = builder("range") + b"K\x01K\x02K\x03\x87R0" if rich else b""
    payload = response(START + before + LENGTHS[opcode] + b".")
    SERIALIZER.decode(response(START + b"X\x01\x00\x00\x00x."))  # compile the expressions
    tracemalloc.start()
    try:
        with pytest.raises(SerializationError):
            SERIALIZER.decode(payload)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_frame_that_ends_inside_an_opcode_does_not_shift_the_reading() -> None:
    # Read at the frame's end, as from a file, the text would be opcodes of its own.
    hidden = b")Rb" * 3
    value = builder("range") + b"K\x01K\x02K\x03\x87R0" + b"X" + struct.pack("<I", len(hidden))
    for size in range(1, len(value) + len(hidden)):
        body = START + b"\x95" + struct.pack("<Q", size) + value + hidden + b"."
        assert SERIALIZER.decode(response(body)) == Response(1, hidden.decode())


@pytest.mark.parametrize(
    "body",
    [b"", b".", b"N.", b"\x80\x05", b"\x80\x05.", b"\x80\x04N.", b"\x80\x05N", b"\x80\x05(.",
     b"\x80\x05N0.", b"\x80\x05\x94N.", b"\x80\x05h\x00.",
     b"\x80\x05t.", b"\x80\x05\x86.", b"\x80\x05NR.", b"\x80\x05))R.", b"\x80\x05NN\x93.",
     b"\x80\x05]]s.", b"\x80\x05]](s.", b"\x80\x05N]a.", b"\x80\x05}]Ns.", b"\x80\x05\x97.",
     b"\x80\x05\x98.",
     b"\x80\x05]\x98.", b"\x80\x05]1.", b"\x80\x05\x8f(]\x90.", b"\x80\x05(]\x91.",
     b"\x80\x05" + b"(" * 1000 + b".", b"\x80\x05\x8c\x01\xff."],
)  # fmt: skip
def test_a_malformed_pickle_is_refused(body: bytes) -> None:
    refused(body)


@pytest.mark.parametrize("body", [b"\x80\x05NN.", b"\x80\x05(N."])
def test_values_left_on_the_stack_do_no_harm(body: bytes) -> None:
    assert SERIALIZER.decode(response(body)) == Response(1, None)


@pytest.mark.parametrize("target", ["deque", "array", "bytearray"])
def test_no_method_of_a_rebuilt_object_is_called(target: str) -> None:
    made = {
        "deque": b"]N\x86R",
        "array": text("b") + b"K\x01C\x00\x87R",
        "bytearray": b"C\x00\x85R",
    }[target]
    body = START + builder(target) + made
    assert len(SERIALIZER.decode(response(body + b".")).value) == 0  # type: ignore[union-attr]
    for tail in (b"(K\x01e.", b"K\x01a.", b"K\x00K\x01s.", b"(K\x00K\x01u.", b"(K\x01\x90."):
        refused(body + tail, "malformed")


def test_a_mark_is_not_popped_as_a_value() -> None:
    # To the unpickler this is a set with a deep tuple, were the walk to pop the set.
    deep = b")" + b"\x85" * 200_000
    refused(START + deep + b"\x8f(0N(" + b"h\x00" + b"\x90.", "malformed")
    refused(START + b"(0N.", "malformed")


@pytest.mark.parametrize(
    "run",
    [text("x") + b"\x94", b"G" + bytes(8), b"J" + bytes(4), b"N\x94", b"K\x00", b"K\x00\x85\x94",
     b"K\x00K\x00\x86", b"(K\x00t", b"(N\x94", b"\x95" + bytes(8), text("x" * 40) + b"\x94"],
)  # fmt: skip
def test_a_long_run_before_a_bad_opcode_is_refused_at_once(run: bytes) -> None:
    for count in (30, 999, 3000, 50_000):
        started = time.monotonic()
        refused(START + run * count + b"\xff.")
        assert time.monotonic() - started < 5


# Hashing


def tower(levels: int) -> bytes:
    """Tuples of two references each to the one before, as the member of a set."""
    body = b"\x8f(" + b")\x94"
    for level in range(levels):
        body += (b"h" + bytes([level])) * 2 + b"\x86\x94"
    return START + body + b"\x90."


def test_a_tower_of_shared_tuples_is_not_hashed() -> None:
    started = time.monotonic()
    refused(tower(60), "nest too deeply")
    refused(
        tower(60).replace(b"\x8f(", b"}(").replace(b"\x90.", b"Nu."), "nest too deeply|malformed"
    )
    assert time.monotonic() - started < 5


def test_a_deep_tuple_is_not_hashed() -> None:
    for step in (b"\x85", b"\x85\x94", b"N\x86"):
        deep = b")" + step * 200_000
        refused(START + b"\x8f" + b"(" + deep + b"\x90.", "nest too deeply")
        refused(START + b"}" + deep + b"Ns.", "nest too deeply")
        refused(START + b"(" + deep + b"\x91.", "nest too deeply")


def test_a_deep_tuple_that_is_not_hashed_is_read() -> None:
    value = SERIALIZER.decode(response(START + b")" + b"\x85" * 50_000 + b".")).value  # type: ignore[union-attr]
    depth = 0
    while value:
        (value,) = value
        depth += 1
    assert depth == 50_000


def test_a_tower_of_frozen_messages_is_not_hashed() -> None:
    name = text(f"{HERE}.Key")
    message = builder("message") + b"\x94" + name + b"\x94}" + text("inner") + b"Ns\x86R\x94"
    body = b"\x8f(" + message
    for level in range(60):
        refer = b"h" + bytes([2 + level])
        body += b"h\x00h\x01}" + text("inner") + refer * 2 + b"\x86s\x86R\x94"
    refused(START + body + b"\x90.", "nest too deeply")


def test_keys_that_nest_a_little_are_read() -> None:
    value: Any = {((1, (2, ("x", "x"))), frozenset({(1, 2)})): [("x", ("x",))] * 2000}
    payload = b"".join(SERIALIZER.encode(Response(1, value)))
    assert SERIALIZER.decode(memoryview(payload)) == Response(1, value)


# Builders


JUNK: list[Any] = [
    None, True, -1, 2**70, 0.5, float("nan"), "", "x", "i4", "O", "C", "../../etc/passwd",
    "a" * 1000,
    b"", b"x" * 16, bytearray(b"12345678"), [], [1], [-1], (), (1,), (-1, 5), (2**62, 2**62), {},
    {"x": 1}, {1, 2},
    f"{HERE}.Color", f"{HERE}.Paint", f"{HERE}.Access", "RED", "list", "Path", "IPv4Address",
    [("a", "O")], [("a", "i4", (2**40,))], [["a"]], "V99999999999",
]  # fmt: skip


@pytest.mark.parametrize("name", VOCABULARY)
def test_a_builder_fed_with_junk_builds_or_refuses(name: str) -> None:
    made_by = builder(name)
    rng = random.Random(name)
    outcomes = 0
    for _ in range(400):
        args = tuple(rng.choice(JUNK) for _ in range(rng.choice((1, 2, 2, 3, 4, 7, 9))))
        body = START + made_by + pickle.dumps(args, 5)[2:-1]
        body += b"R."
        try:
            SERIALIZER.decode(response(body))
        except SerializationError as error:
            assert error.envelope == Response(1, None)  # noqa: PT017
        outcomes += 1
    assert outcomes == 400


def call(name: str, *args: Any) -> Any:
    body = START + builder(name) + pickle.dumps(args, 5)[2:-1] + b"R."
    return SERIALIZER.decode(response(body)).value  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("message", ("os.system", {}), "unknown message type"),
        ("message", (f"{HERE}.Paint", {"color": 1, "__class__": 2}), "has no field '__class__'"),
        ("message", (f"{HERE}.Paint", {}), "color: missing"),
        ("message", (f"{HERE}.Paint", [1]), "fields are a list"),
        ("enum", (f"{HERE}.Color", "BLUE"), "no member 'BLUE'"),
        ("enum", (f"{HERE}.Color", "mro"), "no member"),
        ("enum", (f"{HERE}.Canary", "x"), "not allowed"),
        ("flag", (f"{HERE}.Color", 1), "no Flag"),
        ("record", (f"{HERE}.Color", {}), "not allowed"),
        ("object", ("os.system", True, (), {}, None, None, None), "not allowed"),
        ("zone_info", ("../../../etc/passwd",), "no name of a time zone"),
        ("zone_info", ("/etc/passwd",), "no name of a time zone"),
        ("path", ("os", "x"), "no kind of path"),
        ("address", ("ip_address", "::1"), "no kind of address"),
        ("bytes", (2**40,), "bytes|memoryview"),
        ("bytearray", (2**40,), "memoryview"),
        ("defaultdict", ("eval", {}), "may not have the factory"),
        ("array", ("d", 4, b""), "another size"),
        ("fraction", (2**100_000, 3), "bits"),
        ("datetime", (b"\x07\xe8\xff\xff\xff\xff\xff\xff\xff\xff",), "nine values"),
        ("numpy_array", ("O", (1,), "C", b"x" * 8), "Python objects"),
        ("numpy_array", ([("a", "O")], (1,), "C", b"x" * 8), "Python objects"),
        ("numpy_array", ("f8", (2**40,), "C", b"x" * 8), "does not have 8 bytes"),
        ("numpy_array", ("f8", (-1,), "C", b"x" * 8), "shape"),
        ("numpy_array", ("f8", (1,), "A", b"x" * 8), "order"),
        ("numpy_dtype", ({"names": ["a"], "formats": ["O"]},), "malformed"),
    ],
)  # fmt: skip
def test_a_builder_checks_what_it_gets(name: str, args: Any, text: str) -> None:
    with pytest.raises(SerializationError, match=text):
        call(name, *args)


def test_a_decimal_that_is_no_number_is_refused() -> None:
    with pytest.raises(SerializationError, match="can't be read") as caught:
        call("decimal", "one")
    assert isinstance(caught.value.__cause__, decimal.InvalidOperation)


# Damage


def payloads() -> list[bytes]:
    envelopes = [
        Request("id", Paint(Color.RED, Access.READ), 1.0, {"a": "b"}, 3),
        Request(1, Key(["x" * 300, (1, 2, (3,)), {"a": 1.5}])),
        Response(1, [1, 2.5, "text", b"bytes", {"k": (1, 2)}, {1, 2}, None]),
        Response(1, [memoryview(b"x" * 70_000), decimal.Decimal(5), Key(1)]),
        ErrorResponse(1, ErrorMessage("x", "y", "z")),
        Notification(Key(range(3)), {"k": "v"}),
        Credit("id", 5),
        Cancel(7),
    ]
    return [b"".join(SERIALIZER.encode(envelope)) for envelope in envelopes]


def survives(payload: bytes) -> bool:
    try:
        SERIALIZER.decode(memoryview(payload))
    except SerializationError:
        return True
    return False


@pytest.mark.parametrize("payload", payloads(), ids=lambda payload: str(payload[0]))
def test_a_payload_cut_anywhere_is_refused(payload: bytes) -> None:
    cuts = range(len(payload)) if len(payload) < 5000 else range(0, len(payload), 997)
    for cut in cuts:
        assert survives(payload[:cut]), cut


def test_damaged_payloads_raise_nothing_but_serialization_errors() -> None:
    rng = random.Random(1)
    whole = [payload for payload in payloads() if len(payload) < 5000]
    opcodes = bytes(opcode.code.encode("latin1")[0] for opcode in pickletools.opcodes)
    refusals = 0
    for _ in range(6000):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                data[at] = rng.choice(opcodes)
            elif kind == 2:
                del data[at : at + rng.randint(1, 8)]
            else:
                data[at:at] = bytes(rng.choice(opcodes) for _ in range(rng.randint(1, 4)))
            if not data:
                break
        refusals += survives(bytes(data))
    assert refusals > 1000


def test_refusals_leave_nothing_in_cycles_that_grows() -> None:
    payload = response(START + global_("os", "system") + b")R.")
    for _ in range(3):
        assert survives(bytes(payload))
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(100):
        assert survives(bytes(payload))
    gc.collect()
    assert len(gc.get_objects()) - before < 50


def test_random_opcodes_never_do_more_than_the_scan_admits() -> None:
    rng = random.Random(2)
    parts = [
        b"N", b"K\x01",
        b")", b"]", b"}", b"\x8f", b"(", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u",
        b"\x90", b"\x91", b"\x94", b"h\x00", b"h\x01", b"0", b"1", b"R", builder("range"),
        builder("deque"),
        text("x"), b"\x95" + bytes(8), b"\x97", b"\x98", b"C\x02ab", b"X\x01\x00\x00\x00y",
    ]  # fmt: skip
    read = 0
    for _ in range(20_000):
        body = START + b"".join(rng.choice(parts) for _ in range(rng.randint(1, 12))) + b"."
        plain = _native_scan.is_plain(body, 0, len(body))
        assert not plain or b"R" not in body
        read += not survives(bytes(response(body)))
    assert read > 300
