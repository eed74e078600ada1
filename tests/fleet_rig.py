"""A controller's rooms and agents acted out, in virtual time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from trio.testing import MockClock

from plumd.deployments import Assigned, Deployments, Report
from plumd.errors import PlumError
from plumd.fleet import Body, Copy, DeploymentEntry, Phase, Update
from plumd.nodes import Beat, Nodes
from plumd.services import Registry
from plumd.store import apps, deployments, instances
from plumd.store.apps import AppRow, PortDecl
from plumd.store.deployments import DeploymentRow
from tests.fabric_rig import TTL_S, Disk, nodes_of

START_S = 0.2
QUICK = Update(min_healthy_sec=1.0, drain_sec=0.5)


class Span:
    """A process that ran: from when to when, None = it still does."""

    def __init__(self, slot: tuple[str, int], node: str, begun: float) -> None:
        self.slot = slot
        self.node = node
        self.begun = begun
        self.ended: float | None = None


class Agent:
    """One node's agent. cut: nothing goes to the controller or comes from it.  stop_s: so long a
    process takes to end when it is asked to."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet = fleet
        self.name = name
        self.ip = f"10.0.0.{name[1:]}"
        self.cut = False
        self.beats = True
        self.stop_s = 0.0
        self.ending: set[int] = set()
        self.running: dict[int, tuple[Span, Assigned]] = {}
        self.lease_until: dict[int, float] = {}
        self.told: dict[int, Phase] = {}

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until canceled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.beat)
            nursery.start_soon(self.listen)
            task_status.started()
            while True:
                await self.sync()
                left_s = min(self.lease_until.values(), default=1e9) - trio.current_time()
                await trio.sleep(max(0, min(TTL_S / 3, left_s)))

    async def beat(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Every third of the TTL."""
        started = False
        while True:
            if not self.cut and self.beats:
                await self.fleet.nodes.beat(
                    Beat(self.name, self.ip, self.fleet.labels[self.name]), "")
            if not started:
                task_status.started()
                started = True
            await trio.sleep(TTL_S / 3)

    async def listen(self) -> None:
        """The controller's wake-ups."""
        with self.fleet.nodes.watch(self.name) as bell:
            count = 0
            while True:
                await bell.wait_beyond(count)
                count = bell.count
                await self.sync()

    async def sync(self) -> None:
        """Look at what shall run; the lease of what is fenced counts from here."""
        now = trio.current_time()
        for number, until in list(self.lease_until.items()):
            if now >= until:
                self.end(number)
                del self.lease_until[number]
        if self.cut:
            return
        try:
            found = await self.fleet.room.assignments(self.name)
        except PlumError:
            return
        wanted = {one.copy.number: one for one in found}
        for number in list(self.running):
            if number not in wanted:
                self.stop(number)
        for number, one in wanted.items():
            if one.running and one.fence is not None:
                self.lease_until[number] = now + one.fence.lease_ms / 1000
            if one.running:
                self.begin(number, one)
                self.fleet.nursery.start_soon(self.report, one)
            else:
                self.stop(number)

    def begin(self, number: int, one: Assigned) -> None:
        """Start a process."""
        if number in self.running or one.copy.phase is Phase.COMPLETED:
            return
        span = Span((one.copy.entry, one.copy.ordinal), self.name, trio.current_time())
        self.running[number] = span, one
        self.fleet.spans.append(span)

    def stop(self, number: int) -> None:
        """Ask a process to end; the controller is told when it has."""
        if number not in self.ending:
            self.ending.add(number)
            self.fleet.nursery.start_soon(self.stopped, number)

    async def stopped(self, number: int) -> None:
        """The end of a process that was asked to."""
        if number in self.running:
            await trio.sleep(self.stop_s)
        self.end(number)
        self.lease_until.pop(number, None)
        self.ending.discard(number)
        await self.say(Report(number, Phase.STOPPED, exit_code=0))

    def end(self, number: int) -> None:
        """A process is over."""
        if number in self.running:
            self.running.pop(number)[0].ended = trio.current_time()

    async def report(self, one: Assigned) -> None:
        """A process runs, or does not."""
        number = one.copy.number
        await trio.sleep(START_S)
        if number not in self.running:
            return
        what = self.fleet.fate(one)
        if what is Phase.RUNNING:
            await self.say(Report(number, Phase.RUNNING, True, pid=number & 0xffff))
        else:
            await self.say(Report(number, what, False, 1, restarts=1, message="it fell over"))

    async def say(self, report: Report) -> None:
        """Tell the controller."""
        if not self.cut:
            try:
                await self.fleet.room.report([report], strict=True)
            except PlumError:
                self.end(report.number)


class Fleet:
    """The rooms, and any number of agents."""

    def __init__(self, path: Path, clock: MockClock, nursery: trio.Nursery) -> None:
        path.mkdir(exist_ok=True)
        self.disk = Disk(path, clock)
        self.nursery = nursery
        self.agents: dict[str, Agent] = {}
        self.labels: dict[str, dict[str, str]] = defaultdict(dict)
        self.spans: list[Span] = []
        self.broken: set[str] = set()
        self.rooms: trio.CancelScope | None = None
        self.nodes: Nodes
        self.registry: Registry
        self.room: Deployments

    async def start(self) -> None:
        """The controller, from the rows."""
        disk = self.disk
        self.registry = Registry(disk.store, disk.clock, disk.write, draw=lambda: 0)
        self.registry.load()
        self.nodes = nodes_of(disk)
        self.room = Deployments(disk.store, disk.clock, disk.write, disk.new_id, self.nodes,
                                self.registry)
        self.room.load()
        started = trio.Event()

        async def run() -> None:
            with trio.CancelScope() as self.rooms:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.nodes.run)
                    nursery.start_soon(self.room.run)
                    nursery.start_soon(self.registry.run)
                    started.set()

        self.nursery.start_soon(run)
        await started.wait()

    async def kill(self) -> None:
        """The controller is gone, at whatever it is doing; the rows stay. Agents are cut."""
        assert self.rooms is not None
        self.rooms.cancel()
        await trio.lowlevel.checkpoint()

    async def node(self, *names: str, **labels: str) -> None:
        """More nodes, with agents."""
        for name in names:
            self.labels[name] = labels
            agent = self.agents[name] = Agent(self, name)
            await self.nursery.start(agent.run)

    def fate(self, one: Assigned) -> Phase:
        """What becomes of a process."""
        return Phase.FAILED if one.entry.app_version in self.broken else Phase.RUNNING

    async def app(self, name: str, version: str, *ports: int) -> str:
        """An artifact; its url."""
        row = AppRow(self.disk.new_id(), name, version, f"{name}-{version}.zip", "0" * 64, 1,
                     tuple(PortDecl(name, "http", port) for port in ports), 1)
        await self.disk.write(lambda tx: apps.create(tx, row))
        return row.url

    async def deploy(self, body: Body) -> int:
        """A deployment that runs."""
        number = await self.room.ask(lambda: self.room.create(body))
        await self.room.ask(lambda: self.room.start(number))
        return number

    async def edit(self, number: int, body: Body) -> int:
        """A new version."""
        return await self.room.ask(lambda: self.room.edit(number, body, None, "test"))

    def row(self, number: int) -> DeploymentRow:
        """As it is on disk."""
        row = deployments.get(self.disk.store.point, number)
        assert row is not None
        return row

    def versions(self, number: int) -> set[str]:
        """Of the app, that the copies of a deployment run."""
        found = [self.room.program(number, copy.version, "e") for copy in self.copies(number)
                 if not copy.retired]
        return {entry.app_version for entry in found if entry is not None}

    def moved_off(self, number: int, victim: str, count: int) -> bool:
        """Whether all copies are well, and none of them on a node."""
        return len(self.where(number)) == count and victim not in self.where(number)

    def copies(self, number: int) -> list[Copy]:
        """As they are on disk."""
        return instances.of_deployment(self.disk.store.point, number)

    def where(self, number: int) -> list[str]:
        """Where well copies are, in the order of their slots."""
        return [copy.node_id for copy in sorted(self.copies(number), key=lambda one: one.slot)
                if not copy.retired and copy.phase is Phase.RUNNING and copy.healthy_ms]

    async def until(self, true: Callable[[], bool], limit_s: float = 600) -> float:
        """Wait until something is so; how long it took."""
        begun = trio.current_time()
        while not true():
            assert trio.current_time() - begun < limit_s, self.picture()
            await trio.sleep(0.05)
        return trio.current_time() - begun

    def picture(self) -> str:
        """All that there is, for a test that fails."""
        store = self.disk.store
        return "\n".join(map(str, (*deployments.every(store.point), *instances.every(store.point),
                                   *self.nodes.every())))

    def most(self) -> int:
        """How many processes ran at the same time, at the most."""
        return max(sum(1 for one in self.spans if one.begun <= at.begun and (
            one.ended is None or one.ended > at.begun)) for at in self.spans)

    def overlaps(self) -> list[tuple[Span, Span]]:
        """Pairs of processes of one slot that ran at the same time."""
        now = trio.current_time()
        return [(one, two) for index, one in enumerate(self.spans)
                for two in self.spans[index + 1:] if one.slot == two.slot
                and one.begun < (two.ended or now) and two.begun < (one.ended or now)]


@asynccontextmanager
async def fleet_of(path: Path, clock: MockClock, *names: str) -> AsyncIterator[Fleet]:
    """A controller with so many nodes, ended at the end of the block."""
    async with trio.open_nursery() as nursery:
        fleet = Fleet(path, clock, nursery)
        await fleet.start()
        await fleet.node(*names)
        yield fleet
        nursery.cancel_scope.cancel()


def body(url: str, replicas: int | dict[str, int] = 1, name: str = "d", version: str = "1",
         update: Update = QUICK, **more: object) -> Body:
    """A deployment of one entry."""
    whole = {key: more.pop(key) for key in ("on_partition", "labels") if key in more}
    entry = DeploymentEntry(name="e", artifact_url=url, app_name="app", app_version=version,
                  replicas=replicas, **more)  # type: ignore[arg-type]  # fields of an entry
    return Body(name, (entry,), update=update, **whole)  # type: ignore[arg-type]  # and of a body
