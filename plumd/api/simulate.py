"""/v1/workflows/simulate: what a workflow would do, before it does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, TypeAlias

import msgspec
import trio
from msgspec import UNSET, Meta, Raw, UnsetType

from plumd.api.context import Context, answer
from plumd.api.decode import strict
from plumd.api.routes import Request, Response, Route
from plumd.api.tasks import BODY_MAX
from plumd.api.workflow_runs import payload_of
from plumd.api.workflows import Workflows, WorkflowWrite
from plumd.errors import Invalid, TooMany
from plumd.flow.compile import compile_graph
from plumd.flow.graph import Graph, RunPlan, Scope
from plumd.flow.outline import outline
from plumd.flow.rules import StepState
from plumd.forecast import Forecast, WhatIf, forecast, spread, utilization, waits
from plumd.model import parse_id
from plumd.planner import Current, completed
from plumd.simulate import Outcome, Plan, Pool, Profile, Simulation
from plumd.store import history
from plumd.store.flows import StepEnd

RUNS_MAX: Final = 1_000
HAPPENINGS_MAX: Final = 300_000
"""All samples together; those beyond are left out."""
HISTORY_RUNS: Final = 200
AT_ONCE: Final = 2
Begin: TypeAlias = Callable[[int], RunPlan]
"""(run id) -> its plan"""
Sec = Annotated[float, Meta(ge=0, le=31_622_400)]
Rate = Annotated[float, Meta(ge=0, le=1)]


class StepAsked(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                omit_defaults=True):
    """What is believed of a step's attempts: how long one takes (a number, or between the two of a
    pair), how often it fails, and what it answers. Of an approval or an event: when it comes, and
    how often it is a no."""

    duration_sec: Sec | Annotated[tuple[Sec, ...], Meta(min_length=2, max_length=2)] | None = None
    failure_rate: Rate | None = None
    result: Raw | UnsetType = UNSET


class WorkersAsked(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                   omit_defaults=True):
    """So many slots, for tasks of these names or for any."""

    slots: Annotated[int, Meta(ge=1, le=1_000_000)]
    tasks: Annotated[tuple[str, ...], Meta(max_length=1_000)] = ()


class SimulateAsked(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                    omit_defaults=True):
    """A workflow (saved, or as it would be saved) and what is believed of it. runs: so many, one
    every everySec; history: whether past runs say what `steps` do not; whatIf: the same again with
    so many times the slots."""

    workflow_id: str | None = None
    workflow: WorkflowWrite | None = None
    payload: Raw | UnsetType = UNSET
    runs: Annotated[int, Meta(ge=1, le=RUNS_MAX)] = 1
    every_sec: Sec = 0
    samples: Annotated[int, Meta(ge=1, le=1_000)] = 20
    seed: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    workers: Annotated[tuple[WorkersAsked, ...], Meta(min_length=1, max_length=100)] = (
        WorkersAsked(4),)
    steps: Annotated[dict[str, StepAsked], Meta(max_length=5_000)] = {}
    default: StepAsked = StepAsked()
    history: bool = True
    what_if: Annotated[tuple[Annotated[float, Meta(gt=0, le=1_000)], ...],
                       Meta(max_length=8)] = (2,)


class SimulateView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What is to be expected. fromHistory: how many past runs said something of which step."""

    slots: int
    forecast: Forecast
    what_if: tuple[WhatIf, ...]
    from_history: dict[str, int]
    left_out: int
    """Samples that were too much altogether."""


class Simulator:
    """The handler."""

    def __init__(self, context: Context, workflows: Workflows) -> None:
        self.context = context
        self.workflows = workflows
        self._under_way = 0

    async def simulate(self, request: Request) -> Response:
        """Simulate; takes no slot and leaves no trace. Others have their turn between."""
        asked = strict(request.body, SimulateAsked)
        workflow_id, graph, pins = self.graph_of(asked)
        check_steps(asked, graph)
        payload = completed(graph, payload_of(asked.payload))
        known, counts = self.known(workflow_id) if asked.history else ({}, {})
        default = profile_of(asked.default, Profile())
        profiles = dict(known)
        for step_id, one in asked.steps.items():
            profiles[step_id] = profile_of(one, known.get(step_id, default))
        plan = Plan(tuple(Pool(one.slots, one.tasks) for one in asked.workers), profiles, default,
                    asked.seed, asked.runs, round(asked.every_sec * 1000))

        def begin(run_id: int) -> RunPlan:
            return RunPlan(run_id, workflow_id, 1, pins, graph, payload)

        if self._under_way >= AT_ONCE:
            raise TooMany(f"{AT_ONCE} simulations are under way", retry_after_s=2)
        self._under_way += 1
        try:
            view = await self.carried_out(asked, plan, begin, graph)
        finally:
            self._under_way -= 1
        return answer(200, msgspec.structs.replace(view, from_history={
            step_id: count for step_id, count in counts.items() if step_id not in asked.steps}))

    async def carried_out(self, asked: SimulateAsked, plan: Plan, begin: Begin,
                          graph: Graph) -> SimulateView:
        """All samples, with the slots asked for and with others."""
        left = HAPPENINGS_MAX // (1 + len(asked.what_if))
        outcomes, left_out = await self.sampled(plan, begin, asked.samples, left)
        slots = sum(pool.slots for pool in plan.pools)
        base = spread([one.makespan_ms for one in outcomes])
        others = []
        for factor in asked.what_if:
            pools = tuple(msgspec.structs.replace(pool, slots=max(1, round(pool.slots * factor)))
                          for pool in plan.pools)
            found, _ = await self.sampled(msgspec.structs.replace(plan, pools=pools), begin,
                                          len(outcomes), left)
            room = sum(pool.slots for pool in pools)
            makespan = spread([one.makespan_ms for one in found])
            others.append(WhatIf(room, makespan, spread(waits(found)).mean,
                                 utilization(found, room), base.mean - makespan.mean))
        return SimulateView(slots=slots, forecast=forecast(outcomes, graph, slots),
                            what_if=tuple(others), from_history={}, left_out=left_out)

    async def sampled(self, plan: Plan, begin: Begin, count: int,
                      left: int) -> tuple[list[Outcome], int]:
        """(outcomes, how many samples were left out); at least one is made."""
        outcomes: list[Outcome] = []
        now_ms = self.context.engine.clock.now().wall_ms
        for sample in range(count):
            if left <= 0:
                return outcomes, count - sample
            one = Simulation(plan, self.context.planner, begin, sample, now_ms)
            for _ in one.run():
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            left -= one.happened + 1
            outcomes.append(one.outcome)
        return outcomes, 0

    def graph_of(self, asked: SimulateAsked) -> tuple[int, Graph, tuple[int, ...]]:
        """(workflow, its graph, the versions that it pins). Raises: Invalid."""
        catalog = self.context.catalog
        if (asked.workflow_id is None) == (asked.workflow is None):
            raise Invalid("one of workflowId and workflow", field="workflowId")
        current = Current(catalog)
        if asked.workflow is not None:
            body = self.workflows.checked(asked.workflow, catalog)
            saved = catalog.workflow_named(body.name)
            number = 0 if saved is None else saved.id
        else:
            found = (catalog.workflow(parse_id(asked.workflow_id or "") or 0)
                     or catalog.workflow_named(asked.workflow_id or ""))
            if found is None:
                raise Invalid("no such workflow", field="workflowId")
            number, body = found.id, found.body
        graph = compile_graph(body, current)
        return number, graph, tuple(current.pins)

    def known(self, workflow_id: int) -> tuple[dict[str, Profile], dict[str, int]]:
        """(profiles by step, from how many runs) of a workflow's past."""
        store, catalog = self.context.store, self.context.catalog
        seen: dict[str, list[StepEnd]] = {}
        for version, ends in store.peek(history.ended, workflow_id, HISTORY_RUNS):
            body = catalog.workflow_version(workflow_id, version)
            shape = () if body is None else outline(body)
            for end in ends:
                if end.step < len(shape) and shape[end.step].type == "task" and end.attempt:
                    seen.setdefault(shape[end.step].id, []).append(end)
        profiles = {step_id: seen_profile(ends) for step_id, ends in seen.items()}
        found = {step_id: one for step_id, one in profiles.items() if one is not None}
        return found, {step_id: len(seen[step_id]) for step_id in found}


def seen_profile(ends: list[StepEnd]) -> Profile | None:
    """What was seen of a step; None when it never succeeded."""
    took = tuple((end.finished_ms - end.started_ms) / 1000 for end in ends
                 if end.state == StepState.SUCCEEDED and 0 < end.started_ms <= end.finished_ms)
    if not took:
        return None
    attempts = sum(end.attempt for end in ends)
    good = sum(end.state == StepState.SUCCEEDED for end in ends)
    return Profile(took, failure_rate=(attempts - good) / attempts)


def profile_of(asked: StepAsked, base: Profile) -> Profile:
    """What is asked for, over what is known."""
    found = base
    if asked.duration_sec is not None:
        pair = isinstance(asked.duration_sec, tuple)
        values = asked.duration_sec if isinstance(asked.duration_sec, tuple) else (
            asked.duration_sec,)
        found = msgspec.structs.replace(found, durations_s=values, between=pair)
    if asked.failure_rate is not None:
        found = msgspec.structs.replace(found, failure_rate=asked.failure_rate)
    if asked.result is not UNSET:
        found = msgspec.structs.replace(found, result=bytes(asked.result))
    return found


def check_steps(asked: SimulateAsked, graph: Graph) -> None:
    """Raises: Invalid for a step that is none. Those of sub-workflows cannot be known here."""
    names: set[str] = set()
    waiting: list[Scope] = [graph.root, *graph.after]
    inner = False
    while waiting:
        for node in waiting.pop().nodes:
            names.add(node.id)
            inner |= node.workflow_id > 0
            if node.body is not None:
                waiting.append(node.body)
    for step_id, one in asked.steps.items():
        if step_id not in names and not inner:
            raise Invalid("there is no such step", field=f"steps.{step_id}")
        if isinstance(one.duration_sec, tuple) and one.duration_sec[0] > one.duration_sec[1]:
            raise Invalid("from the smaller to the larger",
                          field=f"steps.{step_id}.durationSec")


def routes(handlers: Simulator) -> list[Route]:
    """The table's part about simulation."""
    return [Route("POST", "/v1/workflows/simulate", handlers.simulate,
                  "What a workflow would do: in virtual time, with given or past durations",
                  "workflows", "workflows:read", body=SimulateAsked, answers={200: SimulateView},
                  body_bytes_max=BODY_MAX)]
