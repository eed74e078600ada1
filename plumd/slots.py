"""Pure: which slots of a schedule are due, what becomes of those that were missed, and its plan.

A slot is a moment at which a schedule starts something; its plan says which one is next.
"""

from __future__ import annotations

from typing import Final

from plumd import cron
from plumd.bodies import ScheduleBody
from plumd.cron import Slot, Timing
from plumd.store.schedules import Plan, ScheduleRow

LATE_MS: Final = 10_000
"""A slot that nobody looked at for so long was missed, and the policy for missed ones holds."""
STEP_MS: Final = 200
"""The wall clock was set when it moves by more than this against the monotonic one."""
LIST_MAX: Final = 500
"""So many slots that are due are listed at a stretch; of more only the last ones are."""
STARTS_MAX: Final = 50
"""So much one schedule starts at a stretch; the rest has its turn after others."""


def due_slots(row: ScheduleRow, timing: Timing, now_ms: int) -> tuple[list[Slot], int]:
    """The slots that are due, in order, and the slot to go on with (0: the one behind).

    Of very many that were missed those that no policy starts are left out.
    """
    first_ms = row.next_ms
    if timing.paced and row.due_ms > now_ms + STEP_MS:
        return [], 0
    second_ms = timing.first(first_ms)
    if second_ms == 0 or second_ms + timing.jitter_ms(row.id, second_ms) > now_ms:
        return [Slot(first_ms)], second_ms
    found: list[Slot] = []
    begun_ms = first_ms - 1
    if not timing.paced and now_ms - first_ms > LATE_MS:
        window_ms = now_ms - round(row.body.missed_window_sec * 1000)
        if row.body.missed_policy == "all" and first_ms < window_ms:
            begun_ms = window_ms - 1
    for slot in timing.after(begun_ms):
        early = timing.paced and slot.at_ms == first_ms
        if not early and slot.at_ms + timing.jitter_ms(row.id, slot.at_ms) > now_ms:
            break
        if len(found) == LIST_MAX:
            if row.body.missed_policy != "all":
                tail = timing.latest(slot.at_ms, now_ms, LIST_MAX)
                late_ms = now_ms - round(row.body.jitter_sec * 1000)
                found += [one for one in tail if one.at_ms <= late_ms]
            break
        found.append(slot)
        if row.body.missed_policy == "all" and len(found) == STARTS_MAX:
            break
    if not found:       # all were before the window
        return [], timing.first(now_ms)
    return found, 0


def by_policy(body: ScheduleBody, due: list[Slot], late_by: dict[int, int],
              now_ms: int) -> tuple[list[Slot], list[Slot]]:
    """(those that are started, those that were missed) of slots that are due, in order."""
    window_ms = round(body.missed_window_sec * 1000)
    on_time = [slot for slot in due if late_by[slot.at_ms] < LATE_MS]
    late = [slot for slot in due if late_by[slot.at_ms] >= LATE_MS]
    chosen: list[Slot] = []
    if body.missed_policy == "all":
        chosen = late
    elif body.missed_policy == "last" and late and not on_time:
        chosen = late[-1:]
    chosen = [slot for slot in chosen if now_ms - slot.at_ms <= window_ms]
    return [*chosen, *on_time], [slot for slot in late if slot not in chosen]


def plan_of(number: int, version: int, body: ScheduleBody, now_ms: int,
            before: ScheduleRow | None = None) -> Plan:
    """The plan of a schedule that is saved now; one whose timing stays keeps what lies ahead.

    Raises: CronError.
    """
    timing = Timing(body, cron.first_anchor(body, now_ms))
    done_ms = 0 if before is None else before.done_ms
    next_ms = 0
    if before is not None and keeps_slots(before, body):
        next_ms = before.next_ms
    elif body.enabled:
        next_ms = timing.first(now_ms)
    due_ms = next_ms and next_ms + timing.jitter_ms(number, next_ms)
    return Plan(number, version, timing.paced, done_ms, next_ms, due_ms, cron.ZONES_VERSION)


TIMES: Final = ("enabled", "cron", "every_sec", "at", "time_zone", "dst_gap", "dst_overlap",
                "start_at", "end_at")


def keeps_slots(before: ScheduleRow, after: ScheduleBody) -> bool:
    """Whether a schedule that is written anew has the slots that it had."""
    return before.next_ms > 0 and all(getattr(before.body, name) == getattr(after, name)
                                      for name in TIMES)
