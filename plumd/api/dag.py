"""/v1/dag: workflows of nodes and edges, as earlier programs write and watch them."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from plumd.api.context import Context, answer
from plumd.api.decode import lenient
from plumd.api.routes import Request, Response, Route
from plumd.api.run_views import run_state
from plumd.api.task_bodies import Name
from plumd.api.tasks import BODY_MAX
from plumd.api.workflow_runs import WorkflowRuns
from plumd.api.workflows import STEPS_MAX, Workflows
from plumd.bodies import WorkflowBody
from plumd.errors import Invalid, NotFound, TooLarge
from plumd.flow import BeginRun
from plumd.flow.data import DECODE, read
from plumd.flow.old_dag import DagEdge, DagNode, Translation
from plumd.flow.outline import Outline, outline
from plumd.flow.rules import STEP_STATES, StepState
from plumd.model import INLINE_BYTES_MAX, TaskState, id_text, parse_id
from plumd.store import definitions, flows
from plumd.store.definitions import WORKFLOWS
from plumd.store.flows import RunRow

EDGES_MAX: Final = 20_000


class DagWrite(msgspec.Struct, frozen=True, rename="camel"):
    """A workflow as nodes by their keys, and edges between them."""

    name: Name
    nodes: Annotated[dict[str, DagNode], Meta(max_length=STEPS_MAX)]
    edges: Annotated[list[DagEdge], Meta(max_length=EDGES_MAX)] = []
    description: Annotated[str, Meta(max_length=10_000)] = ""


class DagMade(msgspec.Struct, frozen=True, rename="camel"):
    """The workflow that was made."""

    workflow_id: str


class DagRunAsked(msgspec.Struct, frozen=True, rename="camel"):
    """What a run brings for every task."""

    task_payload: Raw = Raw(b"null")


class DagRunMade(msgspec.Struct, frozen=True, rename="camel"):
    """The run that was begun."""

    run_id: str


class DagRunView(msgspec.Struct, frozen=True, rename="camel"):
    """A run: where every node stands, those of a loop's body by their last round."""

    run_id: str
    state: str
    nodes: dict[str, str]


class Dags:
    """The handlers."""

    def __init__(self, context: Context, workflows: Workflows, runs: WorkflowRuns) -> None:
        self.context = context
        self.workflows = workflows
        self.runs = runs
        self.engine = context.engine
        self.store = context.store

    async def create(self, request: Request) -> Response:
        """A new workflow; its name is free."""
        given = lenient(request.body, DagWrite)
        for key in given.nodes:
            if not key or len(key) > 100 or set(key) & set('.[]/"\\') or not key.isprintable():
                raise Invalid("a key has 1 to 100 characters, none of them . [ ] / \" \\",
                              field=f"nodes.{key}")
        catalog = self.context.catalog
        processes = set()
        for node in given.nodes.values():
            found = catalog.task_def(parse_id(node.task_def_id) or 0)
            if found is not None and found.body.executor == "os_process":
                processes.add(node.task_def_id)
        steps = Translation(given.nodes, given.edges, frozenset(processes)).steps()
        body = WorkflowBody(given.name, self.workflows.steps_of(steps, "steps"), given.description)
        self.context.planner.check(body)
        number = self.engine.new_id()
        await self.context.define(lambda tx: definitions.create(tx, WORKFLOWS, number, body))
        return answer(201, DagMade(id_text(number)),
                      ("location", f"/v1/workflows/{id_text(number)}"))

    async def run(self, request: Request) -> Response:
        """Begin a run; the payload lies over that of every task."""
        workflow = self.workflows.known(request)
        asked = lenient(request.body, DagRunAsked) if request.body.strip() else DagRunAsked()
        payload: bytes | None = bytes(asked.task_payload)
        if payload == b"null":
            payload = None
        elif payload is not None and payload[:1] == b'"':
            payload = inner(payload)
        if payload is not None and len(payload) > INLINE_BYTES_MAX:
            raise TooLarge(f"a run's payload takes at most {INLINE_BYTES_MAX} bytes",
                           field="taskPayload")
        run_id = self.engine.new_id()
        plan = self.context.planner.plan(run_id, workflow.id, payload)
        await self.engine.call(BeginRun(plan))
        return answer(200, DagRunMade(id_text(run_id)))

    async def status(self, request: Request) -> Response:
        """Where a run and all its nodes stand."""
        row = self.runs.known(request)
        body = self.runs.shows.body_of(row)
        if body is None:
            raise NotFound("the run's workflow is gone")
        nodes: dict[str, str] = {}
        self.look(row, outline(body), 0, nodes, begun=True)
        state = run_state(row)
        return answer(200, DagRunView(id_text(row.id),
                                      "Running" if state == "Paused" else state, nodes))

    def look(self, row: RunRow, scope: tuple[Outline, ...], base: int, nodes: dict[str, str], *,
             begun: bool) -> None:
        """The states of a scope's nodes, and inside loops those of the last round."""
        facts = self.store.peek(flows.seeds, row.id, base, base + len(scope) - 1) if begun else {}
        unknown = "Skipped" if row.state >= TaskState.SUCCEEDED else "Pending"
        for one in scope:
            seed = facts.get(base + one.at)
            state = StepState.WAITING if seed is None else seed.state
            nodes[one.id] = unknown if state < 0 else STEP_STATES[state]
            if one.body:
                first = self.runs.shows.last_round(row, base + one.at, len(one.body)) \
                    if seed is not None else None
                self.look(row, one.body, first or 0, nodes, begun=first is not None)


def inner(text: bytes) -> bytes:
    """A payload that came as a text: the JSON in it, or the text itself."""
    value = read(text, "taskPayload")
    assert isinstance(value, str)
    try:
        DECODE(value.encode())
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text
    return value.encode()


def routes(handlers: Dags) -> list[Route]:
    """The table's part about workflows of nodes and edges."""
    tag, run = "dag", "/v1/dag/runs/{id}"
    return [
        Route("POST", "/v1/dag/workflows", handlers.create, "Create a workflow of nodes and edges "
              "(old form)", tag, "workflows:write", body=DagWrite, answers={201: DagMade},
              body_bytes_max=BODY_MAX, lenient=True, trusted=True),
        Route("POST", "/v1/dag/workflows/{id}/run", handlers.run, "Run a workflow (old form)", tag,
              "workflows:run", body=DagRunAsked, body_optional=True, answers={200: DagRunMade},
              lenient=True, trusted=True),
        *(Route("GET", path, handlers.status, "Where a run's nodes stand (old form)", tag,
                "workflows:read", answers={200: DagRunView}, lenient=True, trusted=True)
          for path in (run, f"{run}/status")),
    ]
