"""plumd.slots: what becomes of slots that nobody looked at in time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plumd.bodies import ScheduleBody
from plumd.cron import Slot
from plumd.slots import LATE_MS, by_policy

NOW_MS = 1_764_072_000_000
WINDOW_MS = 3_600_000


@given(st.sets(st.integers(0, 3 * WINDOW_MS), min_size=1, max_size=12),
       st.sampled_from(["skip", "last", "all"]))
def test_each_slot_is_started_or_missed(lateness: set[int], policy: str) -> None:
    body = ScheduleBody("s", cron="* * * * *", missed_policy=policy,
                        missed_window_sec=WINDOW_MS / 1000)
    due = [Slot(NOW_MS - late_ms) for late_ms in sorted(lateness, reverse=True)]
    late_by = {slot.at_ms: NOW_MS - slot.at_ms for slot in due}
    started, missed = by_policy(body, due, late_by, NOW_MS)
    assert sorted(started + missed, key=lambda slot: slot.at_ms) == due
    assert started == sorted(started, key=lambda slot: slot.at_ms)
    late = [slot for slot in due if late_by[slot.at_ms] >= LATE_MS]
    again = [slot for slot in started if slot in late]
    within = [slot for slot in late if late_by[slot.at_ms] <= WINDOW_MS]
    wanted = {"skip": [], "all": within, "last": [] if len(late) < len(due) else (
        within if within == late[-1:] else within[-1:])}
    assert again == wanted[policy]
    assert len(started) - len(again) == len(due) - len(late), "what is on time is always started"
