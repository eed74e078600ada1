"""A run as it was, from what its rows say; also a run that takes over what another one did.

A row says how a step instance ended, or that it goes on. What nothing is said of has not begun,
so after the frames are built everything that might begin is decided again: most of it waits on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from plumd.expressions import Path, Value
from plumd.flow import steps
from plumd.flow.data import DECODE
from plumd.flow.graph import Node, Seed, StepKind
from plumd.flow.machine import Machine
from plumd.flow.rules import StepState, over_edge
from plumd.flow.state import Frame, Live, Loop

LOOPS: Final = (StepKind.LOOP, StepKind.MAP)


class Kept(msgspec.Struct, frozen=True, rename="camel"):
    """The data column of a step's row."""

    values: list[tuple[list[str | int], msgspec.Raw]] = []
    outcome: bool | None = None
    cut: bool = False
    by_hand: bool = False
    base: int = 0
    total: int = -1
    room: int = 0
    due_ms: int = 0
    left_ms: int = 0
    items: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


KEPT: Final = msgspec.json.Decoder(Kept).decode


class Restorer:
    """Builds the frames of one run. nearer: waits that end sooner than their rows say."""

    def __init__(self, machine: Machine, seeds: Mapping[int, Seed], now_ms: int) -> None:
        self.machine = machine
        self.seeds = seeds
        self.starts = sorted(seeds)
        self.nearer: list[int] = []
        machine.now_ms = now_ms

    def run(self) -> None:
        """The whole run, ready to go on with `settle`."""
        machine = self.machine
        graph = machine.graph
        for seed in self.seeds.values():
            if seed.data is not None and b'"room"' in seed.data:
                kept = KEPT(seed.data)
                machine.next_base = max(machine.next_base, kept.base + kept.room)
        self.frame(machine.root)
        for place, scope in enumerate(graph.after):
            first = graph.first_after(place)
            if not self.known(first, len(scope.nodes)):
                break
            machine.after.append(Frame(scope, first))
            self.frame(machine.after[-1])
        if machine.after:
            machine.final = machine.outcome_of(machine.root)
            if machine.stopping == StepState.TIMEOUT:
                machine.final, machine.stopping = StepState.TIMEOUT, -1
            elif machine.final == StepState.SUCCEEDED:
                machine.make_result()       # which failed
        self.wake(machine.after[-1] if machine.after else machine.root)
        machine.turning.extend(machine.loops.values())

    def known(self, first: int, size: int) -> list[int]:
        """Which of these numbers have a row."""
        return self.starts[bisect_left(self.starts, first):bisect_left(self.starts, first + size)]

    def frame(self, frame: Frame) -> None:
        """Fill a frame with what is known of its steps."""
        going = []
        for node in frame.scope.nodes:
            seed = self.seeds.get(frame.base + node.at)
            if seed is None:
                continue
            frame.states[node.at] = seed.state
            kept = Kept() if seed.data is None else KEPT(seed.data)
            if seed.state >= StepState.SUCCEEDED:
                frame.open -= 1
                frame.failed |= StepState.FAILED <= seed.state <= StepState.CANCELED
                self.machine.cut |= kept.cut
                if kept.values:
                    frame.values[node.at] = values_of(kept)
                if kept.outcome is not None:
                    frame.outcomes[node.at] = kept.outcome
            else:
                going.append((node, seed, kept))
        for node, seed, kept in going:      # when the ends that they refer to are known
            self.go_on(frame, node, seed, kept)
        for node in frame.scope.nodes:
            state = frame.states[node.at]
            if state >= StepState.SUCCEEDED:
                outcome = frame.outcomes.get(node.at, False)
                for at, on in node.out:
                    frame.counts[over_edge(state, on, outcome, node.forgiven)][at] += 1

    def go_on(self, frame: Frame, node: Node, seed: Seed, kept: Kept) -> None:
        """A step that has begun and not ended."""
        if node.kind in LOOPS:
            self.loop(frame, node, seed, kept)
            return
        step = frame.base + node.at
        due_ms = kept.due_ms
        if kept.left_ms and due_ms > self.machine.now_ms + kept.left_ms:    # the clock was set back
            due_ms = self.machine.now_ms + kept.left_ms
            self.nearer.append(step)
        self.machine.live[step] = Live(frame, node.at, node.kind, seed.ref, seed.started_ms, due_ms)
        if due_ms:
            self.machine.moves.timers.append((due_ms, step))

    def loop(self, frame: Frame, node: Node, seed: Seed, kept: Kept) -> None:
        """A loop or map, with the iterations that have begun."""
        items: list[Value] | None = None
        if kept.items is not msgspec.UNSET:
            value = DECODE(bytes(kept.items))
            items = value if isinstance(value, list) else None
        loop = Loop(frame, node, kept.base, kept.total, items, seed.started_ms)
        self.machine.loops[frame.base + node.at] = loop
        assert node.body is not None
        for number in self.begun(loop):
            if not self.known(loop.base + number * loop.size, loop.size):
                loop.left.append(number)
                loop.started = number + 1
                continue
            one = Frame(node.body, loop.base + number * loop.size, loop, number)
            loop.started = number + 1
            loop.active[number] = one
            self.frame(one)
            if one.open:
                self.wake(one)
            else:
                del loop.active[number]
                steps.count_iteration(self.machine, loop, one)

    def begun(self, loop: Loop) -> Iterator[int]:
        """The iterations up to the last that left a trace."""
        last = -1
        place = bisect_left(self.starts, loop.base + loop.room) - 1
        if place >= 0 and self.starts[place] >= loop.base:
            last = (self.starts[place] - loop.base) // loop.size
        return iter(range(last + 1))

    def wake(self, frame: Frame) -> None:
        """Decide again what has not begun."""
        waiting = StepState.WAITING
        if frame.open:
            self.machine.queue.extend((frame, node.at) for node in frame.scope.nodes
                                      if frame.states[node.at] == waiting)
        else:
            self.machine.closed.append(frame)


def values_of(kept: Kept) -> dict[Path, Value]:
    """What is kept of a step's end."""
    return {tuple(path): DECODE(bytes(value)) for path, value in kept.values}

