"""/v1/schedules and /v1/calendars: what is started when, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from plumd import cron, flow
from plumd import schedules as room
from plumd.api.context import (
    Context,
    Note,
    again_as_it_was,
    answer,
    etag,
    id_param,
    once,
    replayed,
)
from plumd.api.decode import strict
from plumd.api.openapi import IDEMPOTENCY_KEY, IF_MATCH, IF_NONE_MATCH
from plumd.api.paging import CURSOR, LIMIT, cursor_id, cursor_key, page_limit, page_of
from plumd.api.params import idempotency_key, if_version, query_action, query_choice, query_int
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.schedule_bodies import (
    BackfillView,
    CalendarView,
    CalendarWrite,
    FireView,
    ScheduleView,
    ScheduleWrite,
    SlotView,
    TriggerAsked,
    body_of,
    calendar_view,
    check_payload,
    fire_view,
    schedule_view,
    slot_views,
)
from plumd.api.tasks import BODY_MAX
from plumd.bodies import ScheduleBody
from plumd.cron import CronError, Days, Timing
from plumd.engine import Ask
from plumd.errors import CODES, Invalid, NotFound
from plumd.model import id_text, parse_id
from plumd.schedules import Backfill, Trigger
from plumd.slots import keeps_slots, plan_of
from plumd.store import precondition, schedules
from plumd.store.keys import Answer
from plumd.store.schedules import STATES, CalendarBody, CalendarRow, Plan, ScheduleRow
from plumd.store.store import Call, Tx

PREVIEW_MAX: Final = 500
BACKFILL_MAX: Final = 10_000
NAME_MAX: Final = 100
ENCODE: Final = msgspec.json.Encoder().encode
ACTIONS: Final = ("pause", "resume", "trigger", "backfill")


class Schedules:
    """The handlers."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.engine = context.engine
        self.store = context.store

    @property
    def room(self) -> room.Schedules:
        """The engine's own, which is made anew when the disk was away."""
        return self.engine.schedules

    # ------------------------------------------------------------ writing

    async def save(self, number: int, write: Call) -> None:
        """Run a store command; the alarm is set by the row before anything else is decided."""
        await self.engine.write(write, then=lambda _: self.room.rearm(
            number, self.engine.clock.now()))

    def planned(self, number: int, version: int, body: ScheduleBody,
                before: ScheduleRow | None = None) -> Plan:
        """The plan of a body. Raises: Invalid when it would never fire."""
        plan = plan_of(number, version, body, self.engine.clock.now().wall_ms, before)
        if body.enabled and plan.next_ms == 0:
            field = "endAt" if body.end_at is not None else "at" if body.at is not None else "cron"
            raise Invalid("nothing of it lies ahead, so it would never fire", field=field)
        return plan

    async def create(self, request: Request) -> Response:
        """A new schedule; its name is free."""

        async def fresh(note: Note) -> Response:
            body = body_of(strict(request.body, ScheduleWrite), self.context.catalog)
            number = self.engine.new_id()
            plan = self.planned(number, 1, body)
            location = f"/v1/schedules/{id_text(number)}"

            def write(tx: Tx) -> None:
                schedules.create(tx, number, body, plan)
                note.write(tx, 201, id_text(number).encode(), location)

            await self.save(number, write)
            return self.shown(number, 201, ("location", location))

        async def again(known: Answer) -> Response:
            return self.shown(parse_id(known.body.decode()) or 0, known.status, *replayed(known))

        return await once(self.context, request, fresh, again)

    def current(self, number: int) -> ScheduleRow:
        """Raises: NotFound."""
        row = self.store.peek(schedules.get, number)
        if row is None:
            raise NotFound("no such schedule")
        return row

    def known(self, request: Request) -> ScheduleRow:
        """The schedule that the path names. Raises: NotFound."""
        return self.current(id_param(request, "schedule"))

    def shown(self, number: int, status: int, *headers: tuple[str, str]) -> Response:
        """A schedule as it is now."""
        row = self.current(number)
        return answer(status, self.view(row), *headers, etag(row.version))

    def view(self, row: ScheduleRow) -> ScheduleView:
        """A schedule with what became of its latest slot."""
        last = self.store.peek(schedules.latest, [row.id]).get(row.id)
        return schedule_view(row, last, self.room)

    async def get(self, request: Request) -> Response:
        """One schedule."""
        return self.shown(self.known(request).id, 200)

    async def update(self, request: Request) -> Response:
        """Write it anew; slots of the new timing begin now."""
        row = self.known(request)
        body = body_of(strict(request.body, ScheduleWrite), self.context.catalog)
        return await self.replace(row, body, if_version(request.headers))

    async def replace(self, row: ScheduleRow, body: ScheduleBody,
                      version: int | None) -> Response:
        """A new version of a schedule."""
        plan = self.planned(row.id, row.version + 1, body, row)
        keeps = keeps_slots(row, body)
        await self.save(row.id, lambda tx: schedules.update(tx, row, body, plan, version,
                                                            keeps=keeps))
        return self.shown(row.id, 200)

    async def delete(self, request: Request) -> Response:
        """Remove a schedule; what it started goes on."""
        row, version = self.known(request), if_version(request.headers)
        await self.save(row.id, lambda tx: schedules.delete(tx, row.id, version))
        return Response(204)

    async def page(self, request: Request) -> Response:
        """Newest first, or the one with ?name=."""
        if name := request.query.get("name"):
            one = self.store.peek(schedules.by_name, name)
            return answer(200, [] if one is None else [self.view(one)])
        limit = page_limit(request)
        rows = await self.store.read(schedules.page, cursor_id(request), limit + 1)
        return page_of(request, rows, limit, lambda row: schedule_view(*row, self.room),
                       lambda row: row[0].id)

    # ------------------------------------------------------------ actions

    async def act(self, request: Request) -> Response:
        """?action=pause, resume, trigger or backfill"""
        action = query_action(request.query, ACTIONS)
        row = self.known(request)
        asked = strict(request.body, TriggerAsked) if request.body.strip() else TriggerAsked()
        idempotency_key(request.headers)    # one that is none is refused, also where none is needed
        version = if_version(request.headers)
        if action in ("pause", "resume"):
            enabled = action == "resume"
            if row.body.enabled == enabled:
                precondition.check(row.version, version)
                return self.shown(row.id, 200)
            body = msgspec.structs.replace(row.body, enabled=enabled)
            return await self.replace(row, body, version)
        carry_out = self.trigger if action == "trigger" else self.backfill
        return await carry_out(row, asked, request)

    async def carried_out(self, command: Trigger | Backfill, note: Note,
                          told: Callable[[int], bytes]) -> int:
        """What a command came to; with a key it is remembered in the same commit.

        Raises: NotFound, TooMany, and as Engine.call_all.
        """
        asks: list[Ask] = []

        def write(tx: Tx) -> None:
            reply = asks[0].replies[0]
            if reply.ok:
                note.write(tx, 202, told(reply.value))

        asks.append(self.engine.post((command,), write if note else None))
        await asks[0].done.wait()
        if asks[0].error is not None:
            raise asks[0].error
        reply = asks[0].replies[0]
        if reply.code:
            raise CODES[reply.code](reply.detail)
        return reply.value

    async def trigger(self, row: ScheduleRow, asked: TriggerAsked, request: Request) -> Response:
        """Start it now; answers what was started."""
        payload = flow.raw(asked.payload)
        check_payload(payload)

        async def fresh(note: Note) -> Response:
            slot_ms = await self.carried_out(
                Trigger(row.id, self.engine.new_id(), payload), note,
                lambda slot: str(slot).encode())
            return self.fired(row, slot_ms)

        async def again(known: Answer) -> Response:
            return self.fired(row, int(known.body), *replayed(known))

        return await once(self.context, request, fresh, again)

    def fired(self, row: ScheduleRow, slot_ms: int, *headers: tuple[str, str]) -> Response:
        """What became of a slot."""
        fire = self.store.peek(schedules.fire, row.id, slot_ms)
        if fire is None:
            raise NotFound("no such schedule")
        return answer(201, fire_view(fire, row, self.room), *headers)

    async def backfill(self, row: ScheduleRow, asked: TriggerAsked, request: Request) -> Response:
        """Queue the slots of a range that nothing was started for."""
        if asked.from_ is None or asked.to is None:
            raise Invalid("a backfill takes from and to",
                          field="from" if asked.from_ is None else "to")
        if not asked.from_ <= asked.to <= self.engine.clock.now().wall_ms:
            raise Invalid("to lies behind from, and not ahead of now", field="to")
        policy = asked.overlap_policy or (
            "allow" if row.body.overlap_policy == "allow" else "queue")
        slots = cron.slots_between(self.timing(row.body, row.next_ms, back=True), asked.from_,
                                   asked.to, BACKFILL_MAX + 1)
        if len(slots) > BACKFILL_MAX:
            raise Invalid(f"there are more than {BACKFILL_MAX:,} slots between; take a shorter "
                          "range", field="to")
        wanted = tuple(slot.at_ms for slot in slots
                       if not self.room.blackout(row.body, slot.at_ms))

        async def fresh(note: Note) -> Response:
            count = 0
            if wanted:
                count = await self.carried_out(
                    Backfill(row.id, wanted, policy == "queue"), note,
                    lambda value: ENCODE(BackfillView(len(slots), value)))
            return answer(202, BackfillView(len(slots), count))

        return await once(self.context, request, fresh, again_as_it_was)

    # ------------------------------------------------------------ looking

    def timing(self, body: ScheduleBody, anchor_ms: int, *, back: bool = False) -> Timing:
        """The timing of a body; back: an interval's reaches back before its next slot.

        Raises: Invalid.
        """
        try:
            anchor_ms = anchor_ms or cron.first_anchor(body, self.engine.clock.now().wall_ms)
            if back and body.every_sec is not None:
                anchor_ms %= round(body.every_sec * 1000)
            return Timing(body, anchor_ms)
        except CronError as error:
            raise Invalid(str(error), field=error.field) from None

    def asked_slots(self, request: Request) -> tuple[int, int]:
        """(how many slots, behind which Unix ms). Raises: Invalid."""
        count = query_int(request.query, "count", 50, low=1, high=PREVIEW_MAX)
        now_ms = self.engine.clock.now().wall_ms
        begin = query_int(request.query, "from", now_ms + 1, low=0, high=cron.LAST_S * 1000)
        return count, begin - 1

    def slots(self, request: Request, number: int, body: ScheduleBody,
              anchor_ms: int) -> Response:
        """The next slots."""
        count, after_ms = self.asked_slots(request)
        for index, name in enumerate(body.calendars):
            if self.store.peek(schedules.calendar, name) is None:
                raise Invalid(f"there is no calendar {name!r}", field=f"calendars[{index}]")
        return answer(200, slot_views(self.timing(body, anchor_ms), number, after_ms, count,
                                      self.room))

    async def preview(self, request: Request) -> Response:
        """The next slots of a schedule."""
        row = self.known(request)
        return self.slots(request, row.id, row.body, row.next_ms)

    async def preview_body(self, request: Request) -> Response:
        """The next slots of a body that is not saved."""
        self.asked_slots(request)       # a query that is wrong is told before the body
        return self.slots(request, 0, body_of(strict(request.body, ScheduleWrite),
                                              self.context.catalog), 0)

    async def fires(self, request: Request) -> Response:
        """What became of the slots, newest first."""
        row = self.known(request)
        state = query_choice(request.query, "state", STATES)
        limit = page_limit(request)
        rows = await self.store.read(
            schedules.fires, row.id, STATES.index(state) if state else None, cursor_id(request),
            limit + 1)
        return page_of(request, rows, limit, lambda fire: fire_view(fire, row, self.room),
                       lambda fire: fire.slot_ms)

    # ------------------------------------------------------------ calendars

    async def calendars(self, request: Request) -> Response:
        """All calendars, by name."""
        limit = page_limit(request)
        rows = await self.store.read(schedules.calendars, cursor_key(request) or "", limit + 1)
        return page_of(request, rows, limit, calendar_view, lambda row: row.name)

    async def calendar(self, request: Request) -> Response:
        """One calendar."""
        row = self.known_calendar(request)
        return answer(200, calendar_view(row), etag(row.version))

    def known_calendar(self, request: Request) -> CalendarRow:
        """The calendar that the path names. Raises: NotFound."""
        row = self.store.peek(schedules.calendar, request.params["name"])
        if row is None:
            raise NotFound("no such calendar")
        return row

    async def put_calendar(self, request: Request) -> Response:
        """Write a calendar; schedules that use it see it at once."""
        name = calendar_name(request.params["name"])
        given = strict(request.body, CalendarWrite)
        try:
            Days(given.days)
        except CronError as error:
            raise Invalid(str(error), field=error.field) from None
        body, version = CalendarBody(given.days, given.description), if_version(request.headers)
        row = await self.engine.write(
            lambda tx: schedules.put_calendar(tx, name, body, version),
            then=lambda _: self.room.forget_calendars())
        return answer(200, calendar_view(row), etag(row.version))

    async def delete_calendar(self, request: Request) -> Response:
        """Remove a calendar that no schedule uses."""
        name = self.known_calendar(request).name
        version = if_version(request.headers)
        await self.engine.write(lambda tx: schedules.delete_calendar(tx, name, version),
                                then=lambda _: self.room.forget_calendars())
        return Response(204)


def calendar_name(text: str) -> str:
    """A calendar's name. Raises: Invalid."""
    if not 0 < len(text) <= NAME_MAX or "/" in text or not text.isprintable():
        raise Invalid(f"a calendar's name has 1 to {NAME_MAX} printable characters and no /",
                      field="name")
    return text


def routes(handlers: Schedules) -> list[Route]:
    """The table's part about schedules."""
    tag, calendars = "schedules", "/v1/calendars/{name}"
    read = partial(Route, tag=tag, permission="schedules:read")
    write = partial(Route, tag=tag, permission="schedules:write")
    one = "/v1/schedules/{id}"
    ahead = (Query("count", int, f"How many, 1 to {PREVIEW_MAX} (default 50)"),
             Query("from", int, "From this time on; default now"))
    return [
        write("POST", "/v1/schedules", handlers.create, "Create a schedule", body=ScheduleWrite,
              answers={201: ScheduleView}, body_bytes_max=BODY_MAX),
        read("GET", "/v1/schedules", handlers.page, "List schedules, newest first",
             answers={200: list[ScheduleView]},
             query=(LIMIT, CURSOR, Query("name", str, "The one with this name"))),
        read("POST", "/v1/schedules/preview", handlers.preview_body,
             "The next slots of a schedule that is not saved", body=ScheduleWrite,
             answers={200: list[SlotView]}, query=ahead, body_bytes_max=BODY_MAX),
        read("GET", one, handlers.get, "Get a schedule", answers={200: ScheduleView}),
        write("PUT", one, handlers.update, "Write a schedule anew", body=ScheduleWrite,
              answers={200: ScheduleView}, query=(IF_MATCH,), body_bytes_max=BODY_MAX),
        write("DELETE", one, handlers.delete, "Delete a schedule; what it started goes on",
              answers={204: None}, query=(IF_MATCH,)),
        write("POST", one, handlers.act, "Pause, resume, trigger or backfill a schedule",
              body=TriggerAsked, body_optional=True,
              answers={200: ScheduleView, 201: FireView, 202: BackfillView},
              query=(IDEMPOTENCY_KEY, msgspec.structs.replace(
                  IF_MATCH, help=f"Of pause and resume. {IF_MATCH.help}"),
                     Query("action", str, "What to do", required=True, choices=ACTIONS))),
        read("GET", one + "/preview", handlers.preview, "The next slots of a schedule",
             answers={200: list[SlotView]}, query=ahead),
        read("GET", one + "/fires", handlers.fires, "What became of its slots, newest first",
             answers={200: list[FireView]},
             query=(LIMIT, CURSOR, Query("state", str, "Only these", choices=STATES))),
        read("GET", "/v1/calendars", handlers.calendars, "List calendars by name",
             answers={200: list[CalendarView]}, query=(LIMIT, CURSOR)),
        read("GET", calendars, handlers.calendar, "Get a calendar", answers={200: CalendarView}),
        write("PUT", calendars, handlers.put_calendar, "Write a calendar of blackout days",
              body=CalendarWrite, answers={200: CalendarView}, query=(IF_MATCH, IF_NONE_MATCH)),
        write("DELETE", calendars, handlers.delete_calendar,
              "Delete a calendar that no schedule uses", answers={204: None}, query=(IF_MATCH,)),
    ]
