"""Schedules, their plans, what became of their slots, and calendars."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import apsw
import msgspec

from plumd import cron
from plumd.bodies import ScheduleBody
from plumd.errors import Exists, NotFound, WrongState
from plumd.model import id_text
from plumd.store import precondition, sql

if TYPE_CHECKING:
    from plumd.store.store import Tx

SQL: Final = sql.load("schedules")
ENCODE: Final = msgspec.json.Encoder().encode
DECODE: Final = msgspec.json.Decoder(ScheduleBody).decode
PAUSED: Final = "paused"


class FireKind(IntEnum):
    """Who asked for it."""

    PLANNED = 0
    MANUAL = 1
    BACKFILL = 2


class FireState(IntEnum):
    """What became of a slot."""

    QUEUED = 0      # waits for what an earlier one started
    STARTED = 1
    SKIPPED = 2     # by a policy, a calendar or a pause
    MISSED = 3      # the daemon was away
    FAILED = 4      # what it starts could not be started


KINDS: Final = tuple(kind.name.lower() for kind in FireKind)
STATES: Final = tuple(state.name.lower() for state in FireState)


class CalendarBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Days on which nothing is started."""

    days: tuple[str, ...]
    description: str = ""


CALENDAR: Final = msgspec.json.Decoder(CalendarBody).decode


class ScheduleRow(msgspec.Struct, frozen=True):
    """A schedule with its plan. next_ms, due_ms: 0 = nothing lies ahead."""

    id: int
    version: int
    body: ScheduleBody
    created_ms: int
    updated_ms: int
    done_ms: int
    next_ms: int
    due_ms: int


class Plan(msgspec.Struct, frozen=True):
    """When a schedule fires next, as it is written."""

    schedule_id: int
    version: int
    paced: bool
    done_ms: int
    next_ms: int
    due_ms: int
    zones: str


class Fire(msgspec.Struct, frozen=True):
    """What became of a slot, as it is written."""

    schedule_id: int
    slot_ms: int
    kind: int
    state: int
    at_ms: int
    alone: bool = False
    count: int = 1
    late_ms: int = 0
    run_id: int = 0
    task_id: int = 0
    reason: str = ""
    detail: str = ""


class FireRow(msgspec.Struct, frozen=True):
    """The same as it is read. outcome: the state of what it started, None = gone or none."""

    slot_ms: int
    kind: int
    state: int
    count: int
    late_ms: int
    at_ms: int
    run_id: int
    task_id: int
    reason: str
    detail: str
    outcome: int | None


class CalendarRow(msgspec.Struct, frozen=True):
    """A calendar."""

    name: str
    version: int
    body: CalendarBody
    updated_ms: int


class Moves(msgspec.Struct):
    """What one step does to schedules: rows, and by how much the wall clock was set (ms)."""

    fires: Sequence[Fire] = ()
    plans: Sequence[Plan] = ()
    ended: Sequence[tuple[int, int]] = ()
    shift_ms: int = 0

    @property
    def weight(self) -> int:
        """About how many rows it writes."""
        return len(self.fires) + len(self.plans) + len(self.ended) + (256 if self.shift_ms else 0)


def write(db: apsw.Connection, moves: Moves) -> None:
    """The rows of one step."""
    if moves.shift_ms:
        db.execute(SQL["shift_paced"], (moves.shift_ms, moves.shift_ms))
    if moves.fires:
        db.executemany(SQL["put_fire"], [
            (one.schedule_id, one.slot_ms, one.kind, one.state, int(one.alone),
             int(one.state == FireState.STARTED), one.count, one.late_ms, one.at_ms, one.run_id,
             one.task_id, one.reason, one.detail) for one in moves.fires])
    if moves.plans:
        db.executemany(SQL["move_plan"], [
            (one.done_ms, one.next_ms, one.due_ms, one.zones, one.schedule_id, one.version)
            for one in moves.plans])
    if moves.ended:
        db.executemany(SQL["end_fire"], moves.ended)


Shape = tuple[int, int, bytes, int, int, int, int, int]


def row_of(row: Shape) -> ScheduleRow:
    """A row as a Struct. Raises: msgspec.DecodeError."""
    return ScheduleRow(row[0], row[1], DECODE(row[2]), *row[3:])


def get(db: apsw.Connection, number: int) -> ScheduleRow | None:
    """One schedule by id, or None."""
    for row in db.execute(SQL["get"], (number,)):
        return row_of(row)
    return None


LookShape = tuple[int, int, bytes, int, int, int, int, int, int]


def look(db: apsw.Connection, numbers: Sequence[int]) -> list[LookShape]:
    """The rows of several schedules, for `looked`."""
    return list(sql.rows(db, SQL["look"], (ENCODE(numbers).decode(),)))


def looked(row: LookShape) -> tuple[ScheduleRow, bool]:
    """A schedule, and whether its next slot has been dealt with. Raises: msgspec.DecodeError."""
    return ScheduleRow(row[0], row[1], DECODE(row[2]), row[3], row[4], row[5], row[6],
                       row[7]), bool(row[8])


def by_name(db: apsw.Connection, name: str) -> ScheduleRow | None:
    """One schedule by name, or None."""
    for row in db.execute(SQL["get_by_name"], (name,)):
        return row_of(row)
    return None


def page(db: apsw.Connection, before: int,
         limit: int) -> list[tuple[ScheduleRow, FireRow | None]]:
    """One page with the latest fires, newest first; before 0 = from the newest."""
    rows = [row_of(row) for row in db.execute(SQL["page"], (before or (1 << 63) - 1, limit))]
    fired = latest(db, [row.id for row in rows])
    return [(row, fired.get(row.id)) for row in rows]


def create(tx: Tx, number: int, body: ScheduleBody, plan: Plan) -> ScheduleRow:
    """Add a schedule. Raises: Exists when the name is taken, NotFound for a calendar."""
    if by_name(tx.db, body.name) is not None:
        raise Exists(f"a schedule named {body.name!r} exists", field="name")
    tx.db.execute(SQL["insert"], (number, body.name, ENCODE(body), target_of(body), tx.now_ms,
                                  tx.now_ms))
    _put_plan(tx, plan)
    _use_calendars(tx, number, body)
    tx.emit("schedule", id_text(number), "created", body.name, tx.now_ms)
    return ScheduleRow(number, 1, body, tx.now_ms, tx.now_ms, plan.done_ms, plan.next_ms,
                       plan.due_ms)


def update(tx: Tx, old: ScheduleRow, body: ScheduleBody, plan: Plan,
           if_version: int | None, *, keeps: bool = False) -> ScheduleRow:
    """Write a schedule anew, by the row that the caller has seen. keeps: its slots are what they
    were, and those that were started since then lie behind it.

    Raises: NotFound, VersionMismatch, Exists; WrongState when the row has changed meanwhile.
    """
    now = get(tx.db, old.id)
    if now is None:
        raise NotFound("no such schedule")
    precondition.check(now.version, if_version)
    precondition.still(now.version, old.version)
    if body.name != now.body.name and by_name(tx.db, body.name) is not None:
        raise Exists(f"a schedule named {body.name!r} exists", field="name")
    tx.db.execute(SQL["update"], (body.name, plan.version, ENCODE(body), target_of(body),
                                  tx.now_ms, old.id))
    plan = msgspec.structs.replace(plan, done_ms=max(plan.done_ms, now.done_ms))
    if keeps and now.next_ms != old.next_ms:
        plan = msgspec.structs.replace(plan, next_ms=now.next_ms, due_ms=now.next_ms and (
            now.next_ms + cron.jitter_ms(body, old.id, now.next_ms)))
    _put_plan(tx, plan)
    tx.db.execute(SQL["leave_calendars"], (old.id,))
    _use_calendars(tx, old.id, body)
    if now.body.enabled and not body.enabled:
        tx.db.execute(SQL["drop_queued"], (PAUSED, tx.now_ms, old.id))
    what = "updated"
    if now.body.enabled != body.enabled:
        what = "resumed" if body.enabled else "paused"
    tx.emit("schedule", id_text(old.id), what, body.name, tx.now_ms)
    return ScheduleRow(old.id, plan.version, body, old.created_ms, tx.now_ms, now.done_ms,
                       plan.next_ms, plan.due_ms)


def target_of(body: ScheduleBody) -> str:
    """The id of what it starts."""
    return body.workflow_id or body.def_id


def _put_plan(tx: Tx, plan: Plan) -> None:
    tx.db.execute(SQL["put_plan"], (plan.schedule_id, plan.version, int(plan.paced), plan.done_ms,
                                    plan.next_ms, plan.due_ms, plan.zones))


def _use_calendars(tx: Tx, number: int, body: ScheduleBody) -> None:
    for index, name in enumerate(body.calendars):
        if calendar(tx.db, name) is None:
            raise NotFound(f"there is no calendar {name!r}", field=f"calendars[{index}]")
        tx.db.execute(SQL["use_calendar"], (name, number))


def delete(tx: Tx, number: int, if_version: int | None) -> None:
    """Remove a schedule; what it started goes on, its history goes by age.

    Raises: NotFound, VersionMismatch.
    """
    old = get(tx.db, number)
    if old is None:
        raise NotFound("no such schedule")
    precondition.check(old.version, if_version)
    tx.db.execute(SQL["drop_queued"], ("deleted", tx.now_ms, number))
    tx.db.execute(SQL["leave_calendars"], (number,))
    tx.db.execute(SQL["delete_plan"], (number,))
    tx.db.execute(SQL["delete"], (number,))
    tx.emit("schedule", id_text(number), "deleted", old.body.name, tx.now_ms)


# ---------------------------------------------------------------- plans

def plans(db: apsw.Connection) -> list[tuple[int, int, int, str]]:
    """(id, paced, due_ms, zones) of all schedules with something ahead."""
    return list(sql.rows(db, SQL["plans"]))


def ahead(db: apsw.Connection, now_ms: int) -> list[int]:
    """The schedules by the wall that have fired in times that lie ahead of now."""
    return [row[0] for row in db.execute(SQL["ahead"], (now_ms,))]


# ---------------------------------------------------------------- fires

def queued(db: apsw.Connection) -> list[tuple[int, int, int, int]]:
    """(schedule_id, slot_ms, kind, alone) of all that waits, oldest slots first."""
    return list(sql.rows(db, SQL["queued"]))


def live(db: apsw.Connection) -> list[tuple[int, int, int, int]]:
    """(schedule_id, slot_ms, run_id, task_id) of all that goes on."""
    return list(sql.rows(db, SQL["live"]))


def taken(db: apsw.Connection, number: int, from_ms: int, to_ms: int) -> set[int]:
    """The slots of [from_ms, to_ms] that were dealt with; missed ones are not."""
    return {row[0] for row in db.execute(SQL["taken"], (number, from_ms, to_ms))}


FireShape = tuple[int, int, int, int, int, int, int, int, str, str, int | None, int | None]


def fire_of(row: FireShape) -> FireRow:
    """A row as a Struct."""
    return FireRow(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9],
                   row[10] if row[10] is not None else row[11])


def fire(db: apsw.Connection, number: int, slot_ms: int) -> FireRow | None:
    """What became of one slot, or None."""
    for row in db.execute(SQL["fire"], (number, slot_ms)):
        return fire_of(row)
    return None


def latest(db: apsw.Connection, numbers: Sequence[int]) -> dict[int, FireRow]:
    """What became of the latest slot of each schedule that has a history."""
    return {row[0]: fire_of(row[1:])
            for row in db.execute(SQL["latest"], (ENCODE(numbers).decode(),))}


def fires(db: apsw.Connection, number: int, state: int | None, before: int,
          limit: int) -> list[FireRow]:
    """One page of a schedule's history, newest slot first."""
    low, high = (0, max(FireState)) if state is None else (state, state)
    found = db.execute(SQL["fires"], (number, before or (1 << 63) - 1, low, high, limit))
    return [fire_of(row) for row in found]


def prune(db: apsw.Connection, before_ms: int, count: int) -> int:
    """Forget up to count slots that were decided before a time and whose work is over."""
    db.execute(SQL["prune"], (before_ms, count))
    return db.changes()


# ---------------------------------------------------------------- calendars

def calendar(db: apsw.Connection, name: str) -> CalendarRow | None:
    """One calendar, or None."""
    for row in db.execute(SQL["calendar"], (name,)):
        return CalendarRow(row[0], row[1], CALENDAR(row[2]), row[3])
    return None


def calendars(db: apsw.Connection, after: str, limit: int) -> list[CalendarRow]:
    """One page, by name."""
    return [CalendarRow(row[0], row[1], CALENDAR(row[2]), row[3])
            for row in db.execute(SQL["calendars"], (after, limit))]


def put_calendar(tx: Tx, name: str, body: CalendarBody, if_version: int | None) -> CalendarRow:
    """Write a calendar. Raises: VersionMismatch."""
    old = calendar(tx.db, name)
    version = precondition.ABSENT if old is None else old.version
    precondition.check(version, if_version)
    tx.db.execute(SQL["put_calendar"], (name, version + 1, ENCODE(body), tx.now_ms))
    tx.emit("calendar", name, "created" if old is None else "updated", tx.now_ms)
    return CalendarRow(name, version + 1, body, tx.now_ms)


def delete_calendar(tx: Tx, name: str, if_version: int | None) -> None:
    """Remove a calendar. Raises: NotFound, VersionMismatch; WrongState while a schedule uses it."""
    old = calendar(tx.db, name)
    if old is None:
        raise NotFound("no such calendar")
    precondition.check(old.version, if_version)
    for row in tx.db.execute(SQL["uses_calendar"], (name,)):
        raise WrongState(f"the schedule {row[0]!r} uses this calendar")
    tx.db.execute(SQL["delete_calendar"], (name,))
    tx.emit("calendar", name, "deleted", tx.now_ms)
