"""The compiled core against the slow plain model: the same commands, the same decisions."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from plumd._sched import Scheduler
from plumd.clock import Instant
from plumd.model import (
    Ahead,
    Cancel,
    CoreCommand,
    Detach,
    Drain,
    Ending,
    Finish,
    Join,
    Leave,
    Limits,
    Nap,
    Start,
    Submit,
    TaskState,
    WorkerKind,
)
from tests.sched.plain import Plain

MS = 10**6
EPOCH_MS = 1_700_000_000_000
LIMITS = Limits(idle_classes_max=2, backoff_base_ms=100, backoff_cap_ms=500, lost_extra=1,
                stop_grace_ms=300, age_ms_per_priority=50)
NAMES = ("a", "b", "builtin.delay")
TARGETS = (("", ""), ("", ""), ("node", "n1"), ("worker", "w1"), ("labels", "x=1"))
WORKERS = ("w0", "w1", "node:w2")


class CoreMachine(RuleBasedStateMachine):
    """Every rule is applied to both; afterwards both must tell the same."""

    def __init__(self) -> None:
        super().__init__()
        self.ns = EPOCH_MS * MS
        self.core = Scheduler(LIMITS, 7)
        self.plain = Plain(LIMITS)
        self.plain.delay_ms = self.delay_ms
        self.last_id = 0
        self.session = 0
        self.attempts: list[tuple[str, int, int]] = []      # every start that was ever told
        self.ended: dict[int, TaskState] = {}
        self.counted = dict.fromkeys(("submitted", "lost", "ran", "stale"), 0)
        self.runs: list[int] = []       # ns from started to ended
        self.began: dict[tuple[int, int], int] = {}     # (task, attempt) -> ns of its first start
        self.set_ms = 0                 # how far the wall clock was set

    def delay_ms(self, task_id: int) -> int:
        causes = self.core.why(task_id)
        assert causes is not None
        assert causes[0].code == "retry_wait"
        return causes[0].until_ms - self.wall_ms

    @property
    def wall_ms(self) -> int:
        return self.ns // MS + self.set_ms

    @property
    def now(self) -> Instant:
        return Instant(self.ns, self.ns + self.set_ms * MS)

    def both(self, command: CoreCommand, decide: Callable[[], str]) -> None:
        reply = self.core.apply(command, self.now)
        assert reply.code == decide(), (command, reply)
        self.counted["submitted"] += isinstance(command, Submit) and reply.ok
        self.counted["stale"] += isinstance(command, Finish) and reply.code == "stale_attempt"
        self.settle()

    def settle(self) -> None:
        """A tick and a step of both, compared."""
        self.core.tick(self.now)
        self.plain.tick(self.ns)
        created, changed, ended, events, starts, stops, kicks, joined, gone = self.core.take()
        del created, changed, events, stops, kicks, joined, gone
        assert sorted((s[0], s[2], s[3]) for s in starts) == sorted(self.plain.starts)
        self.plain.starts.clear()
        for start in starts:
            self.attempts.append((start[0], start[2], start[3]))
            self.began.setdefault((start[2], start[3]), self.ns)
        for one in ended:
            if one.started_ms:
                self.runs.append(self.ns - self.began[one.task_id, one.attempt])
                self.counted["lost"] += (one.ending == Ending.LOST
                                         and one.code != "returned")
            if one.state >= TaskState.SUCCEEDED:
                assert one.task_id not in self.ended, "a terminal state changed"
                self.ended[one.task_id] = TaskState(one.state)
        assert self.ended == self.plain.over
        self.meters()

    def meters(self) -> None:
        """What the core counted is what it told."""
        met, ends = self.core.meters(), list(self.ended.values())
        assert (met.submitted, met.started, met.lost, met.stale) == (
            self.counted["submitted"], len(set(self.attempts)), self.counted["lost"],
            self.counted["stale"])
        assert (met.succeeded, met.failed, met.timeout, met.canceled) == tuple(
            ends.count(state) for state in (TaskState.SUCCEEDED, TaskState.FAILED,
                                            TaskState.TIMEOUT, TaskState.CANCELED))
        assert met.run_us * 1000 == sum(self.runs)
        expected = [0] * len(met.run)
        for ns in self.runs:
            expected[(ns // 1000).bit_length()] += 1
        assert list(met.run) == expected
        assert sum(met.wait) == met.started
        live = [worker for worker in self.plain.workers.values()
                if worker.attached and worker.join.kind != WorkerKind.LOCAL]
        busy = [min(len(worker.held), worker.join.capacity) for worker in live]
        assert self.core.slots() == (
            sum(taken if self.plain.drains(worker) else worker.join.capacity
                for worker, taken in zip(live, busy, strict=True)), sum(busy))

    @initialize()
    def builtins(self) -> None:
        join = Join("local", WorkerKind.LOCAL, "", ("!builtin",), capacity=3)
        self.both(join, lambda: self.plain.join(join, self.ns))

    @rule(name=st.sampled_from(NAMES), aim=st.sampled_from(TARGETS),
          priority=st.integers(0, 9), timeout_ms=st.sampled_from((0, 0, 200)),
          queue_ms=st.sampled_from((0, 0, 150)), retries=st.integers(0, 2),
          on_lost=st.integers(0, 1), delay_ms=st.sampled_from((0, 0, 120)),
          auto=st.booleans())
    def submit(self, name: str, aim: tuple[str, str], priority: int, timeout_ms: int,
               queue_ms: int, retries: int, on_lost: int, delay_ms: int, auto: bool) -> None:
        self.last_id += 1
        command = Submit(
            self.last_id, name, 0, *(("", "") if name.startswith("builtin") else aim),
            priority=priority, timeout_ms=timeout_ms, queue_timeout_ms=queue_ms,
            max_retries=retries, on_lost=on_lost, auto_start=auto,
            due_ms=delay_ms and self.wall_ms + delay_ms)
        self.both(command, lambda: self.plain.submit(command, self.ns))

    @precondition(lambda self: self.last_id)
    @rule(data=st.data())
    def start_or_cancel(self, data: st.DataObject) -> None:
        task_id = data.draw(st.integers(1, self.last_id + 1))
        if data.draw(st.booleans()):
            start = Start(task_id)
            self.both(start, lambda: self.plain.start(start, self.ns))
        else:
            cancel = Cancel(task_id)
            self.both(cancel, lambda: self.plain.cancel(cancel, self.ns))

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), ending=st.sampled_from(list(Ending)), retryable=st.booleans(),
          after_ms=st.sampled_from((0, 0, 40)), reached=st.sampled_from((True, True, False)))
    def finish(self, data: st.DataObject, ending: Ending, retryable: bool, after_ms: int,
               reached: bool) -> None:
        """Any attempt that ever started reports, in any order, late and doubled."""
        newest = len(self.attempts) - 1
        worker_id, task_id, attempt = self.attempts[
            newest - data.draw(st.integers(0, min(newest, 6)))]
        command = Finish(task_id, attempt, worker_id, ending, retryable=retryable,
                         retry_after_ms=after_ms, reached=reached)
        self.both(command, lambda: self.plain.finish(command, self.ns))

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), wait_ms=st.integers(0, 300))
    def nap(self, data: st.DataObject, wait_ms: int) -> None:
        """Only the daemon's own delays nap."""
        own = [one for one in self.attempts if one[0] == "local"]
        if own:
            _, task_id, attempt = data.draw(st.sampled_from(own[-4:]))
            command = Nap(task_id, attempt, self.wall_ms + wait_ms, b"null")
            self.both(command, lambda: self.plain.nap(command, self.ns))

    @rule(worker=st.sampled_from(WORKERS), names=st.sampled_from((("a",), ("b",), ("a", "b"))),
          node=st.sampled_from(("n1", "n2")), label=st.booleans(), capacity=st.integers(1, 3),
          lease_ms=st.sampled_from((400, 1000)), fresh=st.booleans(), data=st.data())
    def join(self, worker: str, names: tuple[str, ...], node: str, label: bool, capacity: int,
             lease_ms: int, fresh: bool, data: st.DataObject) -> None:
        known = self.plain.workers.get(worker)
        if known is None or fresh:
            self.session += 1
            session = str(self.session)
        else:
            session = known.join.session
        held = [] if known is None else [(one, self.plain.tasks[one].attempt)
                                         for one in known.held]
        holding = tuple(one for one in held if data.draw(st.booleans()))
        command = Join(worker, WorkerKind.SESSION, session, names, node,
                       (("x", "1"),) if label else (), capacity, lease_ms, holding=holding)
        self.both(command, lambda: self.plain.join(command, self.ns))

    @precondition(lambda self: self.plain.workers)
    @rule(worker=st.sampled_from(WORKERS), count=st.integers(0, 3), stale=st.booleans())
    def ahead(self, worker: str, count: int, stale: bool) -> None:
        known = self.plain.workers.get(worker)
        command = Ahead(worker, "?" if known is None or stale else known.join.session, count)
        self.both(command, lambda: self.plain.ahead(command))

    @precondition(lambda self: self.plain.workers)
    @rule(data=st.data(), what=st.sampled_from((
        "detach", "leave", "drain", "say_drain", "resume", "beat")))
    def worker_news(self, data: st.DataObject, what: str) -> None:
        worker = data.draw(st.sampled_from(WORKERS))
        known = self.plain.workers.get(worker)
        session = "?" if known is None else known.join.session
        if what == "beat":
            assert self.core.beat(worker, session, self.now) == \
                self.plain.beat(worker, session, self.ns)
        elif what == "detach":
            detach = Detach(worker, session)
            self.both(detach, lambda: self.plain.detach(detach))
        elif what == "leave":
            leave = Leave(worker)
            self.both(leave, lambda: self.plain.leave(leave, self.ns))
        else:
            drain = Drain(worker, what != "resume", what == "say_drain")
            self.both(drain, lambda: self.plain.drain(drain))

    @rule(step_ms=st.sampled_from((1, 30, 101, 250, 1100)))
    def time_passes(self, step_ms: int) -> None:
        """Never past a deadline at once, as the engine wakes for each."""
        until_ns = self.ns + step_ms * MS
        while (due_ns := self.core.next_due_ns()) is not None and due_ns <= until_ns:
            self.ns = max(due_ns, self.ns)
            before = self.core.next_due_ns()
            self.settle()
            assert before != self.core.next_due_ns() or due_ns >= self.ns, "it does not move on"
        self.ns = until_ns
        self.settle()

    @rule(by_ms=st.sampled_from((-3_600_000, -130, -1, 70, 3_600_000)))
    def the_wall_clock_is_set(self, by_ms: int) -> None:
        """By a person, or by NTP: timers count elapsed time all the same."""
        self.set_ms += by_ms
        self.plain.set_ms = self.set_ms
        self.settle()

    @invariant()
    def agree(self) -> None:
        self.core.check()
        for task_id, task in self.plain.tasks.items():
            assert self.core.knows(task_id) is not None
            state, attempt, cancel_ms = self.core.knows(task_id) or (0, 0, 0)
            assert (state, attempt) == (task.state, task.attempt), task_id
            assert bool(cancel_ms) == task.canceled
        assert sum(self.core.counts_by_state()) == len(self.plain.tasks)
        for worker_id, worker in self.plain.workers.items():
            held = sorted(pair[0] for pair in self.core.held_by(worker_id))
            assert held == sorted(worker.held), "a slot is held by another"

    @invariant()
    def every_waiting_task_says_why(self) -> None:
        for task_id, task in self.plain.tasks.items():
            causes = self.core.why(task_id)
            assert causes is not None
            if task.state != TaskState.RUNNING:
                assert causes, "a task waits without a reason"
                self.true_cause(causes[0].code, task_id)

    def true_cause(self, code: str, task_id: int) -> None:
        """The first reason holds in the plain model too."""
        task = self.plain.tasks[task_id]
        serving = [worker for worker in self.plain.workers.values()
                   if task.pool in worker.join.tasks]
        truth = {
            "not_started": task.state == TaskState.QUEUED,
            "retry_wait": task.state == TaskState.RETRYING,
            "delayed": task.delayed,
            "no_worker": not serving,
            "no_node": task.pool == "!os_process",
            "target_mismatch": bool(serving),
            "workers_busy": any(worker.full for worker in serving),
            "workers_away": any(not worker.attached for worker in serving),
            "workers_draining": any(self.plain.drains(worker) for worker in serving),
        }
        assert truth[code], (code, task)


CoreMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
TestCore = CoreMachine.TestCase
