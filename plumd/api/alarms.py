"""/v1/alarms and /v1/alarm-rules: thresholds of devices' states, and when they were broken."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from plumd.alarms import Alarms as AlarmRoom
from plumd.api.context import Context, Note, again_as_it_was, answer, etag, id_param, once
from plumd.api.decode import strict
from plumd.api.openapi import IF_MATCH
from plumd.api.paging import (
    ALL_OR_LIMIT,
    CURSOR,
    LIMIT,
    all_or_limit,
    cursor_id,
    cursor_key,
    page_limit,
    page_of,
)
from plumd.api.params import if_version, query_action, query_choice
from plumd.api.routes import Query, Request, Response, Route
from plumd.errors import Invalid, NotFound
from plumd.model import id_text, parse_id
from plumd.store import alarms
from plumd.store.alarms import FOR_EVER, Alarm
from plumd.thresholds import EQUAL, Rule, number, text_of

STATES: Final = ("active", "all")


class RuleView(msgspec.Struct, frozen=True, rename="camel"):
    """A rule. active: how many alarms of it are."""

    rule_id: str
    version: int
    rule: Rule
    active: int


class AlarmView(msgspec.Struct, frozen=True, rename="camel"):
    """A rule that was broken. clearedAt, acknowledgedAt: null = it is active, nobody knows of it.

    value: at its raising.  clearedBy: the value that cleared it.
    """

    alarm_id: str
    rule_id: str
    name: str
    severity: str
    resource_id: str
    state: str
    value: str
    raised_at: int
    cleared_at: int | None
    cleared_by: str
    acknowledged_at: int | None
    acknowledged_by: str
    note: str


class Acknowledged(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Who knows of it, and what he says."""

    by: Annotated[str, Meta(max_length=200)] = ""
    note: Annotated[str, Meta(max_length=2_000)] = ""


def view(one: Alarm) -> AlarmView:
    """An alarm as the API shows it."""
    return AlarmView(
        id_text(one.id), id_text(one.rule), one.name, one.severity, one.device, one.state,
        one.value, one.raised_ms, one.cleared_ms or None, one.last, one.acked_ms or None,
        one.acked_by, one.note)


def check(rule: Rule) -> Rule:
    """Raises: Invalid."""
    if rule.op in EQUAL and rule.hysteresis:
        raise Invalid("only <, <=, > and >= have a hysteresis", field="hysteresis")
    if rule.op not in EQUAL and number(text_of(rule.value)) is None:
        raise Invalid(f"{rule.op} compares numbers", field="value")
    if rule.resource_id and rule.type:
        raise Invalid("a rule is of a device or of a type", field="type")
    return rule


class Alarms:
    """The handlers."""

    def __init__(self, context: Context, room: AlarmRoom) -> None:
        self.engine = context.engine
        self.context = context
        self.store = context.store
        self.room = room

    # ------------------------------------------------------------ rules

    def rule_view(self, rule_id: int) -> RuleView:
        """A rule as the API shows it. Raises: NotFound."""
        rule = self.room.rules.get(rule_id)
        if rule is None:
            raise NotFound("no such rule")
        return RuleView(id_text(rule_id), self.room.versions[rule_id], rule,
                        sum(key[0] == rule_id for key in self.room.active))

    async def rules(self, request: Request) -> Response:
        """Oldest first; all of them unless ?limit= is given."""
        after = cursor_id(request)
        found = [number for number in sorted(self.room.rules) if number > after]
        return page_of(request, found, all_or_limit(request), self.rule_view, lambda number: number)

    def shown(self, rule_id: int) -> Response:
        """A rule as it is now. Raises: NotFound."""
        found = self.rule_view(rule_id)
        return answer(200, found, etag(found.version))

    async def rule(self, request: Request) -> Response:
        """One."""
        return self.shown(id_param(request, "rule"))

    async def create(self, request: Request) -> Response:
        """It is watched from now on."""

        async def fresh(note: Note) -> Response:
            rule, rule_id = check(strict(request.body, Rule)), self.engine.new_id()
            location = f"/v1/alarm-rules/{id_text(rule_id)}"
            response = answer(201, RuleView(id_text(rule_id), 1, rule, 0),
                              ("location", location), etag(1))
            await self.room.put_rule(rule_id, rule, lambda tx: note.write(
                tx, 201, response.body, location))
            return response

        return await once(self.context, request, fresh, again_as_it_was)

    async def change(self, request: Request) -> Response:
        """An alarm of it that is active stays until a value clears it."""
        rule_id = id_param(request, "rule")
        self.rule_view(rule_id)
        rule, version = check(strict(request.body, Rule)), if_version(request.headers)
        await self.room.put_rule(rule_id, rule, known=True, if_version=version)
        return self.shown(rule_id)

    async def delete(self, request: Request) -> Response:
        """Alarms of it are cleared."""
        rule_id = id_param(request, "rule")
        self.rule_view(rule_id)
        await self.room.delete_rule(rule_id, if_version(request.headers))
        return Response(204)

    # ------------------------------------------------------------ alarms

    async def page(self, request: Request) -> Response:
        """Newest first."""
        limit, cursor = page_limit(request), cursor_key(request)
        before = FOR_EVER if cursor is None else parse_id(cursor)
        if before is None:
            raise Invalid("this cursor was not made by the daemon", field="cursor")
        active = query_choice(request.query, "state", STATES, "active") == "active"
        found = await self.store.read(
            alarms.page, request.query.get("resourceId", ""), active, before, limit + 1)
        return page_of(request, found, limit, view, lambda one: id_text(one.id))

    async def get(self, request: Request) -> Response:
        """One."""
        return answer(200, view(self.known(request)))

    def known(self, request: Request) -> Alarm:
        """The alarm that the path names. Raises: NotFound."""
        found = self.store.peek(alarms.get, id_param(request, "alarm"))
        if found is None:
            raise NotFound("no such alarm")
        return found

    async def act(self, request: Request) -> Response:
        """acknowledge: somebody knows of it; it stays active until a value clears it."""
        query_action(request.query, ("acknowledge",))
        alarm_id = self.known(request).id
        body = strict(request.body or b"{}", Acknowledged)
        return answer(200, view(await self.engine.write(
            lambda tx: alarms.acknowledge(tx, alarm_id, body.by, body.note))))


def routes(handlers: Alarms) -> list[Route]:
    """The table's part about alarms."""
    tag, read, write = "devices", "devices:read", "devices:write"
    rules, one = "/v1/alarm-rules", "/v1/alarms/{id}"
    return [
        Route("GET", rules, handlers.rules, "List rules about states", tag, read,
              answers={200: list[RuleView]}, query=(ALL_OR_LIMIT, CURSOR)),
        Route("POST", rules, handlers.create, "Make a rule", tag, write, body=Rule,
              answers={201: RuleView}),
        Route("GET", rules + "/{id}", handlers.rule, "Get a rule", tag, read,
              answers={200: RuleView}),
        Route("PUT", rules + "/{id}", handlers.change, "Change a rule", tag, write, body=Rule,
              answers={200: RuleView}, query=(IF_MATCH,)),
        Route("DELETE", rules + "/{id}", handlers.delete, "Delete a rule", tag, write,
              answers={204: None}, query=(IF_MATCH,)),
        Route("GET", "/v1/alarms", handlers.page, "List alarms, newest first", tag, read,
              answers={200: list[AlarmView]},
              query=(Query("state", str, "default active", choices=STATES),
                     Query("resourceId", str, "Only of this device"), LIMIT, CURSOR)),
        Route("GET", one, handlers.get, "Get an alarm", tag, read, answers={200: AlarmView}),
        Route("POST", one, handlers.act, "Acknowledge an alarm", tag, "devices:operate",
              body=Acknowledged, body_optional=True, answers={200: AlarmView},
              query=(Query("action", str, "What to do", required=True,
                           choices=("acknowledge",)),)),
    ]
