"""Errors as RFC 9457 problem documents. No other module writes an error body.

Source: RFC 9457 (Problem Details for HTTP APIs); RFC 9110 section 10.2.3 (Retry-After).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec

from plumd.api.routes import Response
from plumd.errors import PlumError

PROBLEM_JSON: Final = "application/problem+json"
TYPE_PREFIX: Final = "/docs/errors#"
RETRY_AFTER_S: Final = 1
"""What a 429 or 503 says when the error names no time of its own."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong. `code` is stable; `field` names the part of the request, if one is known."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None


def problem(error: PlumError, *, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """The answer that tells a caller of this error."""
    return problem_of(error.code, error.status, error.detail, field=error.field,
                      retry_after_s=error.retry_after_s, headers=headers, more=error.more)


def internal() -> Response:
    """The answer for a defect of ours: it says that it is one and nothing else."""
    return problem_of("internal", 500, "the daemon met an unexpected error; see its log")


def problem_of(code: str, status: int, detail: str, *, field: str | None = None,
               retry_after_s: float | None = None,
               headers: tuple[tuple[str, str], ...] = (),
               more: Mapping[str, object] | None = None) -> Response:
    """The problem document of a code and status, with Retry-After where there is one to give.

    more: its further members (RFC 9457 section 3.2).
    """
    document = Problem(
        type=TYPE_PREFIX + code, title=_title(status), status=status, code=code,
        detail=detail, field=field,
    )
    body = msgspec.json.encode(
        {**msgspec.to_builtins(document), **more} if more else document)
    if retry_after_s is None and status in (429, 503):
        retry_after_s = RETRY_AFTER_S
    if retry_after_s is not None:
        seconds = max(1, math.ceil(retry_after_s))
        headers = (*headers, ("retry-after", str(seconds)))
    return Response(status=status, body=body, content_type=PROBLEM_JSON, headers=headers)


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
