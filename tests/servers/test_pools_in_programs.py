"""The examples dask_cluster, ray_actor and batch_with_progress: programs that end by themselves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from web_servers import missing

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes are looked for in Linux's /proc"
)


def needs(*modules: str) -> pytest.MarkDecorator:
    reason = missing(*modules)
    return pytest.mark.skipif(reason is not None, reason=str(reason))


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run an example's program, or one of the test's own that may import its modules."""

    def run_program(
        example: str, program: str, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        file = EXAMPLES / example / program
        if not program.endswith(".py"):
            file = tmp_path / "program.py"
            file.write_text(textwrap.dedent(program), encoding="utf-8")
        path = [str(EXAMPLES / example), os.environ.get("PYTHONPATH")]
        done = subprocess.run(
            [sys.executable, str(file), *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
                "RAY_AUTH_MODE": "disabled",  # it would write a token to the home directory
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run_program


@needs("distributed")
def test_dask_cluster_prints(run: Run) -> None:
    assert run("dask_cluster", "cluster.py").stdout == "4,203 primes below 40,000\n"


@linux
@needs("distributed")
def test_each_worker_of_a_dask_cluster_has_one_child_as_long_as_it_lives(run: Run) -> None:
    done = run(
        "dask_cluster",
        """
        import multiprocessing, os, signal, time
        from pathlib import Path

        from distributed import Client, LocalCluster
        from work import count_primes

        def child():
            from work import counters
            [worker] = counters.workers
            return os.getpid(), worker.pid

        def start_a_process():
            multiprocessing.Process(target=print).start()

        def count(client):
            starts = range(0, 40_000, 1_000)
            stops = range(1_000, 41_000, 1_000)
            jobs = client.map(count_primes, starts, stops, pure=False, retries=1)
            assert sum(job.result() for job in jobs) == 4_203

        def gone(pid):
            until = time.monotonic() + 30
            while Path("/proc", str(pid)).exists():
                assert time.monotonic() < until
                time.sleep(0.05)

        if __name__ == "__main__":
            with (
                LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster,
                Client(cluster) as client,
            ):
                count(client)
                before = dict(client.run(child).values())
                assert len(before) == 2
                try:
                    client.submit(start_a_process).result()
                except AssertionError as error:
                    print(error)

                [one, other] = before
                os.kill(before[one], signal.SIGKILL)
                count(client)
                after = dict(client.run(child).values())
                assert after[one] != before[one] and after[other] == before[other]

                os.kill(one, signal.SIGKILL)
                gone(after[one])
                count(client)
            gone(after[other])
        """,
    )
    assert done.stdout == "daemonic processes are not allowed to have children\n"


@needs("ray")
def test_ray_actor_prints(run: Run) -> None:
    assert run("ray_actor", "actor.py").stdout.splitlines() == [
        "actor 1 has 1 child",
        "actor 2 has 1 child",
        "4,203 primes below 40,000",
    ]


@needs("PIL", "tqdm")
def test_batch_with_progress_makes_all_but_the_broken_one(run: Run, tmp_path: Path) -> None:
    done = run("batch_with_progress", "batch.py")

    broken, summary = done.stdout.splitlines()
    assert re.match(r"broken\.png: RemoteError: PIL\.UnidentifiedImageError: ", broken)
    assert summary == "40 of 41 thumbnails are in thumbnails"
    assert "41/41" in done.stderr.split("\r")[-1]
    from PIL import Image

    made = sorted((tmp_path / "thumbnails").iterdir())
    assert [file.name for file in made] == [f"picture {number:02}.jpg" for number in range(40)]
    with Image.open(made[0]) as first, Image.open(made[-1]) as last:
        assert (first.size, last.size) == ((64, 32), (64, 63))


@needs("PIL", "tqdm")
def test_batch_with_progress_takes_pictures_of_ones_own(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGBA", (10, 300), "red").save(tmp_path / "tall.png")

    done = run("batch_with_progress", "batch.py", "tall.png", "none.png")

    assert "none.png: RemoteError: FileNotFoundError" in done.stdout
    assert done.stdout.endswith("1 of 2 thumbnails are in thumbnails\n")
    with Image.open(tmp_path / "thumbnails" / "tall.jpg") as thumbnail:
        assert thumbnail.size == (2, 64)
