"""A workflow as people write it down and carry it elsewhere: without what goes without saying, and
with names where the database has ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import NODEFAULT, UNSET

from plumd.bodies import StepBody, TaskDefBody, WorkflowBody
from plumd.expressions import Value
from plumd.flow.data import DECODE

ENCODE: Final = msgspec.json.Encoder().encode
NameOf = Callable[[str, str], str]
"""(definitionId or workflow, the id) -> the name by which it is found again"""


def defaults_of(kind: type[msgspec.Struct]) -> dict[str, Value]:
    """field -> the value that it has when nothing is said."""
    found: dict[str, Value] = {}
    for field in msgspec.structs.fields(kind):
        default = field.default
        if default is NODEFAULT and field.default_factory is not NODEFAULT:
            default = field.default_factory()
        if default is not NODEFAULT and default is not UNSET:
            found[field.encode_name] = DECODE(ENCODE(default))
    return found


OF_WORKFLOW: Final = defaults_of(WorkflowBody)
OF_STEP: Final = defaults_of(StepBody)
OF_TASK: Final = defaults_of(TaskDefBody)
FIRST: Final = ("id", "name", "type", "task", "definitionId", "workflow", "needs", "triggerRule")
"""What is read first stands first."""


def portable(body: WorkflowBody, name_of: NameOf) -> dict[str, Value]:
    """The values of a workflow's file; saving them gives the same workflow."""
    whole = DECODE(ENCODE(body))
    assert isinstance(whole, dict)
    found = said(whole, OF_WORKFLOW)
    for key in ("steps", "onFailure"):
        if key in whole and (key == "steps" or whole[key]):
            found[key] = steps(whole[key], name_of)
    return found


def said(value: dict[str, Value], defaults: dict[str, Value]) -> dict[str, Value]:
    """What is not a default; seconds that are whole without a point."""
    return {key: whole(item) if key.lower().endswith(("sec", "seconds")) else item
            for key, item in value.items() if key not in defaults or item != defaults[key]}


def whole(value: Value) -> Value:
    """A whole number without a point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def steps(value: Value, name_of: NameOf) -> Value:
    """A list of steps."""
    assert isinstance(value, list)
    return [step(one, name_of) for one in value if isinstance(one, dict)]


def step(value: dict[str, Value], name_of: NameOf) -> Value:
    """One step: with names, and what is read first at the top."""
    found = said(value, OF_STEP)
    task = found.get("task")
    if isinstance(task, dict):
        found["task"] = said(task, OF_TASK)
        if "id" not in found and found.get("name") == task.get("name"):
            found.pop("name")           # saving fills it in again
    for key in ("definitionId", "workflow"):
        reference = found.get(key)
        if isinstance(reference, str):
            found[key] = name_of(key, reference)
    position = found.get("position")
    if isinstance(position, dict):
        found["position"] = {key: whole(item) for key, item in position.items()}
    if "definitionId" in found:
        found.pop("executor", None)     # the definition says it
    if "body" in found:
        found["body"] = steps(found["body"], name_of)
    undo = found.get("compensate")
    if isinstance(undo, dict):
        found["compensate"] = step(undo, name_of)
    return {key: found[key] for key in (*FIRST, *found) if key in found}
