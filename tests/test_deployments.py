"""Deployments with agents acted out: placement, failover, fences, rollouts, crashes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from plumd import rollout
from plumd.balance import Endpoint
from plumd.errors import NotFound, PlumError, VersionMismatch, WrongState
from plumd.fleet import Phase, Update, lease_ms
from plumd.model import id_text
from plumd.store import deployments, nodes
from tests.fabric_rig import TTL_S
from tests.fleet_rig import body, fleet_of


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Virtual time: a test that takes it takes no time."""
    return autojump_clock


async def test_life_of_a_deployment(tmp_path: Path, clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1", "n2", "n3") as fleet:
        url = await fleet.app("app", "1")
        number = await fleet.room.ask(lambda: fleet.room.create(body(url, 3)))
        assert [copy.node_id for copy in fleet.copies(number)] == ["", "", ""]
        await fleet.room.ask(lambda: fleet.room.start(number))
        assert await fleet.until(lambda: len(fleet.where(number)) == 3) < 1
        assert fleet.where(number) == ["n1", "n2", "n3"], "spread"
        before = {copy.number for copy in fleet.copies(number)}
        await fleet.edit(number, body(url, 5))
        await fleet.until(lambda: len(fleet.where(number)) == 5)
        assert before < {copy.number for copy in fleet.copies(number)}
        await fleet.edit(number, body(url, 2))
        await fleet.until(lambda: len(fleet.copies(number)) == 2)
        assert {copy.number for copy in fleet.copies(number)} < before, "names are kept"
        assert sum(len(agent.running) for agent in fleet.agents.values()) == 2
        await fleet.room.ask(lambda: fleet.room.stop(number))
        await fleet.until(lambda: not any(agent.running for agent in fleet.agents.values()))
        kept = {copy.number for copy in fleet.copies(number)}
        await fleet.room.ask(lambda: fleet.room.start(number))
        await fleet.until(lambda: len(fleet.where(number)) == 2)
        assert {copy.number for copy in fleet.copies(number)} == kept
        await fleet.room.ask(lambda: fleet.room.delete(number))
        await fleet.until(lambda: not any(agent.running for agent in fleet.agents.values()))
        assert fleet.copies(number) == []
        with pytest.raises(NotFound):
            await fleet.room.ask(lambda: fleet.room.start(number))


async def test_nothing_written_when_nothing_changes(tmp_path: Path, clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1", "n2") as fleet:
        number = await fleet.deploy(body(await fleet.app("app", "1", 80), 2))
        await fleet.until(lambda: len(fleet.where(number)) == 2)
        await trio.sleep(10)
        before = fleet.disk.commits
        await trio.sleep(600)
        assert fleet.disk.commits == before
        assert len(fleet.registry.discover("app")) == 2, "beats keep endpoints well"


async def test_a_lost_node(tmp_path: Path, clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1", "n2", "n3") as fleet:
        url = await fleet.app("app", "1", 80)
        number = await fleet.deploy(body(url, {"n1": 1, "n2": 1}))
        await fleet.until(lambda: len(fleet.where(number)) == 2)
        fleet.agents["n1"].cut = True
        took = await fleet.until(lambda: fleet.where(number) == ["n3", "n2"])
        assert took <= TTL_S + 2
        assert {seen.endpoint.node_id for seen in fleet.registry.discover("app")} == {"n2", "n3"}
        lost = [copy for copy in fleet.copies(number) if copy.retired]
        assert [(copy.node_id, copy.retired, copy.phase) for copy in lost] == [
            ("n1", "lost", Phase.LOST)]
        assert fleet.agents["n1"].running, "keep: the old copy goes on"
        fleet.agents["n1"].cut = False
        took = await fleet.until(lambda: not fleet.agents["n1"].running)
        await fleet.until(lambda: len(fleet.copies(number)) == 2)
        await trio.sleep(60)
        assert fleet.where(number) == ["n3", "n2"], "nothing bounces"


async def test_a_copy_on_a_node_that_stays_away_is_forgotten(
        tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "FORGET_MS", 600_000)
    async with fleet_of(tmp_path, clock, "n1", "n2", "n3") as fleet:
        number = await fleet.deploy(body(await fleet.app("app", "1"), {"n1": 1, "n2": 1}))
        await fleet.until(lambda: len(fleet.where(number)) == 2)
        fleet.agents["n1"].cut = True
        await fleet.until(lambda: fleet.where(number) == ["n3", "n2"])
        await trio.sleep(590)
        assert len(fleet.copies(number)) == 3
        await trio.sleep(20)
        assert len(fleet.copies(number)) == 2, "its row goes"
        assert fleet.agents["n1"].running
        fleet.agents["n1"].cut = False
        await fleet.until(lambda: not fleet.agents["n1"].running)


async def test_a_node_with_another_address_is_found_there(tmp_path: Path,
                                                          clock: MockClock) -> None:
    """At once, and what the programs themselves registered stays."""
    async with fleet_of(tmp_path, clock, "n1") as fleet:
        number = await fleet.deploy(body(await fleet.app("app", "1", 80, 81), 1))
        await fleet.until(lambda: fleet.where(number) == ["n1"])
        own = Endpoint("own", id_text(fleet.copies(number)[0].number), "10.9.9.9", 7, "tcp")
        await fleet.registry.register(own.instance_id, [own], replace=False)

        def found() -> set[tuple[str, int]]:
            return {(seen.endpoint.ip, seen.endpoint.port)
                    for name in ("app", "own") for seen in fleet.registry.discover(name)}

        assert found() == {("10.0.0.1", 80), ("10.0.0.1", 81), ("10.9.9.9", 7)}
        fleet.agents["n1"].ip = "10.0.0.2"
        assert await fleet.until(lambda: ("10.0.0.2", 80) in found()) <= TTL_S
        assert found() == {("10.0.0.2", 80), ("10.0.0.2", 81), ("10.9.9.9", 7)}
        await fleet.kill()
        await fleet.disk.write(lambda tx: nodes.put(tx, msgspec.structs.replace(
            nodes.every(tx.db)[0], ip="10.0.0.3")))
        fleet.agents["n1"].ip = "10.0.0.3"
        await fleet.start()
        await fleet.until(lambda: ("10.0.0.3", 80) in found())
        assert found() == {("10.0.0.3", 80), ("10.0.0.3", 81), ("10.9.9.9", 7)}


async def test_a_flap_within_the_ttl_moves_nothing(tmp_path: Path, clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1", "n2") as fleet:
        number = await fleet.deploy(body(await fleet.app("app", "1"), 2))
        await fleet.until(lambda: len(fleet.where(number)) == 2)
        before = fleet.copies(number)
        for _ in range(20):
            fleet.agents["n1"].cut = True
            await trio.sleep(TTL_S * 0.6)
            fleet.agents["n1"].cut = False
            await trio.sleep(TTL_S * 0.4)
        assert [copy.number for copy in fleet.copies(number)] == [copy.number for copy in before]
        assert len(fleet.spans) == 2


async def test_no_place_for_another(tmp_path: Path, clock: MockClock) -> None:
    """The copy of a lost node stays its slot's when there is no room, and is well again."""
    async with fleet_of(tmp_path, clock, "n1", "n2") as fleet:
        url = await fleet.app("app", "1", 80)
        number = await fleet.deploy(body(url, 2))
        await fleet.until(lambda: len(fleet.where(number)) == 2)
        before = [copy.number for copy in fleet.copies(number)]
        fleet.agents["n1"].cut = True
        await fleet.until(lambda: fleet.where(number) == ["n2"])
        why, = fleet.room.waits(number).values()
        assert "port 80 is taken" in why.text
        fleet.agents["n1"].cut = False
        await fleet.until(lambda: fleet.where(number) == ["n1", "n2"])
        assert [copy.number for copy in fleet.copies(number)] == before
        assert len(fleet.spans) == 2


async def test_failover_off(tmp_path: Path, clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1", "n2") as fleet:
        number = await fleet.deploy(body(await fleet.app("app", "1"), {"n1": 1}, failover=False))
        await fleet.until(lambda: fleet.where(number) == ["n1"])
        fleet.agents["n1"].cut = True
        await trio.sleep(100)
        assert fleet.where(number) == []
        assert [why.text for why in fleet.room.waits(number).values()] == [
            "it waits for the node n1, which is lost"]
        fleet.agents["n1"].cut = False
        await fleet.until(lambda: fleet.where(number) == ["n1"])
        assert len(fleet.spans) == 1


async def test_a_node_dies_when_its_deployment_is_stopped(tmp_path: Path,
                                                          clock: MockClock) -> None:
    """What it did not hear it cannot do: its copy is lost, and keeps no name."""
    async with fleet_of(tmp_path, clock, "n1", "n2") as fleet:
        number = await fleet.deploy(body(await fleet.app("app", "1"), {"n1": 1, "n2": 1}))
        await fleet.until(lambda: len(fleet.where(number)) == 2)
        fleet.agents["n1"].cut = True
        await fleet.room.ask(lambda: fleet.room.stop(number))
        await fleet.until(lambda: fleet.nodes.is_lost("n1"))
        await fleet.until(lambda: [one.phase for one in fleet.copies(number)
                                   if one.node_id == "n1"] == [Phase.LOST])
        await fleet.nodes.remove("n1")
        fleet.agents["n1"].cut = False          # it is only a new one now
        await fleet.until(lambda: not fleet.agents["n1"].running)
        await fleet.room.ask(lambda: fleet.room.start(number))
        await fleet.until(lambda: fleet.where(number) == ["n1", "n2"])


async def test_a_fence_comes_and_goes_copy_by_copy(tmp_path: Path, clock: MockClock) -> None:
    """It is part of what a process is started with; all at once would be an outage."""
    async with fleet_of(tmp_path, clock, "n1", "n2", "n3") as fleet:
        url = await fleet.app("app", "1")
        number = await fleet.deploy(body(url, 3))
        await fleet.until(lambda: len(fleet.where(number)) == 3)

        async def fences(numbers: set[int]) -> set[bool]:
            found = [one for name in fleet.agents for one in await fleet.room.assignments(name)]
            return {one.fence is not None for one in found if one.copy.number in numbers}

        for policy, fenced in (("fence", True), ("keep", False)):
            before = {copy.number for copy in fleet.copies(number)}
            await fleet.edit(number, body(url, 3, on_partition=policy))
            assert await fences(before) == {not fenced}, "those that run stay as they are"

            def is_done() -> bool:
                assert len(fleet.where(number)) >= 2, "one is renewed after the other"
                rollout = fleet.row(number).rollout
                return rollout is not None and rollout.state == "done"

            await fleet.until(is_done)
            await fleet.until(lambda: len(fleet.copies(number)) == 3)
            after = {copy.number for copy in fleet.copies(number)}
            assert await fences(after) == {fenced}
            assert not before & after


@pytest.mark.parametrize(("ttl_s", "expected"), [(1, 750), (1.5, 1_125), (4, 3_000), (15, 14_000)])
def test_a_fenced_copy_has_a_while_to_live_and_its_keeper_one_to_end_it(
        ttl_s: float, expected: int) -> None:
    assert lease_ms(ttl_s) == expected


async def test_fenced_copies_never_overlap(tmp_path: Path, clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1", "n2", "n3") as fleet:
        number = await fleet.deploy(body(await fleet.app("app", "1"), 2, on_partition="fence"))
        await fleet.until(lambda: len(fleet.where(number)) == 2)
        tokens = {copy.slot: copy.token for copy in fleet.copies(number)}
        for round_ in range(12):
            victim = fleet.where(number)[round_ % 2]
            if round_ % 3 == 2:
                await fleet.nodes.drain(victim, on=True)
                await fleet.until(partial(fleet.moved_off, number, victim, 2))
                await fleet.nodes.drain(victim, on=False)
            else:
                fleet.agents[victim].cut = True
                fleet.agents[victim].beats = round_ % 2 == 0
                took = await fleet.until(partial(fleet.moved_off, number, victim, 2))
                assert took <= TTL_S + 2
                fleet.agents[victim].cut, fleet.agents[victim].beats = False, True
            await trio.sleep(TTL_S)
            new = {copy.slot: copy.token for copy in fleet.copies(number) if not copy.retired}
            assert all(new[slot] >= tokens[slot] for slot in tokens)
            assert new != tokens
            tokens = new
        assert len(fleet.spans) >= 12
        assert fleet.overlaps() == []


async def test_drain_moves_one_at_a_time_and_never_below(tmp_path: Path,
                                                         clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1", "n2") as fleet:
        number = await fleet.deploy(body(await fleet.app("app", "1"), {"n1": 4}))
        await fleet.until(lambda: len(fleet.where(number)) == 4)
        await fleet.nodes.drain("n1", on=True)
        least = 4
        while fleet.where(number) != ["n2"] * 4:
            least = min(least, len(fleet.where(number)))
            await trio.sleep(0.05)
        assert least == 4
        await fleet.until(lambda: not fleet.agents["n1"].running)
        await fleet.until(lambda: fleet.nodes.users("n1") == 0)
        with pytest.raises(WrongState):
            await fleet.nodes.remove("n2")
        fleet.agents["n1"].cut = True
        await fleet.nodes.remove("n1")
        assert fleet.where(number) == ["n2"] * 4


@pytest.mark.parametrize("ports", [(), (80,)])
async def test_rolling_update(tmp_path: Path, clock: MockClock, ports: tuple[int, ...]) -> None:
    """Surge where it can be, in place where a port forbids it; discovery never runs dry."""
    async with fleet_of(tmp_path, clock, "n1", "n2", "n3") as fleet:
        old, new = [await fleet.app("app", version, *ports) for version in "12"]
        number = await fleet.deploy(body(old, 3))
        await fleet.until(lambda: len(fleet.where(number)) == 3)
        await trio.sleep(5)
        await fleet.edit(number, body(new, 3, version="2"))
        least = 3
        while (state := fleet.row(number).rollout) is not None and state.state == "rolling":
            well = len(fleet.registry.discover("app")) if ports else len(fleet.where(number))
            least = min(least, well)
            await trio.sleep(0.05)
        assert state is not None
        assert state.state == "done"
        assert least == (2 if ports else 3)
        assert len(fleet.where(number)) == 3
        assert fleet.versions(number) == {"2"}


async def test_a_copy_that_was_stopped_alone_holds_up_no_rollout(tmp_path: Path,
                                                                 clock: MockClock) -> None:
    """It is renewed when it may run again."""
    async with fleet_of(tmp_path, clock, "n1", "n2") as fleet:
        urls = [await fleet.app("app", version) for version in "12"]
        number = await fleet.deploy(body(urls[0], 3))
        await fleet.until(lambda: len(fleet.where(number)) == 3)
        held = fleet.copies(number)[0]
        await fleet.room.ask(lambda: fleet.room.hold(held.number, held=True))
        await fleet.edit(number, body(urls[1], 3, version="2"))
        await fleet.until(lambda: (found := fleet.row(number).rollout) is not None
                          and found.state == "done")
        assert fleet.versions(number) == {"1", "2"}
        assert len(fleet.where(number)) == 2
        await fleet.room.ask(lambda: fleet.room.hold(held.number, held=False))
        await fleet.until(lambda: len(fleet.where(number)) == 3
                          and fleet.versions(number) == {"2"})


async def test_a_broken_version_goes_back(tmp_path: Path, clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1", "n2", "n3") as fleet:
        old, new = [await fleet.app("app", version, 80) for version in "12"]
        fleet.broken.add("2")
        number = await fleet.deploy(body(old, 3))
        await fleet.until(lambda: len(fleet.where(number)) == 3)
        await fleet.edit(number, body(new, 3, version="2"))
        seen = []

        def is_back() -> bool:
            seen.append(len(fleet.where(number)))
            found = fleet.row(number).rollout
            return found is not None and found.state == "returned"

        await fleet.until(is_back)
        least, row = min(seen), fleet.row(number)
        assert row.rollout is not None
        assert least == 2, "only one was tried"
        await fleet.until(lambda: len(fleet.where(number)) == 3)
        assert "it fell over" in row.rollout.why
        assert row.body.entries[0].app_version == "1"
        assert row.version == 3


async def test_without_return_it_stops(tmp_path: Path, clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1", "n2") as fleet:
        old, new = [await fleet.app("app", version) for version in "12"]
        number = await fleet.deploy(body(old, 2))
        await fleet.until(lambda: len(fleet.where(number)) == 2)
        fleet.broken.add("2")
        changed = body(new, 2, version="2")
        changed = msgspec.structs.replace(changed, update=msgspec.structs.replace(
            changed.update, auto_return=False))
        await fleet.edit(number, changed)
        await fleet.until(lambda: (found := fleet.row(number).rollout) is not None
                          and found.state == "failed")
        await trio.sleep(300)
        assert len(fleet.where(number)) == 2, "the old ones go on"
        await fleet.room.ask(lambda: fleet.room.roll_back(number, 1, None))
        await fleet.until(lambda: (found := fleet.row(number).rollout) is not None
                          and found.state == "done")
        await fleet.until(lambda: len(fleet.copies(number)) == 2)
        assert fleet.versions(number) == {"1"}


async def test_kills_at_any_moment(tmp_path: Path, clock: MockClock) -> None:
    """The controller dies again and again amid a rollout, a drain and a failover."""
    async with fleet_of(tmp_path, clock, "n1", "n2", "n3", "n4") as fleet:
        urls = [await fleet.app("app", str(version), 80) for version in range(4)]
        number = await fleet.deploy(body(urls[0], 3, version="0", on_partition="fence"))
        await fleet.until(lambda: len(fleet.where(number)) == 3)
        for turn in range(1, 4):
            await fleet.edit(number, body(urls[turn], 3, version=str(turn),
                                          on_partition="fence"))
            for index in range(8):
                await trio.sleep(0.13 * (index + turn))
                for agent in fleet.agents.values():
                    agent.cut = True
                await fleet.kill()
                await trio.sleep(0.1)
                await fleet.start()
                for agent in fleet.agents.values():
                    agent.cut = False
                    await agent.sync()
            await fleet.until(lambda: (found := fleet.row(number).rollout) is not None
                              and not found.under_way)
            await fleet.until(lambda: len(fleet.where(number)) == 3)
            assert fleet.row(number).body.entries[0].app_version == str(turn)
        await fleet.until(lambda: len(fleet.copies(number)) == 3)
        assert fleet.overlaps() == []


async def test_the_disk_is_down(tmp_path: Path, clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1", "n2") as fleet:
        number = await fleet.deploy(body(await fleet.app("app", "1"), 2))
        await fleet.until(lambda: len(fleet.where(number)) == 2)
        fleet.disk.down = True
        with pytest.raises(PlumError):
            await fleet.edit(number, body("/artifacts/app-1.zip", 1))
        await trio.sleep(100)
        fleet.disk.down = False
        assert fleet.row(number).version == 1
        await fleet.edit(number, body("/artifacts/app-1.zip", 1))
        await fleet.until(lambda: len(fleet.copies(number)) == 1)


async def test_a_defect_is_told_and_ends_nothing(tmp_path: Path, clock: MockClock) -> None:
    """Nor does anything stay of what was asked for together with it."""
    async with fleet_of(tmp_path, clock, "n1") as fleet:
        url = await fleet.app("app", "1")
        number = await fleet.deploy(body(url, 1))
        await fleet.until(lambda: fleet.where(number) == ["n1"])
        ended: list[Exception] = []

        def half() -> None:
            fleet.room.stop(number)
            raise OverflowError("no such number")

        async def ask(act: Callable[[], object]) -> None:
            try:
                await fleet.room.ask(act)
            except OverflowError as error:
                ended.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, partial(fleet.room.create, body(url, 1, name="other")))
            nursery.start_soon(ask, half)
        assert len(ended) == 2
        assert fleet.row(number).running
        assert len(deployments.every(fleet.disk.store.point)) == 1
        await fleet.edit(number, body(url, 2))
        await fleet.until(lambda: fleet.where(number) == ["n1", "n1"])


async def test_one_copy_alone(tmp_path: Path, clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1") as fleet:
        number = await fleet.deploy(body(await fleet.app("app", "1"), 3))
        await fleet.until(lambda: len(fleet.where(number)) == 3)
        one, two, three = fleet.copies(number)
        await fleet.room.ask(lambda: fleet.room.hold(two.number, held=True))
        await fleet.until(lambda: len(fleet.where(number)) == 2)
        await trio.sleep(60)
        assert len(fleet.copies(number)) == 3, "nobody takes its place"
        await fleet.room.ask(lambda: fleet.room.hold(two.number, held=False))
        await fleet.until(lambda: len(fleet.where(number)) == 3)
        await fleet.room.ask(lambda: fleet.room.remove(one.number))
        await trio.sleep(60)
        assert {copy.number for copy in fleet.copies(number)} == {two.number, three.number}
        assert fleet.row(number).body.entries[0].replicas == 2
        with pytest.raises(NotFound):
            await fleet.room.ask(lambda: fleet.room.remove(one.number))


async def test_one_that_is_renewed_goes_at_once_and_leaves_the_others(
        tmp_path: Path, clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1", "n2", "n3") as fleet:
        number = await fleet.deploy(body(await fleet.app("app", "1"), 3,
                                         update=Update(min_healthy_sec=1.0, drain_sec=60)))
        await fleet.until(lambda: len(fleet.where(number)) == 3)
        await fleet.nodes.drain("n1", on=True)
        await fleet.until(lambda: any(copy.retired for copy in fleet.copies(number)))
        kept = {copy.number: copy.slot for copy in fleet.copies(number) if not copy.retired}
        old, = (copy for copy in fleet.copies(number) if copy.retired)
        await fleet.room.ask(lambda: fleet.room.remove(old.number))
        await trio.sleep(60)
        assert {copy.number: copy.slot for copy in fleet.copies(number)} == kept


async def test_when_the_last_one_that_ends_is_taken_away_its_place_is_filled(
        tmp_path: Path, clock: MockClock) -> None:
    """What waited for it does not wait for anything else to happen."""
    async with fleet_of(tmp_path, clock, "n1") as fleet:
        url = await fleet.app("app", "1", 80)
        number = await fleet.deploy(body(url))
        await fleet.until(lambda: fleet.where(number) == ["n1"])
        fleet.agents["n1"].stop_s = 1000
        await fleet.edit(number, body(await fleet.app("app", "2", 80), version="2"))
        await trio.sleep(10)
        old, = fleet.copies(number)
        assert old.retired
        await fleet.room.ask(lambda: fleet.room.remove(old.number))
        await fleet.until(lambda: fleet.where(number) == ["n1"], 5)


async def test_a_node_whose_copy_crashes_is_in_use(tmp_path: Path, clock: MockClock) -> None:
    """Its agent starts it again, so the copy is no less there than one that runs."""
    async with fleet_of(tmp_path, clock, "n1") as fleet:
        fleet.broken.add("1")
        number = await fleet.deploy(body(await fleet.app("app", "1"), 1))
        await fleet.until(lambda: [copy.phase for copy in fleet.copies(number)] == [Phase.FAILED])
        with pytest.raises(WrongState):
            await fleet.nodes.remove("n1")
        await fleet.room.ask(lambda: fleet.room.stop(number))
        await fleet.until(lambda: [copy.phase for copy in fleet.copies(number)] == [Phase.STOPPED])
        fleet.agents["n1"].cut = True
        await fleet.nodes.remove("n1")


async def test_versions_and_conditions(tmp_path: Path, clock: MockClock) -> None:
    async with fleet_of(tmp_path, clock, "n1") as fleet:
        url = await fleet.app("app", "1")
        number = await fleet.room.ask(lambda: fleet.room.create(body(url, 1)))
        assert await fleet.edit(number, body(url, 1)) == 1, "nothing is changed"
        with pytest.raises(VersionMismatch):
            await fleet.room.ask(lambda: fleet.room.edit(number, body(url, 2), 7, "x"))
        with pytest.raises(WrongState):
            await fleet.room.ask(lambda: fleet.room.roll_back(number, 0, None))
        assert await fleet.edit(number, body(url, 2)) == 2
        assert len(fleet.copies(number)) == 2
        await fleet.room.ask(lambda: fleet.room.roll_back(number, 0, 2))
        assert len(fleet.copies(number)) == 1
        plan = fleet.room.plan(body(url, 2, selector={"rack": "1"}))
        assert [(one.node_id, one.why and one.why.text) for one in plan] == [
            ("", "no node fits: the label rack=1 is missing (1 node)")] * 2
