"""Rooms of the fabric over a real database in virtual time, with the events that they wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import trio
from trio.testing import MockClock

from plumd.clock import Instant
from plumd.errors import PlumError, StorageDown
from plumd.nodes import Beat, Nodes
from plumd.store.events import Event
from plumd.store.nodes import Facts
from plumd.store.store import Change, Store, Tx, Written

T = TypeVar("T")
TTL_S = 15.0


class TrioClock:
    """Trio's time, which jumps to the next thing to do."""

    def __init__(self, clock: MockClock) -> None:
        self.clock = clock

    def now(self) -> Instant:
        """The present moment, some time after 1970."""
        ns = round(self.clock.current_time() * 1e9)
        return Instant(ns, ns + 1_000_000_000_000)


class Outcome(NamedTuple):
    """What `then` is told."""

    value: object
    error: PlumError | None


class Disk:
    """A database with Engine.write's door to it, which can be shut."""

    def __init__(self, path: Path, clock: MockClock) -> None:
        self.clock = TrioClock(clock)
        self.store = Store(path / "plum.db")
        self.commits = 0
        self.events: list[Event] = []
        self.down = False
        self.slow_s = 0.0       # so long a commit waits for its turn
        self.last_id = 0

    async def write(self, fn: Callable[[Tx], T], /,
                    then: Callable[[Written], None] | None = None) -> T:
        """As the engine does it."""
        await trio.sleep(self.slow_s)
        if self.down:
            raise StorageDown("no disk")
        done = self.store.commit_now(Change(self.clock.now().wall_ms, events=[], calls=[fn]))
        self.commits += 1
        self.events += done.record.items
        value = done.values[0]
        error = value if isinstance(value, PlumError) else None
        if then is not None:
            then(Outcome(value, error))
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # fn's own

    def new_id(self) -> int:
        """A fresh id."""
        self.last_id += 1
        return self.last_id

    def told(self, kind: str) -> list[tuple[object, object]]:
        """(id, what) of the events of a kind since the last look."""
        news: list[tuple[object, object]] = [(event[1], event[2]) for event in self.events
                                             if event[0] == kind]
        self.events.clear()
        return news


def nodes_of(disk: Disk) -> Nodes:
    """The nodes as after a start of the daemon."""
    nodes = Nodes(disk.store, disk.clock, disk.write, TTL_S)
    nodes.load()
    return nodes


async def beat(nodes: Nodes, name: str, key: str = "", labels: dict[str, str] | None = None,
               facts: Facts | None = None) -> None:
    """A sign of life."""
    await nodes.beat(Beat(name, "10.0.0.1", labels or {}, facts, key=key), "10.0.0.1")


async def keep_beating(nodes: Nodes, *names: str, task_status: trio.TaskStatus[None]
                       = trio.TASK_STATUS_IGNORED) -> None:
    """Nodes that are well, until canceled."""
    started = False
    while True:
        for name in names:
            await beat(nodes, name)
        if not started:
            task_status.started()
            started = True
        await trio.sleep(TTL_S / 3)
