"""/v1/resources/{id}/lease: one has a device for himself, and operations of others are refused."""

from __future__ import annotations

import msgspec

from plumd.api.context import answer
from plumd.api.decode import strict
from plumd.api.locks import ACTIONS, LeaseAsked, act, action_of
from plumd.api.params import prefer_wait_s
from plumd.api.routes import Query, Request, Response, Route
from plumd.devices import Devices
from plumd.errors import NotFound
from plumd.leases import Leases, Standing
from plumd.store.leases import DEVICE, Key


class DeviceLeaseView(msgspec.Struct, frozen=True, rename="camel"):
    """A device that somebody has. token: to be given with operations, higher than any before."""

    resource_id: str
    owner: str
    token: int
    ttl_sec: float
    acquired_at: int
    expires_at: int
    waiting: int


def view(standing: Standing) -> DeviceLeaseView:
    """A lease as the API shows it."""
    one = standing.lease
    return DeviceLeaseView(one.name, one.owner, one.token, one.ttl_ms / 1000, one.since_ms,
                           standing.until_ms, standing.waiting)


class DeviceLeases:
    """The handlers."""

    def __init__(self, leases: Leases, registry: Devices) -> None:
        self.leases = leases
        self.registry = registry

    async def act(self, request: Request) -> Response:
        """Acquire waits in line with Prefer: wait=N."""
        self.registry.find(request.params["id"], None)
        standing = await act(self.leases, key_of(request), action_of(request),
                             strict(request.body or b"{}", LeaseAsked),
                             prefer_wait_s(request.headers))
        return Response(204) if standing is None else answer(200, view(standing))

    async def get(self, request: Request) -> Response:
        """Of a device that somebody has."""
        standing = self.leases.standing(key_of(request))
        if standing is None:
            raise NotFound("nobody has this device for himself")
        return answer(200, view(standing))

    async def take_away(self, request: Request) -> Response:
        """Whoever has it loses it."""
        if not await self.leases.take_away(key_of(request)):
            raise NotFound("nobody has this device for himself")
        return Response(204)


def key_of(request: Request) -> Key:
    """The lease of the device in the path."""
    return DEVICE, "", request.params["id"]


def routes(handlers: DeviceLeases) -> list[Route]:
    """The table's part about leases of devices."""
    one, tag = "/v1/resources/{id}/lease", "devices"
    return [
        Route("GET", one, handlers.get, "Who has a device for himself", tag, "devices:read",
              answers={200: DeviceLeaseView}),
        Route("POST", one, handlers.act, "Acquire, renew or release a device", tag,
              "devices:operate", body=LeaseAsked, body_optional=True,
              answers={200: DeviceLeaseView, 204: None},
              query=(Query("action", str, "What to do", required=True, choices=ACTIONS),
                     Query("Prefer", str, "wait=N: wait in line for it, at most N seconds "
                           "(at most 60)."))),
        Route("DELETE", one, handlers.take_away, "Take a device away from whoever has it", tag,
              "devices:write", answers={204: None}),
    ]
