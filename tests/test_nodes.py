"""The nodes' room: who is there, who is lost when, who owns a name, and what a restart keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from plumd.errors import NodeTaken, NotFound, StorageDown, WrongState
from plumd.nodes import OFFLINE_TTLS, Beat, Nodes
from plumd.placement import NODE_DRAINED, NODE_LOST
from plumd.store.nodes import Facts
from plumd.store.store import Tx
from tests.fabric_rig import TTL_S, Disk, beat, keep_beating, nodes_of

T = TypeVar("T")


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Virtual time: a test that takes it takes no time."""
    return autojump_clock


async def until_health(nodes: Nodes, name: str, health: str) -> float:
    """Wait for it; how long it took."""
    begun = trio.current_time()
    with trio.fail_after(1_000):
        while nodes.get(name).health != health:     # noqa: ASYNC110 - time is virtual here
            await trio.sleep(0.05)
    return trio.current_time() - begun


async def test_beats_write_once_and_silence_is_a_loss(tmp_path: Path, clock: MockClock) -> None:
    disk = Disk(tmp_path, clock)
    nodes = nodes_of(disk)
    news: list[str] = []
    nodes.changed = news.append
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nodes.run)
        with trio.move_on_after(100):
            await keep_beating(nodes, "a")
        assert disk.commits == 1
        assert disk.told("node") == [("a", "registered")]
        assert nodes.get("a").health == "Healthy"
        await beat(nodes, "a")
        took = await until_health(nodes, "a", "Unhealthy")
        assert TTL_S <= took <= TTL_S + 0.1
        assert news == ["a", "a"]
        assert disk.told("node") == [("a", "unhealthy")]
        assert nodes.for_placement()[0].why_not == NODE_LOST
        took = await until_health(nodes, "a", "Offline")
        assert took == pytest.approx(OFFLINE_TTLS * TTL_S, abs=1)
        await beat(nodes, "a")
        assert nodes.get("a").health == "Healthy"
        assert nodes.for_placement()[0].shaky, "it is the last choice for a while"
        await until_health(nodes, "a", "Unhealthy")
        nursery.cancel_scope.cancel()
    assert disk.told("node") == [("a", "offline"), ("a", "healthy"), ("a", "unhealthy")]


async def test_a_restart_grants_one_ttl(tmp_path: Path, clock: MockClock) -> None:
    disk = Disk(tmp_path, clock)
    before = nodes_of(disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(before.run)
        await beat(before, "lost")
        await until_health(before, "lost", "Unhealthy")
        await beat(before, "well")
        nursery.cancel_scope.cancel()
    await trio.sleep(1000)
    nodes = nodes_of(disk)
    assert nodes.get("lost").health == "Offline", "it has been silent for long"
    assert nodes.get("well").health == "Healthy"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nodes.run)
        assert TTL_S <= await until_health(nodes, "well", "Unhealthy") <= TTL_S + 0.1
        assert (await nodes.alive("well")) is not None
        assert nodes.get("well").health == "Healthy", "any word brings it back"
        nursery.cancel_scope.cancel()


async def test_the_daemon_was_away(tmp_path: Path, clock: MockClock) -> None:
    """When nobody looked for an hour, silence says nothing."""
    disk = Disk(tmp_path, clock)
    nodes = nodes_of(disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nodes.run)
        await beat(nodes, "a")
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(3600)
        await trio.testing.wait_all_tasks_blocked()
        assert nodes.get("a").health == "Healthy"
        assert await until_health(nodes, "a", "Unhealthy") <= TTL_S + 0.1
        nursery.cancel_scope.cancel()


async def test_one_that_is_heard_of_at_the_last_moment_is_watched_on(
        tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time was over; while another node's row was being written it said a word."""
    disk = Disk(tmp_path, clock)
    nodes = nodes_of(disk)
    write = nodes._write
    slow = trio.Event()

    async def slowly(fn: Callable[[Tx], T]) -> T:
        await slow.wait()
        return await write(fn)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(nodes.run)
        await beat(nodes, "a")
        await trio.sleep(TTL_S - 0.5)
        monkeypatch.setattr(nodes, "_write", slowly)
        nursery.start_soon(beat, nodes, "b")            # holds the door
        await trio.sleep(1)
        assert await nodes.alive("a") is not None
        slow.set()
        await trio.testing.wait_all_tasks_blocked()
        assert nodes.get("a").health == "Healthy"
        assert await until_health(nodes, "a", "Unhealthy") <= TTL_S + 0.1
        nursery.cancel_scope.cancel()


async def test_a_node_that_comes_and_goes_is_one_entry(tmp_path: Path, clock: MockClock) -> None:
    disk = Disk(tmp_path, clock)
    nodes = nodes_of(disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nodes.run)
        for _ in range(50):
            await beat(nodes, "a")
            await until_health(nodes, "a", "Unhealthy")
        with trio.move_on_after((OFFLINE_TTLS + 1) * TTL_S):
            await keep_beating(nodes, "a")
        assert nodes.get("a").health == "Healthy"
        assert len(nodes._due) == 1
        nursery.cancel_scope.cancel()


async def test_the_disk_is_down_when_a_node_is_lost(tmp_path: Path, clock: MockClock) -> None:
    disk = Disk(tmp_path, clock)
    nodes = nodes_of(disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nodes.run)
        await beat(nodes, "a")
        disk.down = True
        await beat(nodes, "a", labels={})          # says nothing new, so it needs no disk
        with pytest.raises(StorageDown):
            await beat(nodes, "b")
        with pytest.raises(NotFound):
            nodes.get("b")
        await trio.sleep(60)
        assert nodes.get("a").health == "Healthy", "what is not written is not so"
        disk.down = False
        assert await until_health(nodes, "a", "Unhealthy") <= 2
        nursery.cancel_scope.cancel()


async def test_the_first_key_owns_the_name(tmp_path: Path, clock: MockClock) -> None:
    disk = Disk(tmp_path, clock)
    nodes = nodes_of(disk)
    await beat(nodes, "a")
    await beat(nodes, "a", key="one")
    for key in ("two", ""):
        with pytest.raises(NodeTaken):
            await beat(nodes, "a", key=key)
    assert [event[:3] for event in disk.events if event[0] == "alert"] == [
        ("alert", "node_taken", "a")], "once a minute"
    with pytest.raises(NodeTaken):
        await beat(nodes_of(disk), "a", key="two")
    await nodes.remove("a")
    await beat(nodes, "a", key="two")
    assert nodes.get("a").health == "Healthy"


async def test_of_two_with_the_same_key_the_later_one_is_the_node(tmp_path: Path,
                                                                  clock: MockClock) -> None:
    """A machine that was copied has the key of the other; one that starts anew is no copy."""
    disk = Disk(tmp_path, clock)
    nodes = nodes_of(disk)
    for run in ("1", "1", "2", "2", ""):
        await nodes.beat(Beat("a", "10.0.0.1", key="one", run=run), "10.0.0.1")
    disk.events.clear()
    for _ in range(2):
        with pytest.raises(NodeTaken, match="copy"):
            await nodes.beat(Beat("a", "10.0.0.2", key="one", run="1"), "10.0.0.2")
    assert [event[:3] for event in disk.events] == [("alert", "node_taken", "a")], "once a minute"
    assert nodes.get("a").row.ip == "10.0.0.1"
    await nodes.beat(Beat("a", "10.0.0.1", key="one", run="2"), "10.0.0.1")
    await trio.sleep(TTL_S + 1)         # that one is away, so the other may be what is left
    for run in ("1", "1"):
        await nodes.beat(Beat("a", "10.0.0.2", key="one", run=run), "10.0.0.2")
    with pytest.raises(NodeTaken):
        await nodes.beat(Beat("a", "10.0.0.1", key="one", run="2"), "10.0.0.1")


async def test_drain_labels_bounds_and_removal(tmp_path: Path, clock: MockClock) -> None:
    disk = Disk(tmp_path, clock)
    nodes = nodes_of(disk)
    drained: list[tuple[str, bool]] = []
    nodes.drain_worker = lambda name, on: drained.append((name, on))
    await beat(nodes, "a", labels={"rack": "1", "os": "x"}, facts=Facts(cpus=2, mem_total=100))
    seen = await nodes.drain("a", on=True)
    assert (seen.health, drained) == ("Draining", [("a", True)])
    assert nodes.for_placement()[0].why_not == NODE_DRAINED
    await nodes.configure("a", {"rack": "2"}, 3)
    await beat(nodes, "a", labels={"rack": "1", "os": "x"}, facts=Facts(cpus=2, mem_total=100))
    place = nodes_of(disk).for_placement()[0]
    assert (place.labels, place.instances_max) == ({"rack": "2", "os": "x"}, 3)
    assert (place.cpu_percent, place.memory_bytes, place.why_not) == (200, 100, NODE_DRAINED)
    assert (await nodes.drain("a", on=False)).health == "Healthy"
    nodes.users = lambda _name: 2
    with pytest.raises(WrongState, match="2 instances"):
        await nodes.remove("a")
    nodes.users = lambda _name: 0
    await nodes.remove("a")
    assert drained[1:] == [("a", False), ("a", False)], "its name is another machine's now"
    for name in ("a", "b"):
        with pytest.raises(NotFound):
            await nodes.remove(name)
        with pytest.raises(NotFound):
            await nodes.drain(name, on=True)
    assert await nodes.alive("a") is None
    assert nodes_of(disk).every() == []


async def test_bells_ring_for_one_and_for_all(tmp_path: Path, clock: MockClock) -> None:
    disk = Disk(tmp_path, clock)
    nodes = nodes_of(disk)
    with nodes.watch("a") as bell, nodes.watch("") as every, nodes.watch("b") as other:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bell.wait_beyond, 0)
            nursery.start_soon(every.wait_beyond, 0)
            await trio.testing.wait_all_tasks_blocked()
            nodes.ring("a")
        assert (bell.count, every.count, other.count) == (1, 1, 0)
    nodes.ring("a")
    with nodes.watch("a") as bell:
        assert bell.count == 0
