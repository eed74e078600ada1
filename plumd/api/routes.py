"""What a route is. The table of all routes (made by plumd.daemon from the resource files) feeds
the thin front, Quart, the OpenAPI document and the tests; there is no second list.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

import msgspec

JSON: Final = "application/json"


class Request(msgspec.Struct, frozen=True):
    """A request, whichever door it came through.

    params: values of the path's {placeholders}, percent-decoded.  query: the first value of each
    key.  headers: lower-case names.  peer: the client's address, "" for a unix socket.
    chunks: the body as it comes, of a route that is streamed; then `body` is empty.
    """

    method: str
    path: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    peer: str = ""
    chunks: AsyncIterator[bytes] | None = None


class Response(msgspec.Struct, frozen=True):
    """An answer. stream: the body's chunks when it does not end soon (SSE, files)."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    stream: AsyncIterator[bytes] | None = None


Handler = Callable[[Request], Awaitable[Response]]


class Query(msgspec.Struct, frozen=True):
    """A query parameter of the OpenAPI document."""

    name: str
    schema: type = str
    help: str = ""
    required: bool = False
    choices: tuple[str, ...] = ()


class Route(msgspec.Struct, frozen=True):
    """One method on one path, with everything that doors and documents need to know of it.

    path: with {name} placeholders; {name...} takes the rest of the path with its slashes.
    body: the type that the handler decodes (None: no body).  answers: status -> type of the body
    (None: empty).  permission: what S3 will ask for, e.g. "tasks:write".
    hot: the thin front may answer it without Quart.  navigable: a page that a link on another
    site may open, for it is only looked at.  lenient: an old client's route; see
    docs/compatibility.md.  trusted: open to a trusted network without a token.
    body_bytes_max: over it the answer is 413.  errors: its own beside those that all have.
    streamed: the handler takes the body as it comes, so it may be larger than memory.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    permission: str
    body: object = None
    body_optional: bool = False
    answers: Mapping[int, object] = {}
    query: tuple[Query, ...] = ()
    hot: bool = False
    navigable: bool = False
    lenient: bool = False
    trusted: bool = False
    body_bytes_max: int = 1 << 20
    errors: tuple[int, ...] = ()
    streamed: bool = False
