"""plumd.simulate and plumd.forecast: the real core and flow in virtual time, seeded."""

from __future__ import annotations

import random

import hypothesis
import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from plumd.bodies import StepBody, WorkflowBody
from plumd.flow.compile import Resolve, compile_graph
from plumd.flow.graph import Graph, RunPlan
from plumd.flow.rules import StepState
from plumd.forecast import critical, forecast
from plumd.model import Submit
from plumd.planner import Planner
from plumd.simulate import Outcome, Plan, Pool, Profile, Simulation, draw, duration
from plumd.store.definitions import Catalog, Versioned
from tests.flow import reference
from tests.flow.drawing import draw_scope, workflow_of
from tests.flow.reference import Step

NOW_MS = 1_764_072_000_000
ONE = Profile((1.0,))
WORDS = {StepState.SUCCEEDED: "Succeeded", StepState.FAILED: "Failed",
         StepState.SKIPPED: "Skipped", StepState.SKIPPED_FAILED: "Skipped by failure"}


class Named:
    """Every task by its step's name, with the retries that it asks for."""

    def task(self, step: StepBody, pin: int, where: str) -> Submit:
        del pin, where
        return Submit(0, step.name, max_retries=step.max_retries or 0,
                      timeout_ms=round((step.timeout_sec or 300) * 1000))

    def workflow(self, reference: str, where: str) -> int:
        del where
        return int(reference)


def graph_of(*steps: dict[str, object], resolve: Resolve | None = None) -> Graph:
    body = msgspec.json.decode(msgspec.json.encode({"name": "x", "steps": steps}),
                               type=WorkflowBody)
    return compile_graph(body, resolve or Named())


def task(ident: str, **fields: object) -> dict[str, object]:
    return {"id": ident, "name": ident, "task": {"name": ident}, **fields}


class NoCatalog(Catalog):
    """There are no other workflows."""

    def __init__(self) -> None:
        pass


def simulated(graph: Graph, *pools: Pool, sample: int = 0, default: Profile = ONE, seed: int = 0,
              count: int = 1, every_ms: int = 0, given: dict[str, Profile] | None = None,
              **profiles: Profile) -> Outcome:
    plan = Plan(pools or (Pool(4),), profiles | (given or {}), default, seed, count, every_ms)
    one = Simulation(plan, Planner(NoCatalog()), lambda run_id: RunPlan(run_id, 0, 1, (), graph),
                     sample, NOW_MS)
    for _ in one.run():
        pass
    return one.outcome


CHAIN = graph_of(task("a"), task("b"), task("c"))
WIDE = graph_of({"id": "m", "type": "map", "items": 20, "concurrency": 100,
                 "body": [task("w")]})


@pytest.mark.parametrize(("slots", "seconds"), [(1, 20), (3, 7), (4, 5), (20, 1), (100, 1)])
def test_slots_are_what_work_waits_for(slots: int, seconds: int) -> None:
    outcome = simulated(WIDE, Pool(slots))
    assert (outcome.makespan_ms, outcome.busy_ms) == (seconds * 1000, 20_000)
    waited = sorted(bar.started_ms - bar.ready_ms for bar in outcome.bars if bar.attempts)
    assert waited == sorted(at // slots * 1000 for at in range(20))


def test_a_chain_takes_the_sum_and_the_chart_says_so() -> None:
    outcome = simulated(CHAIN, b=Profile((2.5,)))
    assert [(bar.name, bar.ready_ms, bar.started_ms, bar.finished_ms) for bar in outcome.bars] == [
        ("a", 0, 0, 1000), ("b", 1000, 1000, 3500), ("c", 3500, 3500, 4500)]
    assert outcome.ends == [(StepState.SUCCEEDED, 0, 4500)]
    assert critical(outcome, CHAIN) == ["a", "b", "c"]


def test_the_critical_path_is_the_one_that_was_waited_for() -> None:
    graph = graph_of(task("a"), task("short", needs=["a"]), task("long", needs=["a"]),
                     task("end", needs=["short", "long"]), task("beside"))
    outcome = simulated(graph, long=Profile((5.0,)))
    assert critical(outcome, graph) == ["a", "long", "end"]
    told = forecast([outcome], graph, 4)
    assert told.gantt.critical_path == ("a", "long", "end")
    assert {one.step_id: one.critical for one in told.steps} == {
        "a": 1, "short": 0, "long": 1, "end": 1, "beside": 0}
    assert told.makespan.p50 == 7
    assert told.utilization == 9 / (4 * 7)


def test_several_runs_share_the_slots() -> None:
    outcome = simulated(CHAIN, Pool(1), count=3, every_ms=1_500)
    assert [begun for _, begun, _ in outcome.ends] == [0, 1_500, 3_000]
    assert outcome.makespan_ms == outcome.busy_ms == 9_000
    # What has begun is finished before newer runs go on: that is the core's rule.
    assert [over for _, _, over in outcome.ends] == [3_000, 6_000, 9_000]


def test_pools_of_their_own() -> None:
    graph = graph_of(*(task(f"{kind}{at}", name=kind, needs=[], task={"name": kind})
                       for kind in ("gpu", "cpu") for at in range(4)))
    outcome = simulated(graph, Pool(1, ("gpu",)), Pool(4))
    ends = {kind: max(bar.finished_ms for bar in outcome.bars if bar.name.startswith(kind))
            for kind in ("gpu", "cpu")}
    assert ends == {"gpu": 4_000, "cpu": 1_000}


def test_failures_retries_and_timeouts() -> None:
    graph = graph_of(task("a", maxRetries=2), task("b"))
    failed = simulated(graph, a=Profile((1.0,), failure_rate=1.0))
    [a, *rest] = failed.bars
    assert (a.attempts, a.run_ms, a.state) == (3, 3_000, StepState.FAILED)
    assert failed.ends[0][0] == StepState.FAILED
    assert [bar.state for bar in rest] == [StepState.SKIPPED_FAILED]
    assert failed.makespan_ms >= 3_000
    slow = graph_of(task("a", timeoutSec=2))
    timed_out = simulated(slow, a=Profile((50.0,)))
    assert (timed_out.bars[0].state, timed_out.bars[0].run_ms) == (StepState.TIMEOUT, 2_000)


def test_data_decides_and_people_answer() -> None:
    graph = graph_of(
        task("look"),
        {"id": "high", "type": "branch", "needs": ["look"],
         "condition": "steps.look.result.n > 10"},
        task("warn", needs=[{"step": "high", "on": "true"}]),
        {"id": "ask", "type": "approval", "needs": ["warn"]},
        {"id": "rest", "type": "wait", "seconds": 30, "needs": ["ask"]})
    high = simulated(graph, look=Profile((1.0,), result=b'{"n": 11}'), ask=Profile((60.0,)))
    assert high.makespan_ms == (1 + 1 + 60 + 30) * 1000
    low = simulated(graph, look=Profile((1.0,), result=b'{"n": 9}'))
    assert low.makespan_ms == 1_000
    no = simulated(graph, look=Profile((1.0,), result=b'{"n": 11}'),
                   ask=Profile((5.0,), failure_rate=1.0))
    assert (no.makespan_ms, no.ends[0][0]) == (7_000, StepState.FAILED)


def test_builtins_take_what_they_say_and_no_slot() -> None:
    delay = {"name": "builtin.delay", "defaultPayload": {"seconds": 7}}

    class Real(Named):
        def task(self, step: StepBody, pin: int, where: str) -> Submit:
            del step, pin, where
            return Submit(0, "builtin.delay", payload=b'{"seconds":7}', timeout_ms=0)

    steps: list[dict[str, object]] = [{"id": f"d{at}", "task": delay, "needs": []}
                                      for at in range(5)]
    graph = graph_of(*steps, resolve=Real())
    outcome = simulated(graph, Pool(1))
    assert (outcome.makespan_ms, outcome.busy_ms) == (7_000, 0)


def test_the_same_draws_with_other_slots() -> None:
    profile = Profile((1.0, 9.0), between=True, failure_rate=0.3)
    few, many, again = (simulated(WIDE, Pool(slots), w=profile) for slots in (2, 50, 2))
    assert msgspec.json.encode(few) == msgspec.json.encode(again)
    assert few.busy_ms == many.busy_ms
    assert few.makespan_ms > many.makespan_ms
    other = simulated(WIDE, Pool(2), w=profile, sample=1)
    assert other.busy_ms != few.busy_ms


def test_what_never_ends_is_broken_off() -> None:
    waits = graph_of({"id": "w", "type": "wait", "seconds": 315_360_000})
    assert "days" in simulated(graph_of(
        {"id": "l", "type": "loop", "count": 2, "body": [
            {"id": "w", "type": "wait", "seconds": 315_000_000}]})).stopped
    assert simulated(waits).stopped == ""
    endless = graph_of({"id": "l", "type": "loop", "while": "true", "maxIterations": 100_000,
                        "body": [task("w")]})
    assert "tasks and ends" in simulated(endless).stopped
    nobody = simulated(CHAIN, Pool(1, ("a",)))
    assert (nobody.stopped, nobody.ends) == ("something waits for ever", [(-1, 0, -1)])
    assert forecast([nobody], CHAIN, 1).ends == {"Running": 1}


def test_loops_without_tasks_are_broken_off_and_give_way() -> None:
    inner = {"id": "i", "type": "loop", "count": 10_000, "body": [{"id": "p", "type": "parallel"}]}
    graph = graph_of({"id": "o", "type": "loop", "count": 100_000, "body": [inner]})
    one = Simulation(Plan((Pool(1),), {}, ONE), Planner(NoCatalog()),
                     lambda run_id: RunPlan(run_id, 0, 1, (), graph), 0, NOW_MS)
    turns = sum(1 for _ in one.run())
    assert one.outcome.stopped
    assert turns > 100, "others had no turn meanwhile"


class Part(NoCatalog):
    """There is one other workflow, of one step."""

    def workflow(self, number: int) -> Versioned[WorkflowBody]:
        body = msgspec.convert({"name": "part", "steps": [{"id": "t", "task": {"name": "t"}}]},
                               WorkflowBody)
        return Versioned(number, 1, body, 0, 0)


def test_parts_of_a_run_are_drawn_each_for_itself_and_told_with_their_step() -> None:
    graph = graph_of({"id": "m", "type": "map", "items": 200, "maxFailures": 200, "body": [
        {"id": "sub", "type": "workflow", "workflow": "9"}]}, task("t"))
    plan = Plan((Pool(4),), {"t": Profile((1.0, 9.0), True, 0.5)}, ONE)
    one = Simulation(plan, Planner(Part()), lambda run_id: RunPlan(run_id, 0, 1, (1,), graph), 0,
                     NOW_MS)
    for _ in one.run():
        pass
    bars = [bar for bar in one.outcome.bars if bar.attempts]
    assert {bar.name for bar in bars} == {"t", *(f"m[{at}].sub.t" for at in range(200))}
    failed = sum(bar.state == StepState.FAILED for bar in bars)
    assert 60 < failed < 140, "all had the same luck"
    assert len({bar.run_ms for bar in bars}) > 100
    told = {step.step_id: step.instances for step in forecast([one.outcome], graph, 4).steps}
    assert told == {"m": 200, "t": 1}


def certain(steps: list[Step], found: dict[str, Profile]) -> None:
    """Fates as profiles: what is not to succeed fails."""
    for step in steps:
        if step.kind == "task":
            if step.fate != "Succeeded":
                step.fate = "Failed"
            found[step.name] = Profile((1.0, 2.0), failure_rate=float(step.fate == "Failed"))
        certain(list(step.body), found)


@hypothesis.given(st.integers(0, 1 << 40), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_runs_end_as_the_rules_say(seed: int, slots: int) -> None:
    steps = draw_scope(random.Random(seed), 25)
    profiles: dict[str, Profile] = {}
    certain(steps, profiles)
    graph = compile_graph(workflow_of(steps), Named())
    outcome = simulated(graph, Pool(slots), seed=seed % 1000, given=profiles)
    assert outcome.stopped == ""
    ends = {bar.name: WORDS[StepState(bar.state)] for bar in outcome.bars}
    expected = reference.ends_of(steps)
    assert ends == expected
    outer = {step.name: expected[step.name] for step in steps}
    assert WORDS[StepState(outcome.ends[0][0])] == reference.outcome(steps, outer)
    told = forecast([outcome], graph, slots)
    assert told.makespan.max * 1000 == outcome.makespan_ms
    assert 0 <= told.utilization <= 1


@hypothesis.given(st.integers(0, 100), st.integers(0, 1 << 30))
def test_draws_are_fair_and_the_same_again(one: int, other: int) -> None:
    assert draw(one, other) == draw(one, other)
    assert 0 <= draw(one, other) < 1
    mean = sum(draw(other, at) for at in range(1_000)) / 1_000
    assert 0.44 < mean < 0.56
    assert duration(Profile((1.0, 2.0, 4.0)), 0.999) == 4.0
    assert duration(Profile((1.0, 3.0), between=True), 0.5) == 2.0
