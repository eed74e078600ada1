"""One run of a graph: what happened goes in, what follows comes out as moves.

Nothing here waits, reads a clock or does anything: the room around it (runs.py) carries the moves
out in the commit of their cause. The end of a step costs its own edges, not the graph. A step
instance goes by a number: the steps of the workflow by their places, those of a body by numbers
that its loop or map takes when it begins, so many for each iteration.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from plumd.expressions import Failure, Path, Value, truth, walk
from plumd.flow import steps
from plumd.flow.data import extract, fill_bytes
from plumd.flow.graph import Graph, Node, StepKind
from plumd.flow.rules import StepState, Verdict, over_edge, verdict
from plumd.flow.sight import Sight
from plumd.flow.state import Frame, Live, Loop, Moved, Moves, data_of, error_values

BUDGET: Final = 500
"""So many decisions are made at most before others have their turn."""
RANK: Final = {StepState.FAILED: 3, StepState.TIMEOUT: 2, StepState.CANCELED: 1}


class Machine:
    """A run that goes on."""

    def __init__(self, graph: Graph, params: Value, facts: dict[str, Value]) -> None:
        """facts: what `run.x` stands for."""
        self.graph = graph
        self.params = params
        self.facts = facts
        self.moves = Moves()
        self.live: dict[int, Live] = {}
        self.loops: dict[int, Loop] = {}
        self.root = Frame(graph.root, 0)
        self.after: list[Frame] = []
        """The frames of what follows a run that did not succeed, once they run."""
        self.cut = False
        """Whether some steps were not asked for; then the run has no result."""
        self.final = StepState.SUCCEEDED
        self.error: tuple[str, str] | None = None
        """Why the run failed where no step did."""
        self.stopping = -1
        self.paused = False
        self.over = False
        self.held: list[tuple[Frame, int]] = []
        self.queue: deque[tuple[Frame, int]] = deque()
        self.closed: deque[Frame] = deque()
        self.turning: deque[Loop] = deque()
        self.next_base = graph.first_free
        self.now_ms = 0

    # ------------------------------------------------------------ what happened

    def begin(self, now_ms: int) -> None:
        """The run begins; one without steps is over at once."""
        self.now_ms = now_ms
        self.open(self.root)
        self.settle()

    def ended(self, step: int, state: int, result: bytes | None, error: tuple[str, str] | None,
              now_ms: int) -> bool:
        """The task or run of a step instance is over; False when it was not waited for."""
        live = self.live.pop(step, None)
        if live is None:
            return False
        self.now_ms = now_ms
        node = live.frame.scope.nodes[live.at]
        values: dict[Path, Value] | None = None
        if node.keep:
            values = extract(result if state == StepState.SUCCEEDED else None, node.keep)
            if error is not None:
                values |= error_values(error, node)
        if values or node.kind != StepKind.TASK:
            self.row(live.frame, live.at, state, live.ref, live.started_ms, values,
                     error if node.kind != StepKind.TASK else None)
        self.end(live.frame, live.at, state, values)
        self.settle()
        return True

    def refused(self, step: int, error: tuple[str, str], now_ms: int) -> None:
        """A step's task or run could not begin."""
        live = self.live.pop(step, None)
        if live is not None:
            self.now_ms = now_ms
            self.done(live.frame, live.at, StepState.FAILED, None, live.started_ms, error)
            self.settle()

    def due(self, step: int, now_ms: int) -> None:
        """A timer ran out: a wait is over, or nobody answered in time."""
        live = self.live.get(step)
        if live is None or not live.due_ms or live.due_ms > now_ms:
            return
        self.now_ms = now_ms
        del self.live[step]
        node = live.frame.scope.nodes[live.at]
        if node.kind == StepKind.WAIT and not node.event:
            self.done(live.frame, live.at, StepState.SUCCEEDED, None, live.started_ms)
        else:
            self.done(live.frame, live.at, StepState.TIMEOUT, None, live.started_ms,
                      ("timeout", "nobody answered in time"))
        self.settle()

    def answer(self, step: int, state: int, value: Value, now_ms: int) -> bool:
        """An approval or an event came; False when this step does not wait for one."""
        live = self.live.get(step)
        if live is None or live.kind not in (StepKind.APPROVAL, StepKind.WAIT):
            return False
        self.now_ms = now_ms
        del self.live[step]
        error = None if state == StepState.SUCCEEDED else ("rejected", "it was rejected")
        self.done(live.frame, live.at, state, value, live.started_ms, error)
        self.settle()
        return True

    def skip(self, frame: Frame, at: int, now_ms: int) -> bool:
        """Skip a step by hand, before it begins or while it only waits."""
        step = frame.base + at
        self.now_ms = now_ms
        live = self.live.get(step)
        if live is not None and live.kind in (StepKind.APPROVAL, StepKind.WAIT):
            del self.live[step]
        elif frame.states[at] != StepState.WAITING:
            return False
        self.done(frame, at, StepState.SKIPPED, None, 0 if live is None else live.started_ms,
                  data={"byHand": True})
        self.settle()
        return True

    def stop(self, state: int, now_ms: int) -> None:
        """Everything ends, and the run in this state: Canceled or Timeout."""
        if self.over:
            return
        self.now_ms = now_ms
        self.stopping = state
        self.paused = False
        for step, live in list(self.live.items()):
            if live.kind in (StepKind.TASK, StepKind.WORKFLOW):
                self.moves.stop.append(live)
            else:
                del self.live[step]
                self.done(live.frame, live.at, StepState.CANCELED, None, live.started_ms)
        self.resume(now_ms)
        self.turning.extend(self.loops.values())
        self.settle()

    def resume(self, now_ms: int) -> None:
        """What was held begins."""
        self.now_ms = now_ms
        self.paused = False
        held, self.held = self.held, []
        self.queue.extend(held)
        self.turning.extend(self.loops.values())
        self.settle()

    @property
    def busy(self) -> bool:
        """Whether there is more to decide than one turn allows."""
        return bool(self.queue or self.closed or self.turning)

    # ------------------------------------------------------------ the wheel

    def settle(self) -> None:
        """Decide what can be decided, within the budget."""
        for _ in range(BUDGET):
            if self.queue:
                self.decide(*self.queue.popleft())
            elif self.closed:
                self.close(self.closed.popleft())
            elif self.turning:
                steps.turn(self, self.turning.popleft())
            else:
                return

    def open(self, frame: Frame) -> None:
        """A frame begins with the steps that need nothing."""
        if frame.open:
            self.queue.extend((frame, at) for at in frame.scope.roots)
        else:
            self.closed.append(frame)

    def decide(self, frame: Frame, at: int) -> None:
        """Begin a step, or skip it, if its rule says so by now."""
        if frame.states[at] != StepState.WAITING:
            return
        node = frame.scope.nodes[at]
        succeeded, failed, skipped = frame.counts
        said = verdict(node.rule, len(node.needs), succeeded[at], failed[at], skipped[at])
        if said == Verdict.WAIT:
            return
        if said != Verdict.GO:
            self.done(frame, at, StepState.SKIPPED if said == Verdict.SKIP
                      else StepState.SKIPPED_FAILED, None, 0)
        elif self.stopping >= 0:
            self.done(frame, at, StepState.SKIPPED, None, 0)
        elif self.paused:
            self.held.append((frame, at))
        else:
            try:
                wanted = node.when is None or truth(node.when.eval(Sight(self, frame)))
                if wanted:
                    steps.BEGIN[node.kind](self, frame, node)
                else:
                    self.done(frame, at, StepState.SKIPPED, None, 0)
            except Failure as failure:
                self.done(frame, at, StepState.FAILED, None, self.now_ms,
                          ("expression_failed", str(failure)))

    def done(self, frame: Frame, at: int, state: int, result: Value, started_ms: int,
             error: tuple[str, str] | None = None, data: dict[str, Value] | None = None) -> None:
        """The end of a step that has no task: its row, and what follows."""
        node = frame.scope.nodes[at]
        values: dict[Path, Value] = {}
        for path in node.keep:
            if path[0] == "result":
                try:
                    values[path] = walk(result, path[1:])
                except Failure:
                    continue
        if error is not None:
            values |= error_values(error, node)
        self.row(frame, at, state, 0, started_ms, values, error, data)
        self.end(frame, at, state, values)

    def end(self, frame: Frame, at: int, state: int, values: dict[Path, Value] | None) -> None:
        """A step is over: tell those behind it."""
        node = frame.scope.nodes[at]
        frame.states[at] = state
        if values:
            frame.values[at] = values
        if StepState.FAILED <= state <= StepState.CANCELED:
            frame.failed = True
        self.moves.news.append((self.name_of(frame, at), state))
        if node.out:
            self.pass_on(frame, node, state)
        frame.open -= 1
        if not frame.open:
            self.closed.append(frame)

    def pass_on(self, frame: Frame, node: Node, state: int) -> None:
        """Count an end where it matters."""
        outcome = frame.outcomes.get(node.at, False)
        for at, on in node.out:
            frame.counts[over_edge(state, on, outcome, node.forgiven)][at] += 1
            self.queue.append((frame, at))

    def close(self, frame: Frame) -> None:
        """All steps of a frame are over."""
        loop = frame.loop
        if loop is not None:
            steps.iteration_over(self, loop, frame)
            return
        state = self.outcome_of(frame)
        if frame is self.root:
            self.final = StepState(self.stopping) if self.stopping >= 0 else state
            if self.final == StepState.SUCCEEDED:
                self.make_result()
            if self.final in (StepState.FAILED, StepState.TIMEOUT):
                self.stopping = -1
                if self.follow():
                    return
        elif self.stopping >= 0:
            self.final = StepState(self.stopping)
        elif self.follow():
            return
        self.conclude()

    def follow(self) -> bool:
        """Begin the next scope that follows a run that did not succeed; False: there is none."""
        scopes = self.graph.after
        if len(self.after) == len(scopes):
            return False
        frame = Frame(scopes[len(self.after)], self.graph.first_after(len(self.after)))
        self.after.append(frame)
        self.open(frame)
        return True

    def make_result(self) -> None:
        """The result of a run whose steps are well, if it has one; the run fails without it."""
        if self.graph.result is None or self.cut:
            return
        try:
            self.moves.result = fill_bytes(self.graph.result, Sight(self, self.root), "result")
        except Failure as failure:
            self.final = StepState.FAILED
            self.error = ("expression_failed", f"result: {failure}")

    def conclude(self) -> None:
        """The run is over."""
        self.over = True
        self.moves.error = self.error
        self.moves.end = self.final

    def outcome_of(self, frame: Frame) -> StepState:
        """Failed when a step failed and nobody took care of it; else Timeout, else Canceled, else
        Succeeded. A failure is taken care of by continueOnError, and by a step that began because
        of it (`on: failure`, all_failed, one_failed) and succeeded."""
        worst = StepState.SUCCEEDED
        if frame.failed:
            for node in frame.scope.nodes:
                state = StepState(frame.states[node.at])
                if state in RANK and RANK[state] > RANK.get(worst, 0) \
                        and not steps.cared_for(frame, node):
                    worst = state
        return worst

    # ------------------------------------------------------------ words

    def row(self, frame: Frame, at: int, state: int, ref: int, started_ms: int,
            values: dict[Path, Value] | None, error: tuple[str, str] | None = None,
            data: dict[str, Value] | None = None) -> None:
        """Keep what the step's task does not say."""
        ended = state >= StepState.SUCCEEDED
        self.moves.rows.append(Moved(
            frame.base + at, state, ref, started_ms, self.now_ms if ended else 0,
            data_of(values, error, data, frame.outcomes.get(at))))

    def name_of(self, frame: Frame, at: int) -> str:
        """A step instance as people name it: `fetch`, or `each[17].fetch`."""
        name = frame.scope.nodes[at].id
        while frame.loop is not None:
            owner = frame.loop
            name = f"{owner.frame.scope.nodes[owner.at].id}[{frame.number}].{name}"
            frame = owner.frame
        return name
