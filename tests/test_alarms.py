"""Alarms over a real database in virtual time: once raised, once cleared, through everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from plumd.alarms import Alarms
from plumd.devices import Devices
from plumd.errors import NotFound, OutcomeUnknown, StorageDown, VersionMismatch
from plumd.store import alarms, devices
from plumd.store.alarms import FOR_EVER
from plumd.store.devices import Device
from plumd.thresholds import Rule
from tests.fabric_rig import Disk
from tests.sim.disk import FaultyStore
from tests.test_engine import running

HOT = Rule("hot", "temp", ">", 80, 5.0, 0.0)
LONG = Rule("long", "temp", ">", 80, 0.0, 10.0, type="oven")


class Plant:
    """Devices and their alarms."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.devices = Devices(disk.store, disk.clock, disk.write)
        self.devices.load()
        self.alarms = Alarms(disk.store, disk.clock, disk.write, disk.new_id, self.devices)
        self.alarms.load()

    async def device(self, name: str, kind: str = "oven") -> None:
        await self.devices.register(Device(name, "n", kind, "", True, 5_000))

    async def watched(self) -> int:
        """A device `a`, and HOT about it: the rule's number."""
        rule = self.disk.new_id()
        await self.device("a")
        await self.alarms.put_rule(rule, HOT)
        return rule

    async def report(self, name: str, value: object) -> None:
        """And what follows from it."""
        await self.devices.report(self.devices.find(name), {"temp": str(value)}, None)
        await trio.sleep(0.01)

    def told(self) -> list[str]:
        """What happened to alarms since the last look."""
        found = [f"{event[2]} {event[3]}" for event in self.disk.events if event[0] == "alarm"]
        self.disk.events.clear()
        return found

    def active(self) -> list[tuple[str, str]]:
        """(rule, device) of those that are active, as they are on disk."""
        return [(one.name, one.device) for one in self.disk.store.peek(
            alarms.page, "", True, FOR_EVER, 100)]


@asynccontextmanager
async def plant(path: Path, clock: MockClock) -> AsyncIterator[Plant]:
    disk = Disk(path, clock)
    made = Plant(disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.alarms.run)
        yield made
        nursery.cancel_scope.cancel()
    disk.store.close()


async def test_raised_once_and_cleared_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one:
        await one.device("a")
        await one.alarms.put_rule(one.disk.new_id(), HOT)
        for value in (80, 81, 99, 77, 82, "rubbish", 75.5):
            await one.report("a", value)
        assert one.told() == ["raised a"]
        assert one.active() == [("hot", "a")]
        commits = one.disk.commits
        await one.report("a", 85)
        assert one.disk.commits == commits + 1, "the report alone is written"
        await one.report("a", 75)
        assert one.told() == ["cleared a"]
        assert one.active() == []
        await one.report("a", 81)
        assert one.told() == ["raised a"]


async def test_a_condition_must_hold_for_its_time_without_a_further_report(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one:
        await one.device("a")
        await one.device("other", "fridge")
        await one.alarms.put_rule(one.disk.new_id(), LONG)
        await one.report("other", 99)
        await one.report("a", 99)
        await trio.sleep(9)
        await one.report("a", 70)
        await trio.sleep(30)
        assert one.told() == [], "it did not hold long enough; the fridge is not meant"
        await one.report("a", 99)
        await trio.sleep(9.5)
        assert one.told() == []
        await trio.sleep(1)
        assert one.told() == ["raised a"]


async def test_a_restart_keeps_what_is_active_and_finds_what_was_not_written(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one:
        await one.device("a")
        await one.device("b")
        await one.alarms.put_rule(one.disk.new_id(), HOT)
        await one.report("a", 99)
        one.told()
        one.alarms.see = lambda *_: None  # type: ignore[method-assign]  # the daemon dies before
        one.devices.reported = one.alarms.see
        await one.report("b", 99)
        again = Plant(one.disk)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.alarms.run)
            await trio.sleep(1)
            assert sorted(again.active()) == [("hot", "a"), ("hot", "b")]
            assert one.told() == ["raised b"]
            await again.report("a", 20)
            assert again.active() == [("hot", "b")]
            nursery.cancel_scope.cancel()


async def test_while_the_disk_is_down_nothing_is_lost_or_doubled(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one:
        await one.device("a")
        await one.alarms.put_rule(one.disk.new_id(), LONG)
        await one.report("a", 99)
        one.disk.down = True
        await trio.sleep(15)
        assert one.active() == []
        one.disk.down = False
        await trio.sleep(3)
        assert one.active() == [("long", "a")]
        assert one.told() == ["raised a"]
        await one.report("a", 20)
        assert one.told() == ["cleared a"]


async def test_rules_and_devices_that_go_take_their_alarms(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one:
        await one.device("a")
        await one.device("b")
        rule = one.disk.new_id()
        await one.alarms.put_rule(rule, HOT)
        await one.report("a", 99)
        await one.report("b", 99)
        await one.devices.remove("b")
        await trio.sleep(0.1)
        assert one.active() == [("hot", "a")]
        await one.alarms.delete_rule(rule)
        assert one.active() == []
        await one.report("a", 100)
        assert one.active() == []
        assert one.alarms.statistics() == {"info": 0, "warning": 0, "critical": 0}


async def test_a_new_rule_looks_at_what_is_there(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one:
        await one.device("a")
        await one.report("a", 99)
        rule = one.disk.new_id()
        await one.alarms.put_rule(rule, HOT)
        await trio.sleep(0.1)
        assert one.active() == [("hot", "a")]
        await one.alarms.put_rule(rule, Rule("hot", "temp", ">", 100))
        await trio.sleep(0.1)
        assert one.active() == [], "the newest value clears it by the rule as it is now"


async def test_a_value_that_flaps_while_the_disk_is_slow_is_written_as_it_was(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one:
        await one.device("a")
        await one.alarms.put_rule(one.disk.new_id(), HOT)
        live = one.devices.find("a")
        for value in ("99", "20", "99", "20", "99"):
            one.alarms.see(live, {"temp": value})
        await trio.sleep(0.1)
        assert one.told() == ["raised a", "cleared a", "raised a", "cleared a", "raised a"]
        assert one.active() == [("hot", "a")]
        await one.report("a", 20)
        assert one.active() == []


async def test_a_rule_that_goes_takes_the_alarm_that_is_being_written(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one:
        rule = await one.watched()
        one.disk.slow_s = 1
        one.alarms.see(one.devices.find("a"), {"temp": "99"})
        await trio.sleep(0.5)
        await one.alarms.delete_rule(rule)
        await trio.sleep(5)
        assert one.active() == []
        assert one.alarms.active == {}


async def test_a_rule_that_goes_is_not_brought_back_by_a_change(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one, trio.open_nursery() as nursery:
        rule = one.disk.new_id()
        await one.alarms.put_rule(rule, HOT)
        one.disk.slow_s = 1
        nursery.start_soon(one.alarms.delete_rule, rule)
        await trio.sleep(0.5)
        with pytest.raises(NotFound):
            await one.alarms.put_rule(rule, LONG, known=True)
        assert one.alarms.rules == {}
        assert one.disk.store.peek(alarms.rules) == []


async def test_a_rule_that_is_changed_forgets_what_it_was_about_to_raise(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one:
        rule = await one.watched()
        await one.report("a", 20)
        one.disk.down = True
        one.alarms.see(one.devices.find("a"), {"temp": "99"})
        await trio.sleep(0.5)
        one.disk.down = False
        await one.alarms.put_rule(rule, Rule("hot", "temp", ">", 100))
        await trio.sleep(5)
        await one.report("a", 20)
        assert one.active() == []
        await one.report("a", 101)
        assert one.active() == [("hot", "a")]
        await one.report("a", 20)
        assert one.active() == []


async def test_a_device_that_goes_takes_its_alarm_though_the_rule_is_changed_at_once(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one:
        rule = await one.watched()
        await one.report("a", 99)
        await one.devices.remove("a")
        await one.alarms.put_rule(rule, Rule("hot", "temp", ">", 50))
        await trio.sleep(0.1)
        assert one.active() == []


async def test_an_alarm_of_a_device_that_went_when_the_daemon_died_is_over(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one:
        await one.device("a")
        await one.alarms.put_rule(one.disk.new_id(), HOT)
        await one.report("a", 99)
        one.told()
        one.devices.forgotten = lambda _live: None      # the daemon dies before
        await one.devices.remove("a")
        again = Plant(one.disk)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.alarms.run)
            await trio.sleep(1)
            assert again.active() == []
            assert one.told() == ["cleared a"]
            nursery.cancel_scope.cancel()


async def test_what_is_over_is_pruned_behind_what_is_active(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with plant(tmp_path, autojump_clock) as one:
        await one.alarms.put_rule(one.disk.new_id(), HOT)
        for name in ("a", "b", "c"):
            await one.device(name)
            await one.report(name, 99)
        await one.report("c", 20)
        assert await one.disk.write(lambda tx: alarms.prune(tx, FOR_EVER, 2)) == 1
        assert one.active() == [("hot", "b"), ("hot", "a")]


@asynccontextmanager
async def over_an_engine(path: Path, clock: MockClock) -> AsyncIterator[
        tuple[FaultyStore, Devices, Alarms]]:
    """A device `a`, HOT about it, and the engine itself behind them."""
    assert clock.autojump_threshold == 0
    async with running(path) as (engine, store), trio.open_nursery() as nursery:
        registry = Devices(store, engine.clock, engine.write)
        room = Alarms(store, engine.clock, engine.write, engine.new_id, registry)
        nursery.start_soon(room.run)
        await registry.register(Device("a", "n", "oven", "", True, 5_000))
        await room.put_rule(1, HOT)
        yield store, registry, room
        nursery.cancel_scope.cancel()


async def test_reports_of_one_commit_count_in_the_order_in_which_they_are_written(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with over_an_engine(tmp_path, autojump_clock) as (store, registry, room):
        live = registry.find("a")
        for _ in range(40):
            commits = store.commits
            async with trio.open_nursery() as both:
                both.start_soon(registry.report, live, {"temp": "99"}, None)
                both.start_soon(registry.report, live, {"temp": "20"}, None)
            assert store.commits == commits + 1
            await trio.sleep(1)
            last = store.peek(devices.latest, live.row.number)["temp"].value
            assert set(room.active) == ({(1, "a")} if last == "99" else set())


async def test_a_report_whose_end_nobody_knows_raises_what_it_would(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is on disk, but for its device it failed, and it may be the last one for a while."""
    async with over_an_engine(tmp_path, autojump_clock) as (store, registry, room):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registry.run)
            store.fault = "error_after"
            with pytest.raises(OutcomeUnknown):
                await registry.report(registry.find("a"), {"temp": "99"}, None)
            await trio.sleep(60)
            assert set(room.active) == {(1, "a")}
            store.fault = "error_before"
            with pytest.raises(StorageDown):
                await registry.report(registry.find("a"), {"temp": "20"}, None)
            await trio.sleep(60)
            assert set(room.active) == {(1, "a")}, "that one is not on disk"
            nursery.cancel_scope.cancel()


async def test_a_rule_whose_commits_end_nobody_knows_holds_as_it_is_on_disk(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with over_an_engine(tmp_path, autojump_clock) as (store, registry, room):
        await registry.report(registry.find("a"), {"temp": "70"}, None)
        warm = Rule("warm", "temp", ">", 60)
        store.fault = "error_after"
        with pytest.raises(OutcomeUnknown):
            await room.put_rule(1, warm)
        assert (room.rules, room.versions) == ({1: warm}, {1: 2})
        await trio.sleep(60)
        assert set(room.active) == {(1, "a")}
        store.fault = "error_before"
        with pytest.raises(StorageDown):
            await room.put_rule(1, HOT)
        assert (room.rules, room.versions) == ({1: warm}, {1: 2})
        await trio.sleep(60)
        with pytest.raises(VersionMismatch):
            await room.delete_rule(1, if_version=1)
        store.fault = "error_after"
        with pytest.raises(OutcomeUnknown):
            await room.delete_rule(1, if_version=2)
        assert (room.rules, room.versions, room.active) == ({}, {}, {})


async def test_a_report_whose_sender_hangs_up_raises_what_it_would(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with over_an_engine(tmp_path, autojump_clock) as (_, registry, room):
        with trio.CancelScope() as scope:
            scope.cancel()
            await registry.report(registry.find("a"), {"temp": "99"}, None)
        await trio.sleep(1)
        assert set(room.active) == {(1, "a")}
