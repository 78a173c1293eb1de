"""Writes and reads values: the pickler and the unpickler, each kept on a short lead."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import Any

from .._shown import escaped
from .._signals import let_through
from ..exceptions import SerializationError
from ..messages import Message
from ._native_admitted import Admitted
from ._native_builders import MESSAGE, MODULE, VOCABULARY, Builder
from ._native_layout import layout_of
from ._native_pickle import PickleBuffer, Pickler, Unpickler
from ._native_refusals import located, refusal
from ._native_scan import check
from ._native_standard import LargeBytes, standard_reducer
from .base import Buffer

__all__ = ["LARGE", "ValueReader", "ValueWriter"]

LARGE = 64 * 1024
"""Bytes; from this size on, the bytes of a field travel beside the pickle."""

_MAX_BUFFERS = 65_535
_FRAME = Struct("<cQ")


class ValueWriter:
    """Pickles values of admitted types.

    Args:
        allow: see :class:`~streamipc.serializers.native.NativeMessageSerializer`.
    """

    def __init__(self, allow: Iterable[type]) -> None:
        self.admitted = Admitted(allow)

    def write_fields(self, owner: str, state: dict[str, Any]) -> tuple[bytes, Sequence[Buffer]]:
        """Return the pickle of a message's fields, and the buffers beside it.

        Args:
            owner: the wire name of the message, for the text of errors.
            state: the fields; it is not changed.

        Raises:
            SerializationError: a value can't be sent; names its type and the field.
        """
        try:
            return self._write(_with_large_bytes_apart(state))
        except Exception as error:
            let_through(error)
            failure = error
        try:
            # Not in the except clause: one traceback is enough.
            raise self._problem(failure, owner, _Fields(state))
        finally:
            del failure  # whose traceback has this frame: a cycle, with the value in it

    def write_value(self, value: Any) -> tuple[bytes, Sequence[Buffer]]:
        """Return the pickle of a value that is no message, and the buffers beside it.

        Raises:
            SerializationError: a value can't be sent; names its type.
        """
        try:
            return self._write(_apart(value))
        except Exception as error:
            let_through(error)
            failure = error
        try:
            raise self._problem(failure, "", value)
        finally:
            del failure

    def _problem(self, failure: Exception, owner: str, root: Any) -> SerializationError:
        """Return what to raise in the place of ``failure``.

        Args:
            failure: what was raised when ``root`` was written.
            owner: the wire name of the message whose fields ``root`` has, or nothing.
            root: what can't be sent.
        """
        reduce = _Pickler(io.BytesIO(), 5, admitted=self.admitted).reducer_override

        def take_apart(obj: Any) -> Any:
            return (MESSAGE, (owner, obj.state)) if type(obj) is _Fields else reduce(obj)

        found = located(root, take_apart, failure)
        if found is not None:
            path, fault = found
            where = f"{owner}{path}" if owner else f"value{path}"
        else:
            where, fault = self._field_of(owner, root, failure)
        problem = refusal(where, fault, self._can_allow)
        # Where code of the program has failed, its traceback is worth reading.
        if isinstance(fault, SerializationError):
            problem.__cause__ = fault.__cause__
        elif not isinstance(fault, RecursionError):
            problem.__cause__ = fault
        return problem

    def _field_of(self, owner: str, root: Any, failure: Exception) -> tuple[str, Exception]:
        """Return the field that can't be written: some faults are the pickler's alone to find."""
        if not owner:
            return f"a value of type {escaped(type(root).__qualname__)}", failure
        for name, value in root.state.items():
            try:
                self._write(value)
            except Exception as error:
                let_through(error)
                return f"{owner}.{name}", error
        return owner, failure

    def _can_allow(self, cls: type, obj: Any) -> bool:
        """Tell whether ``obj`` could be sent if its class were allowed."""
        try:
            admitted = self.admitted.with_type(cls)
            _Pickler(io.BytesIO(), 5, buffer_callback=lambda _: False, admitted=admitted).dump(obj)
        except Exception as error:
            let_through(error)
            return False
        return True

    def _write(self, value: Any) -> tuple[bytes, Sequence[Buffer]]:
        buffers: list[Buffer] = []

        def take(buffer: PickleBuffer) -> bool:
            if len(buffers) >= _MAX_BUFFERS:
                return True  # into the pickle
            buffers.append(_raw(buffer))
            return False

        file = io.BytesIO()
        # ``take`` is no method of the pickler: that would be a cycle for the garbage
        # collector, with the buffers in it.
        _Pickler(file, 5, buffer_callback=take, admitted=self.admitted).dump(value)
        return file.getvalue(), buffers


def _with_large_bytes_apart(state: dict[str, Any]) -> dict[str, Any]:
    for value in state.values():
        if type(value) in (bytes, bytearray) and len(value) >= LARGE:
            return {name: _apart(value) for name, value in state.items()}
    return state


def _apart(value: Any) -> Any:
    if type(value) in (bytes, bytearray) and len(value) >= LARGE:
        return LargeBytes(value)
    return value


class _Fields:
    """Stands for a message where its fields have been taken out already."""

    __slots__ = ("state",)

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state


def _raw(buffer: PickleBuffer) -> memoryview:
    raw = buffer.raw()
    under = raw.obj
    if type(under) is memoryview and under.c_contiguous:
        # Lay the view beside the other one, not over it: Python 3.11 crashes when a
        # memoryview that is the base of another is cleared as part of a cycle.
        raw.release()
        return under.cast("B")
    return raw


class _Pickler(Pickler):
    """Writes no global but builders.

    The C pickler writes None, bool, int, float, str, bytes, bytearray, list, tuple,
    dict, set and frozenset of exactly these types by itself and asks
    ``reducer_override`` about everything else.
    """

    def __init__(self, *args: Any, admitted: Admitted, **options: Any) -> None:
        super().__init__(*args, **options)
        self._admitted = admitted

    def reducer_override(self, obj: Any) -> Any:
        cls = type(obj)
        if cls is Builder:
            return obj.name
        if isinstance(obj, Message):
            layout = layout_of(cls)
            # A copy: the memo would take the fields of a message that contains itself for
            # a dict that is shared.
            return MESSAGE, (layout.name, dict(layout.state_of(obj)))
        reduce: Callable[[Any], Any] | None = standard_reducer(cls)
        if reduce is None:
            reduce = self._admitted.reducer(cls, obj)
        return reduce(obj)


class ValueReader:
    """Loads what a :class:`ValueWriter` wrote, or refuses."""

    def __init__(self, admitted: Admitted) -> None:
        self._find = {
            name: builder.build or getattr(admitted, f"build_{name}")
            for name, builder in VOCABULARY.items()
        }.get

    def read(self, body: memoryview, buffers: Sequence[Buffer]) -> Any:
        """Return the value pickled in ``body``.

        Raises:
            SerializationError: something in it is not allowed.
        """
        data = bytes(body)
        check(data, [len(buffer) for buffer in buffers])
        # One frame over everything: the unpickler then has all of the data in its own
        # memory. When frames end inside an opcode, it goes on at the end of the frame,
        # so it would read other opcodes than those that were checked.
        file = io.BytesIO(_FRAME.pack(b"\x95", len(data)) + data)
        return _Unpickler(file, buffers, self._find).load()


class _Unpickler(Unpickler):
    def __init__(
        self, file: io.BytesIO, buffers: Sequence[Buffer], find: Callable[[str], Any]
    ) -> None:
        super().__init__(file, buffers=buffers)
        self._find = find

    def find_class(self, module: str, name: str) -> Any:
        builder = self._find(name) if module == MODULE else None
        if builder is None:
            raise SerializationError(
                f"{escaped(f'{module}.{name}')} is not allowed: a body names no functions or "
                "classes; the sender must use NativeMessageSerializer, with allow=[...] for types "
                "of its own"
            )
        return builder
