"""Workflows as earlier programs write them, nodes and edges, in the words of today's steps.

A loop's body is what its `true` edges reach, without any its direct task successors; its other
edges leave it. Edges from the body back to its loop say that it goes round, which is known; edges
from the body to elsewhere leave with the loop. A branch without a source looks at the result of the
nearest task before it. What earlier programs wrote holds no references, so `${` is text here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw

from plumd.bodies import NeedBody, Position, StepBody
from plumd.errors import Invalid
from plumd.expressions import Value
from plumd.flow.data import DECODE, ENCODE, read
from plumd.flow.rules import RULES
from plumd.model import SEC_MAX

TYPES: Final = ("task", "branch", "parallel", "loop")
OPERATORS: Final = ("==", "!=", ">", "<", ">=", "<=")
EDGES: Final = ("normal", "true", "false")
NESTING_MAX: Final = 8
Behind: TypeAlias = Mapping[str, Sequence[tuple[str, str]]]
"""node -> where its edges lead, and their types"""


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """A field of a task's result, compared with a value."""

    source_task: str = ""
    field: str = ""
    operator: str = "=="
    value: Raw = Raw(b"null")


class LoopCondition(Condition, frozen=True, rename="camel"):
    """So many times, or as long as a condition holds."""

    type: str = "count"
    count: int = 0
    loop_var_name: str = ""


class DagNode(msgspec.Struct, frozen=True, rename="camel"):
    """A node, its key is beside it."""

    type: str = "task"
    name: str = ""
    trigger_rule: str = ""
    task_def_id: str = ""
    payload_json: Raw = Raw(b"null")
    timeout_sec: Annotated[float, Meta(ge=0, le=SEC_MAX)] | None = None
    max_retries: Annotated[int, Meta(ge=0, le=1_000)] | None = None
    """In both 0 leaves the definition's, for earlier programs write zeros for what is not set."""
    condition: Condition | None = None
    loop_condition: LoopCondition | None = None
    pos_x: float = 0
    pos_y: float = 0


class DagEdge(msgspec.Struct, frozen=True, rename="camel"):
    """An edge between nodes by their keys."""

    from_: str = msgspec.field(name="from")
    to: str = ""
    edge_type: str = "normal"


class Translation:
    """One workflow on its way. processes: definitions whose tasks are processes."""

    def __init__(self, nodes: Mapping[str, DagNode], edges: Sequence[DagEdge],
                 processes: frozenset[str]) -> None:
        self.nodes = nodes
        self.processes = processes
        self.edges: list[tuple[str, str, str]] = []
        for index, edge in enumerate(edges):
            for key, what in ((edge.from_, "from"), (edge.to, "to")):
                if key not in nodes:
                    raise Invalid(f"there is no node {key!r}", field=f"edges[{index}].{what}")
            kind = edge.edge_type.lower() or "normal"
            if kind not in EDGES:
                raise Invalid(f"edgeType is one of {', '.join(EDGES)}",
                              field=f"edges[{index}].edgeType")
            self.edges.append((edge.from_, edge.to, kind))

    def steps(self) -> tuple[StepBody, ...]:
        """All nodes as steps. Raises: Invalid."""
        return self.scope(set(self.nodes), self.edges, [])

    def scope(self, keys: set[str], edges: Sequence[tuple[str, str, str]],
              loops: Sequence[str]) -> tuple[StepBody, ...]:
        """The nodes of one scope, the bodies of its loops inside them. loops: those around it."""
        if len(loops) > NESTING_MAX:
            raise Invalid(f"loops nest deeper than {NESTING_MAX} levels",
                          field=f"nodes.{loops[-1]}")
        behind: dict[str, list[tuple[str, str]]] = {}
        for source, target, kind in edges:
            behind.setdefault(source, []).append((target, kind))
        bodies: dict[str, set[str]] = {}
        home = {key: key for key in keys}
        for key in self.nodes:          # as they are written, outer loops take their bodies first
            if key in keys and self.nodes[key].type == "loop" and home[key] == key:
                body = self.body_of(key, behind) & {one for one in keys if home[one] == one}
                bodies[key] = body - {key}
                for one in bodies[key]:
                    home[one] = key
        needs: dict[str, dict[tuple[str, str], None]] = {key: {} for key in keys}
        for source, target, kind in edges:
            before, after = home[source], home[target]
            if before == after:
                continue
            on = kind if self.nodes[before].type == "branch" and kind != "normal" else ""
            needs[after][before, on] = None
        found = []
        for key in self.nodes:
            if key in keys and home[key] == key:
                inside: tuple[StepBody, ...] = ()
                if key in bodies:
                    body = bodies[key]
                    inside = self.scope(body, [edge for edge in edges if edge[0] in body
                                               and edge[1] in body], (*loops, key))
                found.append(self.step(key, tuple(needs[key]), inside, loops, bodies.get(key)))
        return tuple(found)

    def body_of(self, loop: str, behind: Behind) -> set[str]:
        """The nodes that a loop repeats."""
        inward = [target for target, kind in behind.get(loop, ()) if kind == "true"]
        outward = [target for target, kind in behind.get(loop, ()) if kind != "true"]
        if not inward:
            return {key for key in outward if self.nodes[key].type == "task"}
        return self.reach(inward, behind, loop) - self.reach(outward, behind, loop)

    @staticmethod
    def reach(start: Sequence[str], behind: Behind, stop: str) -> set[str]:
        """All nodes that edges lead to, not through `stop`."""
        found: set[str] = set()
        waiting = [key for key in start if key != stop]
        while waiting:
            key = waiting.pop()
            if key not in found:
                found.add(key)
                waiting.extend(one for one, _ in behind.get(key, ()) if one != stop)
        return found

    # ------------------------------------------------------------ one node

    def step(self, key: str, needs: Sequence[tuple[str, str]], inside: tuple[StepBody, ...],
             loops: Sequence[str], body: set[str] | None) -> StepBody:
        """Raises: Invalid."""
        node, where = self.nodes[key], f"nodes.{key}"
        if node.type not in TYPES:
            raise Invalid(f"type is one of {', '.join(TYPES)}", field=f"{where}.type")
        rule = node.trigger_rule.lower()
        if rule and rule not in RULES:
            raise Invalid(f"triggerRule is one of {', '.join(RULES)}",
                          field=f"{where}.triggerRule")
        common = StepBody(
            id=key, name=node.name or key, type=node.type,
            needs=tuple(NeedBody(before, on) for before, on in needs),
            trigger_rule=rule or UNSET, position=Position(node.pos_x, node.pos_y))
        replace = msgspec.structs.replace
        if node.type == "task":
            if not node.task_def_id:
                raise Invalid("this is missing", field=f"{where}.taskDefId")
            return replace(common, definition_id=node.task_def_id,
                           payload=self.payload(node, loops), timeout_sec=node.timeout_sec or None,
                           max_retries=node.max_retries or None)
        if node.type == "branch":
            condition = node.condition or Condition()
            return replace(common, condition=self.expression(condition, key, where + ".condition"))
        if node.type == "parallel":
            return common
        said, place = node.loop_condition or LoopCondition(), f"{where}.loopCondition"
        if not inside:
            raise Invalid("the loop has no body: no `true` edge and no task behind it", field=where)
        if said.type == "count":
            if said.count < 0:
                raise Invalid("this is at least 0", field=f"{place}.count")
            return replace(common, count=said.count, body=inside)
        if said.type != "condition":
            raise Invalid("type is count or condition", field=f"{place}.type")
        source = self.expression(said, key, place)
        if said.source_task in (body or ()):
            return replace(common, until=f"!({source})", body=inside)
        return replace(common, while_=source, body=inside)

    def payload(self, node: DagNode, loops: Sequence[str]) -> Raw | msgspec.UnsetType:
        """What it says, and the variables of the loops around it."""
        value = read(bytes(node.payload_json), "payloadJson")
        if isinstance(value, str):
            # A text that is no JSON is the payload itself.
            with suppress(msgspec.DecodeError, UnicodeEncodeError):
                value = DECODE(value.encode()) if value.strip() else None
        text = ENCODE(value).replace(b"${", b"$${")
        variables: dict[str, Value] = {}
        for depth, loop in enumerate(reversed(loops)):
            said = self.nodes[loop].loop_condition
            if said is not None and said.loop_var_name:
                variables.setdefault(said.loop_var_name,
                                     "${loop." + "parent." * depth + "index}")
        if variables and (value is None or isinstance(value, dict)):
            known = DECODE(text)
            fields: dict[str, Value] = known if isinstance(known, dict) else {}
            if node.task_def_id in self.processes:
                given = fields.get("input")
                if given is None or isinstance(given, dict):
                    fields["input"] = {**variables, **(given or {})}
            else:
                fields = {**variables, **fields}
            text = ENCODE(fields)
        return UNSET if text == b"null" else Raw(text)

    def expression(self, said: Condition, key: str, where: str) -> str:
        """The condition in today's words. Raises: Invalid."""
        if said.operator not in OPERATORS:
            raise Invalid(f"operator is one of {' '.join(OPERATORS)}", field=f"{where}.operator")
        source = said.source_task or self.nearest_task(key)
        if source not in self.nodes:
            raise Invalid(f"there is no node {source!r}" if source
                          else "no task comes before it; name the sourceTask",
                          field=f"{where}.sourceTask")
        path = f"steps[{quoted(source)}].result"
        for part in said.field.split(".") if said.field else ():
            path += f"[{part}]" if part.isascii() and part.isdigit() else f"[{quoted(part)}]"
        value = read(bytes(said.value), f"{where}.value")
        text = value if isinstance(value, str) else ENCODE(value).decode()
        number = number_of(value)
        if said.operator in ("==", "!="):
            same = f"{path} == {quoted(text)}"
            if number is not None:
                same += f" || {path} == {number}"
            elif text in ("true", "false", "null"):
                same += f" || {path} == {text}"
            return f"!has({path}) || !({same})" if said.operator == "!=" else (
                f"has({path}) && ({same})")
        if number is not None:
            return f"has({path}) && double({path}) {said.operator} {number}"
        return f"has({path}) && string({path}) {said.operator} {quoted(text)}"

    def nearest_task(self, key: str) -> str:
        """The nearest task before a node, "" when there is none."""
        seen, level = {key}, [key]
        while level:
            before = [source for source, target, _ in self.edges
                      if target in level and source not in seen]
            tasks = [one for one in before if self.nodes[one].type == "task"]
            if tasks:
                return tasks[0]
            seen.update(before)
            level = list(dict.fromkeys(before))
        return ""


def quoted(text: str) -> str:
    """A text as a literal of expressions."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def number_of(value: Value) -> str | None:
    """The literal of a number, also of one that is written as a text; None when it is none."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        try:
            value = DECODE(value.strip().encode())
        except (msgspec.DecodeError, UnicodeEncodeError):
            return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ENCODE(value).decode()
    return None
