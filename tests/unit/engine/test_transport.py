"""There is an answer to everything that the engine asks, whatever the transport."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from streamipc import SessionClosedError
from streamipc.engine.transport import TransportAdapter
from streamipc.transports.pipe import FdTransport


class Documented:
    """A transport of the user's, with the four methods that it must have."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()

    def read_into(self, buffer: memoryview) -> int:
        return self.near.recv_into(buffer)

    def write(self, data: memoryview) -> int:
        return self.near.send(data)

    def close_write(self) -> None:
        self.near.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def transport() -> Iterator[Documented]:
    documented = Documented()
    yield documented
    documented.close()


def test_a_transport_of_the_users_has_no_child_and_nothing_to_add(transport: Documented) -> None:
    adapter = TransportAdapter(transport)

    assert not adapter.pollable
    assert not adapter.goes_with_peer
    assert not adapter.has_nobody
    assert adapter.watch is None
    assert adapter.shutdown is None
    assert type(adapter.closed_error("gone")) is SessionClosedError
    assert str(adapter.silent_error("gone")) == "gone"
    assert adapter.untold_death() == ""
    for told in (adapter.session_starts, adapter.look_for_status, adapter.stay_redirected):
        assert told() is None
    adapter.close_after_fork()


def test_descriptors_have_nothing_to_wait_for_behind_them() -> None:
    read, write = os.pipe()
    adapter = TransportAdapter(FdTransport(read, write))

    assert adapter.pollable
    assert adapter.is_direct
    assert adapter.wait_for_pump(60)
    adapter.close_after_fork()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)


def test_an_error_of_the_transports_own_counts_also_where_nothing_has_come(
    transport: Documented,
) -> None:
    class Said(SessionClosedError):
        pass

    transport.closed_error = Said  # type: ignore[attr-defined]
    adapter = TransportAdapter(transport)

    assert type(adapter.closed_error("gone")) is Said
    assert type(adapter.silent_error("gone")) is Said
