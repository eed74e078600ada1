"""The core once more: slow, plain, with lists and scans. The compiled one must agree with it.

It shares the words of plumd.model and nothing of the core's structures. The one thing that it
cannot know is the core's jitter, so it is told each retry's delay and checks its bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from plumd.model import (
    AGENT_PREFIX,
    Ahead,
    Cancel,
    Detach,
    Drain,
    Ending,
    Finish,
    Join,
    Kind,
    Leave,
    Limits,
    Nap,
    Start,
    Submit,
    WorkerKind,
)
from plumd.model import (
    TaskState as S,
)

POOLS = {1: "!service", 2: "!os_process"}


@dataclass
class Task:
    submit: Submit
    created_ms: int
    state: S = S.QUEUED
    attempt: int = 0
    failures: int = 0
    lost: int = 0
    due_ms: int = 0
    since_ms: int = 0
    delayed: bool = False               # PENDING, and its one timer waits for the due time
    worker: str = ""
    deadline_ns: int | None = None      # whatever its one timer waits for
    timeout_ns: int | None = None
    stopping: str = ""
    nap: Nap | None = None
    canceled: bool = False

    @property
    def pool(self) -> str:
        kind, name = self.submit.kind, self.submit.name
        if kind == 0 and (self.submit.target_kind == "builtin" or name.startswith("builtin.")):
            return "!builtin"
        return POOLS.get(kind, name)


@dataclass
class Worker:
    join: Join
    expires_ns: int
    attached: bool = True
    own_drain: bool = False
    last_use: int = 0
    ahead: int = 0

    @property
    def full(self) -> bool:
        return len(self.held) >= self.join.capacity + self.ahead

    held: list[int] = field(default_factory=list)


class Plain:
    """The same commands, the same decisions."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.tasks: dict[int, Task] = {}
        self.over: dict[int, S] = {}
        self.workers: dict[str, Worker] = {}
        self.drained: set[str] = set()
        self.uses = self.arrivals = 0
        self.starts: list[tuple[str, int, int]] = []
        self.set_ms = 0         # how far the wall clock was set
        self.delay_ms: Callable[[int], int]
        """Asks the core how long a retry waits."""

    def wall_ms(self, ns: int) -> int:
        """What the wall clock says then."""
        return ns // 10**6 + self.set_ms

    # ---- commands

    def submit(self, command: Submit, ns: int) -> str:
        if command.task_id in self.tasks:
            return "exists"
        task = self.tasks[command.task_id] = Task(command, self.wall_ms(ns))
        task.due_ms = command.due_ms
        if command.auto_start:
            self.enqueue(task, ns)
        return ""

    def start(self, command: Start, ns: int) -> str:
        task = self.tasks.get(command.task_id)
        if task is None or task.state != S.QUEUED:
            return "wrong_state"
        now_ms = self.wall_ms(ns)
        task.due_ms = task.due_ms or now_ms
        self.enqueue(task, ns, max(0, now_ms - max(task.created_ms, task.due_ms)))
        return ""

    def cancel(self, command: Cancel, ns: int) -> str:
        task = self.tasks.get(command.task_id)
        if task is None:
            return "wrong_state"
        task.canceled = True
        if task.state == S.RUNNING:
            self.stop(task, "canceled", ns)
        else:
            self.end(task, Ending.CANCELED, ns)
        return ""

    def finish(self, command: Finish, ns: int) -> str:
        task = self.tasks.get(command.task_id)
        if (task is None or task.state != S.RUNNING or task.attempt != command.attempt
                or task.worker != command.worker_id):
            return "stale_attempt"
        if not command.reached and self.workers[task.worker].join.kind == WorkerKind.SESSION:
            self.end(task, Ending.LOST, ns, counts=False)
            return ""
        self.end(task, Ending(command.ending), ns, command.retryable, command.retry_after_ms)
        return ""

    def nap(self, command: Nap, ns: int) -> str:
        task = self.tasks.get(command.task_id)
        if task is None or task.state != S.RUNNING or task.attempt != command.attempt:
            return "stale_attempt"
        if task.stopping:
            self.confirm(task, ns)
            return ""
        task.nap = command
        until_ns = ns + (command.until_ms - self.wall_ms(ns)) * 10**6
        if task.timeout_ns is None or until_ns <= task.timeout_ns:
            task.deadline_ns = until_ns
        return ""

    def join(self, command: Join, ns: int) -> str:
        old = self.workers.get(command.worker_id)
        restarted = old is not None and old.join.session != command.session
        if old is not None and restarted:
            self.lose(old, ns)
        worker = self.workers.get(command.worker_id)
        if worker is None:
            self.arrivals += 1
            worker = self.workers[command.worker_id] = Worker(
                command, 0, last_use=self.arrivals - (1 << 50))
            held_before = False
        else:
            held_before = True
            worker.join = command
        if restarted:
            worker.own_drain = False
        if restarted or not worker.attached:
            worker.ahead = 0
        worker.attached = True
        worker.expires_ns = ns + command.lease_ms * 10**6
        if held_before and command.kind == WorkerKind.SESSION:
            for task_id in list(worker.held):
                task = self.tasks[task_id]
                if (task_id, task.attempt) in command.holding:
                    continue
                if task.stopping:
                    self.confirm(task, ns)
                else:
                    self.starts.append((command.worker_id, task_id, task.attempt))
        return ""

    def detach(self, command: Detach) -> str:
        worker = self.workers.get(command.worker_id)
        if worker is None or worker.join.session != command.session:
            return "session_replaced"
        worker.attached = False
        return ""

    def ahead(self, command: Ahead) -> str:
        worker = self.workers.get(command.worker_id)
        if worker is None or worker.join.session != command.session:
            return "session_replaced"
        worker.ahead = command.count
        return ""

    def leave(self, command: Leave, ns: int) -> str:
        worker = self.workers.get(command.worker_id)
        if not command.worker_id.startswith(AGENT_PREFIX):
            self.drained.discard(command.worker_id)
        if worker is None:
            return "not_found"
        self.lose(worker, ns)
        del self.workers[command.worker_id]
        return ""

    def drain(self, command: Drain) -> str:
        worker = self.workers.get(command.worker_id)
        if worker is None and command.own:
            return "not_found"
        if not command.on:
            self.drained.discard(command.worker_id)
        elif not command.own:
            self.drained.add(command.worker_id)
        if worker is not None:
            worker.own_drain = command.on and (command.own or worker.own_drain)
        return ""

    def drains(self, worker: Worker) -> bool:
        """Whether it takes nothing new."""
        return worker.own_drain or worker.join.worker_id in self.drained

    def beat(self, worker_id: str, session: str, ns: int) -> bool:
        worker = self.workers.get(worker_id)
        if worker is None or worker.join.session != session:
            return False
        worker.expires_ns = ns + worker.join.lease_ms * 10**6
        return True

    # ---- moves

    def enqueue(self, task: Task, ns: int, waited_ms: int = 0) -> None:
        now_ms = self.wall_ms(ns)
        task.state = S.PENDING
        task.since_ms = max(task.created_ms, task.due_ms)
        task.deadline_ns = None
        task.delayed = task.due_ms > now_ms
        if task.delayed:
            task.deadline_ns = ns + (task.due_ms - now_ms) * 10**6
        elif task.submit.queue_timeout_ms:
            task.deadline_ns = ns + (task.submit.queue_timeout_ms - waited_ms) * 10**6

    def stop(self, task: Task, reason: str, ns: int) -> None:
        if task.nap is not None:
            task.stopping = reason
            self.confirm(task, ns)
            return
        if task.stopping == "canceled":
            return
        if not task.stopping:
            worker = self.workers[task.worker]
            task.deadline_ns = None
            if worker.join.kind == WorkerKind.SESSION:
                wait_ms = self.limits.stop_grace_ms + worker.join.lease_ms
                task.deadline_ns = ns + wait_ms * 10**6
        task.stopping = reason

    def confirm(self, task: Task, ns: int) -> None:
        ending = Ending.CANCELED if task.stopping == "canceled" else Ending.TIMEOUT
        self.end(task, ending, ns)

    def lose(self, worker: Worker, ns: int) -> None:
        for task_id in list(worker.held):
            self.end(self.tasks[task_id], Ending.LOST, ns)

    def end(self, task: Task, ending: Ending, ns: int, retryable: bool = True,
            retry_after_ms: int = 0, *, counts: bool = True) -> None:
        now_ms, was = self.wall_ms(ns), task.state
        if task.stopping:
            ending = Ending.CANCELED if task.stopping == "canceled" else Ending.TIMEOUT
        if task.worker:
            self.workers[task.worker].held.remove(task.submit.task_id)
        task.worker, task.stopping, task.nap = "", "", None
        task.deadline_ns = task.timeout_ns = None
        state = self.settle(task, ending, was, retryable, counts=counts)
        if state >= S.SUCCEEDED:
            self.over[task.submit.task_id] = state
            del self.tasks[task.submit.task_id]
            return
        task.due_ms = now_ms
        if state == S.RETRYING:
            delay_ms = retry_after_ms or self.delay_ms(task.submit.task_id)
            cap_ms = min(self.limits.backoff_base_ms << (task.failures - 1),
                         self.limits.backoff_cap_ms)
            assert retry_after_ms or 1 <= delay_ms <= cap_ms, "jitter out of its bounds"
            task.state, task.due_ms = S.RETRYING, now_ms + delay_ms
            task.deadline_ns = ns + delay_ms * 10**6
        else:
            self.enqueue(task, ns)

    def settle(self, task: Task, ending: Ending, was: S, retryable: bool, *, counts: bool) -> S:
        if ending == Ending.SUCCEEDED:
            return S.SUCCEEDED
        if ending == Ending.CANCELED:
            return S.CANCELED
        if ending == Ending.LOST and not counts:
            return S.PENDING
        if ending == Ending.LOST:
            task.lost += 1
            tries = task.submit.max_retries + self.limits.lost_extra
            if task.submit.on_lost == 1 or task.failures + task.lost > tries:
                return S.FAILED
            return S.PENDING
        if was != S.RUNNING:
            return S.TIMEOUT
        task.failures += 1
        if retryable and task.failures <= task.submit.max_retries:
            return S.RETRYING
        return S.TIMEOUT if ending == Ending.TIMEOUT else S.FAILED

    # ---- time

    def tick(self, ns: int) -> None:
        now_ms = self.wall_ms(ns)
        for worker_id, worker in sorted(self.workers.items()):
            if worker.join.kind != WorkerKind.LOCAL and worker.expires_ns <= ns:
                self.lose(worker, ns)
                del self.workers[worker_id]
        for task in sorted(self.tasks.values(), key=lambda one: one.submit.task_id):
            if task.deadline_ns is None or task.deadline_ns > ns:
                continue
            task.deadline_ns = None
            if task.state == S.RETRYING or (task.state == S.PENDING and task.delayed):
                task.due_ms = min(task.due_ms, now_ms)
                self.enqueue(task, ns)
            elif task.state == S.PENDING:
                self.end(task, Ending.TIMEOUT, ns)
            elif task.stopping:
                self.confirm(task, ns)
            elif task.nap is not None and (task.timeout_ns is None or ns < task.timeout_ns):
                self.end(task, Ending.SUCCEEDED, ns)
            else:
                self.stop(task, "timeout", ns)
        self.match(ns)

    def match(self, ns: int) -> None:
        while True:
            best: tuple[tuple[int, int], Task] | None = None
            for task in self.tasks.values():
                if task.state != S.PENDING or task.delayed or not self.choices(task):
                    continue
                order_ms = task.created_ms if task.attempt else task.since_ms
                key = (order_ms - task.submit.priority * self.limits.age_ms_per_priority,
                       task.submit.task_id)
                if best is None or key < best[0]:
                    best = (key, task)
            if best is None:
                return
            task = best[1]
            worker = min(self.choices(task), key=lambda one: (
                (len(one.held) << 20) // one.join.capacity, one.last_use))
            self.uses += 1
            worker.last_use = self.uses
            worker.held.append(task.submit.task_id)
            task.worker, task.state = worker.join.worker_id, S.RUNNING
            task.attempt += 1
            task.timeout_ns = task.deadline_ns = None
            if task.submit.timeout_ms:
                task.timeout_ns = task.deadline_ns = ns + task.submit.timeout_ms * 10**6
            self.starts.append((task.worker, task.submit.task_id, task.attempt))

    def choices(self, task: Task) -> list[Worker]:
        return [worker for worker in self.workers.values()
                if worker.attached and not self.drains(worker)
                and not worker.full
                and task.pool in worker.join.tasks and suits(task.submit, worker.join)]


def suits(task: Submit, join: Join) -> bool:
    """Whether the task's target means this worker."""
    labels = dict(join.labels)
    kind, ref = task.target_kind, task.target_ref
    if task.kind == Kind.OS_PROCESS and kind == "":
        return join.kind == WorkerKind.LOCAL
    if kind == "node":
        return join.node_id == ref
    if kind == "worker":
        return join.worker_id == ref
    if kind == "labels":
        return all(labels.get(pair.split("=")[0]) == pair.split("=")[1]
                   for pair in ref.split(","))
    return True
