"""What a run takes over from the one that it repeats, and what it leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from plumd.errors import Invalid
from plumd.flow.graph import Graph, Node, Scope, Seed, StepKind
from plumd.flow.machine import Machine
from plumd.flow.restore import KEPT, LOOPS, Restorer
from plumd.flow.rules import StepState
from plumd.flow.state import Frame

TAKEN_MAX: Final = 50_000
"""So many steps of rounds are taken over at most; a larger loop or map begins from its first."""
CUT: Final = b'{"cut":true}'
ENCODE: Final = msgspec.json.Encoder().encode


def seeds_of(graph: Graph, known: Mapping[int, Seed]) -> tuple[Seed, ...]:
    """The outer steps that succeeded, were not undone, and stand on nothing that did not succeed;
    of a loop or map that did not succeed, but could begin, the rounds that did. What was not asked
    for, or skipped by hand, is still not wanted.

    A step that began because of a failure, or after one, begins again with what it stands on.
    """
    undone = undone_of(graph, known)
    found = []
    for node, stands in standing(graph.root, known, undone):
        seed = known.get(node.at)
        if seed is not None and unwanted(seed):
            found.append(seed)
            continue
        if not stands or seed is None or node.at in undone:
            continue
        if seed.state == StepState.SUCCEEDED:
            found.append(seed)
        elif node.kind in LOOPS and seed.state in (StepState.FAILED, StepState.TIMEOUT,
                                                   StepState.CANCELED):
            found.extend(rounds_of(graph, node, seed, known))
    return tuple(found)


def unwanted(seed: Seed) -> bool:
    """Whether somebody said that this step is not to run."""
    if seed.state != StepState.SKIPPED or seed.data is None:
        return False
    kept = KEPT(seed.data)
    return kept.cut or kept.by_hand


def undone_of(graph: Graph, known: Mapping[int, Seed]) -> set[int]:
    """The places of the steps that something began to undo."""
    nodes = [node for scope in graph.after for node in scope.nodes]
    first = len(graph.root.nodes)
    return {node.undoes for number, node in enumerate(nodes, first)
            if node.undoes >= 0 and number in known and known[number].state < StepState.SKIPPED}


def standing(scope: Scope, known: Mapping[int, Seed],
             undone: set[int]) -> Iterator[tuple[Node, bool]]:
    """(step, whether all that it stands on is kept), those before others first."""
    kept: dict[int, bool] = {}
    waiting = list(scope.roots)
    left = [len(node.needs) for node in scope.nodes]
    while waiting:
        node = scope.nodes[waiting.pop()]
        stands = all(kept[at] for at, _ in node.needs)
        seed = known.get(node.at)
        kept[node.at] = stands and node.at not in undone and seed is not None \
            and seed.state in (StepState.SUCCEEDED, StepState.SKIPPED)
        yield node, stands
        for at, _ in node.out:
            left[at] -= 1
            if left[at] == 0:
                waiting.append(at)


def rounds_of(graph: Graph, node: Node, seed: Seed, known: Mapping[int, Seed]) -> list[Seed]:
    """A loop or map that goes on, and all steps of its rounds that succeeded; or nothing."""
    kept = KEPT(seed.data or b"{}")
    body = node.body
    assert body is not None
    if not kept.base or (node.items is not None and kept.items is msgspec.UNSET):
        return []       # it failed before it knew how often, or in an older version
    size = len(body.nodes)
    taken: list[Seed] = []
    machine = Machine(graph, None, {})
    restorer = Restorer(machine, known, 0)
    for first in sorted({at - (at - kept.base) % size
                         for at in restorer.known(kept.base, kept.room)}):
        frame = Frame(body, first)
        restorer.frame(frame)
        if not frame.open and machine.outcome_of(frame) == StepState.SUCCEEDED:
            taken.extend(inside(body, first, restorer))
        elif node.kind == StepKind.LOOP and node.items is None:
            break       # what comes after a round may depend on it
        if len(taken) > TAKEN_MAX:
            return []
    facts = ENCODE({"base": kept.base, "room": kept.room, "total": kept.total,
                    "items": kept.items})
    going = msgspec.structs.replace(seed, state=int(StepState.RUNNING), finished_ms=0, data=facts)
    return [going, *taken] if taken else []


def inside(scope: Scope, first: int, restorer: Restorer) -> Iterator[Seed]:
    """Everything that is known of a round, and of the rounds inside it."""
    for node in scope.nodes:
        seed = restorer.seeds.get(first + node.at)
        if seed is not None:
            yield from with_rounds(node, seed, restorer)


def with_rounds(node: Node, seed: Seed, restorer: Restorer) -> Iterator[Seed]:
    """A step instance, and of a loop or map all that is known of its rounds."""
    yield seed
    if node.body is None or seed.data is None:
        return
    kept = KEPT(seed.data)
    for number in restorer.known(kept.base, kept.room):
        inner = node.body.nodes[(number - kept.base) % len(node.body.nodes)]
        yield from with_rounds(inner, restorer.seeds[number], restorer)


def cut_to(graph: Graph, name: str) -> tuple[Seed, ...]:
    """Seeds of a run that goes no further than to an outer step: the steps that it does not stand
    on are Skipped. Raises: Invalid."""
    place = graph.root.places.get(name)
    if place is None:
        raise Invalid("no outer step of the workflow has this id", field="upTo")
    wanted, waiting = {place}, [place]
    while waiting:
        for at, _ in graph.root.nodes[waiting.pop()].needs:
            if at not in wanted:
                wanted.add(at)
                waiting.append(at)
    return tuple(Seed(node.at, int(StepState.SKIPPED), data=CUT) for node in graph.root.nodes
                 if node.at not in wanted)
