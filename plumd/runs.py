"""Live workflow runs: carries the pure rules of flow.py out as commands and rows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from plumd import flow
from plumd.errors import Invalid, NotFound
from plumd.model import (
    ACCEPTED,
    Cancel,
    Ended,
    Reply,
    RunPlan,
    Submit,
    TaskState,
    id_text,
    parse_id,
)
from plumd.store import definitions, flows, tasks
from plumd.store.definitions import Catalog
from plumd.store.events import Event
from plumd.store.flows import RunEnd, StepEnd
from plumd.store.quarantine import Unreadable


class LiveRun:
    """A run that goes on: where it stands."""

    def __init__(self, plan: RunPlan) -> None:
        self.plan = plan
        self.task_id = 0
        self.canceling = False
        self.done: list[StepEnd] = []


class Runs:
    """All live runs, owned by the engine. `take` gives the rows and events of a step."""

    def __init__(self) -> None:
        self.live: dict[int, LiveRun] = {}
        self._begun: list[tuple[RunPlan, int]] = []
        self._canceled: list[tuple[int, int]] = []
        self._ended: list[RunEnd] = []
        self._events: list[Event] = []

    def begin(self, plan: RunPlan, task_id: int, now_ms: int) -> list[Submit]:
        """Start a run; its first task gets task_id."""
        run = self.live[plan.run_id] = LiveRun(plan)
        self._begun.append((plan, now_ms))
        self._events.append(("run", plan.run_id, plan.workflow_id, TaskState.RUNNING, now_ms))
        return self._carry_out(run, flow.begin(plan), task_id, now_ms)

    def cancel(self, run_id: int, now_ms: int) -> tuple[Reply, list[Cancel]]:
        """Ask a run to end: its live task is canceled, and its end ends the run."""
        run = self.live.get(run_id)
        if run is None:
            return Reply("wrong_state", "the run has ended"), []
        if not run.canceling:
            run.canceling = True
            self._canceled.append((now_ms, run_id))
        return ACCEPTED, [Cancel(run.task_id)] if run.task_id else []

    def advance(self, ended: Ended, task_id: int, now_ms: int) -> list[Submit]:
        """A task of a run is over: the next one, with task_id, or the run's end."""
        run = self.live.get(ended.run_id)
        if run is None or run.task_id != ended.task_id:
            return []
        run.done.append(StepEnd(ended.step, ended.state, ended.task_id, ended.attempt,
                                ended.started_ms, ended.ended_ms))
        run.task_id = 0
        move = flow.advance(run.plan, ended.step, ended.state, run.canceling)
        return self._carry_out(run, move, task_id, now_ms)

    def _carry_out(self, run: LiveRun, move: flow.Move, task_id: int,
                   now_ms: int) -> list[Submit]:
        plan = run.plan
        if move.step >= 0:
            run.task_id = task_id
            return [msgspec.structs.replace(plan.steps[move.step], task_id=task_id,
                                            run_id=plan.run_id)]
        del self.live[plan.run_id]
        reached = {end.step for end in run.done}
        steps = [*run.done, *(StepEnd(step.step, -1, 0) for step in plan.steps
                              if step.step not in reached)]
        self._ended.append(RunEnd(plan.run_id, move.end, now_ms, steps))
        self._events.append(("run", plan.run_id, plan.workflow_id, move.end, now_ms))
        return []

    def take(self) -> tuple[list[tuple[RunPlan, int]], list[tuple[int, int]], list[RunEnd],
                            list[Event]]:
        """(begun, canceled, ended, events) since the last call."""
        step = (self._begun, self._canceled, self._ended, self._events)
        self._begun, self._canceled, self._ended, self._events = [], [], [], []
        return step

    def load(self, plan: RunPlan, rows: Sequence[tuple[int, int, int, int, int, int]],
             canceling: bool) -> None:
        """Take up a run of before the restart; rows as tasks.of_run gives them."""
        run = self.live[plan.run_id] = LiveRun(plan)
        run.canceling = canceling
        for task_id, state, step, attempt, started_ms, finished_ms in rows:
            if state < TaskState.SUCCEEDED:
                run.task_id = task_id
            else:
                run.done.append(StepEnd(step, state, task_id, attempt, started_ms, finished_ms))


class Planner:
    """Makes plans from definitions; the ones without a payload are kept, for they repeat."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._plans: dict[int, tuple[int, tuple[int, ...], tuple[Submit, ...]]] = {}

    def plan(self, run_id: int, workflow_id: int, payload: bytes | None) -> RunPlan:
        """A plan of the current versions.

        Raises: NotFound (no such workflow), Invalid (a step's definition is gone).
        """
        workflow = self.catalog.workflow(workflow_id)
        if workflow is None:
            raise NotFound("no such workflow")
        current = []
        for index, step in enumerate(flow.ordered(workflow.body.steps)):
            found = self.catalog.task_def(parse_id(step.definition_id) or 0)
            if found is None:
                raise Invalid("the step's task definition was deleted",
                              field=f"steps[{index}].definitionId")
            current.append(found)
        pins = tuple(found.version for found in current)
        kept = self._plans.get(workflow_id)
        if payload is None and kept is not None and kept[:2] == (workflow.version, pins):
            return RunPlan(run_id, workflow_id, workflow.version, pins, kept[2])
        steps = tuple(
            flow.step_of(index, step, flow.task_of(found.id, found.version, found.body), payload)
            for index, (step, found) in enumerate(
                zip(flow.ordered(workflow.body.steps), current, strict=True)))
        if payload is None:
            if len(self._plans) > definitions.CACHED_MAX:
                self._plans.clear()
            self._plans[workflow_id] = (workflow.version, pins, steps)
        return RunPlan(run_id, workflow_id, workflow.version, pins, steps, payload)

    def replan(self, run_id: int, workflow_id: int, version: int, pins: tuple[int, ...],
               payload: bytes | None) -> RunPlan:
        """The plan of a run that began with these versions.

        Raises: NotFound when a version is missing.
        """
        store = self.catalog.store
        body = store.peek(definitions.version, definitions.WORKFLOWS, workflow_id, version)
        if body is None:
            raise NotFound(f"workflow {id_text(workflow_id)} has no version {version}")
        steps = []
        for index, (step, pin) in enumerate(zip(flow.ordered(body.steps), pins, strict=True)):
            def_id = parse_id(step.definition_id) or 0
            found = store.peek(definitions.version, definitions.TASK_DEFS, def_id, pin)
            if found is None:
                raise NotFound(f"task definition {step.definition_id} has no version {pin}")
            steps.append(flow.step_of(index, step, flow.task_of(def_id, pin, found), payload))
        return RunPlan(run_id, workflow_id, version, pins, tuple(steps), payload)


def load(runs: Runs, planner: Planner, bad: list[Unreadable]) -> None:
    """Take up all live runs; one that cannot be read is reported in bad and left."""
    store = planner.catalog.store
    for run_id, workflow_id, version, pins, payload, cancel_ms in store.peek(flows.live):
        try:
            plan = planner.replan(run_id, workflow_id, version, flows.PINS(pins), payload)
        except (NotFound, msgspec.DecodeError, ValueError) as error:
            bad.append(Unreadable("workflow_run", str(run_id), str(error)))
            continue
        runs.load(plan, store.peek(tasks.of_run, run_id), cancel_ms > 0)
