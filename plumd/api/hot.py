"""The few routes that are answered before Hypercorn sees the connection: recognition and parsing.

Pure: bytes in, values out. Whatever is unusual about a request's head makes it "not ours", and
Hypercorn then reads the very same bytes; so this parser never has to judge a strange request.

Source: RFC 9112 (HTTP/1.1), sections 2.2, 5.2, 6.1 and 6.3 on what must not be guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import httptools

from plumd.api.gate import wire_headers
from plumd.api.routes import JSON, Response, Route

HEAD_END: Final = b"\r\n\r\n"
STREAM_PATH: Final = "/v1/embedded-workers/{id}/stream"

_ODD: Final = frozenset({"transfer-encoding", "expect", "upgrade", "http2-settings", "trailer"})
_LENGTH_DIGITS_MAX: Final = 12
_STREAM_GET: Final = re.compile(
    rb"GET /v1/embedded-workers/([^/? ]+)/stream(?:\?([^ ]*))? HTTP/1\.1\r\n")
_STREAM_START: Final = b"GET /v1/embedded-workers/"
_POST: Final = b"POST "
_GET: Final = b"GET "


class HotTable:
    """Which POST paths are hot, and which GET paths without placeholders. Built from the one table
    of all routes. starts: how requests begin that may be for the front."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._static: dict[bytes, Route] = {}
        self._by_group: list[tuple[Route, str]] = []
        posts = [route for route in routes if route.method == "POST"]
        self._cold: frozenset[bytes] = frozenset(
            route.path.encode() for route in posts if not route.hot and "{" not in route.path)
        self._gets = {route.path.encode(): route for route in routes
                      if route.hot and route.method == "GET" and "{" not in route.path}
        self.starts: tuple[bytes, ...] = (_POST, _STREAM_START, *(
            _GET + path for path in self._gets))
        patterns = []
        for route in posts:
            if not route.hot:
                continue
            names = re.findall(r"\{([^}]*)\}", route.path)
            if not names:
                self._static[route.path.encode()] = route
            elif len(names) == 1 and not names[0].endswith("...") and not any(
                    _overlap(route.path, other.path) for other in posts
                    if other is not route and "{" in other.path):
                self._by_group.append((route, names[0]))
                head, tail = route.path.split("{" + names[0] + "}")
                patterns.append(f"{re.escape(head)}([^/]+){re.escape(tail)}")
        self._pattern = re.compile("|".join(patterns).encode() if patterns else rb"(?!)")

    def find(self, method: bytes, path: bytes) -> tuple[Route, dict[str, str]] | None:
        """The hot route of a raw path, with its raw placeholder; None when it is not hot."""
        if method == _GET:
            route = self._gets.get(path)
            return None if route is None else (route, {})
        route = self._static.get(path)
        if route is not None:
            return route, {}
        found = self._pattern.fullmatch(path)
        if found is None or path in self._cold or found.lastindex is None:
            return None
        route, name = self._by_group[found.lastindex - 1]
        return route, {name: found[found.lastindex].decode("ascii")}


def _overlap(one: str, other: str) -> bool:
    """Whether some path could match both templates; then Quart's precedence must decide."""
    if "..." in one or "..." in other:
        return one.split("{")[0].startswith(other.split("{")[0]) or (
            other.split("{")[0].startswith(one.split("{")[0]))
    ones, others = one.split("/"), other.split("/")
    return len(ones) == len(others) and all(
        a == b or "{" in a or "{" in b for a, b in zip(ones, others, strict=True))


class Head:
    """The head of one request, as httptools reports it."""

    __slots__ = ("headers", "keep_alive", "length", "odd", "params", "query", "route", "target",
                 "upgrade")

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[str, str] = {}
        self.odd = False
        self.upgrade = False
        self.length = 0
        self.keep_alive = True
        self.query = ""
        self.params: dict[str, str] = {}
        self.route: Route | None = None

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser for each header. A name that comes twice makes the head odd."""
        key = name.decode("latin-1").lower()
        if key in self.headers:
            self.odd = True
        self.headers[key] = value.decode("latin-1").strip(" \t")


def may_be_ours(table: HotTable, start: bytes | bytearray) -> bool:
    """Whether bytes without a whole head yet can still become a hot or a stream request."""
    if not (start.startswith(table.starts)
            or any(known.startswith(start) for known in table.starts)):
        return False
    # A bare line feed would end lines for Hypercorn but not for us.
    feeds = start.count(b"\n")
    return feeds == 0 or feeds == start.count(b"\r\n")


def parse_hot(table: HotTable, raw: bytes) -> Head | None:
    """The head of a hot request; None when it is not one or anything about it is unusual."""
    method = _POST if raw.startswith(_POST) else _GET
    if not raw.startswith(method):
        return None
    space = raw.find(b" ", len(method))
    target = raw[len(method):space]
    path, _, query = target.partition(b"?")
    found = table.find(method, path) if target.isascii() else None
    if found is None:
        return None
    head = _parse(raw, space)
    if head is None or not _ODD.isdisjoint(head.headers):
        return None
    length = head.headers.get("content-length", "0" if method == _GET else "")
    if method == _GET and length != "0":
        return None
    if not (length.isascii() and length.isdigit() and len(length) <= _LENGTH_DIGITS_MAX):
        return None
    connection = head.headers.get("connection")
    if connection is not None:
        lowered = connection.lower()
        if lowered not in ("keep-alive", "close"):
            return None
        head.keep_alive = lowered == "keep-alive"
    head.length = int(length)
    head.route, head.params = found
    head.query = query.decode("ascii")
    return head


def parse_stream(raw: bytes) -> Head | None:
    """The head of a WebSocket request for a worker's stream; None when it is not one."""
    found = _STREAM_GET.match(raw)
    if found is None or not found[0].isascii():
        return None
    head = _parse(raw, raw.find(b" ", 4))
    if head is None or head.headers.get("upgrade", "").lower() != "websocket":
        return None
    if head.headers.get("content-length", "0") != "0" or "transfer-encoding" in head.headers:
        return None
    head.params = {"id": found[1].decode("ascii")}
    head.query = (found[2] or b"").decode("ascii")
    return head


def _parse(raw: bytes, target_end: int) -> Head | None:
    if raw[target_end:target_end + 11] != b" HTTP/1.1\r\n":
        return None
    if raw.count(b"\n") != raw.count(b"\r\n") or b"\r\n " in raw or b"\r\n\t" in raw:
        return None
    head = Head()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        head.upgrade = True
    except httptools.HttpParserError:
        return None
    if head.odd or not head.headers.get("host"):
        return None
    return head


# Answers, in one piece.

def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES: Final = {status.value: _status_line(status.value) for status in HTTPStatus}
_JSON_HEADERS: Final = (b"content-type: application/json\r\nx-content-type-options: nosniff\r\n"
                        b"cache-control: no-store\r\ncontent-length: %d\r\n")
_CLOSE: Final = b"connection: close\r\n"


def encode_answer(response: Response, *, keep_alive: bool) -> bytes:
    """A whole answer as bytes, for HTTP/1.1."""
    status = _STATUS_LINES.get(response.status) or _status_line(response.status)
    empty = response.status in (204, 304)
    if response.content_type is JSON and not response.headers and not empty:
        headers = _JSON_HEADERS % len(response.body)
    else:
        headers = "".join(f"{name}: {value}\r\n" for name, value in wire_headers(response)
                          ).encode("latin-1")
    return b"%b%b%b\r\n%b" % (status, headers, b"" if keep_alive else _CLOSE,
                              b"" if empty else response.body)
