"""Pages for people, rendered here without scripts: the state at `/`, the API at `/docs`.

They work offline and with scripts forbidden, for that is what their Content-Security-Policy says.
All text that comes from data is escaped.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Final

import msgspec
import trio

from plumd.api.docs_page import operations_html
from plumd.api.openapi import PAGE_TAG, document
from plumd.api.routes import Request, Response, Route
from plumd.errors import CODES

STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #7b2d8b; }
@media (prefers-color-scheme: dark) { :root { --accent: #d9a0e6; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 0; font-size: 1rem; font-weight: 600; } a { color: var(--accent); }
code, pre { font: 0.9em/1.4 ui-monospace, monospace; }
pre { background: var(--soft); padding: 0.6rem; overflow-x: auto; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; margin: 0.5rem 0; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 0.8rem 0.2rem 0;
  border-bottom: 1px solid var(--line); }
section { border: 1px solid var(--line); border-radius: 6px; padding: 0.8rem; margin: 1rem 0; }
.method { display: inline-block; min-width: 4.5em; font-weight: 700; color: var(--accent); }
.note { opacity: 0.75; font-size: 0.9em; } nav ul { columns: 16rem; padding-left: 1.2rem; }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CSP: Final = (f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; "
              "form-action 'none'; frame-ancestors 'none'")

Counts = Mapping[str, str | int | float]


def page(title: str, body: str) -> Response:
    """A whole page. title is escaped here; body is HTML already."""
    text = (f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
            f"<body>\n{body}\n</body>\n</html>\n")
    return Response(body=text.encode(), content_type="text/html; charset=utf-8", headers=(
        ("content-security-policy", CSP), ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY")))


def status_page(version: str, counts: Counts) -> Response:
    """What the daemon is and how much of everything it has."""
    rows = "".join(f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>"
                   for name, value in counts.items())
    return page("Plum", f"<h1>Plum {escape(version)}</h1>\n<table>{rows}</table>\n"
                        '<p><a href="/docs">API reference</a> · '
                        '<a href="/openapi.json">OpenAPI document</a></p>')


def errors_page() -> Response:
    """Every error code: what it means and its HTTP status."""
    rows = []
    for code, kind in sorted(CODES.items()):
        meaning = re.sub(r"\s+", " ", kind.__doc__ or "").strip()
        rows.append(f'<tr id="{escape(code)}"><td><code>{escape(code)}</code></td>'
                    f"<td>{kind.status}</td><td>{escape(meaning)}</td></tr>")
    rows.append('<tr id="internal"><td><code>internal</code></td><td>500</td>'
                "<td>A defect of the daemon; its log says more.</td></tr>")
    return page("Plum: error codes", '<p><a href="/docs">API reference</a></p>\n'
                "<h1>Error codes</h1>\n<p>Errors are <code>application/problem+json</code>. "
                "<code>code</code> is stable; <code>field</code> names the part of the request."
                "</p>\n<table><tr><th>code</th><th>status</th><th>meaning</th></tr>"
                + "".join(rows) + "</table>")


def docs_page(made: Mapping[str, object], version: str) -> Response:
    """The API reference, from the OpenAPI document."""
    return page("Plum: API reference",
                f"<h1>Plum {escape(version)}: API reference</h1>\n"
                '<p><a href="/">State</a> · <a href="/openapi.json">OpenAPI document</a> · '
                '<a href="/docs/errors">Error codes</a></p>\n' + operations_html(made))


class Rendered:
    """A page that is made when it is first asked for, and then kept.

    It is made in a thread, for it may take long, and a daemon need not have it to be ready.
    """

    def __init__(self, make: Callable[[], Response]) -> None:
        self._make = make
        self._made: Response | None = None

    async def show(self, _request: Request) -> Response:
        """Answer with it."""
        if self._made is None:
            self._made = await trio.to_thread.run_sync(self._make)
        return self._made


def page_routes(routes: Sequence[Route], *, version: str,
                status: Callable[[], Counts]) -> tuple[Route, ...]:
    """The routes of these pages and of the document; those that `routes` has itself are left out.

    status: what `/` shows, asked at each request.
    """
    @functools.cache
    def made() -> Mapping[str, object]:
        return document(routes, version=version)

    docs = Rendered(lambda: docs_page(made(), version))
    encoded = Rendered(lambda: Response(body=msgspec.json.encode(made())))

    async def show_status(_request: Request) -> Response:
        return status_page(version, status())

    taken = {route.path for route in routes if route.method == "GET"}
    pages = (
        ("/", show_status, "The state of the daemon.", True),
        ("/docs", docs.show, "The API reference.", True),
        ("/docs/errors", Rendered(errors_page).show, "Error codes.", True),
        ("/openapi.json", encoded.show, "The OpenAPI document.", False),
    )
    return tuple(Route("GET", path, handler, summary, PAGE_TAG, "pages:read", navigable=navigable)
                 for path, handler, summary, navigable in pages if path not in taken)
