"""Workflow runs. While a run lives its steps are its tasks; at its end a summary is kept with it,
so that the status of every step stays when old tasks go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from plumd.model import RunPlan
from plumd.store import sql, tasks

SQL: Final = sql.load("flows")
ENCODE: Final = msgspec.json.Encoder().encode
PINS: Final = msgspec.json.Decoder(tuple[int, ...]).decode


class StepEnd(msgspec.Struct, frozen=True, rename="camel"):
    """What is kept of a step when its run ends; state -1 = it never began (Skipped)."""

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


class RunEnd(msgspec.Struct, frozen=True):
    """A run that ended in this commit."""

    run_id: int
    state: int
    finished_ms: int
    steps: Sequence[StepEnd]


def write(db: apsw.Connection, begun: Sequence[tuple[RunPlan, int]],
          canceled: Sequence[tuple[int, int]], ended: Sequence[RunEnd]) -> None:
    """The runs of one step: (plan, created_ms), (cancel_ms, run_id), and those that ended."""
    if begun:
        db.executemany(SQL["insert"], [
            (plan.run_id, plan.workflow_id, plan.version, ENCODE(plan.pins).decode(), plan.payload,
             created_ms) for plan, created_ms in begun])
    if canceled:
        db.executemany(SQL["cancel"], canceled)
    if ended:
        db.executemany(SQL["finish"], [
            (end.state, end.finished_ms, ENCODE(end.steps), end.run_id) for end in ended])


def live(db: apsw.Connection) -> list[tuple[int, int, int, str, bytes | None, int]]:
    """(id, workflow_id, version, pins as JSON, payload, cancel_ms) of the runs that go on."""
    return list(sql.rows(db, SQL["live"]))


def get(db: apsw.Connection, run_id: int) -> RunRow | None:
    """One run, or None."""
    for row in db.execute(SQL["get"], (run_id,)):
        return run_of(row)
    return None


Shape = tuple[int, int, int, str, bytes | None, int, int, int, int, bytes | None]


def run_of(row: Shape) -> RunRow:
    """A row as a Struct."""
    steps = None if row[9] is None else STEPS(row[9])
    return RunRow(row[0], row[1], row[2], PINS(row[3]), *row[4:9], steps)


def page(db: apsw.Connection, workflow_id: int, state: int | None, before: int,
         limit: int) -> list[RunRow]:
    """One page, newest first; workflow_id 0 = of all workflows."""
    where, values = ["id < ?"], [before or (1 << 63) - 1]
    if workflow_id:
        where.append("workflow_id = ?")
        values.append(workflow_id)
    if state is not None:
        where.append("state = ?")
        values.append(state)
    text = SQL["page"].format(where=" AND ".join(where))
    return [run_of(row) for row in db.execute(text, (*values, limit))]


def any_live(db: apsw.Connection, workflow_id: int) -> bool:
    """Whether a workflow has a run that goes on."""
    return bool(db.execute(SQL["any_live_of_workflow"], (workflow_id,)).fetchall())


def delete(db: apsw.Connection, run_id: int) -> bool:
    """Remove a run that is over with all its tasks; False when there is none."""
    db.execute(SQL["delete"], (run_id,))
    if not db.changes():
        return False
    mine: list[tuple[int]] = list(sql.rows(db, SQL["tasks_of"], (run_id, -1)))
    for row in mine:
        tasks.delete(db, row[0])
    return True


def prune_workflow(db: apsw.Connection, workflow_id: int, count: int) -> int:
    """Remove up to count runs of a deleted workflow that are over; answers how many went."""
    mine: list[tuple[int]] = list(sql.rows(db, SQL["of_workflow"], (workflow_id, count)))
    for row in mine:
        delete(db, row[0])
    return len(mine)


def has_runs(db: apsw.Connection, workflow_id: int) -> bool:
    """Whether a workflow still has runs."""
    return bool(db.execute(SQL["any_of_workflow"], (workflow_id,)).fetchall())


def prune(db: apsw.Connection, before_id: int, count: int) -> int:
    """Remove up to count of the oldest runs that are over and whose id is below before_id."""
    doomed: list[tuple[int]] = list(sql.rows(db, SQL["prunable"], (before_id, count)))
    for row in doomed:
        delete(db, row[0])
    return len(doomed)
