"""What the tests of transports share: reading to the end, writing all, a child that echoes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from streamipc.transports.base import Transport


@pytest.fixture
def read_all() -> Callable[..., bytes]:
    def read(transport: Any, *source: int) -> bytes:
        buffer = memoryview(bytearray(1 << 16))
        data = b""
        while count := transport.read_into(buffer, *source):
            data += buffer[:count]
        return data

    return read


@pytest.fixture
def read_some() -> Callable[..., bytes]:
    def read(transport: Any, *source: int) -> bytes:
        buffer = memoryview(bytearray(1 << 16))
        return bytes(buffer[: transport.read_into(buffer, *source)])

    return read


@pytest.fixture
def write_all() -> Callable[[Transport, bytes], None]:
    def write(transport: Transport, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[transport.write(rest) :]

    return write


@pytest.fixture
def python() -> Callable[[str], list[str]]:
    """The command that runs some lines of Python, started as fast as it can be."""

    def command(source: str) -> list[str]:
        return [sys.executable, "-S", "-E", "-c", source]

    return command
