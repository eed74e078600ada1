"""An engine with schedules under a clock that can be set, and a hand that ends what they start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio
import trio.testing

from plumd.bodies import ScheduleBody, StepBody, TaskDefBody, WorkflowBody
from plumd.clock import Instant
from plumd.engine import Engine
from plumd.model import Finish, Join, Limits, WorkerKind, id_text
from plumd.outbox import Given, Outbox
from plumd.planner import Planner
from plumd.slots import plan_of
from plumd.store import definitions, events, schedules
from plumd.store.definitions import TASK_DEFS, WORKFLOWS, Catalog
from plumd.store.events import Event
from plumd.store.schedules import STATES, CalendarBody, FireRow
from plumd.store.store import Change
from tests.sim.disk import FaultyStore, Killed, Truth

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
NOON_MS: Final = 1_764_072_000_000      # 2025-11-25T12:00:00Z
DEF_ID: Final = 7
WORKFLOW_ID: Final = 8
LIMITS: Final = Limits(alarms_per_tick=4)


class SetClock:
    """Trio's time; the wall's can be set."""

    def __init__(self) -> None:
        self.base_ms = float(NOON_MS)

    def now(self) -> Instant:
        mono_ns = round(trio.current_time() * 1e9)
        return Instant(mono_ns, mono_ns + round(self.base_ms * 1e6))

    def set_by(self, ms: float) -> None:
        self.base_ms += ms

    @property
    def now_ms(self) -> int:
        return self.now().wall_ms


class Hand:
    """A worker that keeps what it is given until it is told to end it."""

    def __init__(self) -> None:
        self.held: list[Given] = []

    def give(self, attempts: Sequence[Given]) -> None:
        self.held.extend(attempts)

    def stop(self, worker_id: str, task_id: int, attempt: int, reason: str) -> None:
        pass

    def kick(self, worker_id: str, session: str, code: str) -> None:
        pass


class World:
    """One data directory through many lives of the engine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = SetClock()
        self.truth = Truth()
        self.hand = Hand()
        self.engine: Engine
        self.store: FaultyStore
        self.last_id = 100
        self.limits = LIMITS

    @asynccontextmanager
    async def life(self, *, working: bool = False) -> AsyncIterator[Engine]:
        """An engine that runs; working: a worker takes its tasks, and holds them."""
        fresh = not (self.path / "plum.db").exists()
        self.store = FaultyStore(self.path / "plum.db", self.clock, self.truth)
        if fresh:
            self.define()
        outbox = Outbox(self.store)
        self.hand.held.clear()
        outbox.register("w", self.hand)
        self.engine = Engine(self.store, self.clock, outbox, Planner(Catalog(self.store)),
                             self.limits, 1)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.run)
                if working:
                    await self.engine.call(Join("w", WorkerKind.SESSION, "s", ("job",),
                                                capacity=10_000, lease_ms=10**12))
                yield self.engine
                nursery.cancel_scope.cancel()
        finally:
            self.store.close()

    async def run(self) -> None:
        try:
            await self.engine.run()
        except Killed:
            self.engine.stop_accepting()

    def define(self) -> None:
        """A definition and a workflow that schedules start."""
        task = TaskDefBody("job", timeout_sec=0)
        flow = WorkflowBody("flow", (StepBody(id_text(DEF_ID)),))
        self.store.commit_now(Change(0, calls=[
            lambda tx: definitions.create(tx, TASK_DEFS, DEF_ID, task),
            lambda tx: definitions.create(tx, WORKFLOWS, WORKFLOW_ID, flow),
            lambda tx: schedules.put_calendar(tx, "days", CalendarBody(("2025-11-26",)), None)]))

    async def schedule(self, **fields: object) -> int:
        """A new schedule, of the definition unless a workflow is named."""
        self.last_id += 1
        number = self.last_id
        given = {"name": f"s{number}", "def_id": id_text(DEF_ID), **fields}
        if "workflow_id" in given:
            given["def_id"] = ""
        names = ScheduleBody.__struct_encode_fields__
        fieldnames = dict(zip(ScheduleBody.__struct_fields__, names, strict=True))
        body = schedules.DECODE(msgspec.json.encode(
            {fieldnames[name]: value for name, value in given.items()}))
        plan = plan_of(number, 1, body, self.clock.now_ms)
        await self.engine.write(lambda tx: schedules.create(tx, number, body, plan))
        self.engine.schedules.rearm(number, self.clock.now())
        await self.engine.call_all(())      # so that it waits for the alarm
        return number

    async def until(self, wall_ms: int) -> None:
        """Let time pass until the wall shows this, and everything that follows from it."""
        left_ms = wall_ms - self.clock.now_ms
        await trio.sleep(max(left_ms, 0) / 1000 + 0.05)
        await trio.testing.wait_all_tasks_blocked()

    async def settle(self) -> None:
        """Everything that can happen now has happened."""
        await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked()

    async def end_one(self) -> None:
        """The oldest of what runs ends well."""
        given = self.hand.held.pop(0)
        await self.engine.call(Finish(given.task_id, given.attempt, "w"))
        await self.settle()

    def fires(self, number: int) -> list[FireRow]:
        """The history, oldest slot first."""
        return self.store.peek(schedules.fires, number, None, 0, 100_000)[::-1]

    def events(self) -> list[Event]:
        """Every event that was ever recorded."""
        return [event for record in self.store.peek(events.since, 1, 100_000)
                for event in record.items]

    def told(self, number: int) -> list[tuple[float, str, str]]:
        """(minutes after noon, state, reason) of the history."""
        return [((one.slot_ms - NOON_MS) / MINUTE_MS, STATES[one.state], one.reason)
                for one in self.fires(number)]

    def started(self, number: int) -> list[float]:
        """The slots that were started, in minutes after noon."""
        return [minute for minute, state, _ in self.told(number) if state == "started"]
