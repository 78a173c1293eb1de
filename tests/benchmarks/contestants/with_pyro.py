"""Pyro5: calls of an exposed object's methods over a Unix socket, serialized by marshal."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import NUMBER, TEXT, Caller, check, child_command


@contextmanager
def open_daemon() -> Iterator[tuple[Callable[[], Any], int]]:
    """Start ``children/pyro_child.py``; give a maker of proxies and the child's pid."""
    import Pyro5.api

    # Its documentation calls marshal the fastest serializer.
    Pyro5.api.config.SERIALIZER = "marshal"
    proxies: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        socket = os.path.join(folder, "pyro.sock")
        with subprocess.Popen(
            child_command("pyro_child.py", socket), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it listens

            def make_proxy() -> Any:
                proxies.append(Pyro5.api.Proxy(f"PYRO:bench@./u:{socket}"))
                return proxies[-1]

            try:
                yield make_proxy, process.pid
            finally:
                for proxy in proxies:
                    proxy._pyroClaimOwnership()
                    proxy._pyroRelease()
                process.terminate()


@contextmanager
def open_caller() -> Iterator[Caller]:
    with open_daemon() as (make_proxy, pid):

        def make_call() -> Callable[[], Any]:
            ask = make_proxy().ask  # a proxy belongs to one thread

            def call() -> Any:
                return ask(NUMBER, TEXT)

            return call

        call = make_call()
        check(*call())
        yield Caller(pid, call, make_call=make_call)
