"""Task definitions and workflows, every version of them, and the cache that hot routes read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

import apsw
import msgspec

from plumd.bodies import StepBody, TaskDefBody, WorkflowBody
from plumd.errors import Exists, NotFound, WrongState
from plumd.model import id_text
from plumd.store import precondition, sql
from plumd.store.store import Store, Tx

SQL: Final = sql.load("definitions")
ENCODE: Final = msgspec.json.Encoder().encode
CACHED_MAX: Final = 2_000

Body = TypeVar("Body", TaskDefBody, WorkflowBody)
K = TypeVar("K")
V = TypeVar("V")


class Versioned(msgspec.Struct, Generic[Body], frozen=True):
    """A definition's current version."""

    id: int
    version: int
    body: Body
    created_ms: int
    updated_ms: int


class Kind(msgspec.Struct, Generic[Body], frozen=True):
    """What differs between the two sorts of definition."""

    word: str
    decode: Callable[[bytes], Body]
    insert: str
    insert_version: str
    update: str
    get: str
    by_name: str
    version: str
    page: str


TASK_DEFS: Final[Kind[TaskDefBody]] = Kind(
    "task definition", msgspec.json.Decoder(TaskDefBody).decode, SQL["insert_def"],
    SQL["insert_def_version"], SQL["update_def"], SQL["get_def"], SQL["get_def_by_name"],
    SQL["def_version"], SQL["page_defs"])
WORKFLOWS: Final[Kind[WorkflowBody]] = Kind(
    "workflow", msgspec.json.Decoder(WorkflowBody).decode, SQL["insert_workflow"],
    SQL["insert_workflow_version"], SQL["update_workflow"], SQL["get_workflow"],
    SQL["get_workflow_by_name"], SQL["workflow_version"], SQL["page_workflows"])


def get(db: apsw.Connection, kind: Kind[Body], number: int) -> Versioned[Body] | None:
    """The current version by id, or None."""
    for row in db.execute(kind.get, (number,)):
        return Versioned(row[0], row[1], kind.decode(row[2]), row[3], row[4])
    return None


def by_name(db: apsw.Connection, kind: Kind[Body], name: str) -> Versioned[Body] | None:
    """The current version by name, or None."""
    for row in db.execute(kind.by_name, (name,)):
        return Versioned(row[0], row[1], kind.decode(row[2]), row[3], row[4])
    return None


def version(db: apsw.Connection, kind: Kind[Body], number: int, wanted: int) -> Body | None:
    """One version's body, current or past; it outlives the definition's deletion."""
    for row in db.execute(kind.version, (number, wanted)):
        return kind.decode(row[0])
    return None


def versions(db: apsw.Connection, number: int, below: int,
             limit: int) -> list[tuple[int, TaskDefBody, int]]:
    """(version, body, created_ms) of a task definition, newest first."""
    rows = db.execute(SQL["def_versions"], (number, below, limit))
    return [(row[0], TASK_DEFS.decode(row[1]), row[2]) for row in rows]


def workflow_versions(db: apsw.Connection, number: int, below: int,
                      limit: int) -> list[tuple[int, WorkflowBody, int]]:
    """(version, body, created_ms) of a workflow, newest first."""
    rows = db.execute(SQL["workflow_versions"], (number, below, limit))
    return [(row[0], WORKFLOWS.decode(row[1]), row[2]) for row in rows]


def page(db: apsw.Connection, kind: Kind[Body], before: int, limit: int) -> list[Versioned[Body]]:
    """One page, newest first; before 0 = from the newest."""
    rows = db.execute(kind.page, (before or (1 << 63) - 1, limit))
    return [Versioned(row[0], row[1], kind.decode(row[2]), row[3], row[4]) for row in rows]


def create(tx: Tx, kind: Kind[Body], number: int, body: Body) -> Versioned[Body]:
    """Add a definition. Raises: Exists when the name is taken."""
    if by_name(tx.db, kind, body.name) is not None:
        raise Exists(f"a {kind.word} named {body.name!r} exists", field="name")
    tx.db.execute(kind.insert, (number, body.name, tx.now_ms, tx.now_ms))
    tx.db.execute(kind.insert_version, (number, 1, ENCODE(body), tx.now_ms))
    tx.emit(topic_of(kind), id_text(number), "created", body.name, tx.now_ms)
    return Versioned(number, 1, body, tx.now_ms, tx.now_ms)


def update(tx: Tx, kind: Kind[Body], number: int, body: Body,
           if_version: int | None) -> Versioned[Body]:
    """Add a version. Raises: NotFound, VersionMismatch, Exists when the new name is taken."""
    old = get(tx.db, kind, number)
    if old is None:
        raise NotFound(f"no such {kind.word}")
    precondition.check(old.version, if_version)
    if body.name != old.body.name and by_name(tx.db, kind, body.name) is not None:
        raise Exists(f"a {kind.word} named {body.name!r} exists", field="name")
    new = old.version + 1
    tx.db.execute(kind.insert_version, (number, new, ENCODE(body), tx.now_ms))
    tx.db.execute(kind.update, (body.name, new, tx.now_ms, number))
    tx.emit(topic_of(kind), id_text(number), "updated", body.name, tx.now_ms)
    return Versioned(number, new, body, old.created_ms, tx.now_ms)


def delete_task_def(tx: Tx, number: int, if_version: int | None) -> None:
    """Remove a task definition; tasks that it made, and its versions, stay.

    Raises: NotFound, VersionMismatch; WrongState while a workflow, schedule or trigger uses it.
    """
    old = get(tx.db, TASK_DEFS, number)
    if old is None:
        raise NotFound("no such task definition")
    precondition.check(old.version, if_version)
    in_use(tx, number)
    tx.db.execute(SQL["delete_def"], (number,))
    tx.emit("taskDef", id_text(number), "deleted", old.body.name, tx.now_ms)


def in_use(tx: Tx, number: int) -> None:
    """Raises WrongState while a workflow has a step of this definition."""
    for row in tx.db.execute(SQL["workflows_using"]):
        body = WORKFLOWS.decode(row[0])
        if any(step.definition_id == id_text(number) for step in every_step(body)):
            raise WrongState(f"the workflow {body.name!r} uses this task definition")
    not_started(tx, number, "this task definition")


def not_started(tx: Tx, number: int, what: str) -> None:
    """Raises WrongState while a schedule or a trigger starts it, or waits for it."""
    text = id_text(number)
    for kind, name in tx.db.execute(SQL["users_of"], (text, text, text)):
        raise WrongState(f"the {kind} {name!r} uses {what}")


def every_step(body: WorkflowBody) -> Iterator[StepBody]:
    """All steps of a workflow, those inside bodies and those that undo others too."""
    waiting = [*body.steps, *body.on_failure]
    while waiting:
        step = waiting.pop()
        yield step
        if not isinstance(step.body, msgspec.UnsetType):
            waiting.extend(step.body)
        if not isinstance(step.compensate, msgspec.UnsetType):
            waiting.append(step.compensate)


def hide_workflow(tx: Tx, number: int, if_version: int | None) -> None:
    """Take a workflow away at once; its runs are removed in slices afterwards.

    Raises: NotFound, VersionMismatch; WrongState while another workflow has it as a step, or a
    schedule or trigger uses it.
    """
    old = get(tx.db, WORKFLOWS, number)
    if old is None:
        raise NotFound("no such workflow")
    precondition.check(old.version, if_version)
    for row in tx.db.execute(SQL["workflows_using"]):
        body = WORKFLOWS.decode(row[0])
        if body.name != old.body.name and any(step.workflow == id_text(number)
                                              for step in every_step(body)):
            raise WrongState(f"the workflow {body.name!r} runs this one as a step")
    not_started(tx, number, "this workflow")
    tx.db.execute(SQL["hide_workflow"], (tx.now_ms, number))
    tx.emit("workflow", id_text(number), "deleted", old.body.name, tx.now_ms)


def hidden_workflows(db: apsw.Connection) -> list[int]:
    """Workflows that were deleted and still have runs or versions."""
    return [row[0] for row in db.execute(SQL["hidden_workflows"])]


def forget_workflow(db: apsw.Connection, number: int) -> None:
    """The last traces of a deleted workflow."""
    db.execute(SQL["forget_workflow_versions"], (number,))
    db.execute(SQL["forget_workflow"], (number,))


def topic_of(kind: Kind[Body]) -> str:
    """The events' topic."""
    return "taskDef" if kind.word == "task definition" else "workflow"


class Catalog:
    """Current definitions in memory, read on first use; whoever changes one calls `forget`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._defs: OrderedDict[int, Versioned[TaskDefBody]] = OrderedDict()
        self._names: OrderedDict[str, int] = OrderedDict()
        self._workflows: OrderedDict[int, Versioned[WorkflowBody]] = OrderedDict()
        self._versions: OrderedDict[tuple[int, int], WorkflowBody] = OrderedDict()

    def task_def(self, number: int) -> Versioned[TaskDefBody] | None:
        """By id."""
        found = self._defs.get(number)
        if found is None:
            found = self.store.peek(get, TASK_DEFS, number)
            if found is not None:
                keep(self._defs, number, found)
        return found

    def task_def_named(self, name: str) -> Versioned[TaskDefBody] | None:
        """By name; a name without a definition is remembered as 0."""
        number = self._names.get(name)
        if number is None:
            found = self.store.peek(by_name, TASK_DEFS, name)
            keep(self._names, name, 0 if found is None else found.id)
            return found
        return self.task_def(number) if number else None

    def workflow(self, number: int) -> Versioned[WorkflowBody] | None:
        """By id."""
        found = self._workflows.get(number)
        if found is None:
            found = self.store.peek(get, WORKFLOWS, number)
            if found is not None:
                keep(self._workflows, number, found)
        return found

    def workflow_named(self, name: str) -> Versioned[WorkflowBody] | None:
        """By name; not kept, for few ask."""
        return self.store.peek(by_name, WORKFLOWS, name)

    def workflow_version(self, number: int, wanted: int) -> WorkflowBody | None:
        """One version, which never changes."""
        found = self._versions.get((number, wanted))
        if found is None:
            found = self.store.peek(version, WORKFLOWS, number, wanted)
            if found is not None:
                keep(self._versions, (number, wanted), found)
        return found

    def forget(self) -> None:
        """Something was changed: read again. Changes are rare, so all of it goes."""
        self._defs.clear()
        self._names.clear()
        self._workflows.clear()


def keep(cache: OrderedDict[K, V], key: K, value: V) -> None:
    """Remember, and forget the oldest past the bound."""
    cache[key] = value
    if len(cache) > CACHED_MAX:
        cache.popitem(last=False)
