"""What undoes a run: in reverse, only what succeeded, through restarts. What a retry takes over."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumd.bodies import WorkflowBody
from plumd.errors import Invalid
from plumd.flow.compile import compile_graph
from plumd.flow.graph import Seed
from plumd.flow.machine import Machine
from plumd.flow.outline import outline
from plumd.flow.repeat import cut_to, seeds_of
from plumd.flow.restore import KEPT, Restorer
from plumd.flow.rules import StepState
from plumd.flow.state import Frame, Loop
from tests.flow import reference
from tests.flow.drawing import Plain, draw_scope, written
from tests.flow.reference import Step
from tests.flow.test_flow_machine import STATES, WORDS, World

SEEDS = st.integers(0, 1 << 48)
ECHO = {"name": "echo"}


def body_of(steps: list[Step], undone: set[str], *, tell: bool = False) -> WorkflowBody:
    """The steps as they are written, some with what undoes them."""
    whole = [written(step) | ({"compensate": {"task": ECHO}} if step.name in undone else {})
             for step in steps]
    after = [{"id": "tell", "name": "tell", "task": ECHO}] if tell else []
    return msgspec.json.decode(msgspec.json.encode(
        {"name": "drawn", "steps": whole, "onFailure": after}), type=WorkflowBody)


class Undone(World):
    """A world whose steps are undone. order: (name, whether it ended), as it happened."""

    def __init__(self, steps: list[Step], undone: set[str], rng: random.Random) -> None:
        self.order: list[tuple[str, bool]] = []
        self.body = body_of(steps, undone, tell=True)
        self.rng = rng
        super().__init__(steps)

    def compiled(self) -> None:
        self.graph = compile_graph(self.body, Plain())
        for scope in self.graph.after:
            for node in scope.nodes:
                self.fates[node.id] = self.rng.choice(("Succeeded", "Failed"))

    def carry_out(self) -> None:
        known = set(self.tasks)
        super().carry_out()
        self.order.extend((self.tasks[step][1], False) for step in self.tasks if step not in known)

    def finish(self, step: int, word: str) -> None:
        self.order.append((self.tasks[step][1], True))
        super().finish(step, word)


def before_of(steps: list[Step]) -> dict[str, set[str]]:
    """name -> all steps that end before it."""
    found: dict[str, set[str]] = {}
    for step in steps:
        found[step.name] = {name for name, _ in step.needs}.union(
            *(found[name] for name, _ in step.needs))
    return found


@given(SEEDS, st.booleans())
@settings(max_examples=200)
def test_what_succeeded_is_undone_in_reverse(seed: int, restarts: bool) -> None:
    rng = random.Random(seed)
    steps = draw_scope(rng, 14, 1)
    undone = {step.name for step in steps if rng.random() < 0.6}
    world = Undone(steps, undone, rng)
    world.play(rng, restarts)
    outer = {step.name: world.ends[step.name] for step in steps}
    state = reference.outcome(steps, outer)
    assert WORDS[StepState(world.end)] == state
    begun = [name for name, over in world.order if not over and name.endswith("/undo")]
    if state in ("Failed", "Timeout"):
        wanted = {f"{name}/undo" for name in undone if outer[name] == "Succeeded"}
        assert set(begun) == wanted
        assert len(begun) == len(wanted)
        assert world.order[-1] == ("tell", True), "onFailure comes last"
        before = before_of(steps)
        for name in wanted:
            for other in before[name.removesuffix("/undo")]:
                if f"{other}/undo" in wanted:
                    assert world.order.index((name, True)) \
                        < world.order.index((f"{other}/undo", False))
    else:
        assert not begun
        assert "tell" not in world.ends
    assert not world.tasks


def made(*steps: dict[str, object], **more: object) -> WorkflowBody:
    return msgspec.json.decode(msgspec.json.encode({"name": "w", "steps": steps, **more}),
                               type=WorkflowBody)


def test_the_outline_names_the_same_steps_as_the_graph() -> None:
    body = made({"id": "a", "definitionId": "1", "compensate": {"definitionId": "2"}},
                {"task": ECHO, "compensate": {"type": "map", "items": [1], "body": [
                    {"id": "undo-one", "definitionId": "3"}]}},
                onFailure=[{"definitionId": "4"}])
    graph = compile_graph(body, Plain())
    shown = outline(body)
    nodes = [node for scope in (graph.root, *graph.after) for node in scope.nodes]
    assert [(one.id, one.at, one.pin) for one in shown] == [
        (node.id, number, node.pin) for number, node in enumerate(nodes)]
    assert [one.undoes for one in shown] == ["", "", "1", "a", ""]
    undone = graph.after[0].nodes[0].body
    assert undone is not None
    assert shown[2].body[0].pin == undone.nodes[0].pin == 1


@pytest.mark.parametrize(("undo", "field"), [
    ({"type": "wait", "seconds": 1}, "steps[0].compensate.type"),
    ({"task": ECHO, "needs": []}, "steps[0].compensate.needs"),
    ({"task": ECHO, "id": "x"}, "steps[0].compensate.id"),
    ({"task": ECHO, "compensate": {"task": ECHO}}, "steps[0].compensate.compensate"),
    ({"task": ECHO, "payload": "${steps.nobody.result}"}, "steps[0].compensate.payload"),
    ({}, "steps[0].compensate.definitionId"),
])
def test_what_cannot_undo_is_refused_with_its_place(undo: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        compile_graph(made({"id": "a", "task": ECHO, "compensate": undo}), Plain())
    assert refused.value.field == field


@pytest.mark.parametrize("where", ["body", "onFailure"])
def test_only_outer_steps_are_undone(where: str) -> None:
    inner = {"id": "in", "task": ECHO, "compensate": {"task": ECHO}}
    body = (made({"type": "loop", "count": 2, "body": [inner]}) if where == "body"
            else made({"task": ECHO}, onFailure=[inner]))
    with pytest.raises(Invalid) as refused:
        compile_graph(body, Plain())
    assert str(refused.value.field).endswith("[0].compensate")


class Again:
    """A run that failed, and the one that takes over from it."""

    def __init__(self, world: World) -> None:
        self.seeds = seeds_of(world.graph, world.rows)
        self.graph = world.graph
        self.machine = Machine(world.graph, {}, {})
        Restorer(self.machine, {seed.step: seed for seed in self.seeds}, 9).run()
        self.machine.settle()

    def begun(self) -> list[str]:
        """The tasks that go on, by name."""
        machine = self.machine
        return sorted(machine.name_of(live.frame, live.at) for live in machine.live.values())


def all_well(steps: Sequence[Step]) -> list[Step]:
    """The same, but that no task fails."""
    return [Step(one.name, one.kind, one.rule, one.needs,
                 "Succeeded" if one.kind == "task" else one.fate, when=one.when,
                 forgiven=one.forgiven, body=all_well(one.body), rounds=one.rounds,
                 failures_max=one.failures_max) for one in steps]


class Retried(World):
    """A run that takes over from a world whose run did not succeed."""

    def __init__(self, steps: list[Step], old: World) -> None:
        self.seeds = {seed.step: seed for seed in seeds_of(old.graph, old.rows)}
        super().__init__(steps)
        self.machine = Machine(self.graph, {}, {})
        self.rows, self.tasks, self.end, self.last_id = dict(self.seeds), {}, -1, 0
        Restorer(self.machine, self.seeds, 3).run()
        self.ends = {name: WORDS[StepState(state)] for name, state in self.known()}
        self.machine.settle()
        self.carry_out()

    def known(self) -> Iterator[tuple[str, int]]:
        """(name, state) of everything that was taken over; of a loop that succeeded only itself."""
        frames, restorer = [self.machine.root], Restorer(Machine(self.graph, {}, {}), self.seeds, 0)
        while frames:
            frame = frames.pop()
            for node in frame.scope.nodes:
                seed = self.seeds.get(frame.base + node.at)
                if seed is None:
                    continue
                if seed.state >= StepState.SUCCEEDED:
                    yield self.machine.name_of(frame, node.at), seed.state
                if node.body is not None:
                    kept = KEPT(seed.data or b"{}")
                    loop = Loop(frame, node, kept.base, kept.total, None, 0)
                    frames.extend(
                        Frame(node.body, first, loop, (first - kept.base) // loop.size)
                        for first in range(kept.base, kept.base + kept.room, loop.size)
                        if restorer.known(first, loop.size))


@given(SEEDS, st.booleans())
@settings(max_examples=200)
def test_a_retry_where_all_is_well_ends_as_a_run_where_all_was(seed: int, restarts: bool) -> None:
    rng = random.Random(seed)
    steps = draw_scope(rng, 8)
    old = World(steps)
    old.play(rng, restarts)
    well = all_well(steps)
    again = Retried(well, old)
    if again.end < 0:
        again.play(rng, restarts)
    whole = {node.id for node in again.graph.root.nodes if node.at in again.seeds
             and again.seeds[node.at].state == StepState.SUCCEEDED}
    assert again.ends == {name: end for name, end in reference.ends_of(well).items()
                          if "[" not in name or name.partition("[")[0] not in whole}
    outer = {step.name: again.ends[step.name] for step in well}
    assert WORDS[StepState(again.end)] == reference.outcome(well, outer)
    if old.end == StepState.SUCCEEDED and all(end == "Succeeded" for end in old.ends.values()):
        assert again.last_id == 0, "what succeeded was done again"


def mapped(rounds: int, bad: set[int], *, concurrency: int = 10) -> World:
    """A map over tasks of which some failed, one too many in the end."""
    world = World([Step("each", "map", "all_success", (), "", body=[
        Step("first", "task", "all_success", (), "Succeeded"),
        Step("then", "task", "all_success", (("first", ""),), "Succeeded")], rounds=0)])
    body = made({"id": "each", "type": "map", "items": list(range(rounds)),
                 "maxFailures": len(bad) - 1, "concurrency": concurrency, "body": [
                     {"id": "first", "name": "first", "task": ECHO},
                     {"id": "then", "name": "then", "task": ECHO, "payload": "${item}"}]})
    world.graph = compile_graph(body, Plain())
    world.rows, world.tasks, world.ends, world.end = {}, {}, {}, -1
    world.machine = Machine(world.graph, {}, {})
    world.machine.begin(1)
    world.carry_out()
    while world.end < 0:
        step = min(world.tasks)
        live = world.machine.live[step]
        failed = live.at == 1 and live.frame.number in bad
        world.finish(step, "Failed" if failed else "Succeeded")
        world.carry_out()
    return world


def test_a_retry_takes_over_the_rounds_that_succeeded() -> None:
    world = mapped(6, {1, 4})
    again = Again(world)
    assert again.begun() == ["each[1].first", "each[4].first"]
    payloads: dict[str, bytes | None] = {}
    for _ in range(4):
        step, live = min(again.machine.live.items())
        name = again.machine.name_of(live.frame, live.at)
        payloads[name] = next(
            data for number, _, data in again.machine.moves.begin if number == step)
        again.machine.ended(step, StepState.SUCCEEDED, b"1", None, 10)
    assert payloads["each[4].then"] == b"4", "the items are known again"
    assert again.machine.over
    assert again.machine.final == StepState.SUCCEEDED


def test_a_retry_keeps_to_the_concurrency() -> None:
    world = mapped(8, set(range(0, 8, 2)), concurrency=2)
    again = Again(world)
    count = 0
    while not again.machine.over:
        assert len(again.machine.live) <= 2
        again.machine.ended(min(again.machine.live), StepState.SUCCEEDED, b"1", None, 10)
        count += 1
    assert count == 8, "two tasks of each of the four rounds that failed"


def test_a_step_that_was_undone_is_not_taken_over() -> None:
    body = made({"id": "book", "task": ECHO, "compensate": {"task": ECHO}},
                {"id": "plain", "task": ECHO}, {"id": "bad", "task": ECHO})
    graph = compile_graph(body, Plain())
    ends = {0: "Succeeded", 1: "Succeeded", 2: "Failed", 3: "Succeeded"}
    known = {number: Seed(number, STATES[word], number + 1) for number, word in ends.items()}
    assert seeds_of(graph, known) == (), "plain stands on what was undone"
    known[3] = Seed(3, StepState.SKIPPED)
    assert [seed.step for seed in seeds_of(graph, known)] == [0, 1]


def test_what_nobody_wanted_is_not_wanted_by_a_retry() -> None:
    body = made({"id": "a", "task": ECHO}, {"id": "b", "task": ECHO, "needs": ["a"]},
                {"id": "c", "task": ECHO, "needs": ["b"], "triggerRule": "none_failed"},
                {"id": "d", "task": ECHO, "needs": ["c"], "triggerRule": "all_done"})
    graph = compile_graph(body, Plain())
    machine = Machine(graph, {}, {})
    Restorer(machine, {seed.step: seed for seed in cut_to(graph, "c")}, 1).run()
    machine.settle()
    assert machine.skip(machine.root, 1, 1)
    machine.ended(0, StepState.SUCCEEDED, b"1", None, 2)
    machine.ended(2, StepState.FAILED, None, ("no", "no"), 3)
    assert (machine.over, machine.final) == (True, StepState.FAILED)
    known = {row.step: Seed(row.step, row.state, row.ref, data=row.data)
             for row in machine.moves.rows} | {seed.step: seed for seed in cut_to(graph, "c")}
    known |= {0: Seed(0, StepState.SUCCEEDED, 1), 2: Seed(2, StepState.FAILED, 2)}
    again = Machine(graph, {}, {})
    Restorer(again, {seed.step: seed for seed in seeds_of(graph, known)}, 9).run()
    again.settle()
    assert list(again.live) == [2], "c alone is tried again"
    again.ended(2, StepState.SUCCEEDED, b"1", None, 10)
    assert again.over


def test_a_retry_goes_through_the_items_that_were() -> None:
    """What they were made of may look different by then."""
    body = made({"id": "no", "task": ECHO, "when": "false"},
                {"id": "each", "type": "map", "needs": ["no"], "triggerRule": "all_done",
                 "items": "${steps.no.state == 'Skipped' ? [7, 8] : [9]}", "maxFailures": 0,
                 "body": [{"id": "one", "task": ECHO, "payload": "${item}"}]})
    graph = compile_graph(body, Plain())
    machine = Machine(graph, {}, {})
    machine.begin(1)
    for step, live in sorted(machine.live.items()):
        machine.ended(step, StepState.FAILED if live.frame.number else StepState.SUCCEEDED,
                      None, None, 2)
    assert machine.over
    known: dict[int, Seed] = {}
    for row in machine.moves.rows:
        known[row.step] = Seed(row.step, row.state, row.ref, data=row.data)
    base = KEPT(known[1].data or b"").base
    known[base], known[base + 1] = (Seed(base, StepState.SUCCEEDED, 1),
                                    Seed(base + 1, StepState.FAILED, 2))
    again = Machine(graph, {}, {})
    Restorer(again, {seed.step: seed for seed in seeds_of(graph, known)}, 9).run()
    again.settle()
    assert [(step, payload) for step, _, payload in again.moves.begin] == [(base + 1, b"8")]


def test_a_run_whose_result_has_no_value_is_undone_and_told() -> None:
    body = made({"id": "a", "task": ECHO, "compensate": {"task": ECHO}},
                result="${steps.a.result.nothing}", onFailure=[{"id": "tell", "task": ECHO}])
    graph = compile_graph(body, Plain())
    machine = Machine(graph, {}, {})
    machine.begin(1)
    known = {}
    for step in range(3):
        machine.ended(step, StepState.SUCCEEDED, b"{}", None, 2)
        known[step] = Seed(step, StepState.SUCCEEDED, step + 1)
        if step == 1:       # another life, from rows
            known[2] = Seed(2, StepState.PENDING, 3)
            machine = Machine(graph, {}, {})
            Restorer(machine, known, 3).run()
            machine.settle()
    assert (machine.over, machine.final, machine.moves.result) == (True, StepState.FAILED, None)
    assert machine.moves.error is not None
    assert machine.moves.error[0] == "expression_failed"


def test_needs_have_a_bound() -> None:
    """For compiling takes time for each, and others wait meanwhile."""
    steps: list[dict[str, object]] = [
        {"id": str(at), "type": "parallel", "needs": [str(other) for other in range(at)]}
        for at in range(320)]
    with pytest.raises(Invalid, match="50,000 needs") as refused:
        compile_graph(made(*steps), Plain())
    assert refused.value.field == "steps[316].needs"
    assert len(compile_graph(made(*steps[:300]), Plain()).root.nodes[299].needs) == 299


def test_expressions_have_a_bound() -> None:
    texts = made({"id": "a", "task": ECHO, "payload": ["${run.id}" * 60_000]})
    steps: list[dict[str, object]] = [
        {"id": str(at), "task": ECHO, "when": "1 == 1 || " * 199 + "true"} for at in range(600)]
    whens = made(*steps)
    for body, field in ((texts, "steps[0].payload"), (whens, "steps[501].when")):
        with pytest.raises(Invalid, match="1,000,000 characters") as refused:
            compile_graph(body, Plain())
        assert refused.value.field == field


def test_a_run_up_to_a_step() -> None:
    body = made({"id": "a", "task": ECHO}, {"id": "b", "task": ECHO, "needs": ["a"]},
                {"id": "c", "task": ECHO, "needs": ["a"]},
                {"id": "d", "task": ECHO, "needs": ["b", "c"]}, result="${steps.d.result.x}")
    graph = compile_graph(body, Plain())
    assert [seed.step for seed in cut_to(graph, "b")] == [2, 3]
    machine = Machine(graph, {}, {})
    Restorer(machine, {seed.step: seed for seed in cut_to(graph, "b")}, 1).run()
    machine.settle()
    for step in (0, 1):
        assert list(machine.live) == [step]
        machine.ended(step, StepState.SUCCEEDED, b"1", None, 2)
    assert (machine.over, machine.final, machine.moves.result) == (True, StepState.SUCCEEDED, None)
    with pytest.raises(Invalid, match="no outer step"):
        cut_to(graph, "nobody")
