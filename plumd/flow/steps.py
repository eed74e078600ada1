"""What each type of step does when it begins, and how loops and maps turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from plumd.expressions import Failure, Value, truth
from plumd.flow import data
from plumd.flow.graph import Node, StepKind, Template
from plumd.flow.moments import moment_ms
from plumd.flow.rules import Count, On, Rule, StepState, count_of, over_edge
from plumd.flow.sight import Sight
from plumd.flow.state import Frame, Live, Loop, waits_until

if TYPE_CHECKING:
    from plumd.flow.machine import Machine

NUMBER_MAX: Final = (1 << 31) - 1
ITEMS_MAX: Final = 100_000
RESULTS_BYTES_MAX: Final = 16 << 20
Begin: TypeAlias = "Callable[[Machine, Frame, Node], None]"



def running(machine: Machine, frame: Frame, node: Node, *, due_ms: int = 0) -> None:
    """A step that waits for something outside."""
    step = frame.base + node.at
    frame.states[node.at] = StepState.RUNNING
    machine.live[step] = Live(frame, node.at, node.kind, 0, machine.now_ms, due_ms)
    if due_ms:
        machine.moves.timers.append((due_ms, step))
    machine.moves.news.append((machine.name_of(frame, node.at), StepState.RUNNING))


def begin_task(machine: Machine, frame: Frame, node: Node) -> None:
    """A task, or a run of another workflow."""
    payload = None
    if node.payload is not None:
        payload = data.fill_bytes(node.payload, Sight(machine, frame))
    step = frame.base + node.at
    frame.states[node.at] = StepState.PENDING
    machine.live[step] = Live(frame, node.at, node.kind, 0, machine.now_ms)
    machine.moves.begin.append((step, node, payload))
    machine.moves.news.append((machine.name_of(frame, node.at), StepState.PENDING))


def begin_branch(machine: Machine, frame: Frame, node: Node) -> None:
    """Decide; the edges say who cares."""
    assert node.condition is not None
    outcome = truth(node.condition.eval(Sight(machine, frame)))
    frame.outcomes[node.at] = outcome
    machine.done(frame, node.at, StepState.SUCCEEDED, outcome, machine.now_ms)


def begin_parallel(machine: Machine, frame: Frame, node: Node) -> None:
    """A place where ways part or meet."""
    machine.done(frame, node.at, StepState.SUCCEEDED, None, machine.now_ms)


def begin_wait(machine: Machine, frame: Frame, node: Node) -> None:
    """Wait so long, until then, or for an event."""
    look = Sight(machine, frame)
    if node.event:
        due_ms = machine.now_ms + node.timeout_ms if node.timeout_ms else 0
    elif node.wait is not None:
        seconds = data.fill(node.wait, look)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) \
                or not 0 <= seconds <= 315_360_000:
            raise Failure("seconds is a number from 0 to ten years")
        due_ms = machine.now_ms - int(-seconds * 1000 // 1)
    else:
        assert node.wait_until is not None
        due_ms = moment_ms(data.fill(node.wait_until, look))
    if due_ms and due_ms <= machine.now_ms:
        machine.done(frame, node.at, StepState.SUCCEEDED, None, machine.now_ms)
        return
    running(machine, frame, node, due_ms=due_ms)
    machine.row(frame, node.at, StepState.RUNNING, 0, machine.now_ms, None,
                data={"dueMs": due_ms} if node.wait_until is not None
                else waits_until(due_ms, machine.now_ms))


def begin_approval(machine: Machine, frame: Frame, node: Node) -> None:
    """Wait for somebody's word."""
    due_ms = machine.now_ms + node.timeout_ms if node.timeout_ms else 0
    running(machine, frame, node, due_ms=due_ms)
    machine.row(frame, node.at, StepState.RUNNING, 0, machine.now_ms, None,
                data=waits_until(due_ms, machine.now_ms))


# ---------------------------------------------------------------- loops and maps

def begin_loop(machine: Machine, frame: Frame, node: Node) -> None:
    """Find out how often, and take numbers for all that may come."""
    look, items, total = Sight(machine, frame), None, -1
    if node.items is not None:
        items, total = items_of(machine, frame, node.items)
    elif node.count is not None:
        total = whole(data.fill(node.count, look), "count is a whole number")
    if total > ITEMS_MAX:
        raise Failure(f"there are {total} iterations; at most {ITEMS_MAX} are allowed")
    assert node.body is not None
    loop = Loop(frame, node, machine.next_base, total, items, machine.now_ms)
    if machine.next_base + loop.room > NUMBER_MAX:
        raise Failure("the run has too many steps")
    machine.next_base += loop.room
    frame.states[node.at] = StepState.RUNNING
    machine.loops[frame.base + node.at] = loop
    machine.moves.news.append((machine.name_of(frame, node.at), StepState.RUNNING))
    facts: dict[str, Value] = {"base": loop.base, "total": total, "room": loop.room}
    if items is not None:
        facts["items"] = items
    machine.row(frame, node.at, StepState.RUNNING, 0, machine.now_ms, None, data=facts)
    machine.turning.append(loop)


def items_of(machine: Machine, frame: Frame, items: Template) -> tuple[list[Value] | None, int]:
    """(the items, None when they are only counted, how many). Raises: Failure."""
    value = data.fill(items, Sight(machine, frame))
    if isinstance(value, dict):
        value = [{"key": key, "value": inner} for key, inner in value.items()]
    if isinstance(value, list):
        return value, len(value)
    return None, whole(value, "items is a list, an object or a number")


def whole(value: Value, message: str) -> int:
    """Raises: Failure unless it is a whole number from 0."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Failure(message)
    return value


def turn(machine: Machine, loop: Loop) -> None:
    """Begin one more iteration, or end the loop; it comes again while there is more to begin."""
    step = loop.frame.base + loop.at
    if machine.loops.get(step) is not loop:
        return
    if machine.stopping >= 0:
        loop.end = machine.stopping
    if loop.end < 0:
        if machine.paused or len(loop.active) >= loop.node.concurrency:
            return
        try:
            if more(machine, loop):
                begin_iteration(machine, loop)
                machine.turning.append(loop)
                return
        except Failure as failure:
            loop.end = StepState.FAILED
            loop.error = ("expression_failed", str(failure))
    if not loop.active:
        end_loop(machine, loop, step)


def more(machine: Machine, loop: Loop) -> bool:
    """Whether another iteration begins. Raises: Failure."""
    node = loop.node
    if loop.left:
        return True
    if 0 <= loop.total <= loop.started:
        return False
    if loop.active and (node.while_ is not None or node.until is not None):
        return False
    previous = loop.previous
    if node.until is not None and previous is not None \
            and truth(node.until.eval(Sight(machine, previous))):
        return False
    if node.while_ is not None:
        assert node.body is not None
        seen = previous or Frame(node.body, loop.base, loop, 0)
        if not truth(node.while_.eval(Sight(machine, seen))):
            return False
    if loop.total < 0 and loop.started >= node.limit:
        raise Failure(f"it went round {node.limit} times, which is its maxIterations")
    return True


def begin_iteration(machine: Machine, loop: Loop) -> None:
    """One more frame of the body."""
    assert loop.node.body is not None
    if loop.left:
        number = loop.left.popleft()
    else:
        number = loop.started
        loop.started += 1
    frame = Frame(loop.node.body, loop.base + number * loop.size, loop, number)
    loop.active[number] = frame
    machine.open(frame)


def iteration_over(machine: Machine, loop: Loop, frame: Frame) -> None:
    """A body's frame is over: its result is kept if somebody asks for it, and the loop turns."""
    del loop.active[frame.number]
    count_iteration(machine, loop, frame)
    machine.turning.append(loop)


def count_iteration(machine: Machine, loop: Loop, frame: Frame) -> None:
    """What the end of an iteration means for its loop."""
    loop.done += 1
    loop.previous = frame
    state = machine.outcome_of(frame)
    if state == StepState.SUCCEEDED and frame.scope.result is not None:
        try:
            loop.last = data.bearable(data.fill(frame.scope.result, Sight(machine, frame)))
            if loop.keeps:
                keep_result(loop, frame.number)
        except Failure as failure:
            state = StepState.FAILED
            loop.error = ("expression_failed", str(failure))
    if state != StepState.SUCCEEDED:
        loop.failures += 1
        if loop.failures > loop.node.max_failures and loop.end < 0:
            loop.end = state


def keep_result(loop: Loop, number: int) -> None:
    """Keep the last result for the list of all. Raises: Failure when they grow too large."""
    loop.results[number] = loop.last
    loop.bytes += len(data.ENCODE(loop.last))
    if loop.bytes > RESULTS_BYTES_MAX:
        raise Failure(f"its results take more than {RESULTS_BYTES_MAX} bytes")


def end_loop(machine: Machine, loop: Loop, step: int) -> None:
    """All iterations are over, and no more begin."""
    del machine.loops[step]
    state = loop.end if loop.end >= 0 else StepState.SUCCEEDED
    result: dict[str, Value] = {"count": loop.done, "failed": loop.failures, "last": loop.last}
    if loop.keeps:
        result["results"] = [loop.results.get(number) for number in range(loop.started)]
    error = None
    if state != StepState.SUCCEEDED:
        message = f"{loop.failures} of {loop.done} iterations did not succeed"
        error = loop.error or ("iteration_failed", message)
    facts: dict[str, Value] = {"base": loop.base, "room": loop.room, "total": loop.total,
                               "count": loop.done, "failed": loop.failures}
    if state != StepState.SUCCEEDED:
        facts["items"] = loop.items     # whoever tries it again goes through the same ones
    machine.done(loop.frame, loop.at, state, result, loop.begun_ms, error, facts)


BEGIN: Final[dict[StepKind, Begin]] = {
    StepKind.TASK: begin_task, StepKind.WORKFLOW: begin_task, StepKind.BRANCH: begin_branch,
    StepKind.PARALLEL: begin_parallel, StepKind.LOOP: begin_loop, StepKind.MAP: begin_loop,
    StepKind.WAIT: begin_wait, StepKind.APPROVAL: begin_approval,
}


# ---------------------------------------------------------------- small questions

def cared_for(frame: Frame, node: Node) -> bool:
    """Whether a failure was foreseen: by the step itself, or by one that began because of it."""
    state = frame.states[node.at]
    if node.forgiven and state in (StepState.FAILED, StepState.TIMEOUT):
        return True
    for at, on in node.out:
        behind = frame.scope.nodes[at]
        if frame.states[at] == StepState.SUCCEEDED and (
                on == On.FAILURE
                or (behind.rule in (Rule.ALL_FAILED, Rule.ONE_FAILED)
                    and over_edge(state, on, False, node.forgiven) == Count.FAILURE)):
            return count_of(state) == Count.FAILURE
    return False
