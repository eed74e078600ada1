"""Tasks: rows in, rows out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import apsw
import msgspec

from plumd.endings import ENCODE_ERROR, error_of, result_of
from plumd.model import Changed, Created, Ended, Row, TaskState
from plumd.store import sql
from plumd.store.sql import SQLiteValue

SQL: Final = sql.load("tasks")
INSERT, MOVE = SQL["insert"], SQL["move"]
ENCODE: Final = msgspec.json.Encoder().encode
ID_SHIFT: Final = 18
"""An id begins with the time in ms; so many bits of counting follow."""


class TaskRow(msgspec.Struct, frozen=True, gc=False):
    """A task as it is stored, with its payload, labels, result and error where they are inline."""

    id: int
    name: str
    kind: int
    target_kind: str
    target_ref: str
    def_id: int
    def_version: int
    priority: int
    timeout_ms: int
    queue_timeout_ms: int
    max_retries: int
    on_lost: int
    run_id: int
    step: int
    origin_id: int
    scheduled_ms: int
    created_ms: int
    state: int
    attempt: int
    worker_id: str | None
    due_ms: int
    started_ms: int
    finished_ms: int
    cancel_ms: int
    payload: bytes | None
    payload_blob: str | None
    labels: str | None
    result: bytes | None
    result_blob: str | None
    error: str | None
    concurrency_key: str = ""
    concurrency_limit: int = 0
    on_conflict: int = 0


class AttemptRow(msgspec.Struct, frozen=True, gc=False):
    """A past attempt."""

    attempt: int
    ending: int
    worker_id: str
    node_id: str
    started_ms: int
    finished_ms: int
    error: str | None


def write(db: apsw.Connection, created: Sequence[Created], changed: Sequence[Changed],
          ended: Sequence[Ended]) -> None:
    """All rows that one step of the core makes or moves."""
    if created:
        insert(db, created)
    if changed:
        db.executemany(MOVE, changed)
    if ended:
        end(db, ended)


def insert(db: apsw.Connection, created: Sequence[Created]) -> None:
    rows, inputs, keys = [], [], []
    labels: list[tuple[str, str, int]] = []
    for command, created_ms, state, attempt, worker_id, due, started, finished, cancel in created:
        has_input = command.payload is not None or command.blob or command.labels
        rows.append((
            command.task_id, command.name, command.kind, command.target_kind, command.target_ref,
            command.def_id, command.def_version, command.priority, command.timeout_ms,
            command.queue_timeout_ms, command.max_retries, command.on_lost, command.run_id,
            command.step, command.origin_id, command.scheduled_ms, 1 if has_input else 0,
            created_ms, state, attempt, worker_id, due, started, finished, cancel))
        if command.concurrency_key:
            keys.append((command.task_id, command.concurrency_key, command.concurrency_limit,
                         command.on_conflict))
        if has_input:
            text = ENCODE(dict(command.labels)).decode() if command.labels else None
            inputs.append((command.task_id, command.payload, command.blob or None, text))
            labels.extend((key, value, command.task_id) for key, value in command.labels)
    db.executemany(INSERT, rows)
    if inputs:
        db.executemany(SQL["insert_input"], inputs)
    if labels:
        db.executemany(SQL["insert_label"], labels)
    if keys:
        db.executemany(SQL["insert_key"], keys)


def end(db: apsw.Connection, ended: Sequence[Ended]) -> None:
    """Results of tasks that are over, and the records of attempts that others follow."""
    results: list[tuple[SQLiteValue, ...]] = []
    attempts: list[tuple[SQLiteValue, ...]] = []
    for one in ended:
        error = error_of(one)
        text = None if error is None else ENCODE_ERROR(error).decode()
        if one.state >= TaskState.SUCCEEDED:
            result, blob = result_of(one)
            if text is not None or result is not None or blob:
                results.append((one.task_id, result, blob or None, text))
        else:
            attempts.append((one.task_id, one.attempt, one.ending, one.worker_id, one.node_id,
                             one.started_ms, one.ended_ms, text))
    if results:
        db.executemany(SQL["insert_result"], results)
    if attempts:
        db.executemany(SQL["insert_attempt"], attempts)


def live(db: apsw.Connection) -> Iterable[Row]:
    """Every task that is not over, as Scheduler.load wants it."""
    return sql.rows(db, SQL["live"])


def newest_id(db: apsw.Connection) -> int:
    """The greatest id that was ever given out and is still there."""
    return sql.number(db, SQL["newest_id"])


def get(db: apsw.Connection, task_id: int) -> TaskRow | None:
    """One task, or None."""
    for row in db.execute(SQL["get"], (task_id,)):
        return TaskRow(*row)
    return None


def attempts(db: apsw.Connection, task_id: int) -> list[AttemptRow]:
    """The attempts that others followed, in order; the last attempt is in the task's own row."""
    return [AttemptRow(*row) for row in db.execute(SQL["attempts"], (task_id,))]


def of_run(db: apsw.Connection, run_id: int) -> list[tuple[int, int, int, int, int, int]]:
    """(id, state, step, attempt, started_ms, finished_ms) of a run's tasks, oldest first."""
    return list(sql.rows(db, SQL["of_run"], (run_id,)))


def inputs(db: apsw.Connection, task_ids: Sequence[int]) -> dict[int, tuple[bytes | None, str]]:
    """task id -> (inline payload, blob) of those that have one."""
    if len(task_ids) == 1:
        one: Iterator[tuple[bytes | None, str | None]] = sql.rows(db, SQL["input"], (task_ids[0],))
        payload, blob = next(one, (None, None))
        return {task_ids[0]: (payload, blob or "")}
    rows: Iterator[tuple[int, bytes | None, str | None]] = sql.rows(
        db, SQL["inputs"], (ENCODE(task_ids).decode(),))
    return {row[0]: (row[1], row[2] or "") for row in rows}


def delete(db: apsw.Connection, task_id: int) -> bool:
    """Remove one task that is over, with all that belongs to it; False when there is none."""
    db.execute(SQL["delete"], (task_id,))
    if not db.changes():
        return False
    for part in ("delete_input", "delete_key", "delete_result", "delete_attempts",
                 "delete_labels"):
        db.execute(SQL[part], (task_id,))
    return True


def old(db: apsw.Connection, after: int, before_ms: int,
        look_at: int) -> tuple[list[int], int]:
    """The tasks of no run that were over before a time, among the next look_at behind an id; and
    how far that went, 0 = there are no more that old."""
    last = sql.number(db, SQL["looked_at"], (after, before_ms << ID_SHIFT, look_at))
    found: Iterator[tuple[int]] = sql.rows(db, SQL["old"], (after, last, before_ms))
    return [row[0] for row in found], last


def count(db: apsw.Connection) -> int:
    """All of them; it takes a second for some millions."""
    return sql.number(db, SQL["count"])


def oldest(db: apsw.Connection, after: int, limit: int) -> list[tuple[int, int]]:
    """(id, run or 0) of the oldest behind an id that are over."""
    return list(sql.rows(db, SQL["oldest"], (after, limit)))
