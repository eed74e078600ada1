"""What is old goes, in slices that take the writer a few milliseconds each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias, TypeVar

import apsw
import msgspec
import trio

from plumd.engine import Engine
from plumd.errors import Overloaded, PlumError
from plumd.executors.os_process import OsProcess
from plumd.model import TaskState
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
from plumd.store.tasks import ID_SHIFT

log = logging.getLogger("plumd.retention")
SLICE_ROWS: Final = 300
LOOK_ROWS: Final = 20_000
PAUSE_S: Final = 0.05
ROUND_S: Final = 3_600.0
AGAIN_S: Final = 60.0
KEY_MS: Final = 24 * 3_600_000
DAY_MS: Final = 86_400_000
OFFLINE_WORKER_MS: Final = 7 * DAY_MS
GONE_KEY_MS: Final = 7 * DAY_MS
"""So long a deleted key's last version is known; afterwards only that it was below its floor."""
GONE_KEYS_MAX: Final = 100_000
BLOB_REST_S: Final = 3_600.0

Slice: TypeAlias = Callable[[Tx], int]
T = TypeVar("T")


class Keep(msgspec.Struct, frozen=True):
    """How long things are kept, and how many at most."""

    tasks_ms: int
    runs_ms: int
    events_max: int
    tasks_max: int
    """Of tasks that are over."""


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
            pause_s = ROUND_S
            try:
                await self.round()
            except (PlumError, OSError, apsw.Error) as error:
                log.warning("pruning waits", extra={"reason": str(error)})
                pause_s = AGAIN_S
            with trio.move_on_after(pause_s):
                await self._wanted.wait()

    async def write(self, slice_: Callable[[Tx], T]) -> T:
        """One slice. Where the daemon has more to do than it can, it waits for its turn: whatever
        comes in then is what must be pruned."""
        while True:
            try:
                return await self.engine.write(slice_)
            except Overloaded as busy:
                await trio.sleep(busy.retry_after_s or PAUSE_S)

    async def round(self) -> int:
        """Everything that is due now; answers how many rows went."""
        now_ms = self.engine.clock.now().wall_ms
        old_ms, task_id = now_ms - self.keep.tasks_ms, (now_ms - self.keep.tasks_ms) << ID_SHIFT
        first_event = self.engine.journal.next_seq - self.keep.events_max
        gone = await self.forget_tasks(old_ms)
        gone += await self.slices(lambda tx: flows.prune(
            tx.db, now_ms - self.keep.runs_ms, SLICE_ROWS))
        gone += await self.forget_surplus()
        gone += await self.slices(lambda tx: events.prune(
            tx.db, now_ms - self.keep.tasks_ms, first_event, SLICE_ROWS))
        gone += await self.slices(lambda tx: keys.prune(tx.db, now_ms - KEY_MS, SLICE_ROWS))
        gone += await self.slices(lambda tx: schedules.prune(
            tx.db, now_ms - self.keep.tasks_ms, SLICE_ROWS))
        gone += await self.slices(lambda tx: triggers.prune(
            tx.db, now_ms - self.keep.tasks_ms, SLICE_ROWS))
        gone += await self.slices(lambda tx: webhooks.prune(
            tx.db, now_ms - self.keep.tasks_ms, SLICE_ROWS))
        for row in await self.engine.store.read(webhooks.every):
            gone += await self.slices(partial(forget_deliveries, row[0], first_event))
        gone += await self.forget_keys(now_ms)
        for number in await self.engine.store.read(devices.reporting):
            gone += await self.slices(partial(forget_reports, number,
                                              now_ms - self.keep.tasks_ms))
        gone += await self.slices(lambda tx: alarms.prune(tx, task_id, SLICE_ROWS))
        for number in await self.engine.store.read(buckets.devices):
            await self.write(partial(forget_buckets, number, now_ms))
        await self.write(lambda tx: workers.prune(tx.db, now_ms - OFFLINE_WORKER_MS))
        for workflow_id in await self.engine.store.read(definitions.hidden_workflows):
            await self.slices(partial(bury, workflow_id))
        await self.sweep(now_ms)
        return gone

    async def forget_tasks(self, before_ms: int) -> int:
        """Tasks of no run that were over before a time. They are looked for beside the writer, for
        among them stand any number of others: of runs, and such as wait or run as long."""
        gone = after = 0
        while True:
            found, after = await self.engine.store.read(tasks.old, after, before_ms, LOOK_ROWS)
            for begin in range(0, len(found), SLICE_ROWS):
                gone += await self.write(partial(
                    forget_some, found[begin:begin + SLICE_ROWS]))
                await trio.sleep(PAUSE_S)
            if not after:
                return gone

    async def forget_surplus(self) -> int:
        """The oldest of the tasks that are over, when there are too many; runs go whole."""
        live = sum(self.engine.core.counts_by_state())
        over = await self.engine.store.read(tasks.count) - live - self.keep.tasks_max
        gone, after, whole = 0, 0, True
        while (gone < over or not whole) and (found := await self.engine.store.read(
                tasks.oldest, after, max(1, min(over - gone, SLICE_ROWS)))):
            count, after, whole = await self.write(partial(forget_oldest, found))
            gone += count
            await trio.sleep(PAUSE_S)
        return gone

    async def forget_keys(self, now_ms: int) -> int:
        """Marks of deleted keys that are old, or too many: keys that come and go leave many."""
        gone = await self.slices(lambda tx: kv.forget(tx, now_ms - GONE_KEY_MS, SLICE_ROWS))
        over = await self.engine.store.read(kv.gone_count) - GONE_KEYS_MAX
        while over > 0:
            count = min(over, SLICE_ROWS)
            over -= count
            gone += await self.write(
                partial(kv.forget, before_ms=now_ms + 1, count=count))
            await trio.sleep(PAUSE_S)
        return gone

    async def slices(self, slice_: Slice) -> int:
        """Slice after slice until one finds nothing."""
        total = 0
        while count := await self.write(slice_):
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


def forget_some(ids: Sequence[int], tx: Tx) -> int:
    """These tasks; how many of them were there."""
    return sum(tasks.delete(tx.db, task_id) for task_id in ids)


def forget_oldest(found: Sequence[tuple[int, int]], tx: Tx) -> tuple[int, int, bool]:
    """These tasks of (id, run or 0), each with its run unless that goes on: about a slice of rows;
    how many went, behind which id to go on, and whether the last run went whole."""
    gone, after = 0, found[0][0] - 1
    for task_id, run_id in found:
        state = flows.state_of(tx.db, run_id) if run_id else None
        if state is None:
            gone += tasks.delete(tx.db, task_id)
        elif state >= TaskState.SUCCEEDED:
            gone += flows.erase(tx.db, run_id, SLICE_ROWS)
            if flows.state_of(tx.db, run_id) is not None:
                return gone, after, False
        after = task_id
        if gone >= SLICE_ROWS:
            break
    return gone, after, True


def forget_deliveries(number: int, first_event: int, tx: Tx) -> int:
    """A slice of a webhook's deliveries of events that are forgotten themselves."""
    return webhooks.prune_before(tx.db, number, first_event, SLICE_ROWS)


def forget_reports(number: int, before_ms: int, tx: Tx) -> int:
    """A slice of a device's reports that are old, or whose device is gone."""
    return devices.prune(tx, number, before_ms, SLICE_ROWS)


def forget_buckets(number: int, now_ms: int, tx: Tx) -> None:
    """A device's buckets whose time is over, or all of one that is gone."""
    buckets.prune(tx, number, now_ms, gone=not devices.exists(tx.db, number))


def bury(workflow_id: int, tx: Tx) -> int:
    """A slice of a deleted workflow's runs; 0 when there is nothing more to take now."""
    gone = flows.prune_workflow(tx.db, workflow_id, SLICE_ROWS)
    if gone == 0 and not flows.has_runs(tx.db, workflow_id):
        definitions.forget_workflow(tx.db, workflow_id)
    return gone
