"""Rows that cannot be read at start are set aside, one by one, and all others go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import apsw
import msgspec

from plumd.model import Join, Row
from plumd.store import sql, tasks, workers
from plumd.store.store import Call, Tx

SQL: Final = sql.load("quarantine")
END: Final = {"task": SQL["end_task"], "workflow_run": SQL["end_run"],
              "worker": SQL["forget_worker"]}


class Unreadable(msgspec.Struct, frozen=True):
    """A row that was set aside. subject: task, workflow_run or worker."""

    subject: str
    row_id: str
    reason: str


def readable_tasks(db: apsw.Connection, bad: list[Unreadable]) -> Iterator[Row]:
    """The rows of live tasks. Should one of them break the reading, all that were not yet
    given are read one at a time."""
    seen = 0
    try:
        for row in tasks.live(db):
            seen = row[0]
            yield row
        return
    except (UnicodeDecodeError, apsw.CorruptError):
        given_before = seen
    passed = given_before == 0
    ids: list[tuple[int]] = list(sql.rows(db, SQL["live_task_ids"]))
    for (task_id,) in ids:
        if not passed:
            passed = task_id == given_before
            continue
        try:
            one: list[Row] = list(sql.rows(db, SQL["live_task"], (task_id,)))
            yield from one
        except (UnicodeDecodeError, apsw.CorruptError) as error:
            bad.append(Unreadable("task", str(task_id), str(error)))


def readable_workers(db: apsw.Connection, bad: list[Unreadable]) -> list[Join]:
    """What the workers said that are believed to be there."""
    found = []
    for worker_id, body in db.execute(SQL["worker_rows"]):
        try:
            found.append(workers.DECODE(body))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            bad.append(Unreadable("worker", worker_id, str(error)))
    return found


def set_aside(bad: list[Unreadable]) -> Call:
    """A store command that ends these rows and records why."""
    def run(tx: Tx) -> None:
        for row in bad:
            tx.db.execute(SQL["insert"], (row.subject, row.row_id, row.reason, tx.now_ms))
            key = row.row_id if row.subject == "worker" else int(row.row_id)
            tx.db.execute(END[row.subject], (tx.now_ms, key))
            tx.emit("alert", "unreadable_row", row.subject, row.row_id, tx.now_ms)
    return run
