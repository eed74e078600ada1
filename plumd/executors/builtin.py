"""Pure: the daemon's own tasks. A delay is no task of Trio's: the core's timer ends it.

What those take that reach beyond the core is builtin_payloads.py's.
"""

from __future__ import annotations

from typing import Final

import msgspec

from plumd.errors import Invalid
from plumd.executors.builtin_payloads import DEVICE, HTTP, KV, TYPES, WAIT, checked
from plumd.model import BUILTIN_PREFIX, Ending, Finish, Nap, TaskError

ECHO: Final = "builtin.echo"
DELAY_S_MAX: Final = 10 * 366 * 86_400
DECODE: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
ENCODE: Final = msgspec.json.Encoder().encode


class Napped(msgspec.Struct, frozen=True):
    """What a delay answers."""

    message: str
    seconds: float


class Wish(msgspec.Struct, frozen=True):
    """How builtin.fail shall fail."""

    message: str = "builtin.fail failed, as it was asked to"
    code: str = "failed"
    retryable: bool = True


class Builtin(msgspec.Struct, frozen=True, rename="camel"):
    """One of the daemon's own tasks. payloadSchema: JSON Schema 2020-12 of what it takes."""

    name: str
    description: str
    payload_schema: msgspec.Raw
    example: msgspec.Raw
    result: str
    """What it answers, in words."""


def _told(name: str, description: str, schema: dict[str, object], example: object,
          result: str) -> Builtin:
    return Builtin(name, description, msgspec.Raw(ENCODE(schema)), msgspec.Raw(ENCODE(example)),
                   result)


def schema_of(name: str) -> dict[str, object]:
    """JSON Schema of a payload that has a type of its own."""
    [schema], parts = msgspec.json.schema_components(
        [TYPES[name]], ref_template="#/$defs/{name}")
    return {**parts[str(schema["$ref"]).rpartition("/")[2]], "$defs": parts}


_DELAY: Final[dict[str, object]] = {
    "description": "How long; without anything 1 s.",
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": DELAY_S_MAX, "title": "seconds"},
        {"type": "object", "properties": {"seconds": {
            "type": "number", "minimum": 0, "maximum": DELAY_S_MAX, "default": 1}}},
        {"type": "null"},
    ],
}
TABLE: Final = (
    _told("builtin.echo", "Answers its payload.", {"description": "Anything."},
          {"hello": "world"}, '`{"echo": payload}`'),
    _told("builtin.delay", "Waits; it costs no thread and no slot, and goes on through a restart "
          "of the daemon.", _DELAY, {"seconds": 5}, '`{"message", "seconds"}`'),
    _told("builtin.sleep", "The same by its older name.", _DELAY, {"seconds": 5},
          '`{"message", "seconds"}`'),
    _told("builtin.fail", "Fails, to try what follows a failure.", {
        "description": "How it shall fail.",
        "anyOf": [{"type": "object", "properties": {
            "message": {"type": "string", "default": Wish().message},
            "code": {"type": "string", "default": Wish().code},
            "retryable": {"type": "boolean", "default": True}}},
            {"not": {"type": "object"}}],
    }, {"message": "as it was asked to", "code": "failed", "retryable": False},
          "none: it fails"),
    _told(HTTP, "Makes an HTTP request from the daemon; where to, `outgoing_networks` and "
          "`builtin_http_hosts` say.", schema_of(HTTP),
          {"url": "http://10.0.0.7/start", "method": "POST", "body": {"rate": 5},
           "expectStatus": [200, 202], "timeoutSec": 10}, '`{"status", "headers", "body"}`'),
    _told(KV, "Reads or writes a key: get, put, cas, delete, increment; exactly once an attempt.",
          schema_of(KV), {"op": "increment", "namespace": "plant", "key": "count", "by": 1},
          '`{"found", "key", "version", "type", "value"}`'),
    _told(DEVICE, "Has a device carry out operations.", schema_of(DEVICE),
          {"resourceId": "radar-1", "operations": [{"name": "set-power", "value": 80}]},
          '`{"resourceId", "answer"}`'),
    _told(WAIT, "Waits until a key, a device's state or the time is as wanted; it costs no thread, "
          "no slot and no look at a clock.", schema_of(WAIT),
          {"kv": {"namespace": "plant", "key": "ready", "op": "==", "value": True}},
          '`{"message", "value"}`'),
)
"""What there is: this is what is refused beyond, what the docs show and what the API tells."""
NAMES: Final = tuple(each.name for each in TABLE)
REACHING: Final = frozenset({HTTP, KV, DEVICE})
"""Those with I/O outstanding: they are carried out by plumd.builtin_calls."""


def builtin_of(name: str, target_kind: str, target_ref: str) -> str:
    """The builtin that a task means, "" when it means none."""
    if target_kind == "builtin":
        return target_ref
    return name if name.startswith(BUILTIN_PREFIX) else ""


def check(builtin: str, payload: bytes | None, *, whole: bool = True) -> None:
    """Refuse at submit what could only fail. whole=False: parts may come with the run.

    Raises: Invalid.
    """
    if builtin not in NAMES:
        raise Invalid(f"there is no builtin task {builtin!r}; there are {', '.join(NAMES)}",
                      field="targetRef" if builtin else "name")
    if builtin in ("builtin.delay", "builtin.sleep"):
        seconds_of(payload)
    if builtin == "builtin.fail":
        wish_of(payload)
    if builtin in TYPES and (whole or payload is not None):
        try:
            checked(builtin, payload)
        except Invalid as refusal:
            if whole or "missing required" not in refusal.detail:
                raise


def seconds_of(payload: bytes | None) -> float:
    """How long a delay takes: `{"seconds": n}` or a bare number; without either 1 s.

    Raises: Invalid.
    """
    if payload is None or payload.strip() == b"null":
        return 1.0
    try:
        value = payload
        if payload.lstrip()[:1] == b"{":
            fields = DECODE(payload)
            value = bytes(fields.get("seconds", fields.get("durationSec", msgspec.Raw(b"1"))))
        seconds = msgspec.json.decode(value, type=float)
    except msgspec.DecodeError as error:
        raise Invalid(f"a delay wants a number: {error}", field="payload.seconds") from None
    if not 0 <= seconds <= DELAY_S_MAX:
        raise Invalid(f"a delay takes 0 to {DELAY_S_MAX} s", field="payload.seconds")
    return seconds


def wish_of(payload: bytes | None) -> Wish:
    """How to fail. Raises: Invalid."""
    if payload is None or payload.lstrip()[:1] != b"{":
        return Wish()
    try:
        return msgspec.json.decode(payload, type=Wish)
    except msgspec.DecodeError as error:
        raise Invalid(str(error), field="payload") from None


def echo_of(payload: bytes | None) -> bytes:
    """What builtin.echo answers."""
    return b'{"echo":' + (payload or b"null") + b"}"


def carry_out(builtin: str, task_id: int, attempt: int, worker_id: str, payload: bytes | None,
              started_ms: int) -> Finish | Nap:
    """The command that this attempt comes to."""
    try:
        if builtin == ECHO:
            return Finish(task_id, attempt, worker_id, result=echo_of(payload))
        if builtin in ("builtin.delay", "builtin.sleep"):
            seconds = seconds_of(payload)
            words = ENCODE(Napped(f"slept for {seconds:g} s", seconds))
            return Nap(task_id, attempt, started_ms + round(seconds * 1000), words)
        if builtin == "builtin.fail":
            wish = wish_of(payload)
            return Finish(task_id, attempt, worker_id, Ending.FAILED, retryable=wish.retryable,
                          error=TaskError(wish.code, wish.message))
        error = TaskError("no_such_builtin", f"there is no builtin task {builtin!r}")
    except Invalid as refusal:
        error = TaskError("invalid_payload", refusal.detail)
    return Finish(task_id, attempt, worker_id, Ending.FAILED, retryable=False, error=error)
