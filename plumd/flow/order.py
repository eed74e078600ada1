"""The steps of a scope while it is compiled: who needs whom, in an order that has no circle."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from msgspec import UNSET

from plumd.bodies import StepBody
from plumd.errors import Invalid
from plumd.expressions import Expr, Path
from plumd.flow.graph import StepKind, Template
from plumd.flow.rules import ONS, On, Rule
from plumd.model import Submit

NEEDS_MAX: Final = 50_000


class Draft:
    """A step on its way to a Node. before: the places of all steps that end before it, as bits."""

    def __init__(self, step: StepBody, step_id: str, at: int, scope: ScopeDraft, where: str,
                 kind: StepKind) -> None:
        self.step = step
        self.id = step_id
        self.at = at
        self.scope = scope
        self.where = where
        self.kind = kind
        self.rule = Rule.ALL_SUCCESS
        self.needs: dict[tuple[int, int], None] = {}
        self.out: list[tuple[int, int]] = []
        self.before = 0
        self.keep: set[Path] = set()
        self.pin = -1
        self.undoes = -1
        self.task: Submit | None = None
        self.workflow_id = 0
        self.body: ScopeDraft | None = None
        self.when: Expr | None = None
        self.condition: Expr | None = None
        self.while_: Expr | None = None
        self.until: Expr | None = None
        self.count: Template | None = None
        self.items: Template | None = None
        self.payload: Template | None = None
        self.wait: Template | None = None
        self.wait_until: Template | None = None


class ScopeDraft:
    """The steps of a workflow, or of a body."""

    def __init__(self, where: str, owner: Draft | None) -> None:
        self.where = where
        self.owner = owner
        self.drafts: list[Draft] = []
        self.result: Template | None = None
        self.by_default = False
        self.uses_last = False


def link(scope: ScopeDraft) -> None:
    """Fill in the edges. Raises: Invalid."""
    drafts = scope.drafts
    if all(draft.step.needs is UNSET for draft in drafts):
        for before, after in pairwise(drafts):
            before.out.append((after.at, On.ANY))
            after.needs[before.at, On.ANY] = None
    else:
        places = {draft.id: draft for draft in drafts}
        count = 0
        for draft in drafts:
            count += len(draft.step.needs or ())
            if count > NEEDS_MAX:
                raise Invalid(f"steps beside each other take at most {NEEDS_MAX:,} needs",
                              field=f"{draft.where}.needs")
            for index, need in enumerate(draft.step.needs or ()):
                join(draft, places, need if isinstance(need, str) else need.step,
                     "" if isinstance(need, str) else need.on,
                     f"{draft.where}.needs[{index}]")
    sort(scope)


def join(draft: Draft, places: dict[str, Draft], name: str, on: str, where: str) -> None:
    """One edge. Raises: Invalid."""
    source = places.get(name)
    if source is None:
        raise Invalid(f"there is no step {name!r} beside this one", field=where)
    if source is draft:
        raise Invalid("a step cannot need itself", field=where)
    if on not in ONS:
        raise Invalid(f"on is one of {', '.join(ONS[1:])}", field=f"{where}.on")
    kind = ONS.index(on)
    if kind in (On.TRUE, On.FALSE) and source.kind != StepKind.BRANCH:
        raise Invalid("only a branch ends with true or false", field=f"{where}.on")
    if (source.at, kind) in draft.needs:
        raise Invalid("this is said twice", field=where)
    draft.needs[source.at, kind] = None
    source.out.append((draft.at, kind))


def sort(scope: ScopeDraft) -> None:
    """Find all that comes before each step. Raises: Invalid when there is a circle."""
    drafts = scope.drafts
    left = [len(draft.needs) for draft in drafts]
    free = [draft for draft in drafts if not draft.needs]
    done = 0
    while free:
        draft = free.pop()
        done += 1
        reach = draft.before | 1 << draft.at
        for at, _ in draft.out:
            drafts[at].before |= reach
            left[at] -= 1
            if left[at] == 0:
                free.append(drafts[at])
    if done < len(drafts):
        raise circle(drafts, left)


def circle(drafts: list[Draft], left: list[int]) -> Invalid:
    """The refusal that names the steps of one circle."""
    at = next(index for index, count in enumerate(left) if count > 0)
    seen: list[int] = []
    while at not in seen:
        seen.append(at)
        at = next(source for source, _ in drafts[at].needs if left[source] > 0)
    names = [drafts[one].id for one in (*seen[seen.index(at):], at)]
    shown = " needs ".join(names[:6]) + (" ..." if len(names) > 6 else "")
    return Invalid(f"the steps need each other in a circle: {shown}",
                   field=f"{drafts[at].where}.needs")
