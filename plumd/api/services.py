"""/v1/services and /v1/discovery: who offers what, and where. Old SDKs' routes."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from plumd.api.context import Context, answer
from plumd.api.decode import lenient
from plumd.api.paging import ALL_OR_LIMIT, CURSOR, all_or_limit, cursor_key, page_of
from plumd.api.params import query_bool, query_int, query_text
from plumd.api.routes import Query, Request, Response, Route
from plumd.balance import RANDOM, STRATEGIES, Endpoint, Key, strategy_of
from plumd.errors import Invalid, NotFound
from plumd.services import Registry, Seen, Verdict

ENDPOINTS_PER_INSTANCE_MAX: Final = 1_000

Name = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
Host = Annotated[str, Meta(max_length=255, pattern=r"^[A-Za-z0-9._:\[\]-]*$(?!\n)")]
Port = Annotated[int, Meta(ge=1, le=65535)]
Labels = Annotated[dict[Annotated[str, Meta(max_length=100)],
                        Annotated[str, Meta(max_length=500)]], Meta(max_length=64)]


class EndpointGiven(msgspec.Struct, frozen=True, rename="camel"):
    """An endpoint of the instance that registers."""

    service_name: Name
    port: Port
    protocol: Name = "http"
    ip: Host = ""
    version: Name = ""
    labels: Labels = {}


class Registration(msgspec.Struct, frozen=True, rename="camel"):
    """An instance with its endpoints, or, without `endpoints`, with the one described here."""

    instance_id: Annotated[Name, Meta(min_length=1)]
    node_id: Name = ""
    ip: Host = ""
    endpoints: Annotated[list[EndpointGiven], Meta(max_length=ENDPOINTS_PER_INSTANCE_MAX)] | None \
        = None
    service_name: Name = ""
    port: Port | None = None
    protocol: Name = "http"
    version: Name = ""
    labels: Labels = {}


class HealthGiven(msgspec.Struct, frozen=True, rename="camel"):
    """How an instance says that an endpoint of its is."""

    service_name: Name
    ip: Host = ""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    protocol: Name = ""
    healthy: bool = True


HealthList = Annotated[list[HealthGiven], Meta(max_length=ENDPOINTS_PER_INSTANCE_MAX)]


class Beat(msgspec.Struct, frozen=True, rename="camel"):
    """A sign of life; some SDKs call the list `endpoints`. Without it the daemon looks itself."""

    instance_id: Annotated[Name, Meta(min_length=1)]
    health: HealthList | None = None
    endpoints: HealthList | None = None


class EndpointWrite(msgspec.Struct, frozen=True, rename="camel"):
    """An endpoint as it shall be; what is left out stays as the query or the endpoint has it."""

    service_name: Name | None = None
    instance_id: Name | None = None
    node_id: Name | None = None
    ip: Host | None = None
    port: Port | None = None
    protocol: Name | None = None
    version: Name | None = None
    labels: Labels | None = None
    healthy: bool | None = None


class EndpointView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """An endpoint. lastSeen: its last sign of life, Unix ms, 0 = none since the daemon's start.

    breaker: closed (it is called), open (it is not, until breakerUntil), half-open (one call at a
    time).  failures: of calls in a row.  why: what the daemon's own last look found wrong.
    """

    service_name: str
    instance_id: str
    node_id: str
    ip: str
    port: int
    protocol: str
    version: str
    labels: dict[str, str]
    healthy: bool
    last_seen: int
    why: str
    in_flight: int
    breaker: str
    breaker_until: int
    failures: int


CURSOR_KEY: Final = msgspec.json.Decoder(Key).decode


def view(registry: Registry, seen: Seen) -> EndpointView:
    """An endpoint as the API shows it."""
    one = seen.endpoint
    breaker = registry.calls.seen(one.key)
    return EndpointView(
        service_name=one.service, instance_id=one.instance_id, node_id=one.node_id, ip=one.ip,
        port=one.port, protocol=one.protocol, version=one.version, labels=one.labels,
        healthy=seen.healthy, last_seen=seen.seen_ms, why=seen.why, in_flight=seen.in_flight,
        breaker=breaker.state, breaker_until=breaker.until_ms, failures=breaker.failures)


def bare_host(text: str) -> str:
    """An address without the brackets that URLs put around IPv6."""
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def endpoints_of(body: Registration, peer: str) -> list[Endpoint]:
    """What is registered; an address that nobody gave is the caller's. Raises: Invalid."""
    given = body.endpoints
    if given is None:
        if not body.service_name:
            raise Invalid("there are neither endpoints nor a serviceName", field="endpoints")
        if body.port is None:
            raise Invalid("the port is missing", field="port")
        given = [EndpointGiven(body.service_name, body.port, body.protocol, "", body.version,
                               body.labels)]
    found = []
    for index, one in enumerate(given):
        ip = bare_host(body.ip or one.ip or peer)
        if not ip:
            raise Invalid("the ip is missing", field=f"endpoints[{index}].ip")
        if not one.service_name:
            raise Invalid("the name is empty", field=f"endpoints[{index}].serviceName")
        found.append(Endpoint(one.service_name, body.instance_id, ip, one.port, one.protocol,
                              body.node_id, one.version, one.labels))
    return found


def key_of(request: Request) -> Key:
    """The endpoint that the query names. Raises: Invalid."""
    text = partial(query_text, request.query, chars_max=255)
    port = query_int({"port": text("port")}, "port", 0, low=1, high=65535)
    return (text("serviceName"), text("instanceId"), bare_host(text("ip")), port,
            text("protocol"))


class Services:
    """The handlers."""

    def __init__(self, context: Context, registry: Registry) -> None:
        self.context = context
        self.registry = registry

    # ------------------------------------------------------------ from instances

    async def register(self, request: Request) -> Response:
        """Add or change; ?replace=true: these endpoints and no others."""
        body = lenient(request.body, Registration)
        await self.registry.register(
            body.instance_id, endpoints_of(body, request.peer),
            replace=query_bool(request.query, "replace"))
        return Response(204)

    async def beat(self, request: Request) -> Response:
        """Renews, and takes what the instance says of its endpoints."""
        body = lenient(request.body, Beat)
        given = body.health or body.endpoints or ()
        self.registry.beat(body.instance_id, [
            Verdict(one.service_name, bare_host(one.ip), one.port, one.protocol, one.healthy)
            for one in given])
        return Response(204)

    async def leave(self, request: Request) -> Response:
        """Forget an instance."""
        await self.registry.remove_instance(query_text(request.query, "instanceId"))
        return Response(204)

    async def remove(self, request: Request) -> Response:
        """Forget an endpoint."""
        await self.registry.remove(key_of(request))
        return Response(204)

    async def change(self, request: Request) -> Response:
        """PUT makes what is not there, PATCH does not."""
        body = lenient(request.body, EndpointWrite)
        key = key_of(request) if "serviceName" in request.query else self.key_in(body)
        old = next((seen.endpoint for seen in self.registry.every(key[0], key[1])
                    if seen.endpoint.key == key), Endpoint(*key))
        new = Endpoint(
            body.service_name or old.service, body.instance_id or old.instance_id,
            bare_host(body.ip or old.ip), body.port or old.port, body.protocol or old.protocol,
            old.node_id if body.node_id is None else body.node_id,
            old.version if body.version is None else body.version,
            old.labels if body.labels is None else body.labels)
        await self.registry.move(key, new, create=request.method == "PUT")
        if body.healthy is not None:
            self.registry.report(new.key, healthy=body.healthy)
        return Response(204)

    def key_in(self, body: EndpointWrite) -> Key:
        """The endpoint that the body names. Raises: Invalid."""
        for field in ("service_name", "instance_id", "ip", "port", "protocol"):
            if not getattr(body, field):
                wire = body.__struct_encode_fields__[body.__struct_fields__.index(field)]
                raise Invalid(f"{wire} is missing, here and in the query", field=wire)
        return (body.service_name or "", body.instance_id or "", bare_host(body.ip or ""),
                body.port or 0, body.protocol or "")

    # ------------------------------------------------------------ questions

    async def names(self, request: Request) -> Response:
        """All services by name."""
        del request
        return answer(200, self.registry.names())

    async def page(self, request: Request) -> Response:
        """Endpoints by key, well or not; all of them unless ?limit= is given."""
        found = self.registry.every(request.query.get("service", ""),
                                    request.query.get("instanceId", ""))
        after = cursor_key(request)
        if after is not None:
            try:
                key = CURSOR_KEY(after)
            except msgspec.DecodeError:
                raise Invalid("this cursor was not made by the daemon", field="cursor") from None
            found = [seen for seen in found if seen.endpoint.key > key]
        return page_of(request, found, all_or_limit(request),
                       lambda seen: view(self.registry, seen),
                       lambda seen: msgspec.json.encode(seen.endpoint.key).decode())

    async def discover(self, request: Request) -> Response:
        """Healthy endpoints of a service; with all=true every one, and the service may be left out.
        """
        query = request.query
        whole = query_bool(query, "all")
        service = query.get("service", "") if whole else query_text(query, "service")
        limit = query_int(query, "limit", 0, low=1, high=1_000_000)
        found = self.registry.discover(service, query.get("version", ""),
                                       query.get("protocol", ""))
        if limit and not whole:
            found = found[:limit]
        return answer(200, [view(self.registry, seen) for seen in found])

    async def one(self, request: Request) -> Response:
        """One healthy endpoint by ?strategy=."""
        asked = request.query.get("strategy", "")
        strategy = strategy_of(asked) if asked else RANDOM
        if strategy is None:
            raise Invalid(f"strategy is one of {', '.join(STRATEGIES)}", field="strategy")
        return self.picked(request, strategy)

    async def random(self, request: Request) -> Response:
        """One healthy endpoint, drawn."""
        return self.picked(request, RANDOM)

    def picked(self, request: Request, strategy: str) -> Response:
        """Raises: NotFound when no endpoint that is asked for is healthy."""
        service = query_text(request.query, "service")
        seen = self.registry.pick(service, strategy, request.query.get("version", ""),
                                  request.query.get("protocol", ""), request.query.get("key", ""))
        if seen is None:
            raise NotFound("the service has no healthy endpoint that fits", field="service")
        return answer(200, view(self.registry, seen))


def routes(handlers: Services) -> list[Route]:
    """The table's part about services."""
    tag = "services"
    serve = partial(Route, tag=tag, permission="services:serve", answers={204: None},
                    lenient=True, trusted=True)
    read = partial(Route, tag=tag, permission="services:read", lenient=True, trusted=True)
    service = Query("service", str, "Its name", required=True)
    filters = (Query("version", str, "Only this version"),
               Query("protocol", str, "Only this protocol"))
    key = (Query("serviceName", str, required=True), Query("instanceId", str, required=True),
           Query("ip", str, required=True), Query("port", int, required=True),
           Query("protocol", str, required=True))
    old_key = tuple(msgspec.structs.replace(
        each, required=False, help="Of the endpoint as it is; default: the body's") for each in key)
    endpoint = "/v1/services/endpoint"
    return [
        serve("POST", "/v1/services/register", handlers.register,
              "Register an instance's endpoints", body=Registration,
              query=(Query("replace", bool, "Forget the instance's other endpoints"),)),
        serve("POST", "/v1/services/heartbeat", handlers.beat, "An instance's sign of life",
              body=Beat, hot=True),
        serve("DELETE", "/v1/services", handlers.leave, "Forget an instance",
              query=(Query("instanceId", str, required=True),)),
        serve("DELETE", endpoint, handlers.remove, "Forget an endpoint", query=key),
        serve("PUT", endpoint, handlers.change, "Write an endpoint", body=EndpointWrite,
              query=old_key),
        serve("PATCH", endpoint, handlers.change, "Change an endpoint", body=EndpointWrite,
              query=old_key),
        read("GET", "/v1/services/list", handlers.names, "List services by name",
             answers={200: list[str]}),
        read("GET", "/v1/services", handlers.page, "List endpoints, healthy or not",
             answers={200: list[EndpointView]},
             query=(Query("service", str, "Only of this service"),
                    Query("instanceId", str, "Only of this instance"),
                    ALL_OR_LIMIT, CURSOR)),
        read("GET", "/v1/discovery", handlers.discover, "List a service's healthy endpoints",
             answers={200: list[EndpointView]}, hot=True,
             query=(msgspec.structs.replace(service, required=False), *filters,
                    Query("limit", int, "At most so many"),
                    Query("all", bool, "All of them, whatever the limit; then `service` may be "
                          "left out"))),
        read("GET", "/v1/discovery/random", handlers.random, "One healthy endpoint, drawn",
             answers={200: EndpointView}, hot=True, query=(service, *filters)),
        read("GET", "/v1/discovery/one", handlers.one, "One healthy endpoint by a strategy",
             answers={200: EndpointView}, hot=True,
             query=(service, *filters,
                    Query("strategy", str, "default random", choices=STRATEGIES),
                    Query("key", str, "For sticky: the same key has the same endpoint"))),
    ]
