"""/v1/nodes: the machines, as their agents tell of them. Old agents' routes, and what people do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Annotated, Final

import msgspec
import trio
from msgspec import Meta

from plumd.api.context import Context, answer
from plumd.api.decode import lenient, strict
from plumd.api.paging import ALL_OR_LIMIT, CURSOR, all_or_limit, cursor_key, page_of
from plumd.api.params import query_action, query_choice
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.watch import KEEPALIVE_S, STILL_HERE, WAKE_S_MIN
from plumd.errors import Invalid
from plumd.fleet import Labels, NodeName
from plumd.nodes import HEALTHS, Beat, Nodes, Seen
from plumd.store.nodes import Facts

ACTIONS: Final = ("drain", "undrain")
BEATS: Final = 3
Host = Annotated[str, Meta(max_length=255, pattern=r"^[A-Za-z0-9._:%\[\]-]*$(?!\n)")]
Text = Annotated[str, Meta(max_length=200)]
Size = Annotated[int, Meta(ge=0, le=1 << 60)]
Share = Annotated[float, Meta(ge=0, le=1e9)]


class FactsGiven(msgspec.Struct, frozen=True, rename="camel"):
    """What an agent measured. Bytes, percent 0 .. 100."""

    cpus: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    cpu_percent: Share = 0.0
    mem_total: Size = 0
    mem_available: Size = 0
    disk_total: Size = 0
    disk_free: Size = 0
    load1: Share = 0.0
    os: Text = ""
    arch: Text = ""
    boot_id: Text = ""


class NodeBeat(msgspec.Struct, frozen=True, rename="camel"):
    """An agent's sign of life; an ip that it does not know is the caller's. key: its secret.  run:
    drawn at each of its starts."""

    node_id: NodeName
    ip: Host = ""
    labels: Labels = {}
    facts: FactsGiven | None = None
    agent_version: Text = ""
    boot_id: Text = ""
    key: Annotated[str, Meta(max_length=500)] = ""
    run: Text = ""


class BeatAnswer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """ttlSec: the node is lost after so long without a word.  beatSec: how often to beat.

    assignments: the `revision` of what the node shall run; left out: look in any case.
    """

    ttl_sec: float
    beat_sec: float
    draining: bool
    assignments: str = ""


class NodeView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A node. lastSeen: its last sign of life, Unix ms.  labels: the agent's with the operator's
    ownLabels over them.  instancesMax: 0 = any number."""

    node_id: str
    ip: str
    health: str
    last_seen: int
    labels: dict[str, str]
    own_labels: dict[str, str]
    instances_max: int
    instances: int
    draining: bool
    lost_at: int | None
    agent_version: str
    boot_id: str
    facts: Facts
    registered_at: int


class NodeWrite(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What an operator says of a node; what is left out stays."""

    labels: Labels | None = None
    instances_max: Annotated[int, Meta(ge=0, le=100_000)] | None = None


class NodeAsked(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Nothing: an action takes no more than its name."""


def whole(seconds: float) -> float:
    """A number of seconds, without a fraction where there is none: old agents read an integer."""
    return int(seconds) if seconds == int(seconds) else seconds


def view(seen: Seen, counts: Mapping[str, int]) -> NodeView:
    """A node as the API shows it."""
    row = seen.row
    return NodeView(
        node_id=row.node_id, ip=row.ip, health=seen.health, last_seen=seen.seen_ms,
        labels=row.all_labels, own_labels=row.own_labels, instances_max=row.instances_max,
        instances=counts.get(row.node_id, 0), draining=row.draining, lost_at=row.lost_ms or None,
        agent_version=row.agent_version, boot_id=row.boot_id, facts=seen.facts,
        registered_at=row.created_ms)


class NodeRoutes:
    """The handlers."""

    def __init__(self, context: Context, nodes: Nodes,
                 counts: Callable[[], Mapping[str, int]]) -> None:
        """counts: how many copies each node has."""
        self.context = context
        self.nodes = nodes
        self.counts = counts

    async def beat(self, request: Request) -> Response:
        """Renews; writes only what changed."""
        given = lenient(request.body, NodeBeat)
        facts = None if given.facts is None else facts_of(given.facts)
        seen = await self.nodes.beat(
            Beat(given.node_id, given.ip or request.peer, given.labels, facts,
                 given.agent_version, given.boot_id, given.key, given.run), request.peer)
        ttl_s = self.nodes.ttl_s
        return answer(200, BeatAnswer(whole(ttl_s), whole(ttl_s / BEATS), seen.row.draining,
                                      seen.assignments))

    async def page(self, request: Request) -> Response:
        """Nodes by id; all of them unless ?limit= is given."""
        health = query_choice(request.query, "health", HEALTHS)
        label = label_of(request.query.get("label", ""))
        after = cursor_key(request) or ""
        found = [seen for seen in self.nodes.every()
                 if seen.row.node_id > after and health in ("", seen.health)
                 and (label is None or seen.row.all_labels.get(label[0]) == label[1])]
        counts = self.counts()
        return page_of(request, found, all_or_limit(request), lambda seen: view(seen, counts),
                       lambda seen: seen.row.node_id)

    async def get(self, request: Request) -> Response:
        """One node."""
        return self.shown(self.nodes.get(request.params["id"]))

    def shown(self, seen: Seen) -> Response:
        """A node as it is now."""
        return answer(200, view(seen, self.counts()))

    async def act(self, request: Request) -> Response:
        """?action=drain or undrain"""
        action = query_action(request.query, ACTIONS)
        node_id = self.nodes.get(request.params["id"]).row.node_id
        if request.body.strip():
            strict(request.body, NodeAsked)
        return self.shown(await self.nodes.drain(node_id, on=action == "drain"))

    async def change(self, request: Request) -> Response:
        """The operator's labels and bounds."""
        node_id = self.nodes.get(request.params["id"]).row.node_id
        given = strict(request.body, NodeWrite)
        return self.shown(await self.nodes.configure(node_id, given.labels, given.instances_max))

    async def delete(self, request: Request) -> Response:
        """Forget a node that nothing is on."""
        await self.nodes.remove(request.params["id"])
        return Response(204)

    async def wake(self, node_id: str) -> AsyncIterator[bytes]:
        """One frame whenever a node's agent has something new to look at."""
        with self.nodes.watch(node_id) as bell:
            count = bell.count      # from before the reader looks for the first time
            yield b"event: ping\ndata: init\n\n"
            while True:
                with trio.move_on_after(KEEPALIVE_S):
                    await bell.wait_beyond(count)
                if bell.count == count:
                    yield STILL_HERE
                    continue
                count = bell.count
                yield b"event: update\ndata: assignments\n\n"
                await trio.sleep(WAKE_S_MIN)        # what comes meanwhile shares the next frame


def facts_of(given: FactsGiven) -> Facts:
    """The same for the store."""
    return Facts(given.cpus, given.cpu_percent, given.mem_total, given.mem_available,
                 given.disk_total, given.disk_free, given.load1, given.os, given.arch,
                 given.boot_id)


def label_of(text: str) -> tuple[str, str] | None:
    """key=value of a query. Raises: Invalid."""
    if not text:
        return None
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Invalid("a label is written key=value", field="label")
    return key, value


def routes(handlers: NodeRoutes) -> list[Route]:
    """The table's part about nodes."""
    tag, one = "nodes", "/v1/nodes/{id}"
    read = partial(Route, "GET", tag=tag, permission="nodes:read", lenient=True)
    write = partial(Route, tag=tag, permission="nodes:write")
    return [
        Route("POST", "/v1/nodes/heartbeat", handlers.beat, "An agent's sign of life", tag,
              "nodes:serve", body=NodeBeat, answers={200: BeatAnswer}, lenient=True, trusted=True,
              hot=True),
        read("/v1/nodes", handlers.page, "List nodes", answers={200: list[NodeView]}, trusted=True,
             query=(Query("health", str, "Only those", choices=HEALTHS),
                    Query("label", str, "key=value: only with this label"),
                    ALL_OR_LIMIT, CURSOR)),
        read(one, handlers.get, "Get a node", answers={200: NodeView}, trusted=True),
        write("POST", one, handlers.act, "Drain a node, or let it take instances again",
              body=NodeAsked, body_optional=True, answers={200: NodeView},
              query=(Query("action", str, "What to do", required=True, choices=ACTIONS),)),
        write("PATCH", one, handlers.change, "Label a node, or bound what runs on it",
              body=NodeWrite, answers={200: NodeView}),
        write("DELETE", one, handlers.delete, "Forget a node that nothing is on", lenient=True,
              answers={204: None}),
    ]
