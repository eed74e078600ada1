"""What is old goes, in slices that take the writer a few milliseconds each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import msgspec
import trio

from plumd.engine import Engine
from plumd.errors import PlumError
from plumd.executors.os_process import OsProcess
from plumd.store import (
    alarms,
    buckets,
    definitions,
    devices,
    events,
    flows,
    keys,
    kv,
    schedules,
    tasks,
    triggers,
    webhooks,
    workers,
)
from plumd.store.blobs import Blobs
from plumd.store.store import Tx

log = logging.getLogger("plumd.retention")
SLICE_ROWS: Final = 300
SLICE_RUNS: Final = 30
PAUSE_S: Final = 0.05
ROUND_S: Final = 3_600.0
KEY_MS: Final = 24 * 3_600_000
DAY_MS: Final = 86_400_000
OFFLINE_WORKER_MS: Final = 7 * DAY_MS
GONE_KEY_MS: Final = 7 * DAY_MS
"""So long a deleted key's last version is known; afterwards only that it was below its floor."""
GONE_KEYS_MAX: Final = 100_000
BLOB_REST_S: Final = 3_600.0

Slice: TypeAlias = Callable[[Tx], int]


class Keep(msgspec.Struct, frozen=True):
    """How long things are kept."""

    tasks_ms: int
    runs_ms: int
    events_max: int


class Retention:
    """Prunes once an hour, and when something was deleted that leaves rows behind."""

    def __init__(self, engine: Engine, blobs: Blobs, processes: OsProcess, keep: Keep) -> None:
        self.engine = engine
        self.blobs = blobs
        self.processes = processes
        self.keep = keep
        self._wanted = trio.Event()

    def poke(self) -> None:
        """Something was deleted: look soon."""
        self._wanted.set()

    async def run(self) -> None:
        """Until canceled."""
        while True:
            self._wanted = trio.Event()
            try:
                await self.round()
            except PlumError as error:
                log.warning("pruning waits", extra={"reason": error.detail})
            with trio.move_on_after(ROUND_S):
                await self._wanted.wait()

    async def round(self) -> int:
        """Everything that is due now; answers how many rows went."""
        now_ms = self.engine.clock.now().wall_ms
        task_id = (now_ms - self.keep.tasks_ms) << 18      # ids are times
        run_id = (now_ms - self.keep.runs_ms) << 18
        first_event = self.engine.journal.next_seq - self.keep.events_max
        gone = await self.slices(lambda tx: tasks.prune(tx.db, task_id, SLICE_ROWS))
        gone += await self.slices(lambda tx: flows.prune(tx.db, run_id, SLICE_RUNS))
        gone += await self.slices(lambda tx: events.prune(
            tx.db, now_ms - self.keep.tasks_ms, first_event, SLICE_ROWS))
        gone += await self.slices(lambda tx: keys.prune(tx.db, now_ms - KEY_MS, SLICE_ROWS))
        gone += await self.slices(lambda tx: schedules.prune(
            tx.db, now_ms - self.keep.tasks_ms, SLICE_ROWS))
        gone += await self.slices(lambda tx: triggers.prune(
            tx.db, now_ms - self.keep.tasks_ms, SLICE_ROWS))
        gone += await self.slices(lambda tx: webhooks.prune(
            tx.db, now_ms - self.keep.tasks_ms, SLICE_ROWS))
        gone += await self.forget_keys(now_ms)
        for number in await self.engine.store.read(devices.reporting):
            gone += await self.slices(partial(forget_reports, number,
                                              now_ms - self.keep.tasks_ms))
        gone += await self.slices(lambda tx: alarms.prune(tx, task_id, SLICE_ROWS))
        for number in await self.engine.store.read(buckets.devices):
            await self.engine.write(partial(forget_buckets, number, now_ms))
        await self.engine.write(lambda tx: workers.prune(tx.db, now_ms - OFFLINE_WORKER_MS))
        for workflow_id in await self.engine.store.read(definitions.hidden_workflows):
            await self.slices(partial(bury, workflow_id))
        await self.sweep(now_ms)
        return gone

    async def forget_keys(self, now_ms: int) -> int:
        """Marks of deleted keys that are old, or too many: keys that come and go leave many."""
        gone = await self.slices(lambda tx: kv.forget(tx, now_ms - GONE_KEY_MS, SLICE_ROWS))
        over = await self.engine.store.read(kv.gone_count) - GONE_KEYS_MAX
        while over > 0:
            count = min(over, SLICE_ROWS)
            over -= count
            gone += await self.engine.write(
                partial(kv.forget, before_ms=now_ms + 1, count=count))
            await trio.sleep(PAUSE_S)
        return gone

    async def slices(self, slice_: Slice) -> int:
        """Slice after slice until one finds nothing."""
        total = 0
        while count := await self.engine.write(slice_):
            total += count
            await trio.sleep(PAUSE_S)
        return total

    async def sweep(self, now_ms: int) -> None:
        """Files that belong to nothing any more: blobs and what processes printed."""
        store = self.engine.store
        await store.read(lambda db: self.blobs.sweep(db, now_ms / 1000 - BLOB_REST_S))

        def forget() -> None:
            for task_id, _ in list(self.processes.stored()):
                if store_has(task_id):
                    continue
                self.processes.forget(task_id)
            if self.processes.kept is not None:
                self.processes.kept.drop_dead(now_ms - self.keep.tasks_ms, store_has)

        def store_has(task_id: int) -> bool:
            return trio.from_thread.run_sync(store.peek, tasks.get, task_id) is not None

        await trio.to_thread.run_sync(forget)


def forget_reports(number: int, before_ms: int, tx: Tx) -> int:
    """A slice of a device's reports that are old, or whose device is gone."""
    return devices.prune(tx, number, before_ms, SLICE_ROWS)


def forget_buckets(number: int, now_ms: int, tx: Tx) -> None:
    """A device's buckets whose time is over, or all of one that is gone."""
    buckets.prune(tx, number, now_ms, gone=not devices.exists(tx.db, number))


def bury(workflow_id: int, tx: Tx) -> int:
    """A slice of a deleted workflow's runs; 0 when there is nothing more to take now."""
    gone = flows.prune_workflow(tx.db, workflow_id, SLICE_RUNS)
    if gone == 0 and not flows.has_runs(tx.db, workflow_id):
        definitions.forget_workflow(tx.db, workflow_id)
    return gone
