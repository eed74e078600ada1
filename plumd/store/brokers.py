"""Message brokers, and which messages came from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import apsw
import msgspec

from plumd.errors import NotFound, WrongState
from plumd.store import precondition, sql, triggers, webhooks

if TYPE_CHECKING:
    from plumd.store.store import Tx

SQL: Final = sql.load("brokers")
ENCODE: Final = msgspec.json.Encoder().encode


class BrokerBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                 omit_defaults=True):
    """Where a broker is, and who we are there."""

    url: str
    client_id: str
    user: str = ""
    description: str = ""


DECODE: Final = msgspec.json.Decoder(BrokerBody).decode


class BrokerRow(msgspec.Struct, frozen=True):
    """A broker."""

    name: str
    version: int
    body: BrokerBody
    password: str
    updated_ms: int


Shape = tuple[str, int, bytes, str, int]


def row_of(row: Shape) -> BrokerRow:
    """A row as a Struct."""
    return BrokerRow(row[0], row[1], DECODE(row[2]), row[3], row[4])


def get(db: apsw.Connection, name: str) -> BrokerRow | None:
    """One broker, or None."""
    for row in db.execute(SQL["get"], (name,)):
        return row_of(row)
    return None


def every(db: apsw.Connection) -> list[BrokerRow]:
    """All of them, by name."""
    return [row_of(row) for row in db.execute(SQL["all"])]


def put(tx: Tx, name: str, old: BrokerRow | None, body: BrokerBody, password: str,
        if_version: int | None) -> None:
    """Write a broker, by the row that the caller has seen, None = there was none.

    Raises: VersionMismatch; WrongState when the row has changed meanwhile.
    """
    version = version_of(get(tx.db, name))
    precondition.check(version, if_version)
    precondition.still(version, version_of(old))
    tx.db.execute(SQL["put"], (name, version + 1, ENCODE(body), password, tx.now_ms))
    if old is not None and (old.body.url, old.body.client_id) != (body.url, body.client_id):
        tx.db.execute(SQL["forget"], (name,))       # another session counts anew
    tx.emit("broker", name, "created" if old is None else "updated", tx.now_ms)


def version_of(row: BrokerRow | None) -> int:
    """A broker's version, 0 = there is none."""
    return precondition.ABSENT if row is None else row.version


def delete(tx: Tx, name: str, if_version: int | None) -> None:
    """Remove a broker.

    Raises: NotFound, VersionMismatch; WrongState while a trigger or webhook uses it.
    """
    old = get(tx.db, name)
    if old is None:
        raise NotFound("no such broker")
    precondition.check(old.version, if_version)
    for shape in triggers.listening(tx.db):
        row = triggers.row_of(shape)
        if row.body.broker == name:
            raise WrongState(f"the trigger {row.body.name!r} uses this broker")
    for told in webhooks.every(tx.db):
        hook = webhooks.row_of(told)
        if hook.body.url.startswith(f"mqtt:{name}/"):
            raise WrongState(f"the webhook {hook.body.name!r} uses this broker")
    tx.db.execute(SQL["delete"], (name,))
    tx.db.execute(SQL["forget"], (name,))
    tx.emit("broker", name, "deleted", tx.now_ms)


def seen(db: apsw.Connection, name: str, pid: int) -> tuple[str, str] | None:
    """(digest, event id) of the last message under a packet identifier."""
    for row in db.execute(SQL["seen"], (name, pid)):
        return row[0], row[1]
    return None


def see(tx: Tx, name: str, pid: int, digest: str, event_id: str) -> None:
    """A message came."""
    tx.db.execute(SQL["see"], (name, pid, digest, event_id))
