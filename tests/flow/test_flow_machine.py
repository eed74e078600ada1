"""plumd.flow.machine against a slow interpreter of the documented rules: random graphs, ends in any
order, restarts from rows at any moment, cancels."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from plumd.flow.compile import compile_graph
from plumd.flow.graph import Seed
from plumd.flow.machine import Machine
from plumd.flow.restore import Restorer
from plumd.flow.rules import StepState
from plumd.flow.state import Moves
from tests.flow import reference
from tests.flow.drawing import Plain, draw_scope, workflow_of
from tests.flow.reference import Step

WORDS = {StepState.SUCCEEDED: "Succeeded", StepState.FAILED: "Failed",
         StepState.TIMEOUT: "Timeout", StepState.CANCELED: "Canceled",
         StepState.SKIPPED: "Skipped", StepState.SKIPPED_FAILED: "Skipped by failure"}
STATES = {word: state for state, word in WORDS.items()}
OVER = StepState.SUCCEEDED
GRAPHS = 10_000 if os.environ.get("PLUM_FLOW_LONG") else 300


class World:
    """What the room around a machine does: rows, tasks that end, a restart."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.graph = compile_graph(workflow_of(steps), Plain())
        self.fates: dict[str, str] = {}
        self.collect(steps)
        self.compiled()
        self.rows: dict[int, Seed] = {}
        self.tasks: dict[int, tuple[int, str]] = {}
        """instance -> (task id, its step's id), of the tasks that go on"""
        self.ends: dict[str, str] = {}
        self.end = -1
        self.last_id = 0
        self.machine = Machine(self.graph, {}, {})
        self.machine.begin(1)
        self.carry_out()

    def compiled(self) -> None:
        """A place for worlds whose graph says more than the steps."""

    def collect(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.fates[step.name] = step.fate
            self.collect(step.body)

    def carry_out(self) -> None:
        """Do what the moves say, until nothing moves any more."""
        machine = self.machine
        while True:
            moves, machine.moves = machine.moves, Moves()
            for row in moves.rows:
                known = self.rows.get(row.step)
                assert known is None or known.state < OVER, "an end never changes"
                self.rows[row.step] = Seed(row.step, row.state, row.ref, 0, row.started_ms,
                                           row.finished_ms, row.data)
            for step, node, _ in moves.begin:
                assert step not in self.rows or self.rows[step].state < OVER, "begun twice"
                self.last_id += 1
                self.tasks[step] = (self.last_id, node.id)
                self.rows[step] = Seed(step, StepState.PENDING, self.last_id)
                machine.live[step].ref = self.last_id
            for name, state in moves.news:
                if state >= OVER:
                    assert name not in self.ends, f"{name} ended twice"
                    self.ends[name] = WORDS[StepState(state)]
            canceled = [live.ref for live in moves.stop]
            for step, (task_id, _) in list(self.tasks.items()):
                if task_id in canceled:
                    self.finish(step, "Canceled")
            if moves.end >= 0:
                assert self.end < 0
                self.end = moves.end
            if machine.busy:
                machine.settle()
            elif not (machine.moves.rows or machine.moves.begin or machine.moves.end >= 0
                      or machine.moves.news):
                return

    def finish(self, step: int, word: str) -> None:
        """A task ends."""
        task_id, _ = self.tasks.pop(step)
        self.rows[step] = Seed(step, STATES[word], task_id, 1, 1, 2)
        self.machine.ended(step, STATES[word], b"1", None, 2)

    def restart(self) -> None:
        """The machine is lost; another one is made from the rows."""
        old = self.machine
        self.machine = Machine(self.graph, {}, {})
        self.machine.stopping, self.machine.paused = old.stopping, old.paused
        Restorer(self.machine, self.rows, 3).run()
        self.machine.moves = Moves()
        self.machine.settle()
        self.carry_out()

    def play(self, rng: random.Random, restarts: bool, cancel_at: int = -1) -> None:
        """Until the run is over."""
        count = 0
        while self.end < 0:
            assert self.tasks, "nothing goes on, and the run has not ended"
            if count == cancel_at:
                self.machine.stop(StepState.CANCELED, 5)
            else:
                step = rng.choice(sorted(self.tasks))
                self.finish(step, self.fates[self.tasks[step][1]])
            count += 1
            self.carry_out()
            if restarts and self.end < 0 and rng.random() < 0.3:
                self.restart()


SEEDS = st.integers(0, 1 << 48)


@given(SEEDS, st.booleans(), st.sampled_from((4, 12, 60)))
@settings(max_examples=GRAPHS, deadline=None)
def test_every_run_ends_as_the_rules_say(seed: int, restarts: bool, steps_max: int) -> None:
    rng = random.Random(seed)
    steps = draw_scope(rng, steps_max)
    world = World(steps)
    world.play(rng, restarts)
    assert world.ends == reference.ends_of(steps)
    outer = {step.name: world.ends[step.name] for step in steps}
    assert WORDS[StepState(world.end)] == reference.outcome(steps, outer)
    assert not world.tasks
    assert not world.machine.live
    assert not world.machine.loops


@given(SEEDS, st.integers(0, 6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_canceled_run_ends_whatever_it_does(seed: int, at: int, restarts: bool) -> None:
    rng = random.Random(seed)
    steps = draw_scope(rng)
    world = World(steps)
    world.play(rng, restarts, cancel_at=at)
    if world.machine.stopping >= 0:
        assert world.end == StepState.CANCELED
    for step in steps:
        assert step.name in world.ends, "an outer step has no end"
    assert not world.tasks


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_a_paused_run_begins_nothing_and_then_all(seed: int) -> None:
    rng = random.Random(seed)
    steps = draw_scope(rng)
    world = World(steps)
    world.machine.paused = True
    begun = world.last_id
    while world.tasks:
        step = rng.choice(sorted(world.tasks))
        world.finish(step, world.fates[world.tasks[step][1]])
        world.carry_out()
        if world.end < 0 and rng.random() < 0.5:
            world.restart()
    assert world.last_id == begun
    if world.end < 0:
        world.machine.resume(9)
        world.carry_out()
        world.play(rng, restarts=True)
    assert world.ends == reference.ends_of(steps)


def test_names_of_instances_are_unique() -> None:
    inner = Step("leaf", "task", "all_success", (), "Succeeded")
    middle = Step("inner", "loop", "all_success", (), "", body=[inner], rounds=2)
    world = World([Step("outer", "map", "all_success", (), "", body=[middle], rounds=2)])
    while world.end < 0:
        world.finish(min(world.tasks), "Succeeded")
        world.carry_out()
    leaves = sorted(name for name in world.ends if name.endswith("leaf"))
    assert leaves == [f"outer[{a}].inner[{b}].leaf" for a in range(2) for b in range(2)]
    assert all(re.fullmatch(r"[a-z]+(\[\d\]\.[a-z]+)*", name) for name in world.ends)
