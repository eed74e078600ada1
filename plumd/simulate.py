"""Runs of a workflow in virtual time: the real core and the real flow, with drawn durations.

Nothing here waits or reads a clock. Time jumps to the next thing that happens: an attempt ends, a
timer of the core or of a run is due. What a step's tasks take and how often they fail is given,
or drawn from what was seen; every draw is a function of seed, sample, step and attempt, so another
number of workers meets the very same durations, and a difference is one that the workers made.

Simulated are slots, not machines: a target (node, labels, service) is met by any slot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from heapq import heappop, heappush
from typing import Final

import msgspec

from plumd import _sched
from plumd.clock import Instant
from plumd.executors import builtin
from plumd.executors.builtin_payloads import TYPES
from plumd.flow.find import find
from plumd.flow.graph import RunAct, RunPlan, StepKind
from plumd.flow.rules import StepState
from plumd.model import (
    BUILTIN_POOL,
    Cancel,
    Ending,
    Finish,
    Join,
    Kind,
    Limits,
    Nap,
    Reply,
    Submit,
    TaskError,
    WorkerKind,
)
from plumd.planner import Planner
from plumd.runs import Runs

ANY: Final = "any task"
BUILTIN: Final = "builtin"
HAPPENINGS_MAX: Final = 60_000
"""So many starts and ends of tasks, and ends of other steps, one sample simulates at most."""
SLICE: Final = 100
"""After so many tasks and steps that were made, begun or ended the caller has its turn."""
DAYS_MAX: Final = 3_660
FOR_EVER_MS: Final = 4 * 10**12


class Profile(msgspec.Struct, frozen=True):
    """What is believed of a step's attempts. durations_s: one of these, or between the two of
    `between`; failure_rate: 0 .. 1; result: JSON that a success answers, None = null."""

    durations_s: tuple[float, ...] = (1.0,)
    between: bool = False
    failure_rate: float = 0.0
    result: bytes | None = None


class Pool(msgspec.Struct, frozen=True):
    """Workers: so many slots for tasks of these names, or for any."""

    slots: int
    names: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """What is simulated. profiles: by a step's id.  count: so many runs, one every every_ms."""

    pools: tuple[Pool, ...]
    profiles: Mapping[str, Profile]
    default: Profile
    seed: int = 0
    count: int = 1
    every_ms: int = 0


class Bar(msgspec.Struct):
    """A step instance in a run, in ms from the beginning. started_ms: of its first attempt, -1 =
    none; finished_ms: -1 = it never ended.  run_ms: of all its attempts together."""

    run: int
    name: str
    ready_ms: int
    started_ms: int = -1
    finished_ms: int = -1
    state: int = StepState.PENDING
    attempts: int = 0
    run_ms: int = 0
    outer: int = -1
    """Its place among the steps of the workflow; -1 = it is inside one."""


class Work(msgspec.Struct, frozen=True):
    """An attempt that goes on. slot: whether it takes one."""

    worker: str
    begun_ms: int
    slot: bool


class Outcome(msgspec.Struct):
    """One sample. ends: (state, begun, over) of each run; state -1 = it did not end."""

    bars: list[Bar] = []
    ends: list[tuple[int, int, int]] = []
    busy_ms: int = 0
    makespan_ms: int = 0
    stopped: str = ""
    """Why it was broken off, "" = it was not."""


def draw(*words: object) -> float:
    """A number in [0, 1) that belongs to these words."""
    text = "/".join(map(str, words)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big") / (1 << 56)


class Simulation:
    """One sample."""

    def __init__(self, plan: Plan, planner: Planner, begin: Callable[[int], RunPlan],
                 sample: int, wall_ms: int) -> None:
        """begin: run id -> its plan."""
        self.plan = plan
        self.begin = begin
        self.sample = sample
        self.base = Instant(0, wall_ms * 1_000_000)
        self.now = self.base
        self.last_id = 0
        self.core = _sched.Scheduler(Limits(), plan.seed + sample)
        self.runs = Runs(planner, self.new_id, no_blob)
        self.outcome = Outcome([], [])
        self.names = frozenset(name for pool in plan.pools for name in pool.names)
        self.bars: dict[tuple[int, str], Bar] = {}
        self.order: dict[int, int] = {}
        """run -> which of the simulated ones it is, or belongs to"""
        self.above: dict[int, str] = {}
        """run -> the step whose sub-workflow it is, as the beginning of its steps' names"""
        self.firsts: set[int] = set()
        """Those that are no parts of others."""
        self.tasks: dict[int, tuple[Submit, str]] = {}
        self.working: dict[tuple[int, int], Work] = {}
        self.coming: list[tuple[int, int, Callable[[], None]]] = []
        """(when, in which order, what)"""
        self.happened = self.spent = 0
        for number, pool in enumerate(plan.pools):
            self.join(f"w{number}", pool.names or (ANY,), pool.slots)
        self.join(BUILTIN, (BUILTIN_POOL,), 1 << 30, WorkerKind.LOCAL)

    def new_id(self) -> int:
        """Ids count."""
        self.last_id += 1
        return self.last_id

    def join(self, name: str, tasks: tuple[str, ...], slots: int,
             kind: int = WorkerKind.SESSION) -> None:
        """A worker is there for good."""
        self.core.apply(Join(name, kind, "s", tasks, capacity=slots, lease_ms=FOR_EVER_MS),
                        self.now)

    @property
    def at_ms(self) -> int:
        """The virtual time since the beginning."""
        return (self.now.mono_ns - self.base.mono_ns) // 1_000_000

    # ------------------------------------------------------------ the wheel

    def run(self) -> Iterator[None]:
        """Simulate; gives way now and then. `outcome` is there afterwards."""
        begun = 0
        while True:
            while begun < self.plan.count and self.at_ms >= begun * self.plan.every_ms:
                self.begin_run(begun)
                begun += 1
                yield
            yield from self.settle()
            if (begun == self.plan.count and not self.runs.live) or not self.advance_time(begun):
                break
        self.outcome.makespan_ms = self.at_ms

    def begin_run(self, number: int) -> None:
        """One more run begins."""
        run_id = self.new_id()
        self.order[run_id] = number
        self.firsts.add(run_id)
        self.outcome.ends.append((-1, self.at_ms, -1))
        self.runs.begin(self.begin(run_id), self.now.wall_ms)

    def settle(self) -> Iterator[None]:
        """Decide until nothing moves any more, as the engine does; gives way now and then."""
        core, runs = self.core, self.runs
        while True:
            core.tick(self.now)
            runs.tick(self.now.wall_ms)
            while True:
                ends = core.take_run_ends()
                for end in ends:
                    runs.advance(end, self.now.wall_ms)
                commands = runs.take_commands(self.now.wall_ms)
                if not commands and not ends:
                    break
                self.spent += len(ends) + len(commands)
                for command in commands:
                    reply = self.submit(command)
                    if reply.code:
                        runs.refused(command, reply, self.now.wall_ms)
                core.tick(self.now)
                if self.spent >= SLICE:
                    self.spent = 0
                    yield
            self.note_runs()
            _, _, _, _, starts, stops, _, _, _ = core.take()
            for start in starts:
                self.start(start[0], start[2], start[3])
            self.spent += len(starts) + len(stops)
            for worker, task_id, attempt, _ in stops:
                self.end(Finish(task_id, attempt, worker, Ending.CANCELED))
            if self.spent >= SLICE:
                self.spent = 0
                yield
            due_ms = runs.next_due_ms()
            if self.happened > HAPPENINGS_MAX or (not starts and not stops and (
                    due_ms is None or due_ms > self.now.wall_ms)):
                return

    def submit(self, command: Submit | Cancel) -> Reply:
        """A task, made ready for slots that are not machines."""
        if isinstance(command, Submit):
            self.tasks[command.task_id] = (command, self.name_of(command.run_id, command.step))
        if isinstance(command, Submit) and command.target_kind != "builtin" \
                and not command.name.startswith("builtin."):
            name = command.name if command.name in self.names else ANY
            command = msgspec.structs.replace(command, name=name, kind=Kind.EMBEDDED,
                                              target_kind="", target_ref="", blob="")
        return self.core.apply(command, self.now)

    def name_of(self, run_id: int, step: int) -> str:
        """A step that goes on, by its name and those of the steps that it is a part of."""
        machine = self.runs.live[run_id].machine
        live = machine.live[step]
        return self.place_of(run_id) + machine.name_of(live.frame, live.at)

    def place_of(self, run_id: int) -> str:
        """What the names of a run's steps begin with."""
        known = self.above.get(run_id)
        if known is None:
            run = self.runs.live.get(run_id)
            parent, step = (0, 0) if run is None else run.plan.parent
            known = self.above[run_id] = f"{self.name_of(parent, step)}." if parent else ""
        return known

    def advance_time(self, begun: int) -> bool:
        """Jump to what happens next; False when nothing ever will, or it is enough."""
        due = [time_ns for time_ns in (self.core.next_due_ns(),) if time_ns is not None]
        if self.coming:
            due.append(self.coming[0][0])
        due_ms = self.runs.next_due_ms()
        if due_ms is not None:
            due.append(self.now.mono_ns + (due_ms - self.now.wall_ms) * 1_000_000)
        if begun < self.plan.count:
            due.append(self.base.mono_ns + begun * self.plan.every_ms * 1_000_000)
        due = [time_ns for time_ns in due if time_ns < FOR_EVER_MS * 500_000]
        if not due:
            self.outcome.stopped = "something waits for ever"
            return False
        if self.happened > HAPPENINGS_MAX:
            self.outcome.stopped = f"more than {HAPPENINGS_MAX} tasks and ends"
            return False
        at_ns = max(min(due), self.now.mono_ns)
        if at_ns > self.base.mono_ns + DAYS_MAX * 86_400 * 10**9:
            self.outcome.stopped = f"it takes more than {DAYS_MAX} days"
            return False
        self.now = Instant(at_ns, self.base.wall_ns + at_ns - self.base.mono_ns)
        while self.coming and self.coming[0][0] <= at_ns:
            heappop(self.coming)[2]()
        return True

    def later(self, after_ms: int, what: Callable[[], None]) -> None:
        """It happens then; of one moment in the order in which it was said."""
        heappush(self.coming, (self.now.mono_ns + after_ms * 1_000_000, self.new_id(), what))

    # ------------------------------------------------------------ attempts

    def start(self, worker: str, task_id: int, attempt: int) -> None:
        """An attempt has a slot: it is drawn how long it takes, and how it ends."""
        self.happened += 1
        command, name = self.tasks[task_id]
        bar = self.bars[(command.run_id, name)]
        bar.attempts += 1
        bar.state = StepState.RUNNING
        if bar.started_ms < 0:
            bar.started_ms = self.at_ms
        profile = self.plan.profiles.get(name.rpartition(".")[2])
        means = builtin.builtin_of(command.name, command.target_kind, command.target_ref)
        self.working[(task_id, attempt)] = Work(worker, self.at_ms, slot=not means)
        if means and profile is None and means not in TYPES:
            made = builtin.carry_out(means, task_id, attempt, worker, command.payload,
                                     self.now.wall_ms)
            if isinstance(made, Nap):
                self.core.apply(made, self.now)
            else:
                self.later(0, partial(self.end, made))
            return
        profile = profile or self.plan.default
        words = (self.plan.seed, self.sample, bar.run, name, attempt)
        finish = Finish(task_id, attempt, worker, result=profile.result or b"null")
        if draw("failure", *words) < profile.failure_rate:
            finish = Finish(task_id, attempt, worker, Ending.FAILED, error=TaskError(
                "simulated", "it was drawn that it fails"))
        took_s = duration(profile, draw("duration", *words))
        self.later(round(took_s * 1000), partial(self.end, finish))

    def end(self, finish: Finish) -> None:
        """An attempt is over, unless it was stopped before."""
        work = self.working.pop((finish.task_id, finish.attempt), None)
        if work is None:
            return
        self.happened += 1
        command, name = self.tasks[finish.task_id]
        took_ms = self.at_ms - work.begun_ms
        self.bars[(command.run_id, name)].run_ms += took_ms
        if work.slot:
            self.outcome.busy_ms += took_ms
        self.core.apply(finish, self.now)

    # ------------------------------------------------------------ what is told

    def note_runs(self) -> None:
        """Bars of what began and ended, and people's answers to what waits for them."""
        change, events = self.runs.take()
        self.spent += len(events)
        for plan, _ in change.begun:
            if plan.parent[0]:
                self.order[plan.run_id] = self.order[plan.parent[0]]
        for event in events:
            if event[0] == "step":
                self.note_step(int(event[1]), str(event[3]), int(event[4]))
        for end in change.ended:
            number = self.order[end.run_id]
            if end.run_id in self.firsts:
                self.outcome.ends[number] = (end.state, self.outcome.ends[number][1], self.at_ms)

    def note_step(self, run_id: int, step: str, state: int) -> None:
        name = self.place_of(run_id) + step
        known = self.bars.get((run_id, name))
        if known is None:
            run = self.runs.live.get(run_id)
            place = None if run is None else run.plan.graph.root.places.get(step)
            known = self.bars[(run_id, name)] = Bar(
                self.order[run_id], name, self.at_ms,
                outer=-1 if place is None or run_id not in self.firsts else place)
            self.outcome.bars.append(known)
        known.state = state
        if state == StepState.RUNNING and known.started_ms < 0:
            known.started_ms = self.at_ms
        if state == StepState.RUNNING:
            self.answer(run_id, step)
        if state >= StepState.SUCCEEDED:
            known.finished_ms = self.at_ms
            if not known.attempts:      # a step without a task: loops of them go on for long too
                self.happened += 1

    def answer(self, run_id: int, name: str) -> None:
        """Somebody's word for an approval, or the event that is waited for, after as long as the
        step's profile says; the failure rate is that of a no."""
        run = self.runs.live.get(run_id)
        found = None if run is None else find(run.machine, name)
        if found is None or not (found[1].kind == StepKind.APPROVAL or found[1].event):
            return
        node = found[1]
        profile = self.plan.profiles.get(node.id, NO_TIME)
        words = (self.plan.seed, self.sample, self.order[run_id], self.place_of(run_id) + name)
        action = "complete"
        if node.kind == StepKind.APPROVAL:
            action = "reject" if draw("no", *words) < profile.failure_rate else "approve"
        command = RunAct(run_id, action, name, profile.result)
        self.later(round(duration(profile, draw("word", *words)) * 1000),
                   lambda: self.act(command))

    def act(self, command: RunAct) -> None:
        """Somebody's word."""
        self.runs.act(command, self.now.wall_ms)



NO_TIME: Final = Profile(durations_s=(0.0,))


def duration(profile: Profile, chance: float) -> float:
    """How long, in s."""
    values = profile.durations_s
    if profile.between:
        return values[0] + (values[1] - values[0]) * chance
    return values[min(int(chance * len(values)), len(values) - 1)]


def no_blob(digest: str) -> bytes:
    """There are none."""
    raise FileNotFoundError(digest)
