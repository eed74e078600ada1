"""Rules about states of devices, and each time that one was broken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import apsw
import msgspec

from plumd.errors import NotFound, TooMany
from plumd.store import precondition, sql
from plumd.store.store import Tx
from plumd.thresholds import Rule

SQL: Final = sql.load("alarms")
RULES_MAX: Final = 10_000
FOR_EVER: Final = (1 << 63) - 1
ENCODE: Final = msgspec.json.Encoder().encode
DECODE: Final = msgspec.json.Decoder(Rule).decode

Row: TypeAlias = tuple[int, int, str, str, str, str, str, int, int, str, int, str, str]


class Alarm(msgspec.Struct, frozen=True):
    """A rule that was broken. cleared_ms, acked_ms: 0 = it was not. Times are Unix ms."""

    id: int
    rule: int
    name: str
    severity: str
    device: str
    state: str
    value: str
    raised_ms: int
    cleared_ms: int
    last: str
    acked_ms: int
    acked_by: str
    note: str


def rules(db: apsw.Connection) -> list[tuple[int, int, Rule]]:
    """(id, version, rule) of all, by id."""
    found: Iterator[tuple[int, int, str]] = sql.rows(db, SQL["rules"])
    return [(number, version, DECODE(body)) for number, version, body in found]


def get_rule(db: apsw.Connection, number: int) -> tuple[int, Rule | None]:
    """(version, rule) of one; (0, None) = it is not there."""
    found: Iterator[tuple[int, str]] = sql.rows(db, SQL["rule"], (number,))
    return next(((version, DECODE(body)) for version, body in found), (precondition.ABSENT, None))


def put_rule(tx: Tx, number: int, given: Rule, if_version: int | None = None) -> None:
    """Write a rule. Raises: VersionMismatch, TooMany."""
    version, _ = get_rule(tx.db, number)
    precondition.check(version, if_version)
    tx.db.execute(SQL["put_rule"], (number, version + 1, ENCODE(given).decode()))
    if sql.number(tx.db, SQL["rule_count"]) > RULES_MAX:
        raise TooMany(f"there are {RULES_MAX} rules already", retry_after_s=60)
    tx.emit("alarmRule", number, "written", given.name, tx.now_ms)


def delete_rule(tx: Tx, number: int, active: Iterable[int], if_version: int | None = None) -> None:
    """Forget a rule; its alarms that are active are cleared. Raises: VersionMismatch."""
    precondition.check(get_rule(tx.db, number)[0], if_version)
    tx.db.execute(SQL["delete_rule"], (number,))
    for alarm in active:
        tx.db.execute(SQL["clear"], (tx.now_ms, "", alarm))
    tx.emit("alarmRule", number, "deleted", "", tx.now_ms)


def raised(tx: Tx, number: int, rule_id: int, rule: Rule, device: str, value: str) -> None:
    """A rule is broken from now on."""
    tx.db.execute(SQL["raise"], (number, rule_id, rule.name, rule.severity, device, rule.state,
                                 value, tx.now_ms))
    _tell(tx, number, "raised", rule, device, value)


def cleared(tx: Tx, number: int, rule: Rule, device: str, value: str) -> None:
    """It is no more."""
    tx.db.execute(SQL["clear"], (tx.now_ms, value, number))
    _tell(tx, number, "cleared", rule, device, value)


def _tell(tx: Tx, number: int, what: str, rule: Rule, device: str, value: str) -> None:
    tx.emit("alarm", number, what, device, rule.state, value, rule.severity, rule.name, tx.now_ms)


def acknowledge(tx: Tx, number: int, who: str, note: str) -> Alarm:
    """Somebody knows of it. Raises: NotFound."""
    tx.db.execute(SQL["acknowledge"], (tx.now_ms, who, note, number))
    found = get(tx.db, number)
    if found is None:
        raise NotFound("no such alarm")
    tx.emit("alarm", number, "acknowledged", found.device, found.state, who, tx.now_ms)
    return found


def get(db: apsw.Connection, number: int) -> Alarm | None:
    """One alarm."""
    return next(iter(_alarms(sql.rows(db, SQL["get"], (number,)))), None)


def page(db: apsw.Connection, device: str, active: bool, before: int,
         count: int) -> list[Alarm]:
    """Alarms from before one, newest first; of a device, of those that are active, if wanted."""
    if device:
        return _alarms(sql.rows(db, SQL["active_of_device" if active else "of_device"],
                                (device, before, count)))
    return _alarms(sql.rows(db, SQL["active" if active else "page"], (before, count)))


def _alarms(found: Iterator[Row]) -> list[Alarm]:
    return [Alarm(*row) for row in found]


def prune(tx: Tx, before: int, count: int) -> int:
    """Forget up to count alarms with older ids that are over."""
    tx.db.execute(SQL["prune"], (before, count))
    return tx.db.changes()


