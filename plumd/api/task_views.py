"""Tasks as the API shows them."""

from __future__ import annotations

import logging
from typing import Final

import msgspec
from msgspec import Raw

from plumd.engine import Engine
from plumd.errors import ValueLost
from plumd.model import (
    ENDINGS,
    KINDS,
    ON_LOST,
    TASK_STATES,
    Cause,
    Submit,
    TaskError,
    TaskState,
    id_text,
)
from plumd.store.blobs import Blobs
from plumd.store.tasks import AttemptRow, TaskRow

log = logging.getLogger("plumd.api")

NULL: Final = Raw(b"null")
LABELS: Final = msgspec.json.Decoder(dict[str, str]).decode
ERROR: Final = msgspec.json.Decoder(TaskError).decode


class ProgressView(msgspec.Struct, frozen=True, rename="camel"):
    """How far the running attempt is."""

    ratio: float | None
    text: str
    at: int


class TaskView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A task. Times are Unix milliseconds; null = not yet, or none."""

    task_id: str
    name: str
    def_id: str | None = None
    def_version: int | None = None
    executor: str
    target_kind: str = ""
    target_ref: str = ""
    state: str
    priority: int
    labels: dict[str, str] = {}
    payload: Raw
    result: Raw
    error: TaskError | None = None
    attempt: int = 0
    worker: str | None = None
    max_retries: int
    timeout_sec: float
    queue_timeout_sec: float
    on_lost: str
    concurrency_key: str | None = None
    concurrency_limit: int | None = None
    origin_task_id: str | None = None
    run_id: str | None = None
    step_id: str | None = None
    scheduled_on: int | None = None
    created_at: int
    due_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    cancel_requested_at: int | None = None
    progress: ProgressView | None = None
    omitted: tuple[str, ...] = ()
    """Large values that a list leaves out: payload, result. GET of the task shows them."""


class AttemptView(msgspec.Struct, frozen=True, rename="camel"):
    """One attempt of a task. ending: null while it runs."""

    attempt_id: str
    attempt: int
    ending: str | None
    worker: str | None
    node: str | None
    started_at: int | None
    finished_at: int | None
    error: TaskError | None


class WhyView(msgspec.Struct, frozen=True, rename="camel"):
    """Why a task is where it is; causes is empty when it waits for nothing."""

    task_id: str
    state: str
    causes: tuple[Cause, ...]


def time_of(value_ms: int) -> int | None:
    """A stored time on the wire."""
    return value_ms or None


def id_of(number: int) -> str | None:
    """A stored id on the wire."""
    return id_text(number) if number else None


def fresh_view(command: Submit, state: int, attempt: int, created_ms: int) -> TaskView:
    """A task that was accepted a moment ago, without asking the store."""
    payload = Raw(command.payload) if command.payload is not None else NULL
    return TaskView(
        task_id=id_text(command.task_id), name=command.name, def_id=id_of(command.def_id),
        def_version=command.def_version or None, executor=KINDS[command.kind],
        target_kind=command.target_kind, target_ref=command.target_ref, state=TASK_STATES[state],
        priority=command.priority, labels=dict(command.labels), payload=payload, result=NULL,
        attempt=attempt, max_retries=command.max_retries, timeout_sec=command.timeout_ms / 1000,
        queue_timeout_sec=command.queue_timeout_ms / 1000, on_lost=ON_LOST[command.on_lost],
        concurrency_key=command.concurrency_key or None,
        concurrency_limit=command.concurrency_limit or None,
        origin_task_id=id_of(command.origin_id), created_at=created_ms,
        due_at=time_of(command.due_ms), omitted=("payload",) if command.blob else ())


def view_of(row: TaskRow, engine: Engine) -> TaskView:
    """A stored task; large values are left out and named in `omitted`."""
    progress = None
    if row.state == TaskState.RUNNING and (told := engine.progress.get(row.id)) is not None:
        progress = ProgressView(told.ratio, told.text, told.at_ms)
    omitted = tuple(name for name, blob in (("payload", row.payload_blob),
                                            ("result", row.result_blob)) if blob)
    return TaskView(
        task_id=id_text(row.id), name=row.name, def_id=id_of(row.def_id),
        def_version=row.def_version or None, executor=KINDS[row.kind],
        target_kind=row.target_kind, target_ref=row.target_ref, state=TASK_STATES[row.state],
        priority=row.priority, labels={} if row.labels is None else LABELS(row.labels),
        payload=value_of(row.payload), result=value_of(row.result),
        error=None if row.error is None else ERROR(row.error), attempt=row.attempt,
        worker=row.worker_id, max_retries=row.max_retries, timeout_sec=row.timeout_ms / 1000,
        queue_timeout_sec=row.queue_timeout_ms / 1000, on_lost=ON_LOST[row.on_lost],
        concurrency_key=row.concurrency_key or None,
        concurrency_limit=row.concurrency_limit or None,
        origin_task_id=id_of(row.origin_id), run_id=id_of(row.run_id),
        step_id=None if row.step < 0 else str(row.step), scheduled_on=time_of(row.scheduled_ms),
        created_at=row.created_ms, due_at=time_of(row.due_ms), started_at=time_of(row.started_ms),
        finished_at=time_of(row.finished_ms), cancel_requested_at=time_of(row.cancel_ms),
        progress=progress, omitted=omitted)


def value_of(stored: bytes | None) -> Raw:
    """A stored JSON value; what an HTTP worker answered may not be JSON, and is stored as one."""
    return NULL if stored is None else Raw(stored)


async def whole_view(row: TaskRow, engine: Engine, blobs: Blobs) -> TaskView:
    """A stored task with everything; `omitted` names a large value whose file is lost."""
    view = view_of(row, engine)
    values, lost = {}, []
    for name, blob in (("payload", row.payload_blob), ("result", row.result_blob)):
        if blob:
            try:
                values[name] = Raw(await blobs.load(blob))
            except ValueLost as why:
                log.warning("a large value is lost", extra={
                    "task_id": row.id, "value": name, "digest": blob, "reason": why.detail})
                lost.append(name)
    return msgspec.structs.replace(view, omitted=tuple(lost), **values)


def attempt_views(row: TaskRow, past: list[AttemptRow]) -> list[AttemptView]:
    """Past attempts, and the current or last one, in order."""
    views = [AttemptView(
        f"{id_text(row.id)}.{old.attempt}" if old.attempt > 1 else id_text(row.id), old.attempt,
        ENDINGS[old.ending], old.worker_id or None, old.node_id or None, time_of(old.started_ms),
        time_of(old.finished_ms), None if old.error is None else ERROR(old.error))
        for old in past if old.attempt > 0]
    if row.attempt > len(views):
        error = None if row.error is None else ERROR(row.error)
        views.append(AttemptView(
            f"{id_text(row.id)}.{row.attempt}" if row.attempt > 1 else id_text(row.id),
            row.attempt, last_ending(row), row.worker_id, None if error is None else error.node,
            time_of(row.started_ms), time_of(row.finished_ms), error))
    return views


def last_ending(row: TaskRow) -> str | None:
    """How the last attempt ended, from the task's state."""
    if row.state < TaskState.SUCCEEDED:
        return None
    if row.state == TaskState.FAILED and row.error is not None and ERROR(row.error).code == "lost":
        return "lost"
    return {TaskState.SUCCEEDED: "succeeded", TaskState.FAILED: "failed",
            TaskState.TIMEOUT: "timeout"}.get(TaskState(row.state), "canceled")
