"""Live workflow runs: carries the moves of flow.machine out as commands and rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

import msgspec

from plumd import flow
from plumd.endings import error_of
from plumd.errors import Invalid, NotFound, PlumError, ValueLost
from plumd.expressions import Failure, Value
from plumd.flow.data import DECODE
from plumd.flow.find import find
from plumd.flow.graph import Node, RunPlan, Seed, StepKind
from plumd.flow.machine import Machine
from plumd.flow.restore import Restorer
from plumd.flow.rules import StepState
from plumd.flow.state import Moves, waits_until
from plumd.model import ACCEPTED, Cancel, Ended, Kind, Reply, Submit, TaskState
from plumd.planner import Planner
from plumd.store import flows
from plumd.store.events import Event
from plumd.store.flows import RunChange, RunEnd, StepEnd, StepRow
from plumd.store.quarantine import Unreadable

DEPTH_MAX: Final = 8
"""So deep sub-workflows nest."""
TIME_OUT, LATE = -1, -2
"""What a timer of a run is for, where it is no step's: the run's time is over; so is that of
what follows it, which has as much again."""
TIMERS_SWEPT: Final = 10_000
"""More timers than this, and twice as many as were wanted at the last sweep, are swept."""
CHILDREN_MAX: Final = 500
"""So many sub-workflows begin at a stretch; the others have their turn in the next."""


class LiveRun:
    """A run that goes on: its machine, and the ends of its outer steps."""

    def __init__(self, plan: RunPlan, machine: Machine, begun_ms: int) -> None:
        self.plan = plan
        self.machine = machine
        self.begun_ms = begun_ms
        self.cancel_ms = 0
        self.paused_ms = 0
        self.outer = plan.graph.first_free
        self.ends: dict[int, StepEnd] = {}


class Runs:
    """All live runs, owned by the engine. `take` gives the rows and events of a step."""

    def __init__(self, planner: Planner, new_id: Callable[[], int],
                 read_blob: Callable[[str], bytes]) -> None:
        self.live: dict[int, LiveRun] = {}
        self.planner = planner
        self.new_id = new_id
        self.read_blob = read_blob
        self._commands: list[Submit | Cancel] = []
        self._children: deque[tuple[LiveRun, int, Node, bytes | None]] = deque()
        """Sub-workflows that are to begin: (of whom, step, its node, its payload)."""
        self._timers: list[tuple[int, int, int]] = []
        self._sweep_at = TIMERS_SWEPT
        self._busy: dict[int, None] = {}
        self._rows: list[StepRow] = []
        self._begun: list[tuple[RunPlan, int]] = []
        self._marks: list[flows.Mark] = []
        self._ended: list[RunEnd] = []
        self._events: list[Event] = []

    # ------------------------------------------------------------ what happens

    def begin(self, plan: RunPlan, now_ms: int, *, paused: bool = False) -> Reply:
        """Start a run; one with seeds goes on where they end."""
        run = self._machine(plan, now_ms, now_ms)
        self._begun.append((plan, now_ms))
        self._events.append(("run", plan.run_id, plan.workflow_id, TaskState.RUNNING, now_ms))
        if paused:
            self._hold(run, paused, now_ms)
        if plan.seeds:
            seeds = {seed.step: seed if seed.state >= StepState.SUCCEEDED else
                     msgspec.structs.replace(seed, started_ms=now_ms) for seed in plan.seeds}
            self._rows.extend((plan.run_id, seed.step, seed.state, seed.ref, seed.started_ms,
                               seed.finished_ms, seed.data) for seed in seeds.values())
            self._restore(run, seeds, now_ms)
            run.machine.settle()
        else:
            run.machine.begin(now_ms)
        self._carry_out(run, now_ms)
        return ACCEPTED

    def cancel(self, run_id: int, now_ms: int) -> Reply:
        """Ask a run to end: what runs of it is canceled, and when that has ended the run has."""
        run = self.live.get(run_id)
        if run is None:
            return Reply("wrong_state", "the run has ended")
        if not run.cancel_ms:
            run.cancel_ms = now_ms
            self._stop(run, StepState.CANCELED, now_ms)
        return ACCEPTED

    def act(self, command: flow.RunAct, now_ms: int) -> Reply:
        """Pause or resume a run, or do something to a step by hand."""
        run = self.live.get(command.run_id)
        if run is None:
            return Reply("wrong_state", "the run has ended")
        machine = run.machine
        if command.step:
            reply = self._act_on_step(machine, command, now_ms)
        elif machine.stopping >= 0:
            return Reply("wrong_state", "the run is being ended")
        else:
            reply = ACCEPTED
            self._hold(run, command.action == "pause", now_ms)
        self._carry_out(run, now_ms)
        return reply

    def _hold(self, run: LiveRun, paused: bool, now_ms: int) -> None:
        """Pause or resume a run and its sub-workflows: what is paused begins nothing anywhere."""
        machine, plan = run.machine, run.plan
        for live in list(machine.live.values()):
            child = self.live.get(live.ref) if live.kind == StepKind.WORKFLOW else None
            if child is not None and child.machine.stopping < 0:
                self._hold(child, paused, now_ms)
                self._carry_out(child, now_ms)
        if machine.paused == paused:
            return
        run.paused_ms = now_ms if paused else 0
        self._events.append(("run", plan.run_id, plan.workflow_id,
                             -1 if paused else TaskState.RUNNING, now_ms))
        self._mark(run)
        if paused:
            machine.paused = True
        else:
            machine.resume(now_ms)

    def _act_on_step(self, machine: Machine, command: flow.RunAct, now_ms: int) -> Reply:
        found = find(machine, command.step)
        if found is None:
            return Reply("not_found", "there is no such step, or its iteration is not under way")
        frame, node = found
        step = frame.base + node.at
        if command.action == "skip":
            if machine.skip(frame, node.at, now_ms):
                return ACCEPTED
            return Reply("wrong_state", "only a step that has not begun, or waits, is skipped")
        wanted = StepKind.WAIT if command.action == "complete" else StepKind.APPROVAL
        live = machine.live.get(step)
        if live is None or node.kind != wanted or (node.kind == StepKind.WAIT and not node.event):
            return Reply("wrong_state", f"the step does not wait for {command.action}")
        payload = None if command.value is None else DECODE(command.value)
        value: Value = payload
        if node.kind == StepKind.APPROVAL:
            value = {"approved": command.action == "approve", "payload": payload}
        machine.answer(step, StepState.FAILED if command.action == "reject"
                       else StepState.SUCCEEDED, value, now_ms)
        return ACCEPTED

    def advance(self, ended: Ended, now_ms: int) -> None:
        """A task of a run is over."""
        run = self.live.get(ended.run_id)
        if run is None:
            return
        live = run.machine.live.get(ended.step)
        if live is None or live.ref != ended.task_id:
            return
        if ended.step < run.outer:
            run.ends[ended.step] = StepEnd(ended.step, ended.state, ended.task_id, ended.attempt,
                                           ended.started_ms, ended.ended_ms)
        node = live.frame.scope.nodes[live.at]
        result, error = None, None
        if node.keep:
            result, error = self._said(ended)
        run.machine.ended(ended.step, ended.state, result, error, now_ms)
        self._carry_out(run, now_ms)

    def refused(self, command: Submit | Cancel, reply: Reply, now_ms: int) -> None:
        """The core takes no more tasks: the step has failed. A task to cancel is over already."""
        run = self.live.get(command.run_id) if isinstance(command, Submit) else None
        if run is not None and isinstance(command, Submit):
            error = (reply.code, reply.detail or "the task was refused")
            run.machine.refused(command.step, error, now_ms)
            self._carry_out(run, now_ms)

    def _said(self, ended: Ended) -> tuple[bytes | None, tuple[str, str] | None]:
        """(result, error) of a task that somebody refers to."""
        found = error_of(ended)
        error = None if found is None else (found.code, found.message)
        report = ended.report
        if report is None:
            return None, error
        if not report.blob:
            return report.result, error
        try:
            return self.read_blob(report.blob), error
        except ValueLost:
            return b"null", error       # who refers to a part of it is told that there is none

    def tick(self, now_ms: int) -> None:
        """Timers that are due, and runs that had more to decide than one turn allows."""
        while self._timers and self._timers[0][0] <= now_ms:
            _, run_id, step = heappop(self._timers)
            run = self.live.get(run_id)
            if run is None:
                continue
            if step >= 0:
                run.machine.due(step, now_ms)
                self._carry_out(run, now_ms)
            elif step == LATE:
                if run.machine.after:       # what follows has had its time too
                    self._stop(run, run.machine.final, now_ms)
            elif run.machine.stopping < 0 and not run.machine.after:
                self._stop(run, StepState.TIMEOUT, now_ms)
        busy, self._busy = self._busy, {}
        for run_id in busy:
            run = self.live.get(run_id)
            if run is not None:
                run.machine.now_ms = now_ms
                run.machine.settle()
                self._carry_out(run, now_ms)

    def shift(self, ms: int, now_ms: int) -> None:
        """The wall clock was set: what counts elapsed time keeps its distance to now."""
        for run in self.live.values():
            if run.plan.graph.timeout_ms:
                run.begun_ms += ms
                self._keep_begin(run)
            for step, live in run.machine.live.items():
                if live.due_ms and live.frame.scope.nodes[live.at].wait_until is None:
                    live.due_ms += ms
                    self._keep_wait(run, step, now_ms)
        timers, self._timers = self._timers, []
        for due_ms, run_id, step in timers:
            known = self.live.get(run_id)
            if known is None:
                continue
            if step < 0:
                self._timers.append((due_ms + ms, run_id, step))
            elif step in known.machine.live:
                self._timers.append((known.machine.live[step].due_ms, run_id, step))
        heapify(self._timers)

    def _keep_begin(self, run: LiveRun) -> None:
        self._rows.append((run.plan.run_id, flows.BEGUN, StepState.RUNNING, 0, run.begun_ms, 0,
                           None))

    def _keep_wait(self, run: LiveRun, step: int, now_ms: int) -> None:
        live = run.machine.live[step]
        self._rows.append((run.plan.run_id, step, StepState.RUNNING, 0, live.started_ms, 0,
                           msgspec.json.encode(waits_until(live.due_ms, now_ms))))

    def next_due_ms(self) -> int | None:
        """When `tick` is wanted at the latest; 0 = at once."""
        if self._busy or self._children:
            return 0
        return self._timers[0][0] if self._timers else None

    # ------------------------------------------------------------ what follows

    def _machine(self, plan: RunPlan, created_ms: int, begun_ms: int) -> LiveRun:
        params: Value = None if plan.payload is None else DECODE(plan.payload)
        machine = Machine(plan.graph, {} if params is None else params, {
            "id": f"{plan.run_id:015x}", "workflowId": f"{plan.workflow_id:015x}",
            "name": plan.graph.name, "version": plan.version, "createdAt": created_ms})
        run = self.live[plan.run_id] = LiveRun(plan, machine, begun_ms)
        if plan.graph.timeout_ms:
            heappush(self._timers, (begun_ms + plan.graph.timeout_ms, plan.run_id, TIME_OUT))
            if plan.graph.after:
                heappush(self._timers, (begun_ms + 2 * plan.graph.timeout_ms, plan.run_id, LATE))
        return run

    def _restore(self, run: LiveRun, seeds: dict[int, Seed], now_ms: int) -> None:
        for seed in seeds.values():
            if seed.state >= StepState.SUCCEEDED and seed.step < run.outer:
                run.ends[seed.step] = StepEnd(seed.step, seed.state, seed.ref, seed.attempt,
                                              seed.started_ms, seed.finished_ms)
        restorer = Restorer(run.machine, seeds, now_ms)
        restorer.run()
        for step in restorer.nearer:
            self._keep_wait(run, step, now_ms)

    def _stop(self, run: LiveRun, state: StepState, now_ms: int) -> None:
        run.paused_ms = 0
        run.machine.stop(state, now_ms)
        self._mark(run)
        self._carry_out(run, now_ms)

    def _mark(self, run: LiveRun) -> None:
        self._marks.append((run.cancel_ms, run.machine.stopping, run.paused_ms, run.plan.run_id))

    def _carry_out(self, run: LiveRun, now_ms: int) -> None:
        """Turn the moves of a run into commands, rows and events."""
        machine, plan = run.machine, run.plan
        run_id = plan.run_id
        while True:
            moves = machine.moves
            machine.moves = Moves()
            for row in moves.rows:
                self._rows.append((run_id, row.step, row.state, row.ref, row.started_ms,
                                   row.finished_ms, row.data))
                if row.step < run.outer and row.state >= StepState.SUCCEEDED \
                        and row.step not in run.ends:
                    run.ends[row.step] = StepEnd(row.step, row.state, row.ref, 0, row.started_ms,
                                                 row.finished_ms)
            for name, state in moves.news:
                self._events.append(("step", run_id, plan.workflow_id, name, state, now_ms))
            for due_ms, step in moves.timers:
                heappush(self._timers, (due_ms, run_id, step))
            for step, node, payload in moves.begin:
                if node.kind == StepKind.TASK:
                    self._submit(run, step, node, payload)
                else:
                    self._children.append((run, step, node, payload))
            for live in moves.stop:
                if live.kind == StepKind.WORKFLOW:
                    self.cancel(live.ref, now_ms)
                elif live.ref:
                    self._commands.append(Cancel(live.ref))
            if moves.end >= 0:
                self._finish(run, moves, now_ms)
                return
            if not (machine.moves.rows or machine.moves.begin or machine.moves.end >= 0):
                break
        if machine.busy:
            self._busy[run_id] = None

    def _submit(self, run: LiveRun, step: int, node: Node, payload: bytes | None) -> None:
        """A step's task; the run's payload lies over the step's where there are no `params`."""
        task, plan = node.task, run.plan
        assert task is not None
        base = task.payload if payload is None else flow.merge(task.payload, payload)
        if plan.payload is not None and plan.graph.params is None \
                and task.kind != Kind.OS_PROCESS:
            base = flow.merge(base, plan.payload)
        task_id = self.new_id()
        run.machine.live[step].ref = task_id
        self._commands.append(msgspec.structs.replace(
            task, task_id=task_id, run_id=plan.run_id, step=step, payload=base))

    def _begin_child(self, run: LiveRun, step: int, node: Node, payload: bytes | None,
                     now_ms: int) -> None:
        """A run of another workflow, in the version that this run pins."""
        plan, error = run.plan, None
        live = run.machine.live[step]
        if run.machine.stopping >= 0:
            run.machine.ended(step, StepState.CANCELED, None, None, now_ms)
            self._carry_out(run, now_ms)
            return
        given = payload if payload is not None else node.fixed_payload
        if plan.depth + 1 > DEPTH_MAX:
            error = ("too_deep", f"workflows nest deeper than {DEPTH_MAX} levels")
        else:
            try:
                child = self.planner.plan(self.new_id(), node.workflow_id, given,
                                          version=plan.pins[node.pin])
            except PlumError as refusal:
                error = (refusal.code, refusal.detail)
        if error is not None:
            run.machine.refused(step, error, now_ms)
            self._carry_out(run, now_ms)
            return
        live.ref = child.run_id
        self._rows.append((plan.run_id, step, StepState.RUNNING, child.run_id, now_ms, 0, None))
        child = msgspec.structs.replace(child, parent=(plan.run_id, step), depth=plan.depth + 1)
        self.begin(child, now_ms, paused=run.machine.paused)

    def _finish(self, run: LiveRun, moves: Moves, now_ms: int) -> None:
        plan, state = run.plan, moves.end
        del self.live[plan.run_id]
        if len(self._timers) > self._sweep_at:
            self._sweep()
        ends = [run.ends.get(step) or StepEnd(step, -1, 0) for step in range(run.outer)]
        self._ended.append(RunEnd(plan.run_id, state, now_ms, ends, moves.result, moves.error))
        self._events.append(("run", plan.run_id, plan.workflow_id, state, now_ms))
        parent = self.live.get(plan.parent[0])
        if parent is not None:
            error = None
            if state != StepState.SUCCEEDED:
                word = TaskState(state).name
                message = f"the run {plan.run_id:015x} ended as {word.capitalize()}"
                error = moves.error or (f"run_{word.lower()}", message)
            parent.machine.ended(plan.parent[1], state, moves.result, error, now_ms)
            self._carry_out(parent, now_ms)

    def _sweep(self) -> None:
        """Forget the timers of runs that are over: a short run with a long timeout leaves one."""
        self._timers = [timer for timer in self._timers if timer[1] in self.live]
        heapify(self._timers)
        self._sweep_at = max(TIMERS_SWEPT, 2 * len(self._timers))

    def take_commands(self, now_ms: int) -> list[Submit | Cancel]:
        """What the core is to do. Sub-workflows begin here and not where their steps do: one that
        is over at once leads to the next, and so on, which no stack would bear."""
        for _ in range(CHILDREN_MAX):
            if not self._children:
                break
            self._begin_child(*self._children.popleft(), now_ms)
        commands, self._commands = self._commands, []
        return commands

    def take(self) -> tuple[RunChange, list[Event]]:
        """What is to be written, and the events, since the last call."""
        change = RunChange(self._begun, self._marks, self._ended, self._rows)
        events, self._events = self._events, []
        self._begun, self._marks, self._ended, self._rows = [], [], [], []
        return change, events

    # ------------------------------------------------------------ after a restart

    def load(self, plan: RunPlan, row: flows.LiveRow, seeds: dict[int, Seed],
             now_ms: int) -> None:
        """Take up a run of before the restart. If the clock was set back meanwhile, its time limit
        counts from now, and what it waits for lasts as long again as was left when that was
        written: how much of it is over nobody knows.
        """
        run = self._machine(plan, row.created_ms, min(row.begun_ms, now_ms))
        if run.begun_ms < row.begun_ms and plan.graph.timeout_ms:
            self._keep_begin(run)
        run.cancel_ms, run.paused_ms = row.cancel_ms, row.paused_ms
        run.machine.stopping = row.stop
        run.machine.paused = row.paused_ms > 0
        try:
            self._restore(run, seeds, now_ms)
        except (Failure, msgspec.DecodeError):
            del self.live[plan.run_id]
            raise
        for due_ms, step in run.machine.moves.timers:
            heappush(self._timers, (due_ms, plan.run_id, step))
        run.machine.moves = Moves()
        self._busy[plan.run_id] = None

    def release_lost(self, now_ms: int) -> None:
        """A sub-workflow whose run could not be taken up has failed."""
        for run in list(self.live.values()):
            for step, live in list(run.machine.live.items()):
                if live.kind == StepKind.WORKFLOW and live.ref not in self.live:
                    run.machine.ended(step, StepState.FAILED, None,
                                      ("lost", "its run could not be read"), now_ms)


def load(runs: Runs, now_ms: int, bad: list[Unreadable]) -> None:
    """Take up all live runs; one that cannot be read is reported in bad and left."""
    planner = runs.planner
    store = planner.catalog.store
    for row in store.peek(flows.live):
        try:
            plan = planner.replan(row)
            runs.load(plan, row, store.peek(flows.seeds, row.id), now_ms)
        except (NotFound, Invalid, Failure, msgspec.DecodeError, ValueError,
                RecursionError) as error:
            bad.append(Unreadable("workflow_run", str(row.id), str(error)))
    runs.release_lost(now_ms)
