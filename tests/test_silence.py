"""Workers that give signs of life and take nothing (B15): who is told of, when, and how often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from plumd.engine import Engine
from plumd.model import Detach, Drain, Ending, Finish, Join, Limits, Submit, WorkerKind
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.silence import Silence
from plumd.store import events
from plumd.store.definitions import Catalog
from plumd.store.store import Store
from tests.sim.world import SimClock

CALLED = Join("called", WorkerKind.CALLBACK, "s", ("t",), capacity=1, lease_ms=15_000,
              url="http://127.0.0.1:9/")
LINE = Join("line", WorkerKind.SESSION, "s", ("t",), capacity=1, lease_ms=90_000)


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Virtual time: a test that takes it takes no time."""
    return autojump_clock


class Site:
    """An engine, and the room that watches its workers."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path / "plum.db", clock=SimClock(), threads=False)
        self.engine = Engine(self.store, SimClock(), Outbox(self.store),
                             Planner(Catalog(self.store)), Limits(), 1)
        self.silence = Silence(self.engine)

    def alerts(self) -> list[object]:
        """The ids of the workers that were told of."""
        found = (event for record in events.since(self.store.point, 0, 10_000)
                 for event in record.items)
        return [event[2] for event in found if event[:2] == ("alert", "worker_silent")]

    async def beat(self, join: Join) -> None:
        """Every five seconds, and nothing else."""
        while True:
            self.engine.beat(join.worker_id, join.session)
            await trio.sleep(5)


@asynccontextmanager
async def site(path: Path) -> AsyncIterator[tuple[Site, trio.Nursery]]:
    one = Site(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.engine.run)
        nursery.start_soon(one.silence.run)
        yield one, nursery
        nursery.cancel_scope.cancel()
    one.store.close()


async def test_b15_one_that_beats_without_its_line_while_work_waits_is_told_of_within_a_minute(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with site(tmp_path) as (here, nursery):
        engine = here.engine
        await engine.call_all([LINE, Detach("line", "s")])
        nursery.start_soon(here.beat, LINE)
        await trio.sleep(200)
        assert here.alerts() == [], "nothing waits for it"
        task_id = engine.new_id()
        await engine.call(Submit(task_id, "t"))
        await trio.sleep(45)
        assert here.alerts() == [], "a line may be away for a moment"
        await trio.sleep(15)
        assert here.alerts() == ["line"]
        await trio.sleep(500)
        assert here.alerts() == ["line"], "once"
        await engine.call(LINE)                         # its line is back, and takes the task
        await engine.call(Finish(task_id, 1, "line", result=b"1"))
        await engine.call(Detach("line", "s"))
        await trio.sleep(200)
        assert here.alerts() == ["line"]
        await engine.call(Submit(engine.new_id(), "t"))
        await trio.sleep(61)
        assert here.alerts() == ["line", "line"], "a new stretch of silence is new"


async def test_b15_one_that_nobody_reaches_is_told_of_though_it_registers_again_and_again(
        tmp_path: Path, clock: MockClock) -> None:
    """Each call is tried, and fails while the next beat takes the worker back."""
    assert clock.autojump_threshold == 0
    async with site(tmp_path) as (here, _):
        engine = here.engine
        await engine.call(CALLED)
        await trio.sleep(2)
        for _ in range(14):
            task_id = engine.new_id()
            await engine.call(Submit(task_id, "t"))
            await trio.sleep(4)                         # the connection is tried for so long
            await engine.call(Finish(task_id, 1, "called", Ending.FAILED, reached=False))
            await trio.sleep(1)
            view = engine.core.worker_view("called")
            assert view is not None
            assert view[0] is False, "it is away until it is heard of"
            await engine.call(CALLED)
        assert here.alerts() == ["called"]


async def test_the_well_the_dead_and_the_draining_are_not_told_of(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with site(tmp_path) as (here, nursery):
        engine = here.engine
        await engine.call_all([LINE, Submit(engine.new_id(), "t"), Submit(engine.new_id(), "t")])
        nursery.start_soon(here.beat, LINE)
        await trio.sleep(200)
        assert here.alerts() == [], "it is busy"
        await engine.call_all([Drain("line"), Detach("line", "s")])
        await trio.sleep(80)
        assert here.alerts() == [], "it drains"
        dead = Join("dead", WorkerKind.SESSION, "d", ("other",), capacity=1, lease_ms=90_000)
        await engine.call_all([dead, Detach("dead", "d"), Submit(engine.new_id(), "other")])
        await trio.sleep(80)
        assert here.alerts() == [], "nobody hears of it, though its lease runs on"


async def test_a_call_that_was_missed_once_says_nothing_of_a_long_one(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with site(tmp_path) as (here, nursery):
        engine = here.engine
        for _ in range(2):
            task_id = engine.new_id()
            await engine.call_all([CALLED, Submit(task_id, "t")])
            await engine.call(Finish(task_id, 1, "called", Ending.FAILED, reached=False))
            await engine.call_all([CALLED, Submit(engine.new_id(), "t")])
            nursery.start_soon(here.beat, CALLED)
            await trio.sleep(200)
            assert here.alerts() == [], "it works, or nobody wants anything"
