"""The child of python-lsp-jsonrpc for all workloads; argument: the number of threads."""

import sys
import time

from pylsp_jsonrpc.endpoint import Endpoint
from pylsp_jsonrpc.streams import JsonRpcStreamReader, JsonRpcStreamWriter

told = 0
in_order = True


def ask(params):
    return {"number": params["number"] + 1, "text": params["text"]}


def tell(params):
    global told, in_order
    in_order = in_order and params["number"] == told
    told += 1


def count_told(params):
    return [told, in_order]


def sleep(params):
    # What returns a function has it run by the pool of threads.
    return lambda: time.sleep(params["seconds"])


def call_back(params):
    def run():
        took = []
        end = time.perf_counter() + params["seconds"]
        while time.perf_counter() < end:
            start = time.perf_counter()
            endpoint.request("ask", {"number": 7, "text": "a small message"}).result(30)
            took.append(time.perf_counter() - start)
        return took

    return run


methods = {
    "ask": ask,
    "tell": tell,
    "count_told": count_told,
    "sleep": sleep,
    "call_back": call_back,
}
threads = int(sys.argv[1]) if len(sys.argv) > 1 else 5
writer = JsonRpcStreamWriter(sys.stdout.buffer)
endpoint = Endpoint(methods, writer.write, max_workers=threads)
JsonRpcStreamReader(sys.stdin.buffer).listen(endpoint.consume)
endpoint.shutdown()
