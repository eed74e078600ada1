"""Never two copies under a fence, whatever people do while the old one takes its time to end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
from trio.testing import MockClock

from plumd.deployments import Report
from plumd.fleet import Body, Phase
from tests.fleet_rig import Fleet, body, fleet_of

STOP_S = 8.0
Of: TypeAlias = Callable[[int | dict[str, int]], Body]


async def pinned_elsewhere(fleet: Fleet, number: int, of: Of) -> None:
    """It shall run on another node from now on."""
    await fleet.edit(number, of({"n2": 1}))


async def pinned_elsewhere_while_stopped(fleet: Fleet, number: int, of: Of) -> None:
    """The same between a stop and a start."""
    await fleet.room.ask(lambda: fleet.room.stop(number))
    await fleet.edit(number, of({"n2": 1}))
    await fleet.room.ask(lambda: fleet.room.start(number))


async def started_anew_amid_a_drain(fleet: Fleet, number: int, of: Of) -> None:
    """Its node is drained, and the deployment stopped and started meanwhile."""
    del of
    await fleet.nodes.drain("n1", on=True)
    await trio.sleep(1)
    await fleet.room.ask(lambda: fleet.room.stop(number))
    await trio.sleep(1)
    await fleet.room.ask(lambda: fleet.room.start(number))


async def removed_and_scaled(fleet: Fleet, number: int, of: Of) -> None:
    """Somebody takes the copy away, and asks for one again."""
    copy, = fleet.copies(number)
    await fleet.room.ask(lambda: fleet.room.remove(copy.number))
    assert fleet.row(number).body.entries[0].replicas == 0
    await fleet.nodes.drain("n1", on=True)
    await fleet.edit(number, of(1))


@pytest.mark.parametrize("what", [
    pinned_elsewhere, pinned_elsewhere_while_stopped, started_anew_amid_a_drain,
    removed_and_scaled])
async def test_another_begins_when_the_old_one_is_over(
        tmp_path: Path, autojump_clock: MockClock,
        what: Callable[[Fleet, int, Of], Awaitable[None]]) -> None:
    async with fleet_of(tmp_path, autojump_clock, "n1", "n2") as fleet:
        of = partial(body, await fleet.app("app", "1"), on_partition="fence")
        for agent in fleet.agents.values():
            agent.stop_s = STOP_S
        number = await fleet.deploy(of(1))
        await fleet.until(lambda: fleet.where(number) == ["n1"])
        await what(fleet, number, of)
        took_s = await fleet.until(lambda: fleet.where(number) == ["n2"])
        assert fleet.most() == 1, fleet.spans
        assert took_s < STOP_S + 3
        await fleet.until(lambda: len(fleet.copies(number)) == 1)


async def test_a_crash_is_not_the_end_that_was_asked_for(tmp_path: Path,
                                                         autojump_clock: MockClock) -> None:
    """Its agent may not have heard yet that it shall stop, and start it again."""
    async with fleet_of(tmp_path, autojump_clock, "n1", "n2") as fleet:
        number = await fleet.deploy(body(await fleet.app("app", "1"), on_partition="fence"))
        await fleet.until(lambda: fleet.where(number) == ["n1"])
        fleet.agents["n1"].stop_s = STOP_S
        await fleet.nodes.drain("n1", on=True)
        await trio.sleep(1)
        old, = fleet.copies(number)
        await fleet.room.report([Report(old.number, Phase.FAILED, False, 1)], strict=True)
        await trio.sleep(1)
        assert [copy.number for copy in fleet.copies(number)] == [old.number]
        await fleet.until(lambda: fleet.where(number) == ["n2"])
        assert fleet.most() == 1
