"""Pure: whether an event is wanted, and the payload that it becomes.

`event` is what happened: id, topic, event (its name), at, data, and of a webhook headers and query.
What is asked for beyond what every event says is looked up only then, so most events cost their
filter alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec import UNSET

from plumd.errors import Invalid
from plumd.expressions import (
    Expr,
    Failure,
    Path,
    Value,
    Wrong,
    parse,
    path_text,
    references,
    truth,
    walk,
)
from plumd.flow.data import WrongAt, expressions_of, fill_bytes, read, template_of
from plumd.flow.graph import Template
from plumd.model import INLINE_BYTES_MAX

FIELDS: Final = ("id", "seq", "topic", "event", "at", "data", "headers", "query")
PLAIN: Final = frozenset({
    "taskId", "state", "attempt", "worker", "runId", "at", "workflowId", "stepId", "namespace",
    "key", "version", "deleted", "id", "what", "facts"})
"""What the data of recorded events have without a look at the rows behind them."""
DEFAULT: Final = "${event.data}"
ID_CHARS_MAX: Final = 200
More = Callable[[], Mapping[str, Value]]
"""Further data of an event, from the rows that it is about."""


class Rules(msgspec.Struct, frozen=True):
    """What a trigger asks of events, compiled. deep: something of it needs More."""

    filter: Expr | None
    payload: Template
    event_id: Expr | None
    deep: bool


def rules_of(filter_: str, payload: msgspec.Raw | msgspec.UnsetType,
             event_id: str = "") -> Rules:
    """Raises: Invalid, with the field."""
    wanted = expression(filter_, "filter")
    ident = expression(event_id, "eventId")
    try:
        template = template_of(DEFAULT if payload is UNSET else read(bytes(payload), "payload"),
                               "payload")
    except WrongAt as error:
        raise Invalid(str(error), field=error.where) from None
    inside = expressions_of(template)
    for one in inside:
        check(one, "payload")
    every = [*inside, *(one for one in (wanted, ident) if one is not None)]
    return Rules(wanted, template, ident, any(is_deep(one) for one in every))


def expression(source: str, field: str) -> Expr | None:
    """An expression over `event`. Raises: Invalid."""
    if not source.strip():
        return None
    try:
        expr = parse(source)
    except Wrong as error:
        raise Invalid(str(error), field=field) from None
    check(expr, field)
    return expr


def check(expr: Expr, field: str) -> None:
    """Raises: Invalid for a reference that can be nothing."""
    for ref in references(expr):
        if ref.root != "event" or (ref.path and ref.path[0] not in FIELDS):
            raise Invalid(f"{ref}: there is event with {', '.join(FIELDS)}", field=field)


def is_deep(expr: Expr) -> bool:
    """Whether it asks for what is not in every event."""
    return any((len(ref.path) < 2 and ref.path[:1] in ((), ("data",)))
               or (ref.path[:1] == ("data",) and ref.path[1] not in PLAIN)
               for ref in references(expr))


class Happening:
    """An event as expressions see it."""

    def __init__(self, event: dict[str, Value], more: More | None = None) -> None:
        self.event = event
        self._more = more

    def __call__(self, root: str, path: Path) -> Value:
        """Raises: Failure."""
        if root != "event":
            raise Failure(f"{root} is nothing")
        try:
            return walk(self.event, path)
        except Failure as failure:
            raise Failure(f"event{path_text(path)}: {failure}") from None

    def deepen(self) -> None:
        """Look up the rest of the data."""
        if self._more is not None:
            data = self.event["data"]
            assert isinstance(data, dict)
            self.event["data"] = data | dict(self._more())
            self._more = None


def wanted(rules: Rules, happening: Happening) -> bool:
    """Whether the filter lets it through; one that has no value, or none that is true, does not."""
    if rules.deep:
        happening.deepen()
    if rules.filter is None:
        return True
    try:
        return truth(rules.filter.eval(happening))
    except Failure:
        return False


def payload_of(rules: Rules, happening: Happening) -> bytes | None:
    """The payload of what is started; None for null. Raises: Failure."""
    filled = fill_bytes(rules.payload, happening)
    if len(filled) > INLINE_BYTES_MAX:
        raise Failure(f"a payload takes at most {INLINE_BYTES_MAX} bytes")
    return None if filled == b"null" else filled


def id_of(rules: Rules, happening: Happening) -> str:
    """The id that the event goes by, "" = it has none. Raises: Failure."""
    if rules.event_id is None:
        return ""
    value = rules.event_id.eval(happening)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise Failure("an event's id is a string or a whole number")
    return short_id(str(value))


def short_id(text: str) -> str:
    """An event's id: the text, of a long one its beginning and what tells it from others."""
    if len(text) <= ID_CHARS_MAX:
        return text
    digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()
    return f"{text[:ID_CHARS_MAX - len(digest) - 1]}-{digest}"
