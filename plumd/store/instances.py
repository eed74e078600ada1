"""Instances of deployments: a row a copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import apsw

from plumd.fleet import Copy, Phase
from plumd.store import sql
from plumd.store.store import Tx

SQL: Final = sql.load("instances")
LOOK: Final = 1_000

Row: TypeAlias = tuple[int, int, str, str, int, int, int, int, int, str, str, int, int, int, int,
                       int | None, int | None, int, int, str, int, int, int, int]


def _copy(row: Row) -> Copy:
    return Copy(*row[:12], bool(row[12]), Phase(row[13]), *row[14:])


def _found(db: apsw.Connection, statement: str, *values: int | str) -> list[Copy]:
    found: Iterator[Row] = sql.rows(db, statement, values)
    return [_copy(row) for row in found]


def every(db: apsw.Connection) -> list[Copy]:
    """All copies, oldest first."""
    return _found(db, SQL["all"])


def get(db: apsw.Connection, number: int) -> Copy | None:
    """One copy, or None."""
    return next(iter(_found(db, SQL["get"], number)), None)


def of_deployment(db: apsw.Connection, deployment: int) -> list[Copy]:
    """A deployment's copies, oldest first."""
    return _found(db, SQL["of_deployment"], deployment)


def of_node(db: apsw.Connection, node_id: str) -> list[Copy]:
    """A node's copies, oldest first."""
    return _found(db, SQL["of_node"], node_id)


def page(db: apsw.Connection, after: int, limit: int, node_id: str = "",
         state: str = "") -> list[Copy]:
    """One page of all copies, oldest first; with a node or a state, of those alone."""
    if node_id:
        return [copy for copy in of_node(db, node_id)
                if copy.number > after and state in ("", copy.state)][:limit]
    found: list[Copy] = []
    at_once = LOOK if state else limit      # a state is not stored: it is seen by looking
    while len(found) < limit:
        rows = _found(db, SQL["page"], after, at_once)
        found += [copy for copy in rows if state in ("", copy.state)]
        if len(rows) < at_once:
            break
        after = rows[-1].number
    return found[:limit]


def node_of(db: apsw.Connection, number: int) -> str | None:
    """The node of a copy, "" when it has none yet; None when there is no such copy."""
    found: Iterator[tuple[str]] = sql.rows(db, SQL["node_of"], (number,))
    return next((node_id for node_id, in found), None)


def counts(db: apsw.Connection) -> dict[str, int]:
    """How many copies each node has that shall run."""
    found: Iterator[tuple[str, int]] = sql.rows(db, SQL["counts"])
    return dict(found)


def write(tx: Tx, changed: Iterable[Copy], gone: Iterable[int]) -> None:
    """Write copies as they are now, and forget others."""
    tx.db.executemany(SQL["upsert"], [
        (one.number, one.deployment, one.entry, one.pin, one.ordinal, one.generation, one.version,
         one.token, one.replaces, one.node_id, one.retired, one.stop_ms, int(one.held),
         int(one.phase), one.healthy_ms, one.exit_code, one.signal, one.restarts, one.pid,
         one.message, one.started_ms, one.reported_ms, one.placed_ms, one.created_ms)
        for one in changed])
    for number in gone:
        tx.db.execute(SQL["delete"], (number,))
