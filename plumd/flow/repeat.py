"""What a run takes over from the one that it repeats: the ends of steps that need no second try."""

from __future__ import annotations

from collections.abc import Mapping

from plumd.flow.graph import Graph, Seed
from plumd.flow.rules import StepState


def seeds_of(graph: Graph, known: Mapping[int, Seed]) -> tuple[Seed, ...]:
    """The outer steps that succeeded and stand on nothing that did not.

    A step that began because of a failure, or after one, begins again with what it stands on.
    """
    kept: dict[int, bool] = {}
    found = []
    waiting = list(graph.root.roots)
    left = [len(node.needs) for node in graph.root.nodes]
    while waiting:
        node = graph.root.nodes[waiting.pop()]
        seed = known.get(node.at)
        state = StepState.WAITING if seed is None else seed.state
        stands = all(kept[at] for at, _ in node.needs)
        kept[node.at] = stands and state in (StepState.SUCCEEDED, StepState.SKIPPED)
        if stands and seed is not None and state == StepState.SUCCEEDED:
            found.append(seed)
        for at, _ in node.out:
            left[at] -= 1
            if left[at] == 0:
                waiting.append(at)
    return tuple(found)
