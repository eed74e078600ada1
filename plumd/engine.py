"""The engine: the one loop that owns the core and the writing connection.

Commands come in batches, the core decides, the whole batch becomes durable in one commit, and
only then are callers answered and effects let out. While a batch is being made durable the next
one gathers, so grouping needs no timer. When a commit fails nothing of it leaves: the truth is
read back over a fresh connection, and the core is rebuilt from committed rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, TypeVar

import apsw
import msgspec
import trio

from plumd import _sched, runs
from plumd.attempt_logs import LineKeeper, LinePiece, NoLines
from plumd.clock import Clock, Instant
from plumd.errors import OutcomeUnknown, Overloaded, PlumError, StorageDown, ValueLost
from plumd.flow import BeginRun, CancelRun, RunAct
from plumd.journal import Journal
from plumd.model import (
    CoreCommand,
    Join,
    Limits,
    Reply,
    StartEffect,
    StopEffect,
    TaskState,
)
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.runs import Runs
from plumd.schedules import Backfill, Schedules, Trigger
from plumd.starts import MakeTask, plain_task
from plumd.store import events, limits, nodes, quarantine, tasks, workers
from plumd.store.events import Event
from plumd.store.quarantine import Unreadable
from plumd.store.store import Call, Change, Done, Store, Tx
from plumd.triggers import Occurrence, Triggers

log = logging.getLogger("plumd.engine")
T = TypeVar("T")
Command: TypeAlias = (CoreCommand | BeginRun | CancelRun | RunAct | Trigger | Backfill
                      | Occurrence)

GROUP_WEIGHT_MAX: Final = 2_000
QUEUE_WEIGHT_MAX: Final = 40_000
PROBE_S: Final = 1.0
PROGRESS_MAX: Final = 10_000
LOOK_AGAIN_MS: Final = 30_000
"""Runs wait for moments of the wall clock, which may be set."""


class Progress(msgspec.Struct, frozen=True):
    """How far a running attempt is, in its worker's words. ratio: 0 .. 1 or None."""

    attempt: int
    worker_id: str
    ratio: float | None
    text: str
    at_ms: int


class Ask:
    """One caller's commands, decided and committed together, and what they came to."""

    def __init__(self, commands: Sequence[Command], write: Call | None,
                 then: Callable[[Ask], None] | None = None) -> None:
        self.commands = commands
        self.write = write
        self.then = then
        self.replies: list[Reply] = []
        self.value: object = None
        self.error: PlumError | None = None
        self.done = trio.Event()

    @property
    def weight(self) -> int:
        """How many commands count against the queue's bound."""
        return len(self.commands) + (self.write is not None)

    def answer(self, error: PlumError | None = None) -> None:
        """Tell the caller, who reads replies, value or error."""
        self.error = error or self.error
        if self.then is not None:
            self.then(self)
        self.done.set()


class Engine:
    """Made whole from committed rows by `load`, then driven by `run` in one task."""

    def __init__(self, store: Store, clock: Clock, outbox: Outbox, planner: Planner,
                 limits: Limits, seed: int, locals_: Sequence[Join] = (),
                 make_task: MakeTask = plain_task) -> None:
        """make_task: makes the task of a definition that a schedule starts."""
        self.store = store
        self.clock = clock
        self.outbox = outbox
        self.planner = planner
        self.limits = limits
        self.journal = Journal(store.next_seq)
        self.down = ""
        """Why writes are refused at present; "" when they are not."""
        self.progress: dict[int, Progress] = {}
        self.lines: LineKeeper = NoLines()
        self.read_blob: Callable[[str], bytes] = no_blob
        """Where large results are, for the steps that refer to them."""
        self.passes = 0
        """Turns of the loop, for a watchdog."""
        self.commands = 0
        """How many were decided, store commands too."""
        self.batches = [0] * 18
        """Batches by their size: item i counts those below 2**i and not below 2**(i - 1)."""
        self._seed = seed
        self._make_task = make_task
        self._locals = tuple(locals_)
        self.own_workers = len(self._locals)
        """How many of the core's workers are executors of this daemon."""
        self._queue: list[Ask] = []
        self._queued = 0
        self._wake = trio.Event()
        self._waiters: dict[int, list[trio.Event]] = {}
        self._last_id = 0
        self._stopping = False
        self._loaded = False
        self.core: _sched.Scheduler
        self.runs: Runs
        self.schedules: Schedules
        self.triggers: Triggers
        self.load()

    # ------------------------------------------------------------ for callers

    def new_id(self) -> int:
        """A fresh id: time-ordered, never given out before."""
        self._last_id = max(self._last_id + 1, self.clock.now().wall_ms << 18)
        return self._last_id

    def new_ids(self, count: int) -> range:
        """So many fresh ids in a row."""
        first = self.new_id()
        self._last_id += count - 1
        return range(first, first + count)

    @property
    def waiting(self) -> int:
        """How many commands wait for their turn."""
        return self._queued

    async def call(self, command: Command) -> Reply:
        """Decide one command; returns after its commit.

        Raises: Overloaded, StorageDown, OutcomeUnknown.
        Cancel: the command is carried out all the same.
        """
        return (await self.call_all((command,))).replies[0]

    async def call_all(self, commands: Sequence[Command], write: Call | None = None,
                       urgent: bool = False, then: Callable[[Ask], None] | None = None) -> Ask:
        """Decide commands in order, and run a store command in the same commit.

        urgent: news from workers, which is taken however long the queue is.  then: as `post`.
        Raises and Cancel: as `call`; also what the store command raised as PlumError.
        """
        ask = self.post(commands, write, urgent, then)
        await ask.done.wait()
        if ask.error is not None:
            raise ask.error
        return ask

    def post(self, commands: Sequence[Command], write: Call | None = None,
             urgent: bool = False, then: Callable[[Ask], None] | None = None) -> Ask:
        """The same without waiting: after the commit `then` is called, before any effect of it is
        let out, and `ask.done` is set.

        Raises: Overloaded, StorageDown.
        """
        if self.down:
            raise StorageDown(f"writes are refused for now: {self.down}", retry_after_s=PROBE_S)
        if self._stopping and not urgent:
            raise Overloaded("the daemon is shutting down", retry_after_s=2)
        ask = Ask(commands, write, then)
        if self._queued + ask.weight > QUEUE_WEIGHT_MAX and self._queued and not urgent:
            raise Overloaded("too many requests are waiting", retry_after_s=1)
        self._queue.append(ask)
        self._queued += ask.weight
        self._wake.set()
        return ask

    async def write(self, fn: Callable[[Tx], T], then: Callable[[Ask], None] | None = None) -> T:
        """Run a store command in the next commit; returns its value after it.  then: as `post`.

        Raises: as `call_all`.
        """
        ask = await self.call_all((), fn, then=then)
        return ask.value  # type: ignore[return-value]  # the store hands on what fn returned

    def beat(self, worker_id: str, session: str) -> bool:
        """Renew a worker's lease in memory; False when that session holds none."""
        return self.core.beat(worker_id, session, self.clock.now())

    def note_progress(self, pair: tuple[int, int], worker_id: str, ratio: float | None,
                      text: str) -> None:
        """Keep the last word on a running attempt's progress; it is told, not stored."""
        known = self.core.knows(pair[0])
        if known is None or known[1] != pair[1]:
            return
        self.progress[pair[0]] = Progress(pair[1], worker_id, ratio, text, self.clock.now().wall_ms)
        while len(self.progress) > PROGRESS_MAX:
            del self.progress[next(iter(self.progress))]

    def note_lines(self, worker_id: str, pieces: Sequence[LinePiece],
                   then: Callable[[], None]) -> None:
        """Hand on the lines of attempts that this worker holds; others are stale, and dropped.

        then: called when they are in their files, or never will be.
        """
        now_ms, held = self.clock.now().wall_ms, set(self.core.held_by(worker_id))
        for pair, texts, at in pieces:
            if pair in held:
                self.lines.note(pair, now_ms, texts, at)
        self.lines.when_written(then)

    def view(self, fn: Callable[[_sched.Scheduler], T]) -> T:
        """A look at the core, for what only memory knows."""
        return fn(self.core)

    def watch(self, item_id: int) -> trio.Event:
        """An event that is set after the commit in which a task or run reaches its end."""
        event = trio.Event()
        self._waiters.setdefault(item_id, []).append(event)
        return event

    def unwatch(self, item_id: int, event: trio.Event) -> None:
        """Give up waiting."""
        waiting = self._waiters.get(item_id)
        if waiting and event in waiting:
            waiting.remove(event)
            if not waiting:
                del self._waiters[item_id]

    def stop_accepting(self) -> None:
        """New requests are refused from now on; what workers say is still taken."""
        self._stopping = True

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Serve until canceled."""
        while True:
            batch = await self._gather()
            self.passes += 1
            change = self._decide(batch, self.clock.now())
            starts, stops, kicks = change[1]
            if not change[0].empty:
                first_seq = self.store.next_seq
                with trio.CancelScope(shield=True):
                    try:
                        done = await self.store.commit(change[0])
                    except apsw.Error as error:
                        await self._recover(batch, first_seq, error)
                        continue
                self._publish(batch, change[0], done)
            self._answer(batch)
            self.outbox.release(change[0].created, starts, stops, kicks)

    async def _gather(self) -> list[Ask]:
        """The next batch: at least one command, or none when a timer is due."""
        if self._loaded:
            self._loaded = False        # what was loaded may have something to send again
        elif self._queue:
            await trio.lowlevel.checkpoint()    # whoever is ready now joins this batch
        else:
            now = self.clock.now()
            due_ns = self.core.next_due_ns()
            run_due_ms = self.runs.next_due_ms()
            if run_due_ms is not None:
                run_due_ns = now.mono_ns + min(run_due_ms - now.wall_ms,
                                               LOOK_AGAIN_MS) * 1_000_000
                due_ns = run_due_ns if due_ns is None else min(due_ns, run_due_ns)
            self._wake = trio.Event()
            if due_ns is None:
                await self._wake.wait()
            elif (left_ns := due_ns - now.mono_ns) > 0:
                with trio.move_on_after(left_ns / 1e9):
                    await self._wake.wait()
            else:
                await trio.lowlevel.checkpoint()    # much is due: others have their turn between
        taken = weight = 0
        for ask in self._queue:
            taken += 1
            weight += ask.weight
            if weight >= GROUP_WEIGHT_MAX:
                break
        batch, self._queue = self._queue[:taken], self._queue[taken:]
        self._queued -= weight
        self.commands += weight
        self.batches[min(weight.bit_length(), len(self.batches) - 1)] += 1
        return batch

    def _decide(self, batch: list[Ask], now: Instant) -> tuple[Change, _Effects]:
        """Let the core decide, and the flow rules follow until nothing more moves."""
        core = self.core
        shift_ms = self.schedules.stepped(now)
        if shift_ms:
            self.runs.shift(shift_ms, now.wall_ms)
        for ask in batch:
            ask.replies = [self._apply(command, now) for command in ask.commands]
        core.tick(now)
        if not shift_ms:        # a pass that finds the wall clock set writes that down first
            self._look_at_schedules(now)
        self._flow(now)
        (created, changed, ended, told, starts, stops, kicks, joined, gone) = core.take()
        change, run_events = self.runs.take()
        if self.schedules.of_item:
            for end in ended:
                if end.state >= TaskState.SUCCEEDED:
                    self.schedules.ended(end.task_id, now)
            for run in change.ended:
                self.schedules.ended(run.run_id, now)
        moves, slots = self.schedules.take()
        facts: list[Event] = [*told, *run_events, *slots]
        calls = [ask.write for ask in batch if ask.write is not None]
        if (taken := self.triggers.take()) is not None:
            calls.append(taken)
        return Change(now.wall_ms, created, changed, ended, joined, gone, change, facts,
                      calls, moves), (starts, stops, kicks)

    def _look_at_schedules(self, now: Instant) -> None:
        """Start what is due."""
        if alarms := self.core.take_alarms():
            for command in self.schedules.wake(alarms, now):
                self._apply(command, now)
            self.core.tick(now)

    def _flow(self, now: Instant) -> None:
        """What ended moves its run on; what follows are commands too, until none is left."""
        core, flows = self.core, self.runs
        flows.tick(now.wall_ms)
        while True:
            ends = core.take_run_ends()
            for end in ends:
                flows.advance(end, now.wall_ms)
            commands = flows.take_commands(now.wall_ms)
            if not commands and not ends:
                return
            for command in commands:
                reply = core.apply(command, now)
                if reply.code:
                    flows.refused(command, reply, now.wall_ms)
            core.tick(now)

    def _apply(self, command: Command, now: Instant) -> Reply:
        if isinstance(command, BeginRun):
            return self.runs.begin(command.plan, now.wall_ms)
        if isinstance(command, CancelRun):
            return self.runs.cancel(command.run_id, now.wall_ms)
        if isinstance(command, RunAct):
            return self.runs.act(command, now.wall_ms)
        if isinstance(command, Trigger):
            reply, starts = self.schedules.trigger(command, now)
            for start in starts:
                self._apply(start, now)
            return reply
        if isinstance(command, Backfill):
            return self.schedules.backfill(command, now)
        if isinstance(command, Occurrence):
            reply, begun = self.triggers.occur(command, now)
            for start in begun:
                self._apply(start, now)
            return reply
        return self.core.apply(command, now)

    def _publish(self, batch: list[Ask], change: Change, done: Done) -> None:
        """What the commit made true: values of store commands, events, ends that are awaited."""
        values = iter(done.values)
        for ask in batch:
            if ask.write is not None:
                value = next(values)
                if isinstance(value, PlumError):
                    ask.error = value
                else:
                    ask.value = value
        if done.record.count:
            self.journal.append(done.record)
        if self._waiters or self.progress:
            for task in change.ended:
                self.progress.pop(task.task_id, None)
                if task.state >= TaskState.SUCCEEDED:
                    self._over(task.task_id)
            for run in change.runs.ended:
                self._over(run.run_id)

    def _over(self, item_id: int) -> None:
        for event in self._waiters.pop(item_id, ()):
            event.set()

    def _answer(self, batch: list[Ask]) -> None:
        for ask in batch:
            ask.answer()

    # ------------------------------------------------------------ truth from disk

    def load(self) -> None:
        """Build the core and the live runs from committed rows, and nothing else."""
        now = self.clock.now()
        bad: list[Unreadable] = []
        self.core = _sched.Scheduler(self.limits, self._seed)
        self.core.load_drained(self.store.peek(workers.drained))
        self.core.load_drained(self.store.peek(nodes.drained_agents))
        for join in (*self._locals, *quarantine.readable_workers(self.store.point, bad)):
            self.core.load_worker(join, now)
        for limit in self.store.peek(limits.commands):
            self.core.load_limit(limit, now)
        self.core.load(quarantine.readable_tasks(self.store.point, bad), now)
        self._last_id = max(self._last_id, self.store.peek(tasks.newest_id))
        self.runs = Runs(self.planner, self.new_id, self._large_result)
        runs.load(self.runs, now.wall_ms, bad)
        self.schedules = Schedules(self.store, self.core, self.planner, self._make_task,
                                   self.new_id, self._has_room)
        self.triggers = Triggers(self.store, self.planner, self._make_task, self._has_room)
        self.schedules.load(now, lambda item: (item in self.runs.live
                                               or self.core.knows(item) is not None))
        self._loaded = True
        if bad:
            for row in bad:
                log.error("a row cannot be read and was set aside", extra={
                    "subject": row.subject, "row_id": row.row_id, "reason": row.reason})
            self.store.commit_now(Change(now.wall_ms, calls=[quarantine.set_aside(bad)]))

    def _has_room(self) -> bool:
        return sum(self.core.counts_by_state()) < self.limits.tasks_max

    def _large_result(self, digest: str) -> bytes:
        return self.read_blob(digest)

    async def _recover(self, batch: list[Ask], first_seq: int, error: apsw.Error) -> None:
        """A commit failed: find out what is true, tell the callers, begin anew from the disk."""
        self.down = f"{type(error).__name__}: {error}"
        log.error("a commit failed", extra={"reason": self.down})
        waiting = [ask for ask in batch if not ask.done.is_set()]
        landed = await self._look_back(waiting, first_seq)
        refusal = StorageDown(f"nothing was written: {self.down}", retry_after_s=PROBE_S)
        for ask in waiting:
            if ask.done.is_set():
                continue
            if not landed:
                ask.answer(refusal)
            elif ask.write is not None:
                ask.answer(OutcomeUnknown("it was written, but its answer was lost"))
            else:
                ask.answer()
        queue, self._queue, self._queued = self._queue, [], 0
        for ask in queue:
            ask.answer(refusal)
        while not self._probe():
            self.passes += 1        # a known outage of the disk is no hang
            await trio.sleep(PROBE_S)
        self.load()
        self.journal = self._rejoin_journal()
        self.outbox.kick_all("restarting")
        self.down = ""
        log.warning("the disk takes writes again")

    async def _look_back(self, waiting: list[Ask], first_seq: int) -> bool:
        """Whether the commit landed, as a fresh connection sees it."""
        while True:
            try:
                self.store.reopen()
                return bool(events.has(self.store.db, first_seq))
            except apsw.Error as error:
                self.down = f"{type(error).__name__}: {error}"
                unknown = OutcomeUnknown(f"the disk does not answer: {self.down}",
                                         retry_after_s=PROBE_S)
                for ask in waiting:
                    if not ask.done.is_set():
                        ask.answer(unknown)
                self.passes += 1
                await trio.sleep(PROBE_S)

    def _probe(self) -> bool:
        """Whether a write goes through; the write is a commit that says nothing."""
        try:
            self.store.commit_now(Change(self.clock.now().wall_ms, probe=True))
        except apsw.Error as error:
            self.down = f"{type(error).__name__}: {error}"
            return False
        return True

    def _rejoin_journal(self) -> Journal:
        """Readers go on by their numbers; those that waited look again."""
        old, new = self.journal, Journal(self.store.next_seq)
        old.next_seq = new.next_seq
        old.wake_all()
        return new


def no_blob(digest: str) -> bytes:
    """Knows none: where large results are not kept."""
    raise ValueLost(f"nothing is kept under {digest}")


_Effects: TypeAlias = tuple[
    list[StartEffect], list[StopEffect], list[tuple[str, str]]]
