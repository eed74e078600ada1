"""What a workflow said at each time."""

from __future__ import annotations

from plumd.api.context import Context, answer, id_param
from plumd.api.paging import CURSOR, LIMIT, next_link, page_limit
from plumd.api.routes import Request, Response, Route
from plumd.api.tasks import before_of
from plumd.api.workflows import WorkflowView, workflow_view
from plumd.errors import NotFound
from plumd.store import definitions
from plumd.store.definitions import WORKFLOWS, Versioned


class WorkflowVersions:
    """The handler."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def page(self, request: Request) -> Response:
        """All versions, newest first; both times are those of the version."""
        store, number = self.context.store, id_param(request, "workflow")
        found = store.peek(definitions.get, WORKFLOWS, number)
        if found is None:
            raise NotFound("no such workflow")
        limit = page_limit(request)
        below = before_of(request) or found.version + 1
        rows = await store.read(definitions.workflow_versions, number, below, limit)
        link = (next_link(request, str(rows[-1][0])),) if len(rows) == limit else ()
        views = [workflow_view(Versioned(number, version, body, created_ms, created_ms))
                 for version, body, created_ms in rows]
        return answer(200, views, *link)


def routes(handlers: WorkflowVersions) -> list[Route]:
    """The table's part about versions of workflows."""
    return [Route("GET", "/v1/workflows/{id}/versions", handlers.page, "List all versions",
                  "workflows", "workflows:read", answers={200: list[WorkflowView]},
                  query=(LIMIT, CURSOR))]
