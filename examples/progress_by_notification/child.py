"""Counts primes; notifies the parent of how far it has come."""

from messages import CountPrimes, Report

from streamipc import IpcPeer

session = IpcPeer().create_stdio_session()


def is_prime(number: int) -> bool:
    return number > 1 and all(number % i for i in range(2, int(number**0.5) + 1))


@session.on_request
def count(msg: CountPrimes) -> int:
    found = 0
    step = msg.below // msg.reports
    for report in range(msg.reports):
        found += sum(map(is_prime, range(report * step, (report + 1) * step)))
        session.notify(Report(done=report + 1, total=msg.reports, found=found))
    return found


session.serve_forever()
