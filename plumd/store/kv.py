"""The key-value store: versions that only grow, conditions, and keys that expire.

A deleted key leaves its last version behind, so that it comes back above it. Those marks are
forgotten after a while; their namespace then begins new keys above all that were forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeAlias, get_args

import apsw
import msgspec
from msgspec import UNSET, UnsetType

from plumd.errors import PreconditionFailed
from plumd.store import precondition, sql
from plumd.store.store import Tx

SQL: Final = sql.load("kv")
Type: TypeAlias = Literal["string", "int", "double", "bool", "bytes"]
TYPES: Final[tuple[Type, ...]] = get_args(Type)
ABOVE_ALL: Final = b""
"""Sorts behind every text."""

Row: TypeAlias = tuple[str, str, str, int, int, int, int]
Name: TypeAlias = tuple[str, str, int]


class Entry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A key's value. version grows by 1 with each write of the key. Times are Unix ms."""

    namespace: str
    key: str
    value: str
    type: Type
    version: int
    updated_at: int
    expires_at: int | UnsetType = UNSET


class Write(msgspec.Struct, frozen=True):
    """One key's write. value: None deletes it.  ttl_ms: 0 = for ever.

    if_version: as `precondition.check` takes it.  field: what a refusal names.
    """

    key: str
    value: str | None
    type: Type = "string"
    ttl_ms: int = 0
    if_version: int | None = None
    field: str = ""


def _entry(row: Row) -> Entry:
    namespace, key, value, kind, version, updated_ms, expires_ms = row
    return Entry(namespace, key, value, TYPES[kind], version, updated_ms, expires_ms or UNSET)


def get(db: apsw.Connection, namespace: str, key: str, now_ms: int) -> Entry | None:
    """A key's entry; None when it is not there or has expired."""
    found: Iterator[Row] = sql.rows(db, SQL["get"], (namespace, key))
    for row in found:
        if row[6] == 0 or row[6] > now_ms:
            return _entry(row)
    return None


def page(db: apsw.Connection, namespace: str, prefix: str, after: str | None, count: int,
         bytes_max: int, now_ms: int) -> tuple[list[Entry], bool]:
    """Entries by key, behind one key if it is named, and whether there are more.

    At most count, and no more than fit into bytes_max, but at least one.
    """
    entries: list[Entry] = []
    size = 0
    low = prefix if after is None else after + "\0"     # no key holds a NUL
    found: Iterator[Row] = sql.rows(db, SQL["page"], (
        namespace, max(low, prefix), _end(prefix), now_ms, count + 1))
    for row in found:
        size += len(row[1]) + len(row[2])
        if len(entries) == count or (entries and size > bytes_max):
            return entries, True
        entries.append(_entry(row))
    return entries, False


def keys(db: apsw.Connection, namespace: str, prefix: str, now_ms: int) -> list[str]:
    """All keys of a namespace in order."""
    found: Iterator[tuple[str]] = sql.rows(db, SQL["keys"], (
        namespace, prefix, _end(prefix), now_ms))
    return [key for key, in found]


def namespaces(db: apsw.Connection, now_ms: int) -> list[str]:
    """Those with at least one key, in order."""
    found: Iterator[tuple[str]] = sql.rows(db, SQL["namespaces"], (now_ms,))
    return [name for name, in found]


def _end(prefix: str) -> str | bytes:
    """What sorts behind everything that begins with the prefix, and before all else.

    Texts are compared by their UTF-8 bytes, which is by code points.
    """
    for index in range(len(prefix) - 1, -1, -1):
        point = ord(prefix[index]) + 1
        if point <= 0x10FFFF:
            return prefix[:index] + chr(0xE000 if point == 0xD800 else point)
    return ABOVE_ALL


def write(tx: Tx, namespace: str, writes: Sequence[Write]) -> list[int]:
    """Carry writes out in order; answers the versions, 0 for a deletion of what was not there.

    Raises: PreconditionFailed; then the caller's transaction undoes them all.
    """
    return [_write(tx, namespace, one) for one in writes]


def _write(tx: Tx, namespace: str, one: Write) -> int:
    if one.if_version is not None:
        _check(one, get(tx.db, namespace, one.key, tx.now_ms))
    name = (namespace, one.key)
    held = _number(tx.db, "version", name)
    if one.value is None:
        return _delete(tx, (*name, held)) if held else 0
    version = 1 + (held or _last_version(tx.db, name))
    expires_ms = tx.now_ms + one.ttl_ms if one.ttl_ms else 0
    tx.db.execute(SQL["upsert"], (*name, one.value, TYPES.index(one.type), version, tx.now_ms,
                                  expires_ms))
    if not held:
        tx.db.execute(SQL["unbury"], name)
    tx.emit("kv", namespace, "set", one.key, version, tx.now_ms)
    return version


def _check(one: Write, current: Entry | None) -> None:
    """Raises: PreconditionFailed."""
    version = 0 if current is None else current.version
    if precondition.is_met(version, one.if_version):
        return
    state = f"it is at version {version}" if version else "it is not there"
    raise PreconditionFailed(f"the key {one.key!r} is not as it was asked for: {state}",
                             field=one.field or None, more={"current": current})


def _delete(tx: Tx, name: Name) -> int:
    """Remove a row that is there; its going is a version of its own."""
    namespace, key, held = name
    tx.db.execute(SQL["delete"], (namespace, key))
    tx.db.execute(SQL["bury"], (namespace, key, held + 1, tx.now_ms))
    tx.emit("kv", namespace, "deleted", key, held + 1, tx.now_ms)
    return held + 1


def _number(db: apsw.Connection, statement: str, values: tuple[str, ...]) -> int:
    found: Iterator[tuple[int]] = sql.rows(db, SQL[statement], values)
    return next(found, (0,))[0]


def _last_version(db: apsw.Connection, name: tuple[str, str]) -> int:
    """The version that a key which is not there comes back above."""
    return _number(db, "gone_version", name) or _number(db, "floor", name[:1])


def clear(tx: Tx, namespace: str, prefix: str, count: int) -> int:
    """Delete up to count keys of a namespace that begin like this; answers how many."""
    found: list[tuple[str, int]] = list(sql.rows(tx.db, SQL["some"], (
        namespace, prefix, _end(prefix), count)))
    for key, version in found:
        _delete(tx, (namespace, key, version))
    return len(found)


def next_expiry(db: apsw.Connection) -> int | None:
    """When the next key expires, Unix ms."""
    found: Iterator[tuple[int | None]] = sql.rows(db, SQL["next_expiry"])
    return next(found)[0]


def expire(tx: Tx, count: int) -> int:
    """Delete up to count keys whose time is over; answers how many."""
    found: list[Name] = list(sql.rows(tx.db, SQL["expired"], (tx.now_ms, count)))
    for name in found:
        _delete(tx, name)
    return len(found)


def forget(tx: Tx, before_ms: int, count: int) -> int:
    """Forget up to count marks of keys deleted before a time; answers how many."""
    found: list[Name] = list(sql.rows(tx.db, SQL["old_gone"], (before_ms, count)))
    for namespace, key, version in found:
        tx.db.execute(SQL["raise_floor"], (namespace, version))
        tx.db.execute(SQL["unbury"], (namespace, key))
    return len(found)


def gone_count(db: apsw.Connection) -> int:
    """How many marks of deleted keys there are."""
    return sql.number(db, SQL["gone_count"])
