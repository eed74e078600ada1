"""A fleet of 500 nodes and 5,000 instances: what beats cost, and how long a failover is planned."""

from __future__ import annotations

import hashlib
import random
import time
from functools import partial

from bench.harness import Figures
from plumd.fleet import Body, Copy, DeploymentEntry, Phase, Slot, slots_of
from plumd.placement import Board, Need, Node
from plumd.rollout import LOST_NODE, View, settle

INSTANCES_OF_EACH = 10


def copies_of(number: int, body: Body, nodes: list[str], first: int) -> list[Copy]:
    """A deployment's copies, spread over the fleet."""
    return [Copy(first + index, number, slot.entry, slot.pin, slot.ordinal, 1, 1, index + 1, 0,
                 nodes[(first + index) % len(nodes)], "", 0, False, Phase.RUNNING, 1, None, None,
                 0, 1, "", 1, 1, 1, 1)
            for index, slot in enumerate(slots_of(body.entries[0]))]


def program(entry: DeploymentEntry, version: int, name: str) -> DeploymentEntry:
    """What each version says."""
    del version, name
    return entry


def another(number: int, slot: Slot) -> Copy:
    """A copy without a node."""
    return Copy(number * 100_000 + 50_000 + slot.ordinal, number, *slot, 2, 1, 99, 0, "", "", 0,
                False, Phase.PENDING, 0, None, None, 0, 0, "", 0, 0, 0, 1)


def failover(seconds: float, node_count: int = 500, lost_count: int = 50) -> Figures:
    """So many nodes are lost at once: from that news to all moves, ready to be written."""
    del seconds
    drawn = random.Random(1)
    names = [f"node-{index:04}" for index in range(node_count)]
    lost = set(drawn.sample(names, lost_count))
    deployments = []
    for number in range(1, node_count + 1):
        body = Body(f"d{number}", (DeploymentEntry(name="e", replicas=INSTANCES_OF_EACH,
                                         selector={"rack": str(number % 4)}),))
        fit = [name for index, name in enumerate(names) if index % 4 == number % 4]
        deployments.append((number, body, copies_of(number, body, fit, number * 100_000)))
    begun = time.process_time()
    board = Board(Node(name, {"rack": str(index % 4)}, LOST_NODE if name in lost else "",
                       memory_bytes=1 << 34) for index, name in enumerate(names))

    def need(number: int, entry: DeploymentEntry) -> Need:
        return Need((number, entry.name), entry.selector, memory_bytes=1 << 20)

    for number, body, copies in deployments:
        for copy in copies:
            board.put(copy.node_id, need(number, body.entries[0]))
    moved, digest = 0, hashlib.sha256()
    for number, body, copies in deployments:
        moves = settle(View(number, 1, body, True, None, copies,
                            partial(program, body.entries[0]), need, partial(another, number),
                            100), board)
        moved += len(moves.begun)
        for copy in moves.begun:
            assert copy.node_id not in lost
            digest.update(f"{copy.number} {copy.node_id};".encode())
    took = time.process_time() - begun
    return Figures(f"failover of {lost_count} of {node_count} nodes", {
        "nodes": node_count, "instances": node_count * INSTANCES_OF_EACH, "moved": moved,
        "planned_cpu_s": took}, digest.hexdigest()[:12])
