"""/v1/triggers: what events start, and what became of them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType
from msgspec.structs import replace

from plumd import mapping, signing
from plumd.api.context import Context, Note, answer, etag, id_param, once, replayed
from plumd.api.decode import strict
from plumd.api.openapi import IF_MATCH
from plumd.api.paging import CURSOR, LIMIT, cursor_id, page_limit, page_of
from plumd.api.params import if_version, query_action, query_choice
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.task_bodies import Name
from plumd.api.task_views import NULL
from plumd.clock import draw_token
from plumd.errors import Invalid, NotFound
from plumd.expressions import Failure
from plumd.flow.data import read
from plumd.listeners import Listeners
from plumd.mapping import Happening
from plumd.model import TASK_STATES, id_text, parse_id
from plumd.mqtt import Brokers
from plumd.mqtt_packets import filter_problem
from plumd.news import TOPICS
from plumd.store import brokers, precondition, triggers
from plumd.store.keys import Answer
from plumd.store.store import Call, Tx
from plumd.store.triggers import STATES, After, TakenRow, TriggerBody, TriggerRow

Kind = Literal["webhook", "event", "after", "mqtt"]
Source = Annotated[str, Meta(max_length=2_000)]
Secret = Annotated[str, Meta(min_length=16, max_length=200, pattern=r"^[\x21-\x7e]*$(?!\n)")]
HEARD: Final = tuple(topic for topic in TOPICS if topic != "triggers")
ACTIONS: Final = ("pause", "resume")
PAYLOAD_MAX: Final = 65_536


class AfterWrite(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                 omit_defaults=True):
    """The end of a run of this workflow. failure: Failed or Timeout; any: canceled ones too."""

    workflow_id: str
    on: Literal["success", "failure", "any"] = "success"


class TriggerWrite(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                   omit_defaults=True):
    """What starts a workflow or a task of a definition. filter: a condition over `event`; payload:
    with `${event...}` in it, default `${event.data}`; eventId: what tells equal events from new
    ones, of a webhook.  secret: of a webhook; without one it is drawn and told once."""

    name: Name
    kind: Kind
    workflow_id: str | None = None
    def_id: str | None = None
    filter: Source = ""
    payload: Raw | UnsetType = UNSET
    event_id: Source = ""
    signature: Literal["standard", "github", "none"] | None = None
    secret: Secret | None = None
    topics: Annotated[tuple[str, ...], Meta(max_length=20)] = ()
    after: AfterWrite | None = None
    broker: Annotated[str, Meta(max_length=100)] = ""
    topic: Annotated[str, Meta(max_length=1_000)] = ""
    enabled: bool = True
    description: Annotated[str, Meta(max_length=10_000)] = ""


class TriggerView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A trigger. path: where a webhook is called; secret: told once, when it was drawn or set."""

    trigger_id: str
    version: int
    name: str
    kind: str
    enabled: bool
    workflow_id: str | None
    def_id: str | None
    filter: str
    payload: Raw
    event_id: str
    signature: str | None
    path: str | None
    secret: str | None = None
    topics: tuple[str, ...]
    after: AfterWrite | None
    broker: str | None = None
    topic: str | None = None
    description: str
    created_at: int
    updated_at: int


class EventAsked(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """An event as the trigger would see it: an object with data, and whatever else it asks for."""

    event: Raw


class TestView(msgspec.Struct, frozen=True, rename="camel"):
    """What the trigger would do with an event."""

    wanted: bool
    payload: Raw = NULL
    error: str | None = None


class TakenView(msgspec.Struct, frozen=True, rename="camel"):
    """What became of an event. outcome: the state of what it started."""

    event_id: str
    state: str
    reason: str | None
    detail: str | None
    run_id: str | None
    task_id: str | None
    outcome: str | None
    at: int


class Triggers:
    """The handlers."""

    def __init__(self, context: Context, listeners: Listeners, brokers: Brokers) -> None:
        self.context = context
        self.brokers = brokers
        self.engine = context.engine
        self.store = context.store
        self.listeners = listeners

    # ------------------------------------------------------------ writing

    def body_of(self, request: Request) -> tuple[TriggerBody, str | None]:
        """(trigger, the secret that was given), with all checked that can be. Raises: Invalid."""
        given = strict(request.body, TriggerWrite)
        workflow_id, def_id = self.target_of(given)
        after = None
        if given.after is not None:
            watched = self.context.catalog.workflow(parse_id(given.after.workflow_id) or 0)
            if watched is None:
                raise Invalid("no such workflow", field="after.workflowId")
            after = After(id_text(watched.id), given.after.on)
        check_kind(given)
        if given.kind == "mqtt" and self.store.peek(brokers.get, given.broker) is None:
            raise Invalid(f"there is no broker {given.broker!r}", field="broker")
        if given.payload is not UNSET and len(bytes(given.payload)) > PAYLOAD_MAX:
            raise Invalid(f"a payload takes at most {PAYLOAD_MAX} bytes", field="payload")
        mapping.rules_of(given.filter, given.payload, given.event_id)
        if given.secret is not None:
            try:
                signing.key_of(given.secret)
            except ValueError as error:
                raise Invalid(str(error), field="secret") from None
        signature = (given.signature or "standard") if given.kind == "webhook" else ""
        return TriggerBody(
            given.name, given.kind, workflow_id, def_id, given.filter, given.payload,
            given.event_id, signature, given.topics, after, given.broker, given.topic,
            enabled=given.enabled, description=given.description), given.secret

    def target_of(self, given: TriggerWrite) -> tuple[str, str]:
        """(workflow id, definition id), one of them "". Raises: Invalid."""
        if (given.workflow_id is None) == (given.def_id is None):
            raise Invalid("a trigger starts one of workflowId and defId", field="workflowId")
        if given.workflow_id is not None:
            workflow = self.context.catalog.workflow(parse_id(given.workflow_id) or 0)
            if workflow is None:
                raise Invalid("no such workflow", field="workflowId")
            return id_text(workflow.id), ""
        found = self.context.catalog.task_def(parse_id(given.def_id or "") or 0)
        if found is None:
            raise Invalid("no such task definition", field="defId")
        return "", id_text(found.id)

    def renew(self) -> None:
        """A trigger was written."""
        self.listeners.renew()
        self.brokers.renew()

    async def save(self, write: Call) -> None:
        """Run a store command; those who listen know of it before the next event is looked at."""
        await self.engine.write(write, then=lambda _: self.renew())

    async def create(self, request: Request) -> Response:
        """A new trigger; its name is free."""

        async def fresh(note: Note) -> Response:
            body, secret = self.body_of(request)
            number = self.engine.new_id()
            location = f"/v1/triggers/{id_text(number)}"
            key = draw_token(18) if body.kind == "webhook" else ""
            secret = secret_of(body, secret, "")

            def write(tx: Tx) -> None:
                triggers.create(tx, number, body, key, secret)
                note.write(tx, 201, id_text(number).encode(), location)

            await self.save(write)
            return self.shown(number, 201, ("location", location), secret=secret or None)

        async def again(known: Answer) -> Response:
            return self.shown(parse_id(known.body.decode()) or 0, known.status, *replayed(known))

        return await once(self.context, request, fresh, again)

    async def update(self, request: Request) -> Response:
        """Write it anew; a webhook keeps its place, and its secret unless another one is given."""
        row = self.known(request)
        body, secret = self.body_of(request)
        return await self.replace(row, body, secret, if_version(request.headers))

    async def replace(self, row: TriggerRow, body: TriggerBody, given: str | None,
                      version: int | None) -> Response:
        """A new version of a trigger."""
        key = (row.key or draw_token(18)) if body.kind == "webhook" else ""
        secret = secret_of(body, given, row.secret)
        await self.save(lambda tx: triggers.update(tx, row, body, key, secret, version))
        return self.shown(row.id, 200, secret=secret if secret != row.secret else None)

    async def delete(self, request: Request) -> Response:
        """Remove a trigger; what it started goes on."""
        row, version = self.known(request), if_version(request.headers)
        await self.save(lambda tx: triggers.delete(tx, row.id, version))
        return Response(204)

    async def act(self, request: Request) -> Response:
        """?action=pause or resume"""
        action = query_action(request.query, ACTIONS)
        row = self.known(request)
        version = if_version(request.headers)
        enabled = action == "resume"
        if row.body.enabled == enabled:
            precondition.check(row.version, version)
            return self.shown(row.id, 200)
        return await self.replace(row, replace(row.body, enabled=enabled), None, version)

    async def test(self, request: Request) -> Response:
        """What it would do with an event."""
        row = self.known(request)
        return answer(200, tried(row.body, strict(request.body, EventAsked)))

    # ------------------------------------------------------------ looking

    def known(self, request: Request) -> TriggerRow:
        """The trigger that the path names. Raises: NotFound."""
        return self.current(id_param(request, "trigger"))

    def current(self, number: int) -> TriggerRow:
        """Raises: NotFound."""
        row = self.store.peek(triggers.get, number)
        if row is None:
            raise NotFound("no such trigger")
        return row

    def shown(self, number: int, status: int, *headers: tuple[str, str],
              secret: str | None = None) -> Response:
        """A trigger as it is now."""
        row = self.current(number)
        return answer(status, replace(view_of(row), secret=secret), *headers, etag(row.version))

    async def get(self, request: Request) -> Response:
        """One trigger."""
        return self.shown(self.known(request).id, 200)

    async def page(self, request: Request) -> Response:
        """Newest first, or the one with ?name=."""
        if name := request.query.get("name"):
            one = self.store.peek(triggers.by_name, name)
            return answer(200, [] if one is None else [view_of(one)])
        limit = page_limit(request)
        rows = await self.store.read(triggers.page, cursor_id(request), limit + 1)
        return page_of(request, rows, limit, view_of, lambda row: row.id)

    async def events(self, request: Request) -> Response:
        """What became of the events, newest first."""
        row = self.known(request)
        state = query_choice(request.query, "state", STATES)
        limit, before = page_limit(request), cursor_id(request)
        rows = await self.store.read(
            triggers.events, row.id, STATES.index(state) if state else None, before, limit + 1)
        return page_of(request, rows, limit, taken_view, lambda row: row.number)


def check_kind(given: TriggerWrite) -> None:
    """Raises: Invalid for a field that belongs to another kind, or is missing."""
    own = {"webhook": ("signature", "secret", "event_id"), "event": ("topics",),
           "after": ("after",), "mqtt": ("broker", "topic", "event_id")}
    for name in ("signature", "secret", "event_id", "topics", "after", "broker", "topic"):
        value: object = getattr(given, name)
        if name not in own[given.kind] and value not in (None, "", ()):
            wire = {"event_id": "eventId"}.get(name, name)
            raise Invalid(f"a trigger of kind {given.kind} has no {wire}", field=wire)
    if given.kind == "mqtt" and (why := filter_problem(given.topic)):
        raise Invalid(why, field="topic")
    if given.kind == "event":
        if not given.topics:
            raise Invalid(f"some of {', '.join(HEARD)}", field="topics")
        for index, topic in enumerate(given.topics):
            if topic not in HEARD:
                raise Invalid(f"a topic is one of {', '.join(HEARD)}", field=f"topics[{index}]")
    if given.kind == "after" and given.after is None:
        raise Invalid("this is missing", field="after")
    if given.signature == "none" and given.secret is not None:
        raise Invalid("without a signature there is no secret", field="secret")


def secret_of(body: TriggerBody, given: str | None, before: str) -> str:
    """A webhook's secret: the one given, the one it had, or a new one."""
    if body.signature in ("", "none"):
        return ""
    return given or before or signing.drawn(draw_token(32))


def view_of(row: TriggerRow) -> TriggerView:
    """A trigger as the API shows it."""
    body = row.body
    return TriggerView(
        trigger_id=id_text(row.id), version=row.version, name=body.name, kind=body.kind,
        enabled=body.enabled, workflow_id=body.workflow_id or None, def_id=body.def_id or None,
        filter=body.filter, payload=Raw(msgspec.json.encode(mapping.DEFAULT))
        if body.payload is UNSET else body.payload, event_id=body.event_id,
        signature=body.signature or None, path=f"/v1/hooks/{row.key}" if row.key else None,
        topics=body.topics, after=None if body.after is None else msgspec.convert(
            msgspec.to_builtins(body.after), AfterWrite),
        broker=body.broker or None, topic=body.topic or None,
        description=body.description, created_at=row.created_ms, updated_at=row.updated_ms)


def taken_view(row: TakenRow) -> TakenView:
    """An event as the API shows it."""
    return TakenView(
        row.event_id, STATES[row.state], row.reason or None, row.detail or None,
        id_text(row.run_id) if row.run_id else None, id_text(row.task_id) if row.task_id else None,
        None if row.outcome is None else TASK_STATES[row.outcome], row.at_ms)


def tried(body: TriggerBody, asked: EventAsked) -> TestView:
    """What a trigger makes of an event. Raises: Invalid."""
    event = read(bytes(asked.event), "event")
    if not isinstance(event, dict):
        raise Invalid("an event is an object", field="event")
    rules = mapping.rules_of(body.filter, body.payload, body.event_id)
    happening = Happening({"data": None, **event})
    if not mapping.wanted(rules, happening):
        return TestView(wanted=False)
    try:
        payload = mapping.payload_of(rules, happening)
    except Failure as failure:
        return TestView(wanted=True, error=str(failure))
    return TestView(wanted=True, payload=NULL if payload is None else Raw(payload))


def routes(handlers: Triggers) -> list[Route]:
    """The table's part about triggers."""
    read = partial(Route, tag="triggers", permission="triggers:read")
    write = partial(Route, tag="triggers", permission="triggers:write")
    one = "/v1/triggers/{id}"
    return [
        write("POST", "/v1/triggers", handlers.create, "Create a trigger", body=TriggerWrite,
              answers={201: TriggerView}),
        read("GET", "/v1/triggers", handlers.page, "List triggers, newest first",
             answers={200: list[TriggerView]},
             query=(LIMIT, CURSOR, Query("name", str, "The one with this name"))),
        read("GET", one, handlers.get, "Get a trigger", answers={200: TriggerView}),
        write("PUT", one, handlers.update, "Write a trigger anew", body=TriggerWrite,
              answers={200: TriggerView}, query=(IF_MATCH,)),
        write("DELETE", one, handlers.delete, "Delete a trigger; what it started goes on",
              answers={204: None}, query=(IF_MATCH,)),
        write("POST", one, handlers.act, "Pause or resume a trigger", answers={200: TriggerView},
              query=(IF_MATCH, Query("action", str, "What to do", required=True,
                                     choices=ACTIONS))),
        read("POST", one + "/test", handlers.test, "What a trigger would do with an event",
             body=EventAsked, answers={200: TestView}),
        read("GET", one + "/events", handlers.events, "What became of its events, newest first",
             answers={200: list[TakenView]},
             query=(LIMIT, CURSOR, Query("state", str, "Only these", choices=STATES))),
    ]
