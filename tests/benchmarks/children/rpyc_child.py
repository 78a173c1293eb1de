"""The child of rpyc for all workloads."""

import sys
import time

import rpyc
from rpyc.utils.factory import connect_stdpipes


class Bench(rpyc.Service):
    def __init__(self):
        self.told = 0
        self.in_order = True

    def exposed_ask(self, number, text):
        return number + 1, text

    def exposed_tell(self, number, text):
        self.in_order = self.in_order and number == self.told
        self.told += 1

    def exposed_count_told(self):
        return self.told, self.in_order

    def exposed_count(self, limit):
        return iter(range(limit))

    def exposed_weigh(self, data):
        return len(data)

    def exposed_call_back(self, seconds, ask):
        took = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            ask(7, "a small message")
            took.append(time.perf_counter() - start)
        return tuple(took)


connection = connect_stdpipes(Bench())
sys.stdout = sys.stderr  # rpyc leaves a number there, which the interpreter can't flush at exit
connection.serve_all()
