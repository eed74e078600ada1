"""What a workflow said at each time, and what changed between."""

from __future__ import annotations

import msgspec

from plumd.api.context import Context, answer, etag, id_param
from plumd.api.openapi import IF_CHANGED
from plumd.api.paging import CURSOR, LIMIT, cursor_id, page_limit, page_of
from plumd.api.params import query_int
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.workflow_files import portable_of
from plumd.api.workflows import Workflows, WorkflowView, workflow_view
from plumd.errors import NotFound
from plumd.flow.difference import Change, changes
from plumd.store import definitions
from plumd.store.definitions import WORKFLOWS, Versioned


class DiffView(msgspec.Struct, frozen=True, rename="camel"):
    """What is different between two versions."""

    from_: int = msgspec.field(name="from")
    to: int
    changes: list[Change]


class WorkflowVersions:
    """The handlers."""

    def __init__(self, context: Context, workflows: Workflows) -> None:
        self.context = context
        self.workflows = workflows

    async def one(self, request: Request) -> Response:
        """One version; both times are those of the version."""
        number = id_param(request, "workflow")
        text = request.params["version"]
        wanted = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
        if not wanted or self.context.catalog.workflow(number) is None:
            raise NotFound("no such version")
        rows = await self.context.store.read(
            definitions.workflow_versions, number, wanted + 1, 1)
        if not rows or rows[0][0] != wanted:
            raise NotFound("no such version")
        return answer(200, workflow_view(Versioned(number, wanted, rows[0][1], rows[0][2],
                                                   rows[0][2])), etag(wanted))

    async def diff(self, request: Request) -> Response:
        """What changed from one version to another, by default from the last but one."""
        found = self.workflows.current(id_param(request, "workflow"))
        to = query_int(request.query, "to", 0, low=1, high=1 << 31)
        from_ = query_int(request.query, "from", 0, low=1, high=1 << 31)
        to = to or found.version
        from_ = from_ or max(1, to - 1)
        bodies = [portable_of(self.workflows.version_of(found, one).body, self.context.catalog)
                  for one in (from_, to)]
        return answer(200, DiffView(from_, to, changes(*bodies)))

    async def page(self, request: Request) -> Response:
        """All versions, newest first; both times are those of the version."""
        store, number = self.context.store, id_param(request, "workflow")
        found = store.peek(definitions.get, WORKFLOWS, number)
        if found is None:
            raise NotFound("no such workflow")
        limit = page_limit(request)
        below = cursor_id(request) or found.version + 1
        rows = await store.read(definitions.workflow_versions, number, below, limit + 1)
        return page_of(request, [Versioned(number, version, body, created_ms, created_ms)
                                 for version, body, created_ms in rows],
                       limit, workflow_view, lambda row: row.version)


def routes(handlers: WorkflowVersions) -> list[Route]:
    """The table's part about versions of workflows."""
    read, tag, one = "workflows:read", "workflows", "/v1/workflows/{id}"
    return [
        Route("GET", one + "/versions", handlers.page, "List all versions", tag, read,
              answers={200: list[WorkflowView]}, query=(LIMIT, CURSOR)),
        Route("GET", one + "/versions/{version}", handlers.one, "Get a version", tag, read,
              answers={200: WorkflowView, 304: None}, query=(IF_CHANGED,)),
        Route("GET", one + "/diff", handlers.diff, "What changed between two versions", tag, read,
              answers={200: DiffView}, query=(
                  Query("from", int, "The older one; default the one before `to`"),
                  Query("to", int, "The newer one; default the current one"))),
    ]
