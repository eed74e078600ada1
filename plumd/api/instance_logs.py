"""/v1/instances/{id}/logs: what an instance prints, which its node's agent shows as it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

from plumd.api.params import query_bool, query_int
from plumd.api.routes import Query, Request, Response, Route
from plumd.errors import NodeUnreachable, NotFound, PlumError, reason
from plumd.model import AGENT_PREFIX
from plumd.outbox import Outbox
from plumd.sdk.protocol import PAGE_BYTES_MAX, Look, Page
from plumd.stream.session import Session

PLAIN: Final = "text/plain; charset=utf-8"
FOLLOW_WAIT_S: Final = 20.0
RUNS_MAX: Final = 1 << 31


class InstanceLogs:
    """The handler. node_of: an instance's node, "" when it has none. Raises NotFound."""

    def __init__(self, outbox: Outbox, node_of: Callable[[str], str]) -> None:
        self.outbox = outbox
        self.node_of = node_of

    async def answer(self, request: Request) -> Response:
        """A page of one start's output, or with follow=true all of it as it comes, and of the
        starts that follow."""
        instance_id, query = request.params["id"], request.query
        self.node_of(instance_id)
        follows = query_bool(query, "follow")
        look = Look(
            "", instance_id, run=query_int(query, "run", 0, low=0, high=RUNS_MAX),
            offset=query_int(query, "offset", 0, low=-(1 << 53), high=1 << 53),
            limit=query_int(query, "limit", PAGE_BYTES_MAX, low=1, high=PAGE_BYTES_MAX))
        page = await self.ask(instance_id, look)
        if not page.run:
            raise NotFound("nothing is kept of this instance's output")
        if follows:
            return Response(200, content_type=PLAIN, stream=self.follow(instance_id, page))
        return Response(200, page.data, PLAIN, (
            ("plum-run", str(page.run)), ("plum-last-run", str(page.last_run)),
            ("plum-next-offset", str(page.next_offset)),
            ("plum-finished", "true" if page.finished else "false")))

    async def ask(self, instance_id: str, look: Look) -> Page:
        """The agent's answer. Raises: NotFound, NodeUnreachable."""
        node_id = self.node_of(instance_id)
        if not node_id:
            raise NotFound("this instance has no node yet")
        session = self.outbox.carrier_of(AGENT_PREFIX + node_id)
        if not isinstance(session, Session):
            raise NodeUnreachable(f"the agent of {node_id} is not connected",
                                  more=reason("agent_away", node=node_id))
        page = await session.look(look)
        if page is None:
            raise NodeUnreachable(f"the agent of {node_id} does not answer",
                                  more=reason("agent_silent", node=node_id))
        return page

    async def follow(self, instance_id: str, page: Page) -> AsyncIterator[bytes]:
        """What comes from this page on, until the instance or its node is gone."""
        with suppress(PlumError):
            while page.run:
                if page.left_out:
                    yield b"[... %d bytes left out ...]\n" % page.left_out
                if page.data:
                    yield page.data
                following = page.finished and page.run < page.last_run
                page = await self.ask(instance_id, Look(
                    "", instance_id, run=page.run + following,
                    offset=0 if following else page.next_offset, wait_sec=FOLLOW_WAIT_S))


def routes(logs: InstanceLogs) -> list[Route]:
    """Their routes."""
    return [
        Route("GET", "/v1/instances/{id}/logs", logs.answer, "What an instance prints",
              "deployments", "deployments:read", answers={200: str}, errors=(502,), query=(
                  Query("run", int, "Which start of it, from 1; default the latest"),
                  Query("offset", int, "Where to begin; below 0 from the end"),
                  Query("limit", int, "At most so many bytes"),
                  Query("follow", bool, "Stay and show more as it comes"))),
    ]
