"""A round of pruning takes what is old of devices and deleted keys, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import msgspec
import pytest
import trio

from plumd import retention
from plumd.clock import Instant
from plumd.engine import Engine
from plumd.errors import Overloaded
from plumd.executors.hour_logs import HOUR_MS, HourLogs
from plumd.executors.os_process import OsProcess
from plumd.model import Cancel, Limits, Submit
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.retention import DAY_MS, GONE_KEY_MS, Keep, Retention
from plumd.store import devices, flows, kv, tasks, webhooks
from plumd.store.blobs import Blobs
from plumd.store.definitions import Catalog
from plumd.store.devices import FOR_EVER, Device, Registered
from plumd.store.kv import Write
from plumd.store.store import Store, Tx
from plumd.store.webhooks import DeliveryState, Note, Tried, WebhookBody

KEEP = Keep(30 * DAY_MS, 365 * DAY_MS, 10_000_000, 10_000_000)


class Hands:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_ms = 100 * DAY_MS

    def now(self) -> Instant:
        return Instant(self.now_ms * 1_000_000, self.now_ms * 1_000_000)


class House:
    """What a round needs."""

    def __init__(self, path: Path) -> None:
        self.clock = Hands()
        self.store = Store(path / "plum.db", log_bytes=0)
        self.engine = Engine(self.store, self.clock, Outbox(self.store),
                             Planner(Catalog(self.store)), Limits(), seed=1)
        self.logs = HourLogs(path / "logs", 1 << 30)
        self.retention = Retention(self.engine, Blobs(path / "blobs"), OsProcess(
            path, controller_base="http://127.0.0.1:1", kept=self.logs), KEEP)

    async def device(self, name: str) -> Registered:
        await self.engine.write(lambda tx: devices.register(
            tx, Device(name, "", "", "", True, 5_000)))
        row = self.store.peek(devices.get, name)
        assert row is not None
        return row

    async def report(self, row: Registered, times: int) -> None:
        for _ in range(times):
            await self.engine.write(lambda tx: devices.report(
                tx, row, {"a": "1"}, 0, told=False))

    async def ended(self, task_id: int = 0) -> int:
        """A task that is over, a new one if no id is given."""
        number = task_id or self.engine.new_id()
        if not task_id:
            await self.engine.call(Submit(number, "t"))
        await self.engine.call(Cancel(number))
        return number

    def rows(self, table: str = "tasks") -> list[int]:
        """The ids of a table."""
        return [row[0] for row in self.store.db.execute(f"SELECT id FROM {table} ORDER BY id")]

    async def a_run(self, tasks: int, *, over: bool) -> int:
        """A run with so many tasks that are over."""
        run_id = self.engine.new_id()

        def insert(tx: Tx) -> None:
            tx.db.execute("INSERT INTO workflow_runs (id, workflow_id, version, state, pins, "
                          "created_ms, finished_ms, cancel_ms) VALUES (?,1,1,?,'[]',?,?,0)",
                          (run_id, 4 if over else 2, self.clock.now_ms,
                           self.clock.now_ms if over else 0))
            for _ in range(tasks):
                tx.db.execute(
                    "INSERT INTO tasks (id, name, kind, target_kind, target_ref, def_id, "
                    "def_version, priority, timeout_ms, queue_timeout_ms, max_retries, on_lost, "
                    "run_id, step, origin_id, scheduled_ms, has_input, created_ms, state, attempt, "
                    "failures, lost, due_ms, started_ms, finished_ms, cancel_ms) VALUES "
                    "(?,'t',0,'','',0,0,5,0,0,0,0,?,0,0,0,0,?,4,1,0,0,0,0,?,0)",
                    (self.engine.new_id(), run_id, self.clock.now_ms, self.clock.now_ms))

        await self.engine.write(insert)
        return run_id

    def kept(self, row: Registered) -> int:
        return len(self.store.peek(devices.history, row.number, FOR_EVER, 10_000))


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[House]:
    """A house whose engine runs."""
    house = House(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.engine.run)
        yield house
        nursery.cancel_scope.cancel()
    house.store.close()


async def test_deliveries_go_with_the_events_that_they_tell(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLICE_ROWS", 3)
    async with opened(tmp_path) as house:
        def write(tx: Tx) -> None:
            webhooks.create(tx, 5, WebhookBody("w", "http://127.0.0.1:9/", ("kv",)), "s")
            webhooks.note(tx, [Note(5, seq, "kv", b"{}") for seq in range(1, 21)])
            for seq in range(2, 21):
                webhooks.tried(tx, Tried(5, seq, DeliveryState.DELIVERED, 1, 0, 204, ""))
                tx.emit("kv", "n", "set", "key", seq, tx.now_ms)

        await house.engine.write(write)
        house.retention.keep = msgspec.structs.replace(KEEP, events_max=10)
        first = house.engine.journal.next_seq - 10
        await house.retention.round()
        assert [row.seq for row in house.store.peek(webhooks.deliveries, 5, None, 0, 100)] == [
            *range(20, first - 1, -1), 1], "what waits stays"


async def test_tasks_are_kept_from_their_end_on(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLICE_ROWS", 3)
    monkeypatch.setattr(retention, "LOOK_ROWS", 4)      # several slices of several looks
    async with opened(tmp_path) as house:
        long = [house.engine.new_id() for _ in range(6)]
        for task_id in long:
            await house.engine.call(Submit(task_id, "t", auto_start=False))
        short = [await house.ended() for _ in range(9)]
        house.clock.now_ms += 29 * DAY_MS
        await house.retention.round()
        assert house.rows() == sorted(long + short)
        house.clock.now_ms += 2 * DAY_MS
        for task_id in long[1:]:
            await house.ended(task_id)          # created 31 days ago, over now
        await house.retention.round()
        assert house.rows() == long
        house.clock.now_ms += 31 * DAY_MS
        await house.retention.round()
        assert house.rows() == long[:1], "what is not over stays"


async def test_runs_go_with_their_tasks_slice_by_slice(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLICE_ROWS", 10)
    slices: list[int] = []
    delete = tasks.delete

    def counted(db: apsw.Connection, task_id: int) -> bool:
        slices[-1] += 1
        return delete(db, task_id)

    monkeypatch.setattr(tasks, "delete", counted)
    async with opened(tmp_path) as house:
        await house.a_run(35, over=True)
        going = await house.a_run(2, over=False)
        for _ in range(12):
            await house.a_run(2, over=True)
        prune = flows.prune

        def sliced(db: apsw.Connection, before_ms: int, count: int) -> int:
            slices.append(0)
            return prune(db, before_ms, count)

        monkeypatch.setattr(flows, "prune", sliced)
        house.clock.now_ms += 364 * DAY_MS
        await house.retention.round()
        assert len(house.rows("workflow_runs")) == 14
        house.clock.now_ms += 2 * DAY_MS
        await house.retention.round()
        assert house.rows("workflow_runs") == [going]
        assert len(house.rows()) == 2
        assert max(slices) <= 10, "no slice is large because a run is"


async def test_of_too_many_finished_tasks_the_oldest_go(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLICE_ROWS", 4)
    async with opened(tmp_path) as house:
        house.retention.keep = msgspec.structs.replace(KEEP, tasks_max=20)
        waits = house.engine.new_id()
        await house.engine.call(Submit(waits, "t"))
        going = await house.a_run(2, over=False)
        await house.a_run(11, over=True)
        alone = [await house.ended() for _ in range(15)]
        await house.retention.round()
        assert house.rows("workflow_runs") == [going], "a run goes whole"
        assert [one for one in alone if one in house.rows()] == alone
        alone += [await house.ended() for _ in range(9)]
        await house.retention.round()
        assert [one for one in alone if one in house.rows()] == alone[-18:]
        assert waits in house.rows()
        assert len(house.rows()) == 1 + 20


async def test_pruning_goes_on_while_there_is_too_much_to_do(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLICE_ROWS", 2)
    async with opened(tmp_path) as house:
        for _ in range(9):
            await house.ended()
        house.clock.now_ms += 31 * DAY_MS
        write, asked = house.engine.write, 0

        async def full(fn: Callable[[Tx], object]) -> object:
            nonlocal asked
            asked += 1
            if asked % 3:
                raise Overloaded("too many requests are waiting", retry_after_s=0.001)
            return await write(fn)

        monkeypatch.setattr(house.engine, "write", full)
        await house.retention.round()
        assert house.rows() == []
        assert asked > 20


async def test_reports_go_by_age_and_with_their_device(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLICE_ROWS", 3)     # several slices
    async with opened(tmp_path) as house:
        old, removed = await house.device("old"), await house.device("removed")
        await house.report(old, 7)
        await house.report(removed, 7)
        house.clock.now_ms += 20 * DAY_MS
        await house.report(old, 2)
        await house.engine.write(lambda tx: devices.remove(tx, "removed"))
        await house.retention.round()
        assert (house.kept(old), house.kept(removed)) == (9, 0)
        house.clock.now_ms += 11 * DAY_MS
        await house.retention.round()
        assert house.kept(old) == 2
        assert house.store.peek(devices.latest, old.number)["a"].value == "1", "the newest stays"


async def test_marks_of_deleted_keys_go_and_keys_stay(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await house.engine.write(lambda tx: kv.write(tx, "n", [
            Write("gone", "1"), Write("gone", None), Write("stays", "1")]))
        house.clock.now_ms += GONE_KEY_MS
        await house.retention.round()
        assert house.store.db.execute("SELECT count(*) FROM kv_gone").fetchall() == [(1,)]
        house.clock.now_ms += 1
        await house.retention.round()
        assert house.store.db.execute("SELECT count(*) FROM kv_gone").fetchall() == [(0,)]
        assert house.store.peek(kv.keys, "n", "", 0) == ["stays"]
        versions = await house.engine.write(lambda tx: kv.write(tx, "n", [
            Write("gone", "2"), Write("stays", "2")]))
        assert versions == [3, 2]


async def test_keys_that_come_and_go_leave_no_more_marks_than_a_bound(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLICE_ROWS", 3)
    monkeypatch.setattr(retention, "GONE_KEYS_MAX", 4)
    async with opened(tmp_path) as house:
        for number in range(12):
            name = str(number)
            await house.engine.write(lambda tx, name=name: kv.write(  # type: ignore[misc]
                tx, "n", [Write(name, "1"), Write(name, None)]))
            house.clock.now_ms += 1
        await house.retention.round()
        assert house.store.peek(kv.gone_count) == 4
        versions = await house.engine.write(lambda tx: kv.write(tx, "n", [
            Write("11", "2"), Write("0", "2")]))
        assert versions == [3, 3], "one by its mark, one by what was forgotten"


async def test_logs_go_with_the_last_task_of_their_hour(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        known, gone = house.engine.new_id(), house.engine.new_id()
        await house.engine.call(Submit(known, "t"))
        begun_ms = house.clock.now_ms
        for hour, ids in enumerate(([known, gone], [gone, gone + 1], [gone + 2])):
            house.logs.put([((each, 1), tmp_path / "silent") for each in ids],
                           begun_ms + hour * HOUR_MS)
        await house.retention.round()
        assert house.logs.has((gone + 1, 1)), "it is young"
        house.clock.now_ms += 31 * DAY_MS
        await house.retention.round()
        assert [house.logs.has((each, 1)) for each in (known, gone, gone + 1, gone + 2)] == [
            True, True, False, True], "one is known, one of the last hour"
