"""What is known of a run while it goes on, and the moves that follow from what happens to it."""

from __future__ import annotations

from collections import deque

import msgspec

from plumd.expressions import Failure, Path, Value, walk
from plumd.flow.graph import Node, Scope
from plumd.flow.rules import StepState


class Frame:
    """A scope while it runs. counts: for each step how many of its needs ended, by Count.

    open: how many have not ended.  values: what is kept of the ends of its steps.
    """

    __slots__ = ("base", "counts", "failed", "loop", "number", "open", "outcomes", "scope",
                 "states", "values")

    def __init__(self, scope: Scope, base: int, loop: Loop | None = None, number: int = 0) -> None:
        size = len(scope.nodes)
        self.scope = scope
        self.base = base
        self.loop = loop
        self.number = number
        self.states: list[int] = [StepState.WAITING] * size
        self.counts = ([0] * size, [0] * size, [0] * size)
        self.open = size
        self.failed = False
        self.values: dict[int, dict[Path, Value]] = {}
        self.outcomes: dict[int, bool] = {}


class Loop:
    """A loop or map that goes on. total: iterations, -1 = as its conditions say.

    end: the state that it will have, once that is sure and iterations still go on; else -1.
    left: iterations below `started` that have not begun, as of a run that takes over others.
    """

    __slots__ = ("active", "at", "base", "begun_ms", "bytes", "done", "end", "error", "failures",
                 "frame", "items", "keeps", "last", "left", "node", "previous", "results", "room",
                 "size", "started", "total")

    def __init__(self, frame: Frame, node: Node, base: int, total: int,
                 items: list[Value] | None, begun_ms: int) -> None:
        assert node.body is not None
        self.frame = frame
        self.node = node
        self.at = node.at
        self.base = base
        self.total = total
        self.items = items
        self.begun_ms = begun_ms
        self.size = len(node.body.nodes)
        self.room = (node.limit if total < 0 else total) * self.size
        """So many numbers it has taken, from base on."""
        self.started = self.done = self.failures = self.bytes = 0
        self.end = -1
        self.error: tuple[str, str] | None = None
        self.active: dict[int, Frame] = {}
        self.left: deque[int] = deque()
        self.previous: Frame | None = None
        self.last: Value = None
        self.keeps = node.body.result is not None and any(
            path == ("result",) or path[:2] == ("result", "results") for path in node.keep)
        self.results: dict[int, Value] = {}


class Live:
    """A step instance that goes on outside: a task, a run, a wait. ref: the task or run, 0 = none.
    """

    __slots__ = ("at", "due_ms", "frame", "kind", "ref", "started_ms")

    def __init__(self, frame: Frame, at: int, kind: int, ref: int = 0, started_ms: int = 0,
                 due_ms: int = 0) -> None:
        self.frame = frame
        self.at = at
        self.kind = kind
        self.ref = ref
        self.started_ms = started_ms
        self.due_ms = due_ms


class Moved(msgspec.Struct):
    """A row of a step instance that is no task's, or more than its task says."""

    step: int
    state: int
    ref: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    data: bytes | None = None


class Moves:
    """What follows; whoever carries it out empties it."""

    def __init__(self) -> None:
        self.begin: list[tuple[int, Node, bytes | None]] = []
        """Tasks and sub-workflows: (instance, node, its payload or None)."""
        self.stop: list[Live] = []
        self.rows: list[Moved] = []
        self.news: list[tuple[str, int]] = []
        """(a step instance's name, its state)"""
        self.timers: list[tuple[int, int]] = []
        self.end = -1
        self.result: bytes | None = None
        self.error: tuple[str, str] | None = None


def error_values(error: tuple[str, str], node: Node) -> dict[Path, Value]:
    """What is kept of an error."""
    whole: Value = {"code": error[0], "message": error[1]}
    found: dict[Path, Value] = {}
    for path in node.keep:
        if path[0] == "error":
            try:
                found[path] = walk(whole, path[1:])
            except Failure:
                continue
    return found


def waits_until(due_ms: int, now_ms: int) -> dict[str, Value]:
    """What is kept of a step that waits so long: the moment, 0 = for none, and how far away it is
    by the clock of now, which may be another after a restart.
    """
    return {"dueMs": due_ms, "leftMs": max(0, due_ms - now_ms)}


def data_of(values: dict[Path, Value] | None, error: tuple[str, str] | None,
            facts: dict[str, Value] | None, outcome: bool | None) -> bytes | None:
    """The data column of a step's row, None when there is nothing to keep."""
    if not values and error is None and facts is None and outcome is None:
        return None
    kept: dict[str, Value] = dict(facts or {})
    if values:
        kept["values"] = [[list(path), value] for path, value in values.items()]
    if error is not None:
        kept["error"] = {"code": error[0], "message": error[1]}
    if outcome is not None:
        kept["outcome"] = outcome
    return msgspec.json.encode(kept)
