"""Who holds which lease: a lock of a namespace, a device. Until when is memory's and not written.

A row is the lease: while it is there nobody else gets it, and a write that names its token is let
through. It goes when it is released, taken away, or when memory says that its time is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import apsw
import msgspec

from plumd.errors import LeaseHeld, LeaseLost, TooMany, reason
from plumd.store import sql
from plumd.store.store import Tx

SQL: Final = sql.load("leases")
LEASES_MAX: Final = 100_000
LOCK: Final = "lock"
DEVICE: Final = "device"

Key: TypeAlias = tuple[str, str, str]
"""(kind, scope, name): LOCK, its namespace and its name, or DEVICE, "" and its id."""
Row: TypeAlias = tuple[str, str, int, str, int, int]


class Lease(msgspec.Struct, frozen=True, rename="camel"):
    """A lease as it stands in its row. token: higher than that of any lease given before it."""

    scope: str
    name: str
    token: int
    owner: str
    ttl_ms: int
    since_ms: int


def get(db: apsw.Connection, key: Key) -> Lease | None:
    """The lease, None when nobody has it."""
    found: Iterator[Row] = sql.rows(db, SQL["get"], key)
    return next((Lease(*row) for row in found), None)


def every(db: apsw.Connection) -> list[tuple[Key, Lease]]:
    """All leases."""
    found: Iterator[tuple[str, str, str, int, str, int, int]] = sql.rows(db, SQL["all"])
    return [((kind, scope, name), Lease(scope, name, token, owner, ttl_ms, since_ms))
            for kind, scope, name, token, owner, ttl_ms, since_ms in found]


def acquire(tx: Tx, key: Key, owner: str, ttl_ms: int) -> Lease:
    """Give the lease to an owner; one who has it already keeps it, with its token.

    Raises: LeaseHeld, TooMany.
    """
    known = get(tx.db, key)
    if known is not None:
        if known.owner != owner:
            raise held(known.owner)
        if known.ttl_ms != ttl_ms:
            tx.db.execute(SQL["set_ttl"], (ttl_ms, *key))
        return msgspec.structs.replace(known, ttl_ms=ttl_ms)
    if sql.number(tx.db, SQL["count"]) >= LEASES_MAX:
        raise TooMany(f"there are {LEASES_MAX} leases already", retry_after_s=60)
    lease = Lease(key[1], key[2], sql.number(tx.db, SQL["next_token"]), owner, ttl_ms, tx.now_ms)
    tx.db.execute(SQL["put"], (*key, lease.token, owner, ttl_ms, tx.now_ms))
    _tell(tx, key, "acquired", lease)
    return lease


def set_ttl(tx: Tx, key: Key, token: int, ttl_ms: int) -> Lease:
    """Let it last for another time from now on. Raises: LeaseLost."""
    known = check(tx, key, token)
    tx.db.execute(SQL["set_ttl"], (ttl_ms, *key))
    return msgspec.structs.replace(known, ttl_ms=ttl_ms)


def check(tx: Tx, key: Key, token: int) -> Lease:
    """The lease that this token stands for. Raises: LeaseLost."""
    known = get(tx.db, key)
    if known is None or known.token != token:
        what = ("nobody has it now" if known is None
                else f"{known.owner} has it, with token {known.token}")
        raise LeaseLost(f"token {token} of {key[0]} {key[2]!r} is stale: {what}", field="token")
    return known


def release(tx: Tx, key: Key, token: int) -> None:
    """Give it up. Raises: LeaseLost."""
    _delete(tx, key, check(tx, key, token), "released")


def take_away(tx: Tx, key: Key) -> bool:
    """Let nobody have it; whether somebody had."""
    known = get(tx.db, key)
    if known is not None:
        _delete(tx, key, known, "taken away")
    return known is not None


def expire(tx: Tx, due: Iterable[tuple[Key, int]]) -> None:
    """Let leases go whose time is over, unless they are other ones by now."""
    for key, token in due:
        known = get(tx.db, key)
        if known is not None and known.token == token:
            _delete(tx, key, known, "expired")


def _delete(tx: Tx, key: Key, known: Lease, what: str) -> None:
    tx.db.execute(SQL["delete"], key)
    _tell(tx, key, what, known)


def _tell(tx: Tx, key: Key, what: str, lease: Lease) -> None:
    kind, scope, name = key
    if kind == LOCK:
        tx.emit("lock", scope, what, name, lease.owner, lease.token, tx.now_ms)
    else:
        tx.emit("resource", name, f"lease {what}", lease.owner, lease.token, tx.now_ms)


def held(owner: str) -> LeaseHeld:
    """Why somebody else does not get it."""
    return LeaseHeld(f"{owner} has it", more={"owner": owner, **reason("held_by", owner=owner)})
