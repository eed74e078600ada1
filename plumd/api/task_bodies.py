"""What requests about tasks carry, and how it becomes a command: checked whole, nothing stored."""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from plumd import flow
from plumd.bodies import TaskDefBody
from plumd.errors import Invalid, TooLarge
from plumd.executors import builtin
from plumd.executors.command import parse_command
from plumd.model import (
    BUILTIN_PREFIX,
    KINDS,
    ON_CONFLICT,
    ON_LOST,
    VALUE_BYTES_MAX,
    Kind,
    Submit,
    parse_id,
)
from plumd.store.definitions import Catalog, Versioned

TARGETS: Final = ("", "node", "app", "deployment", "worker", "labels", "service", "builtin")
SEC_MAX: Final = 315_360_000
RETRIES_MAX: Final = 1_000

# `$` alone would let a line feed at the end through.
Name = Annotated[str, Meta(min_length=1, max_length=200,
                           pattern=r"^(?!!)[^\x00-\x1f\x7f]*$(?!\n)")]
Ref = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
Seconds = Annotated[float, Meta(ge=0, le=SEC_MAX)]
Retries = Annotated[int, Meta(ge=0, le=RETRIES_MAX)]
Priority = Annotated[int, Meta(ge=0, le=9)]
LabelKey = Annotated[str, Meta(min_length=1, max_length=100)]
LabelValue = Annotated[str, Meta(max_length=500)]
Key = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
KeyLimit = Annotated[int, Meta(ge=0, le=1_000_000)]
OnConflict = Literal["queue", "skip", "cancel"]
Labels = Annotated[dict[LabelKey, LabelValue], Meta(max_length=64)]


class TaskCreate(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                 omit_defaults=True):
    """A new task: by definition (defId, or a name that has one), or described here."""

    name: Name | None = None
    def_id: str | None = None
    executor: str | None = None
    target_kind: str | None = None
    target_ref: Ref | None = None
    payload: Raw | UnsetType = UNSET
    labels: Labels | None = None
    priority: Priority | None = None
    timeout_sec: Seconds | None = None
    queue_timeout_sec: Seconds | None = None
    max_retries: Retries | None = None
    on_lost: str | None = None
    delay_sec: Seconds = 0
    expire_at: Annotated[int, Meta(ge=0, le=1 << 53)] | None = None
    auto_start: bool = True
    concurrency_key: Key | None = None
    concurrency_limit: KeyLimit | None = None
    on_conflict: OnConflict | None = None


IN_COMMON: Final = attrgetter(*(name for name in TaskCreate.__struct_fields__
                                if name not in ("payload", "labels", "expire_at")))


class RunAsked(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
               omit_defaults=True):
    """What a run of a definition may change."""

    payload: Raw | UnsetType = UNSET
    timeout_sec: Seconds | None = None
    max_retries: Retries | None = None
    labels: Labels | None = None
    priority: Priority | None = None
    concurrency_key: Key | None = None


class TaskDefWrite(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True,
                   omit_defaults=True):
    """A task definition as it is written."""

    name: Name
    executor: str = "embedded"
    target_kind: str = ""
    target_ref: Ref = ""
    labels: Labels = {}
    default_payload: Raw | UnsetType = UNSET
    timeout_sec: Seconds | None = None
    queue_timeout_sec: Seconds = 0
    max_retries: Retries = 0
    priority: Priority = 5
    on_lost: str = "retry"
    overridable: Annotated[tuple[LabelKey, ...], Meta(max_length=64)] = ()
    concurrency_key: Key = ""
    concurrency_limit: KeyLimit = 0
    on_conflict: OnConflict = "queue"
    description: Annotated[str, Meta(max_length=10_000)] = ""


def definition_of(body: TaskDefWrite) -> TaskDefBody:
    """The definition, with everything checked that can be checked before a run.

    Raises: Invalid, TooLarge.
    """
    kind = kind_of(body.executor)
    target_kind = target_of(kind, body.target_kind, body.target_ref)
    if body.on_lost not in ON_LOST:
        raise Invalid(f"onLost is one of {', '.join(ON_LOST)}", field="onLost")
    payload = flow.raw(body.default_payload)
    check_payload(kind, body.name, target_kind, body.target_ref, payload,
                  whole=False, field="defaultPayload")
    return TaskDefBody(
        name=body.name, executor=KINDS[kind], target_kind=target_kind, target_ref=body.target_ref,
        labels=body.labels, default_payload=body.default_payload, timeout_sec=body.timeout_sec,
        queue_timeout_sec=body.queue_timeout_sec, max_retries=body.max_retries,
        priority=body.priority, on_lost=body.on_lost, overridable=body.overridable,
        concurrency_key=body.concurrency_key, concurrency_limit=body.concurrency_limit,
        on_conflict=body.on_conflict, description=body.description)


def kind_of(executor: str) -> Kind:
    """Raises: Invalid."""
    if executor not in KINDS:
        raise Invalid(f"executor is one of {', '.join(KINDS)}", field="executor")
    return Kind(KINDS.index(executor))


def target_of(kind: Kind, target_kind: str, target_ref: str) -> str:
    """The target's kind, checked against its reference and the executor. Raises: Invalid."""
    if target_kind not in TARGETS:
        raise Invalid(f"targetKind is empty or one of {', '.join(TARGETS[1:])}",
                      field="targetKind")
    if kind == Kind.SERVICE and target_kind == "":
        target_kind = "service"
    if (kind == Kind.SERVICE) != (target_kind == "service"):
        raise Invalid("targetKind service goes with the executor service", field="targetKind")
    if kind == Kind.OS_PROCESS and target_kind not in ("", "node", "labels"):
        raise Invalid("an os_process runs on a node: targetKind is empty, node or labels",
                      field="targetKind")
    if target_kind and not target_ref:
        raise Invalid(f"a target of kind {target_kind} needs a targetRef", field="targetRef")
    if target_kind == "labels":
        for pair in target_ref.split(","):
            if "=" not in pair:
                raise Invalid("labels are written key=value,key=value", field="targetRef")
    return target_kind


def check_payload(kind: Kind, name: str, target_kind: str, target_ref: str,
                  payload: bytes | None, *, whole: bool, field: str = "payload") -> None:
    """Refuse at submit what could only fail later; whole=False: parts may come with the run.

    Raises: Invalid, TooLarge.
    """
    if payload is not None and len(payload) > VALUE_BYTES_MAX:
        raise TooLarge(f"a payload takes at most {VALUE_BYTES_MAX} bytes", field=field)
    means = builtin.builtin_of(name, target_kind, target_ref) if kind == Kind.EMBEDDED else ""
    if means not in ("", name) and name.startswith(BUILTIN_PREFIX):
        raise Invalid(f"the name says {name}, the target {means}", field="targetRef")
    if means == name and means not in ("", *builtin.NAMES):
        raise Invalid(f"there is no builtin task {name!r}; there are {', '.join(builtin.NAMES)}",
                      field="name")
    try:
        if means:
            builtin.check(means, payload, whole=whole)
        if kind == Kind.OS_PROCESS and (whole or payload is not None):
            parse_command(payload or b"null")
    except Invalid as refusal:
        text = refusal.field or field
        raise Invalid(refusal.detail, field=text.replace("payload", field, 1)) from None


class Draft(NamedTuple):
    """All of a task but its payload and its id."""

    found: Versioned[TaskDefBody] | None
    task: Submit

    def with_payload(self, payload: Raw | UnsetType, task_id: int) -> Submit:
        """The task with its payload, checked. Raises: Invalid, TooLarge."""
        task = self.task
        whole = merged(self.found, task, flow.raw(payload))
        check_payload(Kind(task.kind), task.name, task.target_kind, task.target_ref, whole,
                      whole=True)
        return msgspec.structs.replace(task, task_id=task_id, payload=whole)


class Drafts:
    """The tasks that one request asks for. Most of many differ in their payloads alone, and what
    they have in common is looked at once."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[tuple[object, ...], Draft] = {}

    def submit(self, body: TaskCreate, task_id: int) -> Submit:
        """The task that is asked for. Raises: Invalid, TooLarge."""
        labels = None if body.labels is None else tuple(body.labels.items())
        key = (labels, *IN_COMMON(body))
        draft = self._known.get(key)
        if draft is None:
            draft = self._known[key] = draft_of(self._catalog, body)
        return draft.with_payload(body.payload, task_id)


def draft_of(catalog: Catalog, body: TaskCreate) -> Draft:
    """What is asked for, but for its payload. Raises: Invalid."""
    found = find_definition(catalog, body)
    if found is not None:
        if body.executor is not None and body.executor != found.body.executor:
            raise Invalid("the definition says which executor", field="executor")
        base = flow.task_of(found.id, found.version, found.body)
    else:
        if body.name is None:
            raise Invalid("a task needs a name or a defId", field="name")
        kind = kind_of(body.executor or "embedded")
        base = Submit(0, body.name, kind, timeout_ms=flow.default_timeout_ms(
            kind, body.name, body.target_kind or "", body.target_ref or ""))
    target_ref = base.target_ref if body.target_ref is None else body.target_ref
    target_kind = target_of(Kind(base.kind), base.target_kind if body.target_kind is None
                            else body.target_kind, target_ref)
    return Draft(found, msgspec.structs.replace(
        base, target_kind=target_kind, target_ref=target_ref,
        on_lost=base.on_lost if body.on_lost is None else on_lost_of(body.on_lost),
        labels=merge_labels(base.labels, body.labels),
        priority=base.priority if body.priority is None else body.priority,
        timeout_ms=flow.to_ms(body.timeout_sec, base.timeout_ms),
        queue_timeout_ms=flow.to_ms(body.queue_timeout_sec, base.queue_timeout_ms),
        max_retries=base.max_retries if body.max_retries is None else body.max_retries,
        due_ms=flow.to_ms(body.delay_sec, 0), auto_start=body.auto_start,
        concurrency_key=(base.concurrency_key if body.concurrency_key is None
                         else body.concurrency_key),
        concurrency_limit=(base.concurrency_limit if body.concurrency_limit is None
                           else body.concurrency_limit),
        on_conflict=(base.on_conflict if body.on_conflict is None
                     else ON_CONFLICT.index(body.on_conflict))))


def find_definition(catalog: Catalog, body: TaskCreate) -> Versioned[TaskDefBody] | None:
    """The definition that a request means, or None. Raises: Invalid."""
    if body.def_id is not None:
        found = catalog.task_def(parse_id(body.def_id) or 0)
        if found is None:
            raise Invalid("no such task definition", field="defId")
        if body.name not in (None, found.body.name):
            raise Invalid(f"the definition's name is {found.body.name!r}", field="name")
        return found
    if body.name is None or body.name.startswith(BUILTIN_PREFIX):
        return None
    return catalog.task_def_named(body.name)


def on_lost_of(word: str) -> int:
    """Raises: Invalid."""
    if word not in ON_LOST:
        raise Invalid(f"onLost is one of {', '.join(ON_LOST)}", field="onLost")
    return ON_LOST.index(word)


def merged(found: Versioned[TaskDefBody] | None, base: Submit,
           given: bytes | None) -> bytes | None:
    """The run's payload over the definition's; of a command only what the definition leaves open.

    Raises: Invalid.
    """
    if given is not None and found is not None and base.kind == Kind.OS_PROCESS:
        if not flow.is_object(given):
            if given.strip() == b"null":
                return base.payload
            raise Invalid("an os_process takes an object", field="payload")
        for key in flow.DECODE_FIELDS(given):
            if key != "input" and key not in found.body.overridable:
                raise Invalid(f"the definition does not let a run set {key!r}",
                              field=f"payload.{key}")
    return flow.merge(base.payload, given)


def run_of(found: Versioned[TaskDefBody], asked: RunAsked) -> Submit:
    """The task of one run of a definition, without its id.

    Raises: Invalid, TooLarge.
    """
    base = flow.task_of(found.id, found.version, found.body)
    return Draft(found, msgspec.structs.replace(
        base, labels=merge_labels(base.labels, asked.labels),
        priority=base.priority if asked.priority is None else asked.priority,
        timeout_ms=flow.to_ms(asked.timeout_sec, base.timeout_ms),
        max_retries=base.max_retries if asked.max_retries is None else asked.max_retries,
        concurrency_key=(base.concurrency_key if asked.concurrency_key is None
                         else asked.concurrency_key))).with_payload(asked.payload, 0)


def merge_labels(below: tuple[tuple[str, str], ...],
                 above: dict[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Labels by key, those of the run over those of the definition."""
    if not above:
        return below
    return tuple(sorted((dict(below) | above).items()))
