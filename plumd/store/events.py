"""The event log: one record a commit, found by its first sequence number alone.

An event is a short tuple whose first item is its topic; the rest is what plumd._sched and the
store commands put there. Every commit that writes takes at least one number, so that one whose
outcome is unknown can be looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import apsw
import msgspec

from plumd.model import parse_id
from plumd.store import sql

SQL: Final = sql.load("events")
ENCODE: Final = msgspec.msgpack.Encoder().encode

Event: TypeAlias = tuple[int | str, ...]
DECODE: Final = msgspec.msgpack.Decoder(list[Event]).decode


class Record(msgspec.Struct, frozen=True, gc=False):
    """The events of one commit; event i has the number first_seq + i.

    count: how many numbers it took, 0 where nothing was to be written.
    """

    first_seq: int
    count: int
    items: Sequence[Event]


def insert(db: apsw.Connection, first_seq: int, at_ms: int, items: Sequence[Event]) -> Record:
    """Write one commit's events; a commit without any takes a number too."""
    count = len(items) or 1
    db.execute(SQL["insert"], (first_seq, count, at_ms, ENCODE(items)))
    return Record(first_seq, count, items)


def next_seq(db: apsw.Connection) -> int:
    """The number that the next event gets."""
    return sql.number(db, SQL["next_seq"])


def oldest_seq(db: apsw.Connection) -> int:
    """The oldest number that is still kept."""
    return sql.number(db, SQL["oldest_seq"])


def has(db: apsw.Connection, first_seq: int) -> bool:
    """Whether the commit with this first number happened."""
    return bool(db.execute(SQL["has"], (first_seq,)).fetchall())


def since(db: apsw.Connection, seq: int, limit: int) -> list[Record]:
    """Up to limit records, beginning with the one that holds seq."""
    rows = db.execute(SQL["since"], (seq, limit))
    return [Record(row[0], row[1], DECODE(row[2])) for row in rows]


class Past(msgspec.Struct, frozen=True, gc=False):
    """An event of the log with its number, and when it was written.

    name: what people call now what it is about, "" = it is gone, or the event says it.
    """

    seq: int
    at_ms: int
    event: Event
    name: str


def before(db: apsw.Connection, seq: int, wanted: Callable[[Event], bool], limit: int, *,
           looked_at_max: int) -> tuple[list[Past], int]:
    """Up to limit events below seq that are wanted, newest first, and where to go on: the number
    below which nothing was looked at, 0 = there is nothing. No more than about looked_at_max
    events, wanted or not, are looked at.
    """
    found: list[Past] = []
    looked_at = 0
    rows: Iterator[tuple[int, int, bytes, int]] = sql.rows(db, SQL["before"], (seq, looked_at_max))
    for first_seq, count, items, at_ms in rows:
        events = DECODE(items)
        for index in range(min(len(events), seq - first_seq) - 1, -1, -1):
            if wanted(events[index]):
                found.append(Past(first_seq + index, at_ms, events[index],
                                  name_of(db, events[index])))
                if len(found) == limit:
                    return found, first_seq + index
        looked_at += count
        if looked_at >= looked_at_max:
            return found, first_seq
    return found, 0


ABOUT: Final = {
    "run": ("workflow", 2), "step": ("workflow", 2), "schedule": ("schedule", 1),
    "trigger": ("trigger", 1), "webhook": ("webhook", 1), "deployment": ("deployment", 1),
    "instance": ("instance", 1), "schedule_failed": ("schedule", 2),
    "trigger_failed": ("trigger", 2), "webhook_failed": ("webhook", 2),
}
"""An event's kind, of alerts what is wrong -> what it is about, and where its id stands."""


def name_of(db: apsw.Connection, event: Event) -> str:
    """What people call now what an event is about, "" where nothing is known."""
    about = ABOUT.get(str(event[1] if event[0] == "alert" else event[0]))
    if about is None:
        return ""
    kind, at = about
    ident = event[at]
    number = ident if isinstance(ident, int) else parse_id(ident)
    return str(next((name for name, in db.execute(SQL[f"name_of_{kind}"], (number,))), ""))


def prune(db: apsw.Connection, before_ms: int, before_seq: int, count: int) -> int:
    """Forget up to count records older than a time or a number; answers how many went."""
    db.execute(SQL["prune"], (count, before_ms, before_seq))
    return db.changes()
