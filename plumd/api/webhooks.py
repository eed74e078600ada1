"""/v1/webhooks: who is told of events, and what became of it."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw
from msgspec.structs import replace

from plumd import mapping, signing
from plumd.api.context import Context, Note, answer, etag, id_param, once, replayed
from plumd.api.decode import strict
from plumd.api.openapi import IF_MATCH
from plumd.api.paging import CURSOR, LIMIT, cursor_id, page_limit, page_of
from plumd.api.params import if_version, query_action, query_choice
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.task_bodies import Name
from plumd.api.task_views import time_of
from plumd.api.triggers import HEARD, Secret, Source
from plumd.clock import draw_token
from plumd.errors import Invalid, NotFound
from plumd.executors.outgoing import request_of
from plumd.executors.targets import CallFailed, parse
from plumd.model import id_text, parse_id
from plumd.store import brokers, precondition, webhooks
from plumd.store.keys import Answer
from plumd.store.store import Call, Store, Tx
from plumd.store.webhooks import STATES, DeliveryRow, WebhookBody, WebhookRow
from plumd.webhooks import Webhooks as Room

ACTIONS: Final = ("pause", "resume")
OURS: Final = ("webhook-id", "webhook-timestamp", "webhook-signature", "host", "content-length",
               "content-type", "connection", "transfer-encoding", "x-plum-origin", "expect", "te",
               "upgrade")
HeaderName = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9-]+$(?!\n)")]
HeaderValue = Annotated[str, Meta(max_length=1_000, pattern=r"^[\x20-\x7e]*$(?!\n)")]


class WebhookWrite(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                   omit_defaults=True):
    """Who is told of events of these topics. url: http, https, or mqtt:BROKER/TOPIC; filter: a
    condition over `event`; headers: sent with each request; maxWaiting: so many deliveries may
    wait, then the oldest are given up; secret: that it is signed with, drawn and told once unless
    it is given."""

    name: Name
    url: Annotated[str, Meta(min_length=1, max_length=2_000)]
    topics: Annotated[tuple[str, ...], Meta(min_length=1, max_length=20)]
    filter: Source = ""
    secret: Secret | None = None
    headers: Annotated[dict[HeaderName, HeaderValue], Meta(max_length=20)] = {}
    timeout_sec: Annotated[float, Meta(ge=0.1, le=60)] = 10
    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 12
    max_waiting: Annotated[int, Meta(ge=10, le=100_000)] = 10_000
    enabled: bool = True
    description: Annotated[str, Meta(max_length=10_000)] = ""


class WebhookView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A webhook. headers: their names alone, for values may be secret; secret: told once, when it
    was drawn or set; waiting: how many deliveries wait; dropped: how many were given up because
    more than maxWaiting did."""

    webhook_id: str
    version: int
    name: str
    url: str
    topics: tuple[str, ...]
    filter: str
    headers: tuple[str, ...]
    secret: str | None = None
    timeout_sec: float
    max_attempts: int
    max_waiting: int
    enabled: bool
    description: str
    waiting: int
    dropped: int
    created_at: int
    updated_at: int


class DeliveryView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A delivery. seq: the event's number; status: of the last answer; nextAt: of the next attempt.
    """

    seq: int
    topic: str
    state: str
    attempts: int
    status: int | None
    detail: str | None
    next_at: int | None
    created_at: int
    ended_at: int | None
    event: Raw


class Webhooks:
    """The handlers."""

    def __init__(self, context: Context, room: Room) -> None:
        self.context = context
        self.engine = context.engine
        self.store = context.store
        self.room = room

    async def save(self, write: Call) -> None:
        """Run a store command; the room knows of it before the next event is looked at."""
        await self.engine.write(write, then=lambda _: self.room.renew())

    async def create(self, request: Request) -> Response:
        """A new webhook; its name is free."""

        async def fresh(note: Note) -> Response:
            body, given = body_of(request, None, self.store)
            number = self.engine.new_id()
            secret = given or signing.drawn(draw_token(32))
            location = f"/v1/webhooks/{id_text(number)}"

            def write(tx: Tx) -> None:
                webhooks.create(tx, number, body, secret)
                note.write(tx, 201, id_text(number).encode(), location)

            await self.save(write)
            return self.shown(number, 201, ("location", location), secret=secret)

        async def again(known: Answer) -> Response:
            return self.shown(parse_id(known.body.decode()) or 0, known.status, *replayed(known))

        return await once(self.context, request, fresh, again)

    async def update(self, request: Request) -> Response:
        """Write it anew; it keeps its secret unless another one is given."""
        row = self.known(request)
        body, secret = body_of(request, row, self.store)
        return await self.replace(row, body, secret or row.secret, if_version(request.headers))

    async def replace(self, row: WebhookRow, body: WebhookBody, secret: str,
                      version: int | None) -> Response:
        """A new version of a webhook."""
        await self.save(lambda tx: webhooks.update(tx, row, body, secret, version))
        return self.shown(row.id, 200, secret=secret if secret != row.secret else None)

    async def delete(self, request: Request) -> Response:
        """Remove a webhook; nothing more is delivered."""
        row, version = self.known(request), if_version(request.headers)
        await self.save(lambda tx: webhooks.delete(tx, row.id, version))
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
        return await self.replace(row, replace(row.body, enabled=enabled), row.secret, version)

    # ------------------------------------------------------------ looking

    def known(self, request: Request) -> WebhookRow:
        """The webhook that the path names. Raises: NotFound."""
        return self.current(id_param(request, "webhook"))

    def current(self, number: int) -> WebhookRow:
        """Raises: NotFound."""
        row = self.store.peek(webhooks.get, number)
        if row is None:
            raise NotFound("no such webhook")
        return row

    def shown(self, number: int, status: int, *headers: tuple[str, str],
              secret: str | None = None) -> Response:
        """A webhook as it is now."""
        row = self.current(number)
        view = replace(self.view_of(row), secret=secret)
        return answer(status, view, *headers, etag(row.version))

    def view_of(self, row: WebhookRow) -> WebhookView:
        """A webhook as the API shows it."""
        body = row.body
        return WebhookView(
            webhook_id=id_text(row.id), version=row.version, name=body.name, url=body.url,
            topics=body.topics, filter=body.filter, headers=tuple(sorted(body.headers)),
            timeout_sec=body.timeout_sec, max_attempts=body.max_attempts,
            max_waiting=body.max_waiting, enabled=body.enabled, description=body.description,
            waiting=self.store.peek(webhooks.waiting, row.id), dropped=row.dropped,
            created_at=row.created_ms, updated_at=row.updated_ms)

    async def get(self, request: Request) -> Response:
        """One webhook."""
        return self.shown(self.known(request).id, 200)

    async def page(self, request: Request) -> Response:
        """Newest first, or the one with ?name=."""
        if name := request.query.get("name"):
            one = self.store.peek(webhooks.by_name, name)
            return answer(200, [] if one is None else [self.view_of(one)])
        limit = page_limit(request)
        rows = await self.store.read(webhooks.page, cursor_id(request), limit + 1)
        return page_of(request, rows, limit, self.view_of, lambda row: row.id)

    async def deliveries(self, request: Request) -> Response:
        """What became of its deliveries, newest first."""
        row = self.known(request)
        state = query_choice(request.query, "state", STATES)
        limit, before = page_limit(request), cursor_id(request)
        rows = await self.store.read(
            webhooks.deliveries, row.id, STATES.index(state) if state else None, before,
            limit + 1)
        return page_of(request, rows, limit, delivery_view, lambda row: row.seq)

    async def again(self, request: Request) -> Response:
        """?action=retry of a delivery that is over."""
        query_action(request.query, ("retry",))
        row = self.known(request)
        text = request.params["seq"]
        seq = int(text) if text.isascii() and text.isdigit() and len(text) < 17 else -1
        await self.engine.write(lambda tx: webhooks.again(tx, row.id, seq),
                                then=lambda _: self.room.poke(row.id))
        found = self.store.peek(webhooks.delivery, row.id, seq)
        if found is None:
            raise NotFound("no such delivery")
        return answer(200, delivery_view(found))


def check_topic(url: str, store: Store) -> None:
    """mqtt:BROKER/TOPIC. Raises: Invalid."""
    name, _, topic = url[5:].partition("/")
    if store.peek(brokers.get, name) is None:
        raise Invalid(f"there is no broker {name!r}", field="url")
    if not topic or len(topic.encode()) > 1_000 or set(topic) & set("#+\0"):
        raise Invalid("behind the broker there is a topic without # and +", field="url")


def body_of(request: Request, before: WebhookRow | None,
            store: Store) -> tuple[WebhookBody, str | None]:
    """(webhook, the secret that was given). A header whose value is left empty keeps the one that
    it has. Raises: Invalid."""
    given = strict(request.body, WebhookWrite)
    for index, topic in enumerate(given.topics):
        if topic not in HEARD:
            raise Invalid(f"a topic is one of {', '.join(HEARD)}", field=f"topics[{index}]")
    mapping.rules_of(given.filter, Raw(b"null"))
    kept = {} if before is None else before.body.headers
    headers = {name: value or kept.get(name, "") for name, value in given.headers.items()}
    for name in headers:
        if name.lower() in OURS:
            raise Invalid("this header is plumd's own", field=f"headers.{name}")
    if len({name.lower() for name in headers}) < len(headers):
        raise Invalid("a header comes twice", field="headers")
    if given.url.startswith("mqtt:"):
        check_topic(given.url, store)
    else:
        try:
            request_of("POST", parse(given.url), 0, tuple(headers.items()))
        except CallFailed as failure:
            raise Invalid(failure.message, field="url") from None
    if given.secret is not None:
        try:
            signing.key_of(given.secret)
        except ValueError as error:
            raise Invalid(str(error), field="secret") from None
    return WebhookBody(given.name, given.url, given.topics, given.filter, headers,
                       given.timeout_sec, given.max_attempts, given.max_waiting, given.enabled,
                       given.description), given.secret


def delivery_view(row: DeliveryRow) -> DeliveryView:
    """A delivery as the API shows it."""
    return DeliveryView(
        seq=row.seq, topic=row.topic, state=STATES[row.state], attempts=row.attempts,
        status=row.status or None, detail=row.detail or None,
        next_at=time_of(row.due_ms) if row.state == 0 else None, created_at=row.created_ms,
        ended_at=time_of(row.ended_ms), event=Raw(row.body))


def routes(handlers: Webhooks) -> list[Route]:
    """The table's part about webhooks that go out."""
    read = partial(Route, tag="webhooks", permission="webhooks:read")
    write = partial(Route, tag="webhooks", permission="webhooks:write")
    one = "/v1/webhooks/{id}"
    return [
        write("POST", "/v1/webhooks", handlers.create, "Create a webhook", body=WebhookWrite,
              answers={201: WebhookView}),
        read("GET", "/v1/webhooks", handlers.page, "List webhooks, newest first",
             answers={200: list[WebhookView]},
             query=(LIMIT, CURSOR, Query("name", str, "The one with this name"))),
        read("GET", one, handlers.get, "Get a webhook", answers={200: WebhookView}),
        write("PUT", one, handlers.update, "Write a webhook anew", body=WebhookWrite,
              answers={200: WebhookView}, query=(IF_MATCH,)),
        write("DELETE", one, handlers.delete, "Delete a webhook; nothing more is delivered",
              answers={204: None}, query=(IF_MATCH,)),
        write("POST", one, handlers.act, "Pause or resume a webhook", answers={200: WebhookView},
              query=(IF_MATCH, Query("action", str, "What to do", required=True,
                                     choices=ACTIONS))),
        read("GET", one + "/deliveries", handlers.deliveries,
             "What became of its deliveries, newest first", answers={200: list[DeliveryView]},
             query=(LIMIT, CURSOR, Query("state", str, "Only these", choices=STATES))),
        write("POST", one + "/deliveries/{seq}", handlers.again, "Deliver an event once more",
              answers={200: DeliveryView}, query=(
                  Query("action", str, "retry", required=True, choices=("retry",)),)),
    ]
