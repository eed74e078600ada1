"""What requests about schedules carry and show, and how a body is checked before it is kept."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from plumd import cron, flow
from plumd.api.task_bodies import Name, RunAsked, run_of
from plumd.api.task_views import NULL, id_of, time_of
from plumd.bodies import ScheduleBody, TaskDefBody
from plumd.cron import CronError, Timing
from plumd.errors import Invalid, TooLarge
from plumd.flow.data import read
from plumd.model import INLINE_BYTES_MAX, TASK_STATES, Submit, id_text, parse_id
from plumd.schedules import Schedules
from plumd.store.definitions import Catalog, Versioned
from plumd.store.schedules import KINDS, STATES, CalendarRow, FireRow, FireState, ScheduleRow

Gap = Literal["skip", "shift"]
Overlap = Literal["first", "second", "both"]
OverlapPolicy = Literal["allow", "skip", "queue", "replace"]
MissedPolicy = Literal["skip", "last", "all"]
Moment = Annotated[int, Meta(ge=0, le=cron.LAST_S * 1000)]
CalendarName = Annotated[str, Meta(min_length=1, max_length=100)]
CALENDARS_MAX: Final = 20
WINDOW_SEC_MAX: Final = 366 * 86_400
DAYS_MAX: Final = 5_000


class ScheduleWrite(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                    omit_defaults=True):
    """A schedule as it is written: one of cron, everySec and at; one of workflowId and defId."""

    name: Name
    workflow_id: str | None = None
    def_id: str | None = None
    payload: Raw | UnsetType = UNSET
    cron: Annotated[str, Meta(max_length=1_000)] | None = None
    every_sec: Annotated[float, Meta(ge=1, le=315_360_000)] | None = None
    at: Moment | None = None
    time_zone: Annotated[str, Meta(max_length=100)] = "UTC"
    dst_gap: Gap = "shift"
    dst_overlap: Overlap | None = None
    overlap_policy: OverlapPolicy = "skip"
    missed_policy: MissedPolicy = "last"
    missed_window_sec: Annotated[float, Meta(ge=0, le=WINDOW_SEC_MAX)] = 86_400
    jitter_sec: Annotated[float, Meta(ge=0, le=86_400)] = 0
    start_at: Moment | None = None
    end_at: Moment | None = None
    calendars: Annotated[tuple[CalendarName, ...], Meta(max_length=CALENDARS_MAX)] = ()
    enabled: bool = True
    description: Annotated[str, Meta(max_length=10_000)] = ""


class CalendarWrite(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                    omit_defaults=True):
    """A calendar: 2026-12-25, --12-25 (every year) or 2026-12-24/2027-01-02."""

    days: Annotated[tuple[Annotated[str, Meta(max_length=30)], ...], Meta(max_length=DAYS_MAX)]
    description: Annotated[str, Meta(max_length=10_000)] = ""


class TriggerAsked(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                   omit_defaults=True):
    """What an action takes: trigger a payload, which lies over the schedule's; backfill from and
    to, and whether its runs go side by side (allow) or one after another (queue)."""

    payload: Raw | UnsetType = UNSET
    from_: Moment | None = msgspec.field(default=None, name="from")
    to: Moment | None = None
    overlap_policy: Literal["allow", "queue"] | None = None


class ScheduleView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A schedule. nextAt: its next slot, null = none ahead; lastAt: the latest that came by its
    time; lastFire: what became of the latest, those by hand too; running: what it started and
    what goes on; queued: how many slots wait for that."""

    schedule_id: str
    version: int
    name: str
    enabled: bool
    workflow_id: str | None
    def_id: str | None
    payload: Raw
    cron: str | None
    every_sec: float | None
    at: int | None
    time_zone: str
    dst_gap: str
    dst_overlap: str
    overlap_policy: str
    missed_policy: str
    missed_window_sec: float
    jitter_sec: float
    start_at: int | None
    end_at: int | None
    calendars: tuple[str, ...]
    description: str
    next_at: int | None
    last_at: int | None
    last_fire: FireView | None
    running: tuple[str, ...]
    queued: int
    created_at: int
    updated_at: int


class SlotView(msgspec.Struct, frozen=True, rename="camel"):
    """A slot to come. at: the slot; local: as its zone's wall shows it; startsAt: with its jitter;
    dst: gap-shifted, first, second or null; blackout: the calendar that keeps it from starting."""

    at: int
    local: str
    offset_sec: int
    starts_at: int
    dst: str | None
    blackout: str | None


class FireView(msgspec.Struct, frozen=True, rename="camel"):
    """What became of a slot. count: how many missed slots it stands for; outcome: the state of
    what it started; waitsFor: what a queued one waits for."""

    slot: int
    local: str
    kind: str
    state: str
    reason: str | None
    detail: str | None
    count: int
    late_sec: float
    at: int
    run_id: str | None
    task_id: str | None
    outcome: str | None
    waits_for: tuple[str, ...] = ()


class BackfillView(msgspec.Struct, frozen=True, rename="camel"):
    """What a backfill came to: slots in the range, those that were queued now."""

    slots: int
    queued: int


class CalendarView(msgspec.Struct, frozen=True, rename="camel"):
    """A calendar."""

    name: str
    version: int
    days: tuple[str, ...]
    description: str
    updated_at: int


def scheduled_task(found: Versioned[TaskDefBody], payload: bytes | None) -> Submit:
    """The task that a schedule starts, checked like one that is asked for by hand.

    Raises: Invalid, TooLarge.
    """
    return run_of(found, RunAsked(payload=UNSET if payload is None else Raw(payload)))


def body_of(given: ScheduleWrite, catalog: Catalog) -> ScheduleBody:
    """The schedule, with everything checked that can be checked before it fires.

    Raises: Invalid, TooLarge.
    """
    if sum(value is not None for value in (given.cron, given.every_sec, given.at)) != 1:
        raise Invalid("a schedule has one of cron, everySec and at", field="cron")
    if given.start_at is not None and given.end_at is not None and given.end_at < given.start_at:
        raise Invalid("it ends before it starts", field="endAt")
    if len(set(given.calendars)) != len(given.calendars):
        raise Invalid("a calendar is named twice", field="calendars")
    check_payload(flow.raw(given.payload))
    workflow_id, def_id = target_of(given, catalog)
    overlap = given.dst_overlap or ""
    body = ScheduleBody(
        name=given.name, workflow_id=workflow_id, def_id=def_id, payload=given.payload,
        cron=given.cron, every_sec=given.every_sec, at=given.at, time_zone=given.time_zone,
        dst_gap=given.dst_gap, dst_overlap=overlap, overlap_policy=given.overlap_policy,
        missed_policy=given.missed_policy, missed_window_sec=given.missed_window_sec,
        jitter_sec=given.jitter_sec, start_at=given.start_at, end_at=given.end_at,
        calendars=given.calendars, enabled=given.enabled, description=given.description)
    try:
        timing = Timing(body, 0)
    except CronError as error:
        raise Invalid(str(error), field=error.field) from None
    if isinstance(timing.rule, cron.Cron):
        body = msgspec.structs.replace(body, dst_overlap=timing.rule.overlap)
    return body


def check_payload(payload: bytes | None) -> None:
    """Raises: TooLarge, Invalid."""
    if payload is not None and len(payload) > INLINE_BYTES_MAX:
        raise TooLarge(f"a schedule's payload takes at most {INLINE_BYTES_MAX} bytes",
                       field="payload")
    if payload is not None:
        read(payload, "payload")


def target_of(given: ScheduleWrite, catalog: Catalog) -> tuple[str, str]:
    """(workflow id, definition id), one of them "". Raises: Invalid."""
    if (given.workflow_id is None) == (given.def_id is None):
        raise Invalid("a schedule starts one of workflowId and defId", field="workflowId")
    if given.workflow_id is not None:
        workflow = catalog.workflow(parse_id(given.workflow_id) or 0)
        if workflow is None:
            raise Invalid("no such workflow", field="workflowId")
        return id_text(workflow.id), ""
    found = catalog.task_def(parse_id(given.def_id or "") or 0)
    if found is None:
        raise Invalid("no such task definition", field="defId")
    scheduled_task(found, flow.raw(given.payload))
    return "", id_text(found.id)


def schedule_view(row: ScheduleRow, last: FireRow | None, schedules: Schedules) -> ScheduleView:
    """A schedule as the API shows it. last: what became of its latest slot."""
    body = row.body
    return ScheduleView(
        schedule_id=id_text(row.id), version=row.version, name=body.name, enabled=body.enabled,
        workflow_id=body.workflow_id or None, def_id=body.def_id or None,
        payload=NULL if body.payload is UNSET else body.payload, cron=body.cron,
        every_sec=body.every_sec, at=body.at, time_zone=body.time_zone, dst_gap=body.dst_gap,
        dst_overlap=body.dst_overlap or "first", overlap_policy=body.overlap_policy,
        missed_policy=body.missed_policy, missed_window_sec=body.missed_window_sec,
        jitter_sec=body.jitter_sec, start_at=body.start_at, end_at=body.end_at,
        calendars=body.calendars, description=body.description, next_at=time_of(row.next_ms),
        last_at=time_of(row.done_ms),
        last_fire=None if last is None else fire_view(last, row, schedules),
        running=tuple(id_text(item) for item in schedules.live.get(row.id, ())),
        queued=len(schedules.queued.get(row.id, ())), created_at=row.created_ms,
        updated_at=row.updated_ms)


def slot_views(timing: Timing, number: int, after_ms: int, count: int,
               schedules: Schedules) -> list[SlotView]:
    """The next slots after a moment."""
    zone = cron.zone_of(timing.body.time_zone)
    found = []
    for slot in timing.after(after_ms):
        found.append(SlotView(
            slot.at_ms, cron.local_text(zone, slot.at_ms), cron.offset_s(zone, slot.at_ms // 1000),
            slot.at_ms + timing.jitter_ms(number, slot.at_ms), slot.dst or None,
            schedules.blackout(timing.body, slot.at_ms) or None))
        if len(found) == count:
            break
    return found


def fire_view(row: FireRow, of: ScheduleRow, schedules: Schedules) -> FireView:
    """A slot's history as the API shows it."""
    waits: tuple[str, ...] = ()
    if row.state == FireState.QUEUED:
        waits = tuple(id_text(item) for item in schedules.live.get(of.id, ()))
    return FireView(
        row.slot_ms, cron.local_text(cron.zone_of(of.body.time_zone), row.slot_ms),
        KINDS[row.kind], STATES[row.state], row.reason or None, row.detail or None, row.count,
        row.late_ms / 1000, row.at_ms, id_of(row.run_id), id_of(row.task_id),
        None if row.outcome is None else TASK_STATES[row.outcome], waits)


def calendar_view(row: CalendarRow) -> CalendarView:
    """A calendar as the API shows it."""
    return CalendarView(row.name, row.version, row.body.days, row.body.description,
                        row.updated_ms)
