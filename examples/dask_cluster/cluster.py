"""Spreads work over a Dask cluster, each worker of which has a child process to do it.

Start it with

    python examples/dask_cluster/cluster.py

The cluster is made here, of two processes; ``Client("tcp://scheduler:8786")`` takes yours.
"""

from distributed import Client, LocalCluster
from work import count_primes

STARTS = range(0, 40_000, 5_000)
STOPS = range(5_000, 45_000, 5_000)

if __name__ == "__main__":
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        total = sum(job.result() for job in client.map(count_primes, STARTS, STOPS))
    print(f"{total:,} primes below 40,000")
