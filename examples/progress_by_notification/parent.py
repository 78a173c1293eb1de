"""Starts a long job and shows its reports while it waits for the result."""

import sys
from pathlib import Path

from messages import CountPrimes, Report

from streamipc import IpcPeer

child = [sys.executable, str(Path(__file__).with_name("child.py"))]

if __name__ == "__main__":
    with IpcPeer().create_command_session(child) as session:
        job = session.request(CountPrimes(below=40_000, reports=4), timeout=120)

        done = 0
        while done < 4:
            report = session.receive(timeout=60)
            assert isinstance(report, Report)
            print(f"{report.done} of {report.total} parts: {report.found:,} primes")
            done = report.done

        print(f"result: {job.result():,} primes below 40,000")
