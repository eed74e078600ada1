"""/v1/brokers: message brokers that triggers and webhooks go through."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from plumd.api.context import Context, answer, etag
from plumd.api.decode import strict
from plumd.api.openapi import IF_MATCH, IF_NONE_MATCH
from plumd.api.paging import ALL_OR_LIMIT, CURSOR, all_or_limit, cursor_key, page_of
from plumd.api.params import if_version
from plumd.api.routes import Request, Response, Route
from plumd.clock import draw_token
from plumd.errors import Invalid, NotFound
from plumd.executors.targets import CallFailed
from plumd.mqtt import Brokers as Room
from plumd.mqtt import Problem, split
from plumd.store import brokers
from plumd.store.brokers import BrokerBody, BrokerRow
from plumd.store.store import Call

NAME_MAX: Final = 100
Text = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]


class BrokerWrite(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                  omit_defaults=True):
    """An MQTT broker: mqtt://HOST[:1883] or mqtts://HOST[:8883]. clientId: drawn if it is not
    given; password: kept when it is not given."""

    url: Annotated[str, Meta(min_length=1, max_length=500)]
    client_id: Text = ""
    user: Text = ""
    password: Text | None = None
    description: Annotated[str, Meta(max_length=10_000)] = ""


class BrokerView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A broker. state: connecting (it was not reached yet), connected, or away: it is dialed again
    and again; problem: why the last dial or connection ended; problemCode: the same for
    programs."""

    name: str
    version: int
    url: str
    client_id: str
    user: str
    has_password: bool
    description: str
    state: str
    problem: str | None
    problem_code: str | None
    updated_at: int


class Brokers:
    """The handlers."""

    def __init__(self, context: Context, room: Room) -> None:
        self.engine = context.engine
        self.store = context.store
        self.room = room

    def view(self, row: BrokerRow) -> BrokerView:
        """A broker as it is now."""
        body, session = row.body, self.room.sessions.get(row.name)
        problem = Problem() if session is None else session.problem
        return BrokerView(
            name=row.name, version=row.version, url=body.url, client_id=body.client_id,
            user=body.user, has_password=row.password != "", description=body.description,
            state="connecting" if session is None else session.state,
            problem=problem.text or None, problem_code=problem.code or None,
            updated_at=row.updated_ms)

    async def save(self, write: Call) -> None:
        """Run a store command; the room knows of it at once."""
        await self.engine.write(write, then=lambda _: self.room.renew())

    def known(self, request: Request) -> BrokerRow:
        """The broker that the path names. Raises: NotFound."""
        row = self.store.peek(brokers.get, request.params["name"])
        if row is None:
            raise NotFound("no such broker")
        return row

    async def page(self, request: Request) -> Response:
        """Brokers by name; all of them unless ?limit= is given."""
        after = cursor_key(request) or ""
        found = [row for row in await self.store.read(brokers.every) if row.name > after]
        return page_of(request, found, all_or_limit(request), self.view, lambda row: row.name)

    async def get(self, request: Request) -> Response:
        """One broker."""
        row = self.known(request)
        return answer(200, self.view(row), etag(row.version))

    async def put(self, request: Request) -> Response:
        """Write a broker; sessions begin anew with what it says."""
        name = name_of(request.params["name"])
        given, version = strict(request.body, BrokerWrite), if_version(request.headers)
        check_url(given.url)
        old = self.store.peek(brokers.get, name)
        client_id = given.client_id or (
            f"plum-{draw_token(9)}" if old is None else old.body.client_id)
        password = given.password
        if password is None:
            password = "" if old is None else old.password
        body = BrokerBody(given.url, client_id, given.user, given.description)
        await self.save(lambda tx: brokers.put(tx, name, old, body, password, version))
        return await self.get(request)

    async def delete(self, request: Request) -> Response:
        """Remove a broker that nothing uses."""
        name, version = self.known(request).name, if_version(request.headers)
        await self.save(lambda tx: brokers.delete(tx, name, version))
        return Response(204)


def name_of(text: str) -> str:
    """A broker's name. Raises: Invalid."""
    if not 0 < len(text) <= NAME_MAX or "/" in text or not text.isprintable():
        raise Invalid(f"a broker's name has 1 to {NAME_MAX} printable characters and no /",
                      field="name")
    return text


def check_url(url: str) -> None:
    """Raises: Invalid."""
    scheme, found, rest = url.partition("://")
    if not found or scheme not in ("mqtt", "mqtts") or set(rest) & set("/@?# "):
        raise Invalid("a broker's url is mqtt://HOST, mqtts://HOST, or these with :PORT",
                      field="url")
    try:
        split(rest, 1883)
    except CallFailed as failure:
        raise Invalid(failure.message, field="url") from None


def routes(handlers: Brokers) -> list[Route]:
    """The table's part about brokers."""
    read = partial(Route, tag="brokers", permission="triggers:read")
    write = partial(Route, tag="brokers", permission="triggers:write")
    one = "/v1/brokers/{name}"
    return [
        read("GET", "/v1/brokers", handlers.page, "List message brokers by name",
             answers={200: list[BrokerView]}, query=(ALL_OR_LIMIT, CURSOR)),
        read("GET", one, handlers.get, "Get a broker", answers={200: BrokerView}),
        write("PUT", one, handlers.put, "Write a broker", body=BrokerWrite,
              answers={200: BrokerView}, query=(IF_MATCH, IF_NONE_MATCH)),
        write("DELETE", one, handlers.delete, "Delete a broker that nothing uses",
              answers={204: None}, query=(IF_MATCH,)),
    ]
