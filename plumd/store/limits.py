"""Named limits of concurrency keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import apsw
import msgspec

from plumd.errors import NotFound
from plumd.model import SetLimit
from plumd.store import precondition, sql

if TYPE_CHECKING:
    from plumd.store.store import Tx

SQL: Final = sql.load("limits")
ALL: Final = 1 << 31


class LimitRow(msgspec.Struct, frozen=True):
    """A named limit; 0 = none of that sort."""

    key: str
    version: int
    concurrency: int
    rate_count: int
    rate_per_ms: int
    updated_ms: int


def get(db: apsw.Connection, key: str) -> LimitRow | None:
    """One limit, or None."""
    for row in db.execute(SQL["get"], (key,)):
        return LimitRow(*row)
    return None


def page(db: apsw.Connection, after: str, limit: int) -> list[LimitRow]:
    """One page, by key."""
    return [LimitRow(*row) for row in db.execute(SQL["page"], (after, limit))]


def commands(db: apsw.Connection) -> list[SetLimit]:
    """All of them, for the core."""
    return [SetLimit(row.key, row.concurrency, row.rate_count, row.rate_per_ms)
            for row in page(db, "", ALL)]


def put(tx: Tx, command: SetLimit, if_version: int | None) -> LimitRow:
    """Write a limit. Raises: VersionMismatch."""
    old = get(tx.db, command.key)
    version = precondition.ABSENT if old is None else old.version
    precondition.check(version, if_version)
    tx.db.execute(SQL["put"], (command.key, version + 1, command.concurrency, command.rate_count,
                               command.rate_per_ms, tx.now_ms))
    tx.emit("limit", command.key, "updated" if old else "created", tx.now_ms)
    return LimitRow(command.key, version + 1, command.concurrency, command.rate_count,
                    command.rate_per_ms, tx.now_ms)


def delete(tx: Tx, key: str, if_version: int | None) -> None:
    """Remove a limit. Raises: NotFound, VersionMismatch."""
    old = get(tx.db, key)
    if old is None:
        raise NotFound("no such limit")
    precondition.check(old.version, if_version)
    tx.db.execute(SQL["delete"], (key,))
    tx.emit("limit", key, "deleted", tx.now_ms)
