"""The second opinion on plumd.flow.machine: slow, recursive, written from docs/workflows.md alone.

It knows nothing of order or time: how every step ends follows from how the steps before it end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SUCCESS, FAILURE, SKIP = "success", "failure", "skip"
FAILED_STATES = ("Failed", "Timeout", "Canceled")


class Step:
    """A step as a test draws it. fate: how its task ends, or a branch's outcome."""

    def __init__(self, name: str, kind: str, rule: str, needs: Sequence[tuple[str, str]],
                 fate: str, *, when: bool = True, forgiven: bool = False,
                 body: Sequence[Step] = (), rounds: int = 0, failures_max: int = 0) -> None:
        self.name = name
        self.kind = kind
        self.rule = rule
        self.needs = needs
        self.fate = fate
        self.when = when
        self.forgiven = forgiven
        self.body = body
        self.rounds = rounds
        self.failures_max = failures_max


def counts_as(step: Step, end: str, asked: str) -> str:
    """The end of a step before, as a step behind it counts it."""
    plain = (SUCCESS if end == "Succeeded" else SKIP if end == "Skipped" else FAILURE)
    if asked == "":
        return SUCCESS if step.forgiven and end in ("Failed", "Timeout") else plain
    if plain == SKIP:
        return SKIP
    if asked == "done":
        return SUCCESS
    if asked in ("success", "failure"):
        return SUCCESS if plain == asked else SKIP
    if plain == FAILURE:
        return FAILURE
    return SUCCESS if step.fate == asked else SKIP


def begins(rule: str, counts: Sequence[str]) -> str:
    """run, or which kind of Skipped."""
    if not counts:
        return "run"
    good, bad, none = (counts.count(one) for one in (SUCCESS, FAILURE, SKIP))
    if rule == "all_success":
        return "run" if good == len(counts) else "Skipped by failure" if bad else "Skipped"
    if rule == "one_success":
        return "run" if good else "Skipped by failure" if bad else "Skipped"
    if rule == "all_failed":
        return "run" if bad == len(counts) else "Skipped"
    if rule == "one_failed":
        return "run" if bad else "Skipped"
    if rule == "none_failed":
        return "Skipped by failure" if bad else "run"
    assert rule == "all_done"
    assert good + bad + none == len(counts)
    return "run"


def ends_of(steps: Sequence[Step], prefix: str = "",
            found: dict[str, str] | None = None) -> dict[str, str]:
    """name -> how it ends, of all steps and of those in the rounds of loops."""
    by_name = {step.name: step for step in steps}
    ends: dict[str, str] = {}

    def end_of(step: Step) -> str:
        if step.name not in ends:
            counts = [counts_as(by_name[name], end_of(by_name[name]), asked)
                      for name, asked in step.needs]
            said = begins(step.rule, counts)
            ends[step.name] = said if said != "run" else run(step)
        return ends[step.name]

    def run(step: Step) -> str:
        if not step.when:
            return "Skipped"
        if step.kind in ("branch", "parallel"):
            return "Succeeded"
        if step.kind == "task":
            return step.fate
        failures, last = 0, "Succeeded"
        for number in range(step.rounds):
            inner = ends_of(step.body, f"{prefix}{step.name}[{number}].", everything)
            state = outcome(step.body, inner)
            if state != "Succeeded":
                failures += 1
                if failures > step.failures_max:
                    last = state
                    break
        return last

    everything = {} if found is None else found
    for step in steps:
        end_of(step)
    everything.update({prefix + name: end for name, end in ends.items()})
    return ends if found is not None else everything


def outcome(steps: Sequence[Step], ends: Mapping[str, str]) -> str:
    """How a run with these ends ends."""
    left = set()
    for step in steps:
        end = ends[step.name]
        if end not in FAILED_STATES or (step.forgiven and end != "Canceled"):
            continue
        cared = False
        for behind in steps:
            for name, asked in behind.needs:
                because = asked == "failure" or (
                    behind.rule in ("all_failed", "one_failed")
                    and counts_as(step, end, asked) == FAILURE)
                cared |= name == step.name and because and ends[behind.name] == "Succeeded"
        if not cared:
            left.add(end)
    return next((state for state in FAILED_STATES if state in left), "Succeeded")
