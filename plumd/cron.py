"""Pure: when a schedule fires. A slot is a moment at which it is meant to.

cronsim reads the cron fields and walks wall time that knows no zone; what becomes of wall times
that a zone skips or repeats is decided here, by the schedule's policies:

    skipped (gap)      skip: no slot; shift: later by the length of the gap, so 02:30 becomes 03:30
    repeated (overlap) first, second: one slot; both: two

No moment is ever a slot twice, and a later one always comes later. The zones are those of the
tzdata package, the same on every machine.

Source: RFC 5545 section 3.3.5 (a time that does not occur counts by the offset before the gap).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from hashlib import blake2b
from importlib.resources import files
from itertools import islice
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import tzdata
from cronsim import CronSim, CronSimError

from plumd.bodies import ScheduleBody

ZONES_VERSION: Final[str] = tzdata.IANA_VERSION
MACROS: Final = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
CRON_CHARS_MAX: Final = 200
EPOCH: Final = datetime(1970, 1, 1)         # wall time knows no zone
SECOND: Final = timedelta(seconds=1)
LAST_S: Final = 7_258_118_400           # the year 2200: nothing is planned beyond
LOOK_BACK_S: Final = 25 * 3600          # the longest gap is the day that Samoa left out
KNOWN_MAX: Final = 16
HOP_S: Final = 7 * 86_400               # no two changes of a zone's offset undo each other within
DST: Final = ("", "gap-shifted", "first", "second")


class Slot(NamedTuple):
    """A moment to fire at, in Unix milliseconds. dst: one of DST."""

    at_ms: int
    dst: str = ""


class CronError(ValueError):
    """A schedule that cannot be; `field` is the part that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """All that the package knows."""
    return frozenset((files("tzdata") / "zones").read_text(encoding="utf-8").split())


@lru_cache(maxsize=1_000)
def zone_of(name: str) -> tzinfo:
    """The zone of this name. Raises: CronError."""
    if name in ("UTC", "Etc/UTC"):
        return UTC
    if name not in zone_names():
        raise CronError("timeZone", f"there is no time zone {name!r}; it is named like "
                        "Europe/Berlin")
    path = files("tzdata") / "zoneinfo"
    with path.joinpath(*name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def parse(text: str) -> CronSim:
    """The fields of a cron text, as a walker over wall time. Raises: CronError."""
    text = text.strip()
    fields = MACROS.get(text.lower(), text).split()
    if len(text) > CRON_CHARS_MAX:
        raise CronError("cron", f"a cron text has at most {CRON_CHARS_MAX} characters")
    if len(fields) not in (5, 6):
        raise CronError("cron", "cron takes 5 fields (minute, hour, day of month, month, day of "
                        f"week), 6 with seconds before them, or one of {', '.join(MACROS)}")
    for index in (-3, -1):
        fields[index] = "*" if fields[index] == "?" else fields[index]
    try:
        return CronSim(" ".join(fields), EPOCH)
    except (CronSimError, AssertionError, ValueError, TypeError) as error:
        raise CronError("cron", f"{error or 'bad field'} in {text!r}") from None


class Cron:
    """A cron text in a zone. overlap "": both for what fires in every hour, else first."""

    def __init__(self, text: str, zone: str = "UTC", gap: str = "shift",
                 overlap: str = "") -> None:
        self.walker = parse(text)
        self.zone = zone_of(zone)
        self.gap = gap
        every_hour = len(self.walker.hours) == 24
        self.overlap = overlap or ("both" if every_hour else "first")
        self._known: OrderedDict[int, int] = OrderedDict()

    def first(self, after_ms: int) -> int:
        """The first slot after a moment; 0 = none. Schedules that fire together ask the same."""
        found = self._known.get(after_ms)
        if found is None:
            found = self._known[after_ms] = next(self.after(after_ms), Slot(0)).at_ms
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        return found

    def after(self, after_ms: int) -> Iterator[Slot]:
        """Every slot after a moment, in order."""
        begun_s = after_ms // 1000 + 1
        last_s = begun_s - 1
        for at_s, dst in self._walk(begun_s):
            if at_s > last_s:
                last_s = at_s
                yield Slot(at_s * 1000, dst)

    def _walk(self, begun_s: int) -> Iterator[tuple[int, str]]:
        """Slots from begun_s on, a few from before it, and some twice where a gap was shifted."""
        at_s, offset = begun_s, self._offset(begun_s)
        shifted: list[int] = []
        earlier = self._offset(begun_s - LOOK_BACK_S)
        if earlier != offset:       # what the last change shifted may lie ahead
            at_s = self._change(begun_s - LOOK_BACK_S, begun_s, earlier) or begun_s
            offset = self._offset(at_s)
            shifted = self._shifted(at_s, earlier, offset)
        walls = self._walls(at_s + offset)
        wall = next(walls, None)
        while wall is not None:
            next_s = wall - offset
            if next_s > LAST_S:
                return
            changed_s = self._change(at_s, next_s, offset)
            if changed_s is None:
                at_s = next_s
                while shifted and shifted[0] < at_s:
                    yield shifted.pop(0), "gap-shifted"
                dst = self._dst(at_s)
                if not dst or self.overlap in (dst, "both"):
                    yield at_s, dst
                wall = next(walls, None)
            else:
                at_s, before, offset = changed_s, offset, self._offset(changed_s)
                while shifted and shifted[0] < at_s:
                    yield shifted.pop(0), "gap-shifted"
                shifted += self._shifted(at_s, before, offset)
                walls = self._walls(at_s + offset)
                wall = next(walls, None)

    def _walls(self, from_s: int) -> Iterator[int]:
        """Wall times from one on that the fields match, in seconds since the wall's epoch."""
        walker = self.walker
        dt = EPOCH + timedelta(seconds=from_s - 1)
        while True:
            walker.dt = dt          # the walker is shared, so it is set anew for each step
            try:
                dt = next(walker)
            except (StopIteration, OverflowError, ValueError):
                return              # nothing for 50 years, or the calendar's end
            yield (dt - EPOCH) // SECOND

    def _shifted(self, changed_s: int, before: int, offset: int) -> list[int]:
        """The moments to which the slots of a gap are shifted."""
        found: list[int] = []
        if self.gap == "shift" and offset > before:
            for wall in self._walls(changed_s + before):
                if wall >= changed_s + offset:
                    break
                found.append(wall - before)
        return found

    def _offset(self, at_s: int) -> int:
        return offset_s(self.zone, at_s)

    def _change(self, low_s: int, high_s: int, offset: int) -> int | None:
        """The first second of (low_s, high_s] in which the zone's offset is another one."""
        if self.zone is UTC:
            return None
        while low_s < high_s:
            hop_s = min(low_s + HOP_S, high_s)
            if self._offset(hop_s) == offset:
                low_s = hop_s
                continue
            while hop_s - low_s > 1:
                middle = (low_s + hop_s) // 2
                if self._offset(middle) == offset:
                    low_s = middle
                else:
                    hop_s = middle
            return hop_s
        return None

    def _dst(self, at_s: int) -> str:
        """Whether the wall shows this time twice, and which of the two it is."""
        if self.zone is UTC:
            return ""
        wall = datetime.fromtimestamp(at_s, self.zone)
        if wall.replace(fold=0).utcoffset() == wall.replace(fold=1).utcoffset():
            return ""
        return "second" if wall.fold else "first"


class Every:
    """One slot each so many milliseconds, counted from an anchor, which is a slot itself."""

    def __init__(self, every_ms: int, anchor_ms: int) -> None:
        self.every_ms = every_ms
        self.anchor_ms = anchor_ms

    def after(self, after_ms: int) -> Iterator[Slot]:
        """Every slot after a moment, in order; none before the anchor."""
        at_ms = self.anchor_ms
        if after_ms >= at_ms:
            at_ms += ((after_ms - at_ms) // self.every_ms + 1) * self.every_ms
        while at_ms < LAST_S * 1000:
            yield Slot(at_ms)
            at_ms += self.every_ms


class Once:
    """One slot."""

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms

    def after(self, after_ms: int) -> Iterator[Slot]:
        """The slot, if it comes after that moment."""
        if self.at_ms > after_ms:
            yield Slot(self.at_ms)


class Timing:
    """All slots of a schedule: its rule between its start and its end, with its jitter."""

    def __init__(self, body: ScheduleBody, anchor_ms: int) -> None:
        """anchor_ms: a slot of an interval, as it was planned. Raises: CronError."""
        self.body = body
        self.paced = body.every_sec is not None
        """Whether its slots follow each other by elapsed time, whatever the wall clock does."""
        self.rule: Cron | Every | Once
        if body.cron is not None:
            self.rule = cron_of(body.cron, body.time_zone, body.dst_gap, body.dst_overlap)
        elif body.every_sec is not None:
            zone_of(body.time_zone)
            self.rule = Every(round(body.every_sec * 1000), anchor_ms)
        else:
            zone_of(body.time_zone)
            self.rule = Once(body.at or 0)

    def after(self, after_ms: int) -> Iterator[Slot]:
        """Every slot after a moment and within start and end, in order."""
        end_ms = self.body.end_at
        if self.body.start_at is not None:
            after_ms = max(after_ms, self.body.start_at - 1)
        for slot in self.rule.after(after_ms):
            if end_ms is not None and slot.at_ms > end_ms:
                return
            yield slot

    def first(self, after_ms: int) -> int:
        """The first slot after a moment; 0 = none."""
        if not isinstance(self.rule, Cron):
            return next(self.after(after_ms), Slot(0)).at_ms
        start_ms, end_ms = self.body.start_at, self.body.end_at
        found = self.rule.first(after_ms if start_ms is None else max(after_ms, start_ms - 1))
        return found if end_ms is None or found <= end_ms else 0

    def latest(self, after_ms: int, until_ms: int, count: int) -> list[Slot]:
        """The last slots of (after_ms, until_ms], at least one if there is any, at most count."""
        span_ms = 60_000
        while True:
            begun_ms = max(after_ms, until_ms - span_ms)
            found = []
            for slot in self.after(begun_ms):
                if slot.at_ms > until_ms:
                    break
                found.append(slot)
            if found or begun_ms == after_ms:
                return found[-count:]
            span_ms *= 2

    def jitter_ms(self, schedule_id: int, slot_ms: int) -> int:
        """How much later than its slot it fires: the same for the same slot, on any machine."""
        return jitter_ms(self.body, schedule_id, slot_ms)


def jitter_ms(body: ScheduleBody, schedule_id: int, slot_ms: int) -> int:
    """How much later than its slot a schedule fires."""
    span_ms = round(body.jitter_sec * 1000)
    if span_ms <= 0:
        return 0
    digest = blake2b(b"%d/%d" % (schedule_id, slot_ms), digest_size=8).digest()
    return int.from_bytes(digest) % (span_ms + 1)


@lru_cache(maxsize=4_000)
def cron_of(text: str, zone: str, gap: str, overlap: str) -> Cron:
    """A Cron; many schedules share one. Raises: CronError."""
    return Cron(text, zone, gap, overlap)


def first_anchor(body: ScheduleBody, now_ms: int) -> int:
    """Where an interval begins: at its start, else one interval from now."""
    every_ms = round((body.every_sec or 0) * 1000)
    return body.start_at if body.start_at is not None else now_ms + every_ms


def slots_between(timing: Timing, from_ms: int, to_ms: int, count: int) -> list[Slot]:
    """The slots of [from_ms, to_ms], at most count."""
    found = []
    for slot in islice(timing.after(from_ms - 1), count):
        if slot.at_ms > to_ms:
            break
        found.append(slot)
    return found


def offset_s(zone: tzinfo, at_s: int) -> int:
    """Seconds that the zone's wall is ahead of UTC at a moment."""
    offset = datetime.fromtimestamp(at_s, zone).utcoffset()
    assert offset is not None, "every zone has an offset"
    return offset // SECOND


def local_text(zone: tzinfo, at_ms: int) -> str:
    """A moment as the zone's wall shows it, with the offset: 2026-03-29T03:30:00+02:00."""
    whole = datetime.fromtimestamp(at_ms // 1000, zone) + timedelta(milliseconds=at_ms % 1000)
    # An offset of old times may have seconds, which RFC 3339 cannot say.
    fixed = timezone(timedelta(seconds=offset_s(zone, at_ms // 1000)))
    return whole.replace(tzinfo=fixed).isoformat(
        timespec="milliseconds" if at_ms % 1000 else "seconds")


def local_date(zone: tzinfo, at_ms: int) -> str:
    """The day of a moment in the zone: 2026-03-29."""
    return datetime.fromtimestamp(at_ms // 1000, zone).date().isoformat()


class Days:
    """The days of a calendar: dates, ranges of dates, and dates of every year (--12-25)."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        """Raises: CronError that names the place."""
        self.ranges: list[tuple[str, str]] = []
        self.yearly: set[str] = set()
        for index, text in enumerate(texts):
            try:
                if text.startswith("--"):
                    self.yearly.add(day_of(f"2000{text[1:]}")[5:])
                    continue
                first, slash, last = text.partition("/")
                days = [day_of(day) for day in ((first, last) if slash else (first, first))]
            except ValueError:
                raise CronError(f"days[{index}]", "a day is written 2026-12-25, --12-25 for every "
                                "year, or 2026-12-24/2027-01-02") from None
            if days[1] < days[0]:
                raise CronError(f"days[{index}]", "the range ends before it begins")
            self.ranges.append((days[0], days[1]))

    def __contains__(self, day: str) -> bool:
        return day[5:] in self.yearly or any(first <= day <= last for first, last in self.ranges)


def day_of(text: str) -> str:
    """A date as it is compared. Raises: ValueError."""
    return datetime.strptime(text, "%Y-%m-%d").date().isoformat()
