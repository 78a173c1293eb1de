"""python-lsp-jsonrpc: JSON-RPC endpoints over the child's standard streams."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import NUMBER, TEXT, Caller, check, child_command


@contextmanager
def open_endpoint(
    methods: dict[str, Any] | None = None, *arguments: str
) -> Iterator[tuple[Any, subprocess.Popen[bytes]]]:
    """Start ``children/jsonrpc_child.py``; give the endpoint and the process."""
    from pylsp_jsonrpc.endpoint import Endpoint
    from pylsp_jsonrpc.streams import JsonRpcStreamReader, JsonRpcStreamWriter

    with subprocess.Popen(
        child_command("jsonrpc_child.py", *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        reader = JsonRpcStreamReader(process.stdout)
        endpoint = Endpoint(methods or {}, JsonRpcStreamWriter(process.stdin).write)
        listener = threading.Thread(target=reader.listen, args=(endpoint.consume,))
        listener.start()
        try:
            yield endpoint, process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            listener.join()
            endpoint.shutdown()


@contextmanager
def open_caller() -> Iterator[Caller]:
    with open_endpoint() as (endpoint, process):

        def submit(number: int) -> Any:
            return endpoint.request("ask", {"number": number, "text": TEXT})

        def call() -> Any:
            return submit(NUMBER).result(30)

        reply = call()
        check(reply["number"], reply["text"])
        yield Caller(
            process.pid,
            call,
            make_call=lambda: call,
            submit=submit,
            collect=lambda future: future.result(30),
        )
