"""The child of Pyro5 for all workloads; argument: the path of the Unix socket."""

import sys

import Pyro5.api

Pyro5.api.config.SERIALIZER = "marshal"


@Pyro5.api.expose
@Pyro5.api.behavior(instance_mode="single")
class Bench:
    def __init__(self):
        self.told = 0
        self.in_order = True

    def ask(self, number, text):
        return number + 1, text

    @Pyro5.api.oneway
    def tell(self, number, text):
        self.in_order = self.in_order and number == self.told
        self.told += 1

    def count_told(self):
        return self.told, self.in_order

    def weigh(self, data):
        return len(data)

    def count(self, limit):
        yield from range(limit)


daemon = Pyro5.api.Daemon(unixsocket=sys.argv[1])
daemon.register(Bench, "bench")
print("listening", flush=True)
daemon.requestLoop()
