"""What both doors share: admission, the handler's wall, limits, and an answer's headers.

The thin front and Quart call these same functions, so that a request is answered alike whichever
door it came through. Only the reading and writing of sockets differs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import trio

from plumd.api.admission import Policy, admit
from plumd.api.params import has, parse_query, unquote
from plumd.api.problem import internal, problem
from plumd.api.routes import JSON, Request, Response, Route
from plumd.errors import Overloaded, PlumError, TooLarge, TooMany, TooSlow

log = logging.getLogger("plumd.api")

SMALL_BODY_BYTES: Final = 64 * 1024
EVENT_STREAM: Final = "text/event-stream"

Observe = Callable[[Route, str, int, float], None]
"""Told of every answer: the route, the method, the status and the seconds that it took."""


class Ticket:
    """One open stream (SSE or WebSocket). `end` cancels what it waits for, or its next wait."""

    __slots__ = ("ended", "scope")

    def __init__(self) -> None:
        self.ended = False
        self.scope: trio.CancelScope | None = None

    def end(self) -> None:
        """Ask the stream to end now."""
        self.ended = True
        if self.scope is not None:
            self.scope.cancel()

    @contextmanager
    def waiting(self) -> Iterator[trio.CancelScope]:
        """A scope that `end` cancels."""
        with trio.CancelScope() as scope:
            self.scope = scope
            if self.ended:
                scope.cancel()
            try:
                yield scope
            finally:
                self.scope = None


class Streams:
    """How many streams are open, and the means to end them all."""

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.closed = False
        self._open: set[Ticket] = set()

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def ticket(self) -> Iterator[Ticket]:
        """Count one open stream. Raises TooMany, or Overloaded once `close` was called."""
        ticket = self.enter()
        try:
            yield ticket
        finally:
            self.leave(ticket)

    def enter(self) -> Ticket:
        """Like `ticket`, for those whose end is no block's end; `leave` must follow."""
        self.check()
        ticket = Ticket()
        self.join(ticket)
        return ticket

    def join(self, ticket: Ticket) -> None:
        """Count a stream that `check` let in; it ends at once when `close` came in between."""
        self._open.add(ticket)
        if self.closed:
            ticket.end()

    def check(self) -> None:
        """Whether one more may open now. Raises TooMany or Overloaded."""
        if self.closed:
            raise Overloaded("the daemon is shutting down")
        if len(self._open) >= self.limit:
            raise TooMany(f"{self.limit} streams are open already", retry_after_s=5)

    def leave(self, ticket: Ticket) -> None:
        """The stream ended. Leaving twice is leaving once."""
        self._open.discard(ticket)

    def close(self) -> None:
        """End all streams and let none in any more."""
        self.closed = True
        for ticket in list(self._open):
            ticket.end()


class Gate:
    """The shared state of the doors.

    policy may be replaced while serving; the next request is judged by the new one.
    body_bytes_max: how much the large bodies that are being read or handled may take together;
    a request beyond it gets 503 while memory stays flat.
    """

    def __init__(self, policy: Policy, *, streams_max: int = 1000,
                 body_bytes_max: int = 256 * 1024 * 1024, observe: Observe | None = None) -> None:
        self.policy = policy
        self.streams = Streams(streams_max)
        self.observe = observe
        self._body_bytes_max = body_bytes_max
        self._body_bytes = 0

    def refuse(self, route: Route | None, method: str, headers: Mapping[str, str], peer: str, *,
               scheme: str = "http", body_size: int = 0) -> Response | None:
        """The answer that a request's head alone earns it; None when it may go on."""
        try:
            admit(route, method, headers, peer, self.policy, scheme=scheme)
            if route is not None and body_size > route.body_bytes_max:
                raise too_large(route)
        except PlumError as error:
            return problem(error)
        return None

    async def answer(self, route: Route, request: Request) -> Response:
        """The handler's answer, or the problem that it raised; never an exception of its own.

        Cancel: the client is gone or the daemon is leaving; a command that was handed to the
        engine stays whole.
        """
        started = trio.current_time()
        try:
            response = await route.handler(request)
            if response.headers or response.content_type is not JSON:
                _check_headers(response)
                if 304 in route.answers:
                    response = _unless_known(response, request.headers)
        except PlumError as error:
            response = problem(error)
        except Exception as error:
            response = _of_unexpected(error, route)
        if self.observe is not None:
            seconds = trio.current_time() - started
            self.observe(route, request.method, response.status, seconds)
        return response

    @contextmanager
    def body_budget(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes from the shared budget until the block ends.

        It raises Overloaded when nothing is left.
        """
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self._body_bytes + size > self._body_bytes_max:
                raise Overloaded("too many large bodies are being handled at once")
            taken += size
            self._body_bytes += size

        try:
            yield take
        finally:
            self._body_bytes -= taken


def too_large(route: Route) -> TooLarge:
    """The error of a body over its route's limit."""
    return TooLarge(f"the body is larger than this route's {route.body_bytes_max} bytes")


def too_slow(seconds: float) -> TooSlow:
    """The error of a body that did not arrive in time."""
    return TooSlow(f"the body did not arrive within {seconds:g} s")


def open_request(method: str, path: str, raw_query: str, raw_params: Mapping[str, str],
                 headers: Mapping[str, str], body: bytes, peer: str) -> Request:
    """A request with its path and query decoded. Raises Malformed when they are not UTF-8."""
    params = {name: unquote(value) for name, value in raw_params.items()}
    return Request(method, unquote(path), params, parse_query(raw_query), headers, body, peer)


def wire_headers(response: Response) -> list[tuple[str, str]]:
    """All headers of an answer but those of the connection."""
    headers: list[tuple[str, str]] = []
    if response.status not in (204, 304):
        headers.append(("content-type", response.content_type))
        if response.stream is None:
            headers.append(("content-length", str(len(response.body))))
    headers.append(("x-content-type-options", "nosniff"))
    if not any(name == "cache-control" for name, _ in response.headers):
        headers.append(("cache-control", "no-store"))
    headers.extend(response.headers)
    return headers


def _unless_known(response: Response, headers: Mapping[str, str]) -> Response:
    """The answer, without its body where the client has it already."""
    known = headers.get("if-none-match")
    if known is not None and response.status == 200 and any(
            name == "etag" and has(known, tag) for name, tag in response.headers):
        return Response(304, headers=response.headers)
    return response


def _check_headers(response: Response) -> None:
    """A defect in a handler must not become a split response. Raises ValueError."""
    for name, value in (("content-type", response.content_type), *response.headers):
        value.encode("latin-1")
        if not _is_token(name) or not value.isprintable():
            raise ValueError(f"a handler gave a header that is none: {name!r}")


def _is_token(name: str) -> bool:
    return bool(name) and name.isascii() and name.islower() and name.replace("-", "").isalnum()


def _of_unexpected(error: Exception, route: Route) -> Response:
    """The answer to what a handler should not have raised: a lone error inside groups, or 500."""
    inner: BaseException = error
    while isinstance(inner, ExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    if isinstance(inner, PlumError):
        return problem(inner)
    log.error("request failed: a handler raised", exc_info=error,
              extra={"route": route.path, "method": route.method})
    return internal()
