"""Service tasks: a call to one of a service's healthy endpoints, the least loaded first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Final, Protocol

import msgspec

from plumd.balance import Endpoint, Key
from plumd.executors import Attempt, Outcome, Stop
from plumd.executors.answers import (
    CallDetail,
    attempt_headers,
    failed,
    lost_with_daemon,
    outcome_of,
    status_detail,
    unanswered,
    unless_stopped,
)
from plumd.executors.outgoing import Client
from plumd.executors.targets import CallFailed

SUPPORTED: Final = ("http", "https")
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
WORTH_RETRYING: Final = frozenset({408, 425, 429})
"""Of the 4xx. The others say that the call is wrong, and it would be wrong again."""


class Directory(Protocol):
    """Who knows the endpoints; plumd.services.Registry is one."""

    def known(self, service: str) -> Sequence[Endpoint]:
        """All endpoints of a service."""

    def preferred(self, service: str, fit: Iterable[Endpoint],
                  tried: Iterable[Key]) -> Endpoint | None:
        """Of those that fit: the least loaded healthy one not yet tried, suspects last."""

    def is_healthy(self, endpoint: Endpoint) -> bool:
        """Whether it is believed to answer."""

    def calling(self, endpoint: Endpoint) -> AbstractContextManager[None]:
        """Counts a call in flight."""

    def suspect(self, endpoint: Endpoint) -> None:
        """It did not answer: for a short while others are preferred."""


class Wish(msgspec.Struct, frozen=True):
    """What the task's labels ask for. protocol "": any that is supported."""

    version: str
    protocol: str
    port: str
    path: str
    method: str

    def fits(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint is one of those that are meant."""
        protocol = endpoint.protocol.lower()
        return (
            (not self.version or endpoint.version == self.version)
            and (not self.port or str(endpoint.port) == self.port)
            and (protocol == self.protocol if self.protocol else protocol in SUPPORTED)
        )


def wish_of(attempt: Attempt) -> Wish:
    """The labels serviceVersion, serviceProtocol, servicePort, servicePath, serviceMethod."""
    labels = attempt.labels
    path = labels.get("servicePath", "") or "/"
    return Wish(
        labels.get("serviceVersion", ""), labels.get("serviceProtocol", "").lower(),
        labels.get("servicePort", ""), path if path.startswith("/") else "/" + path,
        labels.get("serviceMethod", "").upper() or "POST")


class Service:
    """The executor of service tasks. target_ref is the service's name."""

    name: ClassVar[str] = "service"

    def __init__(self, client: Client, directory: Directory) -> None:
        self.client = client
        self.directory = directory

    async def run(self, attempt: Attempt, stop: Stop) -> Outcome:
        """Call an endpoint and wait for its answer; see Executor.run.

        Cancel: the call is given up; after the daemon's next start the attempt is lost.
        """
        if attempt.resumed:
            return lost_with_daemon()
        wish = wish_of(attempt)
        if wish.protocol and wish.protocol not in SUPPORTED:
            return failed("unsupported_protocol", f"services are called by http or https, not by "
                          f"{wish.protocol}", retryable=False)
        if wish.method not in METHODS:
            return failed("unsupported_method", f"serviceMethod is one of {', '.join(METHODS)}",
                          retryable=False)
        call = _Call(self.client, self.directory, attempt, wish)
        return await unless_stopped(stop, call.carry_out, lambda: call.detail)

    async def check(self, endpoint: Endpoint) -> str:
        """Why an endpoint does not seem to work, "" when it does.

        Its label healthPath is asked for if it has one, else it must accept a connection.
        """
        path = endpoint.labels.get("healthPath", "")
        protocol = endpoint.protocol.lower()
        try:
            if path and protocol in SUPPORTED:
                answer = await self.client.request("GET", url_of(endpoint, path))
                return "" if answer.status < 400 else f"its health check answers {answer.status}"
            await self.client.probe(endpoint.ip, endpoint.port)
        except CallFailed as failure:
            return failure.message
        return ""


def url_of(endpoint: Endpoint, path: str) -> str:
    """Where an endpoint is called."""
    path = path if path.startswith("/") else "/" + path
    return f"{endpoint.protocol.lower()}://{endpoint.address}{path}"


class _Call:
    """One attempt's way through the endpoints."""

    def __init__(self, client: Client, directory: Directory, attempt: Attempt,
                 wish: Wish) -> None:
        self.client = client
        self.directory = directory
        self.attempt = attempt
        self.wish = wish
        self.detail = CallDetail("")
        self.tried: set[Key] = set()
        self._unreached: Outcome | None = None

    async def carry_out(self) -> Outcome:
        """Call the best endpoint; one that cannot be reached makes way for the next."""
        service = self.attempt.target_ref
        while True:
            fit = [one for one in self.directory.known(service) if self.wish.fits(one)]
            endpoint = self.directory.preferred(service, fit, self.tried)
            if endpoint is None:
                return self._unreached or self._nobody(service, fit)
            self.tried.add(endpoint.key)
            outcome = await self._call(endpoint)
            if outcome is not None:
                return outcome

    async def _call(self, endpoint: Endpoint) -> Outcome | None:
        """None: it was not reached, and knows nothing of the call."""
        wish = self.wish
        url = url_of(endpoint, wish.path)
        who = f"endpoint {endpoint.instance_id} ({endpoint.address}) of {endpoint.service}"
        self.detail = CallDetail(url, endpoint.instance_id)
        body = b"" if wish.method == "GET" else self.attempt.payload
        kind = (("content-type", "application/json"),) if body else ()
        try:
            with self.directory.calling(endpoint):
                answer = await self.client.request(
                    wish.method, url, body, (*kind, *attempt_headers(self.attempt).items()))
        except CallFailed as failure:
            outcome = unanswered(failure, who, self.detail)
            if failure.code in ("unreachable", "connection_lost"):
                self.directory.suspect(endpoint)
            if failure.code in ("unreachable", "refused_address"):
                if self._unreached is None or outcome.retryable:
                    self._unreached = outcome
                return None
            return outcome
        status = answer.status
        return outcome_of(answer, who, status_detail(url, answer, endpoint.instance_id),
                          retryable=not 400 <= status < 500 or status in WORTH_RETRYING)

    def _nobody(self, service: str, fit: Sequence[Endpoint]) -> Outcome:
        known = len(self.directory.known(service))
        sick = sum(not self.directory.is_healthy(one) for one in fit)
        return failed(
            "no_endpoint", f"service {service!r} has no healthy endpoint that fits: {known} "
            f"registered, {len(fit)} with the wanted protocol, version and port, {sick} of these "
            "unhealthy")
