"""Endpoints of services, as they were registered. Health is memory's and is not written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import apsw
import msgspec

from plumd.balance import Endpoint, Key
from plumd.breaker import Policy
from plumd.errors import NotFound, TooMany
from plumd.store import precondition, sql
from plumd.store.store import Tx

SQL: Final = sql.load("services")
ENDPOINTS_MAX: Final = 100_000
ENCODE: Final = msgspec.json.Encoder(order="deterministic").encode
DECODE_POLICY: Final = msgspec.json.Decoder(Policy).decode
POLICIES_MAX: Final = 10_000
DECODE: Final = msgspec.json.Decoder(dict[str, str]).decode

Row: TypeAlias = tuple[str, str, str, int, str, str, str, str]


def _endpoints(found: Iterator[Row]) -> list[Endpoint]:
    return [Endpoint(*row[:7], DECODE(row[7])) for row in found]


def every(db: apsw.Connection) -> list[Endpoint]:
    """All endpoints, by key."""
    return _endpoints(sql.rows(db, SQL["all"]))


def of_instance(db: apsw.Connection, instance_id: str) -> list[Endpoint]:
    """An instance's endpoints."""
    return _endpoints(sql.rows(db, SQL["of_instance"], (instance_id,)))


def register(tx: Tx, instance_id: str, endpoints: Sequence[Endpoint], *, replace: bool) -> None:
    """Add an instance's endpoints, or change those that are there; replace: the others go.

    Only what differs is written and told. Raises: TooMany.
    """
    known = {one.key: one for one in of_instance(tx.db, instance_id)}
    given = {one.key: one for one in endpoints}
    for key, one in given.items():
        if known.get(key) != one:
            _upsert(tx.db, one)
            _tell(tx, one.key, "changed" if key in known else "registered")
    if replace:
        for key in sorted(known.keys() - given.keys()):
            _delete(tx, key)
    if given.keys() - known.keys() and sql.number(tx.db, SQL["count"]) > ENDPOINTS_MAX:
        raise TooMany(f"there are {ENDPOINTS_MAX} endpoints already", retry_after_s=60)


def move(tx: Tx, key: Key, endpoint: Endpoint, *, create: bool) -> None:
    """Make the endpoint with this key what is given, its key included.

    Raises: NotFound when there is none, unless create.
    """
    known = {one.key: one for one in of_instance(tx.db, key[1])}
    if key not in known and not create:
        raise NotFound("no such endpoint")
    if key in known and endpoint.key != key:
        _delete(tx, key)
    if known.get(endpoint.key) != endpoint:
        _upsert(tx.db, endpoint)
        _tell(tx, endpoint.key, "changed" if key in known else "registered")


def remove(tx: Tx, keys: Iterable[Key]) -> int:
    """Forget endpoints; answers how many there were."""
    return sum(_delete(tx, key) for key in keys)


def remove_instance(tx: Tx, instance_id: str) -> int:
    """Forget all endpoints of an instance; answers how many there were."""
    return remove(tx, [one.key for one in of_instance(tx.db, instance_id)])


def tell(tx: Tx, news: Sequence[tuple[Key, str]]) -> None:
    """Events of what was seen of endpoints: healthy, unhealthy, breaker ...; no row changes."""
    for key, what in news:
        _tell(tx, key, what)


def policies(db: apsw.Connection) -> list[tuple[str, Policy]]:
    """How services are called, where somebody said it."""
    found: Iterator[tuple[str, str]] = sql.rows(db, SQL["policies"])
    return [(service, DECODE_POLICY(body)) for service, body in found]


def policy(db: apsw.Connection, service: str) -> Policy | None:
    """How a service is called, None when nobody said it."""
    found: Iterator[tuple[str]] = sql.rows(db, SQL["policy"], (service,))
    return next((DECODE_POLICY(body) for body, in found), None)


def policy_version(db: apsw.Connection, service: str) -> int:
    """How often somebody said it, 0 = nobody did."""
    return sql.number(db, SQL["policy_version"], (service,))


def set_policy(tx: Tx, service: str, given: Policy | None, if_version: int | None) -> None:
    """Write how a service is called; None: forget it. if_version: as it was seen.

    Raises: VersionMismatch, TooMany.
    """
    precondition.check(policy_version(tx.db, service), if_version)
    if given is None:
        tx.db.execute(SQL["delete_policy"], (service,))
    else:
        tx.db.execute(SQL["set_policy"], (service, ENCODE(given).decode()))
        if sql.number(tx.db, SQL["policy_count"]) > POLICIES_MAX:
            raise TooMany(f"there are {POLICIES_MAX} policies already", retry_after_s=60)
    tx.emit("service", service, "policy", "", tx.now_ms)


def _upsert(db: apsw.Connection, one: Endpoint) -> None:
    db.execute(SQL["upsert"], (*one.key, one.node_id, one.version, ENCODE(one.labels).decode()))


def _delete(tx: Tx, key: Key) -> bool:
    tx.db.execute(SQL["delete"], key)
    if not tx.db.changes():
        return False
    _tell(tx, key, "removed")
    return True


def _tell(tx: Tx, key: Key, what: str) -> None:
    tx.emit("service", key[0], what, key[1], tx.now_ms)
