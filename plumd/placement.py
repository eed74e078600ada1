"""Pure: on which node a copy goes, and why not on the others.

A node fits when it takes copies at all (it is healthy and not drained), has the labels, has room
for one more (its bound, the entry's bound a node, memory, CPU), and none of the app's ports is
taken there. Of those that fit, the one is taken where the entry's copies are fewest (by the values
of the label that it spreads over, then by node), then one that was not lost lately, then the
least loaded, then the first by name. So the same question has always the same answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

NODE_LOST: Final = "node_lost"
NODE_DRAINED: Final = "node_drained"
SAID: Final = {
    "no_nodes": "there are no nodes",
    "no_node_fits": "no node fits: {because}",
    NODE_LOST: "it is lost",
    NODE_DRAINED: "it is drained",
    "node_left": "it must leave this one",
    "label_missing": "the label {label}={value} is missing",
    "node_full": "it has {count} instances, as many as it may",
    "entry_full": "it has {count} of this entry, as many as a node may",
    "memory_short": "too little memory is left",
    "cpu_short": "too little CPU is left",
    "port_taken": "port {port} is taken",
    "node_fits": "it fits",
    "already_there": "it is there already",
    "node_unknown": "the node {node} was never seen",
    "waits_for_node": "it waits for the node {node}: {because}",
    "waits_for_lost_node": "it waits for the node {node}, which is lost",
    "new_not_well": "the new copy on {node} is not well yet",
    "old_not_stopped": "the copy on {node} has not stopped yet",
    "rollout_failed": "the rollout failed: {why}",
    "others_first": "other copies are renewed first",
}
"""Every reason's code, which is part of the API, and how it is said."""
SHAKY_MS: Final = 600_000
"""So long a node that was lost and came back is the last choice."""


class Reason(msgspec.Struct, frozen=True):
    """Why a copy goes nowhere, or waits: a code, and what its sentence names.

    because: what it follows from.  nodes: for how many nodes that holds, 0 = it is not about nodes.
    """

    code: str
    values: dict[str, str | int] = {}
    because: tuple[Reason, ...] = ()
    nodes: int = 0

    @property
    def text(self) -> str:
        """In one line, for people."""
        said = SAID[self.code].format_map(
            {**self.values, "because": "; ".join(one.text for one in self.because)})
        return f"{said} ({self.nodes} node{'s' if self.nodes > 1 else ''})" if self.nodes else said


class Node(msgspec.Struct, frozen=True):
    """A machine as placement sees it. why_not: NODE_LOST, NODE_DRAINED, "" = it takes copies.

    memory_bytes, cpu_percent: what it has, 0 = not known, so not a bound.
    """

    node_id: str
    labels: Mapping[str, str] = {}
    why_not: str = ""
    shaky: bool = False
    instances_max: int = 0
    memory_bytes: int = 0
    cpu_percent: float = 0.0


class Need(msgspec.Struct, frozen=True):
    """What a copy needs of its node. group: whose copies are spread, a deployment's entry."""

    group: tuple[int, str]
    selector: Mapping[str, str] = {}
    spread: str = ""
    max_per_node: int = 0
    memory_bytes: int = 0
    cpu_percent: float = 0.0
    ports: tuple[int, ...] = ()


class Choice(NamedTuple):
    """node_id: "" when no node fits; then why says why."""

    node_id: str
    why: Reason | None = None


class Load:
    """What is on a node."""

    __slots__ = ("copies", "cpu_percent", "groups", "memory_bytes", "ports")

    def __init__(self) -> None:
        self.copies = 0
        self.memory_bytes = 0
        self.cpu_percent = 0.0
        self.groups: Counter[tuple[int, str]] = Counter()
        self.ports: Counter[int] = Counter()


class Board:
    """All nodes with what is on them; copies are put on and taken off while one plans.

    fill: puts on what is there already; called when it is first asked for, so that an answer that
    needs no place costs nothing of it.
    """

    def __init__(self, nodes: Iterable[Node],
                 fill: Callable[[Board], None] | None = None) -> None:
        self.nodes = {node.node_id: node for node in nodes}
        self._fill = fill
        self._loads: dict[str, Load] | None = None
        self._domains: dict[tuple[tuple[int, str], str], Counter[str]] = {}
        self._by_labels: dict[tuple[tuple[str, str], ...],
                              list[tuple[str, Node, Load]]] = {}
        self._refused: dict[tuple[object, ...], Choice] = {}
        """What found no place finds none until something is taken off."""

    @property
    def loads(self) -> Mapping[str, Load]:
        """What is on each node."""
        if self._loads is None:
            self._loads = {node_id: Load() for node_id in self.nodes}
            if self._fill is not None:
                self._fill(self)
        return self._loads

    def put(self, node_id: str, need: Need, count: int = 1) -> None:
        """A copy is on a node, or, with count -1, no more. Nodes that are not known are passed
        over."""
        load = self.loads.get(node_id)
        if load is None:
            return
        if count < 0:
            self._refused.clear()
        load.copies += count
        load.memory_bytes += count * need.memory_bytes
        load.cpu_percent += count * need.cpu_percent
        load.groups[need.group] += count
        for port in need.ports:
            load.ports[port] += count
        for (group, label), domains in self._domains.items() if self._domains else ():
            if group == need.group:
                domains[self.nodes[node_id].labels.get(label, "")] += count

    def _spread_over(self, need: Need) -> Counter[str]:
        """How many copies of the group each value of its label has."""
        key = need.group, need.spread
        found = self._domains.get(key)
        if found is None:
            found = self._domains[key] = Counter()
            for node_id, load in self.loads.items():
                if count := load.groups.get(need.group, 0):
                    found[self.nodes[node_id].labels.get(need.spread, "")] += count
        return found

    def why_not(self, node: Node, need: Need, *, ports: bool = True) -> Reason | None:
        """Why a copy cannot go there, None when it can. ports: whether taken ports count."""
        if node.why_not:
            return Reason(node.why_not)
        for key, value in need.selector.items():
            if node.labels.get(key) != value:
                return Reason("label_missing", {"label": key, "value": value})
        load = self.loads[node.node_id]
        if node.instances_max and load.copies >= node.instances_max:
            return Reason("node_full", {"count": load.copies})
        if need.max_per_node and load.groups.get(need.group, 0) >= need.max_per_node:
            return Reason("entry_full", {"count": need.max_per_node})
        if node.memory_bytes and need.memory_bytes > node.memory_bytes - load.memory_bytes:
            return Reason("memory_short")
        if node.cpu_percent and need.cpu_percent > node.cpu_percent - load.cpu_percent:
            return Reason("cpu_short")
        if ports:
            for port in need.ports:
                if load.ports.get(port, 0) > 0:
                    return Reason("port_taken", {"port": port})
        return None

    def _candidates(self, selector: Mapping[str, str]) -> list[tuple[str, Node, Load]]:
        """Nodes that take copies and have the labels; asked for again and again."""
        key = tuple(sorted(selector.items()))
        found = self._by_labels.get(key)
        if found is None:
            wanted = selector.items()
            found = self._by_labels[key] = [
                (node_id, node, self.loads[node_id]) for node_id, node in self.nodes.items()
                if not node.why_not and wanted <= node.labels.items()]
        return found

    def choose(self, need: Need, avoid: str = "") -> Choice:
        """The best node; avoid: one that will not do."""
        asked = (need.group, tuple(sorted(need.selector.items())), need.max_per_node,
                 need.memory_bytes, need.cpu_percent, need.ports, avoid)
        if (refused := self._refused.get(asked)) is not None:
            return refused
        domains = self._spread_over(need) if need.spread else None
        group, best, chosen = need.group, None, ""
        for node_id, node, load in self._candidates(need.selector):
            here = load.groups.get(group, 0)
            across = domains[node.labels.get(need.spread, "")] if domains is not None else 0
            if best is not None and (across, here, node.shaky) > best[:3]:
                continue        # it cannot become the best: the rest need not be looked at
            if node_id == avoid or self.is_full(node, load, need):
                continue
            rank = (across, here, node.shaky, fullness(node, load), load.copies, node_id)
            if best is None or rank < best:
                best, chosen = rank, node_id
        if chosen:
            return Choice(chosen)
        refusal = self._refused[asked] = Choice("", self.explain(need, avoid))
        return refusal

    @staticmethod
    def is_full(node: Node, load: Load, need: Need) -> bool:
        """Whether there is no room for one more; `why_not` says it in words."""
        return bool(
            (node.instances_max and load.copies >= node.instances_max)
            or (need.max_per_node and load.groups.get(need.group, 0) >= need.max_per_node)
            or (node.memory_bytes and need.memory_bytes > node.memory_bytes - load.memory_bytes)
            or (node.cpu_percent and need.cpu_percent > node.cpu_percent - load.cpu_percent)
            or (need.ports and any(load.ports.get(port, 0) > 0 for port in need.ports)))

    def explain(self, need: Need, avoid: str = "") -> Reason:
        """Why no node fits, the commonest reason first."""
        if not self.nodes:
            return Reason("no_nodes")
        reasons = [Reason("node_left") if node_id == avoid
                   else self.why_not(node, need) or Reason("node_fits")
                   for node_id, node in self.nodes.items()]
        counts = Counter(why.text for why in reasons)
        by_text = {why.text: why for why in reasons}
        found = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return Reason("no_node_fits", because=tuple(
            msgspec.structs.replace(by_text[text], nodes=count) for text, count in found[:5]))


def fullness(node: Node, load: Load) -> float:
    """How much of what it has is promised, 0 .. 1; of the scarcest thing."""
    return max(load.memory_bytes / node.memory_bytes if node.memory_bytes else 0.0,
               load.cpu_percent / node.cpu_percent if node.cpu_percent else 0.0)
