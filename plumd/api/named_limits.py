"""/v1/limits: how many tasks of a concurrency key run at once, and how many begin in a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Final, TypeVar

import msgspec
import trio
from msgspec import Meta

from plumd.api.context import Context, answer, etag
from plumd.api.decode import strict
from plumd.api.openapi import IF_MATCH, IF_NONE_MATCH
from plumd.api.paging import CURSOR, LIMIT, cursor_key, page_limit, page_of
from plumd.api.params import if_version
from plumd.api.routes import Request, Response, Route
from plumd.errors import Invalid, NotFound
from plumd.model import SetLimit
from plumd.store import limits
from plumd.store.limits import LimitRow
from plumd.store.store import Tx

KEY_CHARS_MAX: Final = 200
T = TypeVar("T")


class Rate(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """So many in so many seconds: a bucket of count tokens, filled evenly."""

    count: Annotated[int, Meta(ge=1, le=1_000_000)]
    per_sec: Annotated[float, Meta(ge=0.001, le=86_400)]


class LimitWrite(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                 omit_defaults=True):
    """A limit as it is written: at least one of the two."""

    concurrency: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    rate: Rate | None = None


class LimitView(msgspec.Struct, frozen=True, rename="camel"):
    """A named limit."""

    key: str
    version: int
    concurrency: int | None
    rate: Rate | None
    updated_at: int


def limit_view(row: LimitRow) -> LimitView:
    """A limit as the API shows it."""
    rate = Rate(row.rate_count, row.rate_per_ms / 1000) if row.rate_count else None
    return LimitView(row.key, row.version, row.concurrency or None, rate, row.updated_ms)


class NamedLimits:
    """The handlers."""

    def __init__(self, context: Context) -> None:
        self.engine = context.engine
        self.store = context.store

    async def put(self, request: Request) -> Response:
        """Write a limit; it holds for what begins from now on."""
        key = request.params["key"]
        if not 0 < len(key) <= KEY_CHARS_MAX or not key.isprintable():
            raise Invalid(f"a key has 1 to {KEY_CHARS_MAX} printable characters", field="key")
        given = strict(request.body, LimitWrite)
        if given.concurrency is None and given.rate is None:
            raise Invalid("a limit has concurrency, rate or both", field="concurrency")
        rate, version = given.rate, if_version(request.headers)
        command = SetLimit(key, given.concurrency or 0, 0 if rate is None else rate.count,
                           0 if rate is None else round(rate.per_sec * 1000))
        row = await self.save(key, lambda tx: limits.put(tx, command, version))
        return answer(200, limit_view(row), etag(row.version))

    async def get(self, request: Request) -> Response:
        """One limit."""
        row = self.known(request)
        return answer(200, limit_view(row), etag(row.version))

    def known(self, request: Request) -> LimitRow:
        """The limit that the path names. Raises: NotFound."""
        row = self.store.peek(limits.get, request.params["key"])
        if row is None:
            raise NotFound("no such limit")
        return row

    async def page(self, request: Request) -> Response:
        """All limits, by key."""
        limit = page_limit(request)
        rows = await self.store.read(limits.page, cursor_key(request) or "", limit + 1)
        return page_of(request, rows, limit, limit_view, lambda row: row.key)

    async def delete(self, request: Request) -> Response:
        """Remove a limit; tasks that name one of their own keep to that."""
        key, version = self.known(request).key, if_version(request.headers)
        await self.save(key, lambda tx: limits.delete(tx, key, version))
        return Response(204)

    async def save(self, key: str, write: Callable[[Tx], T]) -> T:
        """Write a limit. What is written holds from then on: looking and telling are one step, so
        the last writer's limit is the last one told. After a restart it is read from the row.

        Cancel: it is written and told all the same.
        """
        with trio.CancelScope(shield=True):
            value = await self.engine.write(write)
            row = self.store.peek(limits.get, key)
            command = SetLimit(key) if row is None else SetLimit(
                key, row.concurrency, row.rate_count, row.rate_per_ms)
            await self.engine.post((command,), urgent=True).done.wait()
        return value


def routes(handlers: NamedLimits) -> list[Route]:
    """The table's part about limits."""
    one = "/v1/limits/{key...}"
    read = partial(Route, "GET", tag="limits", permission="definitions:read")
    write = partial(Route, tag="limits", permission="definitions:write")
    return [
        read("/v1/limits", handlers.page, "List limits of concurrency keys",
             answers={200: list[LimitView]}, query=(LIMIT, CURSOR)),
        read(one, handlers.get, "Get a limit", answers={200: LimitView}),
        write("PUT", one, handlers.put, "Limit a concurrency key", body=LimitWrite,
              answers={200: LimitView}, query=(IF_MATCH, IF_NONE_MATCH)),
        write("DELETE", one, handlers.delete, "Remove a limit", answers={204: None},
              query=(IF_MATCH,)),
    ]
