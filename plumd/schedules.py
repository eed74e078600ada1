"""Schedules: what happens to a slot when its time has come.

An alarm in the core is only a hint to look; the truth is the row. Whoever looks reads the
schedule and its plan as they are committed, decides on every slot that is due, and hands out the
commands that start things together with the rows that say so, for one commit: so a slot makes at
most one run through any crash. What waits for a schedule's earlier runs is a row too, and is
looked at again when one of those ends.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator
from typing import Final, NamedTuple, TypeAlias

import msgspec

from plumd import _sched, cron, flow
from plumd.bodies import ScheduleBody
from plumd.clock import Instant
from plumd.cron import Days, Slot, Timing
from plumd.errors import NotFound, PlumError
from plumd.flow import BeginRun, CancelRun
from plumd.model import Cancel, Reply, Submit, id_text, parse_id
from plumd.slots import LATE_MS, STARTS_MAX, STEP_MS, by_policy, due_slots
from plumd.starts import MakeTask, Planner, begin_run
from plumd.store import schedules
from plumd.store.events import Event
from plumd.store.schedules import Fire, FireKind, FireState, Moves, Plan, ScheduleRow
from plumd.store.store import Store

log = logging.getLogger("plumd.schedules")
Command: TypeAlias = BeginRun | CancelRun | Cancel | Submit

QUEUE_MAX: Final = 1_000
FULL_AGAIN_MS: Final = 1_000
CACHED_MAX: Final = 4_000


class Trigger(msgspec.Struct, frozen=True):
    """Command: start what a schedule starts, now. item_id: of the run or task that it makes."""

    schedule_id: int
    item_id: int
    payload: bytes | None = None


class Backfill(msgspec.Struct, frozen=True):
    """Command: start these slots of the past, all at once or (alone) one after another."""

    schedule_id: int
    slots: tuple[int, ...]
    alone: bool


class Waiting(NamedTuple):
    """A slot that is queued. alone: until nothing of its schedule runs."""

    slot_ms: int
    kind: int
    alone: bool


class Known(msgspec.Struct, frozen=True):
    """A schedule that is looked at. taken: its next slot has been dealt with."""

    row: ScheduleRow
    timing: Timing
    taken: bool = False


class Schedules:
    """Owned by the engine, like the core whose alarms it sets. `take` gives a step's rows."""

    def __init__(self, store: Store, core: _sched.Scheduler, planner: Planner,
                 make_task: MakeTask, new_id: Callable[[], int],
                 room: Callable[[], bool]) -> None:
        """room: whether the core takes another task."""
        self.store = store
        self.core = core
        self.planner = planner
        self.make_task = make_task
        self.new_id = new_id
        self.room = room
        self.live: dict[int, dict[int, int]] = {}
        """schedule -> what it started and what goes on -> the slot."""
        self.of_item: dict[int, tuple[int, int]] = {}
        """run or task -> its schedule and slot."""
        self.queued: dict[int, deque[Waiting]] = {}
        self._known: OrderedDict[tuple[int, int], Timing] = OrderedDict()
        self._days: dict[str, Days] = {}
        self._fires: dict[tuple[int, int], Fire] = {}
        self._plans: dict[int, Plan] = {}
        self._ended: list[tuple[int, int]] = []
        self._shift_ms = 0
        self._events: list[Event] = []
        self._offset_ns: int | None = None

    # ------------------------------------------------------------ from and to the rows

    def load(self, now: Instant, alive: Callable[[int], bool]) -> None:
        """Set every alarm, and take up what goes on and what waits."""
        self._offset_ns = now.wall_ns - now.mono_ns
        for number, paced, due_ms, zones in self.store.peek(schedules.plans):
            # By other rules for zones than today's the slot may be another one: look at once.
            self._alarm(number, due_ms if zones == cron.ZONES_VERSION else now.wall_ms,
                        bool(paced), now)
        for number, slot_ms, run_id, task_id in self.store.peek(schedules.live):
            if alive(run_id or task_id):
                self._goes_on(number, slot_ms, run_id or task_id)
            else:
                self._ended.append((number, slot_ms))
        for number, slot_ms, kind, alone in self.store.peek(schedules.queued):
            self.queued.setdefault(number, deque()).append(Waiting(slot_ms, kind, bool(alone)))
            self._alarm(number, now.wall_ms, False, now)

    def take(self) -> tuple[Moves | None, list[Event]]:
        """The rows and events since the last call."""
        if not (self._fires or self._plans or self._ended or self._shift_ms or self._events):
            return None, []
        moves = Moves(list(self._fires.values()), list(self._plans.values()), self._ended,
                      self._shift_ms)
        events = self._events
        self._fires, self._plans, self._ended, self._events = {}, {}, [], []
        self._shift_ms = 0
        return moves, events

    def rearm(self, number: int, now: Instant) -> None:
        """A schedule was saved or deleted: its row says when to look next."""
        row = self.store.peek(schedules.get, number)
        if row is None or not row.body.enabled:
            self.queued.pop(number, None)
        if row is None or row.next_ms == 0:
            self.core.drop_alarm(number)
        else:
            self._alarm(number, row.due_ms, row.body.every_sec is not None, now)

    def forget_calendars(self) -> None:
        """One was written: read them again."""
        self._days.clear()

    def stepped(self, now: Instant) -> int:
        """By how many ms the wall clock was set since the last call; 0 = it was not.

        Alarms of the wall follow it by themselves. What counts elapsed time keeps its distance;
        and where time is lived through again, slots that were not started yet lie ahead once more.
        """
        offset_ns = now.wall_ns - now.mono_ns
        before_ns, self._offset_ns = self._offset_ns, offset_ns
        if before_ns is None or abs(offset_ns - before_ns) < STEP_MS * 1_000_000:
            if before_ns is not None:
                self._offset_ns = before_ns     # small moves add up to a step
            return 0
        shift_ms = (offset_ns - before_ns) // 1_000_000
        self._shift_ms += shift_ms
        log.warning("the wall clock was set", extra={
            "by_s": round((offset_ns - before_ns) / 1e9, 3)})
        if offset_ns < before_ns:
            for number in self.store.peek(schedules.ahead, now.wall_ms):
                self._alarm(number, now.wall_ms, False, now)
        return shift_ms

    def _alarm(self, number: int, due_ms: int, paced: bool, now: Instant) -> None:
        at = due_ms
        if paced:
            at = now.mono_ns + (due_ms - now.wall_ms) * 1_000_000
        self.core.set_alarm(number, at, paced, now)

    def _timing(self, row: ScheduleRow) -> Timing:
        """The timing of a row; an interval's counts from its next slot. Raises: CronError."""
        if row.body.every_sec is not None:
            return Timing(row.body, row.next_ms)
        key = (row.id, row.version)
        timing = self._known.get(key)
        if timing is None:
            timing = self._known[key] = Timing(row.body, 0)
            if len(self._known) > CACHED_MAX:
                self._known.popitem(last=False)
        return timing

    # ------------------------------------------------------------ time has come

    def wake(self, numbers: list[int], now: Instant) -> Iterator[Command]:
        """Look at schedules whose alarm rang: what is to be started, and their next alarms."""
        for found in self.store.peek(schedules.look, numbers):
            number = found[0]
            if not self.room():
                self._alarm(number, now.wall_ms + FULL_AGAIN_MS, False, now)
                continue
            try:
                row, taken = schedules.looked(found)
                yield from self._look(Known(row, self._timing(row), taken), now)
            except (msgspec.DecodeError, cron.CronError, UnicodeDecodeError):
                log.exception("a schedule cannot be read", extra={"schedule_id": number})
                self._events.append(("alert", "unreadable_row", "schedule", id_text(number),
                                     now.wall_ms))

    def _look(self, known: Known, now: Instant) -> Iterator[Command]:
        row, now_ms = known.row, now.wall_ms
        if row.id in self.queued:
            yield from self._start_queued(known, now_ms)
        if row.body.enabled and row.next_ms:
            yield from self._look_ahead(known, now)
        if self._may_start(row.id):
            self._alarm(row.id, now_ms + (0 if self.room() else FULL_AGAIN_MS), False, now)

    def _look_ahead(self, known: Known, now: Instant) -> Iterator[Command]:
        row, timing, now_ms = known.row, known.timing, now.wall_ms
        if not timing.paced and row.due_ms > now_ms:
            due, rest = list[Slot](), self._earlier(known, now_ms)
        else:
            due, rest = due_slots(row, timing, now_ms)
        if not due:
            next_ms = row.next_ms if rest == 0 else rest
            if next_ms != row.next_ms:      # time is lived through again, or zones are new
                self._move(known, row.done_ms, next_ms, now)
            else:
                self._alarm(row.id, row.due_ms, timing.paced, now)
            return
        last_ms = due[-1].at_ms
        full_ms = yield from self._decide(known, self._open(known, due), now_ms)
        if full_ms:
            self._move(known, full_ms - 1, full_ms, now)
            return
        if row.done_ms > last_ms or rest == 0:
            rest = self._next(known, last_ms)
        self._move(known, last_ms, rest, now)

    def _open(self, known: Known, due: list[Slot]) -> list[Slot]:
        """Those of the slots that are due that nobody has dealt with."""
        number, first_ms = known.row.id, due[0].at_ms
        mine = {slot_ms for one, slot_ms in self._fires if one == number}   # in this very step
        if mine or len(due) > 1:
            taken = mine | self.store.peek(schedules.taken, number, first_ms, due[-1].at_ms)
        elif known.taken and first_ms == known.row.next_ms:
            taken = {first_ms}
        else:
            return due
        found = [slot for slot in due if slot.at_ms not in taken]
        if known.timing.paced and not found:    # the clock was set back onto an old slot
            return [Slot(self._free_slot(number, due[-1].at_ms))]
        return found

    def _earlier(self, known: Known, now_ms: int) -> int:
        """The slot to wait for: another one than was planned where the wall clock went back or
        the zones' rules are new; 0 = the planned one."""
        if known.row.next_ms <= now_ms:     # its jitter runs
            return 0
        return self._next(known, now_ms)

    def _next(self, known: Known, after_ms: int) -> int:
        """The first slot after a moment that was not dealt with; 0 = none."""
        row, timing = known.row, known.timing
        done_ms = max(row.done_ms, after_ms)
        taken: set[int] = set()
        if after_ms < row.done_ms and not timing.paced:
            taken = self.store.peek(schedules.taken, row.id, after_ms, row.done_ms)
        for slot in timing.after(after_ms):
            if slot.at_ms > done_ms or slot.at_ms not in taken:
                return slot.at_ms
        return 0

    def _move(self, known: Known, done_ms: int, next_ms: int, now: Instant) -> None:
        """Write the plan on, and set the next alarm."""
        row, timing = known.row, known.timing
        due_ms = next_ms and next_ms + timing.jitter_ms(row.id, next_ms)
        self._plans[row.id] = Plan(row.id, row.version, timing.paced, done_ms, next_ms, due_ms,
                                   cron.ZONES_VERSION)
        if next_ms:
            self._alarm(row.id, due_ms, timing.paced, now)

    # ------------------------------------------------------------ policies

    def _decide(self, known: Known, due: list[Slot],
                now_ms: int) -> Generator[Command, None, int]:
        """What becomes of slots that are due: late ones by the policy for missed ones. Answers the
        first for which there is no room, 0 = none."""
        body, timing = known.row.body, known.timing
        if len(due) == 1:       # as it mostly is
            slot_ms = due[0].at_ms
            late_ms = now_ms - slot_ms - timing.jitter_ms(known.row.id, slot_ms)
            if late_ms < LATE_MS:
                if not self.room():
                    return slot_ms
                yield from self._one(known, slot_ms, max(0, late_ms), now_ms)
                return 0
        late_by = {slot.at_ms: now_ms - slot.at_ms - timing.jitter_ms(known.row.id, slot.at_ms)
                   for slot in due}
        started, missed = by_policy(body, due, late_by, now_ms)
        if missed:
            last_ms = missed[-1].at_ms
            self._record(Fire(
                known.row.id, last_ms, FireKind.PLANNED, FireState.MISSED, now_ms,
                count=len(missed), late_ms=late_by[last_ms], reason="missed",
                detail=f"first: {cron.local_text(cron.zone_of(body.time_zone), missed[0].at_ms)}"))
        for slot in started:
            if not self.room():
                return slot.at_ms
            yield from self._one(known, slot.at_ms, max(0, late_by[slot.at_ms]), now_ms)
        return 0

    def _one(self, known: Known, slot_ms: int, late_ms: int, now_ms: int) -> Iterator[Command]:
        """One planned slot: by its calendars, then by what goes on."""
        row = known.row
        number, policy = row.id, row.body.overlap_policy
        fire = Fire(number, slot_ms, FireKind.PLANNED, FireState.SKIPPED, now_ms, late_ms=late_ms)
        if name := self.blackout(row.body, slot_ms):
            self._record(msgspec.structs.replace(fire, reason="blackout", detail=name))
            return
        busy, waiting = self.live.get(number), self.queued.get(number)
        if policy == "allow" or not (busy or waiting):
            yield from self._start(known, fire)
            return
        holder = id_text(next(iter(busy))) if busy else ""
        if policy == "skip":
            self._record(msgspec.structs.replace(fire, reason="overlap", detail=holder))
            return
        if policy == "queue" and waiting is not None and len(waiting) >= QUEUE_MAX:
            self._record(msgspec.structs.replace(fire, reason="queue_full", detail=holder))
            return
        if policy == "replace":
            yield from self._clear_way(number, now_ms)
        self._queue(number, Waiting(slot_ms, FireKind.PLANNED, True), now_ms, late_ms, policy)

    def _clear_way(self, number: int, now_ms: int) -> Iterator[Command]:
        """End what goes on; what waited for it is replaced too, but for what a person asked for."""
        waiting = self.queued.pop(number, deque())
        for old in waiting:
            if old.kind == FireKind.PLANNED:
                self._record(Fire(number, old.slot_ms, old.kind, FireState.SKIPPED, now_ms,
                                  reason="replaced"))
        kept = deque(old for old in waiting if old.kind != FireKind.PLANNED)
        if kept:
            self.queued[number] = kept
        for item in list(self.live.get(number, ())):
            yield Cancel(item) if self.core.knows(item) is not None else CancelRun(item)

    def blackout(self, body: ScheduleBody, slot_ms: int) -> str:
        """The calendar that keeps a slot from being started, "" = none."""
        if not body.calendars:
            return ""
        day = cron.local_date(cron.zone_of(body.time_zone), slot_ms)
        for name in body.calendars:
            days = self._days.get(name)
            if days is None:
                row = self.store.peek(schedules.calendar, name)
                days = self._days[name] = Days(() if row is None else row.body.days)
            if day in days:
                return name
        return ""

    # ------------------------------------------------------------ starting

    def begun(self, known: Known, item_id: int, slot_ms: int,
              payload: bytes | None) -> BeginRun | Submit:
        """What the schedule starts, as a command. Raises: PlumError."""
        body = known.row.body
        payload = flow.merge(flow.raw(body.payload), payload)
        if body.workflow_id:
            return begin_run(self.planner, item_id, parse_id(body.workflow_id) or 0, payload)
        found = self.planner.catalog.task_def(parse_id(body.def_id) or 0)
        if found is None:
            raise NotFound("the task definition was deleted")
        return msgspec.structs.replace(self.make_task(found, payload), task_id=item_id,
                                       scheduled_ms=slot_ms)

    def _start(self, known: Known, fire: Fire, item_id: int = 0,
               payload: bytes | None = None) -> Iterator[Command]:
        item_id = item_id or self.new_id()
        try:
            command = self.begun(known, item_id, fire.slot_ms, payload)
        except PlumError as refusal:
            self._record(msgspec.structs.replace(
                fire, state=FireState.FAILED, reason=refusal.code, detail=refusal.detail))
            return
        of_run = isinstance(command, BeginRun)
        self._record(msgspec.structs.replace(
            fire, state=FireState.STARTED, run_id=item_id if of_run else 0,
            task_id=0 if of_run else item_id))
        self._goes_on(fire.schedule_id, fire.slot_ms, item_id)
        yield command

    def _start_queued(self, known: Known, now_ms: int) -> Iterator[Command]:
        """What waits and may go now."""
        number = known.row.id
        waiting = self.queued.get(number)
        for _ in range(STARTS_MAX):
            if waiting is None or not self._may_start(number) or not self.room():
                break
            one = waiting.popleft()
            late_ms = max(0, now_ms - one.slot_ms)
            yield from self._start(known, Fire(number, one.slot_ms, one.kind, FireState.SKIPPED,
                                               now_ms, late_ms=late_ms))
        if waiting is not None and not waiting:
            del self.queued[number]

    def _may_start(self, number: int) -> bool:
        """Whether something is queued that need not wait for what goes on."""
        waiting = self.queued.get(number)
        return bool(waiting and not (waiting[0].alone and number in self.live))

    def _queue(self, number: int, one: Waiting, now_ms: int, late_ms: int, reason: str) -> None:
        self.queued.setdefault(number, deque()).append(one)
        self._record(Fire(number, one.slot_ms, one.kind, FireState.QUEUED, now_ms,
                          alone=one.alone, late_ms=late_ms, reason=reason))

    def _goes_on(self, number: int, slot_ms: int, item_id: int) -> None:
        self.live.setdefault(number, {})[item_id] = slot_ms
        self.of_item[item_id] = (number, slot_ms)

    def _record(self, fire: Fire) -> None:
        self._fires[(fire.schedule_id, fire.slot_ms)] = fire
        self._events.append(("schedule", id_text(fire.schedule_id),
                             schedules.STATES[fire.state], fire.slot_ms, fire.reason,
                             id_text(fire.run_id or fire.task_id)
                             if fire.state == FireState.STARTED else "", fire.at_ms))
        if fire.state == FireState.FAILED:
            self._events.append(("alert", "schedule_failed", id_text(fire.schedule_id),
                                 fire.detail, fire.at_ms))

    def ended(self, item_id: int, now: Instant) -> None:
        """A run or task is over; what waited for it has its turn in the next step."""
        known = self.of_item.pop(item_id, None)
        if known is None:
            return
        number = known[0]
        self._ended.append(known)
        items = self.live[number]
        del items[item_id]
        if not items:
            del self.live[number]
        if number in self.queued:
            self._alarm(number, now.wall_ms, False, now)

    # ------------------------------------------------------------ what people ask for

    def trigger(self, command: Trigger, now: Instant) -> tuple[Reply, list[Command]]:
        """Start it now, whatever goes on."""
        row = self.store.peek(schedules.get, command.schedule_id)
        if row is None:
            return Reply("not_found", "no such schedule"), []
        if not self.room():
            return Reply("too_many", "too many live tasks"), []
        slot_ms = self._free_slot(row.id, now.wall_ms)
        fire = Fire(row.id, slot_ms, FireKind.MANUAL, FireState.SKIPPED, now.wall_ms)
        known = Known(row, self._timing(row))
        starts = list(self._start(known, fire, command.item_id, command.payload))
        return Reply(value=slot_ms), starts

    def backfill(self, command: Backfill, now: Instant) -> Reply:
        """Queue slots of the past; those that were dealt with stay as they are."""
        number = command.schedule_id
        if self.store.peek(schedules.get, number) is None:
            return Reply("not_found", "no such schedule")
        taken = self.store.peek(schedules.taken, number, command.slots[0], command.slots[-1])
        count = 0
        for slot_ms in command.slots:
            if slot_ms in taken or (number, slot_ms) in self._fires:
                continue
            count += 1
            self._queue(number, Waiting(slot_ms, FireKind.BACKFILL, command.alone), now.wall_ms,
                        now.wall_ms - slot_ms, "backfill")
        if count:
            self._alarm(number, now.wall_ms, False, now)
        return Reply(value=count)

    def _free_slot(self, number: int, slot_ms: int) -> int:
        """The first millisecond from slot_ms on that is no slot yet."""
        taken = self.store.peek(schedules.taken, number, slot_ms, slot_ms + 10_000)
        while slot_ms in taken or (number, slot_ms) in self._fires:
            slot_ms += 1
        return slot_ms
