"""What people define: task definitions, workflows and schedules, as they are written and kept."""

from __future__ import annotations

from typing import Annotated

import msgspec

from plumd.model import SEC_MAX


class TaskDefBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What a task definition says; each change makes a new version of it."""

    name: str
    executor: str = "embedded"
    target_kind: str = ""
    target_ref: str = ""
    labels: dict[str, str] = {}
    default_payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    timeout_sec: float | None = None
    queue_timeout_sec: float = 0
    max_retries: int = 0
    priority: int = 5
    on_lost: str = "retry"
    overridable: tuple[str, ...] = ()
    """Keys of an os_process payload that a run may set besides `input`."""
    concurrency_key: str = ""
    concurrency_limit: int = 0
    on_conflict: str = "queue"
    description: str = ""


StepText = Annotated[str, msgspec.Meta(max_length=2_000)]
StepId = Annotated[str, msgspec.Meta(max_length=100)]


class NeedBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A step that must end first. on: the end that counts: "", success, failure, done, true, false.
    """

    step: StepId
    on: Annotated[str, msgspec.Meta(max_length=20)] = ""


class Position(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Where an editor shows a step."""

    x: float = 0
    y: float = 0


class StepBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A step of a workflow; docs/workflows.md says which field goes with which type.

    A step of type task has a definition, or a task of its own, and says what it changes of it.
    """

    definition_id: StepId = ""
    name: Annotated[str, msgspec.Meta(max_length=200)] = ""
    executor: str | None = None
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    timeout_sec: Annotated[float, msgspec.Meta(ge=0, le=SEC_MAX)] | None = None
    max_retries: Annotated[int, msgspec.Meta(ge=0, le=1_000)] | None = None
    ord: Annotated[int, msgspec.Meta(ge=-1_000_000, le=1_000_000)] | None = None
    id: StepId | msgspec.UnsetType = msgspec.UNSET
    type: str | msgspec.UnsetType = msgspec.UNSET
    needs: tuple[StepId | NeedBody, ...] | msgspec.UnsetType = msgspec.UNSET
    trigger_rule: str | msgspec.UnsetType = msgspec.UNSET
    when: StepText | msgspec.UnsetType = msgspec.UNSET
    continue_on_error: bool | msgspec.UnsetType = msgspec.UNSET
    task: TaskDefBody | msgspec.UnsetType = msgspec.UNSET
    condition: StepText | msgspec.UnsetType = msgspec.UNSET
    count: int | StepText | msgspec.UnsetType = msgspec.UNSET
    while_: StepText | msgspec.UnsetType = msgspec.field(name="while", default=msgspec.UNSET)
    until: StepText | msgspec.UnsetType = msgspec.UNSET
    items: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_iterations: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | msgspec.UnsetType = (
        msgspec.UNSET)
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | msgspec.UnsetType = msgspec.UNSET
    max_failures: Annotated[int, msgspec.Meta(ge=0, le=100_000)] | msgspec.UnsetType = (
        msgspec.UNSET)
    body: tuple[StepBody, ...] | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    workflow: Annotated[str, msgspec.Meta(max_length=200)] | msgspec.UnsetType = msgspec.UNSET
    seconds: float | StepText | msgspec.UnsetType = msgspec.UNSET
    event: Annotated[str, msgspec.Meta(max_length=200)] | msgspec.UnsetType = msgspec.UNSET
    compensate: StepBody | msgspec.UnsetType = msgspec.UNSET
    position: Position | msgspec.UnsetType = msgspec.UNSET


class WorkflowBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What a workflow says: its steps, and what it asks of a run and answers."""

    name: str
    steps: tuple[StepBody, ...]
    description: str = ""
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """A JSON Schema of the run's payload; with one, steps take the payload by reference alone."""
    timeout_sec: float = 0
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    on_failure: tuple[StepBody, ...] = ()


class ScheduleBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                   omit_defaults=True):
    """When something is started, and what: one of cron, everySec and at; one of workflowId and
    defId. Times are Unix milliseconds."""

    name: str
    workflow_id: str = ""
    def_id: str = ""
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    cron: str | None = None
    every_sec: float | None = None
    at: int | None = None
    time_zone: str = "UTC"
    dst_gap: str = "shift"
    dst_overlap: str = ""
    overlap_policy: str = "skip"
    missed_policy: str = "last"
    missed_window_sec: float = 86_400
    jitter_sec: float = 0
    start_at: int | None = None
    end_at: int | None = None
    calendars: tuple[str, ...] = ()
    enabled: bool = True
    description: str = ""
