"""Makes plans of runs: the current version of a workflow with the definitions that it pins."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from plumd import flow
from plumd.bodies import StepBody, TaskDefBody, WorkflowBody
from plumd.errors import Invalid, NotFound
from plumd.expressions import Value
from plumd.flow import params
from plumd.flow.compile import compile_graph
from plumd.flow.data import read
from plumd.flow.graph import Graph, RunPlan
from plumd.model import Submit, id_text, parse_id
from plumd.store import definitions
from plumd.store.definitions import Catalog, Versioned
from plumd.store.flows import PINS, LiveRow

ENCODE: Final = msgspec.json.Encoder().encode
TASK, WORKFLOW = 0, 1


class Known(Protocol):
    """The definitions of now: those of the catalog, or with some that are about to be saved."""

    def task_def(self, number: int) -> Versioned[TaskDefBody] | None:
        """By id."""

    def task_def_named(self, name: str) -> Versioned[TaskDefBody] | None:
        """By name."""

    def workflow(self, number: int) -> Versioned[WorkflowBody] | None:
        """By id."""

    def workflow_named(self, name: str) -> Versioned[WorkflowBody] | None:
        """By name."""


class Current:
    """What compiling asks, answered with the versions of now; `pins` and `asked` are noted."""

    def __init__(self, catalog: Known) -> None:
        self.catalog = catalog
        self.pins: list[int] = []
        self.asked: list[tuple[int, int]] = []

    def task(self, step: StepBody, pin: int, where: str) -> Submit:
        """Raises: Invalid."""
        del pin
        if not isinstance(step.task, msgspec.UnsetType):
            return flow.task_of(0, 0, step.task)
        found = self.catalog.task_def(parse_id(step.definition_id) or 0)
        if found is None:
            raise Invalid("no such task definition", field=f"{where}.definitionId")
        self.pins.append(found.version)
        self.asked.append((TASK, found.id))
        return flow.task_of(found.id, found.version, found.body)

    def workflow(self, reference: str, where: str) -> int:
        """Raises: Invalid."""
        number = parse_id(reference) or 0
        found = self.catalog.workflow(number) if number else None
        if found is None:
            found = self.catalog.workflow_named(reference)
        if found is None:
            raise Invalid("no such workflow", field=where)
        self.pins.append(found.version)
        self.asked.append((WORKFLOW, found.id))
        return found.id


class Pinned:
    """The same with the versions that a run began with; missing ones are NotFound."""

    def __init__(self, catalog: Catalog, pins: tuple[int, ...]) -> None:
        self.catalog = catalog
        self.pins = pins

    def task(self, step: StepBody, pin: int, where: str) -> Submit:
        """Raises: NotFound."""
        if not isinstance(step.task, msgspec.UnsetType):
            return flow.task_of(0, 0, step.task)
        def_id = parse_id(step.definition_id) or 0
        version = self.pins[pin] if pin < len(self.pins) else 0
        found = self.catalog.store.peek(definitions.version, definitions.TASK_DEFS, def_id, version)
        if found is None:
            raise NotFound(f"{where}: task definition {step.definition_id} has no version "
                           f"{version}")
        return flow.task_of(def_id, version, found)

    def workflow(self, reference: str, where: str) -> int:
        """Its id, which is what was stored."""
        del where
        return parse_id(reference) or 0


class Planner:
    """Keeps the compiled graphs of versions, for they repeat."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._current: dict[int, tuple[int, list[tuple[int, int]], tuple[int, ...], Graph]] = {}
        self._graphs: dict[tuple[int, int, tuple[int, ...]], Graph] = {}

    def plan(self, run_id: int, workflow_id: int, payload: bytes | None, *,
             version: int = 0) -> RunPlan:
        """A plan of the current versions; version: of the workflow, 0 = the current one.

        Raises: NotFound (no such workflow), Invalid (a step's definition is gone; parameters).
        """
        workflow = self.catalog.workflow(workflow_id)
        if workflow is None:
            raise NotFound("no such workflow")
        if version in (0, workflow.version):
            version = workflow.version
            pins, graph = self._graph(workflow_id, version, workflow.body)
        else:
            body = self.catalog.workflow_version(workflow_id, version)
            if body is None:
                raise NotFound(f"the workflow has no version {version}")
            asked = Current(self.catalog)
            graph = compile_graph(body, asked)
            pins = tuple(asked.pins)
        return RunPlan(run_id, workflow_id, version, pins, graph,
                       completed(graph, payload))

    def _graph(self, workflow_id: int, version: int,
               body: WorkflowBody) -> tuple[tuple[int, ...], Graph]:
        kept = self._current.get(workflow_id)
        if kept is not None and kept[0] == version and self._versions(kept[1]) == kept[2]:
            return kept[2], kept[3]
        asked = Current(self.catalog)
        graph = compile_graph(body, asked)
        if len(self._current) > definitions.CACHED_MAX:
            self._current.clear()
        pins = tuple(asked.pins)
        self._current[workflow_id] = (version, asked.asked, pins, graph)
        return pins, graph

    def _versions(self, asked: list[tuple[int, int]]) -> tuple[int, ...]:
        """The current versions of what a workflow uses; 0 for what is gone."""
        catalog = self.catalog
        found = []
        for kind, number in asked:
            one = catalog.task_def(number) if kind == TASK else catalog.workflow(number)
            found.append(0 if one is None else one.version)
        return tuple(found)

    def check(self, body: WorkflowBody, known: Known | None = None) -> None:
        """Whether a workflow could run as it is written. Raises: Invalid."""
        compile_graph(body, Current(known or self.catalog))

    def replan(self, row: LiveRow) -> RunPlan:
        """The plan of a run that goes on, with the versions that it began with.

        Raises: NotFound when a version is missing, Invalid.
        """
        pins = PINS(row.pins)
        graph = self.graph_of(row.workflow_id, row.version, pins)
        return RunPlan(row.id, row.workflow_id, row.version, pins, graph, row.payload,
                       (row.parent_id, row.parent_step), row.origin_id, row.depth)

    def graph_of(self, workflow_id: int, version: int, pins: tuple[int, ...]) -> Graph:
        """A version's graph with these definitions. Raises: NotFound, Invalid."""
        kept = self._current.get(workflow_id)
        if kept is not None and (kept[0], kept[2]) == (version, pins):
            return kept[3]
        key = (workflow_id, version, pins)
        graph = self._graphs.get(key)
        if graph is None:
            body = self.catalog.workflow_version(workflow_id, version)
            if body is None:
                raise NotFound(f"workflow {id_text(workflow_id)} has no version {version}")
            graph = compile_graph(body, Pinned(self.catalog, pins))
            if len(self._graphs) > 200:
                self._graphs.clear()
            self._graphs[key] = graph
        return graph


def completed(graph: Graph, payload: bytes | None) -> bytes | None:
    """A run's payload with the defaults of its parameters. Raises: Invalid."""
    given: Value = None if payload is None else read(payload, "payload")
    return payload if graph.params is None else ENCODE(params.complete(graph.params, given))
