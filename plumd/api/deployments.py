"""/v1/deployments and /v1/instances: what is wanted, what there is of it, and what would be."""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from plumd.api.context import ENCODE, Context, Note, again_as_it_was, answer, etag, id_param, once
from plumd.api.decode import lenient, strict
from plumd.api.deployment_bodies import (
    DeploymentAnew,
    DeploymentView,
    DeploymentWrite,
    InstanceView,
    PlanView,
    Scale,
    VersionView,
    body_of,
    deployment_view,
    instance_view,
    plan_view,
    version_view,
)
from plumd.api.openapi import IDEMPOTENCY_KEY, IF_MATCH
from plumd.api.paging import (
    ALL_OR_LIMIT,
    CURSOR,
    LIMIT,
    all_or_limit,
    cursor_id,
    page_limit,
    page_of,
)
from plumd.api.params import idempotency_key, if_version, query_action, query_choice
from plumd.api.routes import Query, Request, Response, Route
from plumd.deployments import Deployments
from plumd.errors import Invalid, NotFound
from plumd.fleet import PHASES, Body
from plumd.model import id_text, parse_id
from plumd.store import deployments, instances
from plumd.store.deployments import DeploymentRow

ACTIONS: Final = ("start", "stop", "scale", "rollback")
STATES: Final = (*PHASES, "Unhealthy")


class Created(msgspec.Struct, frozen=True, rename="camel"):
    """A new deployment and its copies."""

    deployment_id: str
    instances: list[str]


class DeploymentRoutes:
    """The handlers."""

    def __init__(self, context: Context, room: Deployments, hosts: tuple[str, ...]) -> None:
        """hosts: besides this one, those that an artifact may come from."""
        self.context = context
        self.store = context.store
        self.room = room
        self.hosts = hosts

    # ------------------------------------------------------------ writing

    def body(self, request: Request, given: DeploymentWrite) -> Body:
        """The deployment that is meant. Raises: Invalid."""
        return body_of(given, request.headers.get("host", ""), self.room, self.hosts)

    async def create(self, request: Request) -> Response:
        """A new deployment, which does not run yet."""

        async def fresh(note: Note) -> Response:
            body = self.body(request, lenient(request.body, DeploymentWrite))
            room = self.room

            def create() -> tuple[bytes, str]:
                number = room.create(body)
                made = ENCODE(Created(id_text(number), [
                    id_text(copy.number) for copy in room.copies_of(number)]))
                where = f"/v1/deployments/{id_text(number)}"
                room.also(lambda tx: note.write(tx, 200, made, where))
                return made, where

            made, location = await room.ask(create)
            return Response(200, made, headers=(("location", location),))

        return await once(self.context, request, fresh, again_as_it_was)

    def known(self, request: Request) -> DeploymentRow:
        """The deployment that the path names. Raises: NotFound."""
        return self.current(id_param(request, "deployment"))

    def current(self, number: int) -> DeploymentRow:
        """Raises: NotFound."""
        row = self.store.peek(deployments.get, number)
        if row is None:
            raise NotFound("no such deployment")
        return row

    def shown(self, number: int) -> Response:
        """A deployment as it is now."""
        row = self.current(number)
        return answer(200, self.view_of(row), etag(row.version))

    def view_of(self, row: DeploymentRow) -> DeploymentView:
        """A deployment as the API shows it."""
        copies = self.store.peek(instances.of_deployment, row.number)
        return deployment_view(row, copies, self.room)

    async def update(self, request: Request) -> Response:
        """Say it anew; what runs follows, copy by copy."""
        row = self.known(request)
        given, version = strict(request.body, DeploymentAnew), if_version(request.headers)
        body = self.body(request, given)
        await self.room.ask(lambda: self.room.edit(row.number, body, version, "updated"))
        return self.shown(row.number)

    async def delete(self, request: Request) -> Response:
        """Forget it; its copies end."""
        row, version = self.known(request), if_version(request.headers)
        await self.room.ask(lambda: self.room.delete(row.number, version))
        return Response(204)

    async def act(self, request: Request) -> Response:
        """?action=start, stop, scale or rollback"""
        action = query_action(request.query, ACTIONS)
        row = self.known(request)
        given = lenient(request.body, Scale) if request.body.strip() else Scale()
        idempotency_key(request.headers)
        version, room = if_version(request.headers), self.room
        if action == "start":
            await room.ask(lambda: room.start(row.number, version))
        elif action == "stop":
            await room.ask(lambda: room.stop(row.number, version))
        elif action == "rollback":
            await room.ask(lambda: room.roll_back(row.number, given.version or 0, version))
        else:
            await room.ask(lambda: room.change(
                row.number, lambda body: scaled(body, given), version, "scaled"))
        return self.shown(row.number)

    # ------------------------------------------------------------ looking

    async def get(self, request: Request) -> Response:
        """One deployment."""
        return self.shown(self.known(request).number)

    async def page(self, request: Request) -> Response:
        """Newest first, of a name if one is asked for."""
        limit = page_limit(request)
        rows = await self.store.read(
            deployments.page, request.query.get("name", ""), cursor_id(request), limit + 1)
        return page_of(request, rows, limit, self.view_of, lambda row: row.number)

    async def versions(self, request: Request) -> Response:
        """What it said over time, newest first."""
        found, limit = self.known(request), page_limit(request)
        rows = await self.store.read(
            deployments.versions, found.number, cursor_id(request), limit + 1)
        return page_of(request, rows, limit, version_view, lambda row: row.version)

    async def instances_of(self, request: Request) -> Response:
        """All copies of a deployment, those that end too."""
        row = self.known(request)
        after = cursor_id(request)
        copies = [copy for copy in self.store.peek(instances.of_deployment, row.number)
                  if copy.number > after]
        return page_of(request, copies, all_or_limit(request),
                       lambda copy: instance_view(copy, row, self.room), lambda copy: copy.number)

    async def instances(self, request: Request) -> Response:
        """Copies of all deployments, oldest first."""
        query, limit = request.query, page_limit(request)
        node, state = query.get("nodeId", ""), query_choice(query, "state", STATES)
        copies = await self.store.read(instances.page, cursor_id(request), limit + 1, node, state)
        rows = {number: self.store.peek(deployments.get, number)
                for number in {copy.deployment for copy in copies}}
        return page_of(request, copies, limit,
                       lambda copy: instance_view(copy, rows[copy.deployment], self.room),
                       lambda copy: copy.number)

    async def instance(self, request: Request) -> Response:
        """One copy."""
        copy = self.store.peek(instances.get, id_param(request, "instance"))
        if copy is None:
            raise NotFound("no such instance")
        return answer(200, instance_view(
            copy, self.store.peek(deployments.get, copy.deployment), self.room))

    async def plan(self, request: Request) -> Response:
        """What would go where, and why not; nothing is changed."""
        given = strict(request.body, DeploymentAnew)
        number = parse_id(request.query.get("deploymentId", "")) or 0
        if request.query.get("deploymentId"):
            self.current(number)
        body = self.body(request, given)
        return answer(200, plan_view(self.room.plan(body, number)))


def scaled(body: Body, given: Scale) -> Body:
    """The body with another number of copies. Raises: Invalid."""
    if given.replicas is None:
        raise Invalid("a scale takes replicas", field="replicas")
    names = [entry.name for entry in body.entries]
    if not given.entry and len(names) > 1:
        raise Invalid(f"entry is one of {', '.join(names)}", field="entry")
    name = given.entry or names[0]
    if name not in names:
        raise Invalid(f"there is no entry {name!r}", field="entry")
    return msgspec.structs.replace(body, entries=tuple(
        msgspec.structs.replace(entry, replicas=given.replicas) if entry.name == name else entry
        for entry in body.entries))


def routes(handlers: DeploymentRoutes) -> list[Route]:
    """The table's part about deployments."""
    tag, base, one = "deployments", "/v1/deployments", "/v1/deployments/{id}"
    read = partial(Route, "GET", tag=tag, permission="deployments:read")
    write = partial(Route, tag=tag, permission="deployments:write")
    return [
        write("POST", base, handlers.create, "Create a deployment; it does not run yet",
              body=DeploymentWrite, answers={200: Created}, query=(IDEMPOTENCY_KEY,), lenient=True),
        read(base, handlers.page, "List deployments, newest first",
             answers={200: list[DeploymentView]},
             query=(LIMIT, CURSOR, Query("name", str, "Only those with this name"))),
        write("POST", f"{base}/plan", handlers.plan, "What would go where, and why not",
              body=DeploymentAnew, answers={200: PlanView},
              query=(Query("deploymentId", str, "As a new version of this one"),)),
        read(one, handlers.get, "Get a deployment", answers={200: DeploymentView}),
        write("PUT", one, handlers.update, "Write a deployment anew; what runs follows",
              body=DeploymentAnew, answers={200: DeploymentView}, query=(IF_MATCH,)),
        write("DELETE", one, handlers.delete, "Delete a deployment; its instances end",
              answers={204: None}, query=(IF_MATCH,)),
        write("POST", one, handlers.act, "Start, stop, scale or roll back a deployment",
              body=Scale, body_optional=True, answers={200: DeploymentView}, lenient=True,
              query=(IF_MATCH, Query("action", str, "What to do", required=True,
                                     choices=ACTIONS))),
        read(one + "/instances", handlers.instances_of, "List a deployment's instances",
             answers={200: list[InstanceView]}, query=(ALL_OR_LIMIT, CURSOR)),
        read(one + "/versions", handlers.versions, "List a deployment's versions, newest first",
             answers={200: list[VersionView]}, query=(LIMIT, CURSOR)),
        read("/v1/instances", handlers.instances, "List instances of all deployments",
             answers={200: list[InstanceView]},
             query=(LIMIT, CURSOR, Query("nodeId", str, "Only of this node"),
                    Query("state", str, "Only these", choices=STATES))),
        read("/v1/instances/{id}", handlers.instance, "Get an instance",
             answers={200: InstanceView}),
    ]
