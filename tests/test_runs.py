"""Live runs and their sub-workflows, in an engine of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from plumd.bodies import WorkflowBody
from plumd.engine import Engine
from plumd.flow import BeginRun, CancelRun, RunAct
from plumd.flow.rules import StepState
from plumd.model import TaskState
from plumd.store import definitions, flows
from plumd.store.store import Store
from tests.scheduling import HOUR_MS, World
from tests.test_engine import running


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Virtual time: a test that takes it takes no time."""
    return autojump_clock


async def saved(engine: Engine, *workflows: tuple[str, list[object]],
                timeout_sec: float = 0) -> int:
    """The id of the last of these workflows."""
    number = 0
    for name, steps in workflows:
        body = msgspec.convert({"name": name, "steps": steps, "timeoutSec": timeout_sec},
                               WorkflowBody)
        number = engine.new_id()
        await engine.write(partial(definitions.create, kind=definitions.WORKFLOWS, number=number,
                                   body=body))
    return number


def row_of(store: Store, run_id: int) -> flows.RunRow:
    row = store.peek(flows.get, run_id)
    assert row is not None
    return row


SUB = {"id": "sub", "type": "workflow", "workflow": "s"}


async def test_many_sub_workflows_that_are_over_at_once(tmp_path: Path, clock: MockClock) -> None:
    """Each leads to the next: neither the stack nor others that wait for a turn suffer."""
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        number = await saved(engine, ("s", [{"id": "one", "type": "parallel"}]),
                             ("m", [{"id": "again", "type": "loop", "count": 1200, "body": [SUB]}]))
        run_id, commits = engine.new_id(), store.commits
        over = engine.watch(run_id)
        await engine.call(BeginRun(engine.planner.plan(run_id, number, None)))
        with trio.fail_after(60):
            await over.wait()
        assert row_of(store, run_id).state == TaskState.SUCCEEDED
        assert store.commits - commits >= 3, "all of it was one turn"


async def test_a_run_is_canceled_before_its_sub_workflow_begins(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        number = await saved(engine, ("s", [{"id": "one", "type": "approval"}]), ("m", [SUB]))
        run_id = engine.new_id()
        plan = engine.planner.plan(run_id, number, None)
        await engine.call_all((BeginRun(plan), CancelRun(run_id)))
        assert row_of(store, run_id).state == TaskState.CANCELED
        assert not engine.runs.live


@pytest.mark.parametrize("hours", [5, -5])
async def test_waits_and_timeouts_count_elapsed_time_when_the_clock_is_set(
        tmp_path: Path, clock: MockClock, hours: int) -> None:
    assert clock.autojump_threshold == 0
    world = World(tmp_path)
    async with world.life() as engine:
        number = await saved(engine, ("m", [
            {"id": "rest", "type": "wait", "seconds": 100},
            {"id": "ask", "type": "approval", "timeoutSec": 100},
            {"id": "until", "type": "wait", "until": "2025-11-25T19:00:00Z"}]), timeout_sec=3600)
        run_id = engine.new_id()
        await engine.call(BeginRun(engine.planner.plan(run_id, number, None)))
        await trio.sleep(10)
        world.clock.set_by(hours * HOUR_MS)
        await trio.sleep(80)
        assert seeds_of(world, run_id) == {0: StepState.RUNNING}
        assert row_of(world.store, run_id).state == TaskState.RUNNING
        await trio.sleep(60)
        assert seeds_of(world, run_id) == {0: StepState.SUCCEEDED, 1: StepState.RUNNING}
    async with world.life() as engine:      # what was written down is the new moment
        await trio.sleep(30)
        assert seeds_of(world, run_id)[1] == StepState.RUNNING
        await engine.call(RunAct(run_id, "approve", "ask"))
        await trio.sleep(30)
        assert seeds_of(world, run_id)[2] == StepState.RUNNING


async def test_no_wait_is_longer_when_the_clock_is_set_back_and_the_daemon_dies_at_once(
        tmp_path: Path, clock: MockClock) -> None:
    """It never saw that: the next one has the rows alone. A later restart begins nothing anew."""
    assert clock.autojump_threshold == 0
    world = World(tmp_path)
    async with world.life() as engine:
        number = await saved(engine, ("waits", [
            {"id": "rest", "type": "wait", "seconds": 100},
            {"id": "ask", "type": "approval", "timeoutSec": 200}]))
        run_id, limited = engine.new_id(), engine.new_id()
        await engine.call(BeginRun(engine.planner.plan(run_id, number, None)))
        number = await saved(engine, ("limited", [{"id": "one", "type": "approval"}]),
                             timeout_sec=500)
        await engine.call(BeginRun(engine.planner.plan(limited, number, None)))
        await trio.sleep(10)
    begun_s = trio.current_time()
    world.clock.set_by(-5 * HOUR_MS)
    async with world.life():
        await trio.sleep(60)
    async with world.life():
        await trio.sleep(39)
        assert seeds_of(world, run_id) == {0: StepState.RUNNING}, "nor shorter"
        await trio.sleep(2)
        assert seeds_of(world, run_id) == {0: StepState.SUCCEEDED, 1: StepState.RUNNING}
        await trio.sleep(100)
        world.clock.set_by(-5 * HOUR_MS)
        await trio.sleep(50)            # this one sees it, and writes down what is left
    world.clock.set_by(-5 * HOUR_MS)
    async with world.life() as engine:
        await trio.sleep(45)
        assert seeds_of(world, run_id)[1] == StepState.RUNNING
        await trio.sleep(60)
        assert seeds_of(world, run_id)[1] == StepState.TIMEOUT
        over = engine.watch(limited)
        with trio.fail_after(500):
            await over.wait()
        assert row_of(world.store, limited).state == TaskState.TIMEOUT
    assert 500 <= trio.current_time() - begun_s < 900


def seeds_of(world: World, run_id: int) -> dict[int, int]:
    """step -> its state"""
    return {seed.step: seed.state for seed in world.store.peek(flows.seeds, run_id).values()}


@pytest.mark.parametrize("early", [True, False])
async def test_a_pause_holds_sub_workflows_too(tmp_path: Path, clock: MockClock, *,
                                               early: bool) -> None:
    """early: before the sub-workflow has begun."""
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        number = await saved(engine, (
            "s", [{"id": "one", "type": "wait", "seconds": 1}, {"id": "two", "type": "parallel"}]),
            ("m", [SUB]))
        run_id = engine.new_id()
        begin = BeginRun(engine.planner.plan(run_id, number, None))
        pause = RunAct(run_id, "pause")
        if early:
            await engine.call_all((begin, pause))
        else:
            await engine.call(begin)
            await engine.call(pause)
        child = next(one for one in engine.runs.live if one != run_id)
        assert [row_of(store, one).paused_ms > 0 for one in (run_id, child)] == [True, True]
    async with running(tmp_path) as (engine, store):
        await trio.sleep(5)
        assert row_of(store, child).state == TaskState.RUNNING
        over = engine.watch(run_id)
        await engine.call(RunAct(run_id, "resume"))
        assert [row_of(store, one).paused_ms for one in (run_id, child)] == [0, 0]
        await over.wait()
        assert row_of(store, run_id).state == TaskState.SUCCEEDED
