"""A step's task: what its definition says, and how payloads lie over each other."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from plumd.bodies import StepBody, TaskDefBody
from plumd.model import ON_CONFLICT, Kind, Submit

TIMEOUT_MS_DEFAULT = 300_000


def ordered(steps: tuple[StepBody, ...]) -> tuple[StepBody, ...]:
    """The steps by `ord` where given, else in the order in which they stand."""
    keyed = [(index if step.ord is None else step.ord, index, step)
             for index, step in enumerate(steps)]
    return tuple(step for _, _, step in sorted(keyed, key=lambda item: item[:2]))


def to_ms(seconds: float | None, default_ms: int) -> int:
    """Whole milliseconds of a `...Sec` number, rounded up; None gives the default."""
    if seconds is None:
        return default_ms
    return -int(-seconds * 1000 // 1)


def default_timeout_ms(kind: int, name: str, target_kind: str, target_ref: str) -> int:
    """300 s, but none for the builtins that wait."""
    builtin = target_ref if target_kind == "builtin" else name
    if kind == Kind.EMBEDDED and builtin in (
            "builtin.delay", "builtin.sleep", "builtin.wait"):
        return 0
    return TIMEOUT_MS_DEFAULT


def is_object(value: bytes) -> bool:
    """Whether JSON bytes are an object."""
    return value.lstrip()[:1] == b"{"


Fields = dict[str, msgspec.Raw]
DECODE_FIELDS: Callable[[bytes], Fields] = msgspec.json.Decoder(Fields).decode
ENCODE: Callable[[Fields], bytes] = msgspec.json.Encoder().encode


def merge(*layers: bytes | None) -> bytes | None:
    """Lay payloads over each other, the first lowest: objects key by key at the top level,
    anything else replaces. A JSON null leaves what is below."""
    result: bytes | None = None
    for layer in layers:
        if layer is None or layer.strip() == b"null":
            continue
        if result is not None and is_object(result) and is_object(layer):
            result = ENCODE(DECODE_FIELDS(result) | DECODE_FIELDS(layer))
        else:
            result = layer
    return result


def raw(value: msgspec.Raw | msgspec.UnsetType) -> bytes | None:
    """The bytes of a kept JSON value."""
    return None if value is msgspec.UNSET else bytes(value)


def task_of(def_id: int, version: int, body: TaskDefBody) -> Submit:
    """The task that a definition asks for, without its id."""
    kind = Kind[body.executor.upper()]
    return Submit(
        task_id=0, name=body.name, kind=kind, target_kind=body.target_kind,
        target_ref=body.target_ref, def_id=def_id, def_version=version, priority=body.priority,
        timeout_ms=to_ms(body.timeout_sec, default_timeout_ms(
            kind, body.name, body.target_kind, body.target_ref)),
        queue_timeout_ms=to_ms(body.queue_timeout_sec, 0), max_retries=body.max_retries,
        on_lost=1 if body.on_lost == "fail" else 0, payload=raw(body.default_payload),
        labels=tuple(sorted(body.labels.items())), concurrency_key=body.concurrency_key,
        concurrency_limit=body.concurrency_limit,
        on_conflict=ON_CONFLICT.index(body.on_conflict))


def step_of(step: StepBody, task: Submit) -> Submit:
    """A step's task, but for payloads that come with the run."""
    return msgspec.structs.replace(
        task, payload=merge(task.payload, raw(step.payload)),
        timeout_ms=to_ms(step.timeout_sec, task.timeout_ms),
        max_retries=task.max_retries if step.max_retries is None else step.max_retries)
