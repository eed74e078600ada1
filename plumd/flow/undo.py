"""What undoes a run that did not succeed: the `compensate` of its steps, in reverse.

The steps that undo others are a scope of their own, which runs after the steps of the workflow and
before onFailure. One begins when those have ended that undo what stood behind its step.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from plumd.bodies import StepBody, WorkflowBody
from plumd.errors import Invalid
from plumd.flow.order import ScopeDraft
from plumd.flow.tasks import ordered

TYPES = ("task", "workflow", "loop", "map")
SAID_BY_PLACE = (("needs", "needs"), ("trigger_rule", "triggerRule"), ("id", "id"), ("ord", "ord"),
                 ("continue_on_error", "continueOnError"), ("compensate", "compensate"))
"""What such a step cannot say, for it follows from the step that it undoes."""


def undoing(body: WorkflowBody) -> list[tuple[int, StepBody]]:
    """(place of an outer step, what undoes it, under an id of its own), the last step first."""
    found = []
    for at, step in enumerate(ordered(body.steps)):
        if step.compensate is not UNSET:
            name = str(at) if step.id is UNSET else step.id
            found.append((at, msgspec.structs.replace(step.compensate, id=f"{name}/undo")))
    return found[::-1]


def linked(root: ScopeDraft, found: Sequence[tuple[int, StepBody]]) -> list[StepBody]:
    """The same with what they need, and only where their step succeeded. Raises: Invalid."""
    ids = {at: step.id for at, step in found}
    needs: dict[int, list[str]] = {at: [] for at in ids}
    for behind, before in nearest(root, frozenset(ids)):
        name = ids[behind]
        assert isinstance(name, str)
        needs[before].append(name)
    made = []
    for at, step in found:
        draft = root.drafts[at]
        assert draft.step.compensate is not UNSET
        check(draft.step.compensate, f"{draft.where}.compensate")
        when = step.when
        if when is UNSET:
            when = f"steps[{msgspec.json.encode(draft.id).decode()}].state == \"Succeeded\""
        made.append(msgspec.structs.replace(step, needs=tuple(needs[at]), trigger_rule="all_done",
                                            when=when))
    return made


def nearest(root: ScopeDraft, wanted: frozenset[int]) -> list[tuple[int, int]]:
    """(a wanted step, a wanted step before it with no third one between)."""
    last: list[set[int]] = [set() for _ in root.drafts]
    pairs: list[tuple[int, int]] = []
    for draft in sorted(root.drafts, key=lambda one: one.before.bit_count()):
        reached: set[int] = set()
        for at, _ in draft.needs:
            reached |= {at} if at in wanted else last[at]
        hidden = 0
        for at in reached:
            hidden |= root.drafts[at].before
        last[draft.at] = {at for at in reached if not hidden >> at & 1}
        if draft.at in wanted:
            pairs.extend((draft.at, at) for at in sorted(last[draft.at]))
    return pairs


def check(step: StepBody, where: str) -> None:
    """Raises: Invalid."""
    if step.type is not UNSET and step.type not in TYPES:
        raise Invalid(f"what undoes a step is one of {', '.join(TYPES)}", field=f"{where}.type")
    for name, wire in SAID_BY_PLACE:
        said: object = getattr(step, name)
        if said is not UNSET and said is not None:
            raise Invalid(f"{wire} follows from the step that is undone", field=f"{where}.{wire}")
