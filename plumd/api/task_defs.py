"""/v1/task-defs: templates of tasks, with versions."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw

from plumd.api.context import Context, Note, answer, etag, id_param, once, replayed
from plumd.api.decode import strict
from plumd.api.openapi import IF_CHANGED, IF_MATCH, PREFER
from plumd.api.paging import CURSOR, LIMIT, cursor_id, page_limit, page_of
from plumd.api.params import if_version, query_action, query_int
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.task_bodies import RunAsked, TaskDefWrite, definition_of, run_of
from plumd.api.task_views import NULL, TaskView
from plumd.api.tasks import BODY_MAX, Tasks
from plumd.bodies import TaskDefBody
from plumd.errors import NotFound
from plumd.model import Submit, id_text, parse_id
from plumd.store import definitions
from plumd.store.definitions import TASK_DEFS, Versioned
from plumd.store.keys import Answer
from plumd.store.store import Tx


class TaskDefView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A task definition."""

    def_id: str
    version: int
    name: str
    executor: str
    target_kind: str
    target_ref: str
    labels: dict[str, str]
    default_payload: Raw
    timeout_sec: float | None
    queue_timeout_sec: float
    max_retries: int
    priority: int
    on_lost: str
    overridable: tuple[str, ...]
    concurrency_key: str
    concurrency_limit: int
    on_conflict: str
    description: str
    created_at: int
    updated_at: int


def def_view(found: Versioned[TaskDefBody]) -> TaskDefView:
    """A definition as the API shows it."""
    body = found.body
    return TaskDefView(
        def_id=id_text(found.id), version=found.version, name=body.name, executor=body.executor,
        target_kind=body.target_kind, target_ref=body.target_ref, labels=body.labels,
        default_payload=NULL if body.default_payload is UNSET else body.default_payload,
        timeout_sec=body.timeout_sec, queue_timeout_sec=body.queue_timeout_sec,
        max_retries=body.max_retries, priority=body.priority, on_lost=body.on_lost,
        overridable=body.overridable,
        concurrency_key=body.concurrency_key, concurrency_limit=body.concurrency_limit,
        on_conflict=body.on_conflict, description=body.description, created_at=found.created_ms,
        updated_at=found.updated_ms)


class TaskDefs:
    """The handlers."""

    def __init__(self, context: Context, tasks: Tasks) -> None:
        self.context = context
        self.tasks = tasks

    async def create(self, request: Request) -> Response:
        """A new definition; its name is free."""

        async def fresh(note: Note) -> Response:
            body = definition_of(strict(request.body, TaskDefWrite))
            number = self.context.engine.new_id()
            location = f"/v1/task-defs/{id_text(number)}"

            def write(tx: Tx) -> Versioned[TaskDefBody]:
                made = definitions.create(tx, TASK_DEFS, number, body)
                note.write(tx, 201, id_text(number).encode(), location)
                return made

            made = await self.context.define(write)
            return answer(201, def_view(made), ("location", location), etag(made.version))

        async def again(known: Answer) -> Response:
            found = self.current(parse_id(known.body.decode()) or 0)
            return answer(known.status, def_view(found), *replayed(known), etag(found.version))

        return await once(self.context, request, fresh, again)

    def current(self, number: int) -> Versioned[TaskDefBody]:
        """Raises: NotFound."""
        found = self.context.catalog.task_def(number)
        if found is None:
            raise NotFound("no such task definition")
        return found

    def known(self, request: Request) -> Versioned[TaskDefBody]:
        """The definition that the path names. Raises: NotFound."""
        return self.current(id_param(request, "task definition"))

    async def get(self, request: Request) -> Response:
        """The current version, or the one of ?version=."""
        found = self.known(request)
        wanted = query_int(request.query, "version", found.version, low=1, high=1 << 31)
        if wanted != found.version:
            body = self.context.store.peek(definitions.version, TASK_DEFS, found.id, wanted)
            if body is None:
                raise NotFound(f"there is no version {wanted}")
            found = msgspec.structs.replace(found, version=wanted, body=body)
        return answer(200, def_view(found), etag(found.version))

    async def update(self, request: Request) -> Response:
        """A new version; with If-Match only when nobody was faster."""
        found = self.known(request)
        body = definition_of(strict(request.body, TaskDefWrite))
        version = if_version(request.headers)
        made = await self.context.define(
            lambda tx: definitions.update(tx, TASK_DEFS, found.id, body, version))
        return answer(200, def_view(made), etag(made.version))

    async def delete(self, request: Request) -> Response:
        """Remove a definition that no workflow uses; its tasks stay."""
        found, version = self.known(request), if_version(request.headers)
        await self.context.define(
            lambda tx: definitions.delete_task_def(tx, found.id, version))
        return Response(204)

    async def page(self, request: Request) -> Response:
        """Newest first, or the one with ?name=."""
        if name := request.query.get("name"):
            one = self.context.catalog.task_def_named(name)
            return answer(200, [] if one is None else [def_view(one)])
        limit = page_limit(request)
        rows = await self.context.store.read(
            definitions.page, TASK_DEFS, cursor_id(request), limit + 1)
        return page_of(request, rows, limit, def_view, lambda row: row.id)

    async def versions(self, request: Request) -> Response:
        """All versions, newest first; both times are those of the version."""
        found = self.known(request)
        limit = page_limit(request)
        below = cursor_id(request) or found.version + 1
        rows = await self.context.store.read(definitions.versions, found.id, below, limit + 1)
        return page_of(request, [Versioned(found.id, version, body, created_ms, created_ms)
                                 for version, body, created_ms in rows],
                       limit, def_view, lambda row: row.version)

    async def act(self, request: Request) -> Response:
        """?action=run"""
        query_action(request.query, ("run",))

        async def asked() -> Submit:
            found = self.known(request)
            body = strict(request.body, RunAsked) if request.body.strip() else RunAsked()
            return await self.tasks.prepared(run_of(found, body))

        return await self.tasks.submit_one(request, asked)


def routes(handlers: TaskDefs) -> list[Route]:
    """The table's part about task definitions."""
    read, write, tag = "definitions:read", "definitions:write", "task definitions"
    one = "/v1/task-defs/{id}"
    return [
        Route("POST", "/v1/task-defs", handlers.create, "Create a task definition", tag, write,
              body=TaskDefWrite, answers={201: TaskDefView}, body_bytes_max=BODY_MAX),
        Route("GET", "/v1/task-defs", handlers.page, "List task definitions, newest first", tag,
              read, answers={200: list[TaskDefView]},
              query=(LIMIT, CURSOR, Query("name", str, "The one with this name"))),
        Route("GET", one, handlers.get, "Get a task definition", tag, read,
              answers={200: TaskDefView, 304: None},
              query=(IF_CHANGED, Query("version", int, "A past version"))),
        Route("PUT", one, handlers.update, "Make a new version of a task definition", tag, write,
              body=TaskDefWrite, answers={200: TaskDefView}, query=(IF_MATCH,),
              body_bytes_max=BODY_MAX),
        Route("DELETE", one, handlers.delete, "Delete a task definition", tag, write,
              answers={204: None}, query=(IF_MATCH,)),
        Route("GET", one + "/versions", handlers.versions, "List all versions", tag, read,
              answers={200: list[TaskDefView]}, query=(LIMIT, CURSOR)),
        Route("POST", one, handlers.act, "Run a task definition", tag, "tasks:write",
              body=RunAsked, body_optional=True, answers={201: TaskView}, hot=True,
              query=(PREFER, Query("action", str, "run", required=True, choices=("run",))),
              body_bytes_max=BODY_MAX),
    ]
