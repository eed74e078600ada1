"""/v1/workflows: what workflows say, and beginning runs of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType
from msgspec.structs import replace

from plumd import flow
from plumd.api.context import ENCODE, Context, Note, answer, etag, id_param, once, replayed
from plumd.api.decode import strict
from plumd.api.openapi import IF_CHANGED, IF_MATCH, PREFER
from plumd.api.paging import CURSOR, LIMIT, cursor_id, page_limit, page_of
from plumd.api.params import if_version, query_action
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.run_views import RunView
from plumd.api.task_bodies import Name, Seconds, TaskDefWrite, definition_of
from plumd.api.tasks import BODY_MAX
from plumd.api.workflow_runs import WorkflowActed, WorkflowRuns, asked_of
from plumd.bodies import StepBody, TaskDefBody, WorkflowBody
from plumd.errors import Invalid, NotFound, PlumError, WrongState
from plumd.executors.command import parse_command
from plumd.model import id_text, parse_id
from plumd.planner import Current, Known
from plumd.store import definitions
from plumd.store.definitions import WORKFLOWS, Versioned
from plumd.store.keys import Answer
from plumd.store.store import Tx

STEPS_MAX: Final = 5_000
ACTIONS: Final = ("run", "rollback")


class WorkflowWrite(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                    omit_defaults=True):
    """A workflow as it is written. Steps run one after another, by `ord` where it is given, unless
    one of them says what it `needs`."""

    name: Name
    steps: Annotated[tuple[StepBody, ...], Meta(max_length=STEPS_MAX)]
    description: Annotated[str, Meta(max_length=10_000)] = ""
    params: Raw | UnsetType = UNSET
    timeout_sec: Seconds = 0
    result: Raw | UnsetType = UNSET
    on_failure: Annotated[tuple[StepBody, ...], Meta(max_length=STEPS_MAX)] = ()


class WorkflowView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A workflow."""

    workflow_id: str
    version: int
    name: str
    description: str
    steps: tuple[StepBody, ...]
    params: Raw | UnsetType = UNSET
    timeout_sec: float = 0
    result: Raw | UnsetType = UNSET
    on_failure: tuple[StepBody, ...] = ()
    created_at: int
    updated_at: int


def workflow_view(found: Versioned[WorkflowBody]) -> WorkflowView:
    """A workflow as the API shows it."""
    return WorkflowView(
        workflow_id=id_text(found.id), version=found.version, name=found.body.name,
        description=found.body.description, steps=flow.ordered(found.body.steps),
        params=found.body.params, timeout_sec=found.body.timeout_sec, result=found.body.result,
        on_failure=flow.ordered(found.body.on_failure),
        created_at=found.created_ms, updated_at=found.updated_ms)


def name_of(step: StepBody, runs: str) -> str:
    """What a step is called: by its name or id, and one that has neither by what it runs."""
    return step.name or (runs if step.id is UNSET else "")


def check_command(task: TaskDefBody, step: StepBody, where: str) -> None:
    """Of a step that is a process: a run changes nothing of its command, so all of it is there.

    Raises: Invalid.
    """
    if task.executor != "os_process":
        return
    try:
        parse_command(flow.merge(flow.raw(task.default_payload), flow.raw(step.payload))
                      or b"null")
    except Invalid as refusal:
        raise Invalid(refusal.detail, field=f"{where}.{refusal.field}") from None


class Workflows:
    """The handlers."""

    def __init__(self, context: Context, runs: WorkflowRuns,
                 poke: Callable[[], None] | None = None) -> None:
        """poke: called when a workflow was deleted, so that its history goes soon."""
        self.context = context
        self.runs = runs
        self.poke = poke
        self.engine = context.engine
        self.store = context.store

    # ------------------------------------------------------------ workflows

    def body_of(self, request: Request) -> WorkflowBody:
        """What is written, checked whole. Raises: Invalid, with the place."""
        return self.checked(strict(request.body, WorkflowWrite), self.context.catalog)

    def checked(self, given: WorkflowWrite, known: Known) -> WorkflowBody:
        """A workflow as it is kept, if it could run. Raises: Invalid, with the place."""
        if not given.steps:
            raise Invalid("a workflow has at least one step", field="steps")
        body = WorkflowBody(
            given.name, self.steps_of(given.steps, "steps", known), given.description,
            given.params, given.timeout_sec, given.result,
            self.steps_of(given.on_failure, "onFailure", known))
        self.context.planner.check(body, known)
        return body

    def steps_of(self, steps: Sequence[StepBody], where: str,
                 known: Known | None = None) -> tuple[StepBody, ...]:
        """The steps as they are kept: with what their definitions say. Raises: Invalid."""
        return tuple(self.step_of(step, f"{where}[{index}]", known or self.context.catalog)
                     for index, step in enumerate(steps))

    def step_of(self, step: StepBody, where: str, known: Known) -> StepBody:
        """Raises: Invalid."""
        if step.body is not UNSET:
            step = replace(step, body=self.steps_of(step.body, f"{where}.body", known))
        if step.compensate is not UNSET:
            step = replace(step, compensate=self.step_of(step.compensate, f"{where}.compensate",
                                                         known))
        if step.workflow is not UNSET:
            number = Current(known).workflow(step.workflow, f"{where}.workflow")
            step = replace(step, workflow=id_text(number))
        if step.task is not UNSET:
            try:
                inner = definition_of(strict(ENCODE(step.task), TaskDefWrite))
            except PlumError as error:
                raise Invalid(error.detail, field=f"{where}.task.{error.field}"
                              if error.field else f"{where}.task") from None
            check_command(inner, step, where)
            return replace(step, task=inner, name=name_of(step, inner.name))
        if not step.definition_id:
            return step
        found = (known.task_def(parse_id(step.definition_id) or 0)
                 or known.task_def_named(step.definition_id))
        if found is None:
            raise Invalid("no such task definition", field=f"{where}.definitionId")
        if step.executor not in (None, "", found.body.executor):
            raise Invalid(f"the definition's executor is {found.body.executor}",
                          field=f"{where}.executor")
        check_command(found.body, step, where)
        return replace(step, definition_id=id_text(found.id), executor=found.body.executor,
                       name=name_of(step, found.body.name))

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

            made = await self.context.define(write)
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
        version = if_version(request.headers)
        made = await self.context.define(
            lambda tx: definitions.update(tx, WORKFLOWS, found.id, body, version))
        return answer(200, workflow_view(made), etag(made.version))

    async def delete(self, request: Request) -> Response:
        """Remove a workflow with its history; not while a run goes on."""
        found, version = self.known(request), if_version(request.headers)

        def write(tx: Tx) -> None:
            # The engine stands still while it commits, and what begins in this very commit is
            # among the live runs already, but not in a row yet.
            if any(run.plan.workflow_id == found.id for run in self.engine.runs.live.values()):
                raise WrongState("a run of this workflow goes on; cancel it first")
            definitions.hide_workflow(tx, found.id, version)

        await self.context.define(write)
        if self.poke is not None:
            self.poke()
        return Response(204)

    async def page(self, request: Request) -> Response:
        """Newest first, or the one with ?name=."""
        if name := request.query.get("name"):
            one = await self.store.read(definitions.by_name, WORKFLOWS, name)
            return answer(200, [] if one is None else [workflow_view(one)])
        limit = page_limit(request)
        rows = await self.store.read(definitions.page, WORKFLOWS, cursor_id(request), limit + 1)
        return page_of(request, rows, limit, workflow_view, lambda row: row.id)

    async def act(self, request: Request) -> Response:
        """?action=run or rollback"""
        if query_action(request.query, ACTIONS) == "run":
            return await self.runs.start(request, id_param(request, "workflow"))
        return await self.rollback(self.known(request), request)

    def version_of(self, found: Versioned[WorkflowBody], wanted: int) -> Versioned[WorkflowBody]:
        """A version, current or past; 0 = the current one. Raises: NotFound."""
        if wanted in (0, found.version):
            return found
        body = self.context.catalog.workflow_version(found.id, wanted)
        if body is None:
            raise NotFound(f"there is no version {wanted}")
        return Versioned(found.id, wanted, body, found.created_ms, found.updated_ms)

    async def rollback(self, found: Versioned[WorkflowBody], request: Request) -> Response:
        """A new version that says what an older one said; with If-Match only when nobody was
        faster."""
        asked = asked_of(request)
        if asked.payload is not UNSET:
            raise Invalid("only a run takes a payload", field="payload")
        if asked.up_to is not None:
            raise Invalid("only a run takes this", field="upTo")
        version = if_version(request.headers)
        if asked.version is None:
            raise Invalid("the version to go back to", field="version")
        body = self.version_of(found, asked.version).body
        self.context.planner.check(body)
        made = await self.context.define(
            lambda tx: definitions.update(tx, WORKFLOWS, found.id, body, version))
        return answer(200, workflow_view(made), etag(made.version))


def routes(handlers: Workflows) -> list[Route]:
    """The table's part about workflows."""
    read, write, tag = "workflows:read", "workflows:write", "workflows"
    one = "/v1/workflows/{id}"
    return [
        Route("POST", "/v1/workflows", handlers.create, "Create a workflow", tag, write,
              body=WorkflowWrite, answers={201: WorkflowView}, body_bytes_max=BODY_MAX),
        Route("GET", "/v1/workflows", handlers.page, "List workflows, newest first", tag, read,
              answers={200: list[WorkflowView]},
              query=(LIMIT, CURSOR, Query("name", str, "The one with this name"))),
        Route("GET", one, handlers.get, "Get a workflow", tag, read,
              answers={200: WorkflowView, 304: None}, query=(IF_CHANGED,)),
        Route("PUT", one, handlers.update, "Make a new version of a workflow", tag, write,
              body=WorkflowWrite, answers={200: WorkflowView}, query=(IF_MATCH,),
              body_bytes_max=BODY_MAX),
        Route("DELETE", one, handlers.delete, "Delete a workflow and its history", tag, write,
              answers={204: None}, query=(IF_MATCH,)),
        Route("POST", one, handlers.act, "Run a workflow, or go back to an older version", tag,
              "workflows:run", body=WorkflowActed, body_optional=True,
              answers={200: WorkflowView, 201: RunView}, hot=True,
              query=(PREFER, IF_MATCH, Query("action", str, "run; rollback: a new version that "
                                             "says what `version` said", required=True,
                                             choices=ACTIONS))),
    ]
