"""/v1/assignments and /v1/instances/status: what agents ask and say. Old agents' routes."""

from __future__ import annotations

from functools import partial

import msgspec

from plumd.api.context import Context, answer, id_param
from plumd.api.decode import lenient
from plumd.api.deployment_bodies import (
    AssignmentsView,
    AssignmentWrite,
    Status,
    Statuses,
    assignment_view,
)
from plumd.api.params import query_text
from plumd.api.routes import Query, Request, Response, Route
from plumd.deployments import Deployments, Report
from plumd.errors import NotFound
from plumd.fleet import PHASES, Phase, Usage
from plumd.model import parse_id
from plumd.store import instances


class StatusGiven(msgspec.Struct, frozen=True, rename="camel"):
    """Whether there are several of them."""

    items: list[msgspec.Raw] | None = None


class Assignments:
    """The handlers."""

    def __init__(self, context: Context, room: Deployments) -> None:
        self.context = context
        self.room = room

    async def page(self, request: Request) -> Response:
        """What a node shall run; asking is a sign of life."""
        node_id = query_text(request.query, "nodeId")
        found = await self.room.assignments(node_id)
        return answer(200, AssignmentsView([assignment_view(one) for one in found],
                                           self.room.nodes.revision(node_id)))

    async def change(self, request: Request) -> Response:
        """Stop one copy alone, or let it run again."""
        number = id_param(request, "instance")
        if self.context.store.peek(instances.get, number) is None:
            raise NotFound("no such instance")
        given = lenient(request.body, AssignmentWrite)
        await self.room.ask(lambda: self.room.hold(number, held=given.desired == "Stopped"))
        return Response(204)

    async def remove(self, request: Request) -> Response:
        """Take one copy away for good."""
        number = id_param(request, "instance")
        await self.room.ask(lambda: self.room.remove(number))
        return Response(204)

    async def report(self, request: Request) -> Response:
        """What becomes of copies, one or several."""
        if lenient(request.body, StatusGiven).items is not None:
            given = lenient(request.body, Statuses).items
            found = [report_of(one) for one in given]
            await self.room.report([one for one in found if one is not None], strict=False)
            return Response(204)
        one = report_of(lenient(request.body, Status))
        if one is None:
            raise NotFound("no such instance; end it", field="instanceId")
        await self.room.report([one], strict=True)
        return Response(204)


def report_of(given: Status) -> Report | None:
    """What is said; None when it is of no copy at all."""
    number = parse_id(given.instance_id)
    if number is None:
        return None
    return Report(number, Phase(PHASES.index(given.phase)), given.healthy, given.exit_code,
                  given.signal or None, given.restarts, given.pid, given.message,
                  given.started_at,
                  None if given.stats is None else msgspec.convert(given.stats, Usage,
                                                                   from_attributes=True),
                  given.node_id)


def routes(handlers: Assignments) -> list[Route]:
    """The table's part about what agents ask and say."""
    serve = partial(Route, tag="nodes", permission="nodes:serve", lenient=True, trusted=True)
    write = partial(Route, tag="deployments", permission="deployments:write", lenient=True,
                    answers={204: None})
    one = "/v1/assignments/{id}"
    return [
        serve("GET", "/v1/assignments", handlers.page, "What a node shall run",
              answers={200: AssignmentsView},
              query=(Query("nodeId", str, "The node", required=True),)),
        write("PATCH", one, handlers.change, "Stop one instance alone, or let it run again",
              body=AssignmentWrite),
        write("DELETE", one, handlers.remove, "Take one instance away for good"),
        serve("POST", "/v1/instances/status", handlers.report, "What became of an instance",
              body=Status, answers={204: None}, hot=True),
    ]
