"""A round of pruning takes what is old of devices and deleted keys, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from plumd import retention
from plumd.clock import Instant
from plumd.engine import Engine
from plumd.executors.hour_logs import HOUR_MS, HourLogs
from plumd.executors.os_process import OsProcess
from plumd.model import Limits, Submit
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.retention import DAY_MS, GONE_KEY_MS, Keep, Retention
from plumd.store import devices, kv
from plumd.store.blobs import Blobs
from plumd.store.definitions import Catalog
from plumd.store.devices import FOR_EVER, Device, Registered
from plumd.store.kv import Write
from plumd.store.store import Store

KEEP = Keep(30 * DAY_MS, 365 * DAY_MS, 10_000_000)


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
