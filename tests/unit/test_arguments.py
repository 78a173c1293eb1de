"""What a signature tells about arguments that need not be given."""

from __future__ import annotations

import inspect

from streamipc import IpcSession


def test_a_default_that_the_peer_decides_shows_as_an_ellipsis() -> None:
    timeout = inspect.signature(IpcSession.request).parameters["timeout"]

    assert repr(timeout.default) == "..."
