"""How busy the daemon is: sampled once a second, kept for a quarter of an hour by the second and
for a day by the minute.

The core, the engine and the store count as they work, in plain numbers; here differences are made
of the counts. Nothing is written to disk: after a restart the history begins anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
import psutil
import trio

import plumd
from plumd.engine import Engine
from plumd.model import Meters

SAMPLE_S: Final = 1.0
SECONDS_KEPT: Final = 15 * 60
MINUTE_SAMPLES: Final = 60
MINUTES_KEPT: Final = 24 * 60
WINDOWS: Final = {"15m": (1, SECONDS_KEPT), "24h": (MINUTE_SAMPLES, MINUTES_KEPT)}
"""window -> (samples that a step has, steps)."""


class States(msgspec.Struct, frozen=True):
    """Live tasks by state."""

    queued: int
    pending: int
    running: int
    retrying: int


class Slots(msgspec.Struct, frozen=True):
    """Of the workers that are here; the daemon's own executors do not count."""

    total: int
    busy: int


class Rates(msgspec.Struct, frozen=True):
    """What happened a second, on average since the sample before. lost: attempts, else tasks."""

    submitted: float = 0
    started: float = 0
    succeeded: float = 0
    failed: float = 0
    timeout: float = 0
    canceled: float = 0
    lost: float = 0


class Times(msgspec.Struct, frozen=True):
    """Estimates from a histogram of powers of two, in ms; null when nothing was measured."""

    p50: float | None = None
    p99: float | None = None


class Commits(msgspec.Struct, frozen=True, rename="camel"):
    """Write transactions. ms: the mean time of COMMIT.  batch: the mean number of commands."""

    per_sec: float = 0
    ms: float | None = None
    batch: float | None = None


class Stats(msgspec.Struct, frozen=True, rename="camel"):
    """The newest sample. writes: ok, or why the disk takes none. eventSeq: of the newest event."""

    at: int
    version: str
    node_id: str
    uptime_sec: float
    writes: str
    states: States
    workers: int
    slots: Slots
    live_runs: int
    per_sec: Rates
    queue_wait_ms: Times
    run_ms: Times
    commit: Commits
    writer_queue: int
    db_bytes: int
    wal_bytes: int
    rss_bytes: int
    cpu_ratio: float
    sse_readers: int
    event_seq: int


Column = list[float | None]


class Series(msgspec.Struct, frozen=True, rename="camel"):
    """One value a step; null where there was no sample. Rates are a second's."""

    submitted: Column
    started: Column
    succeeded: Column
    failed: Column
    timeout: Column
    canceled: Column
    lost: Column
    pending: Column
    running: Column
    queue_wait_p50_ms: Column
    queue_wait_p99_ms: Column
    commit_ms: Column
    writer_queue: Column
    db_bytes: Column


class History(msgspec.Struct, frozen=True, rename="camel"):
    """Columns of equal length, oldest first. at: Unix ms of each step's end."""

    step_sec: int
    at: list[int]
    series: Series


class _Counts(msgspec.Struct, frozen=True):
    """Everything that only grows, at one moment. core: whose meters they are; a new one counts
    from nothing."""

    mono_s: float
    core: int
    meters: Meters
    commits: int
    commit_ns: int
    commands: int
    cpu_s: float


class Monitor:
    """Takes the samples; `run` is one task of the daemon."""

    def __init__(self, engine: Engine, node_id: str) -> None:
        self.engine = engine
        self.node_id = node_id
        self.serial = 0
        """How many samples were taken; readers compare it with what they have told."""
        self.next_at = 0.0
        """When the next one is due, by Trio's clock; 0 before `run`."""
        self.readers = 0
        """Open event streams."""
        self._process = psutil.Process()
        self._begun_ns = engine.clock.now().mono_ns
        self._seconds: deque[tuple[int, Stats]] = deque(maxlen=SECONDS_KEPT)
        self._minutes: deque[tuple[int, Stats]] = deque(maxlen=MINUTES_KEPT)
        self._last = self._minute = self._counts()
        self.newest = self._sample(self._last)
        self.encoded = msgspec.json.encode(self.newest)

    async def run(self) -> None:
        """Sample until canceled, on the beat: a late one shifts none of those that follow."""
        begun = trio.current_time()
        step = 0
        while True:
            step = max(step + 1, int((trio.current_time() - begun) / SAMPLE_S))
            self.next_at = begun + step * SAMPLE_S
            await trio.sleep_until(self.next_at)
            self.take(step)

    def take(self, step: int) -> None:
        """The sample of this step; steps that were slept over have none."""
        last, self._last = self._last, self._counts()
        self.newest = self._sample(last)
        self._seconds.append((step, self.newest))
        if step // MINUTE_SAMPLES > (self._minutes[-1][0] if self._minutes else 0):
            minute, self._minute = self._minute, self._last
            self._minutes.append((step // MINUTE_SAMPLES, self._sample(minute)))
        self.encoded = msgspec.json.encode(self.newest)
        self.serial += 1

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count one open event stream."""
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1

    def history(self, window: str) -> History:
        """The columns of a window, a key of WINDOWS."""
        samples, steps = WINDOWS[window]
        ring = self._seconds if samples == 1 else self._minutes
        step_sec = round(samples * SAMPLE_S)
        last, end_ms = (ring[-1][0], ring[-1][1].at) if ring else (0, self.newest.at)
        found: list[Stats | None] = [None] * steps
        for step, stats in ring:
            if last - step < steps:
                found[steps - 1 - (last - step)] = stats
        at = [end_ms - (steps - 1 - i) * step_sec * 1000 for i in range(steps)]
        return History(step_sec, at, series_of(found))

    def _counts(self) -> _Counts:
        engine, store = self.engine, self.engine.store
        cpu = self._process.cpu_times()
        return _Counts(
            engine.clock.now().mono_ns / 1e9, id(engine.core), engine.core.meters(),
            store.commits, store.committing.total_ns, engine.commands, cpu.user + cpu.system)

    def _sample(self, last: _Counts) -> Stats:
        """What happened between `last` and the newest counts, and how things are now."""
        engine, now = self.engine, self._last
        took_s = max(now.mono_s - last.mono_s, 1e-3)
        before = last.meters if last.core == now.core else Meters()
        commits = now.commits - last.commits
        instant = engine.clock.now()
        database, log = engine.store.sizes()
        return Stats(
            at=instant.wall_ms, version=plumd.__version__, node_id=self.node_id,
            uptime_sec=round((instant.mono_ns - self._begun_ns) / 1e9, 3),
            writes=engine.down or "ok", states=States(*engine.core.counts_by_state()),
            workers=engine.core.statistics()["workers"] - engine.own_workers,
            slots=Slots(*engine.core.slots()), live_runs=len(engine.runs.live),
            per_sec=rates(before, now.meters, took_s),
            queue_wait_ms=times(before.wait, now.meters.wait),
            run_ms=times(before.run, now.meters.run),
            commit=Commits(
                round(commits / took_s, 3),
                round((now.commit_ns - last.commit_ns) / commits / 1e6, 4) if commits else None,
                round((now.commands - last.commands) / commits, 2) if commits else None),
            writer_queue=engine.waiting, db_bytes=database, wal_bytes=log,
            rss_bytes=self._process.memory_info().rss,
            cpu_ratio=round((now.cpu_s - last.cpu_s) / took_s, 4), sse_readers=self.readers,
            event_seq=engine.journal.next_seq - 1)


def rates(before: Meters, now: Meters, seconds: float) -> Rates:
    """How much a second."""
    return Rates(*(round((getattr(now, name) - getattr(before, name)) / seconds, 3)
                   for name in Rates.__struct_fields__))


def times(before: Sequence[int], now: Sequence[int]) -> Times:
    """The percentiles of what was counted in between."""
    counts = [b - a for a, b in zip(before, now, strict=True)]
    return Times(percentile_ms(counts, 0.5), percentile_ms(counts, 0.99))


def percentile_ms(counts: Sequence[int], share: float) -> float | None:
    """The time that this share does not exceed, on a straight line within its bucket."""
    total = sum(counts)
    if not total:
        return None
    wanted = share * total
    seen = 0
    for i, count in enumerate(counts):
        if count and seen + count >= wanted:
            low, high = (1 << i) >> 1, 1 << i
            return round((low + (high - low) * (wanted - seen) / count) / 1000, 3)
        seen += count
    raise AssertionError("the counts do not add up")


def series_of(samples: Sequence[Stats | None]) -> Series:
    """Columns of the samples."""
    columns: list[Column] = [[] for _ in Series.__struct_fields__]
    for stats in samples:
        row: Sequence[float | None] = [None] * len(columns) if stats is None else (
            stats.per_sec.submitted, stats.per_sec.started, stats.per_sec.succeeded,
            stats.per_sec.failed, stats.per_sec.timeout, stats.per_sec.canceled,
            stats.per_sec.lost, stats.states.pending, stats.states.running,
            stats.queue_wait_ms.p50, stats.queue_wait_ms.p99, stats.commit.ms,
            stats.writer_queue, stats.db_bytes)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return Series(*columns)
