"""Runs that have begun are finished before others begin."""

from __future__ import annotations

from plumd._sched import Scheduler
from plumd.clock import Instant
from plumd.model import Ended, Finish, Join, Limits, Submit, WorkerKind

NOW_MS = 1_764_072_000_000
SLOTS, RUNS, STEPS = 20, 1_000, 5


def test_no_more_runs_are_under_way_than_there_are_slots() -> None:
    """B26: 1,000 runs of five steps on 20 slots; even runs that were asked for in one moment."""
    core = Scheduler(Limits(), 1)
    now_ms = NOW_MS
    core.apply(Join("w", WorkerKind.SESSION, "s", ("t",), capacity=SLOTS), at(now_ms))
    runs = [((NOW_MS + number // 400) << 18) + number for number in range(RUNS)]
    task_id = (NOW_MS + 10_000) << 18
    for run_id in reversed(runs):
        task_id += 1
        core.apply(Submit(task_id, "t", run_id=run_id, step=0), at(now_ms))
    started: set[int] = set()
    over: set[int] = set()
    run_of: dict[int, tuple[int, int]] = {}
    order: list[int] = []
    while len(over) < RUNS:
        now_ms += 7
        core.tick(at(now_ms))
        created, _, ended, _, starts, _, _, _, _ = core.take()
        for row in created:
            run_of[row[0].task_id] = (row[0].run_id, row[0].step)
        for start in starts:
            run_id, step = run_of[start[2]]
            if step == 0:
                started.add(run_id)
                order.append(run_id)
        assert len(started - over) <= SLOTS
        for start in starts[::-1]:
            core.apply(Finish(start[2], start[3], "w"), at(now_ms))
        core.tick(at(now_ms))
        ends: list[Ended] = core.take_run_ends()
        for end in ends:
            if end.step + 1 == STEPS:
                over.add(end.run_id)
            else:
                task_id += 1
                core.apply(Submit(task_id, "t", run_id=end.run_id, step=end.step + 1), at(now_ms))
        del ended
        core.check()
    assert order == sorted(order), "the older run begins first"


def at(ms: int) -> Instant:
    return Instant(ms * 1_000_000, ms * 1_000_000)
