"""Whatever people, nodes and the controller do to a deployment, and in whatever order: under a
fence never two copies, and in the end the one that is wanted."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from plumd.errors import PlumError
from plumd.fleet import Body
from tests.fabric_rig import TTL_S
from tests.fleet_rig import Fleet, body, fleet_of

NODES: Final = ("n1", "n2", "n3")
STEPS: Final = 25
PAUSES_S: Final = (0.0, 0.1, 0.3, 1.0, 3.0, 8.0, TTL_S)
SEEDS: Final = range(int(os.environ.get("PLUM_FLEET_SEEDS", "12")))


class Chaos:
    """A deployment of one copy, and what may happen to it."""

    def __init__(self, fleet: Fleet, random: Random, urls: list[str]) -> None:
        self.fleet = fleet
        self.random = random
        self.urls = urls
        self.fenced = random.random() < 0.7
        self.replicas: int | dict[str, int] = 1
        self.version = 0
        self.number = 0
        self.acts: tuple[Callable[[], Awaitable[object]], ...] = (
            self.pin, self.unpin, self.update, self.drain, self.undrain, self.cut, self.heal,
            self.kill, self.stop_and_start, self.stop, self.start, self.remove, self.hold,
            self.release, self.break_one)

    @property
    def body(self) -> Body:
        """As it is wanted now."""
        return body(self.urls[self.version], self.replicas, version=str(self.version),
                    on_partition="fence" if self.fenced else "keep")

    async def edit(self) -> None:
        """Want it as it is wanted now."""
        await self.fleet.edit(self.number, self.body)

    async def pin(self) -> None:
        self.replicas = {self.random.choice(NODES): 1}
        await self.edit()

    async def unpin(self) -> None:
        self.replicas = 1
        await self.edit()

    async def update(self) -> None:
        self.version = self.random.randrange(len(self.urls))
        await self.edit()

    async def drain(self) -> None:
        await self.fleet.nodes.drain(self.random.choice(NODES), on=True)

    async def undrain(self) -> None:
        for name in NODES:
            await self.fleet.nodes.drain(name, on=False)

    async def cut(self) -> None:
        agent = self.fleet.agents[self.random.choice(NODES)]
        agent.cut, agent.beats = True, self.random.random() < 0.5

    async def heal(self) -> None:
        for agent in self.fleet.agents.values():
            agent.cut, agent.beats = False, True

    async def kill(self) -> None:
        """The controller is away for a while."""
        agents = self.fleet.agents.values()
        cut = [agent.cut for agent in agents]
        for agent in agents:
            agent.cut = True
        await self.fleet.kill()
        await trio.sleep(self.random.choice((0.1, 1.0, 5.0)))
        await self.fleet.start()
        for agent, was_cut in zip(agents, cut, strict=True):
            agent.cut = was_cut

    async def start(self) -> None:
        await self.fleet.room.ask(lambda: self.fleet.room.start(self.number))

    async def stop(self) -> None:
        await self.fleet.room.ask(lambda: self.fleet.room.stop(self.number))

    async def stop_and_start(self) -> None:
        await self.stop()
        await trio.sleep(self.random.choice((0.0, 0.2, 2.0)))
        await self.start()

    async def remove(self) -> None:
        """One is taken away, and wanted again."""
        for copy in self.fleet.copies(self.number)[:1]:
            await self.fleet.room.ask(partial(self.fleet.room.remove, copy.number))
            await trio.sleep(self.random.choice((0.0, 1.0)))
            await self.edit()

    async def hold(self) -> None:
        await self.hold_all(held=True)

    async def release(self) -> None:
        await self.hold_all(held=False)

    async def hold_all(self, *, held: bool) -> None:
        for copy in self.fleet.copies(self.number):
            if not copy.retired:
                await self.fleet.room.ask(
                    partial(self.fleet.room.hold, copy.number, held=held))

    async def break_one(self) -> None:
        """A version crashes from now on, or none."""
        self.fleet.broken = {str(self.random.randrange(1, len(self.urls)))} - {
            str(self.random.randrange(len(self.urls)))}

    def is_well(self) -> bool:
        """Whether there is what is wanted, and nothing else."""
        return (len(self.fleet.where(self.number)) == 1 == len(self.fleet.copies(self.number))
                == sum(len(agent.running) for agent in self.fleet.agents.values()))


@pytest.mark.parametrize("seed", SEEDS)
async def test_never_two_and_one_in_the_end(tmp_path: Path, autojump_clock: MockClock,
                                            seed: int) -> None:
    random = Random(seed)
    async with fleet_of(tmp_path, autojump_clock, *NODES) as fleet:
        ports = random.choice(((), (80,)))
        chaos = Chaos(fleet, random, [await fleet.app("app", version, *ports)
                                      for version in "0123"])
        for agent in fleet.agents.values():
            agent.stop_s = random.choice((0.0, 0.5, 4.0, 12.0))
        chaos.number = await fleet.deploy(chaos.body)
        done: list[str] = []
        for _ in range(STEPS):
            await trio.sleep(random.choice(PAUSES_S))
            act = random.choice(chaos.acts)
            done.append(f"{trio.current_time():.1f} {act.__name__}")
            try:
                await act()
            except PlumError as error:
                done.append(str(error))
        fleet.broken = set()
        for calm in (chaos.heal, chaos.undrain, chaos.unpin, chaos.start, chaos.release):
            await calm()
        await fleet.until(chaos.is_well)
        assert not chaos.fenced or fleet.most() == 1, done
