"""What schedules and triggers start: a task of a definition, or a run of a workflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import msgspec

from plumd import flow
from plumd.bodies import TaskDefBody
from plumd.flow import BeginRun, RunPlan
from plumd.model import Submit
from plumd.store.definitions import Versioned


class Catalog(Protocol):
    """Where definitions are."""

    def task_def(self, number: int) -> Versioned[TaskDefBody] | None:
        """By id."""


class Planner(Protocol):
    """Makes runs of workflows."""

    @property
    def catalog(self) -> Catalog:
        """Where definitions are."""

    def plan(self, run_id: int, workflow_id: int, payload: bytes | None) -> RunPlan:
        """A run of the current versions. Raises: PlumError."""


MakeTask: TypeAlias = Callable[[Versioned[TaskDefBody], bytes | None], Submit]


def plain_task(found: Versioned[TaskDefBody], payload: bytes | None) -> Submit:
    """A task of a definition, without its id; the doors hand in one that checks the payload."""
    task = flow.task_of(found.id, found.version, found.body)
    return msgspec.structs.replace(task, payload=flow.merge(task.payload, payload))


def begin_run(planner: Planner, run_id: int, workflow_id: int, payload: bytes | None) -> BeginRun:
    """A run of a workflow as a command, like one that is asked for by hand. Raises: PlumError."""
    return BeginRun(planner.plan(run_id, workflow_id, payload))
