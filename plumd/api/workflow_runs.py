"""/v1/workflow-runs: runs of workflows, their steps, and what people do to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from plumd import flow
from plumd.api.context import Context, Note, answer, id_param, once, remember, replayed, until
from plumd.api.decode import strict
from plumd.api.openapi import PREFER
from plumd.api.paging import CURSOR, LIMIT, cursor_id, next_link, page_limit
from plumd.api.params import idempotency_key, prefer_wait_s, query_action
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.run_views import RunShows, RunView, StepRunView, run_state
from plumd.api.tasks import states_of
from plumd.errors import Invalid, NotFound, TooLarge, WrongState
from plumd.flow import BeginRun, CancelRun, RunAct, RunPlan
from plumd.flow.data import read
from plumd.flow.graph import Seed
from plumd.flow.repeat import cut_to, seeds_of
from plumd.flow.why import causes_of
from plumd.model import (
    INLINE_BYTES_MAX,
    TASK_STATES,
    Cause,
    Reply,
    TaskState,
    id_text,
    parse_id,
)
from plumd.store import flows, lists
from plumd.store.flows import RunRow
from plumd.store.keys import Answer
from plumd.store.store import Tx

PlanOf: TypeAlias = Callable[[int], RunPlan]
"""(run id) -> its plan"""
RUN_ACTIONS: Final = ("cancel", "pause", "resume", "retry", "rerun")
STEP_ACTIONS: Final = ("skip", "approve", "reject", "complete")


class WorkflowRunAsked(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                       omit_defaults=True):
    """The run's payload: its parameters, or, without `params`, what lies over every step's."""

    payload: Raw | UnsetType = UNSET


class WorkflowActed(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                    omit_defaults=True):
    """What an action on a workflow or run takes. run, rerun: a payload as above, a version, if not
    the current one or that of the run, and the outer step that is the last one wanted; rollback:
    the version to go back to."""

    payload: Raw | UnsetType = UNSET
    version: Annotated[int, Meta(ge=1, le=1 << 31)] | None = None
    up_to: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class StepWhy(msgspec.Struct, frozen=True, rename="camel"):
    """Why a step is where it is; causes is empty when it waits for nothing."""

    run_id: str
    step_id: str
    state: str
    causes: tuple[Cause, ...]


class WorkflowRuns:
    """The handlers."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.engine = context.engine
        self.store = context.store
        self.shows = RunShows(context.store, context.catalog)

    def known(self, request: Request) -> RunRow:
        """The run that the path names. Raises: NotFound."""
        row = self.store.peek(flows.get, id_param(request, "workflow run"))
        if row is None:
            raise NotFound("no such workflow run")
        return row

    def shown(self, run_id: int, status: int, *headers: tuple[str, str]) -> Response:
        """The run as it is now, with its steps."""
        row = self.store.peek(flows.get, run_id)
        if row is None:
            raise NotFound("no such workflow run")
        return answer(status, self.shows.run(row, whole=True), *headers)

    async def get(self, request: Request) -> Response:
        """One run with its steps. With `Prefer: wait` at its end."""
        row = self.known(request)
        wait_s = prefer_wait_s(request.headers)
        if wait_s and row.state < TaskState.SUCCEEDED:
            await self.wait_if_live(row.id, wait_s)
        return self.shown(row.id, 200)

    async def wait_if_live(self, run_id: int, seconds: float) -> None:
        """Wait for a run's end, unless it is over already."""
        with self.context.watching(run_id) as over:
            if run_id in self.engine.runs.live:
                await until(over, seconds)
            else:
                await self.context.settled()    # its end may be on its way to the disk

    async def page(self, request: Request) -> Response:
        """Newest first."""
        query = request.query
        workflow_id = 0
        if query.get("workflowId"):
            workflow_id = parse_id(query["workflowId"]) or 0
            if not workflow_id:
                raise Invalid("workflowId is no id", field="workflowId")
        limit = page_limit(request)
        if query.get("state", "").lower() == "paused":
            rows = await self.store.read(flows.paused, workflow_id, cursor_id(request), limit + 1)
            after, rows = rows[limit - 1].id if len(rows) > limit else 0, rows[:limit]
        else:
            rows, after = await self.store.read(lists.runs, workflow_id, states_of(query),
                                                limit=limit, after=cursor_id(request))
        link = (next_link(request, str(after)),) if after else ()
        return answer(200, [self.shows.run(row, whole=False) for row in rows], *link)

    async def delete(self, request: Request) -> Response:
        """Remove a run that is over, with its tasks."""
        row = self.known(request)

        def write(tx: Tx) -> None:
            if not flows.delete(tx.db, row.id):
                raise WrongState("only a run that is over can be deleted; cancel it first")
            tx.emit("runDeleted", row.id, row.workflow_id, tx.now_ms)

        await self.engine.write(write)
        return Response(204)

    # ------------------------------------------------------------ beginning

    async def start(self, request: Request, workflow_id: int) -> Response:
        """A run of a workflow; the body is a WorkflowActed."""
        def plan(run_id: int) -> RunPlan:
            if self.context.catalog.workflow(workflow_id) is None:
                raise NotFound("no such workflow")
            asked = asked_of(request)
            return limited(self.context.planner.plan(
                run_id, workflow_id, payload_of(asked.payload), version=asked.version or 0), asked)

        return await self.begin(request, plan)

    async def begin(self, request: Request, plan_of: PlanOf) -> Response:
        """Start the run that plan_of makes, once per Idempotency-Key."""
        wait_s = prefer_wait_s(request.headers)

        async def fresh(note: Note) -> Response:
            run_id = self.engine.new_id()
            plan = plan_of(run_id)
            location = f"/v1/workflow-runs/{id_text(run_id)}"
            with self.context.watching(run_id) as over:
                await self.engine.call_all(
                    (BeginRun(plan),), remember(note, 201, id_text(run_id).encode(), location))
                if wait_s:
                    await until(over, wait_s)
            return self.shown(run_id, 201, ("location", location))

        async def again(known: Answer) -> Response:
            number = parse_id(known.body.decode()) or 0
            if wait_s:
                await self.wait_if_live(number, wait_s)
            return self.shown(number, known.status, *replayed(known))

        return await once(self.context, request, fresh, again)

    # ------------------------------------------------------------ actions

    async def act(self, request: Request) -> Response:
        """?action=cancel|pause|resume|retry|rerun"""
        action = query_action(request.query, RUN_ACTIONS)
        row = self.known(request)
        asked = asked_of(request)   # what is wrong is refused, also where it is not needed
        payload_of(asked.payload)
        if action != "rerun":
            refuse_fields(asked)
        idempotency_key(request.headers)
        if action == "cancel":
            return await self.cancel(row, request)
        if action == "retry":
            known = await self.store.read(flows.seeds, row.id)
            return await self.begin(request,
                                    lambda run_id: self.again_from_failed(run_id, row, known))
        if action == "rerun":
            return await self.begin(request, lambda run_id: self.again_whole(run_id, row, asked))
        refuse(await self.engine.call(RunAct(row.id, action)), self.known(request))
        return self.shown(row.id, 200)

    async def cancel(self, row: RunRow, request: Request) -> Response:
        """End a run; what runs of it is canceled first."""
        reply = await self.engine.call(CancelRun(row.id))
        if reply.code:
            now = self.known(request)
            if now.state != TaskState.CANCELED:
                raise WrongState(f"the run is {TASK_STATES[now.state]} already")
        return self.shown(row.id, 200)

    def again_whole(self, run_id: int, row: RunRow, asked: WorkflowActed) -> RunPlan:
        """The workflow once more: what is not asked otherwise is as it was."""
        given = payload_of(asked.payload)
        plan = self.context.planner.plan(run_id, row.workflow_id,
                                         row.payload if given is None else given,
                                         version=asked.version or row.version)
        return msgspec.structs.replace(limited(plan, asked), origin_id=row.id)

    def again_from_failed(self, run_id: int, row: RunRow, known: dict[int, Seed]) -> RunPlan:
        """A new run that takes over what succeeded. Raises: WrongState, NotFound."""
        if row.state < TaskState.SUCCEEDED or row.state == TaskState.SUCCEEDED:
            raise WrongState(f"only a run that did not succeed is retried; it is {run_state(row)}")
        graph = self.context.planner.graph_of(row.workflow_id, row.version, row.pins)
        return RunPlan(run_id, row.workflow_id, row.version, row.pins, graph, row.payload,
                       origin_id=row.id, seeds=seeds_of(graph, known))

    # ------------------------------------------------------------ steps

    async def steps(self, request: Request) -> Response:
        """The outer steps of a run, or with ?inside= those of all iterations of a loop or map."""
        row = self.known(request)
        inside = request.query.get("inside", "")
        limit = page_limit(request)
        after = cursor_id(request)
        if not inside:      # there are as many as the workflow has, so they are always whole
            return answer(200, self.shows.run(row, whole=True).steps or ())
        found, more = self.shows.inside(row, inside, min(after, 1 << 31), limit)
        link = (next_link(request, str(after + limit)),) if more else ()
        return answer(200, found, *link)

    async def step(self, request: Request) -> Response:
        """One step instance, like `fetch` or `each[17].fetch`."""
        return answer(200, self.shows.one(self.known(request), request.params["step"]))

    async def act_on_step(self, request: Request) -> Response:
        """?action=skip|approve|reject|complete"""
        action = query_action(request.query, STEP_ACTIONS)
        row, name = self.known(request), request.params["step"]
        self.shows.place_of(row, name)
        payload = run_payload(request)
        refuse(await self.engine.call(RunAct(row.id, action, name, payload)), self.known(request))
        return answer(200, self.shows.one(self.known(request), name))

    async def why(self, request: Request) -> Response:
        """The true, concrete reason why a step waits."""
        row, name = self.known(request), request.params["step"]
        view = self.shows.one(row, name)
        causes: list[Cause] = []
        run = self.engine.runs.live.get(row.id)
        if run is not None and view.state in ("Waiting", "Pending", "Running", "Retrying"):
            if view.task_id is not None:
                causes = list(self.engine.core.why(parse_id(view.task_id) or 0) or ())
            elif view.due_at is not UNSET:
                causes = [Cause("until", "it waits until then, or for somebody's word",
                                until_ms=view.due_at)]
            elif view.type in ("approval", "wait") and view.state == "Running":
                causes = [Cause("answer", "it waits for somebody's word")]
            elif view.state == "Waiting":
                causes = causes_of(run.machine, name)
        return answer(200, StepWhy(id_text(row.id), name, view.state, tuple(causes)))


def refuse(reply: Reply, row: RunRow) -> None:
    """Raises: NotFound, WrongState when a command was refused."""
    if reply.code == "not_found":
        raise NotFound(reply.detail)
    if reply.code:
        over = row.state >= TaskState.SUCCEEDED
        raise WrongState(f"the run is {TASK_STATES[row.state]} already" if over else reply.detail)


def run_payload(request: Request) -> bytes | None:
    """The payload that a run or an answer comes with. Raises: Malformed, Invalid, TooLarge."""
    if request.body.strip() in (b"", b"null"):
        return None
    return payload_of(strict(request.body, WorkflowRunAsked).payload)


def limited(plan: RunPlan, asked: WorkflowActed) -> RunPlan:
    """A plan that goes no further than it is asked to. Raises: Invalid."""
    if asked.up_to is None:
        return plan
    return msgspec.structs.replace(plan, seeds=cut_to(plan.graph, asked.up_to))


def refuse_fields(asked: WorkflowActed) -> None:
    """Raises: Invalid for what only a rerun takes."""
    for field, value in (("version", asked.version), ("upTo", asked.up_to)):
        if value is not None:
            raise Invalid("only a rerun takes this", field=field)


def asked_of(request: Request) -> WorkflowActed:
    """What an action on a workflow or run is given. Raises: Malformed, Invalid."""
    if request.body.strip() in (b"", b"null"):
        return WorkflowActed()
    return strict(request.body, WorkflowActed)


def payload_of(given: Raw | UnsetType) -> bytes | None:
    """A run's payload. Raises: TooLarge."""
    payload = flow.raw(given)
    if payload is not None and len(payload) > INLINE_BYTES_MAX:
        raise TooLarge(f"a run's payload takes at most {INLINE_BYTES_MAX} bytes", field="payload")
    if payload is not None:
        read(payload, "payload")
    return payload


def routes(handlers: WorkflowRuns) -> list[Route]:
    """The table's part about runs of workflows."""
    read, write, tag, act = "workflows:read", "workflows:write", "workflows", "workflows:run"
    run = "/v1/workflow-runs/{id}"
    step = run + "/steps/{step}"
    return [
        Route("GET", "/v1/workflow-runs", handlers.page, "List runs, newest first", tag, read,
              answers={200: list[RunView]}, query=(
                  LIMIT, CURSOR, Query("workflowId", str, "Only of this workflow"),
                  Query("state", str, "Only these, with commas: "
                        f"{', '.join(TASK_STATES)}; or Paused"))),
        Route("GET", run, handlers.get, "Get a run with its steps", tag, read,
              answers={200: RunView}, query=(PREFER,)),
        Route("POST", run, handlers.act, "Cancel, pause, resume, retry or repeat a run", tag, act,
              body=WorkflowActed, body_optional=True, answers={200: RunView, 201: RunView},
              query=(PREFER, Query("action", str, "cancel; pause: nothing new begins; resume; "
                                   "retry: a new run from the failed steps on; rerun: a new run "
                                   "from the beginning", required=True, choices=RUN_ACTIONS))),
        Route("DELETE", run, handlers.delete, "Delete a run that is over", tag, write,
              answers={204: None}),
        Route("GET", run + "/steps", handlers.steps, "List the steps of a run", tag, read,
              answers={200: list[StepRunView]}, query=(
                  LIMIT, CURSOR,
                  Query("inside", str, "The steps in all iterations of this loop or map"))),
        Route("GET", step, handlers.step, "Get a step of a run, like `a` or `each[17].a`", tag,
              read, answers={200: StepRunView}),
        Route("POST", step, handlers.act_on_step, "Skip, approve, reject or complete a step", tag,
              act, body=WorkflowRunAsked, body_optional=True, answers={200: StepRunView},
              query=(Query("action", str, "skip, approve, reject, complete (a wait for an event)",
                           required=True, choices=STEP_ACTIONS),)),
        Route("GET", step + "/why", handlers.why, "Why a step waits", tag, read,
              answers={200: StepWhy}),
    ]
