"""What simulated samples say together: how long, where it waits, and what decides it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec

from plumd.flow.graph import Graph
from plumd.flow.rules import StepState, state_text
from plumd.simulate import Bar, Outcome

BARS_MAX: Final = 2_000


class Spread(msgspec.Struct, frozen=True):
    """Seconds over all samples."""

    mean: float
    min: float
    p50: float
    p90: float
    p99: float
    max: float


class StepForecast(msgspec.Struct, frozen=True, rename="camel"):
    """A step over all samples, with what is inside of it. waitSec, runSec: means, of an instance
    from ready to started, and of all its attempts; critical: the share of the samples in which
    the run would have ended sooner without it."""

    step_id: str
    instances: float
    attempts: float
    wait_sec: float
    run_sec: float
    failures: float
    critical: float


class BarView(msgspec.Struct, frozen=True, rename="camel"):
    """A line of the Gantt chart, in seconds from the beginning: from readyAt to startedAt it waits
    for a slot; runSec: of its attempts, so what is left is pauses between them."""

    run: int
    step_id: str
    state: str
    ready_at: float
    started_at: float | None
    finished_at: float | None
    attempts: int
    run_sec: float
    critical: bool


class Gantt(msgspec.Struct, frozen=True, rename="camel"):
    """The sample whose makespan is the median. more: bars that were left out."""

    sample: int
    makespan_sec: float
    critical_path: tuple[str, ...]
    bars: tuple[BarView, ...]
    more: int


class Forecast(msgspec.Struct, frozen=True, rename="camel"):
    """What is to be expected. utilization: the share of all slots' time that attempts took; ends:
    how runs ended, over all samples; stopped: samples that were broken off, and why."""

    samples: int
    makespan: Spread
    run_sec: Spread
    wait_sec: Spread
    utilization: float
    ends: dict[str, int]
    steps: tuple[StepForecast, ...]
    gantt: Gantt
    stopped: dict[str, int]


class WhatIf(msgspec.Struct, frozen=True, rename="camel"):
    """The same samples with other slots; saved: of the mean makespan, in seconds."""

    slots: int
    makespan: Spread
    wait_sec: float
    utilization: float
    saved_sec: float


def spread(values_ms: Sequence[int]) -> Spread:
    """Of at least one value."""
    ordered = sorted(values_ms) or [0]

    def at(share: int) -> float:
        return ordered[min(len(ordered) - 1, len(ordered) * share // 100)] / 1000

    return Spread(sum(ordered) / len(ordered) / 1000, at(0), at(50), at(90), at(99), at(100))


def utilization(outcomes: Sequence[Outcome], slots: int) -> float:
    """The share of the slots' time in which they worked."""
    room = slots * sum(one.makespan_ms for one in outcomes)
    return sum(one.busy_ms for one in outcomes) / room if room else 0.0


def waits(outcomes: Sequence[Outcome]) -> list[int]:
    """How long tasks waited for a slot, in ms."""
    return [bar.started_ms - bar.ready_ms for one in outcomes for bar in one.bars
            if bar.attempts and bar.started_ms >= 0]


def critical(outcome: Outcome, graph: Graph, run: int = 0) -> list[str]:
    """The steps of the workflow that a run waited for to its end, in order: the last one to end,
    and before each one the last that it needed."""
    ends = {bar.outer: bar for bar in outcome.bars
            if bar.run == run and bar.outer >= 0 and bar.finished_ms >= 0
            and bar.state < StepState.SKIPPED}
    found: list[str] = []
    at = max(ends, key=lambda place: (ends[place].finished_ms, place), default=-1)
    while at >= 0:
        found.append(graph.root.nodes[at].id)
        needs = [place for place, _ in graph.root.nodes[at].needs if place in ends]
        at = max(needs, key=lambda place: (ends[place].finished_ms, place), default=-1)
    return found[::-1]


def forecast(outcomes: Sequence[Outcome], graph: Graph, slots: int) -> Forecast:
    """Everything about the samples."""
    paths = [critical(one, graph) for one in outcomes]
    order = sorted(range(len(outcomes)), key=lambda place: outcomes[place].makespan_ms)
    middle = order[(len(order) - 1) // 2]
    ends = Counter(state_text(state) if state >= 0 else "Running"
                   for one in outcomes for state, _, _ in one.ends)
    return Forecast(
        len(outcomes), spread([one.makespan_ms for one in outcomes]),
        spread([over - begun for one in outcomes for _, begun, over in one.ends if over >= 0]),
        spread(waits(outcomes)), utilization(outcomes, slots), dict(ends),
        steps_of(outcomes, graph, paths), gantt(outcomes[middle], middle, paths[middle]),
        dict(Counter(one.stopped for one in outcomes if one.stopped)))


def steps_of(outcomes: Sequence[Outcome], graph: Graph,
             paths: Sequence[list[str]]) -> tuple[StepForecast, ...]:
    """A line a step of the workflow, with the tasks inside it."""
    by_step: dict[str, list[Bar]] = defaultdict(list)
    for one in outcomes:
        for bar in one.bars:
            by_step[bar.name.partition("[")[0].partition(".")[0]].append(bar)
    count = len(outcomes)
    found = []
    for node in graph.root.nodes:
        bars = by_step.get(node.id, [])
        tasks = [bar for bar in bars if bar.attempts]
        waited = sum(bar.started_ms - bar.ready_ms for bar in tasks if bar.started_ms >= 0)
        found.append(StepForecast(
            node.id, len(tasks) / count, sum(bar.attempts for bar in tasks) / count,
            waited / max(1, len(tasks)) / 1000,
            sum(bar.run_ms for bar in tasks) / max(1, len(tasks)) / 1000,
            sum(StepState.FAILED <= bar.state <= StepState.TIMEOUT for bar in bars) / count,
            sum(node.id in path for path in paths) / count))
    return tuple(found)


def gantt(outcome: Outcome, sample: int, path: Sequence[str]) -> Gantt:
    """The bars of a sample; skipped steps have none."""
    bars = [bar for bar in outcome.bars if bar.state < StepState.SKIPPED]
    shown = tuple(BarView(
        bar.run, bar.name, state_text(bar.state), bar.ready_ms / 1000,
        bar.started_ms / 1000 if bar.started_ms >= 0 else None,
        bar.finished_ms / 1000 if bar.finished_ms >= 0 else None, bar.attempts, bar.run_ms / 1000,
        bar.run == 0 and bar.outer >= 0 and bar.name in path) for bar in bars[:BARS_MAX])
    return Gantt(sample, outcome.makespan_ms / 1000, tuple(path), shown,
                 max(0, len(bars) - BARS_MAX))
