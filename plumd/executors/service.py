"""Service tasks: a call to one of a service's healthy endpoints, by the policy of the service.

A call goes to one endpoint after the other: one that cannot be reached makes way for the next, as
long as the service's budget of retries lasts, and so does one that failed a call which may be
made twice. What is left without an answer falls back to another service, or to a fixed result, if
the policy has one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Final, NamedTuple, Protocol

import msgspec
import trio

from plumd.balance import Endpoint, Key, strategy_of
from plumd.breaker import Policy
from plumd.executors import Attempt, Outcome, Stop
from plumd.executors.answers import (
    CallDetail,
    attempt_headers,
    failed,
    lost_with_daemon,
    outcome_of,
    result_of,
    status_detail,
    unanswered,
    unless_stopped,
)
from plumd.executors.callback import EXECUTE_TASK, GrpcDetail, task_request, task_result
from plumd.executors.checks import GRPC, HTTP, url_of
from plumd.executors.grpc_calls import GrpcCalls, NoSuchCall
from plumd.executors.grpc_client import GrpcClient
from plumd.executors.outgoing import Client
from plumd.executors.targets import CallFailed
from plumd.model import VALUE_BYTES_MAX, Ending, TaskError
from plumd.stream.grpc_frames import GrpcError, Status

SUPPORTED: Final = (*HTTP, GRPC)
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
REPEATABLE: Final = frozenset({"GET", "PUT", "DELETE"})
"""Source: RFC 9110 section 9.2.2 (idempotent methods)."""
WORTH_RETRYING: Final = frozenset({408, 425, 429})
"""Of the 4xx. The others say that the call is wrong, and it would be wrong again."""
PASSING: Final = frozenset({502, 503, 504})
SICK: Final = frozenset({"unreachable", "connection_lost", "bad_answer"})
SICK_STATUSES: Final = frozenset({Status.UNKNOWN, Status.DEADLINE_EXCEEDED, Status.INTERNAL,
                                  Status.UNAVAILABLE, Status.DATA_LOSS})
FINAL_STATUSES: Final = frozenset({
    Status.INVALID_ARGUMENT, Status.NOT_FOUND, Status.ALREADY_EXISTS, Status.PERMISSION_DENIED,
    Status.FAILED_PRECONDITION, Status.OUT_OF_RANGE, Status.UNIMPLEMENTED,
    Status.UNAUTHENTICATED})


class CallBook(Protocol):
    """What is known of calls; plumd.service_calls.ServiceCalls is one."""

    def policy(self, service: str) -> Policy:
        """How a service is called."""

    def first_call(self, service: str) -> None:
        """A call begins that is no retry."""

    def may_retry(self, service: str) -> bool:
        """Whether a call may be tried again at another endpoint; then it is spent."""

    def allows(self, endpoint: Endpoint) -> bool:
        """Whether its breaker lets it be called now."""

    def begin(self, endpoint: Endpoint) -> int:
        """A call of it begins; what to give to `end`."""

    def end(self, endpoint: Endpoint, epoch: int, *, well: bool | None) -> None:
        """A call of it is over. well: None = nothing is known of it."""


class Directory(Protocol):
    """Who knows the endpoints; plumd.services.Registry is one."""

    @property
    def calls(self) -> CallBook:
        """What is known of calls."""

    def known(self, service: str) -> Sequence[Endpoint]:
        """All endpoints of a service."""

    def preferred(self, service: str, fit: Iterable[Endpoint], tried: Iterable[Key],
                  strategy: str = ..., sticky: str = ...) -> Endpoint | None:
        """Of those that fit: a healthy one not yet tried that its breaker lets be called."""

    def is_healthy(self, endpoint: Endpoint) -> bool:
        """Whether it is believed to answer."""

    def calling(self, endpoint: Endpoint) -> AbstractContextManager[None]:
        """Counts a call in flight."""

    def suspect(self, endpoint: Endpoint) -> None:
        """It did not answer: for a short while others are preferred."""


class Wish(msgspec.Struct, frozen=True):
    """What the task's labels ask for. protocol "": http or https."""

    version: str
    protocol: str
    port: str
    path: str
    method: str
    strategy: str
    sticky: str

    def fits(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint is one of those that are meant."""
        protocol = endpoint.protocol.lower()
        return (
            (not self.version or endpoint.version == self.version)
            and (not self.port or str(endpoint.port) == self.port)
            and (protocol == self.protocol if self.protocol else protocol in HTTP)
        )


def wish_of(attempt: Attempt) -> Wish:
    """The labels serviceVersion, serviceProtocol, servicePort, servicePath, serviceMethod,
    serviceStrategy, serviceStickyKey."""
    labels = attempt.labels
    path = labels.get("servicePath", "")
    return Wish(
        labels.get("serviceVersion", ""), labels.get("serviceProtocol", "").lower(),
        labels.get("servicePort", ""), path if not path or path.startswith("/") else "/" + path,
        labels.get("serviceMethod", "").upper() or "POST",
        labels.get("serviceStrategy", ""), labels.get("serviceStickyKey", ""))


class Tried(NamedTuple):
    """What came of one endpoint. again: another one may be tried. well: what that says of it."""

    outcome: Outcome
    again: bool = False
    well: bool | None = None


class Service:
    """The executor of service tasks. target_ref is the service's name."""

    name: ClassVar[str] = "service"

    def __init__(self, client: Client, directory: Directory,
                 grpc: GrpcClient | None = None) -> None:
        self.client = client
        self.directory = directory
        self.grpc = GrpcCalls(grpc or GrpcClient(client))

    async def run(self, attempt: Attempt, stop: Stop) -> Outcome:
        """Call an endpoint and wait for its answer; see Executor.run.

        Cancel: the call is given up; after the daemon's next start the attempt is lost.
        """
        if attempt.resumed:
            return lost_with_daemon()
        wish = wish_of(attempt)
        if wish.protocol and wish.protocol not in SUPPORTED:
            return failed("unsupported_protocol", "services are called by http, https or grpc, "
                          f"not by {wish.protocol}", retryable=False)
        if wish.method not in METHODS:
            return failed("unsupported_method", f"serviceMethod is one of {', '.join(METHODS)}",
                          retryable=False)
        if wish.strategy and strategy_of(wish.strategy) is None:
            return failed("unsupported_strategy", "there is no strategy "
                          f"{wish.strategy!r}", retryable=False)
        call = Call(self, attempt, wish)
        return await unless_stopped(stop, call.carry_out, lambda: call.detail)


class Call:
    """One attempt's way through the endpoints."""

    def __init__(self, service: Service, attempt: Attempt, wish: Wish) -> None:
        self.client = service.client
        self.grpc = service.grpc
        self.directory = service.directory
        self.calls = service.directory.calls
        self.attempt = attempt
        self.wish = wish
        self.detail = CallDetail("")

    async def carry_out(self) -> Outcome:
        """Call the service, and what stands in for it if that fails."""
        service = self.attempt.target_ref
        tried = await self._through(service)
        fallback = self.calls.policy(service).fallback
        if fallback is None or not (tried.again or tried.well is False) or (
                tried.outcome.ending is not Ending.FAILED):
            return tried.outcome
        if isinstance(fallback.result, msgspec.Raw):
            return Outcome(Ending.SUCCEEDED, bytes(fallback.result))
        return (await self._through(str(fallback.service))).outcome

    async def _through(self, service: str) -> Tried:
        """From one endpoint to the next; `again` says that no endpoint took the call."""
        policy, wish, seen = self.calls.policy(service), self.wish, set[Key]()
        strategy = strategy_of(wish.strategy) or policy.strategy
        last: Tried | None = None
        self.calls.first_call(service)
        while True:
            fit = [one for one in self.directory.known(service) if wish.fits(one)]
            endpoint = self.directory.preferred(service, fit, seen, strategy, wish.sticky)
            if endpoint is None:
                return last or Tried(self._nobody(service, fit), again=True)
            if last is not None and not self.calls.may_retry(service):
                return last
            seen.add(endpoint.key)
            tried = await self._try(endpoint, policy)
            if not tried.again:
                return tried
            if last is None or tried.outcome.retryable:
                last = tried

    async def _try(self, endpoint: Endpoint, policy: Policy) -> Tried:
        """Call one endpoint, and let its breaker know."""
        epoch = self.calls.begin(endpoint)
        well: bool | None = None
        try:
            with self.directory.calling(endpoint), trio.move_on_after(
                    policy.try_timeout_sec or math.inf) as patience:
                tried = await (self._call_grpc(endpoint) if endpoint.protocol.lower() == GRPC
                               else self._call_http(endpoint))
                well = tried.well
            if patience.cancelled_caught:
                well = False
                tried = self._too_slow(endpoint, policy.try_timeout_sec)
        finally:
            self.calls.end(endpoint, epoch, well=well)
        return tried

    def _too_slow(self, endpoint: Endpoint, seconds: float) -> Tried:
        """It may have done it all the same: only what may be made twice is made elsewhere."""
        message = f"{who(endpoint)} did not answer within tryTimeoutSec, {seconds:g} s"
        if self.wish.method in REPEATABLE and endpoint.protocol.lower() != GRPC:
            return Tried(failed("try_timeout", message, self.detail), again=True, well=False)
        return Tried(Outcome(Ending.LOST, error=TaskError(
            "try_timeout", message, detail=msgspec.Raw(msgspec.json.encode(self.detail)))))

    async def _call_http(self, endpoint: Endpoint) -> Tried:
        wish = self.wish
        url = url_of(endpoint, wish.path or "/")
        self.detail = CallDetail(url, endpoint.instance_id)
        body = b"" if wish.method == "GET" else self.attempt.payload
        kind = (("content-type", "application/json"),) if body else ()
        try:
            answer = await self.client.request(
                wish.method, url, body, (*kind, *attempt_headers(self.attempt).items()))
        except CallFailed as failure:
            return self._unanswered(endpoint, failure)
        status = answer.status
        outcome = outcome_of(answer, who(endpoint),
                             status_detail(url, answer, endpoint.instance_id),
                             retryable=not 400 <= status < 500 or status in WORTH_RETRYING)
        return Tried(outcome, again=status in PASSING and wish.method in REPEATABLE,
                     well=status < 500)

    async def _call_grpc(self, endpoint: Endpoint) -> Tried:
        path = self.wish.path or EXECUTE_TASK
        url = url_of(endpoint, "")
        self.detail = CallDetail(url + path, endpoint.instance_id)
        timeout_ms = self.attempt.timeout_ms
        try:
            if path == EXECUTE_TASK:
                data = await self.grpc.client.call(url, path, task_request(self.attempt),
                                                   timeout_ms)
                return Tried(task_result(data, who(endpoint)), well=True)
            answer = await self.grpc.call(url, path, self.attempt.payload, timeout_ms)
        except CallFailed as failure:
            return self._unanswered(endpoint, failure)
        except NoSuchCall as error:
            return Tried(failed(error.code, f"{who(endpoint)}: {error}", self.detail,
                                retryable=False))
        except GrpcError as error:
            return Tried(failed(
                "grpc_status", f"{who(endpoint)} answered {error.status.name}: {error.message}",
                GrpcDetail(url + path, error.status.name),
                retryable=error.status not in FINAL_STATUSES),
                well=error.status not in SICK_STATUSES)
        result = result_of(answer)
        if len(result) > VALUE_BYTES_MAX:
            return Tried(failed("answer_too_large", f"the answer of {who(endpoint)} is larger than "
                                f"{VALUE_BYTES_MAX} bytes as JSON", retryable=False), well=True)
        return Tried(Outcome(Ending.SUCCEEDED, result), well=True)

    def _unanswered(self, endpoint: Endpoint, failure: CallFailed) -> Tried:
        outcome = unanswered(failure, who(endpoint), self.detail)
        sick = failure.code in SICK
        if failure.code in ("unreachable", "connection_lost"):
            self.directory.suspect(endpoint)
        return Tried(outcome, again=failure.code in ("unreachable", "refused_address"),
                     well=False if sick else None)

    def _nobody(self, service: str, fit: Sequence[Endpoint]) -> Outcome:
        known = len(self.directory.known(service))
        sick = sum(not self.directory.is_healthy(one) for one in fit)
        shut = sum(self.directory.is_healthy(one) and not self.calls.allows(one) for one in fit)
        return failed(
            "no_endpoint", f"service {service!r} has no healthy endpoint that fits: {known} "
            f"registered, {len(fit)} with the wanted protocol, version and port, {sick} of these "
            f"unhealthy" + (f", {shut} not called because their breaker is open" if shut else ""))


def who(endpoint: Endpoint) -> str:
    """An endpoint in words."""
    return f"endpoint {endpoint.instance_id} ({endpoint.address}) of {endpoint.service}"
