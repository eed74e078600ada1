"""Random graphs: the same one as a test's steps and as a workflow's body."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from plumd.bodies import StepBody, TaskDefBody, WorkflowBody
from plumd.model import Submit
from tests.flow.reference import Step

RULES = ("all_success", "one_success", "all_failed", "one_failed", "all_done", "none_failed")
FATES = ("Succeeded", "Succeeded", "Succeeded", "Failed", "Timeout", "Canceled")


class Plain:
    """Resolves nothing: every task is inline."""

    def task(self, step: StepBody, pin: int, where: str) -> Submit:
        del pin, where
        return Submit(0, step.name)

    def workflow(self, reference: str, where: str) -> int:
        del where
        return int(reference)


def draw_scope(rng: random.Random, steps_max: int = 12, depth: int = 2,
               prefix: str = "s") -> list[Step]:
    """Steps of one scope, each after those that it needs."""
    found: list[Step] = []
    for at in range(rng.randint(1, steps_max)):
        kinds = ["task", "task", "task", "branch", "parallel"]
        if depth:
            kinds += ["loop", "map"]
        kind = rng.choice(kinds)
        needs: dict[str, str] = {}
        for other in rng.choices(found, k=rng.randint(0, 4)) if found else ():
            asked = ["", "", "", "success", "failure", "done"]
            if other.kind == "branch":
                asked += ["true", "false", "true", "false"]
            needs[other.name] = rng.choice(asked)
        name = f"{prefix}{at}"
        body: Sequence[Step] = ()
        if kind in ("loop", "map"):
            body = draw_scope(rng, 3, depth - 1, f"{name}_")
        found.append(Step(
            name, kind, rng.choice(RULES), tuple(needs.items()),
            rng.choice(("true", "false") if kind == "branch" else FATES),
            when=rng.random() > 0.1, forgiven=rng.random() < 0.1, body=body,
            rounds=rng.randint(0, 3) if body else 0,
            failures_max=rng.randint(0, 1) if kind == "map" else 0))
    return found


def written(step: Step) -> dict[str, object]:
    """The step as people write it, in JSON's values."""
    said: dict[str, object] = {
        "id": step.name, "name": step.name, "type": step.kind, "triggerRule": step.rule,
        "needs": [{"step": name, "on": asked} if asked else name for name, asked in step.needs],
        "when": "true" if step.when else "1 > 2", "continueOnError": step.forgiven}
    if step.kind == "task":
        said["task"] = msgspec.to_builtins(TaskDefBody(step.name))
    elif step.kind == "branch":
        said["condition"] = step.fate
    elif step.kind == "loop":
        said["count"] = step.rounds
    elif step.kind == "map":
        # One after another: which rounds a failure keeps from beginning is then no matter of luck.
        said |= {"items": list(range(step.rounds)), "concurrency": 1,
                 "maxFailures": step.failures_max}
    if step.body:
        said["body"] = [written(one) for one in step.body]
    return said


def workflow_of(steps: Sequence[Step]) -> WorkflowBody:
    """The whole as it is written."""
    return msgspec.json.decode(
        msgspec.json.encode({"name": "drawn", "steps": [written(step) for step in steps]}),
        type=WorkflowBody)
