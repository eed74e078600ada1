"""/v1/locks: locks of the key-value store's namespaces, with tokens that only grow."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from plumd.api.context import answer
from plumd.api.decode import strict
from plumd.api.kv import Token
from plumd.api.paging import CURSOR, LIMIT, cursor_key, page_limit, page_of
from plumd.api.params import prefer_wait_s, query_action
from plumd.api.routes import Query, Request, Response, Route
from plumd.errors import Invalid, NotFound
from plumd.kv_checks import check_lock, check_namespace
from plumd.leases import Leases, Standing
from plumd.store.leases import LOCK, Key

ACTIONS: Final = ("acquire", "renew", "release")
TTL_SEC_DEFAULT: Final = 30.0
CURSOR_KEY: Final = msgspec.json.Decoder(tuple[str, str]).decode

Owner = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
TtlSec = Annotated[float, Meta(ge=0.1, le=86_400)]


class LeaseAsked(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """acquire: owner and ttlSec (default 30). renew: token, and ttlSec if it shall be another one.
    release: token.
    """

    owner: Owner | None = None
    ttl_sec: TtlSec | None = None
    token: Token | None = None


class LockView(msgspec.Struct, frozen=True, rename="camel"):
    """A lock that somebody has. token: higher than any before. waiting: how many stand in line."""

    namespace: str
    name: str
    owner: str
    token: int
    ttl_sec: float
    acquired_at: int
    expires_at: int
    waiting: int


def view(standing: Standing) -> LockView:
    """A lock as the API shows it."""
    one = standing.lease
    return LockView(one.scope, one.name, one.owner, one.token, one.ttl_ms / 1000, one.since_ms,
                    standing.until_ms, standing.waiting)


async def act(leases: Leases, key: Key, action: str, body: LeaseAsked,
              wait_s: float) -> Standing | None:
    """Carry out one of ACTIONS; None after a release.

    Raises: Invalid, LeaseHeld, LeaseLost, TooMany, and as Engine.write.
    """
    if action == "acquire":
        if body.owner is None:
            raise Invalid("who wants it?", field="owner")
        return await leases.acquire(key, body.owner, ms(body.ttl_sec or TTL_SEC_DEFAULT), wait_s)
    if body.token is None:
        raise Invalid("the token is missing", field="token")
    if action == "renew":
        return await leases.renew(key, body.token,
                                  None if body.ttl_sec is None else ms(body.ttl_sec))
    await leases.release(key, body.token)
    return None


def ms(seconds: float) -> int:
    """Whole milliseconds."""
    return round(seconds * 1000)


def action_of(request: Request) -> str:
    """What is to be done. Raises: Invalid."""
    return query_action(request.query, ACTIONS)


class Locks:
    """The handlers."""

    def __init__(self, leases: Leases) -> None:
        self.leases = leases

    async def act(self, request: Request) -> Response:
        """Acquire waits in line with Prefer: wait=N."""
        standing = await act(self.leases, key_of(request), action_of(request),
                             strict(request.body or b"{}", LeaseAsked),
                             prefer_wait_s(request.headers))
        return Response(204) if standing is None else answer(200, view(standing))

    async def get(self, request: Request) -> Response:
        """One that somebody has."""
        standing = self.leases.standing(key_of(request))
        if standing is None:
            raise NotFound("nobody has this lock")
        return answer(200, view(standing))

    async def take_away(self, request: Request) -> Response:
        """Whoever has it loses it."""
        if not await self.leases.take_away(key_of(request)):
            raise NotFound("nobody has this lock")
        return Response(204)

    async def page(self, request: Request) -> Response:
        """Those that somebody has, by namespace and name."""
        limit, after = page_limit(request), cursor_key(request)
        found = await self.leases.every(LOCK, request.query.get("namespace", ""))
        if after is not None:
            try:
                last = CURSOR_KEY(after)
            except msgspec.DecodeError:
                raise Invalid("this cursor was not made by the daemon", field="cursor") from None
            found = [one for one in found if (one.lease.scope, one.lease.name) > last]
        return page_of(request, found, limit, view, lambda one: msgspec.json.encode(
            (one.lease.scope, one.lease.name)).decode())


def key_of(request: Request) -> Key:
    """The lock that the path names. Raises: Invalid."""
    return LOCK, check_namespace(request.params["ns"]), check_lock(request.params["name"])


def routes(handlers: Locks) -> list[Route]:
    """The table's part about locks."""
    one, read, write = "/v1/locks/{ns}/{name...}", "kv:read", "kv:write"
    return [
        Route("GET", "/v1/locks", handlers.page, "List locks that somebody has", "kv", read,
              answers={200: list[LockView]},
              query=(Query("namespace", str, "Only of this one"), LIMIT, CURSOR)),
        Route("GET", one, handlers.get, "Get a lock that somebody has", "kv", read,
              answers={200: LockView}),
        Route("POST", one, handlers.act, "Acquire, renew or release a lock", "kv", write,
              body=LeaseAsked, body_optional=True, answers={200: LockView, 204: None},
              query=(Query("action", str, "What to do", required=True, choices=ACTIONS),
                     Query("Prefer", str, "wait=N: wait in line for the lock, at most N seconds "
                           "(at most 60)."))),
        Route("DELETE", one, handlers.take_away, "Take a lock away from whoever has it", "kv",
              write, answers={204: None}),
    ]
