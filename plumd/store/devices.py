"""Devices, the newest state of each name, and the history of what they reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, TypeAlias

import apsw
import msgspec
from msgspec import Meta

from plumd.errors import Invalid, NotFound, TooMany
from plumd.store import buckets, sql
from plumd.store.store import Tx

SQL: Final = sql.load("devices")
DEVICES_MAX: Final = 100_000
STATES_MAX: Final = 2_000
HISTORY_MAX: Final = 10_000
FOLD: Final = 16
"""So many reports are forgotten, and folded into buckets, at a time."""
FOR_EVER: Final = 1 << 62
ENCODE: Final = msgspec.json.Encoder().encode

Text = Annotated[str, Meta(max_length=500)]
Row: TypeAlias = tuple[int, str, str, str, str, int, int, str, str, int]


class StateDesc(msgspec.Struct, frozen=True, rename="camel"):
    """A state that a device has, in its own words."""

    name: Text
    type: Text = ""
    value: Text = ""
    unit: Text = ""


class OpDesc(msgspec.Struct, frozen=True, rename="camel"):
    """An operation that a device takes; min and max are numbers as text, "" = no bound."""

    name: Text
    type: Text = ""
    value: Text = ""
    unit: Text = ""
    min: Text = ""
    max: Text = ""


class Device(msgspec.Struct, frozen=True):
    """What a device registers. polls: it fetches its operations; else its url is called."""

    device_id: str
    node_id: str
    type: str
    url: str
    polls: bool
    beat_ms: int
    state_desc: tuple[StateDesc, ...] = ()
    op_desc: tuple[OpDesc, ...] = ()


class Registered(msgspec.Struct, frozen=True):
    """A device's row. number: its own, never given out again."""

    number: int
    device: Device
    registered_ms: int


class State(msgspec.Struct, frozen=True, rename="camel"):
    """A value as it was reported last. timestamp: the device's own."""

    value: str
    timestamp: int


class Report(msgspec.Struct, frozen=True):
    """One report of states."""

    seq: int
    at_ms: int
    received_ms: int
    states: dict[str, str]


DECODE_STATES: Final = msgspec.json.Decoder(dict[str, str]).decode
DECODE_STATE_DESC: Final = msgspec.json.Decoder(tuple[StateDesc, ...]).decode
DECODE_OP_DESC: Final = msgspec.json.Decoder(tuple[OpDesc, ...]).decode


def _registered(row: Row) -> Registered:
    number, device_id, node_id, kind, url, polls, beat_ms, states, ops, registered_ms = row
    return Registered(number, Device(
        device_id, node_id, kind, url, bool(polls), beat_ms, DECODE_STATE_DESC(states),
        DECODE_OP_DESC(ops)), registered_ms)


def every(db: apsw.Connection) -> list[Registered]:
    """All devices, by id."""
    found: Iterator[Row] = sql.rows(db, SQL["all"])
    return [_registered(row) for row in found]


def get(db: apsw.Connection, device_id: str) -> Registered | None:
    """One device."""
    found: Iterator[Row] = sql.rows(db, SQL["get"], (device_id,))
    for row in found:
        return _registered(row)
    return None


def register(tx: Tx, device: Device) -> None:
    """Add a device or change it; its states and its history stay. Raises: TooMany."""
    known = get(tx.db, device.device_id)
    tx.db.execute(SQL["register"], (
        device.device_id, device.node_id, device.type, device.url, device.polls, device.beat_ms,
        ENCODE(device.state_desc).decode(), ENCODE(device.op_desc).decode(), tx.now_ms))
    if known is None and sql.number(tx.db, SQL["count"]) > DEVICES_MAX:
        raise TooMany(f"there are {DEVICES_MAX} devices already", retry_after_s=60)
    tell(tx, device.device_id, "registered" if known is None else "changed")


def remove(tx: Tx, device_id: str) -> None:
    """Forget a device and its states; its history goes in slices. Raises: NotFound."""
    known = get(tx.db, device_id)
    if known is None:
        raise NotFound("no such device", field="resourceId")
    tx.db.execute(SQL["delete"], (known.number,))
    tx.db.execute(SQL["delete_states"], (known.number,))
    tell(tx, device_id, "removed")


def report(tx: Tx, known: Registered, states: Mapping[str, str], at_ms: int, *,
           told: bool) -> bool:
    """Write states down; answers whether a value changed. told: an event says so if it did.

    Raises: NotFound, Invalid.
    """
    number, device_id = known.number, known.device.device_id
    if not sql.number(tx.db, SQL["exists"], (number,)):
        raise NotFound("no such device; register it first", field="resourceId")
    before = latest(tx.db, number)
    changed = False
    for name, value in states.items():
        old = before.get(name)
        if old is None or old.value != value:
            changed = True
        elif old.timestamp == at_ms:
            continue
        tx.db.execute(SQL["set_state"], (number, name, value, at_ms))
    if len(before.keys() | states.keys()) > STATES_MAX:
        raise Invalid(f"a device has at most {STATES_MAX} states", field="states")
    seq = sql.number(tx.db, SQL["last_seq"], (number,)) + 1
    tx.db.execute(SQL["report"], (number, seq, at_ms, tx.now_ms, ENCODE(states).decode()))
    if seq > HISTORY_MAX and seq % FOLD == 0:
        buckets.fold(tx, number, seq - HISTORY_MAX, FOLD)
        tx.db.execute(SQL["bound"], (number, seq - HISTORY_MAX))
    if changed and told:
        tell(tx, device_id, "state")
    return changed


def tell(tx: Tx, device_id: str, what: str) -> None:
    """An event of a device; no row changes."""
    tx.emit("resource", device_id, what, tx.now_ms)


def latest(db: apsw.Connection, number: int) -> dict[str, State]:
    """The newest state of each name, by name."""
    found: Iterator[tuple[str, str, int]] = sql.rows(db, SQL["states"], (number,))
    return {name: State(value, at_ms) for name, value, at_ms in found}


def history(db: apsw.Connection, number: int, before_seq: int, count: int) -> list[Report]:
    """Reports from before one, newest first."""
    found: Iterator[tuple[int, int, int, str]] = sql.rows(
        db, SQL["history"], (number, before_seq, count))
    return [Report(seq, at_ms, received_ms, DECODE_STATES(states))
            for seq, at_ms, received_ms, states in found]


def reporting(db: apsw.Connection) -> list[int]:
    """The numbers of all devices that a history is kept of, also of those that were removed."""
    found: Iterator[tuple[int]] = sql.rows(db, SQL["reporting"])
    return [number for number, in found]


def prune(tx: Tx, number: int, before_ms: int, count: int) -> int:
    """Forget up to count reports older than a time, or any of a device that is gone."""
    if not sql.number(tx.db, SQL["exists"], (number,)):
        before_ms = FOR_EVER
    else:
        last = sql.number(tx.db, SQL["last_older"], (number, count, before_ms))
        buckets.fold(tx, number, last, count)
    tx.db.execute(SQL["prune"], (number, number, count, before_ms))
    return tx.db.changes()


def exists(db: apsw.Connection, number: int) -> bool:
    """Whether a device is registered, by its number."""
    return bool(sql.number(db, SQL["exists"], (number,)))
