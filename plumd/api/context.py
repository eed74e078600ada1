"""What handlers work with, and how they wait for an end."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import msgspec
import trio

from plumd.api.params import idempotency_key
from plumd.api.routes import Request, Response
from plumd.engine import Engine
from plumd.errors import KeyReused, NotFound, PlumError
from plumd.model import parse_id
from plumd.planner import Planner
from plumd.store import keys
from plumd.store.blobs import Blobs
from plumd.store.definitions import Catalog
from plumd.store.keys import Answer
from plumd.store.store import Store, Tx

ENCODE: Final = msgspec.json.Encoder().encode
SETTLE_S_MAX: Final = 5.0
T = TypeVar("T")


class Context:
    """The rooms behind the doors, and the requests with an Idempotency-Key that are under way."""

    def __init__(self, engine: Engine, catalog: Catalog, planner: Planner, blobs: Blobs) -> None:
        self.engine = engine
        self.store: Store = engine.store
        self.catalog = catalog
        self.planner = planner
        self.blobs = blobs
        self.under_way: dict[str, trio.Event] = {}

    @contextmanager
    def watching(self, item_id: int) -> Iterator[trio.Event]:
        """An event that is set at the end of a task or run; forgotten again after the block."""
        event = self.engine.watch(item_id)
        try:
            yield event
        finally:
            self.engine.unwatch(item_id, event)

    async def define(self, write: Callable[[Tx], T]) -> T:
        """Write definitions. Raises: as Engine.write.

        Cancel: it is written all the same, and what is read next is what is written.
        """
        return await self.engine.write(write, then=lambda _: self.catalog.forget())

    async def settled(self) -> None:
        """Return when all that the engine was asked before is durable or refused, or it hangs."""
        with trio.move_on_after(SETTLE_S_MAX, shield=True):
            try:
                await self.engine.call_all((), urgent=True)
            except PlumError:
                return      # the disk is down, and whoever asked before has been told


async def until(event: trio.Event, seconds: float) -> None:
    """Until something is over, or the caller's patience is."""
    with trio.move_on_after(seconds):
        await event.wait()


def id_param(request: Request, what: str, name: str = "id") -> int:
    """The id in the path. Raises: NotFound, for what is no id names nothing."""
    number = parse_id(request.params[name])
    if number is None:
        raise NotFound(f"no such {what}")
    return number


def answer(status: int, value: object, *headers: tuple[str, str]) -> Response:
    """A JSON answer."""
    return Response(status, ENCODE(value), headers=headers)


def etag(version: int) -> tuple[str, str]:
    """The ETag header of a version."""
    return "etag", f'"{version}"'


class Note:
    """Remembers a request's answer in the commit that makes it true; without a key it is empty."""

    def __init__(self, key: str = "", digest: bytes = b"") -> None:
        self.key = key
        self.digest = digest

    def __bool__(self) -> bool:
        return bool(self.key)

    def write(self, tx: Tx, status: int, body: bytes, location: str = "") -> None:
        """Part of a store command: remember this answer; the first one of a key stays."""
        if self.key and keys.get(tx.db, self.key) is None:
            keys.insert(tx.db, self.key, Answer(self.digest, status, body, location), tx.now_ms)


NO_NOTE: Final = Note()


async def once(context: Context, request: Request,
               fresh: Callable[[Note], Awaitable[Response]],
               again: Callable[[Answer], Awaitable[Response]]) -> Response:
    """Carry a request out once per Idempotency-Key: `fresh` the first time, with the Note that it
    must write in its commit, and `again` for every repetition.

    Raises: KeyReused when the key came with another body.
    Cancel: a command that was handed over is carried out, so the next request with this key
    waits until it is.
    """
    given = idempotency_key(request.headers)
    if given is None:
        return await fresh(NO_NOTE)
    key = f"{request.method} {request.path}?{request.query.get('action', '')} {given}"
    digest = hashlib.sha256(request.body).digest()
    while (before := context.under_way.get(key)) is not None:
        await before.wait()
    known = context.store.peek(keys.get, key)
    if known is not None:
        if known.digest != digest:
            raise KeyReused("this Idempotency-Key was used with another body",
                            field="Idempotency-Key")
        return await again(known)
    event = context.under_way[key] = trio.Event()
    try:
        return await fresh(Note(key, digest))
    except trio.Cancelled:
        await context.settled()
        raise
    finally:
        del context.under_way[key]
        event.set()


def remember(note: Note, status: int, body: bytes,
             location: str = "") -> Callable[[Tx], None] | None:
    """The note as a store command; None when there is nothing to remember."""
    if not note:
        return None
    return lambda tx: note.write(tx, status, body, location)


async def again_as_it_was(known: Answer) -> Response:
    """The remembered answer itself."""
    return Response(known.status, known.body, headers=replayed(known))


def replayed(known: Answer) -> tuple[tuple[str, str], ...]:
    """Headers of a repetition."""
    where = (("location", known.location),) if known.location else ()
    return (*where, ("idempotency-replayed", "true"))
