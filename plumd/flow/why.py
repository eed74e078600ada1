"""Why a step of a run has not begun, in words."""

from __future__ import annotations

from plumd.flow.find import find
from plumd.flow.machine import Machine
from plumd.flow.rules import RULES, StepState, state_text
from plumd.model import Cause

NAMES_MAX = 10


def causes_of(machine: Machine, name: str) -> list[Cause]:
    """The reasons, the nearest first; empty when it waits for nothing any more."""
    found = find(machine, name)
    if found is None:
        return [Cause("iteration", "its iteration has not begun: maps begin so many at once, loops "
                                   "one after another")]
    frame, node = found
    causes = []
    open_needs = [f"{frame.scope.nodes[at].id} ({state_text(frame.states[at])})"
                  for at, _ in node.needs if frame.states[at] < StepState.SUCCEEDED]
    if open_needs:
        shown = ", ".join(open_needs[:NAMES_MAX])
        more = f" and {len(open_needs) - NAMES_MAX} more" if len(open_needs) > NAMES_MAX else ""
        causes.append(Cause("needs", f"its rule {RULES[node.rule]} waits for {shown}{more}",
                            ahead=len(open_needs)))
    if machine.paused:
        causes.append(Cause("paused", "the run is paused"))
    return causes
