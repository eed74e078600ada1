"""What recorded events look like on the wire: topics, names and data."""

from __future__ import annotations

from typing import Final

import msgspec

from plumd.flow.rules import state_text
from plumd.model import TASK_STATES, id_text
from plumd.store.events import Event

TOPICS: Final = ("tasks", "workflows", "runs", "workers", "taskDefs", "services", "resources",
                 "kv", "schedules", "triggers", "limits", "nodes", "apps", "deployments",
                 "alerts")
TOPIC_OF: Final = {
    "schedule": "schedules", "calendar": "schedules", "limit": "limits",
    "trigger": "triggers", "webhook": "triggers", "broker": "triggers",
    "task": "tasks", "taskDeleted": "tasks", "run": "runs", "step": "runs", "runDeleted": "runs",
    "worker": "workers", "taskDef": "taskDefs", "workflow": "workflows", "service": "services",
    "resource": "resources", "kv": "kv", "lock": "kv", "alarm": "alerts",
    "alarmRule": "alerts", "node": "nodes", "app": "apps",
    "deployment": "deployments", "instance": "deployments",
}
ENCODE: Final = msgspec.json.Encoder().encode


class TaskNews(msgspec.Struct, frozen=True, rename="camel"):
    """A task's new state."""

    task_id: str
    name: str
    state: str
    attempt: int
    worker: str | None
    run_id: str | None
    at: int


class RunNews(msgspec.Struct, frozen=True, rename="camel"):
    """A workflow run's new state."""

    run_id: str
    workflow_id: str
    state: str
    at: int


class StepNews(msgspec.Struct, frozen=True, rename="camel"):
    """A step of a workflow run began or ended; stepId is like `fetch` or `each[17].fetch`."""

    run_id: str
    workflow_id: str
    step_id: str
    state: str
    at: int


class KeyNews(msgspec.Struct, frozen=True, rename="camel"):
    """A key was written or deleted; its value is to be asked for."""

    namespace: str
    key: str
    version: int
    deleted: bool
    at: int


class OtherNews(msgspec.Struct, frozen=True, rename="camel"):
    """What happened to something else."""

    id: str
    what: str
    facts: tuple[str | int, ...] = ()


def topic_of(event: Event) -> str:
    """Which readers it is for."""
    return TOPIC_OF.get(str(event[0]), "alerts")


def news_of(event: Event) -> tuple[str, str, msgspec.Struct]:
    """(topic, SSE event name, data) of a recorded event."""
    kind = event[0]
    if kind == "task":
        _, task_id, name, state, attempt, worker, run_id, at_ms = event
        return "tasks", "task", TaskNews(
            id_text(int(task_id)), str(name), TASK_STATES[int(state)], int(attempt),
            str(worker) or None, id_text(int(run_id)) if run_id else None, int(at_ms))
    if kind == "run":
        _, number, workflow_id, state, at_ms = event
        return "runs", "run", RunNews(id_text(int(number)), id_text(int(workflow_id)),
                                      "Paused" if int(state) < 0 else TASK_STATES[int(state)],
                                      int(at_ms))
    if kind == "step":
        _, number, workflow_id, step, state, at_ms = event
        return "runs", "step", StepNews(id_text(int(number)), id_text(int(workflow_id)), str(step),
                                        state_text(int(state)), int(at_ms))
    if kind == "kv":
        _, namespace, what, key, version, at_ms = event
        return "kv", "kv", KeyNews(str(namespace), str(key), int(version), what == "deleted",
                                   int(at_ms))
    ident = id_text(event[1]) if isinstance(event[1], int) else event[1]
    what = "deleted" if str(kind).endswith("Deleted") else str(event[2])
    return topic_of(event), str(kind), OtherNews(ident, what, tuple(event[2:]))
