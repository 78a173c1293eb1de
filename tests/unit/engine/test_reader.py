"""What a signal's handler raises in the midst of a read is no end of the stream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from interrupting import signals_raise
from leader_bench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.mark.parametrize("has_read", [False, True])
@pytest.mark.parametrize("kind", [TimeoutError, InterruptedError, BlockingIOError, ValueError])
def test_it_comes_out_and_the_next_one_reads_on(
    bench: Bench, kind: type[Exception], has_read: bool
) -> None:
    """Errors of these kinds say what has become of the stream, if a read raises them."""
    reply = bench.caller("reply").reply
    bench.answer("reply")
    read_into = bench.reader._read_into
    with signals_raise(kind) as interrupt:

        def interrupted(buffer: memoryview, source: int) -> int:
            bench.reader._read_into = read_into
            if has_read:
                read_into(buffer, source)
            interrupt()
            return 0

        bench.reader._read_into = interrupted
        with pytest.raises(kind, match="of a signal's handler"):
            bench.leader.lead(bench.reader.read_source)
    assert bench.reader.is_busy
    assert not reply.ready()

    bench.leader.lead(bench.reader.clean)
    bench.leader.lead(bench.reader.drain)
    assert reply.ready()
    assert not bench.reader.is_busy
    assert bench.end == []
