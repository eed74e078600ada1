"""Deployments, and every version of what they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import apsw
import msgspec

from plumd.fleet import Body, Rollout
from plumd.store import sql
from plumd.store.store import Tx

SQL: Final = sql.load("deployments")
ENCODE: Final = msgspec.json.Encoder().encode
DECODE: Final = msgspec.json.Decoder(Body).decode
DECODE_ROLLOUT: Final = msgspec.json.Decoder(Rollout).decode
BEGIN: Final = (1 << 63) - 1

Row: TypeAlias = tuple[int, int, int, int, str | None, int, int, bytes]


class DeploymentRow(msgspec.Struct, frozen=True):
    """A deployment with its current version. next_token: for the next copy."""

    number: int
    version: int
    running: bool
    next_token: int
    rollout: Rollout | None
    created_ms: int
    updated_ms: int
    body: Body


class VersionRow(msgspec.Struct, frozen=True):
    """One version. note: why there is one."""

    version: int
    body: Body
    note: str
    created_ms: int


def _deployment(row: Row) -> DeploymentRow:
    return DeploymentRow(row[0], row[1], bool(row[2]), row[3],
                         DECODE_ROLLOUT(row[4]) if row[4] else None, row[5], row[6],
                         DECODE(row[7]))


def every(db: apsw.Connection) -> list[DeploymentRow]:
    """All deployments, oldest first."""
    found: Iterator[Row] = sql.rows(db, SQL["all"])
    return [_deployment(row) for row in found]


def get(db: apsw.Connection, number: int) -> DeploymentRow | None:
    """One deployment, or None."""
    found: Iterator[Row] = sql.rows(db, SQL["get"], (number,))
    return next((_deployment(row) for row in found), None)


def page(db: apsw.Connection, name: str, before: int, limit: int) -> list[DeploymentRow]:
    """One page, newest first; before 0 = from the newest; of a name if it is not ""."""
    before = before or BEGIN
    found: Iterator[Row] = (sql.rows(db, SQL["by_name"], (name, before, limit)) if name
                            else sql.rows(db, SQL["page"], (before, limit)))
    return [_deployment(row) for row in found]


def body(db: apsw.Connection, number: int, version: int) -> Body | None:
    """What a version says, or None."""
    found: Iterator[tuple[bytes]] = sql.rows(db, SQL["body"], (number, version))
    return next((DECODE(text) for text, in found), None)


def versions(db: apsw.Connection, number: int, below: int, limit: int) -> list[VersionRow]:
    """Versions, newest first; below 0 = from the newest."""
    found: Iterator[tuple[int, bytes, str, int]] = sql.rows(
        db, SQL["versions"], (number, below or BEGIN, limit))
    return [VersionRow(version, DECODE(text), note, created_ms)
            for version, text, note, created_ms in found]


def user_of(db: apsw.Connection, url: str) -> str | None:
    """The name of a deployment that needs an artifact, or None."""
    found: Iterator[tuple[str, bytes]] = sql.rows(db, SQL["in_use"])
    return next((name for name, text in found
                 if any(entry.artifact_url == url for entry in DECODE(text).entries)), None)


def write(tx: Tx, row: DeploymentRow) -> None:
    """Write a deployment, but not its body."""
    tx.db.execute(SQL["upsert"], (
        row.number, row.body.name, row.version, int(row.running), row.next_token,
        ENCODE(row.rollout).decode() if row.rollout is not None else None, row.created_ms,
        row.updated_ms))


def add_version(tx: Tx, row: DeploymentRow, note: str) -> None:
    """Write the body of a deployment's new version."""
    tx.db.execute(SQL["insert_version"], (row.number, row.version, ENCODE(row.body), note,
                                          tx.now_ms))


def delete(tx: Tx, number: int) -> None:
    """Forget a deployment with its versions."""
    tx.db.execute(SQL["delete_versions"], (number,))
    tx.db.execute(SQL["delete"], (number,))
