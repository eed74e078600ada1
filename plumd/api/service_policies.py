"""/v1/services/policies: how service tasks call a service."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from plumd.api.context import answer, etag
from plumd.api.decode import strict
from plumd.api.openapi import IF_MATCH, IF_NONE_MATCH
from plumd.api.paging import ALL_OR_LIMIT, CURSOR, all_or_limit, cursor_key, page_of
from plumd.api.params import if_version
from plumd.api.routes import Request, Response, Route
from plumd.breaker import Policy
from plumd.errors import Invalid, NotFound
from plumd.services import Registry
from plumd.store import services

NAME_CHARS_MAX = 200


class PolicyView(msgspec.Struct, frozen=True, rename="camel"):
    """A service's policy. own: whether somebody wrote it, else it is as every other's, and its
    version is 0.

    retriesLeft: how many calls could be tried again at another endpoint now.
    """

    service: str
    version: int
    own: bool
    policy: Policy
    retries_left: float


def check(policy: Policy, service: str) -> Policy:
    """Raises: Invalid."""
    fallback = policy.fallback
    if fallback is None:
        return policy
    if (fallback.service is UNSET) == (fallback.result is UNSET):
        raise Invalid("a fallback is a service or a result", field="fallback")
    if fallback.service == service:
        raise Invalid("a service does not stand in for itself", field="fallback.service")
    return policy


class ServicePolicies:
    """The handlers."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def view(self, service: str) -> PolicyView:
        """A service's policy as the API shows it."""
        calls = self.registry.calls
        return PolicyView(service, self.version(service), service in calls.policies(),
                          calls.policy(service), round(calls.retries_left(service), 2))

    def version(self, service: str) -> int:
        """Of what somebody wrote; 0 = nobody did."""
        return self.registry.store.peek(services.policy_version, service)

    def shown(self, service: str) -> Response:
        """A service's policy as it is now."""
        found = self.view(service)
        return answer(200, found, etag(found.version))

    async def page(self, request: Request) -> Response:
        """Those that somebody wrote, by name; all of them unless ?limit= is given."""
        after = cursor_key(request) or ""
        found = [name for name in sorted(self.registry.calls.policies()) if name > after]
        return page_of(request, found, all_or_limit(request), self.view, lambda name: name)

    async def get(self, request: Request) -> Response:
        """Of any service, also one that has no endpoint yet."""
        return self.shown(name_of(request))

    async def put(self, request: Request) -> Response:
        """What is left out is as every other's."""
        service = name_of(request)
        policy = check(strict(request.body, Policy), service)
        await self.registry.set_policy(service, policy, if_version(request.headers))
        return self.shown(service)

    async def delete(self, request: Request) -> Response:
        """As every other from now on."""
        service = name_of(request)
        if service not in self.registry.calls.policies():
            raise NotFound("nobody wrote a policy for this service")
        await self.registry.set_policy(service, None, if_version(request.headers))
        return Response(204)


def name_of(request: Request) -> str:
    """The service in the path. Raises: Invalid."""
    name = request.params["name"]
    if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise Invalid(f"a service's name has 1 to {NAME_CHARS_MAX} printable characters",
                      field="name")
    return name


def routes(handlers: ServicePolicies) -> list[Route]:
    """The table's part about policies."""
    base, tag = "/v1/services/policies", "services"
    one = base + "/{name}"
    return [
        Route("GET", base, handlers.page, "List policies of services that somebody wrote", tag,
              "services:read", answers={200: list[PolicyView]}, query=(ALL_OR_LIMIT, CURSOR)),
        Route("GET", one, handlers.get, "How a service is called", tag, "services:read",
              answers={200: PolicyView}),
        Route("PUT", one, handlers.put, "Say how a service is called", tag, "services:write",
              body=Policy, answers={200: PolicyView}, query=(IF_MATCH, IF_NONE_MATCH)),
        Route("DELETE", one, handlers.delete, "Call a service as every other", tag,
              "services:write", answers={204: None}, query=(IF_MATCH,)),
    ]
