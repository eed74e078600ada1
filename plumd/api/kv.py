"""/v1/kv: the key-value store. Old SDKs' routes, with versions, conditions and expiry beside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from plumd.api.context import Context, Note, again_as_it_was, answer, etag, once
from plumd.api.decode import lenient
from plumd.api.openapi import IDEMPOTENCY_KEY, IF_CHANGED, IF_MATCH, IF_NONE_MATCH
from plumd.api.paging import ALL_OR_LIMIT, CURSOR, all_or_limit, cursor_key, next_link
from plumd.api.params import if_version, query_int
from plumd.api.routes import Query, Request, Response, Route
from plumd.errors import Invalid, NotFound
from plumd.expiry import Expiry
from plumd.kv_checks import (
    VALUE_BYTES_MAX,
    check_key,
    check_lock,
    check_namespace,
    check_value,
    ttl_ms,
)
from plumd.model import BULK_BYTES_MAX, BULK_ITEMS_MAX
from plumd.store import kv, leases
from plumd.store.kv import Entry, Type, Write
from plumd.store.store import Tx

PUT_BYTES_MAX: Final = 6 * VALUE_BYTES_MAX + (64 << 10)
"""A value of control characters takes six bytes for each of its own."""
CLEAR_KEYS: Final = 300
"""How many keys of a namespace are deleted in one commit."""
SLICE_BYTES: Final = 4 << 20
"""How much of a list is read and held at once."""
SLICE_ITEMS: Final = 10_000
ENCODE: Final = msgspec.json.Encoder().encode

Guard: TypeAlias = tuple[leases.Key, int]
"""A lock and the token that must have it."""


TtlSec = Annotated[float, Meta(gt=0, le=315_360_000)]
Version = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Token = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]


class ValueGiven(msgspec.Struct, frozen=True, rename="camel"):
    """A value to be written; always a string. ttlSec: gone after so long, left out: stays."""

    value: str
    type: Type = "string"
    ttl_sec: TtlSec | None = None


class ItemGiven(msgspec.Struct, frozen=True, rename="camel"):
    """One write of a batch. ifVersion: only if it is at this version, 0 = if it is not there."""

    key: str
    value: str | None = None
    type: Type = "string"
    ttl_sec: TtlSec | None = None
    delete: bool = False
    if_version: Version | None = None


class Batch(msgspec.Struct, frozen=True, rename="camel"):
    """Writes that happen all or not at all, in this order.

    lock, token: only while this token has that lock of the namespace.
    """

    items: Annotated[list[ItemGiven], Meta(max_length=BULK_ITEMS_MAX)]
    lock: str | None = None
    token: Token | None = None


class ItemDone(msgspec.Struct, frozen=True, rename="camel"):
    """A key and the version that it has now; 0 of one that was to be deleted and was not there."""

    key: str
    version: int


class BatchDone(msgspec.Struct, frozen=True, rename="camel"):
    """What a batch came to, item by item."""

    items: list[ItemDone]


class Cleared(msgspec.Struct, frozen=True, rename="camel"):
    """How many keys were deleted."""

    deleted: int


class Namespaces(msgspec.Struct, frozen=True, rename="camel"):
    """All that hold a key."""

    namespaces: list[str]


class Keys(msgspec.Struct, frozen=True, rename="camel"):
    """A namespace's keys, in order."""

    keys: list[str]
    namespace: str


def guard_of(namespace: str, lock: str | None, token: int | None) -> Guard | None:
    """The lock that a write stands under, as ?lock= and ?token= or a batch name it.

    Raises: Invalid.
    """
    if lock is None and token is None:
        return None
    if lock is None or token is None:
        raise Invalid("a lock and its token go together", field="lock" if lock is None else "token")
    return (leases.LOCK, namespace, check_lock(lock)), token


def guard_in(request: Request, namespace: str) -> Guard | None:
    """The same of a query. Raises: Invalid."""
    token = query_int(request.query, "token", 0, low=1, high=(1 << 63) - 1)
    return guard_of(namespace, request.query.get("lock"), token or None)


def write_of(item: ItemGiven, field: str) -> Write:
    """A batch's item, checked. Raises: Invalid, TooLarge."""
    check_key(item.key, f"{field}.key")
    where = f"{field}.ifVersion"
    if item.delete:
        if item.value is not None:
            raise Invalid("an item has a value or deletes", field=f"{field}.value")
        return Write(item.key, None, if_version=item.if_version, field=where)
    if item.value is None:
        raise Invalid("the value is missing", field=f"{field}.value")
    check_value(item.value, item.type, f"{field}.value")
    return Write(item.key, item.value, item.type, ttl_ms(item.ttl_sec), item.if_version, where)


class KeyValues:
    """The handlers."""

    def __init__(self, context: Context, expiry: Expiry) -> None:
        self.context = context
        self.engine = context.engine
        self.store = context.store
        self.expiry = expiry

    @property
    def now_ms(self) -> int:
        """Unix ms."""
        return self.engine.clock.now().wall_ms

    # ------------------------------------------------------------ writes

    async def put(self, request: Request) -> Response:
        """The value is on disk when this answers."""
        namespace, key = names_of(request)
        body = lenient(request.body, ValueGiven)
        field = "If-None-Match" if "if-none-match" in request.headers else "If-Match"
        one = Write(key, check_value(body.value, body.type), body.type, ttl_ms(body.ttl_sec),
                    if_version(request.headers), field)
        guard = guard_in(request, namespace)

        async def fresh(note: Note) -> Response:
            def put(tx: Tx) -> Entry:
                held(tx, guard)
                kv.write(tx, namespace, [one])
                entry = kv.get(tx.db, namespace, key, tx.now_ms)
                assert entry is not None, "it was written in this transaction"
                note.write(tx, 200, ENCODE(entry))
                return entry

            entry = await self.engine.write(put, then=lambda _: self.expiry.note(one.ttl_ms))
            return tagged(entry)

        return await once(self.context, request, fresh, again_as_it_was)

    async def delete(self, request: Request) -> Response:
        """What is not there is deleted already, unless a version of it is asked for."""
        namespace, key = names_of(request)
        one = Write(key, None, if_version=if_version(request.headers), field="If-Match")
        guard = guard_in(request, namespace)

        def remove(tx: Tx) -> None:
            held(tx, guard)
            kv.write(tx, namespace, [one])

        await self.engine.write(remove)
        return Response(204)

    async def clear(self, request: Request) -> Response:
        """Delete a namespace, or what begins with a prefix: some keys a commit, until none is left.

        Keys that are written meanwhile may stay. Cancel: what was deleted is.
        """
        namespace = check_namespace(request.params["ns"])
        prefix, guard = request.query.get("prefix", ""), guard_in(request, namespace)
        total = 0

        def some(tx: Tx) -> int:
            held(tx, guard)
            return kv.clear(tx, namespace, prefix, CLEAR_KEYS)

        while count := await self.engine.write(some):
            total += count
            if count < CLEAR_KEYS:
                break
        return answer(200, Cleared(total))

    async def batch(self, request: Request) -> Response:
        """All or nothing."""
        namespace = check_namespace(request.params["ns"])
        body = lenient(request.body, Batch)
        writes = [write_of(item, f"items[{index}]") for index, item in enumerate(body.items)]
        guard = guard_of(namespace, body.lock, body.token)

        async def fresh(note: Note) -> Response:
            def carry_out(tx: Tx) -> bytes:
                held(tx, guard)
                versions = kv.write(tx, namespace, writes)
                done = ENCODE(BatchDone([ItemDone(one.key, version) for one, version
                                         in zip(writes, versions, strict=True)]))
                note.write(tx, 200, done)
                return done

            soonest = min((one.ttl_ms for one in writes if one.ttl_ms), default=0)
            done = await self.engine.write(carry_out, then=lambda _: self.expiry.note(soonest))
            return Response(200, done)

        return await once(self.context, request, fresh, again_as_it_was)

    # ------------------------------------------------------------ reads

    async def get(self, request: Request) -> Response:
        """One key."""
        namespace, key = names_of(request)
        entry = self.store.peek(kv.get, namespace, key, self.now_ms)
        if entry is None:
            raise NotFound("no such key", field="key")
        return tagged(entry)

    async def namespaces(self, request: Request) -> Response:
        """All that hold a key."""
        del request
        return answer(200, Namespaces(await self.store.read(kv.namespaces, self.now_ms)))

    async def keys(self, request: Request) -> Response:
        """Without their values."""
        namespace = check_namespace(request.params["ns"])
        found = await self.store.read(kv.keys, namespace, request.query.get("prefix", ""),
                                      self.now_ms)
        return answer(200, Keys(found, namespace))

    async def page(self, request: Request) -> Response:
        """The whole namespace, slice by slice if it is large; a page of it with ?limit=."""
        namespace = check_namespace(request.params["ns"])
        prefix = request.query.get("prefix", "")
        limit = all_or_limit(request)
        after = cursor_key(request)
        entries, more = await self.slice(namespace, prefix, after, limit or SLICE_ITEMS)
        if limit:
            link = (next_link(request, entries[-1].key),) if more else ()
            return answer(200, entries, *link)
        if not more:
            return answer(200, entries)
        return Response(200, stream=self.rest(namespace, prefix, entries))

    async def slice(self, namespace: str, prefix: str, after: str | None,
                    count: int) -> tuple[list[Entry], bool]:
        """The next entries, and whether there are more."""
        return await self.store.read(kv.page, namespace, prefix, after, count, SLICE_BYTES,
                                     self.now_ms)

    async def rest(self, namespace: str, prefix: str,
                   entries: list[Entry]) -> AsyncIterator[bytes]:
        """The array of a namespace, beginning with these entries; each is as it is when read."""
        yield ENCODE(entries)[:-1]
        more = True
        while more:
            entries, more = await self.slice(namespace, prefix, entries[-1].key, SLICE_ITEMS)
            if entries:
                yield b"," + ENCODE(entries)[1:-1]
            else:
                more = False
        yield b"]"


def held(tx: Tx, guard: Guard | None) -> None:
    """Part of a write: refuse it when the lock that it stands under is another's by now.

    Raises: LeaseLost.
    """
    if guard is not None:
        leases.check(tx, *guard)


def names_of(request: Request) -> tuple[str, str]:
    """The namespace and the key in the path. Raises: Invalid."""
    return check_namespace(request.params["ns"]), check_key(request.params["key"])


def tagged(entry: Entry) -> Response:
    """An entry, with its version as ETag."""
    return answer(200, entry, etag(entry.version))


def routes(handlers: KeyValues) -> list[Route]:
    """The table's part about the key-value store."""
    old = partial(Route, tag="kv", lenient=True, trusted=True)
    read, write = "kv:read", "kv:write"
    prefix = Query("prefix", str, "Only keys that begin like this")
    one = "/v1/kv/{ns}/{key...}"
    guard = (Query("lock", str, "A lock of the namespace: only while `token` has it; else 409."),
             Query("token", int, "The token that came with the lock"))
    return [
        old("GET", "/v1/kv", handlers.namespaces, "List namespaces", permission=read,
            answers={200: Namespaces}),
        old("GET", "/v1/kv/{ns}", handlers.page, "List a namespace's values by key",
            permission=read, answers={200: list[Entry]},
            query=(prefix, ALL_OR_LIMIT, CURSOR)),
        old("GET", "/v1/kv/{ns}/keys", handlers.keys, "List a namespace's keys", permission=read,
            answers={200: Keys}, query=(prefix,)),
        old("POST", "/v1/kv/{ns}/batch", handlers.batch,
            "Write up to 10,000 keys, all or nothing", permission=write, body=Batch,
            answers={200: BatchDone}, body_bytes_max=BULK_BYTES_MAX, query=(IDEMPOTENCY_KEY,),
            hot=True),
        old("PUT", one, handlers.put, "Write a value", permission=write, body=ValueGiven,
            answers={200: Entry}, body_bytes_max=PUT_BYTES_MAX,
            query=(IF_MATCH, IF_NONE_MATCH, *guard, IDEMPOTENCY_KEY)),
        old("GET", one, handlers.get, "Get a value", permission=read,
            answers={200: Entry, 304: None}, query=(IF_CHANGED,)),
        old("DELETE", one, handlers.delete, "Delete a value", permission=write,
            answers={204: None}, query=(IF_MATCH, *guard)),
        Route("DELETE", "/v1/kv/{ns}", handlers.clear, "Delete a namespace's keys", "kv", write,
              answers={200: Cleared}, query=(prefix, *guard)),
    ]
