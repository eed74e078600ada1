"""/v1/workflows and /v1/workflow-runs: sequential workflows and their history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from plumd import flow
from plumd.api.context import Context, Note, answer, id_param, once, remember, replayed, until
from plumd.api.decode import strict
from plumd.api.openapi import IF_MATCH, PREFER
from plumd.api.paging import CURSOR, LIMIT, next_link, page_limit
from plumd.api.params import if_match, prefer_wait_s, query_choice
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.task_bodies import Name, Retries, Seconds
from plumd.api.task_defs import etag
from plumd.api.task_views import NULL, id_of, time_of
from plumd.api.tasks import BODY_MAX, STATES, before_of, states_of
from plumd.errors import Invalid, NotFound, TooLarge, WrongState
from plumd.model import (
    INLINE_BYTES_MAX,
    TASK_STATES,
    BeginRun,
    CancelRun,
    StepBody,
    TaskState,
    WorkflowBody,
    id_text,
    parse_id,
)
from plumd.store import definitions, flows, lists, tasks
from plumd.store.definitions import WORKFLOWS, Versioned
from plumd.store.flows import RunRow
from plumd.store.keys import Answer
from plumd.store.store import Tx

STEPS_MAX: Final = 1_000


class StepWrite(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                omit_defaults=True):
    """A step: a task definition, and what this step changes of it."""

    definition_id: str
    name: Annotated[str, Meta(max_length=200)] = ""
    executor: str | None = None
    payload: Raw | UnsetType = UNSET
    timeout_sec: Seconds | None = None
    max_retries: Retries | None = None
    ord: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] | None = None


class WorkflowWrite(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                    omit_defaults=True):
    """A sequential workflow as it is written; steps run by `ord`, else as they stand."""

    name: Name
    steps: Annotated[tuple[StepWrite, ...], Meta(max_length=STEPS_MAX)]
    description: Annotated[str, Meta(max_length=10_000)] = ""


class WorkflowView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A workflow."""

    workflow_id: str
    version: int
    name: str
    description: str
    steps: tuple[StepBody, ...]
    created_at: int
    updated_at: int


class WorkflowRunAsked(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                       omit_defaults=True):
    """The run's payload lies over every step's."""

    payload: Raw | UnsetType = UNSET


class StepRunView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A step of a run. state: a task's, or Waiting (not begun) or Skipped (never will)."""

    step_id: str
    name: str
    definition_id: str
    definition_version: int
    state: str
    task_id: str | None = None
    attempt: int = 0
    started_at: int | None = None
    finished_at: int | None = None


class RunView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A run of a workflow."""

    run_id: str
    workflow_id: str
    workflow_version: int
    name: str
    state: str
    payload: Raw
    created_at: int
    finished_at: int | None
    cancel_requested_at: int | None
    steps: tuple[StepRunView, ...] | None = None
    """Left out of lists."""


def workflow_view(found: Versioned[WorkflowBody]) -> WorkflowView:
    """A workflow as the API shows it."""
    return WorkflowView(
        workflow_id=id_text(found.id), version=found.version, name=found.body.name,
        description=found.body.description, steps=flow.ordered(found.body.steps),
        created_at=found.created_ms, updated_at=found.updated_ms)


class Workflows:
    """The handlers."""

    def __init__(self, context: Context, poke: Callable[[], None] | None = None) -> None:
        """poke: called when a workflow was deleted, so that its history goes soon."""
        self.context = context
        self.poke = poke
        self.engine = context.engine
        self.store = context.store

    # ------------------------------------------------------------ workflows

    def body_of(self, request: Request) -> WorkflowBody:
        """Raises: Invalid when a step's definition does not exist or does not fit."""
        given = strict(request.body, WorkflowWrite)
        steps = []
        for index, step in enumerate(given.steps):
            where = f"steps[{index}]"
            found = self.context.catalog.task_def(parse_id(step.definition_id) or 0)
            if found is None:
                raise Invalid("no such task definition", field=f"{where}.definitionId")
            if step.executor not in (None, "", found.body.executor):
                raise Invalid(f"the definition's executor is {found.body.executor}",
                              field=f"{where}.executor")
            steps.append(StepBody(
                definition_id=id_text(found.id), name=step.name or found.body.name,
                executor=found.body.executor, payload=step.payload, timeout_sec=step.timeout_sec,
                max_retries=step.max_retries, ord=step.ord))
        return WorkflowBody(given.name, tuple(steps), given.description)

    async def create(self, request: Request) -> Response:
        """A new workflow; its name is free."""

        async def fresh(note: Note) -> Response:
            body = self.body_of(request)
            number = self.engine.new_id()
            location = f"/v1/workflows/{id_text(number)}"

            def write(tx: Tx) -> Versioned[WorkflowBody]:
                made = definitions.create(tx, WORKFLOWS, number, body)
                note.write(tx, 201, id_text(number).encode(), location)
                return made

            made = await self.engine.write(write)
            self.context.catalog.forget()
            return answer(201, workflow_view(made), ("location", location), etag(made.version))

        async def again(known: Answer) -> Response:
            found = self.current(parse_id(known.body.decode()) or 0)
            return answer(known.status, workflow_view(found), *replayed(known),
                          etag(found.version))

        return await once(self.context, request, fresh, again)

    def current(self, number: int) -> Versioned[WorkflowBody]:
        """Raises: NotFound."""
        found = self.context.catalog.workflow(number)
        if found is None:
            raise NotFound("no such workflow")
        return found

    def known(self, request: Request) -> Versioned[WorkflowBody]:
        """The workflow that the path names. Raises: NotFound."""
        return self.current(id_param(request, "workflow"))

    async def get(self, request: Request) -> Response:
        """The current version."""
        found = self.known(request)
        return answer(200, workflow_view(found), etag(found.version))

    async def update(self, request: Request) -> Response:
        """A new version; runs that go on keep theirs."""
        found = self.known(request)
        body = self.body_of(request)
        version = if_match(request.headers)
        made = await self.engine.write(
            lambda tx: definitions.update(tx, WORKFLOWS, found.id, body, version))
        self.context.catalog.forget()
        return answer(200, workflow_view(made), etag(made.version))

    async def delete(self, request: Request) -> Response:
        """Remove a workflow with its history; not while a run goes on."""
        found = self.known(request)

        def write(tx: Tx) -> None:
            # The engine stands still while it commits, and what begins in this very commit is
            # among the live runs already, but not in a row yet.
            if any(run.plan.workflow_id == found.id for run in self.engine.runs.live.values()):
                raise WrongState("a run of this workflow goes on; cancel it first")
            definitions.hide_workflow(tx, found.id)

        await self.engine.write(write)
        self.context.catalog.forget()
        if self.poke is not None:
            self.poke()
        return Response(204)

    async def page(self, request: Request) -> Response:
        """Newest first, or the one with ?name=."""
        if name := request.query.get("name"):
            one = await self.store.read(definitions.by_name, WORKFLOWS, name)
            return answer(200, [] if one is None else [workflow_view(one)])
        limit = page_limit(request)
        rows = await self.store.read(definitions.page, WORKFLOWS, before_of(request), limit)
        link = (next_link(request, str(rows[-1].id)),) if len(rows) == limit else ()
        return answer(200, [workflow_view(row) for row in rows], *link)

    async def act(self, request: Request) -> Response:
        """?action=run"""
        if query_choice(request.query, "action", ("run",)) != "run":
            raise Invalid("action is run", field="action")
        wait_s = prefer_wait_s(request.headers)

        async def fresh(note: Note) -> Response:
            payload = run_payload(request)
            run_id = self.engine.new_id()
            plan = self.context.planner.plan(run_id, id_param(request, "workflow"), payload)
            location = f"/v1/workflow-runs/{id_text(run_id)}"
            with self.context.watching(run_id) as over:
                await self.engine.call_all(
                    (BeginRun(plan),), remember(note, 201, id_text(run_id).encode(), location))
                if wait_s:
                    await until(over, wait_s)
            return await self.shown(run_id, 201, ("location", location))

        async def again(known: Answer) -> Response:
            number = parse_id(known.body.decode()) or 0
            if wait_s:
                await self.wait_if_live(number, wait_s)
            return await self.shown(number, known.status, *replayed(known))

        return await once(self.context, request, fresh, again)

    # ------------------------------------------------------------ runs

    def known_run(self, request: Request) -> RunRow:
        """The run that the path names. Raises: NotFound."""
        row = self.store.peek(flows.get, id_param(request, "workflow run"))
        if row is None:
            raise NotFound("no such workflow run")
        return row

    async def shown(self, run_id: int, status: int, *headers: tuple[str, str]) -> Response:
        """The run as it is now, with its steps."""
        row = self.store.peek(flows.get, run_id)
        if row is None:
            raise NotFound("no such workflow run")
        return answer(status, self.run_view(row, whole=True), *headers)

    def run_view(self, row: RunRow, *, whole: bool) -> RunView:
        """A run as the API shows it."""
        body = self.context.catalog.workflow_version(row.workflow_id, row.version)
        return RunView(
            run_id=id_text(row.id), workflow_id=id_text(row.workflow_id),
            workflow_version=row.version, name="" if body is None else body.name,
            state=TASK_STATES[row.state], payload=NULL if row.payload is None else Raw(row.payload),
            created_at=row.created_ms, finished_at=time_of(row.finished_ms),
            cancel_requested_at=time_of(row.cancel_ms),
            steps=self.step_views(row, body) if whole and body is not None else None)

    def step_views(self, row: RunRow, body: WorkflowBody) -> tuple[StepRunView, ...]:
        """Every step: from the summary of a run that is over, else from its tasks."""
        facts: dict[int, tuple[int, int, int, int, int]] = {}
        if row.steps is not None:
            for end in row.steps:
                facts[end.step] = (end.task_id, end.state, end.attempt, end.started_ms,
                                   end.finished_ms)
        else:
            for task_id, state, place, attempt, started, finished in self.store.peek(
                    tasks.of_run, row.id):
                facts[place] = (task_id, state, attempt, started, finished)
        views = []
        for index, step in enumerate(flow.ordered(body.steps)):
            task_id, state, attempt, started, finished = facts.get(index, (0, -1, 0, 0, 0))
            word = "Skipped" if row.state >= TaskState.SUCCEEDED else "Waiting"
            views.append(StepRunView(
                step_id=str(index), name=step.name, definition_id=step.definition_id,
                definition_version=row.pins[index] if index < len(row.pins) else 0,
                task_id=id_of(task_id), attempt=attempt,
                state=word if state < 0 else TASK_STATES[state], started_at=time_of(started),
                finished_at=time_of(finished)))
        return tuple(views)

    async def get_run(self, request: Request) -> Response:
        """One run with its steps. With `Prefer: wait` at its end."""
        row = self.known_run(request)
        wait_s = prefer_wait_s(request.headers)
        if wait_s and row.state < TaskState.SUCCEEDED:
            await self.wait_if_live(row.id, wait_s)
        return await self.shown(row.id, 200)

    async def wait_if_live(self, run_id: int, seconds: float) -> None:
        """Wait for a run's end, unless it is over already."""
        with self.context.watching(run_id) as over:
            if run_id in self.engine.runs.live:
                await until(over, seconds)
            else:
                await self.context.settled()    # its end may be on its way to the disk

    async def page_runs(self, request: Request) -> Response:
        """Newest first."""
        query = request.query
        workflow_id = 0
        if query.get("workflowId"):
            workflow_id = parse_id(query["workflowId"]) or 0
            if not workflow_id:
                raise Invalid("workflowId is no id", field="workflowId")
        rows, after = await self.store.read(
            lists.runs, workflow_id, states_of(query), limit=page_limit(request),
            after=before_of(request))
        link = (next_link(request, str(after)),) if after else ()
        return answer(200, [self.run_view(row, whole=False) for row in rows], *link)

    async def act_on_run(self, request: Request) -> Response:
        """?action=cancel"""
        if query_choice(request.query, "action", ("cancel",)) != "cancel":
            raise Invalid("action is cancel", field="action")
        row = self.known_run(request)
        reply = await self.engine.call(CancelRun(row.id))
        if reply.code:
            now = self.known_run(request)
            if now.state != TaskState.CANCELED:
                raise WrongState(f"the run is {TASK_STATES[now.state]} already")
        return await self.shown(row.id, 200)

    async def delete_run(self, request: Request) -> Response:
        """Remove a run that is over, with its tasks."""
        row = self.known_run(request)

        def write(tx: Tx) -> None:
            if not flows.delete(tx.db, row.id):
                raise WrongState("only a run that is over can be deleted; cancel it first")
            tx.emit("runDeleted", row.id, row.workflow_id, tx.now_ms)

        await self.engine.write(write)
        return Response(204)


def run_payload(request: Request) -> bytes | None:
    """The payload that a run was asked with. Raises: Malformed, Invalid, TooLarge."""
    if not request.body.strip():
        return None
    payload = flow.raw(strict(request.body, WorkflowRunAsked).payload)
    if payload is not None and len(payload) > INLINE_BYTES_MAX:
        raise TooLarge(f"a run's payload takes at most {INLINE_BYTES_MAX} bytes", field="payload")
    return payload


def routes(handlers: Workflows) -> list[Route]:
    """The table's part about workflows."""
    read, write, tag = "workflows:read", "workflows:write", "workflows"
    one, run = "/v1/workflows/{id}", "/v1/workflow-runs/{id}"
    return [
        Route("POST", "/v1/workflows", handlers.create, "Create a workflow", tag, write,
              body=WorkflowWrite, answers={201: WorkflowView}, body_bytes_max=BODY_MAX),
        Route("GET", "/v1/workflows", handlers.page, "List workflows, newest first", tag, read,
              answers={200: list[WorkflowView]},
              query=(LIMIT, CURSOR, Query("name", str, "The one with this name"))),
        Route("GET", one, handlers.get, "Get a workflow", tag, read, answers={200: WorkflowView}),
        Route("PUT", one, handlers.update, "Make a new version of a workflow", tag, write,
              body=WorkflowWrite, answers={200: WorkflowView}, query=(IF_MATCH,),
              body_bytes_max=BODY_MAX),
        Route("DELETE", one, handlers.delete, "Delete a workflow and its history", tag, write,
              answers={204: None}),
        Route("POST", one, handlers.act, "Run a workflow", tag, "workflows:run",
              body=WorkflowRunAsked, body_optional=True, answers={201: RunView}, hot=True,
              query=(PREFER, Query("action", str, "run", required=True, choices=("run",)))),
        Route("GET", "/v1/workflow-runs", handlers.page_runs, "List runs, newest first", tag, read,
              answers={200: list[RunView]}, query=(
                  LIMIT, CURSOR, Query("workflowId", str, "Only of this workflow"),
                  STATES)),
        Route("GET", run, handlers.get_run, "Get a run with its steps", tag, read,
              answers={200: RunView}, query=(PREFER,)),
        Route("POST", run, handlers.act_on_run, "Cancel a run", tag, "workflows:run",
              answers={200: RunView},
              query=(Query("action", str, "cancel", required=True, choices=("cancel",)),)),
        Route("DELETE", run, handlers.delete_run, "Delete a run that is over", tag, write,
              answers={204: None}),
    ]
