"""/v1/apps and /artifacts: uploaded programs, streamed in and out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import msgspec
from werkzeug.http import parse_options_header
from werkzeug.sansio import multipart

from plumd.api.context import Context, answer, id_param
from plumd.api.openapi import ZipFile
from plumd.api.paging import CURSOR, LIMIT, cursor_id, page_limit, page_of
from plumd.api.params import has
from plumd.api.problem import problem_of
from plumd.api.routes import Query, Request, Response, Route
from plumd.artifacts import Artifacts, range_of
from plumd.errors import Invalid, Malformed, NotFound
from plumd.model import id_text
from plumd.store import apps
from plumd.store.apps import AppRow, PortDecl

ZIP: Final = "application/zip"
HEAD_BYTES_MAX: Final = 64 << 10
FORM_EXTRA_BYTES: Final = 1 << 20
"""What a form may have around the file."""


class AppView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """An uploaded app. url: below this controller's address.  ports: what it says it serves."""

    artifact_id: str
    name: str
    version: str
    url: str
    sha256: str
    size_bytes: int
    created_at: int
    type: str
    ports: tuple[PortDecl, ...]


def view(app: AppRow) -> AppView:
    """An app as the API shows it."""
    return AppView(
        artifact_id=id_text(app.number), name=app.name, version=app.version, url=app.url,
        sha256=app.sha256, size_bytes=app.size_bytes, created_at=app.created_ms, type="zip",
        ports=app.ports)


async def file_of_form(chunks: AsyncIterator[bytes], boundary: bytes) -> AsyncIterator[bytes]:
    """The content of the part `file` of a form, as it comes. Raises: Malformed, Invalid.

    Source: RFC 7578.
    """
    decoder = multipart.MultipartDecoder(boundary, max_form_memory_size=None, max_parts=100)
    found = inside = False
    async for chunk in with_end(chunks):
        try:
            decoder.receive_data(chunk)
            while not isinstance(event := decoder.next_event(),
                                 multipart.NeedData | multipart.Epilogue):
                if isinstance(event, multipart.Field | multipart.File):
                    inside = event.name == "file"
                    if inside and found:
                        raise Invalid("there are two files", field="file")
                    found = found or inside
                elif isinstance(event, multipart.Data) and inside and event.data:
                    yield bytes(event.data)
        except ValueError as error:
            raise Malformed(f"the form cannot be read to its end: {error}") from None
    if not found:
        raise Invalid("the form has no part named file", field="file")


async def with_end(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes | None]:
    """The chunks, and None behind them."""
    async for chunk in chunks:
        yield chunk
    yield None


class Apps:
    """The handlers."""

    def __init__(self, context: Context, artifacts: Artifacts) -> None:
        self.context = context
        self.artifacts = artifacts

    async def upload(self, request: Request) -> Response:
        """A zip as part `file` of a form, or as the body itself."""
        assert request.chunks is not None, "this route is streamed"
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        chunks = request.chunks
        if kind.lower() == "multipart/form-data":
            boundary = options.get("boundary", "").encode("latin-1", "replace")
            if not 0 < len(boundary) <= 200:
                raise Malformed("the form's Content-Type has no boundary", field="Content-Type")
            chunks = file_of_form(chunks, boundary)
        return answer(200, view(await self.artifacts.receive(chunks)))

    def known(self, request: Request) -> AppRow:
        """The app that the path names. Raises: NotFound."""
        app = self.context.store.peek(apps.get, id_param(request, "app"))
        if app is None:
            raise NotFound("no such app")
        return app

    async def get(self, request: Request) -> Response:
        """One app."""
        return answer(200, view(self.known(request)))

    async def page(self, request: Request) -> Response:
        """Newest first, of a name if one is asked for."""
        limit = page_limit(request)
        rows = await self.context.store.read(
            apps.page, request.query.get("name", ""), cursor_id(request), limit + 1)
        return page_of(request, rows, limit, view, lambda row: row.number)

    async def delete(self, request: Request) -> Response:
        """Forget an app that no deployment uses."""
        await self.artifacts.remove(self.known(request))
        return Response(204)

    async def download(self, request: Request) -> Response:
        """The file, or a range of it; it never changes, so its tag is its hash."""
        app = self.context.store.peek(apps.by_file, request.params["file"])
        if app is None:
            raise NotFound("there is no such artifact")
        tag, headers = f'"{app.sha256}"', request.headers
        common = (("etag", tag), ("accept-ranges", "bytes"), ("x-sha256", app.sha256),
                  ("cache-control", "private, max-age=31536000, immutable"))
        if has(headers.get("if-none-match", ""), tag):
            return Response(304, headers=common)
        asked = headers.get("range", "")
        if asked and headers.get("if-range", tag).strip() != tag:
            asked = ""      # it has a part of another file
        part = range_of(asked, app.size_bytes)
        if part is None:
            return problem_of("invalid", 416, "the file has no such bytes", field="Range",
                              headers=(("content-range", f"bytes */{app.size_bytes}"),))
        if not self.artifacts.has_file(app):
            raise NotFound("the artifact's file is gone")
        stream = self.artifacts.read(app, part.start, part.end)
        size = ("content-length", str(part.end - part.start))
        if part.whole:
            return Response(200, content_type=ZIP, headers=(*common, size), stream=stream)
        where = ("content-range", f"bytes {part.start}-{part.end - 1}/{app.size_bytes}")
        return Response(206, content_type=ZIP, headers=(*common, size, where), stream=stream)


def routes(handlers: Apps) -> list[Route]:
    """The table's part about apps."""
    tag, one = "apps", "/v1/apps/{id}"
    read = partial(Route, "GET", tag=tag, permission="apps:read")
    return [
        Route("POST", "/v1/apps/upload", handlers.upload,
              "Upload an app: a zip with start.sh and meta.ini", tag, "apps:write", body=bytes,
              answers={200: AppView}, lenient=True, streamed=True,
              body_bytes_max=handlers.artifacts.bytes_max + FORM_EXTRA_BYTES),
        read("/v1/apps", handlers.page, "List apps, newest first", answers={200: list[AppView]},
             query=(LIMIT, CURSOR, Query("name", str, "Only versions of this app"))),
        read(one, handlers.get, "Get an app", answers={200: AppView}),
        Route("DELETE", one, handlers.delete, "Delete an app that no deployment uses", tag,
              "apps:write", answers={204: None}),
        read("/artifacts/{file}", handlers.download, "Download an app, or a range of it",
             answers={200: ZipFile, 206: ZipFile, 304: None}, trusted=True, lenient=True,
             errors=(416,)),
    ]
