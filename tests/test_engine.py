"""The engine's loop: one commit for many, replies after it, the truth when it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import msgspec
import pytest
import trio
from trio.testing import MockClock

from plumd import runs
from plumd.bodies import WorkflowBody
from plumd.engine import QUEUE_WEIGHT_MAX, Ask, Engine
from plumd.errors import NotFound, OutcomeUnknown, Overloaded, StorageDown
from plumd.flow import BeginRun
from plumd.model import Cancel, Ending, Finish, Join, Limits, Submit, TaskState, WorkerKind
from plumd.outbox import Given, Outbox
from plumd.planner import Planner
from plumd.store import definitions, events, flows, kv, tasks
from plumd.store.definitions import Catalog
from plumd.store.store import Tx
from tests.sim.disk import FaultyStore, Truth
from tests.sim.world import SimClock


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Virtual time: a test that takes it takes no time."""
    return autojump_clock


class Hand:
    """A carrier that keeps what it is given."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.given: list[Given] = []
        self.durable: list[bool] = []
        self.kicks: list[str] = []

    def give(self, attempts: Sequence[Given]) -> None:
        self.given.extend(attempts)
        for one in attempts:
            row = tasks.get(self.engine.store.point, one.task_id)
            self.durable.append(row is not None and row.state == TaskState.RUNNING)

    def stop(self, worker_id: str, task_id: int, attempt: int, reason: str) -> None:
        pass

    def kick(self, worker_id: str, session: str, code: str) -> None:
        del worker_id, session
        self.kicks.append(code)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[Engine, FaultyStore]]:
    store = FaultyStore(path / "plum.db", SimClock(), Truth())
    engine = Engine(store, SimClock(), Outbox(store), Planner(Catalog(store)), Limits(), 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        yield engine, store
        nursery.cancel_scope.cancel()
    store.close()


def worker(capacity: int = 1) -> Join:
    return Join("w", WorkerKind.SESSION, "s", ("t",), capacity=capacity)


async def test_who_arrives_together_shares_a_commit(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        before = store.commits
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(engine.call, Submit(engine.new_id(), "t"))
        assert store.commits - before <= 2
        assert engine.core.counts_by_state()[1] == 50


async def test_a_claim_is_durable_before_it_is_given(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, _):
        hand = Hand(engine)
        engine.outbox.register("w", hand)
        await engine.call(worker(3))
        for _ in range(3):
            await engine.call(Submit(engine.new_id(), "t", payload=b"7"))
        assert [one.payload for one in hand.given] == [b"7"] * 3
        assert hand.durable == [True] * 3


async def test_a_refused_store_command_undoes_itself_alone(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, _):

        def refuse(tx: Tx) -> None:
            tx.emit("alert", "never", "x", "y", 1)
            tx.db.execute("INSERT INTO quarantine VALUES (1, 'x', 'y', 'z', 1)")
            raise NotFound("nothing here")

        task_id = engine.new_id()
        beside = engine.post([Submit(task_id, "t")])
        with pytest.raises(NotFound):
            await engine.write(refuse)
        await beside.done.wait()
        assert engine.store.peek(tasks.get, task_id) is not None
        assert not engine.store.point.execute("SELECT * FROM quarantine").fetchall()
        records = engine.journal.since(1) or []
        assert not any(event[0] == "alert" for record in records for event in record.items)


async def test_a_full_queue_says_so(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, _):
        engine.post([Cancel(1)] * QUEUE_WEIGHT_MAX)
        with pytest.raises(Overloaded) as caught:
            engine.post([Cancel(1)])
        assert caught.value.retry_after_s
        engine.post([Cancel(1)], urgent=True)       # what workers say is always taken


async def test_a_caller_that_leaves_leaves_its_command_whole(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, _):
        task_id = engine.new_id()
        with trio.CancelScope() as scope:
            scope.cancel()
            await engine.call(Submit(task_id, "t"))
        assert scope.cancelled_caught
        await engine.call(Cancel(1))
        assert engine.store.peek(tasks.get, task_id) is not None


@pytest.mark.parametrize(("fault", "kept"), [("error_before", False), ("error_after", True)])
async def test_after_a_failed_commit_the_callers_get_the_truth(
        fault: str, kept: bool, tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        hand = Hand(engine)
        engine.outbox.register("w", hand)
        await engine.call(worker())
        first = engine.new_id()
        store.fault = fault
        if kept:
            assert (await engine.call(Submit(first, "t"))).ok
        else:
            with pytest.raises(StorageDown):
                await engine.call(Submit(first, "t"))
        await trio.sleep(5)
        assert not engine.down
        assert (store.peek(tasks.get, first) is not None) == kept
        assert hand.kicks == ["restarting"], "lines are closed, so that workers say what they hold"
        assert not hand.given, "nothing of a failed commit was let out"
        engine.core.check()


async def test_a_store_command_whose_answer_was_lost(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        store.fault = "error_after"
        with pytest.raises(OutcomeUnknown):
            await engine.write(lambda tx: kv.write(tx, "n", [kv.Write("k", "v")]))


async def test_a_store_command_that_finds_nothing_to_do_costs_no_commit(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        task_id = engine.new_id()
        await engine.call(Submit(task_id, "t"))
        before = store.commits, engine.journal.next_seq
        assert not await engine.write(lambda tx: tasks.delete(tx.db, task_id))
        assert (store.commits, engine.journal.next_seq) == before
        await engine.call(Submit(engine.new_id(), "t"))
        assert (store.commits, engine.journal.next_seq) == (before[0] + 1, before[1] + 1)


async def test_while_the_disk_takes_nothing_writes_are_refused_and_reads_go_on(
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, clock: MockClock) -> None:
    """What is looked at without a write says nothing of it."""
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        task_id = engine.new_id()
        await engine.call(Submit(task_id, "t"))
        away, insert = True, events.insert

        def refuse(db: apsw.Connection, first_seq: int, at_ms: int,
                   items: Sequence[events.Event]) -> events.Record:
            if away:
                raise apsw.IOError("the disk is away")
            return insert(db, first_seq, at_ms, items)

        monkeypatch.setattr(events, "insert", refuse)
        with pytest.raises(StorageDown):
            await engine.call(Submit(engine.new_id(), "t"))
        passes = engine.passes
        await trio.sleep(10)
        assert "the disk is away" in engine.down
        assert engine.passes > passes, "an outage of the disk is no hang"
        with pytest.raises(StorageDown):
            engine.post([Cancel(task_id)])
        assert store.peek(tasks.get, task_id) is not None
        away = False
        await trio.sleep(5)
        assert not engine.down
        assert (await engine.call(Cancel(task_id))).ok


async def test_then_is_called_before_effects_are_let_out(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, _):
        hand = Hand(engine)
        engine.outbox.register("w", hand)
        await engine.call(worker())
        seen: list[int] = []

        def note(ask: Ask) -> None:
            del ask
            seen.append(len(hand.given))

        await engine.post([Submit(engine.new_id(), "t")], then=note).done.wait()
        assert seen == [0]
        assert len(hand.given) == 1


async def test_ids_go_up_whatever_the_clock_does(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, _):
        first = engine.new_id()
        many = engine.new_ids(1_000)
        assert first < many[0]
        assert engine.new_id() > many[-1]


async def test_a_slot_that_an_end_frees_is_taken_at_once(
        tmp_path: Path, clock: MockClock) -> None:
    """Also where the end begins nothing new in its run, as inside a map: nobody else comes by."""
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        body = msgspec.json.decode(
            b'{"name": "m", "steps": [{"id": "each", "type": "map", "items": 3, "body": ['
            b'{"id": "one", "task": {"name": "t"}}]}]}', type=WorkflowBody)
        number, run_id = engine.new_id(), engine.new_id()
        await engine.write(lambda tx: definitions.create(tx, definitions.WORKFLOWS, number, body))
        hand = Hand(engine)
        engine.outbox.register("w", hand)
        await engine.call(worker(1))
        await engine.call(BeginRun(engine.planner.plan(run_id, number, None)))
        for count in (1, 2, 3):
            assert len(hand.given) == count
            one = hand.given[-1]
            await engine.call(Finish(one.task_id, one.attempt, "w", Ending.SUCCEEDED))
        run = store.peek(flows.get, run_id)
        assert run is not None
        assert run.state == TaskState.SUCCEEDED


async def test_a_run_with_much_left_to_decide_goes_on_after_a_restart(
        tmp_path: Path, clock: MockClock) -> None:
    """No task of it is on its way and no timer is set, so nothing else would wake it."""
    assert clock.autojump_threshold == 0
    body = msgspec.json.decode(
        b'{"name": "m", "steps": [{"id": "each", "type": "map", "items": 3000, "body": ['
        b'{"id": "one", "type": "parallel"}]}]}', type=WorkflowBody)
    async with running(tmp_path) as (engine, _):
        number, run_id = engine.new_id(), engine.new_id()
        await engine.write(lambda tx: definitions.create(tx, definitions.WORKFLOWS, number, body))
        await engine.call(BeginRun(engine.planner.plan(run_id, number, None)))
    async with running(tmp_path) as (engine, store):
        row = store.peek(flows.get, run_id)
        assert row is not None
        assert row.state == TaskState.RUNNING, "it was over before the restart"
        with trio.fail_after(60):
            await engine.watch(run_id).wait()
        row = store.peek(flows.get, run_id)
        assert row is not None
        assert row.state == TaskState.SUCCEEDED


async def test_short_runs_with_a_long_timeout_leave_no_pile_of_timers(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    monkeypatch.setattr(runs, "TIMERS_SWEPT", 10)
    body = msgspec.json.decode(
        b'{"name": "m", "timeoutSec": 3600, "steps": [{"id": "one", "type": "parallel"}]}',
        type=WorkflowBody)
    waits = msgspec.json.decode(
        b'{"name": "w", "timeoutSec": 60, "steps": [{"id": "one", "type": "wait", '
        b'"seconds": 3000}]}', type=WorkflowBody)
    async with running(tmp_path) as (engine, store):
        number, other, slow = engine.new_id(), engine.new_id(), engine.new_id()
        await engine.write(lambda tx: definitions.create(tx, definitions.WORKFLOWS, number, body))
        await engine.write(lambda tx: definitions.create(tx, definitions.WORKFLOWS, other, waits))
        await engine.call(BeginRun(engine.planner.plan(slow, other, None)))
        for _ in range(100):
            await engine.call(BeginRun(engine.planner.plan(engine.new_id(), number, None)))
        assert len(engine.runs.live) == 1
        assert len(engine.runs._timers) <= 14
        await engine.watch(slow).wait()
        row = store.peek(flows.get, slow)
        assert row is not None
        assert row.state == TaskState.TIMEOUT, "the timers of those that go on are kept"
