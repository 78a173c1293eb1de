"""What streamipc costs, beside other libraries and the physical limit.

Run it from the top folder: ``python -m tests.benchmarks``. The extra ``bench`` brings the
other libraries; those that are not installed are listed as missing.

    runner.py      what a workload, an entry and a goal are; measures them in turns
    table.py       prints the results, writes them as JSON
    measure.py     loops and clocks
    contestants/   the parent's half of each library, behind one small interface
    children/      the child's half, started by path
    workloads/     what is measured, and the goals
    bad_days.py    no figures: what becomes of pools whose workers die or hang
"""
