"""The Quart-Trio application: every route that is not taken on the socket, SSE, and the pages.

Quart finds the route and keeps the connection's requests apart; admission, limits, the handler's
wall and the headers are `gate`'s, the same as at the thin front.
"""

from __future__ import annotations

import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import suppress
from typing import Final, Protocol, Self

import msgspec
import trio
from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    HTTPScope,
)
from quart import request as current_request
from quart.routing import QuartRule
from quart.typing import ResponseTypes
from quart.wrappers import Request as QuartRequest
from quart.wrappers import Response as QuartResponse
from quart.wrappers.base import BaseRequestWebsocket
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from quart_trio.wrappers.request import TrioBody, TrioRequest
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.exceptions import MethodNotAllowed as WrongMethod
from werkzeug.routing import BaseConverter, MapAdapter

from plumd.api.admission import announces_body, check_media
from plumd.api.connection import CONNECTION_STATE_KEY, Connection
from plumd.api.gate import (
    EVENT_STREAM,
    SMALL_BODY_BYTES,
    Gate,
    Ticket,
    open_request,
    too_large,
    too_slow,
    wire_headers,
)
from plumd.api.problem import internal, problem
from plumd.api.routes import Request, Response, Route
from plumd.api.ui import is_page
from plumd.errors import MethodNotAllowed, NotFound, PlumError

BODY_S: Final = 30.0
STALL_S: Final = 30.0
CLEANUP_S: Final = 2.0
BUFFERED_BYTES_MAX: Final = 1 << 20

_PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)(\.\.\.)?\}", re.IGNORECASE)


class View(Protocol):
    """What Quart calls with the raw values of a rule's placeholders."""

    async def __call__(self, **raw_params: str) -> QuartResponse:
        """Answer the current request."""


class RestOfPath(BaseConverter):
    """Takes what is left of a path, slashes and all."""

    regex = r".+"
    part_isolating = False
    weight = 200


class _Body(TrioBody):
    """A request's body, of which no more is taken from the socket than is read soon."""

    def __init__(self, expected_content_length: int | None,
                 max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._read = trio.Event()

    async def __anext__(self) -> bytes:
        data = await super().__anext__()
        self._read.set()
        return data

    async def wait_room(self) -> None:
        """Return when there is room for more."""
        while len(self._data) >= BUFFERED_BYTES_MAX and not self._complete.is_set():
            self._read = trio.Event()
            await self._read.wait()


class _Request(TrioRequest):
    """Quart's request, with our body."""

    body_class = _Body


class _Exchange(TrioASGIHTTPConnection):
    """One request and its answer, with two differences from Quart's.

    The path stays percent-encoded until the route is found, so that an encoded slash is no slash;
    and a client that takes no bytes is given up after STALL_S, however long the answer may last.
    """

    def _create_request_from_scope(self, send: ASGISendCallable) -> QuartRequest:
        self.scope = _with_raw_path(self.scope)
        return super()._create_request_from_scope(send)

    async def handle_messages(  # type: ignore[override]  # Quart-Trio's has a nursery too
            self, nursery: trio.Nursery, request: QuartRequest,
            receive: ASGIReceiveCallable) -> None:
        """Quart's, but that a body which nobody reads waits in the socket and not in memory."""
        body = request.body
        assert isinstance(body, _Body)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            if message["type"] == "http.request":
                body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    body.set_complete()
                await body.wait_room()
        nursery.cancel_scope.cancel()

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        async def bounded(message: ASGISendEvent) -> None:
            with trio.fail_after(STALL_S):
                await send(message)

        # Given up, Hypercorn sees an answer without an end, and closes or resets.
        with suppress(trio.TooSlowError):
            await super()._send_response(bounded, response)


class _NoWebSocket(TrioASGIWebsocketConnection):
    """WebSockets are taken by the thin front; what arrives here asked for another path."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert isinstance(self.app, PlumApp)
        await receive()
        headers = _headers_of(self.scope["headers"])
        peer = _peer_of(self.scope["client"])
        scheme = "https" if self.scope["scheme"] in ("wss", "https") else "http"
        response = self.app.gate.refuse(None, "GET", headers, peer, scheme=scheme) or problem(
            NotFound("there is no WebSocket at this path"))
        await send({
            "type": "websocket.http.response.start", "status": response.status,
            "headers": [(n.encode(), v.encode()) for n, v in wire_headers(response)],
        })
        await send({
            "type": "websocket.http.response.body", "body": response.body, "more_body": False,
        })


class _NoBuilder:
    """What makes URLs of a rule's placeholders; ours are written out where they are needed."""

    def __call__(self, **_params: object) -> tuple[str, str]:
        raise RuntimeError("rules only find routes")

    def __get__(self, rule: object, kind: object = None) -> Self:
        return self


class _Rule(QuartRule):
    """A rule without what Werkzeug compiles to make URLs, a third of the time of a start."""

    def _compile_builder(self, append_unknown: bool = True) -> _NoBuilder:
        del append_unknown
        return _NoBuilder()


class PlumApp(QuartTrio):
    """Quart with the rules of `gate`."""

    # Quart's rules are no subclass of Flask's, by which the attribute is declared.
    url_rule_class = _Rule  # type: ignore[assignment]

    request_class = _Request
    asgi_http_class = _Exchange
    asgi_websocket_class = _NoWebSocket

    def __init__(self, gate: Gate, *, body_s: float) -> None:
        super().__init__("plumd", static_folder=None)
        self.gate = gate
        self.body_s = body_s

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """Routes do not depend on Host, and a strange Host is admission's to refuse."""
        if request is None:
            return None
        return self.url_map.bind("localhost", path_info=request.path, default_method=request.method)


def build_app(routes: Sequence[Route], gate: Gate, *, body_s: float = BODY_S,
              deep: Route | None = None) -> PlumApp:
    """The application for this table of routes. body_s: time for a body to arrive.

    deep: answers a browser that asks for a page which is no route: the UI knows its own paths.
    Raises ValueError when two routes are the same.
    """
    app = PlumApp(gate, body_s=body_s)
    app.config["MAX_CONTENT_LENGTH"] = max((r.body_bytes_max for r in routes), default=0)
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["BODY_TIMEOUT"] = None
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    app.url_map.converters["rest"] = RestOfPath
    seen: set[tuple[str, str]] = set()
    for route in routes:
        rule = rule_of(route.path)
        key = (route.method, _PLACEHOLDER.sub("{}", route.path))
        if key in seen:
            raise ValueError(f"two routes are {route.method} {route.path}")
        seen.add(key)
        app.add_url_rule(rule, endpoint=f"{route.method} {route.path}", methods=[route.method],
                         view_func=_view_of(app, route), provide_automatic_options=False)
    app.register_error_handler(HTTPException, _on_http_error(app, deep))
    return app


def rule_of(path: str) -> str:
    """A route's path as Werkzeug writes it. Raises ValueError."""
    rule = _PLACEHOLDER.sub(lambda m: f"<{'rest:' if m[2] else ''}{m[1]}>", path)
    if "{" in rule or not rule.startswith("/"):
        raise ValueError(f"{path!r} is no path of a route")
    return rule


def _view_of(app: PlumApp, route: Route) -> View:
    async def view(**raw_params: str) -> QuartResponse:
        return await _serve(app, route, raw_params)

    return view


async def _serve(app: PlumApp, route: Route, raw_params: Mapping[str, str]) -> QuartResponse:
    """Answer Quart's current request from this route."""
    scope = current_request.scope
    headers = _headers_of(scope["headers"])
    peer = _peer_of(scope["client"])
    method = current_request.method
    refusal = app.gate.refuse(route, method, headers, peer, scheme=scope["scheme"],
                              body_size=_announced_size(headers))
    if refusal is not None:
        return _early(refusal, method, headers)
    try:
        if route.streamed:
            return await _serve_streamed(app, route, raw_params, headers, peer)
        with app.gate.body_budget() as take:
            body = await _read_body(app, route, take)
            if body:
                check_media(route, headers)
            query = scope["query_string"].decode("latin-1")
            request = open_request(method, current_request.path, query, raw_params, headers,
                                   body, peer)
            response = await app.gate.answer(route, request)
        if response.stream is None:
            return _quart_response(response, method)
        if method == "HEAD":
            await _close(response.stream)
            return _quart_response(response, method)
        app.gate.streams.check()
    except PlumError as error:
        return _early(problem(error), method, headers)
    return _quart_stream(app.gate, response, response.stream)


async def _serve_streamed(app: PlumApp, route: Route, raw_params: Mapping[str, str],
                          headers: Mapping[str, str], peer: str) -> QuartResponse:
    """The same for a handler that takes the body as it comes, and perhaps not to its end."""
    query = current_request.scope["query_string"].decode("latin-1")
    request = msgspec.structs.replace(
        open_request(current_request.method, current_request.path, query, raw_params, headers,
                     b"", peer), chunks=_body_chunks(app, route))
    return _early(await app.gate.answer(route, request), current_request.method, headers)


async def _body_chunks(app: PlumApp, route: Route) -> AsyncIterator[bytes]:
    """The body as it comes. Raises: TooLarge; TooSlow when nothing came for a while."""
    size = 0
    body = current_request.body
    while True:
        try:
            with trio.fail_after(app.body_s):
                chunk = await anext(body)
        except StopAsyncIteration:
            return
        except trio.TooSlowError:
            raise too_slow(app.body_s) from None
        except RequestEntityTooLarge:
            raise too_large(route) from None
        size += len(chunk)
        if size > route.body_bytes_max:
            raise too_large(route)
        if chunk:
            yield chunk


async def _read_body(app: PlumApp, route: Route, take: Callable[[int], None]) -> bytes:
    """The whole body. Raises TooLarge, Malformed (too slow) or Overloaded."""
    body = bytearray()
    budgeted = SMALL_BODY_BYTES
    try:
        with trio.fail_after(app.body_s):
            async for chunk in current_request.body:
                body += chunk
                if len(body) > route.body_bytes_max:
                    raise too_large(route)
                if len(body) > budgeted:
                    take(len(body) - (budgeted if budgeted > SMALL_BODY_BYTES else 0))
                    budgeted = len(body)
    except trio.TooSlowError:
        raise too_slow(app.body_s) from None
    except RequestEntityTooLarge:
        raise too_large(route) from None
    return bytes(body)


def _on_http_error(app: PlumApp, deep: Route | None,
                   ) -> Callable[[HTTPException], Awaitable[QuartResponse]]:
    async def answer(error: HTTPException) -> QuartResponse:
        scope = current_request.scope
        method = current_request.method
        headers = _headers_of(scope["headers"])
        peer = _peer_of(scope["client"])
        found = (deep if error.code == 404 and is_page(method, current_request.path, headers)
                 else None)
        refusal = app.gate.refuse(found, method, headers, peer, scheme=scope["scheme"])
        if refusal is not None:
            return _early(refusal, method, headers)
        if found is not None:
            asked = Request(method, current_request.path, {}, {}, headers, b"", peer)
            return _early(await app.gate.answer(found, asked), method, headers)
        if isinstance(error, WrongMethod):
            allowed = ", ".join(sorted(error.valid_methods or ()))
            response = problem(MethodNotAllowed(f"this path takes {allowed}"),
                               headers=(("allow", allowed),))
        elif error.code == 404:
            response = problem(NotFound("there is nothing at this path"))
        else:
            response = internal()   # Quart logged what it was
        return _early(response, method, headers)

    return answer


def _early(response: Response, method: str, headers: Mapping[str, str]) -> QuartResponse:
    """An answer that may be out before the request's body is in: over HTTP/1 the connection ends
    with it, and the client is told, or it would send its next request into a closed one.
    """
    made = _quart_response(response, method)
    if announces_body(headers) and current_request.scope["http_version"].startswith("1"):
        made.headers["connection"] = "close"
    return made


def _quart_response(response: Response, method: str) -> QuartResponse:
    empty = method == "HEAD" or response.status in (204, 304)
    made = QuartTrio.response_class(b"" if empty else response.body, status=response.status)
    made.headers = Headers(wire_headers(response))
    made.timeout = None
    return made


def _quart_stream(gate: Gate, response: Response, chunks: AsyncIterator[bytes]) -> QuartResponse:
    """A streaming answer; it ends when its source does, the client leaves, or the daemon stops."""
    connection = current_request.scope["state"].get(CONNECTION_STATE_KEY)
    made = QuartTrio.response_class(b"", status=response.status)
    made.response = _Chunks(
        chunks, gate, connection if isinstance(connection, Connection) else None,
        live=response.content_type.startswith(EVENT_STREAM))
    made.headers = Headers(wire_headers(response))
    made.timeout = None
    return made


class _Chunks(ResponseBody):
    """The chunks of a streaming answer, in the shape that Quart iterates and closes.

    live: it has no end of its own (SSE), so shutdown ends it; readers come back. Others, like
    files, are let run into the grace period, for an end made early would look like the true one.
    """

    def __init__(self, chunks: AsyncIterator[bytes], gate: Gate, connection: Connection | None, *,
                 live: bool) -> None:
        self._chunks = chunks
        self._gate = gate
        self._connection = connection if live else None
        self._live = live
        self._ticket = Ticket()

    async def __aenter__(self) -> Self:
        # Only here the stream is sure to be closed again; a place in it was checked before.
        self._gate.streams.join(self._ticket)
        if self._connection is not None:
            self._connection.begin_stream()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._connection is not None:
            self._connection.end_stream()
        self._gate.streams.leave(self._ticket)
        await _close(self._chunks)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._live:
            return await anext(self._chunks)
        with self._ticket.waiting():
            return await anext(self._chunks)
        raise StopAsyncIteration    # ended from outside; the answer itself ends well


async def _close(chunks: AsyncIterator[bytes]) -> None:
    if isinstance(chunks, AsyncGenerator):
        with trio.move_on_after(CLEANUP_S, shield=True):
            await chunks.aclose()


def _with_raw_path(scope: HTTPScope) -> HTTPScope:
    """The scope with the path as it was sent, and an absolute target taken apart.

    Source: RFC 9112 section 3.2.2: the authority of an absolute target replaces Host.
    """
    target = scope["raw_path"].decode("ascii")
    changed = scope.copy()
    if not target.startswith("/") and "://" in target:
        authority, slash, path = target.partition("://")[2].partition("/")
        target = slash + path
        others = [(name, value) for name, value in scope["headers"] if name.lower() != b"host"]
        changed["headers"] = [(b"host", authority.encode("ascii")), *others]
    changed["path"] = target if target.startswith("/") else f"/{target}"
    return changed


def _headers_of(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in pairs:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _peer_of(client: tuple[str, int] | None) -> str:
    return client[0] if client is not None else ""


def _announced_size(headers: Mapping[str, str]) -> int:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
