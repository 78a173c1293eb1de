"""Writes and reads values: the pickler and the unpickler, each kept on a short lead."""

from __future__ import annotations

import io
from struct import Struct

from .._shown import escaped
from ..exceptions import SerializationError
from ..messages import Message
from ._native_admitted import Admitted
from ._native_builders import MESSAGE, MODULE, VOCABULARY, Builder
from ._native_layout import layout_of
from ._native_pickle import PickleBuffer, Pickler, Unpickler
from ._native_scan import check
from ._native_standard import LargeBytes, standard_reducer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

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
            # Which field it was is worth a second look only now.
            for name, value in state.items():
                try:
                    self._write(value)
                except Exception as again:
                    raise _unsendable(again, f"{owner}.{name}") from again.__cause__ or again
            raise _unsendable(error, owner) from error

    def write_value(self, value: Any) -> tuple[bytes, Sequence[Buffer]]:
        """Return the pickle of a value that is no message, and the buffers beside it.

        Raises:
            SerializationError: a value can't be sent; names its type.
        """
        try:
            return self._write(_apart(value))
        except Exception as error:
            where = f"a value of type {type(value).__qualname__}"
            raise _unsendable(error, where) from error.__cause__ or error

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


def _unsendable(error: Exception, where: str) -> SerializationError:
    if isinstance(error, SerializationError):
        return SerializationError(f"{where}: {error}")
    if isinstance(error, RecursionError):
        return SerializationError(f"{where} nests too deeply, or contains itself")
    return SerializationError(f"{where} can't be sent: {type(error).__name__}: {error}")


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
