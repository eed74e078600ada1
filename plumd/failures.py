"""Which failures are the same failure: texts without what differs from time to time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from plumd.model import TaskError, id_text

MESSAGE_CHARS_MAX: Final = 2_000
_DECODE: Final = msgspec.json.Decoder(TaskError).decode

# In this order: what is longer and more certain goes first.
_PLACES: Final = (
    (re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>|)\]]+", re.IGNORECASE), "<url>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"),
     "<time>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<address>"),
    (re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.@%+~-]+){2,}[\\/]?"), "<path>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "<hex>"),
    # Hexadecimal as such only when it has a figure in it: "deadbeef" and "facade" are words.
    (re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{6,}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "<n>"),
)
_SPACE: Final = re.compile(r"\s+")


class FailureGroup(msgspec.Struct, frozen=True, rename="camel"):
    """Tasks that failed alike. Times are Unix ms; message is the newest one's."""

    fingerprint: str
    name: str
    code: str
    message: str
    count: int
    first_at: int
    last_at: int
    last_task_id: str
    exit_code: int | None
    signal: str | None


def plain(message: str) -> str:
    """The message without numbers, ids, paths, addresses, times and hexadecimal."""
    text = message[:MESSAGE_CHARS_MAX]
    for pattern, place in _PLACES:
        text = pattern.sub(place, text)
    return _SPACE.sub(" ", text).strip()


def fingerprint(name: str, error: TaskError) -> str:
    """16 hex digits that equal failures of the same task have in common."""
    facts = (name, error.code, plain(error.message), error.exit_code, error.signal)
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:16]


def grouped(rows: Iterable[tuple[int, str, int, int, str | None]]) -> list[FailureGroup]:
    """Groups of (task id, name, state, finished_ms, error as JSON), the one with the newest
    failure first.
    """
    groups: dict[str, FailureGroup] = {}
    for task_id, name, _, finished_ms, text in rows:
        error = TaskError("unknown", "") if text is None else _DECODE(text)
        key = fingerprint(name, error)
        known = groups.get(key)
        newest = FailureGroup(
            key, name, error.code, error.message[:MESSAGE_CHARS_MAX], 1, finished_ms, finished_ms,
            id_text(task_id), error.exit_code, error.signal)
        if known is None:
            groups[key] = newest
            continue
        last = newest if finished_ms > known.last_at else known
        groups[key] = msgspec.structs.replace(
            last, count=known.count + 1, first_at=min(known.first_at, finished_ms))
    return sorted(groups.values(), key=lambda group: group.last_at, reverse=True)
