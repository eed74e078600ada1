"""The web UI's files, as the build made them: `/`, `/assets/*` and what lies beside index.html.

The files are read once at the start and kept in memory in their smallest form, so that no path of
a request ever becomes a path of the disk, and an upgrade on disk cannot tear a running page apart.
A path below none of the API's prefixes is a page of the UI, and gets index.html when a browser
asks for it: the UI's router knows what it means.

Source: RFC 9110 sections 12.5.3 (Accept-Encoding), 13.1.2 (If-None-Match); CSP Level 3.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from plumd.api.openapi import PAGE_TAG
from plumd.api.params import has
from plumd.api.routes import Request, Response, Route
from plumd.errors import NotFound

FOLDER: Final = Path(__file__).parent.parent / "static"
CSP: Final = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
              "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
              "frame-ancestors 'none'")
SAFE: Final = (("content-security-policy", CSP), ("referrer-policy", "no-referrer"),
               ("x-frame-options", "DENY"))
FOR_EVER: Final = ("cache-control", "public, max-age=31536000, immutable")
ASK_AGAIN: Final = ("cache-control", "no-cache")
TYPES: Final = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", ".png": "image/png",
    ".ico": "image/x-icon", ".woff2": "font/woff2", ".json": "application/json",
    ".webmanifest": "application/manifest+json", ".txt": "text/plain; charset=utf-8",
}
NOT_PAGES: Final = ("/v1", "/docs", "/assets", "/healthz", "/readyz", "/metrics", "/version",
                    "/openapi.json")
"""At and below these nothing is a page of the UI: what is unknown there is a 404 for all."""


class File(msgspec.Struct, frozen=True):
    """One file. body is gzip when `packed`; tag is a hash of what it unpacks to."""

    body: bytes
    packed: bool
    content_type: str
    tag: str


class Ui:
    """The files below one folder. Empty when it has no index.html: the UI was not built."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.files: dict[str, File] = {}
        if (folder / "index.html").is_file():
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.suffix in TYPES:
                    self.files[path.relative_to(folder).as_posix()] = read(path)

    def __bool__(self) -> bool:
        return bool(self.files)

    async def index(self, request: Request) -> Response:
        """The page, wherever in the UI the request points."""
        return answer(self.files["index.html"], request.headers, ASK_AGAIN)

    async def asset(self, request: Request) -> Response:
        """A file whose name changes with its content."""
        file = self.files.get(f"assets/{request.params['name']}")
        if file is None:
            raise NotFound("there is no such file; the page may be of another version")
        return answer(file, request.headers, FOR_EVER)

    async def beside(self, request: Request) -> Response:
        """A file beside index.html: an icon, a manifest."""
        return answer(self.files[request.path[1:]], request.headers, ASK_AGAIN)

    def routes(self) -> list[Route]:
        """`/`, the assets, and one route for each file beside index.html; none when not built."""
        if not self:
            return []
        beside = [name for name in self.files if "/" not in name and name != "index.html"]
        return [
            Route("GET", "/", self.index, "The web UI", PAGE_TAG, "public", navigable=True),
            Route("GET", "/assets/{name...}", self.asset, "Its scripts, styles and fonts",
                  PAGE_TAG, "public"),
            *(Route("GET", f"/{name}", self.beside, "A file of the UI", PAGE_TAG, "public")
              for name in beside),
        ]

    def deep(self) -> Route | None:
        """What answers pages of the UI that are no route of the daemon's; None when not built."""
        if not self:
            return None
        return Route("GET", "/{page...}", self.index, "The web UI", PAGE_TAG, "public",
                     navigable=True)


def read(path: Path) -> File:
    """A file with its type and tag, packed when the build packed it and that is smaller."""
    body = path.read_bytes()
    tag = hashlib.sha256(body).hexdigest()[:20]
    packed = path.with_name(path.name + ".gz")
    if packed.is_file():
        small = packed.read_bytes()
        if len(small) < len(body) and small[-8:] == trailer(body):
            return File(small, True, TYPES[path.suffix], tag)
    return File(body, False, TYPES[path.suffix], tag)


def trailer(body: bytes) -> bytes:
    """How a gzip of this ends: a hundredth of the time that unpacking takes.

    Source: RFC 1952, section 2.3.1.
    """
    return struct.pack("<II", zlib.crc32(body), len(body) & 0xffffffff)


def answer(file: File, headers: Mapping[str, str], keep: tuple[str, str]) -> Response:
    """The file in the form that the client takes, or 304 when it has it."""
    packed = file.packed and takes_gzip(headers.get("accept-encoding", ""))
    # The two forms are two representations, so they have two tags.
    tag = f'"{file.tag}-gz"' if packed else f'"{file.tag}"'
    vary = (("vary", "accept-encoding"),) if file.packed else ()
    common = (*SAFE, keep, ("etag", tag), *vary)
    if has(headers.get("if-none-match", ""), tag):
        return Response(304, headers=common)
    if packed:
        return Response(200, file.body, file.content_type,
                        (*common, ("content-encoding", "gzip")))
    body = gzip.decompress(file.body) if file.packed else file.body
    return Response(200, body, file.content_type, common)


def takes_gzip(accept_encoding: str) -> bool:
    """Whether gzip is among the codings that the client takes."""
    for each in accept_encoding.split(","):
        coding, _, weight = each.partition(";")
        if coding.strip().lower() in ("gzip", "x-gzip", "*"):
            return weight.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def is_page(method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Whether a request that found no route means a page of the UI: a browser's, by its Accept."""
    if method not in ("GET", "HEAD"):
        return False
    if any(path == prefix or path.startswith(prefix + "/") for prefix in NOT_PAGES):
        return False
    types = (each.partition(";")[0].strip() for each in headers.get("accept", "").split(","))
    return "text/html" in types
