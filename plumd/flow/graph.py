"""What a workflow means, compiled: scopes of steps, and the edges between the steps of a scope.

The steps of the workflow are one scope, those in a loop's or map's body another. A run makes one
frame of the outer scope, and one of a body's scope for each iteration. All of it is immutable,
and shared by every run of a version.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, TypeAlias

import msgspec

from plumd.expressions import Expr, Path, Value
from plumd.flow.rules import Rule
from plumd.model import Submit


class StepKind(IntEnum):
    """What a step is."""

    TASK = 0
    BRANCH = 1
    PARALLEL = 2
    LOOP = 3
    MAP = 4
    WORKFLOW = 5
    WAIT = 6
    APPROVAL = 7


STEP_KINDS: Final = tuple(kind.name.lower() for kind in StepKind)


class Text(msgspec.Struct, frozen=True):
    """A string with references inside it; parts in order."""

    parts: tuple[str | Expr, ...]


class ListOf(msgspec.Struct, frozen=True):
    """A list that holds references somewhere."""

    items: tuple[Template, ...]


class MapOf(msgspec.Struct, frozen=True):
    """An object that holds references somewhere."""

    items: tuple[tuple[str, Template], ...]


class Fixed(msgspec.Struct, frozen=True):
    """A value without references."""

    value: Value


class Whole(msgspec.Struct, frozen=True):
    """A string that is one reference and nothing else: it becomes the value, with its type."""

    expr: Expr


Template: TypeAlias = "Text | ListOf | MapOf | Fixed | Whole"


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A step. at: its place in its scope. needs and out: (place, On) of the steps around it.

    keep: the paths into its end that somebody refers to.  pin: its place among the versions that
    a run pins, -1 = it has none.  undoes: the place of the outer step that it undoes, -1 = none.
    """

    at: int
    id: str
    name: str
    kind: StepKind
    rule: Rule = Rule.ALL_SUCCESS
    needs: tuple[tuple[int, int], ...] = ()
    out: tuple[tuple[int, int], ...] = ()
    forgiven: bool = False
    when: Expr | None = None
    keep: tuple[Path, ...] = ()
    pin: int = -1
    task: Submit | None = None
    payload: Template | None = None
    fixed_payload: bytes | None = None
    condition: Expr | None = None
    count: Template | None = None
    while_: Expr | None = None
    until: Expr | None = None
    items: Template | None = None
    limit: int = 0
    concurrency: int = 1
    max_failures: int = 0
    body: Scope | None = None
    workflow_id: int = 0
    timeout_ms: int = 0
    undoes: int = -1
    wait: Template | None = None
    wait_until: Template | None = None
    event: str = ""


class Scope(msgspec.Struct, frozen=True):
    """Steps that belong together; places: by id.  result: what an iteration answers, None = nobody
    asks for it."""

    nodes: tuple[Node, ...]
    roots: tuple[int, ...]
    places: dict[str, int]
    result: Template | None = None


class Graph(msgspec.Struct, frozen=True):
    """A version of a workflow with the definitions that a run pins.

    after: what follows a run that did not succeed, one after the other: what undoes it, onFailure.
    params: the schema of a run's payload.  Without one the payload lies over that of each step.
    """

    name: str
    root: Scope
    after: tuple[Scope, ...] = ()
    timeout_ms: int = 0
    result: Template | None = None
    params: dict[str, Value] | None = None

    @property
    def first_free(self) -> int:
        """The first number that no step of the outer scopes has."""
        return self.first_after(len(self.after))

    def first_after(self, place: int) -> int:
        """The first number of a scope that follows."""
        return len(self.root.nodes) + sum(len(scope.nodes) for scope in self.after[:place])


class RunPlan(msgspec.Struct, frozen=True):
    """A run with everything that it needs to go on.

    pins: the version of each step's definition, in the order in which they are written.
    parent: (run, step) whose sub-workflow it is.  origin: the run that it repeats.
    """

    run_id: int
    workflow_id: int
    version: int
    pins: tuple[int, ...]
    graph: Graph
    payload: bytes | None = None
    parent: tuple[int, int] = (0, 0)
    origin_id: int = 0
    depth: int = 0
    seeds: tuple[Seed, ...] = ()


class Seed(msgspec.Struct, frozen=True):
    """What is known of a step instance from rows: of before a restart, or of the run repeated.

    ref: the task's id, or the run's of a sub-workflow.
    """

    step: int
    state: int
    ref: int = 0
    attempt: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    data: bytes | None = None


class BeginRun(msgspec.Struct, frozen=True):
    """Command: start a run of a workflow."""

    plan: RunPlan


class CancelRun(msgspec.Struct, frozen=True):
    """Command: end a run; what runs of it is canceled first."""

    run_id: int


class RunAct(msgspec.Struct, frozen=True):
    """Command: pause or resume a run; skip, approve, reject or complete a step of it by hand.

    step: the instance's name, like `fetch` or `each[17].fetch`; "" for the run.  value: the JSON
    that an approval or an event brings.
    """

    run_id: int
    action: str
    step: str = ""
    value: bytes | None = None
