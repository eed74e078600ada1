"""What is kept of a device's states when their reports are forgotten: least, mean and greatest of
each minute and each hour, of numbers alone.

Reports are folded into buckets when they go, so nothing is counted twice, and a report costs no
more than its row. A question looks at both: at the buckets, and at the reports that are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

import apsw
import msgspec

from plumd.store import sql
from plumd.store.store import Tx
from plumd.thresholds import number

SQL: Final = sql.load("buckets")
MINUTE_S, HOUR_S = 60, 3_600
WIDTHS: Final = (MINUTE_S, HOUR_S)
MINUTES_DAYS: Final = 7.0
HOURS_DAYS: Final = 365.0
STRAY_MS: Final = 7 * 86_400_000
"""A device's clock that is further off than this is not believed."""
DAY_MS: Final = 86_400_000
VALUE_MAX: Final = 1e290
"""Sums of more would be no numbers."""
DECODE: Final = msgspec.json.Decoder(dict[str, str]).decode
Raw: TypeAlias = tuple[int, int, int, str]


class Bucket(msgspec.Struct):
    """Values of a stretch of time. at_ms: its beginning."""

    at_ms: int
    count: int
    low: float
    high: float
    total: float
    last: float

    def join(self, other: Bucket) -> None:
        """Take another one in, whose values are later."""
        self.count += other.count
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total += other.total
        self.last = other.last


class Keep(msgspec.Struct, frozen=True, rename="camel"):
    """How long the buckets of a state are kept, in days; 0 = they are not."""

    minutes_days: float = MINUTES_DAYS
    hours_days: float = HOURS_DAYS


def moment(at_ms: int, received_ms: int) -> int:
    """When a report was made: by the device, unless that cannot be."""
    return at_ms if abs(at_ms - received_ms) <= STRAY_MS else received_ms


def into(found: dict[int, Bucket], at_ms: int, width_ms: int, one: Bucket) -> None:
    """Take a bucket, or a value, into that of its time."""
    begin = at_ms - at_ms % width_ms
    known = found.get(begin)
    if known is None:
        found[begin] = msgspec.structs.replace(one, at_ms=begin)
    else:
        known.join(one)


def values(raw: Raw) -> Iterator[tuple[str, Bucket]]:
    """The numbers of a report by state."""
    _, at_ms, received_ms, states = raw
    when_ms = moment(at_ms, received_ms)
    for name, text in DECODE(states).items():
        one = bucket_of(when_ms, text)
        if one is not None:
            yield name, one


def bucket_of(when_ms: int, text: str) -> Bucket | None:
    """One value, None when it is no number."""
    value = number(text)
    if value is None or abs(value) > VALUE_MAX:
        return None
    return Bucket(when_ms, 1, value, value, value, value)


def fold(tx: Tx, device: int, up_to_seq: int, count: int) -> None:
    """Fold up to count of a device's oldest reports into buckets, for they are about to go."""
    found: list[Raw] = list(sql.rows(tx.db, SQL["oldest"], (device, up_to_seq, count)))
    sums: dict[tuple[str, int], dict[int, Bucket]] = {}
    for raw in found:
        for name, one in values(raw):
            for width in WIDTHS:
                into(sums.setdefault((name, width), {}), one.at_ms, width * 1000, one)
    for (name, width), buckets in sums.items():
        for one in buckets.values():
            tx.db.execute(SQL["add"], (device, name, width, one.at_ms, one.count, one.low,
                                       one.high, one.total, one.last))


def history(db: apsw.Connection, device: int, state: str, from_ms: int, to_ms: int,
            width_ms: int) -> list[Bucket]:
    """A state's buckets of a width, from a time and before another one, by time.

    width_ms: from a minute on. What is older than the buckets of minutes is by the hour.
    """
    found: dict[int, Bucket] = {}
    minutes = list(_range(db, device, state, MINUTE_S, from_ms, to_ms))
    first_ms = minutes[0].at_ms if minutes else to_ms
    until_ms = first_ms - first_ms % (HOUR_S * 1000)
    for one in _range(db, device, state, HOUR_S, from_ms, until_ms):
        into(found, one.at_ms, width_ms, one)
    for one in minutes:
        if one.at_ms >= until_ms:
            into(found, one.at_ms, width_ms, one)
    raws: Iterator[Raw] = sql.rows(db, SQL["between"], (
        device, from_ms - STRAY_MS, to_ms + STRAY_MS))
    for raw in raws:
        when_ms = moment(raw[1], raw[2])
        if from_ms <= when_ms < to_ms:
            value = bucket_of(when_ms, DECODE(raw[3]).get(state, ""))
            if value is not None:
                into(found, when_ms, width_ms, value)
    return [one for _, one in sorted(found.items())]


def _range(db: apsw.Connection, device: int, state: str, width: int, from_ms: int,
           to_ms: int) -> Iterator[Bucket]:
    found: Iterator[tuple[int, int, float, float, float, float]] = sql.rows(
        db, SQL["range"], (device, state, width, from_ms, to_ms))
    for row in found:
        yield Bucket(*row)


def retention(db: apsw.Connection, device: int) -> dict[str, Keep]:
    """How long states are kept, where somebody said it."""
    found: Iterator[tuple[str, float, float]] = sql.rows(db, SQL["retention"], (device,))
    return {name: Keep(minutes, hours) for name, minutes, hours in found}


def set_retention(tx: Tx, device: int, given: Mapping[str, Keep]) -> None:
    """Say how long states are kept; those that are not named are kept as every other."""
    tx.db.execute(SQL["clear_retention"], (device,))
    for name, keep in given.items():
        tx.db.execute(SQL["set_retention"], (device, name, keep.minutes_days, keep.hours_days))


def devices(db: apsw.Connection) -> list[int]:
    """The numbers of devices that buckets are kept of, also of those that were removed."""
    found: Iterator[tuple[int]] = sql.rows(db, SQL["devices"])
    return [device for device, in found]


def prune(tx: Tx, device: int, now_ms: int, *, gone: bool) -> None:
    """Forget a device's buckets whose time is over, or all of one that is gone."""
    if gone:
        tx.db.execute(SQL["forget"], (device,))
        tx.db.execute(SQL["clear_retention"], (device,))
        return
    kept = retention(tx.db, device)
    names: Iterable[tuple[str]] = list(sql.rows(tx.db, SQL["names"], (device,)))
    for name, in names:
        keep = kept.get(name, Keep())
        for width, days in ((MINUTE_S, keep.minutes_days), (HOUR_S, keep.hours_days)):
            tx.db.execute(SQL["prune"], (device, name, width, now_ms - round(days * DAY_MS)))
