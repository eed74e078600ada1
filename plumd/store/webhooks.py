"""Webhooks that go out, and what became of each delivery."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import apsw
import msgspec

from plumd.errors import Exists, NotFound, WrongState
from plumd.model import id_text
from plumd.store import events as log
from plumd.store import precondition, sql

if TYPE_CHECKING:
    from plumd.store.store import Tx

SQL: Final = sql.load("webhooks")
ENCODE: Final = msgspec.json.Encoder().encode
NEWEST: Final = (1 << 63) - 1
DROPPED_MAX: Final = 1_000
"""So many are given up in one commit."""


class DeliveryState(IntEnum):
    """Where a delivery stands."""

    PENDING = 0
    DELIVERED = 1
    FAILED = 2          # given up


STATES: Final = tuple(state.name.lower() for state in DeliveryState)


class WebhookBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                  omit_defaults=True):
    """Who is told of what."""

    name: str
    url: str
    topics: tuple[str, ...]
    filter: str = ""
    headers: dict[str, str] = {}
    timeout_sec: float = 10
    max_attempts: int = 12
    max_waiting: int = 10_000
    enabled: bool = True
    description: str = ""


DECODE: Final = msgspec.json.Decoder(WebhookBody).decode


class WebhookRow(msgspec.Struct, frozen=True):
    """A webhook. since_seq: events from here on are its own; dropped: how many deliveries were
    given up because too many waited."""

    id: int
    version: int
    body: WebhookBody
    secret: str
    since_seq: int
    created_ms: int
    updated_ms: int
    dropped: int


class Note(msgspec.Struct, frozen=True):
    """An event that is to be delivered."""

    webhook_id: int
    seq: int
    topic: str
    body: bytes


class Due(msgspec.Struct, frozen=True):
    """A delivery that waits for its next attempt."""

    seq: int
    attempts: int
    due_ms: int
    created_ms: int
    body: bytes


class Tried(msgspec.Struct, frozen=True):
    """How an attempt ended. due_ms: of the next one, if it is still pending."""

    webhook_id: int
    seq: int
    state: int
    attempts: int
    due_ms: int
    status: int
    detail: str


class DeliveryRow(msgspec.Struct, frozen=True):
    """A delivery as it is read."""

    seq: int
    state: int
    attempts: int
    due_ms: int
    status: int
    detail: str
    created_ms: int
    ended_ms: int
    topic: str
    body: bytes


Shape = tuple[int, int, bytes, str, int, int, int, int]


def row_of(row: Shape) -> WebhookRow:
    """A row as a Struct. Raises: msgspec.DecodeError."""
    return WebhookRow(row[0], row[1], DECODE(row[2]), *row[3:])


def get(db: apsw.Connection, number: int) -> WebhookRow | None:
    """One webhook by id, or None."""
    for row in db.execute(SQL["get"], (number,)):
        return row_of(row)
    return None


def by_name(db: apsw.Connection, name: str) -> WebhookRow | None:
    """One webhook by name, or None."""
    for row in db.execute(SQL["get_by_name"], (name,)):
        return row_of(row)
    return None


def page(db: apsw.Connection, before: int, limit: int) -> list[WebhookRow]:
    """One page, newest first; before 0 = from the newest."""
    return [row_of(row) for row in db.execute(SQL["page"], (before or NEWEST, limit))]


def every(db: apsw.Connection) -> list[Shape]:
    """The rows of all, for `row_of`."""
    return list(sql.rows(db, SQL["all"]))


def create(tx: Tx, number: int, body: WebhookBody, secret: str) -> None:
    """Add a webhook; events from this commit on are its own. Raises: Exists."""
    if by_name(tx.db, body.name) is not None:
        raise Exists(f"a webhook named {body.name!r} exists", field="name")
    tx.db.execute(SQL["insert"], (number, body.name, ENCODE(body), secret, log.next_seq(tx.db),
                                  tx.now_ms, tx.now_ms))
    tx.emit("webhook", id_text(number), "created", body.name, tx.now_ms)


def update(tx: Tx, old: WebhookRow, body: WebhookBody, secret: str,
           if_version: int | None) -> None:
    """Write a webhook anew, by the row that the caller has seen. What happened while it was paused
    is not told later; what waited already still is.

    Raises: NotFound, VersionMismatch, Exists; WrongState when the row has changed meanwhile.
    """
    now = get(tx.db, old.id)
    if now is None:
        raise NotFound("no such webhook")
    precondition.check(now.version, if_version)
    precondition.still(now.version, old.version)
    if body.name != old.body.name and by_name(tx.db, body.name) is not None:
        raise Exists(f"a webhook named {body.name!r} exists", field="name")
    woken = body.enabled and not old.body.enabled
    tx.db.execute(SQL["update"], (
        body.name, old.version + 1, ENCODE(body), secret,
        log.next_seq(tx.db) if woken else old.since_seq, tx.now_ms, old.id))
    what = "updated"
    if old.body.enabled != body.enabled:
        what = "resumed" if body.enabled else "paused"
    tx.emit("webhook", id_text(old.id), what, body.name, tx.now_ms)


def delete(tx: Tx, number: int, if_version: int | None) -> None:
    """Remove a webhook with what waits; its history goes by age.

    Raises: NotFound, VersionMismatch.
    """
    old = get(tx.db, number)
    if old is None:
        raise NotFound("no such webhook")
    precondition.check(old.version, if_version)
    tx.db.execute(SQL["give_up"], (number,))
    tx.db.execute(SQL["delete"], (number,))
    tx.emit("webhook", id_text(number), "deleted", old.body.name, tx.now_ms)


# ---------------------------------------------------------------- deliveries

def note(tx: Tx, notes: Sequence[Note]) -> None:
    """Events that are to be delivered, from now on."""
    tx.db.executemany(SQL["note"], [
        (one.seq, tx.now_ms, tx.now_ms, one.topic, one.body, one.webhook_id) for one in notes])


def bound(tx: Tx, number: int, most: int, *, told: bool) -> tuple[int, int]:
    """Give up the oldest of what waits where more than `most` do: a tenth more than must be, so
    that it need not be counted at each event. told: there was an alert of it already.

    Answers how many more may be noted before this is asked again, and how many were given up.
    """
    count = waiting(tx.db, number)
    if count <= most:
        return most - count, 0
    tx.db.execute(SQL["drop_oldest"], (number, min(count - most + most // 10, DROPPED_MAX)))
    dropped = tx.db.changes()
    tx.db.execute(SQL["count_dropped"], (dropped, number))
    if not told:
        tx.emit("alert", "webhook_failed", id_text(number),
                f"more than {most} deliveries wait: the oldest are given up", tx.now_ms)
    return most - count + dropped, dropped


def due(db: apsw.Connection, number: int, limit: int) -> list[Due]:
    """What waits, the next one first."""
    return [Due(*row) for row in db.execute(SQL["due"], (number, limit))]


def waiting(db: apsw.Connection, number: int) -> int:
    """How many deliveries wait."""
    return sql.number(db, SQL["waiting"], (number,))


def tried(tx: Tx, one: Tried) -> None:
    """How an attempt ended; of deliveries in a row that are given up the first is told."""
    over = one.state != DeliveryState.PENDING
    tx.db.execute(SQL["tried"], (one.state, one.attempts, one.due_ms, one.status, one.detail,
                                 tx.now_ms if over else 0, one.webhook_id, one.seq))
    if (one.state == DeliveryState.FAILED and tx.db.changes()
            and sql.number(tx.db, SQL["ended_before"], (one.webhook_id, one.seq))
            != DeliveryState.FAILED):
        tx.emit("alert", "webhook_failed", id_text(one.webhook_id), one.detail, tx.now_ms)


def again(tx: Tx, number: int, seq: int) -> None:
    """Deliver once more what is over. Raises: NotFound, WrongState."""
    tx.db.execute(SQL["again"], (tx.now_ms, number, seq))
    if tx.db.changes():
        return
    if delivery(tx.db, number, seq) is None:
        raise NotFound("no such delivery")
    raise WrongState("the delivery waits for its next attempt already")


def delivery(db: apsw.Connection, number: int, seq: int) -> DeliveryRow | None:
    """One delivery, or None."""
    for row in db.execute(SQL["delivery"], (number, seq)):
        return DeliveryRow(*row)
    return None


def deliveries(db: apsw.Connection, number: int, state: int | None, before: int,
               limit: int) -> list[DeliveryRow]:
    """One page of a webhook's deliveries, newest first."""
    low, high = (0, max(DeliveryState)) if state is None else (state, state)
    rows = db.execute(SQL["deliveries"], (number, before or NEWEST, low, high, limit))
    return [DeliveryRow(*row) for row in rows]


def prune(db: apsw.Connection, before_ms: int, count: int) -> int:
    """Forget up to count deliveries from before a time; answers how many went."""
    db.execute(SQL["prune"], (before_ms, count))
    return db.changes()


def prune_before(db: apsw.Connection, number: int, seq: int, count: int) -> int:
    """Forget up to count deliveries of a webhook that are over, of events before this one; answers
    how many went."""
    db.execute(SQL["prune_before"], (number, seq, count))
    return db.changes()
