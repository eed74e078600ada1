"""From the written form of a workflow to its graph; what could not work is refused with its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TypeVar

import msgspec
from msgspec import UNSET

from plumd.bodies import StepBody, WorkflowBody
from plumd.errors import Invalid
from plumd.expressions import Expr, Path, Ref, Wrong, parse, references
from plumd.flow import params, undo
from plumd.flow.data import WrongAt, expressions_of, read, template_of
from plumd.flow.graph import (
    STEP_KINDS,
    Fixed,
    Graph,
    ListOf,
    MapOf,
    Node,
    Scope,
    StepKind,
    Template,
    Whole,
)
from plumd.flow.order import Draft, ScopeDraft, link
from plumd.flow.rules import RULES, Rule
from plumd.flow.tasks import ordered, raw, step_of, to_ms
from plumd.model import Kind, Submit

T = TypeVar("T")
STEPS_MAX: Final = 5_000
NESTING_MAX: Final = 8
SOURCE_CHARS_MAX: Final = 1_000_000
REFERENCE_CHARS: Final = 20
LIMIT_DEFAULT: Final = 1_000
CONCURRENCY_DEFAULT: Final = 10
REST: Final = frozenset({"needs", "trigger_rule", "when", "continue_on_error", "id", "type", "ord",
                         "name", "position", "compensate"})
FIELDS: Final = {
    StepKind.TASK: frozenset({"definition_id", "task", "executor", "payload", "timeout_sec",
                              "max_retries"}),
    StepKind.BRANCH: frozenset({"condition"}),
    StepKind.PARALLEL: frozenset(),
    StepKind.LOOP: frozenset({"count", "while_", "until", "items", "max_iterations", "body",
                              "result"}),
    StepKind.MAP: frozenset({"items", "concurrency", "max_failures", "body", "result"}),
    StepKind.WORKFLOW: frozenset({"workflow", "payload"}),
    StepKind.WAIT: frozenset({"seconds", "until", "event", "timeout_sec"}),
    StepKind.APPROVAL: frozenset({"timeout_sec"}),
}
"""Which fields belong to which type, besides those that every step has."""
FOREIGN: Final = {
    kind: tuple((name, wire) for name, wire in zip(
        StepBody.__struct_fields__, StepBody.__struct_encode_fields__, strict=True)
        if name not in REST and name not in own)
    for kind, own in FIELDS.items()}
"""kind -> (attribute, field) of what such a step may not say"""
INSIDE: Final = ("result", "state", "error")
OF_RUN: Final = ("id", "workflowId", "name", "version", "createdAt")
OF_LOOP: Final = ("index", "item", "last", "parent")
LIFTED_KINDS: Final = (StepKind.LOOP, StepKind.MAP)


class Resolve(Protocol):
    """What compiling asks about the world: a step's definition, and the id of a workflow."""

    def task(self, step: StepBody, pin: int, where: str) -> Submit:
        """The task of a step. pin: its place among the pins. Raises: Invalid."""

    def workflow(self, reference: str, where: str) -> int:
        """A workflow's id by id or name. Raises: Invalid."""


def compile_graph(body: WorkflowBody, resolve: Resolve) -> Graph:
    """Raises: Invalid."""
    return Compiler(body, resolve).graph()


class Compiler:
    """One workflow on its way to a graph."""

    def __init__(self, body: WorkflowBody, resolve: Resolve) -> None:
        self.body = body
        self.resolve = resolve
        self.drafts: dict[str, Draft] = {}
        self.schema = (None if body.params is UNSET
                       else params.schema_of(read(bytes(body.params), "params")))
        self.pins = self.chars = 0

    def graph(self) -> Graph:
        root = self.scope(self.body.steps, "steps", None, 0)
        after = self.after(root)
        self.read(root, None)
        for scope in after:
            self.read(scope, root)
        result = self.template(self.body.result, "result", Sight(everything=(root,)))
        return Graph(self.body.name, self.build(root), tuple(self.build(one) for one in after),
                     to_ms(self.body.timeout_sec, 0), result, self.schema)

    def after(self, root: ScopeDraft) -> list[ScopeDraft]:
        """What undoes the steps, and those of onFailure. Raises: Invalid."""
        found = []
        if undone := undo.undoing(self.body):
            scope = self.scope(undo.linked(root, undone), "steps", None, 0,
                               [f"{root.drafts[at].where}.compensate" for at, _ in undone])
            for (at, _), draft in zip(undone, scope.drafts, strict=True):
                draft.undoes = at
            found.append(scope)
        if self.body.on_failure:
            found.append(self.scope(self.body.on_failure, "onFailure", None, 0))
        return found

    # ------------------------------------------------------------ the shape

    def scope(self, steps: Sequence[StepBody], where: str, owner: Draft | None,
              depth: int, places: Sequence[str] = ()) -> ScopeDraft:
        """The steps of one scope, their edges checked. places: where each is written, if not in a
        list of their own, where they are made from others.  Raises: Invalid."""
        if depth > NESTING_MAX:
            raise Invalid(f"bodies nest deeper than {NESTING_MAX} levels", field=where)
        scope = ScopeDraft(where, owner)
        written: dict[int, list[int]] = {}
        for index, step in enumerate(steps):
            written.setdefault(id(step), []).append(index)
        for at, step in enumerate(ordered(tuple(steps))):
            place = places[at] if places else f"{where}[{written[id(step)].pop(0)}]"
            if step.compensate is not UNSET and (depth or where != "steps"):
                raise Invalid("only an outer step is undone; a loop or map can be, as a whole",
                              field=f"{place}.compensate")
            name = step.id if places and step.id is not UNSET else self.id_of(
                step, at, owner, place)
            draft = Draft(step, name, at, scope, place, self.kind_of(step, place))
            if step.trigger_rule is not UNSET:
                if step.trigger_rule not in RULES:
                    raise Invalid(f"triggerRule is one of {', '.join(RULES)}",
                                  field=f"{place}.triggerRule")
                draft.rule = Rule(RULES.index(step.trigger_rule))
            if draft.id in self.drafts:
                raise Invalid(f"the id {draft.id!r} is used twice", field=f"{place}.id")
            self.drafts[draft.id] = draft
            if len(self.drafts) > STEPS_MAX:
                raise Invalid(f"a workflow takes at most {STEPS_MAX} steps", field=place)
            scope.drafts.append(draft)
            if draft.kind == StepKind.TASK:
                self.take_task(draft)
            elif draft.kind == StepKind.WORKFLOW:
                draft.workflow_id = self.resolve.workflow(
                    given(step.workflow, f"{place}.workflow"), f"{place}.workflow")
                draft.pin, self.pins = self.pins, self.pins + 1
            elif draft.kind in LIFTED_KINDS:
                inner = given(step.body, f"{place}.body")
                if not inner:
                    raise Invalid("a body has at least one step", field=f"{place}.body")
                draft.body = self.scope(inner, f"{place}.body", draft, depth + 1)
        link(scope)
        return scope

    def id_of(self, step: StepBody, at: int, owner: Draft | None, place: str) -> str:
        """The step's id; one that has none goes by its place. Raises: Invalid."""
        if step.id is UNSET:
            return str(at) if owner is None and place.startswith("steps") else (
                f"{'onFailure' if owner is None else owner.id}/{at}")
        if not step.id or set(step.id) & set('.[]/"\\') or not step.id.isprintable():
            raise Invalid("an id has 1 to 100 characters, none of them . [ ] / \" \\",
                          field=f"{place}.id")
        return step.id

    def kind_of(self, step: StepBody, place: str) -> StepKind:
        """Raises: Invalid, also for a field that belongs to another type."""
        word = "task" if step.type is UNSET else step.type
        if word not in STEP_KINDS:
            raise Invalid(f"type is one of {', '.join(STEP_KINDS)}", field=f"{place}.type")
        kind = StepKind(STEP_KINDS.index(word))
        for name, wire in FOREIGN[kind]:
            value: object = getattr(step, name)
            if value is not UNSET and value is not None and value != "":
                raise Invalid(f"a step of type {word} has no {wire}", field=f"{place}.{wire}")
        return kind

    def take_task(self, draft: Draft) -> None:
        """The step's task, which the world knows. Raises: Invalid."""
        step, place = draft.step, draft.where
        if bool(step.definition_id) == (step.task is not UNSET):
            raise Invalid("a step of type task has either a definitionId or a task",
                          field=f"{place}.definitionId")
        draft.task = self.resolve.task(step, self.pins, place)
        if step.definition_id:
            draft.pin, self.pins = self.pins, self.pins + 1

    # ------------------------------------------------------------ expressions

    def read(self, scope: ScopeDraft, before: ScopeDraft | None) -> None:
        """Parse all that a scope's steps say. before: a scope that is over by then."""
        for draft in scope.drafts:
            step, at = draft.step, draft.where
            sight = Sight((), [], before, draft)
            draft.when = self.expression(step.when, f"{at}.when", sight)
            draft.condition = self.expression(step.condition, f"{at}.condition", sight)
            if draft.kind == StepKind.BRANCH and draft.condition is None:
                raise Invalid("a branch has a condition", field=f"{at}.condition")
            if draft.kind == StepKind.WAIT:
                self.read_wait(draft, sight)
            if draft.kind in (StepKind.TASK, StepKind.WORKFLOW):
                self.read_payload(draft, sight)
            if draft.body is not None:
                self.read_loop(draft, sight, before)

    def read_wait(self, draft: Draft, sight: Sight) -> None:
        step, at = draft.step, draft.where
        said = [name for name, one in (("seconds", step.seconds), ("until", step.until),
                                       ("event", step.event)) if one is not UNSET]
        if len(said) != 1:
            raise Invalid("a wait has one of seconds, until and event", field=at)
        if step.seconds is not UNSET:
            draft.wait = self.value(step.seconds, f"{at}.seconds", sight)
        if step.until is not UNSET:
            draft.wait_until = self.value(step.until, f"{at}.until", sight)

    def read_payload(self, draft: Draft, sight: Sight) -> None:
        """Its payload: fixed, or a template over the definition's. Raises: Invalid."""
        template = self.template(draft.step.payload, f"{draft.where}.payload", sight)
        if draft.task is not None:
            if draft.task.kind == Kind.OS_PROCESS and template is not None:
                check_command(template, f"{draft.where}.payload")
            step = draft.step
            if template is not None:
                step = msgspec.structs.replace(step, payload=UNSET)
            draft.task = step_of(step, draft.task)
        draft.payload = template

    def read_loop(self, draft: Draft, sight: Sight, before: ScopeDraft | None) -> None:
        step, at, body = draft.step, draft.where, draft.body
        assert body is not None
        inside = Sight((), [body], before, draft, in_body=True)
        if draft.kind == StepKind.MAP:
            given(step.items, f"{at}.items")
        elif [one is UNSET for one in (step.count, step.items)].count(False) > 1 or all(
                one is UNSET for one in (step.count, step.items, step.while_, step.until)):
            raise Invalid("a loop has a count or items, a while, an until, or two of these",
                          field=at)
        if step.items is not UNSET:
            draft.items = self.template_at(bytes(step.items), f"{at}.items")
            self.check(expressions_of(draft.items), f"{at}.items", sight)
        if step.count is not UNSET:
            draft.count = self.value(step.count, f"{at}.count", sight)
        draft.while_ = self.expression(step.while_, f"{at}.while", inside)
        draft.until = self.expression(step.until, f"{at}.until", inside)
        self.read(body, before)
        body.result = self.template(step.result, f"{at}.result", inside, fixed=True)
        if body.result is None:
            last = body.drafts[-1]
            body.result = template_of("${steps[" + msgspec.json.encode(last.id).decode()
                                      + "].result}", at)
            body.by_default = True

    def expression(self, source: str | msgspec.UnsetType, where: str, sight: Sight) -> Expr | None:
        """Raises: Invalid."""
        if source is UNSET:
            return None
        text = source.strip()
        self.take(len(text), where)
        if text.startswith("${") and text.endswith("}"):
            text = text[2:-1]
        try:
            expr = parse(text)
        except Wrong as error:
            raise Invalid(str(error), field=where) from None
        self.check([expr], where, sight)
        return expr

    def template(self, value: msgspec.Raw | msgspec.UnsetType, where: str, sight: Sight, *,
                 fixed: bool = False) -> Template | None:
        """None when there is nothing to fill in (fixed: also then a template). Raises: Invalid."""
        if value is UNSET or (not fixed and b"${" not in bytes(value)):
            return None
        found = self.template_at(bytes(value), where)
        self.check(expressions_of(found), where, sight)
        return found

    def template_at(self, value: bytes, where: str) -> Template:
        """Raises: Invalid."""
        self.take(value.count(b"${") * REFERENCE_CHARS, where)
        try:
            return template_of(read(value, where), where)
        except WrongAt as error:
            raise Invalid(str(error), field=error.where) from None

    def take(self, chars: int, where: str) -> None:
        """Others wait while expressions are read. Raises: Invalid when there are too many."""
        self.chars += chars
        if self.chars > SOURCE_CHARS_MAX:
            raise Invalid(f"the expressions of a workflow take at most {SOURCE_CHARS_MAX:,} "
                          f"characters, {REFERENCE_CHARS} for each ${{", field=where)

    def value(self, value: float | str, where: str, sight: Sight) -> Template:
        """A number, or a string with a reference. Raises: Invalid."""
        found = self.template_at(msgspec.json.encode(value), where)
        self.check(expressions_of(found), where, sight)
        return found

    def check(self, exprs: Sequence[Expr], where: str, sight: Sight) -> None:
        """References name what is there and can be known by then. Raises: Invalid."""
        for expr in exprs:
            for ref in references(expr):
                try:
                    self.check_reference(ref, sight)
                except LookupError as error:
                    raise Invalid(f"{ref}: {error.args[0]}", field=where) from None

    def check_reference(self, ref: Ref, sight: Sight) -> None:
        """Raises: LookupError."""
        first = ref.path[0] if ref.path else None
        if ref.root == "params":
            if isinstance(first, str) and self.schema is not None:
                params.check_name(self.schema, first)
        elif ref.root == "run":
            if first not in OF_RUN or len(ref.path) != 1:
                raise LookupError(f"of a run there is {', '.join(OF_RUN)}")
        elif ref.root in ("loop", "item"):
            if not sight.inside_body():
                raise LookupError("only the steps of a body can say this")
            if ref.root == "loop" and first not in OF_LOOP:
                raise LookupError(f"of a loop there is {', '.join(OF_LOOP)}")
            if ref.path[:1] == ("last",) and ref.root == "loop":
                sight.innermost().uses_last = True
        elif ref.root == "steps":
            self.check_step(ref.path, sight)
        else:
            raise LookupError("a reference begins with params, steps, run, loop or item")

    def check_step(self, path: Path, sight: Sight) -> None:
        """Raises: LookupError; else the path is kept of that step's end."""
        target = self.drafts.get(str(path[0])) if path else None
        if target is None:
            raise LookupError("there is no such step")
        if len(path) < 2 or path[1] not in INSIDE:
            raise LookupError(f"of a step there is {', '.join(INSIDE)}")
        if not sight.sees(target):
            raise LookupError("that step does not always end before this one; name it in needs")
        if path[1] != "state":
            target.keep.add(path[1:])

    # ------------------------------------------------------------ the end

    def build(self, scope: ScopeDraft) -> Scope:
        """The immutable form."""
        asked = scope.owner is None or any(
            path[0] == "result" and (len(path) == 1 or path[1] in ("results", "last"))
            for path in scope.owner.keep) or scope.uses_last
        if asked and scope.by_default:
            scope.drafts[-1].keep.add(("result",))
        nodes = tuple(self.node(draft) for draft in scope.drafts)
        roots = tuple(node.at for node in nodes if not node.needs)
        return Scope(nodes, roots, {node.id: node.at for node in nodes},
                     scope.result if asked else None)

    def node(self, draft: Draft) -> Node:
        step = draft.step
        return Node(
            at=draft.at, id=draft.id, name=step.name or draft.id, kind=draft.kind,
            rule=draft.rule, needs=tuple(draft.needs), out=tuple(draft.out),
            forgiven=step.continue_on_error is True, when=draft.when,
            keep=tuple(sorted(draft.keep, key=str)), pin=draft.pin, task=draft.task,
            payload=draft.payload, fixed_payload=raw(step.payload), condition=draft.condition,
            count=draft.count, while_=draft.while_, until=draft.until, items=draft.items,
            limit=LIMIT_DEFAULT if step.max_iterations is UNSET else step.max_iterations,
            concurrency=1 if draft.kind != StepKind.MAP else (
                CONCURRENCY_DEFAULT if step.concurrency is UNSET else step.concurrency),
            max_failures=0 if step.max_failures is UNSET else step.max_failures,
            body=None if draft.body is None else self.build(draft.body),
            workflow_id=draft.workflow_id, timeout_ms=to_ms(step.timeout_sec, 0),
            undoes=draft.undoes,
            wait=draft.wait, wait_until=draft.wait_until,
            event="" if step.event is UNSET else step.event)


class Sight:
    """Which steps an expression may refer to.

    everything: all steps of these scopes.  draft: what comes before this step, and before the
    loops around it.  before: a scope that is over whatever happens.
    """

    def __init__(self, everything: Sequence[ScopeDraft] = (), more: Sequence[ScopeDraft] = (),
                 before: ScopeDraft | None = None, draft: Draft | None = None, *,
                 in_body: bool = False) -> None:
        self.scopes = [*everything, *more]
        if before is not None:
            self.scopes.append(before)
        self.draft = draft
        self.owners: list[Draft] = []
        self.in_body = in_body

    def inside_body(self) -> bool:
        """Whether there is a loop around it."""
        return self.in_body or (self.draft is not None and self.draft.scope.owner is not None)

    def innermost(self) -> ScopeDraft:
        """The body that it is in."""
        assert self.draft is not None
        body = self.draft.body if self.in_body else self.draft.scope
        assert body is not None
        return body

    def sees(self, target: Draft) -> bool:
        """Whether that step can be referred to."""
        if target.scope in self.scopes:
            return True
        for one in around(self.draft):
            if one.scope is target.scope:
                return bool(one.before >> target.at & 1)
        return False


def around(draft: Draft | None) -> Iterator[Draft]:
    """A step and the loops around it, from the inside."""
    while draft is not None:
        yield draft
        draft = draft.scope.owner


def given(value: T | msgspec.UnsetType, where: str) -> T:
    """Raises: Invalid when it is not there."""
    if value is UNSET:
        raise Invalid("this is missing", field=where)
    return value


def check_command(template: Template, where: str) -> None:
    """Of a process, references may fill the input and whole arguments or variables; never the
    command, and never a part of a text that might be read as one. Raises: Invalid."""
    if not isinstance(template, MapOf):
        raise Invalid("the payload of a process is an object", field=where)
    for key, item in template.items:
        if key == "input" or isinstance(item, Fixed):
            continue
        place = f"{where}.{key}"
        inner: list[tuple[str, Template]] = []
        if isinstance(item, ListOf):
            inner = [(f"[{index}]", one) for index, one in enumerate(item.items)]
        elif isinstance(item, MapOf):
            inner = [(f".{name}", one) for name, one in item.items]
        if key not in ("args", "env") or not inner:
            raise Invalid("references fill the input, whole items of args and values of env",
                          field=place)
        for name, one in inner:
            if not isinstance(one, Fixed | Whole):
                raise Invalid("an argument is one reference or none: texts are not put together "
                              "into commands", field=place + name)

