"""Moments that a payload names: Unix milliseconds, or RFC 3339 with its offset."""

from __future__ import annotations

import re
from typing import Final

from plumd.expressions import Failure, Value

LATEST_MS: Final = 253_402_300_799_000       # the end of the year 9999
RFC3339: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))")
DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def moment_ms(value: Value) -> int:
    """Unix milliseconds. Raises: Failure when it is no moment."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LATEST_MS:
        return value
    found = RFC3339.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise Failure("until is Unix milliseconds or a time like 2030-01-31T12:00:00Z")
    year, month, day, hour, minute, second = (int(part) for part in found.group(1, 2, 3, 4, 5, 6))
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not (1 <= month <= 12 and hour < 24 and minute < 60 and second <= 60
            and 1 <= day <= DAYS[month - 1] + (leap and month == 2)):
        raise Failure(f"there is no such time: {value}")
    seconds = (day_number(year, month, day) * 24 + hour) * 3_600 + minute * 60 + second
    if found[8]:
        offset_s = int(found[9]) * 3_600 + int(found[10]) * 60
        seconds -= offset_s if found[8] == "+" else -offset_s
    return max(1, seconds * 1_000 + int((found[7] or "0").ljust(3, "0")[:3]))


def day_number(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar.

    Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
    """
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
