"""``python -m tests.benchmarks``: measure, print the table, write the JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from compileall import compile_dir
from pathlib import Path


def main() -> int:
    """Return the exit status: 1 if anything that is installed failed to run."""
    from . import table
    from .measure import OtherLoad
    from .runner import FULL, QUICK, SMOKE, judge, measure_workload
    from .workloads import WORKLOADS

    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        choices=names,
        help=f"measure this workload; may be repeated: {', '.join(names)}",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    parser.add_argument("--smoke", action="store_true", help="as short as can be; proves nothing")
    parser.add_argument("--json", default="benchmarks.json", help="file to write", metavar="PATH")
    parser.add_argument("--markdown", action="store_true", help="end with the README's table")
    arguments = parser.parse_args()

    export_package()
    size = SMOKE if arguments.smoke else QUICK if arguments.quick else FULL
    report = {**table.machine(), "rounds": arguments.rounds, "workloads": []}
    print(
        f"{report['date']}, {report['python']}, {report['cpu']}, {report['cpus']} CPUs, "
        f"{report['system']}; medians of {arguments.rounds} rounds and their range\n"
    )
    failed = False
    for workload in WORKLOADS:
        if arguments.only and workload.name not in arguments.only:
            continue
        start, load = time.perf_counter(), OtherLoad()
        results = measure_workload(workload, size, arguments.rounds)
        verdicts = judge(workload, results)
        others = load.share()
        for line in table.lines(workload, results, verdicts, others):
            print(line, flush=True)
        entry = table.as_json(workload, results, verdicts)
        entry["others_load"] = round(others, 3)
        entry["seconds"] = round(time.perf_counter() - start, 2)
        report["workloads"].append(entry)
        failed = failed or any(result.error for result in results)
    if arguments.markdown:
        print("\n".join(table.markdown(report)))
    Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(failed)


def export_package() -> None:
    """Let children find the package that this process found, and find it compiled."""
    import streamipc

    folder = str(Path(streamipc.__file__).resolve().parent.parent)
    paths = [folder, os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # What is installed was compiled when it was; so must be what starts from a checkout.
    compile_dir(Path(streamipc.__file__).parent, quiet=1)
    compile_dir(Path(__file__).parent / "children", quiet=1)


# The guard is for multiprocessing too, whose children import this file.
if __name__ == "__main__":
    sys.exit(main())
