"""Triggers, what became of the events that they took, and how far the log was followed."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import apsw
import msgspec

from plumd.errors import Exists, NotFound
from plumd.model import id_text
from plumd.store import events as log
from plumd.store import precondition, sql

if TYPE_CHECKING:
    from plumd.store.store import Tx

SQL: Final = sql.load("triggers")
ENCODE: Final = msgspec.json.Encoder().encode
NEWEST: Final = (1 << 63) - 1
PARENTS_MAX: Final = 10


class EventState(IntEnum):
    """What became of an event."""

    STARTED = 0
    FILTERED = 1
    FAILED = 2          # what it starts could not be started


STATES: Final = tuple(state.name.lower() for state in EventState)


class After(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The end of another workflow's run. on: success, failure or any."""

    workflow_id: str
    on: str = "success"


class TriggerBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                  omit_defaults=True):
    """What starts something, and what: kind is webhook, event, after or mqtt."""

    name: str
    kind: str
    workflow_id: str = ""
    def_id: str = ""
    filter: str = ""
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    event_id: str = ""
    signature: str = ""
    topics: tuple[str, ...] = ()
    after: After | None = None
    broker: str = ""
    topic: str = ""
    enabled: bool = True
    description: str = ""


DECODE: Final = msgspec.json.Decoder(TriggerBody).decode


class TriggerRow(msgspec.Struct, frozen=True):
    """A trigger. key: a webhook's place; since_seq: events from here on are its own."""

    id: int
    version: int
    body: TriggerBody
    key: str
    secret: str
    since_seq: int
    created_ms: int
    updated_ms: int


class Taken(msgspec.Struct, frozen=True):
    """What became of an event, as it is written. number: its place in the history."""

    trigger_id: int
    event_id: str
    number: int
    state: int
    at_ms: int
    depth: int = 0
    run_id: int = 0
    task_id: int = 0
    reason: str = ""
    detail: str = ""


class TakenRow(msgspec.Struct, frozen=True):
    """The same as it is read. outcome: the state of what it started, None = gone or none."""

    event_id: str
    number: int
    state: int
    run_id: int
    task_id: int
    at_ms: int
    reason: str
    detail: str
    outcome: int | None


Shape = tuple[int, int, bytes, str, str, int, int, int]
TakenShape = tuple[str, int, int, int, int, int, str, str, int | None, int | None]


def row_of(row: Shape) -> TriggerRow:
    """A row as a Struct. Raises: msgspec.DecodeError."""
    return TriggerRow(row[0], row[1], DECODE(row[2]), *row[3:])


def get(db: apsw.Connection, number: int) -> TriggerRow | None:
    """One trigger by id, or None."""
    for row in db.execute(SQL["get"], (number,)):
        return row_of(row)
    return None


def by_name(db: apsw.Connection, name: str) -> TriggerRow | None:
    """One trigger by name, or None."""
    for row in db.execute(SQL["get_by_name"], (name,)):
        return row_of(row)
    return None


def by_key(db: apsw.Connection, key: str) -> TriggerRow | None:
    """The webhook at a place, or None."""
    for row in db.execute(SQL["get_by_key"], (key,)):
        return row_of(row)
    return None


def page(db: apsw.Connection, before: int, limit: int) -> list[TriggerRow]:
    """One page, newest first; before 0 = from the newest."""
    return [row_of(row) for row in db.execute(SQL["page"], (before or NEWEST, limit))]


def listening(db: apsw.Connection) -> list[Shape]:
    """The rows of all that do not wait to be called, for `row_of`."""
    return list(sql.rows(db, SQL["listening"]))


def create(tx: Tx, number: int, body: TriggerBody, key: str, secret: str) -> None:
    """Add a trigger; events from this commit on are its own. Raises: Exists."""
    if by_name(tx.db, body.name) is not None:
        raise Exists(f"a trigger named {body.name!r} exists", field="name")
    tx.db.execute(SQL["insert"], (
        number, body.name, body.kind, ENCODE(body), body.workflow_id or body.def_id,
        watched(body), key, secret, log.next_seq(tx.db), tx.now_ms, tx.now_ms))
    tx.emit("trigger", id_text(number), "created", body.name, tx.now_ms)


def update(tx: Tx, old: TriggerRow, body: TriggerBody, key: str, secret: str,
           if_version: int | None) -> None:
    """Write a trigger anew, by the row that the caller has seen. What happened while it was paused
    stays without consequences.

    Raises: NotFound, VersionMismatch, Exists; WrongState when the row has changed meanwhile.
    """
    now = get(tx.db, old.id)
    if now is None:
        raise NotFound("no such trigger")
    precondition.check(now.version, if_version)
    precondition.still(now.version, old.version)
    if body.name != old.body.name and by_name(tx.db, body.name) is not None:
        raise Exists(f"a trigger named {body.name!r} exists", field="name")
    woken = body.enabled and not old.body.enabled
    tx.db.execute(SQL["update"], (
        body.name, old.version + 1, body.kind, ENCODE(body), body.workflow_id or body.def_id,
        watched(body), key, secret, log.next_seq(tx.db) if woken else old.since_seq, tx.now_ms,
        old.id))
    what = "updated"
    if old.body.enabled != body.enabled:
        what = "resumed" if body.enabled else "paused"
    tx.emit("trigger", id_text(old.id), what, body.name, tx.now_ms)


def watched(body: TriggerBody) -> str:
    """The workflow whose ends it waits for."""
    return "" if body.after is None else body.after.workflow_id


def delete(tx: Tx, number: int, if_version: int | None) -> None:
    """Remove a trigger; what it started goes on, its history goes by age.

    Raises: NotFound, VersionMismatch.
    """
    old = get(tx.db, number)
    if old is None:
        raise NotFound("no such trigger")
    precondition.check(old.version, if_version)
    tx.db.execute(SQL["delete"], (number,))
    tx.emit("trigger", id_text(number), "deleted", old.body.name, tx.now_ms)


# ---------------------------------------------------------------- events

def write(tx: Tx, taken: Sequence[Taken]) -> None:
    """What became of events in this commit."""
    for one in taken:
        tx.db.execute(SQL["put_event"], (
            one.trigger_id, one.event_id, one.number, one.state, one.depth, one.run_id,
            one.task_id, one.at_ms, one.reason, one.detail))
        item = one.run_id or one.task_id
        tx.emit("trigger", id_text(one.trigger_id), STATES[one.state], one.event_id, one.reason,
                id_text(item) if item else "", one.at_ms)
        if one.state == EventState.FAILED:
            tx.emit("alert", "trigger_failed", id_text(one.trigger_id), one.detail, one.at_ms)


def taken_of(row: TakenShape) -> TakenRow:
    """A row as a Struct."""
    return TakenRow(*row[:8], row[8] if row[8] is not None else row[9])


def event(db: apsw.Connection, number: int, event_id: str) -> TakenRow | None:
    """What became of one event, or None."""
    for row in db.execute(SQL["event"], (number, event_id)):
        return taken_of(row)
    return None


def events(db: apsw.Connection, number: int, state: int | None, before: int,
           limit: int) -> list[TakenRow]:
    """One page of a trigger's history, newest first."""
    low, high = (0, max(EventState)) if state is None else (state, state)
    rows = db.execute(SQL["events"], (number, before or NEWEST, low, high, limit))
    return [taken_of(row) for row in rows]


def depth(db: apsw.Connection, run_id: int, task_id: int) -> int:
    """How many triggers stand behind a run (or one that it is a part of) or a task."""
    for row in db.execute(SQL["depth_of_task"], (task_id,)):
        return int(row[0])
    for _ in range(PARENTS_MAX):
        if not run_id:
            break
        for row in db.execute(SQL["depth_of_run"], (run_id,)):
            return int(row[0])
        run_id = sql.number(db, SQL["parent"], (run_id,))
    return 0


def prune(db: apsw.Connection, before_ms: int, count: int) -> int:
    """Forget up to count events that were taken before a time; answers how many went."""
    db.execute(SQL["prune"], (before_ms, count))
    return db.changes()


# ---------------------------------------------------------------- the log

def followed(db: apsw.Connection, name: str) -> int:
    """The next event that a follower looks at, 0 = it has never looked."""
    for row in db.execute(SQL["follower"], (name,)):
        return int(row[0])
    return 0


def follow(tx: Tx, name: str, seq: int) -> None:
    """A follower has looked at everything below this number."""
    tx.db.execute(SQL["follow"], (name, seq))
