"""The steps of a workflow as they are written, with the numbers that a run gives them.

For showing runs, also those whose definitions are gone: nothing is compiled here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from plumd.bodies import StepBody, WorkflowBody
from plumd.flow.tasks import ordered
from plumd.flow.undo import undoing


class Outline(msgspec.Struct, frozen=True):
    """A step. at: its place in its scope, for outer steps its number in a run.  pin: its place
    among the pinned versions, -1 = it pins none.  undoes: the id of the step that it undoes."""

    at: int
    id: str
    name: str
    type: str
    definition_id: str
    pin: int
    body: tuple[Outline, ...] = ()
    undoes: str = ""


def outline(body: WorkflowBody) -> tuple[Outline, ...]:
    """The outer steps of a workflow; what undoes them and those of onFailure behind the others."""
    pins = [0]
    found = list(scope(body.steps, "", pins))
    undone = undoing(body)
    for (at, _), one in zip(undone, scope([step for _, step in undone], "", pins), strict=True):
        found.append(msgspec.structs.replace(one, at=len(found), undoes=found[at].id))
    first = len(found)
    found.extend(msgspec.structs.replace(one, at=first + one.at)
                 for one in scope(body.on_failure, "onFailure/", pins))
    return tuple(found)


def scope(steps: Sequence[StepBody], prefix: str, pins: list[int]) -> tuple[Outline, ...]:
    """The steps of one scope; pins: [how many were taken so far]."""
    found = []
    for at, step in enumerate(ordered(tuple(steps))):
        name = f"{prefix}{at}" if step.id is UNSET else step.id
        kind = "task" if step.type is UNSET else step.type
        pin = -1
        if (kind == "task" and step.definition_id) or kind == "workflow":
            pin, pins[0] = pins[0], pins[0] + 1
        inner = () if step.body is UNSET else scope(step.body, f"{name}/", pins)
        found.append(Outline(at, name, step.name or name, kind, step.definition_id, pin, inner))
    return tuple(found)
