"""Pure: when an alarm on a state is raised, and when it is cleared. Times are monotonic ns.

             the condition holds              it has held for so long
    NORMAL ----------------------> PENDING ---------------------------> RAISED
       ^                              |                                    |
       +---- it holds no more --------+------- the clearing one holds -----+

The clearing condition is the opposite of the rule's, moved by its hysteresis: an alarm above 80
with a hysteresis of 5 is cleared at 75 and below. A value that is no number says nothing to a rule
that compares numbers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from plumd.values import finite

Op: TypeAlias = Literal[">", ">=", "<", "<=", "==", "!="]
Severity: TypeAlias = Literal["info", "warning", "critical"]
EQUAL: Final = ("==", "!=")


class Rule(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A threshold. forSec: so long the condition must hold.  hysteresis: how far back it clears.

    resourceId: of one device; else of all of a type, "" and "" = of all.
    """

    name: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
    state: Annotated[str, Meta(min_length=1, max_length=500)]
    op: Op
    value: Annotated[str, Meta(max_length=500)] | int | float | bool
    hysteresis: Annotated[float, Meta(ge=0, le=1e300)] = 0.0
    for_sec: Annotated[float, Meta(ge=0, le=31_536_000)] = 0.0
    resource_id: Annotated[str, Meta(max_length=200)] = ""
    type: Annotated[str, Meta(max_length=500)] = ""
    severity: Severity = "warning"

    def means(self, device_id: str, kind: str) -> bool:
        """Whether it watches a device."""
        return self.resource_id in ("", device_id) and self.type in ("", kind)


class Phase(IntEnum):
    """See the picture above."""

    NORMAL = 0
    PENDING = 1
    RAISED = 2


def number(text: str) -> float | None:
    """A value as a number; true and false are 1 and 0."""
    lowered = text.lower()
    if lowered in ("true", "false"):
        return float(lowered == "true")
    return finite(text)


def text_of(value: str | float | bool) -> str:
    """A rule's value as devices write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def holds(rule: Rule, text: str) -> bool | None:
    """Whether the condition holds; None: the value says nothing."""
    return _compare(rule.op, text, text_of(rule.value), 0.0)


def clears(rule: Rule, text: str) -> bool | None:
    """Whether the clearing condition holds; None: the value says nothing."""
    shift = -rule.hysteresis if rule.op in (">", ">=") else rule.hysteresis
    found = _compare(rule.op, text, text_of(rule.value), shift)
    return None if found is None else not found


def _compare(op: Op, have: str, want: str, shift: float) -> bool | None:
    left, right = number(have), number(want)
    if op in EQUAL and (left is None or right is None):
        return (have == want) == (op == "==")
    if left is None or right is None:
        return None
    right += shift
    return {">": left > right, ">=": left >= right, "<": left < right, "<=": left <= right,
            "==": left == right, "!=": left != right}[op]


class Watch:
    """A rule over one device's state."""

    def __init__(self, phase: Phase = Phase.NORMAL) -> None:
        self.phase = phase
        self.since_ns = 0
        self.value = ""

    def see(self, rule: Rule, text: str, now_ns: int) -> bool:
        """A value came; whether the alarm was raised or cleared by it."""
        if self.phase is Phase.RAISED:
            self.value = text
            if clears(rule, text):
                self.phase = Phase.NORMAL
                return True
            return False
        held = holds(rule, text)
        if held is None:
            return False
        if not held:
            self.phase = Phase.NORMAL
            return False
        self.value = text
        if self.phase is Phase.NORMAL:
            self.phase, self.since_ns = Phase.PENDING, now_ns
        return self.tick(rule, now_ns)

    def due_ns(self, rule: Rule) -> int | None:
        """When to look again without a value."""
        if self.phase is not Phase.PENDING:
            return None
        return self.since_ns + round(rule.for_sec * 1e9)

    def tick(self, rule: Rule, now_ns: int) -> bool:
        """The time has come, or not; whether the alarm was raised."""
        due_ns = self.due_ns(rule)
        if due_ns is None or now_ns < due_ns:
            return False
        self.phase = Phase.RAISED
        return True
