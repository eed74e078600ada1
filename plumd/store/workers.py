"""Workers: what they said when they joined. Liveness is the core's and is not written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from plumd.model import Join, WorkerKind
from plumd.store import sql

SQL: Final = sql.load("workers")
ENCODE: Final = msgspec.json.Encoder().encode
DECODE: Final = msgspec.json.Decoder(Join).decode


class WorkerRow(msgspec.Struct, frozen=True):
    """A worker as it is stored; offline_ms 0 = believed to be there."""

    join: Join
    registered_ms: int
    offline_ms: int


def write(db: apsw.Connection, joined: Sequence[Join], gone: Sequence[tuple[str, str]],
          now_ms: int) -> None:
    """Joins and departures of one step; the daemon's own executors are not stored."""
    for join in joined:
        if join.kind != WorkerKind.LOCAL:
            kept = msgspec.structs.replace(join, holding=())
            db.execute(SQL["upsert"], (join.worker_id, ENCODE(kept), int(join.kind), now_ms))
    for worker_id, how in gone:
        if how == "left":
            db.execute(SQL["delete"], (worker_id,))
        else:
            db.execute(SQL["offline"], (now_ms, worker_id))


def every(db: apsw.Connection) -> list[WorkerRow]:
    """All workers that are known, by id."""
    return [WorkerRow(DECODE(row[1]), row[2], row[3]) for row in db.execute(SQL["all"])]


def get(db: apsw.Connection, worker_id: str) -> WorkerRow | None:
    """One worker, or None."""
    for row in db.execute(SQL["get"], (worker_id,)):
        return WorkerRow(DECODE(row[1]), row[2], row[3])
    return None


def set_drained(db: apsw.Connection, worker_id: str, on: bool) -> None:
    """Somebody let a worker take nothing new, or take it again; it holds until it leaves."""
    db.execute(SQL["drain"], (on, worker_id))


def drained(db: apsw.Connection) -> list[str]:
    """The workers that are to take nothing new."""
    return [row[0] for row in db.execute(SQL["drained"])]


def delete(db: apsw.Connection, worker_id: str) -> bool:
    """Forget a worker that is not here; False when it was not known."""
    db.execute(SQL["delete"], (worker_id,))
    return db.changes() > 0


def prune(db: apsw.Connection, before_ms: int) -> int:
    """Forget workers that have been offline since before a time."""
    db.execute(SQL["prune"], (before_ms,))
    return db.changes()
