"""When a cron text fires, found slowly: every moment is looked at, and the fields are read anew.

It shares nothing with plumd.cron but the zones' data.
"""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

RANGES = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
Found = tuple[int, str]


def number(text: str, field: int) -> int:
    if field == 4 and text in MONTHS:
        return MONTHS.index(text) + 1
    if field == 5 and text in DAYS:
        return DAYS.index(text)
    return int(text)


def fits(text: str, field: int, value: int) -> bool:
    """Whether a value is among those of a field without L, LW and #."""
    low, high = RANGES[field]
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, last = low, high
        if span not in ("*", "?"):
            begin, dash, end = span.partition("-")
            first = number(begin, field)
            last = number(end, field) if dash else (high if slash else first)
        for one in range(first, last + 1, int(step) if slash else 1):
            if one == value or (field == 5 and one % 7 == value):
                return True
    return False


class Fields:
    """A cron text of 5 or 6 fields."""

    def __init__(self, text: str) -> None:
        parts = text.upper().split()
        self.parts = parts if len(parts) == 6 else ["0", *parts]
        times = ((0, 59), (1, 59), (2, 23), (4, 12))
        self.sets = {field: {value for value in range(high + 1)
                             if fits(self.parts[field], field, value)} for field, high in times}
        self.days: dict[tuple[int, int, int], bool] = {}

    def fire(self, wall: datetime) -> bool:
        """Whether the wall time fires."""
        if wall.second not in self.sets[0] or wall.minute not in self.sets[1] \
                or wall.hour not in self.sets[2] or wall.month not in self.sets[4]:
            return False
        key = (wall.year, wall.month, wall.day)
        if key not in self.days:
            self.days[key] = self.day(wall)
        return self.days[key]

    def day(self, wall: datetime) -> bool:
        of_month, of_week = self.parts[3], self.parts[5]
        last = calendar.monthrange(wall.year, wall.month)[1]
        week = (wall.weekday() + 1) % 7
        by_month = any(self.one_of_month(part, wall, last) for part in of_month.split(","))
        by_week = any(self.one_of_week(part, wall, week, last) for part in of_week.split(","))
        if of_month[0] in "*?" or of_week[0] in "*?":
            return by_month and by_week
        return by_month or by_week

    def one_of_month(self, part: str, wall: datetime, last: int) -> bool:
        if part == "L":
            return wall.day == last
        if part == "LW":
            day = last
            while datetime(wall.year, wall.month, day).weekday() > 4:
                day -= 1
            return wall.day == day
        return fits(part, 3, wall.day)

    def one_of_week(self, part: str, wall: datetime, week: int, last: int) -> bool:
        if part.endswith("L"):
            return int(part[:-1]) % 7 == week and wall.day + 7 > last
        if "#" in part:
            name, nth = part.split("#")
            return number(name, 5) % 7 == week and (wall.day - 1) // 7 + 1 == int(nth)
        return fits(part, 5, week)


class Walls:
    """What the wall shows at every moment of a span, and what it leaves out. Seconds.

    shown: (moment, wall time, "first" or "second" where it is shown twice).  left_out: (wall time,
    the moment that it is moved to).
    """

    def __init__(self, zone: ZoneInfo, begin_s: int, end_s: int, step_s: int) -> None:
        self.shown: list[tuple[int, datetime, str]] = []
        self.left_out: list[tuple[datetime, int]] = []
        step, before = timedelta(seconds=step_s), None
        for at in range(begin_s, end_s, step_s):
            shown = datetime.fromtimestamp(at, zone)
            wall = shown.replace(tzinfo=None)
            twice = shown.replace(fold=1 - shown.fold).utcoffset() != shown.utcoffset()
            self.shown.append((at, wall, ("second" if shown.fold else "first") if twice else ""))
            if before is not None:
                ahead = before - datetime.fromtimestamp(at - step_s, UTC).replace(tzinfo=None)
                missing = before + step
                while missing < wall:
                    moved = int((missing - ahead).replace(tzinfo=UTC).timestamp())
                    self.left_out.append((missing, moved))
                    missing += step
            before = wall


class Seen:
    """What one cron text makes of a span, whatever the policies."""

    def __init__(self, text: str, walls: Walls) -> None:
        fields = Fields(text)
        self.every_hour = len(fields.sets[2]) == 24
        self.hits = [(at, mark) for at, wall, mark in walls.shown if fields.fire(wall)]
        self.shifted = [at for wall, at in walls.left_out if fields.fire(wall)]

    def fires(self, gap: str, overlap: str) -> list[Found]:
        """(seconds, what the zone's change made of it) by these policies."""
        overlap = overlap or ("both" if self.every_hour else "first")
        found = {at: dst for at, dst in self.hits if not dst or overlap in (dst, "both")}
        if gap == "shift":
            for at in self.shifted:
                found.setdefault(at, "gap-shifted")
        return sorted(found.items())
