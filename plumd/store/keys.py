"""Idempotency keys: the answer that the first request with a key was given."""

from __future__ import annotations

from typing import Final

import apsw
import msgspec

from plumd.store import sql

SQL: Final = sql.load("keys")


class Answer(msgspec.Struct, frozen=True):
    """What was answered, and the digest of the body that it answered."""

    digest: bytes
    status: int
    body: bytes
    location: str


def get(db: apsw.Connection, key: str) -> Answer | None:
    """The remembered answer of a key, or None."""
    for row in db.execute(SQL["get"], (key,)):
        return Answer(*row)
    return None


def insert(db: apsw.Connection, key: str, answer: Answer, now_ms: int) -> None:
    """Remember an answer in the commit that makes it true."""
    db.execute(SQL["insert"], (key, answer.digest, answer.status, answer.body, answer.location,
                               now_ms))


def prune(db: apsw.Connection, before_ms: int, count: int) -> int:
    """Forget up to count keys from before a time."""
    db.execute(SQL["prune"], (before_ms, count))
    return db.changes()
