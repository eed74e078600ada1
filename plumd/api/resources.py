"""/v1/resources: devices with states and operations. Old SDKs' routes, and the long poll."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from plumd.api.context import Context, answer
from plumd.api.decode import lenient, strict
from plumd.api.paging import (
    ALL_OR_LIMIT,
    CURSOR,
    LIMIT,
    all_or_limit,
    cursor_id,
    cursor_key,
    page_limit,
    page_of,
)
from plumd.api.params import query_choice, query_int, query_text
from plumd.api.routes import Query, Request, Response, Route
from plumd.devices import BEATS, Devices, Live, Seen
from plumd.errors import Invalid
from plumd.leases import Leases
from plumd.operations import Operation, Operations
from plumd.store import devices
from plumd.store.devices import FOR_EVER, Device, OpDesc, State, StateDesc
from plumd.store.leases import DEVICE

BEAT_SEC_DEFAULT: Final = 5.0
WAIT_SEC_MAX: Final = 60
DESCS_MAX: Final = 2_000
REPORT_STATES_MAX: Final = 2_000
OPERATIONS_MAX: Final = 1_000
ANSWERS_MAX: Final = 1_000
EXCHANGE_BYTES_MAX: Final = 8 << 20
HEALTHS: Final = ("Healthy", "Unhealthy")

Text = Annotated[str, Meta(max_length=500)]
DeviceId = Annotated[str, Meta(min_length=1, max_length=200,
                               pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
StateDescs = Annotated[list[StateDesc], Meta(max_length=DESCS_MAX)]
OpDescs = Annotated[list[OpDesc], Meta(max_length=DESCS_MAX)]
States = Annotated[dict[Annotated[str, Meta(max_length=500)], str],
                   Meta(max_length=REPORT_STATES_MAX)]
Ms = Annotated[int, Meta(ge=-(1 << 62), le=1 << 62)]


class Registration(msgspec.Struct, frozen=True, rename="camel"):
    """A device. url: where its operations are POSTed; without one it fetches them (poll)."""

    resource_id: DeviceId
    node_id: Text = ""
    type: Text = ""
    url: Annotated[str, Meta(max_length=2_000)] = ""
    transport: Literal["callback", "poll"] | None = None
    beat_sec: Annotated[float, Meta(ge=0.1, le=86_400)] = BEAT_SEC_DEFAULT
    state_desc: StateDescs = []
    op_desc: OpDescs = []


class DeviceBeat(msgspec.Struct, frozen=True, rename="camel"):
    """A sign of life."""

    resource_id: DeviceId
    node_id: Text = ""


class StatesGiven(msgspec.Struct, frozen=True, rename="camel"):
    """A report of states, all of them texts. timestamp: the device's own, Unix ms."""

    resource_id: DeviceId
    states: States
    timestamp: Ms | None = None


class OperationsAsked(msgspec.Struct, frozen=True, rename="camel"):
    """Operations for one device, to be carried out in this order."""

    operations: Annotated[list[Operation], Meta(min_length=1, max_length=OPERATIONS_MAX)]


class DeviceNamed(msgspec.Struct, frozen=True, rename="camel"):
    """Which device."""

    resource_id: DeviceId


class OperationsAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """What came of operations: status 200 = done, anything else is told to who asked."""

    id: Annotated[str, Meta(max_length=100)]
    status: Annotated[int, Meta(ge=0, le=999)]
    body: str = ""


class Exchange(msgspec.Struct, frozen=True, rename="camel"):
    """A device's answers and states, and its wish for operations.

    session: random, drawn once at the start of the device's program.  waitSec: so long the answer
    may wait for an operation.
    """

    session: Annotated[str, Meta(min_length=1, max_length=200)]
    wait_sec: Annotated[float, Meta(ge=0, le=WAIT_SEC_MAX)] = 0
    states: States = {}
    timestamp: Ms | None = None
    answers: Annotated[list[OperationsAnswer], Meta(max_length=ANSWERS_MAX)] = []


class OrderView(msgspec.Struct, frozen=True, rename="camel"):
    """Operations to be carried out and answered under this id."""

    id: str
    operations: list[Operation]


class Exchanged(msgspec.Struct, frozen=True, rename="camel"):
    """What a device gets."""

    operations: list[OrderView]


class Known(msgspec.Struct, frozen=True, rename="camel"):
    """A device that is registered is heard of at least every ttlSec."""

    resource_id: str
    ttl_sec: float


class DeviceView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A device. lastSeen: Unix ms, 0 = not since the daemon's start. states: of one device.

    leasedBy: who has it for himself, "" = nobody.
    """

    resource_id: str
    node_id: str
    type: str
    url: str
    transport: str
    health: str
    last_seen: int
    registered_at: int
    beat_sec: float
    state_desc: tuple[StateDesc, ...]
    op_desc: tuple[OpDesc, ...]
    leased_by: str = ""
    states: dict[str, State] | UnsetType = UNSET


class ReportView(msgspec.Struct, frozen=True, rename="camel"):
    """One report of states. timestamp: the device's own; receivedAt: ours."""

    resource_id: str
    timestamp: int
    received_at: int
    states: dict[str, str]


def view(leases: Leases, seen: Seen,
         states: dict[str, State] | UnsetType = UNSET) -> DeviceView:
    """A device as the API shows it."""
    one = seen.row.device
    held = leases.holder((DEVICE, "", one.device_id))
    return DeviceView(
        resource_id=one.device_id, node_id=one.node_id, type=one.type, url=one.url,
        transport="poll" if one.polls else "callback", health=HEALTHS[not seen.healthy],
        last_seen=seen.seen_ms, registered_at=seen.row.registered_ms,
        beat_sec=one.beat_ms / 1000, state_desc=one.state_desc, op_desc=one.op_desc,
        leased_by="" if held is None else held.owner, states=states)


def known(live: Live) -> Response:
    """What a device is answered."""
    one = live.row.device
    return answer(200, Known(one.device_id, BEATS * one.beat_ms / 1000))


class Resources:
    """The handlers."""

    def __init__(self, context: Context, registry: Devices, operations: Operations,
                 poke: Callable[[], None]) -> None:
        self.context = context
        self.registry = registry
        self.operations = operations
        self.leases = operations.leases
        self.poke = poke

    # ------------------------------------------------------------ from devices

    async def register(self, request: Request) -> Response:
        """The last registration counts."""
        body = lenient(request.body, Registration)
        polls = not body.url if body.transport is None else body.transport == "poll"
        if not polls and not body.url:
            raise Invalid("a device that is called back has a url", field="url")
        return known(await self.registry.register(Device(
            body.resource_id, body.node_id, body.type, body.url, polls,
            round(body.beat_sec * 1000), tuple(body.state_desc), tuple(body.op_desc))))

    async def beat(self, request: Request) -> Response:
        """Writes nothing."""
        live = self.registry.find(lenient(request.body, DeviceBeat).resource_id)
        self.registry.renew(live)
        return known(live)

    async def report(self, request: Request) -> Response:
        """The states are on disk when this answers."""
        body = lenient(request.body, StatesGiven)
        await self.registry.report(self.registry.find(body.resource_id), body.states,
                                   body.timestamp)
        return Response(204)

    async def exchange(self, request: Request) -> Response:
        """Answers and states in, operations out, waiting for them if asked to."""
        live = self.registry.find(request.params["id"])
        body = strict(request.body, Exchange)
        for each in body.answers:       # also of a session that was replaced meanwhile
            self.operations.answered(live, each.id, each.status, each.body)
        self.operations.enter(live, body.session)
        self.registry.renew(live)
        if body.states:
            await self.registry.report(live, body.states, body.timestamp)
        found = await self.operations.fetch(live, body.session, body.wait_sec)
        return answer(200, Exchanged([
            OrderView(one.order_id, list(one.operations)) for one in found]))

    # ------------------------------------------------------------ for people

    async def operate(self, request: Request) -> Response:
        """204 when the device says that it is done."""
        device_id = query_text(request.query, "resourceId")
        body = lenient(request.body, OperationsAsked)
        token = query_int(request.query, "token", 0, low=1, high=(1 << 63) - 1)
        await self.operations.operate(device_id, body.operations, token or None)
        return Response(204)

    async def page(self, request: Request) -> Response:
        """Devices by id; all of them unless ?limit= is given."""
        query = request.query
        health = query_choice(query, "health", HEALTHS)
        after = cursor_key(request) or ""
        found = [seen for seen in self.registry.every(query.get("nodeId", ""),
                                                      query.get("type", ""))
                 if seen.row.device.device_id > after
                 and health in ("", HEALTHS[not seen.healthy])]
        return page_of(request, found, all_or_limit(request),
                       lambda seen: view(self.leases, seen),
                       lambda seen: seen.row.device.device_id)

    def known(self, device_id: str) -> Live:
        """Raises: NotFound."""
        return self.registry.find(device_id, None)

    async def get(self, request: Request) -> Response:
        """One device with the newest state of each name."""
        live = self.known(request.params["id"])
        states = self.context.store.peek(devices.latest, live.row.number)
        return answer(200, view(self.leases, self.registry.seen(live), states))

    async def states(self, request: Request) -> Response:
        """A device's reports, newest first."""
        limit, before = page_limit(request), cursor_id(request)
        live = self.registry.find(query_text(request.query, "resourceId"))
        found = await self.context.store.read(
            devices.history, live.row.number, before or FOR_EVER, limit + 1)
        return page_of(request, found, limit, lambda one: ReportView(
            live.row.device.device_id, one.at_ms, one.received_ms, one.states), lambda one: one.seq)

    async def delete(self, request: Request) -> Response:
        """Forget a device with all its states."""
        await self.forget(self.known(request.params["id"]).row.device.device_id)
        return Response(204)

    async def forget(self, device_id: str) -> None:
        """Forget a device, and whoever has it for himself. Raises: NotFound."""
        await self.registry.remove(device_id)
        await self.leases.take_away((DEVICE, "", device_id))
        self.poke()

    async def delete_named(self, request: Request) -> Response:
        """The same by the body."""
        await self.forget(lenient(request.body, DeviceNamed).resource_id)
        return Response(204)


def routes(handlers: Resources) -> list[Route]:
    """The table's part about devices."""
    tag, base = "devices", "/v1/resources"
    serve = partial(Route, "POST", tag=tag, permission="devices:serve", lenient=True,
                    trusted=True)
    read = partial(Route, "GET", tag=tag, permission="devices:read", lenient=True, trusted=True)
    which = Query("resourceId", str, "The device", required=True)
    return [
        serve(f"{base}/register", handlers.register, "Register a device",
              body=Registration, answers={200: Known}),
        serve(f"{base}/heartbeat", handlers.beat, "A device's sign of life", body=DeviceBeat,
              answers={200: Known}, hot=True),
        serve(f"{base}/state", handlers.report, "Report states", body=StatesGiven,
              answers={204: None}, hot=True),
        Route("POST", base + "/{id}/exchange", handlers.exchange,
              "A device's long poll: states and answers in, operations out", tag,
              "devices:serve", body=Exchange, answers={200: Exchanged}, trusted=True, hot=True,
              body_bytes_max=EXCHANGE_BYTES_MAX),
        msgspec.structs.replace(
            serve(f"{base}/operation", handlers.operate,
                  "Have a device carry out operations; waits for its answer",
                  body=OperationsAsked, answers={204: None},
                  query=(which, Query("token", int, "Of a lease on the device; without one an "
                                      "operation of a device that somebody has is refused")),
                  errors=(502, 504), hot=True), permission="devices:operate"),
        read(base, handlers.page, "List devices", answers={200: list[DeviceView]}, query=(
            Query("nodeId", str, "Only of this node"), Query("type", str, "Only of this type"),
            Query("health", str, "Only those", choices=HEALTHS),
            ALL_OR_LIMIT, CURSOR)),
        read(f"{base}/states", handlers.states, "List a device's reports, newest first",
             answers={200: list[ReportView]}, query=(which, LIMIT, CURSOR)),
        read(base + "/{id}", handlers.get, "Get a device with its newest states",
             answers={200: DeviceView}),
        msgspec.structs.replace(
            read(base + "/{id}", handlers.delete, "Forget a device", answers={204: None}),
            method="DELETE", permission="devices:write"),
        msgspec.structs.replace(
            serve(f"{base}/delete", handlers.delete_named, "Forget a device (old path)",
                  body=DeviceNamed, answers={204: None}), permission="devices:write"),
    ]
