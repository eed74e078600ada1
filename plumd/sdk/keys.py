"""Keys and their values without a socket: the calls as steps, and a mirror that a watch keeps true.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol, TypeAlias
from urllib.parse import quote

from plumd.sdk.wire import (
    Ask,
    Json,
    JsonObject,
    Parameters,
    ProblemError,
    Steps,
    UnreachableError,
    key_header,
    object_of,
    objects_of,
    part,
    sent,
)

Value: TypeAlias = bool | int | float | str | bytes
Update = Callable[["Value | None"], "Value"]


class Entry(NamedTuple):
    """A key's value as a Python value of its type. Times are Unix ms, None = never."""

    key: str
    value: Value
    version: int
    updated_at: int = 0
    expires_at: int | None = None


class Change(NamedTuple):
    """What became of a key. entry: None when it was deleted or has expired."""

    key: str
    entry: Entry | None
    version: int


class Guard(Protocol):
    """A lock that a write stands under; sdk.locks.Lock is one. It is refused when it was lost."""

    name: str
    token: int


class Put(NamedTuple):
    """One write of a batch. if_version: only if it is at this version, 0 = if it is not there."""

    key: str
    value: Value
    ttl_s: float | None = None
    if_version: int | None = None


class Delete(NamedTuple):
    """One deletion of a batch."""

    key: str
    if_version: int | None = None


class Conflict(ProblemError):
    """The key is not at the version that was asked for. current: what is there, None = nothing."""

    def __init__(self, problem: ProblemError) -> None:
        super().__init__(problem.status, problem.code, problem.detail, problem.field,
                         problem.retry_after_s, problem.document)
        current = problem.document.get("current")
        self.current: Entry | None = entry_of(current) if isinstance(current, dict) else None


def encoded(value: Value) -> tuple[str, str]:
    """(type, text) of a Python value on the wire. Raises: TypeError."""
    if isinstance(value, bool):
        return "bool", "true" if value else "false"
    if isinstance(value, int):
        return "int", str(value)
    if isinstance(value, float):
        return "double", repr(value)
    if isinstance(value, bytes):
        return "bytes", base64.b64encode(value).decode()
    if isinstance(value, str):
        return "string", value
    raise TypeError(f"a value is a bool, int, float, str or bytes, not {type(value).__name__}")


def decoded(kind: str, text: str) -> Value:
    """The Python value of a text on the wire; a text that is none of its type stays text."""
    try:
        if kind == "int":
            return int(text)
        if kind == "double":
            return number(text)
        if kind == "bytes":
            return base64.b64decode(text, validate=True)
    except ValueError:
        return text
    if kind == "bool":
        return text.lower() in ("true", "1")
    return text


def number(text: str) -> float:
    """A number as Python or C prints it. Raises: ValueError."""
    lowered = text.lower()
    if "nan" in lowered:
        return float("nan")
    return float.fromhex(text) if "x" in lowered else float(text)


def entry_of(item: JsonObject) -> Entry:
    """An entry of an answer."""
    expires = item.get("expiresAt")
    return Entry(str(item.get("key", "")), decoded(str(item.get("type")), str(item.get("value"))),
                 whole(item.get("version")), whole(item.get("updatedAt")),
                 expires if isinstance(expires, int) else None)


def whole(value: Json) -> int:
    """A number of an answer."""
    return value if isinstance(value, int) else 0


def path_of(namespace: str, key: str) -> str:
    """Where a key is. Every byte that could mean something in a path is encoded, dots too, and the
    one name that is a route of its own."""
    name = "%6Beys" if key == "keys" else quote(key, safe="").replace(".", "%2E")
    return f"/v1/kv/{part(namespace)}/{name}"


# ---------------------------------------------------------------- calls

def get(namespace: str, key: str) -> Steps[Entry | None]:
    """A key's entry; None when it is not there."""
    try:
        answer = yield from sent(Ask("GET", path_of(namespace, key)))
    except ProblemError as problem:
        if problem.status == 404:
            return None
        raise
    return entry_of(object_of(answer))


def guarded(lock: Guard | None) -> Parameters:
    """The query that names the lock of a write."""
    return {} if lock is None else {"lock": lock.name, "token": lock.token}


def put(namespace: str, one: Put, once: str | None = None,
        lock: Guard | None = None) -> Steps[Entry]:
    """Write a key. once: an Idempotency-Key. Raises: Conflict; ProblemError `lease_lost`."""
    kind, text = encoded(one.value)
    body: JsonObject = {"value": text, "type": kind}
    if one.ttl_s is not None:
        body["ttlSec"] = one.ttl_s
    headers = {**key_header(once), **condition(one.if_version)}
    answer = yield from conditional(Ask("PUT", path_of(namespace, one.key), body,
                                        guarded(lock), headers))
    return answer


def conditional(ask: Ask) -> Steps[Entry]:
    """A write with a condition. Raises: Conflict."""
    try:
        return entry_of(object_of((yield from sent(ask))))
    except ProblemError as problem:
        raise conflict(problem) from None


def conflict(problem: ProblemError) -> ProblemError:
    """A refusal, as Conflict if it is one."""
    return Conflict(problem) if problem.code == "precondition_failed" else problem


def condition(version: int | None) -> dict[str, str]:
    """The header that asks for a version, 0 = for none."""
    if version is None:
        return {}
    return {"If-Match": f'"{version}"'} if version else {"If-None-Match": "*"}


def clear(namespace: str, prefix: str, lock: Guard | None = None) -> Steps[int]:
    """Delete a namespace's keys that begin like this; how many there were."""
    answer = yield from sent(Ask("DELETE", f"/v1/kv/{part(namespace)}", query={
        "prefix": prefix or None, **guarded(lock)}))
    return whole(object_of(answer).get("deleted"))


def delete(namespace: str, one: Delete, lock: Guard | None = None) -> Steps[None]:
    """Delete a key; one that is not there is deleted. Raises: Conflict."""
    try:
        yield from sent(Ask("DELETE", path_of(namespace, one.key), query=guarded(lock),
                            headers=condition(one.if_version)))
    except ProblemError as problem:
        raise conflict(problem) from None


def batch(namespace: str, writes: Iterable[Put | Delete], once: str | None = None,
          lock: Guard | None = None) -> Steps[dict[str, int]]:
    """All or nothing; key -> version. Raises: Conflict."""
    items: list[Json] = []
    for one in writes:
        item: JsonObject = {"key": one.key}
        if isinstance(one, Put):
            item["type"], item["value"] = encoded(one.value)
            if one.ttl_s is not None:
                item["ttlSec"] = one.ttl_s
        else:
            item["delete"] = True
        if one.if_version is not None:
            item["ifVersion"] = one.if_version
        items.append(item)
    try:
        answer = yield from sent(Ask("POST", f"/v1/kv/{part(namespace)}/batch",
                                     {"items": items, **guarded(lock)},
                                     headers=key_header(once)))
    except ProblemError as problem:
        raise conflict(problem) from None
    done = object_of(answer).get("items")
    return {str(item.get("key")): whole(item.get("version"))
            for item in (done if isinstance(done, list) else ()) if isinstance(item, dict)}


def update(namespace: str, key: str, change: Update, ttl_s: float | None) -> Steps[Entry]:
    """Write what `change` makes of the present value; again if somebody was faster."""
    entry = yield from get(namespace, key)
    while True:
        value = change(None if entry is None else entry.value)
        version = 0 if entry is None else entry.version
        try:
            return (yield from put(namespace, Put(key, value, ttl_s, version)))
        except Conflict as faster:
            entry = faster.current


def entries(namespace: str, prefix: str) -> Steps[list[Entry]]:
    """All entries whose keys begin like this, by key."""
    answer = yield from sent(Ask("GET", f"/v1/kv/{part(namespace)}", query={
        "prefix": prefix or None}))
    return [entry_of(item) for item in objects_of(answer)]


def keys(namespace: str, prefix: str) -> Steps[list[str]]:
    """All keys that begin like this, in order."""
    answer = yield from sent(Ask("GET", f"/v1/kv/{part(namespace)}/keys", query={
        "prefix": prefix or None}))
    found = object_of(answer).get("keys")
    return [str(key) for key in found] if isinstance(found, list) else []


# ---------------------------------------------------------------- watching

GONE_MAX: Final = 10_000


class Told(Enum):
    """What a frame of a watch's stream asks for."""

    LIST = auto()       # the stream is there: list once, give it to `listed`
    NOTHING = auto()


class Mirror:
    """A namespace, or what begins with a prefix, as a watch knows it.

    Fed with the frames of its stream and with the list that is asked for after the first of them,
    it says what changed. What is older than what it knows it drops, so list and stream may overlap.
    """

    def __init__(self, namespace: str, prefix: str) -> None:
        self.namespace = namespace
        self.prefix = prefix
        self.entries: dict[str, Entry] = {}
        self._gone: dict[str, int] = {}     # since the stream began

    def ask(self) -> Ask:
        """The request of its stream."""
        self._gone.clear()
        return Ask("GET", "/v1/stream", query={"namespace": self.namespace,
                                               "prefix": self.prefix or None},
                   headers={"Accept": "text/event-stream"})

    def list_steps(self) -> Steps[list[Entry]]:
        """The list, once the stream is there."""
        return entries(self.namespace, self.prefix)

    def listed(self, found: Sequence[Entry]) -> Iterator[Change]:
        """What is new by the list."""
        there = {entry.key: entry for entry in found}
        for key, known in list(self.entries.items()):
            if key not in there:
                yield self._forget(key, known.version + 1)
        for key, entry in there.items():
            old = self.entries.get(key)
            if old is None or old.version < entry.version:
                self.entries[key] = entry
                yield Change(key, entry, entry.version)

    def take(self, name: str, data: str) -> Told | Change:
        """What a frame of the stream says. Raises: UnreachableError when it is none of ours."""
        if name == "ping":
            return Told.LIST
        if name != "kv":
            return Told.NOTHING
        try:
            item: Json = json.loads(data)
        except ValueError:
            raise UnreachableError("the stream says something that is not JSON") from None
        if not isinstance(item, dict):
            raise UnreachableError("the stream says something else than an object")
        entry = entry_of(item)
        known = self.entries.get(entry.key)
        newest = self._gone.get(entry.key, 0) if known is None else known.version
        if entry.version <= newest:
            return Told.NOTHING
        if item.get("deleted") is True:
            if known is None:
                self._note_gone(entry.key, entry.version)
                return Told.NOTHING
            return self._forget(entry.key, entry.version)
        self.entries[entry.key] = entry
        return Change(entry.key, entry, entry.version)

    def _forget(self, key: str, version: int) -> Change:
        del self.entries[key]
        self._note_gone(key, version)
        return Change(key, None, version)

    def _note_gone(self, key: str, version: int) -> None:
        """Frames that are older than the list may still come; they come soon or not at all."""
        self._gone.pop(key, None)
        self._gone[key] = version
        if len(self._gone) > GONE_MAX:
            del self._gone[next(iter(self._gone))]


LOST_PAUSES_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)


def lost_pause_s(tries: int, chance: float) -> float:
    """How long to wait before a watch dials again; with jitter, so that many do not come at once.

    tries: how often it was in vain since the stream last stood.  chance: 0 .. 1.
    """
    return LOST_PAUSES_S[min(tries, len(LOST_PAUSES_S) - 1)] * (0.5 + chance / 2)
