"""``python -m tests.faults.storm``: interrupt the library everywhere, and say what broke.

``sweep`` has signals arrive at each point of each operation; ``reenter`` runs finalizers there;
``barrage`` fires real signals at random times. The exit status is 1 if anything went wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from . import barrage
from .finalizers import ACTIONS, TRIGGERS
from .operations import OPERATIONS, SPECIAL, SYNC_ONLY
from .sweeps import Tally, sweep, table
from .trials import KINDS, Spec


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (
        ("sweep", "signals at each point"),
        ("reenter", "finalizers at each point"),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("--operation", action="append", choices=list(OPERATIONS))
        command.add_argument("--session", action="append", choices=["threads", "sync"])
        command.add_argument("--serializer", action="append", choices=["native", "json"])
        command.add_argument("--first", type=int, default=1, help="first point")
        command.add_argument("--step", type=int, default=1, help="points to the next one")
        command.add_argument("--limit", type=int, default=1_000_000, help="points at the most")
        command.add_argument("--crowd", action="store_true", help="another thread waits meanwhile")
        command.add_argument("--patience", type=float, default=3.0, help="seconds")
        command.add_argument("--seconds", type=float, default=1e9, help="for each sweep")
        command.add_argument("--faults", type=int, default=1_000_000, help="stop a sweep after")
        command.add_argument("--rows", type=int, default=60, help="of the table")
        command.add_argument("--details", type=int, default=0, help="hangs to print in full")
        command.add_argument("--json", help="file for all faults")
        if name == "sweep":
            command.add_argument("--kind", action="append", choices=list(KINDS))
            command.add_argument("--gap", action="append", type=int, help="to a second signal")
            command.add_argument("--rotate", action="store_true", help="one kind and gap a point")
        else:
            command.add_argument("--action", action="append", choices=list(ACTIONS))
            command.add_argument("--by", choices=list(TRIGGERS), default="del")
            command.add_argument("--everywhere", action="store_true", help="at each operation")
    barrage.add_arguments(commands.add_parser("barrage", help="real signals at random times"))
    arguments = parser.parse_args()
    if arguments.command == "barrage":
        return barrage.run(arguments)
    return _sweeps(arguments)


def _sweeps(arguments: argparse.Namespace) -> int:
    tallies: list[Tally] = []
    for spec in _specs(arguments):
        tallies.append(sweep(spec, arguments.seconds, arguments.faults))
        print(tallies[-1].verdict(), flush=True)
    faults = [fault for tally in tallies for fault in tally.faults]
    print(f"\n{table(tallies, arguments.rows)}")
    for fault in [fault for fault in faults if fault.detail][: arguments.details]:
        print(f"\n{fault.what} {fault.case}\n{fault.detail}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            for tally in tallies:
                for fault in tally.faults:
                    said = {"sweep": tally.title(), **dataclasses.asdict(fault)}
                    file.write(json.dumps(said) + "\n")
    trials, failed = sum(t.trials for t in tallies), sum(t.failed for t in tallies)
    lines = len(set().union(*(tally.places for tally in tallies)))
    print(f"\n{trials} trials at {lines} places, {failed} failed")
    return int(bool(faults))


def _specs(arguments: argparse.Namespace) -> list[Spec]:
    causes = ["signal"]
    if arguments.command == "reenter":
        causes = [f"{action} by {arguments.by}" for action in arguments.action or ACTIONS]
    ordinary = [operation for operation in OPERATIONS if operation not in SPECIAL]
    specs = []
    for cause in causes:
        for session in arguments.session or ["threads", "sync"]:
            for serializer in arguments.serializer or ["native"]:
                for operation in arguments.operation or ordinary:
                    if operation in SYNC_ONLY and session != "sync":
                        continue
                    if operation == "served" and session == "sync":
                        continue  # nobody reads while nobody waits
                    spec = Spec(
                        operation,
                        cause,
                        session,
                        serializer,
                        first=arguments.first,
                        step=arguments.step,
                        limit=arguments.limit,
                        crowd=arguments.crowd,
                        patience=arguments.patience,
                        engine=arguments.command == "reenter" and operation == "served",
                    )
                    if cause == "signal":
                        spec.kinds = arguments.kind or list(KINDS)
                        spec.gaps = arguments.gap or [0]
                        spec.rotate = arguments.rotate
                    else:
                        spec.kinds = ["SoftTimeLimit"]  # not raised
                        spec.everywhere = arguments.everywhere
                    specs.append(spec)
    return specs


if __name__ == "__main__":
    sys.exit(main())
