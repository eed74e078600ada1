"""Keyset pages: a cursor says where the next page starts, so no list reads what it does not show.

Source: RFC 8288 (Link header).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

from plumd.api.context import answer
from plumd.api.params import query_int
from plumd.api.routes import Query, Request, Response
from plumd.errors import Invalid

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000
CURSOR_CHARS_MAX: Final = 1024

R = TypeVar("R")

LIMIT: Final = Query("limit", int, f"How many to show, 1 to {LIMIT_MAX} (default {LIMIT_DEFAULT}).")
ALL_OR_LIMIT: Final = Query("limit", int, f"How many to show, 1 to {LIMIT_MAX} (default all).")
CURSOR: Final = Query("cursor", str, "Where to go on; taken from the Link header of the last page.")


def page_limit(request: Request, default: int = LIMIT_DEFAULT) -> int:
    """How many items the caller wants. Raises Invalid."""
    return query_int(request.query, "limit", default, low=1, high=LIMIT_MAX)


def all_or_limit(request: Request) -> int:
    """The same of a list that is whole unless a limit is given; 0 = whole. Raises Invalid."""
    return query_int(request.query, "limit", 0, low=1, high=LIMIT_MAX)


def cursor_key(request: Request) -> str | None:
    """The key behind `?cursor=`, as it was given to `next_link`; None for the first page.

    Raises Invalid.
    """
    text = request.query.get("cursor", "")
    if not text:
        return None
    if len(text) > CURSOR_CHARS_MAX:
        raise Invalid("this cursor is too long", field="cursor")
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Invalid("this cursor was not made by the daemon", field="cursor") from None


def cursor_id(request: Request) -> int:
    """The same where keys are ids; 0 for the first page. Raises Invalid."""
    key = cursor_key(request)
    if key is None:
        return 0
    if not (key.isascii() and key.isdigit() and len(key) < 20 and int(key) < 1 << 63):
        raise Invalid("this cursor was not made by the daemon", field="cursor")
    return int(key)


def page_of(request: Request, rows: Sequence[R], limit: int, view: Callable[[R], object],
            key: Callable[[R], object]) -> Response:
    """The first rows as a page, and where the next one begins if there are more.

    rows: one more than the limit when there are so many.  limit: 0 = all are shown.
    key: what `next_link` and the statement behind the list know a row by.
    """
    shown = rows[:limit] if limit else rows
    link = (next_link(request, str(key(shown[-1]))),) if len(shown) < len(rows) else ()
    return answer(200, [view(row) for row in shown], *link)


def next_link(request: Request, key: str) -> tuple[str, str]:
    """The Link header to the page behind the item with this key, other parameters kept."""
    cursor = base64.urlsafe_b64encode(key.encode()).rstrip(b"=").decode()
    path = quote(request.path)
    query = {**request.query, "cursor": cursor}
    return "link", f'<{path}?{urlencode(query)}>; rel="next"'
