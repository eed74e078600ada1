"""The truth table of trigger rules: which ends of the steps before it let a step begin.

A step that has ended counts as one of three: it succeeded, it failed (Failed, Timeout, Canceled,
and Skipped because something before it failed), or it was skipped. A verdict never depends on the
order in which the steps before it end; a rule that needs only one of them may begin early.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from plumd.model import TaskState


class StepState(IntEnum):
    """Where a step of a run stands: a task's states, and what only steps have."""

    WAITING = -1            # for other steps
    QUEUED = 0
    PENDING = 1
    RUNNING = 2             # also: a wait, an approval, iterations or a run of its own goes on
    RETRYING = 3
    SUCCEEDED = 4
    FAILED = 5
    TIMEOUT = 6
    CANCELED = 7
    SKIPPED = 8             # its rule was not met, its `when` was false, or it was skipped by hand
    SKIPPED_FAILED = 9      # its rule was not met because of a failure; people see Skipped


STEP_STATES: Final = (*(state.name.capitalize() for state in TaskState), "Skipped", "Skipped")


def state_text(state: int) -> str:
    """A step's state as people see it."""
    return "Waiting" if state < 0 else STEP_STATES[state]


class Count(IntEnum):
    """What the end of a step counts as for a step behind it."""

    SUCCESS = 0
    FAILURE = 1
    SKIP = 2


class Rule(IntEnum):
    """When a step begins."""

    ALL_SUCCESS = 0
    ONE_SUCCESS = 1
    ALL_FAILED = 2
    ONE_FAILED = 3
    ALL_DONE = 4
    NONE_FAILED = 5


RULES: Final = tuple(rule.name.lower() for rule in Rule)


class On(IntEnum):
    """Which end of the step before it an edge asks for; the others count as a skip."""

    ANY = 0         # an edge that asks for nothing: the end counts as what it is
    SUCCESS = 1
    FAILURE = 2
    DONE = 3
    TRUE = 4
    FALSE = 5


ONS: Final = ("", "success", "failure", "done", "true", "false")


class Verdict(IntEnum):
    """What a rule says, given what has ended so far."""

    WAIT = 0
    GO = 1
    SKIP = 2
    SKIP_FAILED = 3


def count_of(state: int) -> Count:
    """What a state that is an end counts as by itself."""
    if state == StepState.SUCCEEDED:
        return Count.SUCCESS
    return Count.SKIP if state == StepState.SKIPPED else Count.FAILURE


def over_edge(state: int, on: int, outcome: bool, forgiven: bool) -> Count:
    """What an end counts as over an edge. outcome: a branch's. forgiven: continueOnError."""
    count = count_of(state)
    if on == On.ANY:
        lenient = forgiven and state in (StepState.FAILED, StepState.TIMEOUT)
        return Count.SUCCESS if lenient else count
    if count == Count.SKIP:
        return Count.SKIP
    if on == On.DONE:
        return Count.SUCCESS
    if on == On.FAILURE:
        return Count.SUCCESS if count == Count.FAILURE else Count.SKIP
    if on == On.SUCCESS:
        return Count.SUCCESS if count == Count.SUCCESS else Count.SKIP
    if count == Count.FAILURE:
        return Count.FAILURE
    return Count.SUCCESS if outcome == (on == On.TRUE) else Count.SKIP


def verdict(rule: int, needs: int, succeeded: int, failed: int, skipped: int) -> Verdict:
    """Whether a step with so many needs begins, given how many of them ended how."""
    if needs == 0:
        return Verdict.GO
    left = needs - succeeded - failed - skipped
    if rule == Rule.ALL_SUCCESS:
        if failed:
            return Verdict.SKIP_FAILED
        if left:
            return Verdict.WAIT
        return Verdict.SKIP if skipped else Verdict.GO
    if rule == Rule.ONE_SUCCESS:
        if succeeded:
            return Verdict.GO
        if left:
            return Verdict.WAIT
        return Verdict.SKIP_FAILED if failed else Verdict.SKIP
    if rule == Rule.ALL_FAILED:
        if succeeded or skipped:
            return Verdict.SKIP
        return Verdict.WAIT if left else Verdict.GO
    if rule == Rule.ONE_FAILED:
        if failed:
            return Verdict.GO
        return Verdict.WAIT if left else Verdict.SKIP
    if rule == Rule.NONE_FAILED and failed:
        return Verdict.SKIP_FAILED
    return Verdict.WAIT if left else Verdict.GO


def truth_table() -> Iterator[tuple[str, ...]]:
    """(rule, then the verdict for each mix of ends) as the documentation shows it."""
    mixes = ((2, 0, 0), (1, 1, 0), (1, 0, 1), (0, 2, 0), (0, 1, 1), (0, 0, 2))
    words = {Verdict.GO: "runs", Verdict.SKIP: "Skipped",
             Verdict.SKIP_FAILED: "Skipped (failure)", Verdict.WAIT: "waits"}
    for rule in Rule:
        yield (RULES[rule], *(words[verdict(rule, 2, *mix)] for mix in mixes))
