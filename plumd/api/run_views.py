"""Workflow runs and their steps as the API shows them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from plumd.api.task_views import NULL, id_of, time_of
from plumd.bodies import WorkflowBody
from plumd.errors import NotFound
from plumd.flow.find import parts_of
from plumd.flow.graph import Seed
from plumd.flow.outline import Outline, outline
from plumd.flow.rules import StepState, state_text
from plumd.model import TASK_STATES, TaskState, id_text
from plumd.store import flows
from plumd.store.definitions import Catalog, keep
from plumd.store.flows import RunRow
from plumd.store.store import Store


class StepError(msgspec.Struct, frozen=True):
    """Why a step did not succeed; a task says more."""

    code: str
    message: str


class Iterations(msgspec.Struct, frozen=True, rename="camel"):
    """How a loop or map goes on: null = not yet known."""

    total: int | None = None
    count: int | None = None
    failed: int | None = None


class StepData(msgspec.Struct, frozen=True, rename="camel"):
    """The data column of a step's row, as far as people see it."""

    error: StepError | UnsetType = UNSET
    outcome: bool | UnsetType = UNSET
    cut: bool = False
    by_hand: bool = False
    base: int = 0
    room: int = 0
    total: int = -1
    count: int | None = None
    failed: int | None = None
    due_ms: int = 0


DATA: Final = msgspec.json.Decoder(StepData).decode
ERROR: Final = msgspec.json.Decoder(StepError).decode


class StepRunView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A step of a run. state: a task's, or Waiting (not begun) or Skipped (never will)."""

    step_id: str
    name: str
    type: str
    definition_id: str
    definition_version: int
    state: str
    task_id: str | None = None
    attempt: int = 0
    started_at: int | None = None
    finished_at: int | None = None
    run_id: str | UnsetType = UNSET
    """The run of a sub-workflow."""
    compensates: str | UnsetType = UNSET
    """The step that this one undoes when the run does not succeed."""
    outcome: bool | UnsetType = UNSET
    """Of a branch."""
    error: StepError | UnsetType = UNSET
    skip_reason: str | UnsetType = UNSET
    """upstream_failed: skipped because of a failure before it; not_asked: the run was to go up to
    another step; by_hand: somebody skipped it."""
    due_at: int | UnsetType = UNSET
    iterations: Iterations | UnsetType = UNSET


class RunView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A run of a workflow."""

    run_id: str
    workflow_id: str
    workflow_version: int
    name: str
    state: str
    payload: Raw
    result: Raw = NULL
    error: StepError | None = None
    created_at: int
    finished_at: int | None
    cancel_requested_at: int | None
    parent_run_id: str | None = None
    origin_run_id: str | None = None
    steps: tuple[StepRunView, ...] | None = None
    """Left out of lists."""


def run_state(row: RunRow) -> str:
    """The state's word."""
    paused = row.paused_ms > 0 and row.state < TaskState.SUCCEEDED
    return "Paused" if paused else TASK_STATES[row.state]


class RunShows:
    """Makes views of runs from rows."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self.store = store
        self.catalog = catalog
        self._shapes: OrderedDict[tuple[int, int], tuple[Outline, ...]] = OrderedDict()

    def shape_of(self, row: RunRow, body: WorkflowBody) -> tuple[Outline, ...]:
        """The outline of the version that a run pins; kept, for versions never change."""
        key = row.workflow_id, row.version
        shape = self._shapes.get(key)
        if shape is None:
            shape = outline(body)
            keep(self._shapes, key, shape)
        return shape

    def body_of(self, row: RunRow) -> WorkflowBody | None:
        """The version that a run pins."""
        return self.catalog.workflow_version(row.workflow_id, row.version)

    def run(self, row: RunRow, *, whole: bool) -> RunView:
        """A run; whole: with its steps."""
        body = self.body_of(row)
        return RunView(
            run_id=id_text(row.id), workflow_id=id_text(row.workflow_id),
            workflow_version=row.version, name="" if body is None else body.name,
            state=run_state(row), payload=NULL if row.payload is None else Raw(row.payload),
            result=NULL if row.result is None else Raw(row.result),
            error=None if row.error is None else ERROR(row.error),
            created_at=row.created_ms, finished_at=time_of(row.finished_ms),
            cancel_requested_at=time_of(row.cancel_ms), parent_run_id=id_of(row.parent_id),
            origin_run_id=id_of(row.origin_id),
            steps=self.outer_steps(row, body) if whole and body is not None else None)

    def outer_steps(self, row: RunRow, body: WorkflowBody) -> tuple[StepRunView, ...]:
        """Every outer step: from the summary of a run that is over, else from its tasks."""
        shape = self.shape_of(row, body)
        facts: dict[int, Seed] = {}
        if row.noted or row.steps is None:
            known_of = flows.seeds if row.steps is None else flows.notes
            facts = self.store.peek(known_of, row.id, 0, len(shape) - 1)
        for end in row.steps or ():
            known = facts.get(end.step)
            facts[end.step] = Seed(end.step, end.state, end.task_id, end.attempt, end.started_ms,
                                   end.finished_ms, None if known is None else known.data)
        return tuple(self.step(row, one, one.id, facts.get(one.at)) for one in shape)

    def step(self, row: RunRow, of: Outline, name: str, fact: Seed | None) -> StepRunView:
        """One step instance."""
        state = -1 if fact is None else fact.state
        if state < 0 and row.state >= TaskState.SUCCEEDED:
            state = StepState.SKIPPED
        fact = fact or Seed(0, state)
        data = StepData() if fact.data is None else DATA(fact.data)
        ref = id_of(fact.ref)
        looped = of.type in ("loop", "map") and fact.data is not None
        return StepRunView(
            step_id=name, name=of.name, type=of.type, definition_id=of.definition_id,
            definition_version=row.pins[of.pin] if 0 <= of.pin < len(row.pins) else 0,
            state=state_text(state), task_id=ref if of.type == "task" else None,
            attempt=fact.attempt, started_at=time_of(fact.started_ms),
            finished_at=time_of(fact.finished_ms),
            run_id=ref if ref is not None and of.type == "workflow" else UNSET,
            outcome=data.outcome, error=data.error,
            skip_reason=("upstream_failed" if state == StepState.SKIPPED_FAILED
                         else "not_asked" if data.cut else "by_hand" if data.by_hand else UNSET),
            compensates=of.undoes or UNSET,
            due_at=data.due_ms if data.due_ms and state < TaskState.SUCCEEDED else UNSET,
            iterations=Iterations(data.total if data.total >= 0 else None, data.count,
                                  data.failed) if looped else UNSET)

    # ------------------------------------------------------------ inside bodies

    def place_of(self, row: RunRow, name: str) -> tuple[Outline, int, str]:
        """(step, number, prefix of the names of its like) of an instance's name.

        Raises: NotFound.
        """
        body, parts = self.body_of(row), parts_of(name)
        if body is None or not parts:
            raise NotFound("no such step")
        shape, base, prefix = self.shape_of(row, body), 0, ""
        for step_id, iteration in parts:
            one = next((each for each in shape if each.id == step_id), None)
            if one is None:
                raise NotFound("no such step")
            if iteration < 0:
                return one, base + one.at, prefix
            first = self.base_of(row, base + one.at)
            shape, base = one.body, first + iteration * len(one.body)
            prefix += f"{step_id}[{iteration}]."
        raise NotFound("no such step")

    def base_of(self, row: RunRow, number: int) -> int:
        """The first number of the steps inside a loop or map. Raises: NotFound."""
        seed = self.store.peek(flows.seeds, row.id, number, number).get(number)
        base = 0 if seed is None or seed.data is None else DATA(seed.data).base
        if not base:
            raise NotFound("this step has no iterations")
        return base

    def last_round(self, row: RunRow, number: int, size: int) -> int | None:
        """The first number of the last iteration that left a trace; None when none did."""
        seed = self.store.peek(flows.seeds, row.id, number, number).get(number)
        data = StepData() if seed is None or seed.data is None else DATA(seed.data)
        if not data.base:
            return None
        last = self.store.peek(flows.last_step, row.id, data.base, data.base + data.room - 1)
        return None if last < 0 else data.base + (last - data.base) // size * size

    def one(self, row: RunRow, name: str) -> StepRunView:
        """A step instance by its name. Raises: NotFound."""
        of, number, _ = self.place_of(row, name)
        if not parts_of(name) or "[" not in name:
            steps = self.outer_steps(row, self.body_of(row) or WorkflowBody("", ()))
            return next(step for step in steps if step.step_id == name)
        fact = self.store.peek(flows.seeds, row.id, number, number).get(number)
        if fact is None:
            raise NotFound("no such iteration")
        return self.step(row, of, name, fact)

    def inside(self, row: RunRow, name: str, after: int,
               limit: int) -> tuple[list[StepRunView], bool]:
        """A page of the step instances inside a loop or map, and whether there may be more.

        after: how many numbers are passed over.  Raises: NotFound.
        """
        of, number, prefix = self.place_of(row, name)
        first, size = self.base_of(row, number), len(of.body)
        seed = self.store.peek(flows.seeds, row.id, number, number)[number]
        data = DATA(seed.data or b"{}")
        known = data.count if data.count is not None else data.total
        behind = first + known * size if known >= 0 else (1 << 31) - 1
        stop = min(behind, first + after + limit)
        facts = self.store.peek(flows.seeds, row.id, first + after, stop - 1)
        views = []
        for place in sorted(facts):
            iteration, at = divmod(place - first, size)
            one = of.body[at]
            views.append(self.step(row, one, f"{prefix}{of.id}[{iteration}].{one.id}",
                                   facts[place]))
        return views, stop < behind and (known >= 0 or bool(views))
