"""/v1/tasks: submit, watch, cancel, look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Final

import msgspec
import trio
from msgspec import Meta, Raw

from plumd.api import task_bodies as bodies
from plumd.api.context import (
    Context,
    Note,
    again_as_it_was,
    answer,
    once,
    remember,
    replayed,
    until,
)
from plumd.api.decode import strict
from plumd.api.openapi import IDEMPOTENCY_KEY, PREFER
from plumd.api.params import prefer_wait_s, query_action
from plumd.api.problem import TYPE_PREFIX, Problem
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.task_bodies import TaskCreate
from plumd.api.task_logs import TaskLogs, known_task
from plumd.api.task_views import (
    LABELS,
    AttemptView,
    TaskView,
    WhyView,
    attempt_views,
    fresh_view,
    whole_view,
)
from plumd.errors import Invalid, NotFound, PlumError, TooMany, WrongState
from plumd.executors.os_process import OsProcess
from plumd.model import (
    BULK_BYTES_MAX,
    BULK_ITEMS_MAX,
    TASK_STATES,
    VALUE_BYTES_MAX,
    Cancel,
    Kind,
    Reply,
    Start,
    Submit,
    TaskState,
    id_text,
    parse_id,
)
from plumd.services import Registry
from plumd.store import tasks
from plumd.store.keys import Answer
from plumd.store.store import Tx
from plumd.store.tasks import TaskRow

BODY_MAX: Final = VALUE_BYTES_MAX + (1 << 20)
ITEMS_PER_TURN: Final = 200
"""Of a bulk so many items are checked at a stretch, then others have their turn."""


class BulkCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Up to 10,000 new tasks; each is accepted or refused by itself."""

    tasks: Annotated[list[Raw], Meta(max_length=BULK_ITEMS_MAX)]


class BulkCreateShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Up to 10,000 new tasks; each is accepted or refused by itself."""

    tasks: Annotated[list[TaskCreate], Meta(max_length=BULK_ITEMS_MAX)]


class BulkCancel(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Up to 10,000 tasks that shall end."""

    task_ids: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=BULK_ITEMS_MAX)]


class BulkItem(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What became of one item: its task, or why it was refused."""

    task_id: str | None = None
    error: Problem | None = None


class BulkAnswer(msgspec.Struct, frozen=True):
    """One entry an item, in the same order."""

    results: list[BulkItem]


class Tasks:
    """The handlers."""

    def __init__(self, context: Context, processes: OsProcess, logs: TaskLogs,
                 registry: Registry) -> None:
        self.context = context
        self.engine = context.engine
        self.processes = processes
        self.logs = logs
        self.registry = registry

    # ------------------------------------------------------------ writing

    async def submit(self, request: Request) -> Response:
        """One new task."""

        async def asked() -> Submit:
            body = strict(request.body, TaskCreate)
            draft = bodies.draft_of(self.context.catalog, body)
            return await self.prepared(draft.with_payload(body.payload, 0), body.expire_at)

        return await self.submit_one(request, asked)

    async def prepared(self, command: Submit, expire_at: int | None = None) -> Submit:
        """With a large payload in its file, the delay as a time, and a time until which it must
        begin as how long it may wait. Raises: Invalid."""
        value, blob = await self.context.blobs.keep(command.payload)
        if blob or command.due_ms or expire_at is not None:
            now_ms = self.engine.clock.now().wall_ms
            due = command.due_ms and command.due_ms + now_ms
            wait_ms = command.queue_timeout_ms
            if expire_at is not None:
                left_ms = expire_at - max(due, now_ms)
                if left_ms <= 0:
                    raise Invalid("it would be over before it may begin", field="expireAt")
                wait_ms = min(wait_ms or left_ms, left_ms)
                due = due or now_ms     # it waits from now on, also if somebody starts it later
            return msgspec.structs.replace(command, payload=value, blob=blob, due_ms=due,
                                           queue_timeout_ms=wait_ms)
        return command

    async def submit_one(self, request: Request,
                         asked: Callable[[], Awaitable[Submit]]) -> Response:
        """Submit what is asked, once per Idempotency-Key; with `Prefer: wait` answer at its end.

        A repetition is answered before anything is looked up that may be gone by now.
        """
        wait_s = prefer_wait_s(request.headers)

        async def fresh(note: Note) -> Response:
            command = msgspec.structs.replace(await asked(), task_id=self.engine.new_id())
            location = ("location", f"/v1/tasks/{id_text(command.task_id)}")
            if not wait_s:
                reply = await self.commit(command, note)
                created_ms = self.engine.clock.now().wall_ms
                view = fresh_view(command, reply.state, reply.attempt, created_ms)
                return answer(201, view, location)
            with self.context.watching(command.task_id) as over:
                await self.commit(command, note)
                await until(over, wait_s)
            return await self.shown(command.task_id, 201, location)

        async def again(known: Answer) -> Response:
            number = parse_id(known.body.decode()) or 0
            if wait_s:
                await self.wait_if_live(number, wait_s)
            return await self.shown(number, known.status, *replayed(known))

        return await once(self.context, request, fresh, again)

    async def commit(self, command: Submit, note: Note) -> Reply:
        """Make one task durable. Raises: TooMany, and as Engine.call_all."""
        text = id_text(command.task_id)
        ask = await self.engine.call_all(
            (command,), remember(note, 201, text.encode(), f"/v1/tasks/{text}"))
        reply = ask.replies[0]
        if reply.code:
            raise TooMany(reply.detail, retry_after_s=1)
        return reply

    async def wait_if_live(self, task_id: int, seconds: float) -> None:
        """Wait for a task's end, unless it is over already."""
        with self.context.watching(task_id) as over:
            if self.engine.core.knows(task_id) is not None:
                await until(over, seconds)
            else:
                await self.context.settled()    # its end may be on its way to the disk

    async def shown(self, task_id: int, status: int, *headers: tuple[str, str]) -> Response:
        """The task as it is now."""
        row = self.context.store.peek(tasks.get, task_id)
        if row is None:
            raise NotFound("no such task")
        view = await whole_view(row, self.engine, self.context.blobs)
        return answer(status, view, *headers)

    async def bulk(self, request: Request) -> Response:
        """Each item is checked by itself; those that are good are committed together."""

        async def fresh(note: Note) -> Response:
            results, commands = await self.bulk_items(strict(request.body, BulkCreate).tasks)
            live = sum(self.engine.core.counts_by_state())
            if live + len(commands) > self.engine.limits.tasks_max:
                raise TooMany(f"there are {live} live tasks already", retry_after_s=5)
            response = answer(200, BulkAnswer(results))
            await self.engine.call_all(commands, remember(note, 200, response.body))
            return response

        return await once(self.context, request, fresh, again_as_it_was)

    async def bulk_items(self, items: list[Raw]) -> tuple[list[BulkItem], list[Submit]]:
        """What is answered for each item, and the commands of those that are good."""
        results: list[BulkItem] = []
        commands: list[Submit] = []
        drafts = bodies.Drafts(self.context.catalog)
        ids = self.engine.new_ids(len(items)) if items else range(0)
        for index, (item, task_id) in enumerate(zip(items, ids, strict=True)):
            if index % ITEMS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
            try:
                body = strict(bytes(item), TaskCreate)
                command = await self.prepared(drafts.submit(body, task_id), body.expire_at)
            except PlumError as refusal:
                results.append(BulkItem(error=item_problem(refusal, f"tasks[{index}]")))
                continue
            commands.append(command)
            results.append(BulkItem(id_text(task_id)))
        return results, commands

    async def act(self, request: Request) -> Response:
        """?action=start | cancel | rerun."""
        actions = {"start": self.start, "cancel": self.cancel, "rerun": self.rerun}
        action = query_action(request.query, tuple(actions))
        return await actions[action](request)

    async def start(self, request: Request) -> Response:
        """Let a Queued task go."""
        row = known_task(self.context.store, request)
        reply = await self.engine.call(Start(row.id))
        if reply.code:
            raise WrongState(reply.detail)
        return await self.shown(row.id, 200)

    async def cancel(self, request: Request) -> Response:
        """End a task; canceling a canceled one again is no mistake."""
        row = known_task(self.context.store, request)
        with self.context.watching(row.id) as over:
            reply = await self.engine.call(Cancel(row.id))
            if reply.code:
                now = known_task(self.context.store, request)
                if now.state != TaskState.CANCELED:
                    raise WrongState(f"the task is {TASK_STATES[now.state]} already")
            elif wait_s := prefer_wait_s(request.headers):
                await until(over, wait_s)
        return await self.shown(row.id, 200)

    async def cancel_lenient(self, request: Request) -> Response:
        """The older path of the same."""
        return await self.cancel(request)

    async def rerun(self, request: Request) -> Response:
        """A new task like this one."""

        async def asked() -> Submit:
            return await self.once_more(known_task(self.context.store, request))

        return await self.submit_one(request, asked)

    async def once_more(self, row: TaskRow) -> Submit:
        """A task like this one, without an id yet."""
        payload = row.payload
        if row.payload_blob:
            payload = await self.context.blobs.load(row.payload_blob)
        labels = {} if row.labels is None else LABELS(row.labels)
        return await self.prepared(Submit(
            0, row.name, row.kind, row.target_kind, row.target_ref, row.def_id, row.def_version,
            row.priority, row.timeout_ms, row.queue_timeout_ms, row.max_retries, row.on_lost,
            origin_id=row.id, concurrency_key=row.concurrency_key,
            concurrency_limit=row.concurrency_limit, on_conflict=row.on_conflict,
            payload=payload, labels=tuple(sorted(labels.items()))))

    async def bulk_cancel(self, request: Request) -> Response:
        """Cancel many; each answers by itself."""
        texts = strict(request.body, BulkCancel).task_ids
        numbers = [parse_id(text) or 0 for text in texts]
        ask = await self.engine.call_all([Cancel(number) for number in numbers])
        results = []
        for text, number, reply in zip(texts, numbers, ask.replies, strict=True):
            if reply.ok:
                results.append(BulkItem(text))
                continue
            row = self.context.store.peek(tasks.get, number)
            if row is not None and row.state == TaskState.CANCELED:
                results.append(BulkItem(text))
            else:
                refusal: PlumError = NotFound("no such task") if row is None else WrongState(
                    f"the task is {TASK_STATES[row.state]} already")
                results.append(BulkItem(text, item_problem(refusal, "")))
        return answer(200, BulkAnswer(results))

    async def delete(self, request: Request) -> Response:
        """Remove a task that is over, with all that belongs to it."""
        row = known_task(self.context.store, request)
        if row.run_id and self.engine.runs.live.get(row.run_id) is not None:
            raise WrongState("the task belongs to a workflow run that goes on")

        def remove(tx: Tx) -> bool:
            gone = tasks.delete(tx.db, row.id)
            if gone:
                tx.emit("taskDeleted", row.id, tx.now_ms)
            return gone

        if not await self.engine.write(remove):
            raise WrongState("only a task that is over can be deleted; cancel it first")
        await trio.to_thread.run_sync(self.processes.forget, row.id)
        return Response(204)

    # ------------------------------------------------------------ reading

    async def get(self, request: Request) -> Response:
        """One task, whole. With `Prefer: wait` at its end."""
        row = known_task(self.context.store, request)
        wait_s = prefer_wait_s(request.headers)
        if wait_s and row.state < TaskState.SUCCEEDED:
            await self.wait_if_live(row.id, wait_s)
        return await self.shown(row.id, 200)

    async def attempts(self, request: Request) -> Response:
        """Every attempt of a task."""
        row = known_task(self.context.store, request)
        past = self.context.store.peek(tasks.attempts, row.id)
        return answer(200, attempt_views(row, past))

    async def why(self, request: Request) -> Response:
        """The true reasons why a task waits."""
        row = known_task(self.context.store, request)
        causes = self.engine.core.why(row.id) or ()
        if causes and row.kind == Kind.SERVICE:
            causes = (*causes, *self.registry.why(row.target_ref))
        known = self.engine.core.knows(row.id)
        state = row.state if known is None else known[0]
        return answer(200, WhyView(id_text(row.id), TASK_STATES[state], causes))


def item_problem(refusal: PlumError, where: str) -> Problem:
    """What was wrong with one item of a bulk."""
    field = refusal.field and (f"{where}.{refusal.field}" if where else refusal.field)
    return Problem(TYPE_PREFIX + refusal.code, refusal.code.replace("_", " "), refusal.status,
                   refusal.code, refusal.detail, field)


STATES: Final = Query("state", str, f"Only these, with commas: {', '.join(TASK_STATES)}")


def states_of(query: Mapping[str, str]) -> tuple[int, ...]:
    """The states that ?state= names, whatever their case. Raises: Invalid."""
    names = {name.lower(): number for number, name in enumerate(TASK_STATES)}
    found = []
    for part in filter(None, query.get("state", "").split(",")):
        if part.strip().lower() not in names:
            raise Invalid(f"state is some of: {', '.join(TASK_STATES)}, with commas", field="state")
        found.append(names[part.strip().lower()])
    return tuple(dict.fromkeys(found))


def routes(handlers: Tasks) -> list[Route]:
    """The table's part about tasks."""
    read, write = "tasks:read", "tasks:write"
    return [
        Route("POST", "/v1/tasks", handlers.submit, "Submit a task", "tasks", write,
              body=TaskCreate, answers={201: TaskView}, query=(PREFER,), hot=True,
              body_bytes_max=BODY_MAX),
        Route("POST", "/v1/tasks/bulk", handlers.bulk, "Submit up to 10,000 tasks", "tasks", write,
              body=BulkCreateShape, answers={200: BulkAnswer}, query=(IDEMPOTENCY_KEY,), hot=True,
              body_bytes_max=BULK_BYTES_MAX),
        Route("POST", "/v1/tasks/bulk-cancel", handlers.bulk_cancel, "Cancel up to 10,000 tasks",
              "tasks", write, body=BulkCancel, answers={200: BulkAnswer}),
        Route("GET", "/v1/tasks/{id}", handlers.get, "Get a task", "tasks", read,
              answers={200: TaskView}, query=(PREFER,)),
        Route("POST", "/v1/tasks/{id}", handlers.act, "Start, cancel or rerun a task", "tasks",
              write, answers={200: TaskView, 201: TaskView}, query=(
                  PREFER, Query("action", str, "What to do", required=True,
                        choices=("start", "cancel", "rerun")),)),
        Route("POST", "/v1/tasks/cancel/{id}", handlers.cancel_lenient, "Cancel a task (old path)",
              "tasks", write, answers={200: TaskView}, lenient=True),
        Route("DELETE", "/v1/tasks/{id}", handlers.delete, "Delete a task that is over", "tasks",
              write, answers={204: None}),
        Route("GET", "/v1/tasks/{id}/attempts", handlers.attempts, "List a task's attempts",
              "tasks", read, answers={200: list[AttemptView]}),
        Route("GET", "/v1/tasks/{id}/why", handlers.why, "Why a task waits", "tasks", read,
              answers={200: WhyView}),
        Route("GET", "/v1/tasks/{id}/logs", handlers.logs.answer,
              "What a process printed or a worker said", "tasks", read, answers={200: str}, query=(
                  Query("attempt", int, "Which attempt; default the last"),
                  Query("offset", int, "Where to begin; below 0 from the end"),
                  Query("limit", int, "At most so many bytes"),
                  Query("follow", bool, "Stay and show more as it comes"))),
    ]
