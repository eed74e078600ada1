"""Workflow runs. While a run lives its steps are its tasks, and rows for what tasks do not say; at
its end a summary of the outer steps is kept with it, so that it is read at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import apsw
import msgspec

from plumd.flow.compile import STEPS_MAX
from plumd.flow.graph import RunPlan, Seed
from plumd.flow.repeat import CUT
from plumd.store import sql, tasks

SQL: Final = sql.load("flows")
ENCODE: Final = msgspec.json.Encoder().encode
PINS: Final = msgspec.json.Decoder(tuple[int, ...]).decode


class StepEnd(msgspec.Struct, frozen=True, rename="camel"):
    """What is kept of a step when its run ends. state: -1 = it never began (Skipped)."""

    step: int
    state: int
    task_id: int
    attempt: int = 0
    started_ms: int = 0
    finished_ms: int = 0


STEPS: Final = msgspec.json.Decoder(list[StepEnd]).decode


class RunRow(msgspec.Struct, frozen=True):
    """A run as it is stored."""

    id: int
    workflow_id: int
    version: int
    pins: tuple[int, ...]
    payload: bytes | None
    state: int
    created_ms: int
    finished_ms: int
    cancel_ms: int
    steps: list[StepEnd] | None
    parent_id: int
    parent_step: int
    origin_id: int
    paused_ms: int
    result: bytes | None
    error: str | None
    noted: bool
    """Whether there are rows of its steps beside their tasks."""


class RunEnd(msgspec.Struct, frozen=True):
    """A run that ended in this commit. error: (code, message)."""

    run_id: int
    state: int
    finished_ms: int
    steps: Sequence[StepEnd]
    result: bytes | None = None
    error: tuple[str, str] | None = None


Mark: TypeAlias = tuple[int, int, int, int]
"""(cancel_ms, stop, paused_ms, run_id)"""
BEGUN: Final = -1
"""Under this number stands no step, but when the run began, once that moment was moved."""
StepRow: TypeAlias = tuple[int, int, int, int, int, int, bytes | None]
"""(run_id, step, state, ref, started_ms, finished_ms, data)"""


def last_step(db: apsw.Connection, run_id: int, first: int, last: int) -> int:
    """The greatest number from first to last that left a trace, -1 when none did."""
    return max(sql.number(db, SQL[name], (run_id, first, last))
               for name in ("last_task", "last_step"))


class RunChange(msgspec.Struct, frozen=True):
    """What one commit writes of runs. begun: with created_ms."""

    begun: Sequence[tuple[RunPlan, int]] = ()
    marks: Sequence[Mark] = ()
    ended: Sequence[RunEnd] = ()
    steps: Sequence[StepRow] = ()

    @property
    def weight(self) -> int:
        """About how many rows it writes."""
        return len(self.begun) + len(self.marks) + len(self.ended) + len(self.steps)


def write(db: apsw.Connection, change: RunChange) -> None:
    """The runs of one step."""
    if change.begun:
        db.executemany(SQL["insert"], [
            (plan.run_id, plan.workflow_id, plan.version, ENCODE(plan.pins).decode(), plan.payload,
             created_ms, *plan.parent, plan.depth, plan.origin_id)
            for plan, created_ms in change.begun])
    if change.steps:
        db.executemany(SQL["put_step"], change.steps)
    if change.marks:
        db.executemany(SQL["mark"], change.marks)
    if change.ended:
        db.executemany(SQL["finish"], [
            (end.state, end.finished_ms, ENCODE(end.steps), end.result,
             None if end.error is None else error_text(end.error), end.run_id)
            for end in change.ended])


def error_text(error: tuple[str, str]) -> str:
    """How an error is kept."""
    return ENCODE({"code": error[0], "message": error[1]}).decode()


class LiveRow(msgspec.Struct, frozen=True):
    """A run that goes on, as the daemon takes it up. begun_ms: created_ms, moved as often as the
    wall clock was set since then."""

    id: int
    workflow_id: int
    version: int
    pins: str
    payload: bytes | None
    created_ms: int
    cancel_ms: int
    parent_id: int
    parent_step: int
    depth: int
    origin_id: int
    stop: int
    paused_ms: int
    begun_ms: int


def live(db: apsw.Connection) -> list[LiveRow]:
    """The runs that go on."""
    return [LiveRow(*row) for row in db.execute(SQL["live"])]


def seeds(db: apsw.Connection, run_id: int, first: int = 0,
          last: int = (1 << 31) - 1) -> dict[int, Seed]:
    """What is known of a run's step instances from first to last: their tasks, and their rows."""
    found = {row[0]: Seed(*row) for row in db.execute(SQL["tasks"], (run_id, first, last))}
    for row in db.execute(SQL["steps"], (run_id, first, last)):
        task = found.get(row[0])
        found[row[0]] = Seed(*row) if task is None else msgspec.structs.replace(task, data=row[6])
    return found


def is_cut(db: apsw.Connection, run_id: int) -> bool:
    """Whether a run goes up to a step only."""
    return bool(db.execute(SQL["cut"], (run_id, STEPS_MAX, CUT)).fetchall())


def notes(db: apsw.Connection, run_id: int, first: int, last: int) -> dict[int, Seed]:
    """The rows alone, without the tasks: all that a run's summary does not say."""
    return {row[0]: Seed(*row) for row in db.execute(SQL["steps"], (run_id, first, last))}


def get(db: apsw.Connection, run_id: int) -> RunRow | None:
    """One run, or None."""
    for row in db.execute(SQL["get"], (run_id,)):
        return run_of(row)
    return None


Shape = tuple[int, int, int, str, bytes | None, int, int, int, int, bytes | None, int, int, int,
              int, bytes | None, str | None, int]


def run_of(row: Shape) -> RunRow:
    """A row as a Struct."""
    steps = None if row[9] is None else STEPS(row[9])
    return RunRow(row[0], row[1], row[2], PINS(row[3]), row[4], row[5], row[6], row[7], row[8],
                  steps, row[10], row[11], row[12], row[13], row[14], row[15],
                  bool(row[16]))


def paused(db: apsw.Connection, workflow_id: int, before: int, limit: int) -> list[RunRow]:
    """One page of the runs that are paused, newest first; workflow_id 0 = of all workflows."""
    rows = db.execute(SQL["paused"], (before or (1 << 63) - 1, workflow_id, workflow_id, limit))
    return [run_of(row) for row in rows]


def delete(db: apsw.Connection, run_id: int) -> bool:
    """Remove a run that is over with all its tasks; False when there is none."""
    db.execute(SQL["delete"], (run_id,))
    if not db.changes():
        return False
    db.execute(SQL["delete_steps"], (run_id,))
    mine: list[tuple[int]] = list(sql.rows(db, SQL["tasks_of"], (run_id, -1)))
    for row in mine:
        tasks.delete(db, row[0])
    return True


def erase(db: apsw.Connection, run_id: int, count: int) -> int:
    """The same for one that may be large: up to count of its tasks go, and with the last of them
    the run; answers how many rows went."""
    mine: list[tuple[int]] = list(sql.rows(db, SQL["tasks_of"], (run_id, count)))
    gone = sum(tasks.delete(db, row[0]) for row in mine)
    return gone if gone == count else gone + delete(db, run_id)


def state_of(db: apsw.Connection, run_id: int) -> int | None:
    """A run's state; None when it is not there."""
    return next((int(row[0]) for row in db.execute(SQL["state_of"], (run_id,))), None)


def prune_workflow(db: apsw.Connection, workflow_id: int, count: int) -> int:
    """Remove up to count rows of a deleted workflow's runs that are over, and how many went."""
    return _erase_all(db, list(sql.rows(db, SQL["of_workflow"], (workflow_id, count))), count)


def has_runs(db: apsw.Connection, workflow_id: int) -> bool:
    """Whether a workflow still has runs."""
    return bool(db.execute(SQL["any_of_workflow"], (workflow_id,)).fetchall())


def prune(db: apsw.Connection, before_ms: int, count: int) -> int:
    """Remove up to count rows of the oldest runs that were over before a time; how many went."""
    return _erase_all(db, list(sql.rows(
        db, SQL["prunable"], (before_ms << tasks.ID_SHIFT, before_ms, count))), count)


def _erase_all(db: apsw.Connection, runs: Sequence[tuple[int]], count: int) -> int:
    left = count
    for row in runs:
        if left > 0:
            left -= erase(db, row[0], left)
    return count - left
