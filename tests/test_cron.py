"""plumd.cron: every kind of cron text against an oracle that looks at every moment."""

from __future__ import annotations

import ast
import os
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import cast
from zoneinfo import ZoneInfo

import pytest

import plumd.cron
from plumd.bodies import ScheduleBody
from plumd.cron import Cron, CronError, Days, Every, Once, Timing, local_text, zone_names, zone_of
from tests import oracle

SPECS = (
    "* * * * *", "*/5 * * * *", "*/7 * * * *", "30 * * * *", "0 * * * *", "15,45 * * * *",
    "0 0 * * *", "30 0 * * *", "15 1 * * *", "30 1 * * *", "0 2 * * *", "30 2 * * *",
    "59 2 * * *", "0 3 * * *", "30 3 * * *", "*/20 1-3 * * *", "0 */2 * * *", "0 1-23/3 * * *",
    "10-20 2 * * *", "0 12 * * MON-FRI", "0 6 * * 0", "0 6 * * 7", "0 6 * * SAT,SUN",
    "0 4 1 * *", "0 4 1,15 * *", "0 4 L * *", "0 4 LW * *", "30 2 * * 0L", "30 2 * * 5L",
    "0 2 * * SUN#1", "30 2 * * 0#2", "0 3 * * SUN#3", "0 1 13 * FRI", "0 0 1 1 *",
    "0 0 29 2 *", "0 12 * JAN,JUL *", "30 2 * 3-4 *", "30 1 * 10-11 *", "0 0 ? * ?",
    "23 0-20/2 * * *", "0 22 * * 1-5", "5 0 * 8 *",
)
SECONDS = ("*/10 * * * * *", "30 59 1 * * *", "15 30 2 * * *", "0,30 0 */4 * * *")
POLICIES = [(gap, overlap) for gap in ("skip", "shift")
            for overlap in ("first", "second", "both", "")]
LONG = bool(os.environ.get("PLUM_CRON_LONG"))
PARTS, PARTS_RUN = (64, 64) if LONG else (256, 1)
BEGIN_S = int(datetime(1990, 1, 1, tzinfo=UTC).timestamp())
END_S = int(datetime(2037, 12, 31, tzinfo=UTC).timestamp())
SPAN_S = 48 * 3600
SAMPLE = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca",
          "Pacific/Apia", "Asia/Kolkata")
SEED = 20_261_125


def changes(zone: ZoneInfo) -> list[int]:
    """The moments at which the zone's offset changed, 1990 to 2037."""
    found, low = [], BEGIN_S
    while low < END_S:
        high = low + 86_400
        if offset(zone, low) != offset(zone, high):
            first, last = low, high
            while last - first > 1:
                middle = (first + last) // 2
                first, last = ((middle, last) if offset(zone, middle) == offset(zone, low)
                               else (first, middle))
            found.append(last)
        low = high
    return found


def offset(zone: ZoneInfo, at: int) -> timedelta | None:
    return datetime.fromtimestamp(at, zone).utcoffset()


def agree(name: str, text: str, gap: str, overlap: str, begin: int, end: int,
          all_fires: list[tuple[int, str]]) -> None:
    """The list of fires in (begin, end) is the oracle's, and so is the next one from inside."""
    rule = Cron(text, name, gap, overlap)
    found = []
    for slot in rule.after(begin * 1000 - 1):
        if slot.at_ms >= end * 1000:
            break
        found.append((slot.at_ms // 1000, slot.dst))
    due = [one for one in all_fires if begin <= one[0] < end]
    assert found == due, (name, text, gap, overlap, begin)
    for at, dst in due[:: max(1, len(due) // 8)]:
        again = next(rule.after(at * 1000 - 1))
        assert (again.at_ms, again.dst) == (at * 1000, dst), "it depends on where one begins"


def looked_at(name: str, spots: list[int], specs: tuple[str, ...], step_s: int) -> None:
    zone = cast("ZoneInfo", zone_of(name))
    for spot in spots:
        begin, end = spot - SPAN_S, spot + SPAN_S
        seen = oracle.Walls(zone, begin - 30 * 3600, end, step_s)
        for text in specs:
            truth = oracle.Seen(text, seen)
            for gap, overlap in POLICIES:
                agree(name, text, gap, overlap, begin, end, truth.fires(gap, overlap))


def spots_of(name: str, random: Random, count: int | None) -> list[int]:
    """The zone's changes, all or some of them, and moments at random."""
    zone = cast("ZoneInfo", zone_of(name))
    found = changes(zone)
    if count is not None and len(found) > count:
        found = random.sample(found, count)
    return [spot // 60 * 60 for spot in (*found, random.randrange(BEGIN_S, END_S))]


@pytest.mark.parametrize("name", SAMPLE)
def test_every_spec_and_policy_is_as_the_oracle_says(name: str) -> None:
    random = Random(SEED)
    place = SAMPLE.index(name)
    looked_at(name, spots_of(name, random, 1), SPECS[place % 3::3], 60)


def test_zones_are_as_the_oracle_says() -> None:
    """A sample of all zones; the long form takes them all."""
    random = Random(SEED)
    for name in random.sample(sorted(zone_names()), 12):
        looked_at(name, spots_of(name, random, 1), tuple(random.sample(SPECS, 6)), 60)


@cache
def every_change() -> list[tuple[str, int]]:
    """Each change of each zone. Zones that are the same around a change are looked at once."""
    found: dict[tuple[object, ...], tuple[str, int]] = {}
    for name in sorted(zone_names() if LONG else SAMPLE):
        zone = cast("ZoneInfo", zone_of(name))
        spots = changes(zone)
        for spot in spots:
            near = [one for one in spots if abs(one - spot) <= SPAN_S + 30 * 3600]
            here = (spot, *((one, offset(zone, one - 1), offset(zone, one)) for one in near))
            found.setdefault(here, (name, spot // 60 * 60))
    return sorted(found.values())


@pytest.mark.parametrize("part", range(PARTS_RUN))
def test_every_change_is_as_the_oracle_says(part: int) -> None:
    """The long form takes all changes of all zones: an hour and a half of a processor."""
    spots = every_change().copy()
    Random(SEED).shuffle(spots)
    for name, spot in spots[part::PARTS]:
        looked_at(name, [spot], SPECS, 60)
    name, _ = spots[part]
    looked_at(name, [Random(SEED + part).randrange(BEGIN_S, END_S) // 60 * 60], SPECS, 60)


def test_seconds_are_as_the_oracle_says() -> None:
    zone = cast("ZoneInfo", zone_of("Europe/Berlin"))
    for spot in changes(zone)[60:62]:
        begin, end = spot - 3 * 3600, spot + 3 * 3600
        seen = oracle.Walls(zone, begin - 4 * 3600, end, 1)
        for text in SECONDS:
            truth = oracle.Seen(text, seen)
            for gap, overlap in POLICIES:
                agree("Europe/Berlin", text, gap, overlap, begin, end,
                      truth.fires(gap, overlap))


# ---------------------------------------------------------------- what people read in a calendar

def texts(cron: Cron, begin: str, count: int) -> list[str]:
    at_ms = int(datetime.fromisoformat(begin).timestamp() * 1000)
    walk = cron.after(at_ms)
    return [f"{local_text(cron.zone, slot.at_ms)} {slot.dst}".strip()
            for slot, _ in zip(walk, range(count), strict=False)]


@pytest.mark.parametrize(("gap", "expected"), [
    ("skip", ["2026-03-28T02:30:00+01:00", "2026-03-30T02:30:00+02:00"]),
    ("shift", ["2026-03-28T02:30:00+01:00", "2026-03-29T03:30:00+02:00 gap-shifted"])])
def test_a_time_that_the_clocks_leave_out(gap: str, expected: list[str]) -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin", gap)
    assert texts(cron, "2026-03-28T00:00:00Z", 2) == expected


@pytest.mark.parametrize(("overlap", "expected"), [
    ("first", ["2026-10-25T02:30:00+02:00 first"]),
    ("second", ["2026-10-25T02:30:00+01:00 second"]),
    ("both", ["2026-10-25T02:30:00+02:00 first", "2026-10-25T02:30:00+01:00 second"])])
def test_a_time_that_the_clocks_show_twice(overlap: str, expected: list[str]) -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin", "shift", overlap)
    assert texts(cron, "2026-10-24T22:00:00Z", len(expected)) == expected


def test_what_fires_in_every_hour_goes_on_through_both() -> None:
    hourly, daily = Cron("0 * * * *", "Europe/Berlin"), Cron("0 2 * * *", "Europe/Berlin")
    assert (hourly.overlap, daily.overlap) == ("both", "first")
    found = [slot.at_ms for slot, _ in zip(
        hourly.after(1_792_800_000_000), range(200), strict=False)]
    assert {later - earlier for earlier, later in pairwise(found)} == \
        {3_600_000}


def test_macros_and_the_form_of_days() -> None:
    assert texts(Cron("@daily"), "2026-12-30T12:00:00Z", 2) == [
        "2026-12-31T00:00:00+00:00", "2027-01-01T00:00:00+00:00"]
    days = Days(("2026-12-24/2027-01-02", "--05-01", "2026-06-03"))
    assert all(day in days for day in ("2026-12-24", "2027-01-02", "2031-05-01", "2026-06-03"))
    assert not any(day in days for day in ("2026-12-23", "2027-01-03", "2026-06-04"))


@pytest.mark.parametrize("text", [
    "", "* * * *", "60 * * * *", "* * * * * * *", "@reboot", "a b c d e", "*/0 * * * *",
    "0 0 31 2 *",
    "5-1 * * * *", "* * * * MON#6", "0 0 W * *", "9" * 150 + " * * * *", "* " * 150, "1,, * * * *"])
def test_what_is_no_cron_is_refused(text: str) -> None:
    with pytest.raises(CronError) as refusal:
        Cron(text)
    assert refusal.value.field == "cron"


@pytest.mark.parametrize("name", ["", "Mars/Base", "../etc/passwd", "europe/berlin", "zones"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(CronError) as refusal:
        zone_of(name)
    assert refusal.value.field == "timeZone"


@pytest.mark.parametrize("text", ["2026-13-01", "x", "--02-30", "2026-01-02/2026-01-01", "2026"])
def test_what_is_no_day_is_refused(text: str) -> None:
    with pytest.raises(CronError, match=r"day|range") as refusal:
        Days(("2026-01-01", text))
    assert refusal.value.field == "days[1]"


def test_intervals_and_single_moments() -> None:
    every = Every(600_000, 1_000)
    assert [slot.at_ms for slot, _ in zip(every.after(0), range(3), strict=False)] == [
        1_000, 601_000, 1_201_000]
    assert next(every.after(601_000)).at_ms == 1_201_000
    assert list(Once(5).after(5)) == []
    assert [slot.at_ms for slot in Once(5).after(4)] == [5]


def test_start_and_end_bound_all() -> None:
    timing = Timing(ScheduleBody("s", cron="* * * * *", start_at=120_000, end_at=240_000), 0)
    assert [slot.at_ms for slot in timing.after(0)] == [120_000, 180_000, 240_000]
    assert timing.first(240_000) == 0


def test_the_latest_slots_are_found_without_walking_all() -> None:
    year_ms = 365 * 86_400_000
    timing = Timing(ScheduleBody("s", cron="* * * * * *"), 0)
    assert timing.latest(0, year_ms, 3)[-1].at_ms == year_ms
    assert timing.latest(0, year_ms, 3)[0].at_ms == year_ms - 2_000
    rare = Timing(ScheduleBody("s", cron="0 0 1 1 *"), 0)
    assert [slot.at_ms for slot in rare.latest(0, year_ms + 5, 3)] == [year_ms]
    assert rare.latest(1, year_ms - 1, 3) == []


def test_jitter_is_the_slots_own_and_spreads() -> None:
    timing = Timing(ScheduleBody("s", cron="0 * * * *", jitter_sec=60), 0)
    drawn = [timing.jitter_ms(number, 3_600_000) for number in range(2_000)]
    assert drawn == [timing.jitter_ms(number, 3_600_000) for number in range(2_000)]
    assert 0 <= min(drawn) < 1_000 < 59_000 < max(drawn) <= 60_000
    assert 28_000 < sum(drawn) / len(drawn) < 32_000


def test_it_never_asks_what_time_it_is() -> None:
    tree = ast.parse(Path(plumd.cron.__file__).read_text(encoding="utf-8"))
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not called & {"now", "utcnow", "today", "time", "monotonic"}
