"""Samples of how busy the daemon is: what they say, and what is kept of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from plumd.clock import Instant
from plumd.engine import Engine
from plumd.model import Ending, Finish, Join, Limits, Meters, Submit, WorkerKind
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.stats import (
    MINUTES_KEPT,
    SECONDS_KEPT,
    Monitor,
    Rates,
    Series,
    Times,
    percentile_ms,
    rates,
    series_of,
    times,
)
from plumd.store.definitions import Catalog
from plumd.store.store import Store

EPOCH_MS = 1_700_000_000_000


class TrioClock:
    """The run's own clock, so that a mock clock moves everything."""

    def now(self) -> Instant:
        now_ns = round(trio.current_time() * 1e9)
        return Instant(now_ns, EPOCH_MS * 1_000_000 + now_ns)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture
async def engine(tmp_path: Path, nursery: trio.Nursery) -> Engine:
    """An engine that runs, with one worker `w` of two slots that serves `job`."""
    time = TrioClock()
    store = Store(tmp_path / "plum.db", clock=time)
    store.threads = False
    made = Engine(store, time, Outbox(store), Planner(Catalog(store)), Limits(), 1)
    nursery.start_soon(made.run)
    await made.call(Join("w", WorkerKind.SESSION, "s", ("job",), capacity=2, lease_ms=10**9))
    return made


async def test_a_sample_says_what_happened_and_how_things_are(
        engine: Engine, clock: trio.testing.MockClock) -> None:
    assert trio.current_time() == clock.current_time()
    monitor = Monitor(engine, "n1")
    ids = list(engine.new_ids(3))
    await engine.call_all([Submit(number, "job") for number in ids])
    await trio.sleep(0.5)
    ask = await engine.call_all([Finish(ids[0], 1, "w"), Finish(ids[0], 1, "w")])
    assert [reply.code for reply in ask.replies] == ["", "stale_attempt"]
    await engine.call(Finish(ids[1], 1, "w", Ending.FAILED))
    await trio.sleep(1.5)
    monitor.take(1)
    stats = monitor.newest
    assert (stats.at, stats.node_id, stats.writes) == (EPOCH_MS + 2000, "n1", "ok")
    assert stats.uptime_sec == 2
    assert (stats.states.pending, stats.states.running) == (0, 1)
    assert (stats.workers, stats.slots.total, stats.slots.busy) == (1, 2, 1)
    assert stats.per_sec == Rates(submitted=1.5, started=1.5, succeeded=0.5, failed=0.5)
    assert stats.run_ms.p50 is not None
    assert 262 < stats.run_ms.p50 <= 524.288, "0.5 s lies in the bucket that ends with 524.288 ms"
    assert stats.queue_wait_ms.p50 is not None
    assert stats.queue_wait_ms.p50 < 1, "two of the three started at once"
    assert stats.queue_wait_ms.p99 is not None
    assert stats.queue_wait_ms.p99 > 262, "the third waited for the first's slot"
    assert stats.commit.per_sec == 1.5
    assert stats.commit.batch == 2
    assert stats.db_bytes > 0
    assert stats.rss_bytes > 1 << 20
    assert stats.event_seq == engine.journal.next_seq - 1
    monitor.take(2)
    assert monitor.newest.per_sec == Rates()
    assert monitor.newest.run_ms == Times()
    assert monitor.newest.commit.ms is None


async def test_counts_begin_anew_with_the_core(
        engine: Engine, clock: trio.testing.MockClock) -> None:
    """After an outage of the disk the core is another one, which has counted nothing yet."""
    assert trio.current_time() == clock.current_time()
    monitor = Monitor(engine, "n1")
    await engine.call_all([Submit(number, "none") for number in engine.new_ids(5)])
    await trio.sleep(1)
    monitor.take(1)
    assert monitor.newest.per_sec.submitted == 5
    engine.load()
    await engine.call_all([Submit(number, "none") for number in engine.new_ids(2)])
    await trio.sleep(1)
    monitor.take(2)
    assert monitor.newest.per_sec.submitted == 2
    assert monitor.newest.states.pending == 7


async def test_history_has_a_place_for_every_second_and_minute(
        engine: Engine, nursery: trio.Nursery, clock: trio.testing.MockClock) -> None:
    monitor = Monitor(engine, "n1")
    history = monitor.history("15m")
    assert history.step_sec == 1
    assert history.series.pending == [None] * SECONDS_KEPT
    nursery.start_soon(monitor.run)
    for second in range(150):
        if second == 70:
            await engine.call(Submit(engine.new_id(), "none"))
        await trio.sleep(1)
    await trio.testing.wait_all_tasks_blocked()
    history = monitor.history("15m")
    assert history.at == [history.at[-1] - 1000 * i for i in reversed(range(SECONDS_KEPT))]
    assert history.series.pending[:-150] == [None] * (SECONDS_KEPT - 150)
    assert history.series.pending[-150:] == [0] * 70 + [1] * 80
    assert history.series.submitted[-150:] == [0] * 70 + [1] + [0] * 79
    clock.jump(5)       # the loop was held up: samples are missing, none is made up
    await trio.sleep(3)
    await trio.testing.wait_all_tasks_blocked()
    pending = monitor.history("15m").series.pending
    assert None in pending[-9:]
    assert pending[-1] == 1
    assert len(pending) == SECONDS_KEPT
    day = monitor.history("24h")
    assert day.step_sec == 60
    assert day.series.submitted[:-2] == [None] * (MINUTES_KEPT - 2)
    assert day.series.submitted[-2:] == [0, pytest.approx(1 / 60, abs=0.001)]


async def test_it_keeps_no_more_than_it_says(engine: Engine) -> None:
    monitor = Monitor(engine, "n1")
    for step in range(1, SECONDS_KEPT + 200):
        monitor.take(step)
    history = monitor.history("15m")
    assert len(history.at) == SECONDS_KEPT
    assert None not in history.series.running
    with monitor.reading():
        monitor.take(SECONDS_KEPT + 201)
        assert monitor.newest.sse_readers == 1
    assert monitor.readers == 0


@pytest.mark.parametrize(("counts", "share", "expected"), [
    ([0, 0, 0], 0.5, None), ([4, 0], 0.5, 0.001), ([0, 0, 10], 1.0, 0.004),
    ([0, 0, 10], 0.5, 0.003), ([99, 0, 0, 0, 1], 0.99, 0.001), ([98, 0, 0, 0, 2], 0.99, 0.012),
])
def test_percentiles(counts: list[int], share: float, expected: float | None) -> None:
    assert percentile_ms(counts, share) == expected


def test_differences() -> None:
    now = Meters(submitted=10, lost=3, wait=(5, *(0,) * 41))
    assert rates(Meters(submitted=4), now, 2) == Rates(submitted=3, lost=1.5)
    assert times(Meters().wait, now.wait).p50 is not None
    assert times(now.wait, now.wait) == Times()
    assert series_of([]) == Series(*([] for _ in Series.__struct_fields__))
