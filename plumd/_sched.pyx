# cython: language_level=3, auto_pickle=False, binding=True, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The core: decides what happens next, and does nothing else.

It has no clock, socket, file or log; time, ids and randomness come in as arguments, so the same
calls give the same answers, byte for byte. The engine feeds it commands (`apply`), lets time pass
(`tick`) and takes out what must be written and done (`take`). Payloads never come here.

Transitions, (state, what happened) -> state:

    -         submit              PENDING, or QUEUED when it must not start by itself
    QUEUED    start               PENDING
    PENDING   matched             RUNNING     a new attempt, claimed by a worker
    PENDING   queue timeout       TIMEOUT
    RUNNING   succeeded           SUCCEEDED
    RUNNING   failed, timed out   RETRYING, or FAILED / TIMEOUT when no retry is left
    RUNNING   lost                PENDING, or FAILED when no try is left or onLost is fail
    RUNNING   given back          PENDING     its worker had it in hand and never began it
    RETRYING  due                 PENDING
    any live  cancel              CANCELED    RUNNING only after the work was stopped

Every live task has exactly one next wake-up: its place in a ready queue, its one timer, or the
lease of the worker that holds it (QUEUED waits for a person). `check` holds that to be true.
"""

cimport cython
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from plumd.model import (
    ACCEPTED, AGENT_PREFIX, Ahead, Cancel, Cause, Detach, Drain, Ended, Finish, Join, Leave, Nap,
    Reply, Meters as Counted, SetLimit, Start, Submit,
)

cdef enum:
    QUEUED = 0
    PENDING = 1
    RUNNING = 2
    RETRYING = 3
    SUCCEEDED = 4
    FAILED = 5
    TIMEOUT = 6
    CANCELED = 7

cdef enum:
    END_SUCCEEDED = 0
    END_FAILED = 1
    END_TIMEOUT = 2
    END_CANCELED = 3
    END_LOST = 4
    END_UNREACHED = 5       # lost before it could begin; told as END_LOST
    END_RETURNED = 6        # given back before it began, which counts for nothing; told as END_LOST

cdef enum:
    STOP_CANCEL = 1
    STOP_TIMEOUT = 2

cdef enum:
    CONFLICT_SKIP = 1
    CONFLICT_CANCEL = 2

cdef enum:
    DRAIN_OWN = 1
    DRAIN_ASKED = 2

cdef enum:
    SESSION = 0
    CALLBACK = 1
    LOCAL = 2

cdef int64_t MS = 1_000_000         # ns
cdef int64_t SECOND_MS = 1_000
cdef int64_t NEVER = 1 << 50
cdef int64_t NEVER_NS = 1 << 62
cdef int ID_BITS = 18               # below the milliseconds that an id begins with
cdef int AHEAD_MAX = 10_000         # `why` counts no further than this
cdef int64_t MISSES_APART_NS = 60_000_000_000    # further apart they are not one stretch

STOP_REASONS = (None, "canceled", "timeout")
POOLS = (None, "!service", "!os_process")       # of executors; embedded tasks go by name
BUILTIN_POOL = "!builtin"
NODE_POOL = "!os_process"


include "_heap.pxi"
include "_alarms.pxi"


@cython.final
cdef class Scheduler:

    def __cinit__(self, limits not None, seed):
        self.limits = limits
        self.rng = <uint64_t> (seed & 0xFFFFFFFFFFFFFFFF)
        self.age_ms = limits.age_ms_per_priority
        self.backoff_base_ms = limits.backoff_base_ms
        self.backoff_cap_ms = limits.backoff_cap_ms
        self.stop_grace_ns = limits.stop_grace_ms * MS
        self.restart_grace_ns = limits.restart_grace_ms * MS
        self.lost_extra = limits.lost_extra
        self.timers_per_tick = limits.timers_per_tick
        self.alarms_per_tick = limits.alarms_per_tick
        self.ids = IdMap()
        self.timers, self.leases, self.turns, self.gates = Heap(), Heap(), Heap(), Heap()
        self.keys, self.free_keys, self.lanes, self.free_lanes = [], [], [], []
        self.key_of = {}
        self.alarms = Alarms()
        self.free_task = -1
        self.classes, self.free_classes, self.workers, self.free_workers = [], [], [], []
        self.class_of, self.classes_of_pool, self.worker_of = {}, {}, {}
        self.drained = set()
        self.workers_of_pool, self.naps, self.idle = {}, {}, {}
        self.dirty_classes, self.dirty_set = [], set()
        memset(&self.met, 0, sizeof(Meters))
        self.clear_step()

    def __dealloc__(self):
        free(self.tasks)
        free(self.ready_at)
        free(self.timer_at)
        free(self.lease_at)
        free(self.turn_at)
        free(self.gate_at)
        free(self.lane_at)

    # ------------------------------------------------------------ commands

    def apply(self, command, now):
        """Decide one command. A bad command is an answer, not an exception."""
        cdef int64_t now_ns = now.mono_ns, now_ms = now.wall_ns // MS
        self.now_ns = now_ns
        kind = type(command)
        if kind is Submit:
            return self.on_submit(command, now_ns, now_ms)
        if kind is Finish:
            return self.on_finish(command, now_ns, now_ms)
        if kind is Cancel:
            return self.on_cancel(command, now_ns, now_ms)
        if kind is Start:
            return self.on_start(command, now_ns, now_ms)
        if kind is Nap:
            return self.on_nap(command, now_ns, now_ms)
        if kind is Join:
            return on_join(self, command, now_ns, now_ms)
        if kind is Detach:
            return on_detach(self, command, now_ms)
        if kind is Leave:
            return on_leave(self, command, now_ns, now_ms)
        if kind is Ahead:
            return on_ahead(self, command)
        if kind is Drain:
            return on_drain(self, command, now_ms)
        if kind is SetLimit:
            return set_limit(self, command, now_ns)
        raise TypeError(f"the core knows no command {kind.__name__}")

    cdef on_submit(self, command, int64_t now_ns, int64_t now_ms):
        cdef int64_t task_id = command.task_id
        cdef int32_t slot
        cdef Task* task
        cdef MatchClass klass
        if self.ids.get(task_id) >= 0:
            return Reply("exists", "a task with this id exists")
        if self.task_count >= self.limits.tasks_max:
            return Reply("overloaded", "too many live tasks")
        klass = class_for(self, command.name, command.kind, command.target_kind, command.target_ref)
        slot = self.new_slot()
        task = &self.tasks[slot]
        task.id, task.run_id, task.step = task_id, command.run_id, command.step
        task.created_ms, task.due_ms = now_ms, command.due_ms
        task.timeout_ms, task.queue_timeout_ms = command.timeout_ms, command.queue_timeout_ms
        task.max_retries, task.priority = command.max_retries, command.priority
        task.on_lost, task.has_input = command.on_lost, has_input(command)
        task.klass, task.fresh, task.state = klass.number, 1, QUEUED
        klass.live += 1
        self.ids.put(task_id, slot)
        self.submits[task_id] = command
        if command.concurrency_key:
            enter_lane(self, slot, command.concurrency_key, command.concurrency_limit)
            if command.on_conflict and self.make_way(slot, command.on_conflict, now_ns, now_ms):
                return Reply("", "", CANCELED, 0)
            task = &self.tasks[slot]
        self.met.submitted += 1
        self.mark(slot)
        self.counts[QUEUED] += 1
        if command.auto_start:
            self.enqueue(slot, now_ns, now_ms)
        else:
            self.tell_state(task, now_ms)
        return Reply("", "", task.state, 0)

    cdef bint make_way(self, int32_t slot, int policy, int64_t now_ns, int64_t now_ms) except -1:
        """A new task of a key that is full: whether it is dropped; else the oldest are ended."""
        cdef Key key = (<Lane> self.lanes[self.tasks[slot].lane - 1]).key
        cdef int64_t task_id = self.tasks[slot].id
        cdef int32_t other, most = key.most()
        if most == 0 or len(key.members) <= most:
            return False
        if policy == CONFLICT_SKIP:
            self.counts[QUEUED] += 1
            self.end(slot, END_CANCELED, "concurrency_skipped", None, False, 0, now_ns, now_ms)
            return True
        others = sorted(one for one in key.members if one != task_id)
        for one in others[:len(others) - most + 1]:
            other = self.ids.get(one)
            if self.tasks[other].cancel_ms == 0:
                self.tasks[other].cancel_ms = now_ms
                self.mark(other)
                if self.tasks[other].state == RUNNING:
                    self.stop(other, STOP_CANCEL, now_ns, now_ms)
                else:
                    self.end(other, END_CANCELED, "concurrency_replaced", None, False, 0, now_ns,
                             now_ms)
        return False

    cdef on_start(self, command, int64_t now_ns, int64_t now_ms):
        cdef int32_t slot = self.ids.get(command.task_id)
        cdef Task* task
        if slot < 0 or self.tasks[slot].state != QUEUED:
            return Reply("wrong_state", "only a Queued task can be started",
                         -1 if slot < 0 else self.tasks[slot].state)
        task = &self.tasks[slot]
        if task.due_ms == 0:        # it waits from now on
            task.due_ms = now_ms
        self.enqueue(slot, now_ns, now_ms,
                     max(0, now_ms - max(task.created_ms, task.due_ms)))
        return Reply("", "", self.tasks[slot].state, 0)

    cdef on_cancel(self, command, int64_t now_ns, int64_t now_ms):
        cdef int32_t slot = self.ids.get(command.task_id)
        cdef Task* task
        if slot < 0:
            return Reply("wrong_state", "the task has ended")
        task = &self.tasks[slot]
        if task.cancel_ms == 0:
            task.cancel_ms = now_ms
            self.mark(slot)
        if task.state == RUNNING:
            self.stop(slot, STOP_CANCEL, now_ns, now_ms)
            if self.ids.get(command.task_id) >= 0:
                return Reply("", "", RUNNING, self.tasks[slot].attempt)
        else:
            self.end(slot, END_CANCELED, "canceled", None, False, 0, now_ns, now_ms)
        return Reply("", "", CANCELED, 0)

    cdef on_finish(self, command, int64_t now_ns, int64_t now_ms):
        cdef int32_t slot = self.ids.get(command.task_id)
        cdef Task* task
        cdef Worker worker
        if slot < 0:
            return self.stale("the task has ended", -1, 0)
        task = &self.tasks[slot]
        if task.state != RUNNING or task.attempt != command.attempt:
            return self.stale("this attempt is no longer the current one",
                              task.state, task.attempt)
        worker = <Worker> self.workers[task.worker] if task.worker >= 0 else None
        if worker is None or worker.worker_id != command.worker_id:
            return self.stale("another worker holds this attempt", task.state, task.attempt)
        if worker.kind == CALLBACK:
            note_call(worker, command.reached, now_ns)
            if not command.reached:
                detach(self, worker, now_ms)     # until it is heard of again
                if task.lost < self.lost_extra and self.has_other(task.klass, worker):
                    self.end(slot, END_UNREACHED, "unreached", command, True, 0, now_ns, now_ms)
                    return ACCEPTED
        if not command.reached and worker.kind == SESSION:
            self.end(slot, END_RETURNED, "returned", command, True, 0, now_ns, now_ms)
            return ACCEPTED
        self.end(slot, command.ending, "", command, command.retryable, command.retry_after_ms,
                 now_ns, now_ms)
        return ACCEPTED

    cdef stale(self, str detail, int state, int32_t attempt):
        self.met.stale += 1
        return Reply("stale_attempt", detail, state, attempt)

    cdef bint has_other(self, int32_t klass, Worker worker) except -1:
        """Whether another worker that is here takes tasks of this class."""
        cdef Worker other
        for number in (<MatchClass> self.classes[klass]).workers:
            other = <Worker> self.workers[number]
            if other is not worker and other.attached and not other.draining:
                return True
        return False

    cdef on_nap(self, command, int64_t now_ns, int64_t now_ms):
        cdef int32_t slot = self.ids.get(command.task_id)
        cdef Task* task
        cdef int64_t until_ns
        if slot < 0:
            return Reply("stale_attempt", "the task has ended")
        task = &self.tasks[slot]
        if task.state != RUNNING or task.attempt != command.attempt:
            return Reply("stale_attempt", "this attempt is no longer the current one",
                         task.state, task.attempt)
        if task.stopping:       # the wish came first, so there is nothing to stop
            self.confirm_stop(slot, now_ns, now_ms)
            return ACCEPTED
        task.napping = 1
        self.naps[command.task_id] = command
        until_ns = now_ns + (command.until_ms - now_ms) * MS
        if task.timeout_ns == 0 or until_ns <= task.timeout_ns:
            self.arm(slot, until_ns)
        return ACCEPTED

    def beat(self, str worker_id, str session, now):
        """Renew a lease in memory; False when that session holds none (it must register)."""
        cdef Worker worker = self.worker_of.get(worker_id)
        if worker is None or worker.session != session:
            return False
        worker.expires_ns = <int64_t> now.mono_ns + worker.lease_ns
        return True

    # ------------------------------------------------------------ one task's moves

    cdef int32_t new_slot(self) except -1:
        cdef int32_t slot
        cdef Py_ssize_t room
        if self.free_task >= 0:
            slot = self.free_task
            self.free_task = self.tasks[slot].next
        else:
            if self.task_top == self.task_room:
                room = self.task_room * 2 if self.task_room else 256
                self.tasks = <Task*> grown(self.tasks, self.task_room, room, sizeof(Task))
                self.ready_at = <int32_t*> grown(self.ready_at, self.task_room, room, 4)
                self.timer_at = <int32_t*> grown(self.timer_at, self.task_room, room, 4)
                self.task_room = room
            slot = <int32_t> self.task_top
            self.task_top += 1
        memset(&self.tasks[slot], 0, sizeof(Task))
        self.tasks[slot].worker = self.tasks[slot].next = self.tasks[slot].prev = -1
        self.task_count += 1
        return slot

    cdef void mark(self, int32_t slot) noexcept:
        if not self.tasks[slot].dirty:
            self.tasks[slot].dirty = 1
            self.dirty.append(slot)

    cdef int tell_state(self, Task* task, int64_t at_ms) except -1:
        cdef Worker worker = <Worker> self.workers[task.worker] if task.worker >= 0 else None
        self.events.append((
            "task", task.id, (<MatchClass> self.classes[task.klass]).name, task.state,
            task.attempt, "" if worker is None else worker.worker_id, task.run_id, at_ms))
        return 0

    cdef int set_state(self, int32_t slot, int state, int64_t at_ms) except -1:
        cdef Task* task = &self.tasks[slot]
        self.counts[task.state] -= 1
        self.counts[state] += 1
        task.state = state
        self.mark(slot)
        return self.tell_state(task, at_ms)

    cdef int arm(self, int32_t slot, int64_t due_ns) except -1:
        return self.timers.put(self.timer_at, due_ns, self.tasks[slot].id, slot)

    cdef int64_t timer_ms(self, int32_t slot) noexcept:
        """When it is due, as the wall clock goes now; it may have been set."""
        cdef int64_t due_ms = self.tasks[slot].due_ms
        cdef int64_t at_ms = (self.timers.entries[self.timer_at[slot] - 1].key
                              + self.offset_ns) // MS
        return due_ms if -SECOND_MS < at_ms - due_ms < SECOND_MS else at_ms

    cdef int enqueue(self, int32_t slot, int64_t now_ns, int64_t now_ms,
                     int64_t waited_ms=0) except -1:
        """Make it PENDING: into its ready queue, or under a timer until it is due.

        waited_ms: so much of its time in the queue is over.
        """
        cdef Task* task = &self.tasks[slot]
        cdef MatchClass klass = <MatchClass> self.classes[task.klass]
        cdef int64_t since_ms = max(task.created_ms, task.due_ms)
        cdef int64_t order_ms = task.created_ms if task.attempt else since_ms
        cdef int64_t tie = task.id
        cdef Lane lane
        if task.state != PENDING:
            self.set_state(slot, PENDING, now_ms)
        if task.due_ms > now_ms:
            return self.arm(slot, now_ns + (task.due_ms - now_ms) * MS)
        task.since_ns = now_ns
        if task.run_id:     # a run stands where it began: what is started is finished first
            order_ms, tie = task.run_id >> ID_BITS, task.run_id
        if task.lane:
            lane = <Lane> self.lanes[task.lane - 1]
            lane.ready.put(self.ready_at, order_ms - task.priority * self.age_ms, tie, slot)
            open_lane(self, lane)
        else:
            klass.ready.put(self.ready_at, order_ms - task.priority * self.age_ms, tie, slot)
        if task.queue_timeout_ms:
            self.arm(slot, now_ns + (task.queue_timeout_ms - waited_ms) * MS)
        else:
            self.timers.drop(self.timer_at, slot)
        if klass.free.count:
            touch(self, klass)
        return 0

    cdef int hold(self, int32_t slot, Worker worker) except -1:
        cdef Task* task = &self.tasks[slot]
        task.worker, task.next, task.prev = worker.slot, worker.head, -1
        if worker.head >= 0:
            self.tasks[worker.head].prev = slot
        worker.head = slot
        worker.running += 1
        if task.lane:
            (<Lane> self.lanes[task.lane - 1]).key.running += 1
        return 0

    cdef int release(self, int32_t slot) except -1:
        cdef Task* task = &self.tasks[slot]
        cdef Worker worker
        cdef Key key
        if task.worker < 0:
            return 0
        worker = <Worker> self.workers[task.worker]
        if task.prev >= 0:
            self.tasks[task.prev].next = task.next
        else:
            worker.head = task.next
        if task.next >= 0:
            self.tasks[task.next].prev = task.prev
        task.worker = task.next = task.prev = -1
        worker.running -= 1
        if task.lane:
            key = (<Lane> self.lanes[task.lane - 1]).key
            key.running -= 1
            open_key(self, key)
        return refresh(self, worker)

    cdef int start(self, int32_t slot, Worker worker, int64_t now_ns, int64_t now_ms) except -1:
        cdef Task* task = &self.tasks[slot]
        self.hold(slot, worker)
        self.uses += 1
        worker.last_use = self.uses
        refresh(self, worker)
        task.attempt += 1
        task.started_ms = now_ms
        self.met.started += 1
        self.met.wait_us += count_us(self.met.wait, now_ns - task.since_ns)
        task.since_ns = now_ns
        self.set_state(slot, RUNNING, now_ms)
        if task.timeout_ms:
            task.timeout_ns = now_ns + task.timeout_ms * MS
            self.arm(slot, task.timeout_ns)
        else:
            task.timeout_ns = 0
            self.timers.drop(self.timer_at, slot)
        return self.tell_start(slot, worker, False)

    cdef int tell_start(self, int32_t slot, Worker worker, bint resumed) except -1:
        cdef Task* task = &self.tasks[slot]
        self.starts.append((
            worker.worker_id, worker.kind, task.id, task.attempt,
            (<MatchClass> self.classes[task.klass]).name, task.timeout_ms, task.has_input,
            task.started_ms, resumed))
        return 0

    cdef int stop(self, int32_t slot, int reason, int64_t now_ns, int64_t now_ms) except -1:
        """Ask the holder to end the work. The attempt ends when it says so, or when a session
        has had its grace and its lease; a local executor is waited for, for it will answer."""
        cdef Task* task = &self.tasks[slot]
        cdef Worker worker
        if task.napping:
            task.stopping = reason
            return self.confirm_stop(slot, now_ns, now_ms)
        if task.stopping == STOP_CANCEL:
            return 0
        worker = <Worker> self.workers[task.worker]
        if task.stopping == 0:
            if worker.kind == SESSION:
                self.arm(slot, now_ns + self.stop_grace_ns + worker.lease_ns)
            else:
                self.timers.drop(self.timer_at, slot)
        task.stopping = reason
        self.stops.append((worker.worker_id, task.id, task.attempt, STOP_REASONS[reason]))
        return 0

    cdef int confirm_stop(self, int32_t slot, int64_t now_ns, int64_t now_ms) except -1:
        """A stop that needs no answer: the work is known not to run."""
        cdef bint canceled = self.tasks[slot].stopping == STOP_CANCEL
        self.end(slot, END_CANCELED if canceled else END_TIMEOUT,
                 "canceled" if canceled else "timeout", None, True, 0, now_ns, now_ms)
        return 0

    cdef int end(self, int32_t slot, int ending, str code, object report, bint retryable,
                 int64_t retry_after_ms, int64_t now_ns, int64_t now_ms) except -1:
        """The attempt is over, or the task without one: settle what becomes of the task."""
        cdef Task* task = &self.tasks[slot]
        cdef Worker worker = <Worker> self.workers[task.worker] if task.worker >= 0 else None
        cdef str worker_id = "" if worker is None else worker.worker_id
        cdef str node_id = "" if worker is None else worker.node_id
        cdef bint ran = task.state == RUNNING
        cdef int state
        cdef int64_t delay_ms = 0
        if task.stopping == STOP_CANCEL:
            ending = END_CANCELED
        elif task.stopping == STOP_TIMEOUT:
            ending = END_TIMEOUT
        state = self.settle(task, ending, retryable)
        if ran:
            self.met.run_us += count_us(self.met.run, now_ns - task.since_ns)
            self.met.lost += ending == END_LOST or ending == END_UNREACHED
        if ending > END_LOST:
            ending = END_LOST
        if state == RETRYING:
            delay_ms = retry_after_ms or self.backoff_ms(task.failures)
        ended = Ended(task.id, task.attempt if ran else 0, ending, state, worker_id, node_id,
                      task.started_ms if ran else 0, now_ms, code, report,
                      (<MatchClass> self.classes[task.klass]).name, task.run_id, task.step,
                      task.cancel_ms)
        self.ended.append(ended)
        if task.run_id and state >= SUCCEEDED:
            self.run_ends.append(ended)
        task.stopping = task.timeout_ns = 0
        if task.napping:
            task.napping = 0
            self.naps.pop(task.id, None)
        if state >= SUCCEEDED:
            return self.close(slot, state, now_ms)
        self.release(slot)
        task.started_ms = 0
        task.due_ms = now_ms + delay_ms
        if state == RETRYING:
            self.set_state(slot, RETRYING, now_ms)
            return self.arm(slot, now_ns + delay_ms * MS)
        return self.enqueue(slot, now_ns, now_ms)

    cdef int settle(self, Task* task, int ending, bint retryable) noexcept:
        """The state that follows an ending; counts failures and losses."""
        if ending == END_SUCCEEDED:
            return SUCCEEDED
        if ending == END_CANCELED:
            return CANCELED
        if ending == END_RETURNED:
            return PENDING
        if ending == END_UNREACHED:
            task.lost += 1
            return PENDING
        if ending == END_LOST:
            task.lost += 1
            if task.on_lost == 1 or task.failures + task.lost > task.max_retries + self.lost_extra:
                return FAILED
            return PENDING
        if task.state != RUNNING:
            return TIMEOUT          # its time in the queue was up
        task.failures += 1
        if retryable and task.failures <= task.max_retries:
            return RETRYING
        return TIMEOUT if ending == END_TIMEOUT else FAILED

    cdef int64_t backoff_ms(self, int32_t failures) noexcept:
        """How long a failed task waits before its next attempt: 1 .. base * 2^(failures - 1) ms.

        Source: full jitter, Brooker, "Exponential Backoff And Jitter", AWS 2015.
        """
        cdef int64_t span = self.backoff_base_ms
        while failures > 1 and span < self.backoff_cap_ms:
            span *= 2
            failures -= 1
        return 1 + <int64_t> (self.draw() % <uint64_t> min(span, self.backoff_cap_ms))

    cdef int close(self, int32_t slot, int state, int64_t now_ms) except -1:
        """A terminal state: write the last row and forget the task."""
        cdef Task* task = &self.tasks[slot]
        cdef MatchClass klass = <MatchClass> self.classes[task.klass]
        if task.lane == 0:
            klass.ready.drop(self.ready_at, slot)
        self.timers.drop(self.timer_at, slot)
        self.set_state(slot, state, now_ms)
        self.write(slot, now_ms)
        self.release(slot)
        if task.lane:
            leave_lane(self, slot)
        self.counts[state] -= 1
        self.met.ended[state] += 1
        self.ids.drop(task.id)
        task.dirty = 0
        task.id = 0
        task.next = self.free_task
        self.free_task = slot
        self.task_count -= 1
        return leave_class(self, klass)

    cdef int write(self, int32_t slot, int64_t finished_ms) except -1:
        """The row's moving half, for a new row together with its Submit."""
        cdef Task* task = &self.tasks[slot]
        cdef object worker_id = None
        if task.worker >= 0:
            worker_id = (<Worker> self.workers[task.worker]).worker_id
        if task.fresh:
            self.created.append((
                self.submits.pop(task.id), task.created_ms, task.state, task.attempt, worker_id,
                task.due_ms, task.started_ms, finished_ms, task.cancel_ms))
            task.fresh = 0
        else:
            self.changed.append((
                task.state, task.attempt, task.failures, task.lost, worker_id, task.due_ms,
                task.started_ms, finished_ms, task.cancel_ms, task.id))
        return 0

    # ------------------------------------------------------------ time

    def tick(self, now):
        """Let time pass: expire leases, fire due timers, match ready tasks to free slots.

        While ends of runs' tasks wait to be taken nothing is matched: what follows them in their
        runs comes before what others begin. Take them, and call this again.
        """
        cdef int64_t now_ns = now.mono_ns, now_ms = now.wall_ns // MS
        self.offset_ns = <int64_t> now.wall_ns - now_ns
        self.now_ns = now_ns
        if self.gates.count:
            open_gates(self, now_ns)
        self.expire(now_ns, now_ms)
        if not self.run_ends:
            match(self, now_ns, now_ms)
        self.alarms.ring(now_ns, now_ms, self.alarms_per_tick)

    def next_due_ns(self):
        """The mono_ns of the next timer; None when nothing waits for time."""
        cdef int64_t due = self.alarms.next_ns(self.offset_ns)
        if self.leases.count:
            due = min(due, self.leases.entries[0].key)
        if self.timers.count:
            due = min(due, self.timers.entries[0].key)
        if self.gates.count:
            due = min(due, self.gates.entries[0].key)
        return None if due == NEVER_NS else due

    def set_alarm(self, int64_t ident, int64_t at, bint paced, now):
        """Look at this schedule then. at: Unix milliseconds, or mono_ns when it is paced."""
        self.offset_ns = <int64_t> now.wall_ns - <int64_t> now.mono_ns
        self.alarms.put(ident, at, paced)

    def drop_alarm(self, int64_t ident):
        """Look at this schedule no more."""
        self.alarms.drop(ident)

    def take_alarms(self):
        """The schedules whose time has come since the last call."""
        due = self.alarms.due
        if due:
            self.alarms.due = []
        return due

    cdef int expire(self, int64_t now_ns, int64_t now_ms) except -1:
        cdef int left = self.timers_per_tick
        cdef int32_t slot
        cdef Worker worker
        while left > 0 and self.leases.count and self.leases.entries[0].key <= now_ns:
            left -= 1
            worker = <Worker> self.workers[self.leases.entries[0].item]
            if worker.expires_ns > now_ns:
                self.leases.put(self.lease_at, worker.expires_ns, worker.slot, worker.slot)
                continue
            lose_all(self, worker, "lease_expired", now_ns, now_ms)
            self.kicks.append((worker.worker_id, worker.session))
            self.gone.append((worker.worker_id, "offline"))
            tell_worker(self, worker, "offline", now_ms)
            remove_worker(self, worker)
        while left > 0 and self.timers.count and self.timers.entries[0].key <= now_ns:
            left -= 1
            slot = self.timers.entries[0].item
            self.timers.drop(self.timer_at, slot)
            self.fire(slot, now_ns, now_ms)
        return 0

    cdef int fire(self, int32_t slot, int64_t now_ns, int64_t now_ms) except -1:
        """The task's one timer is due; its state says what that means."""
        cdef Task* task = &self.tasks[slot]
        if task.state == RETRYING or task.state == PENDING:
            task.due_ms = min(task.due_ms, now_ms)      # the monotonic clock says it is due
            if self.ready_at[slot] == 0:
                return self.enqueue(slot, now_ns, now_ms)
            return self.end(slot, END_TIMEOUT, "queue_timeout", None, False, 0, now_ns, now_ms)
        assert task.state == RUNNING, "a timer on a task that waits for nothing"
        if task.worker < 0:
            return self.end(slot, END_LOST, "worker_unknown", None, True, 0, now_ns, now_ms)
        if task.stopping:
            return self.confirm_stop(slot, now_ns, now_ms)
        if task.napping and (task.timeout_ns == 0 or now_ns < task.timeout_ns):
            nap = self.naps[task.id]
            return self.end(slot, END_SUCCEEDED, "", Finish(
                nap.task_id, nap.attempt, (<Worker> self.workers[task.worker]).worker_id,
                END_SUCCEEDED, nap.result), True, 0, now_ns, now_ms)
        return self.stop(slot, STOP_TIMEOUT, now_ns, now_ms)

    # ------------------------------------------------------------ out and in

    def take(self):
        """What this step decided, as (created, changed, ended, events, starts, stops, kicks,
        joined, gone); the lists are the caller's from then on."""
        cdef int32_t slot
        for slot in self.dirty:
            if self.tasks[slot].dirty:
                self.tasks[slot].dirty = 0
                self.write(slot, 0)
        step = (self.created, self.changed, self.ended, self.events, self.starts, self.stops,
                self.kicks, self.joined, self.gone)
        self.clear_step()
        return step

    def take_run_ends(self):
        """The tasks of runs that ended since the last call, for the flow rules."""
        ends = self.run_ends
        if ends:
            self.run_ends = []
        return ends

    cdef clear_step(self):
        self.dirty, self.created, self.changed, self.ended, self.run_ends = [], [], [], [], []
        self.events, self.starts, self.stops, self.kicks = [], [], [], []
        self.joined, self.gone = [], []
        self.submits = {}

    def load_worker(self, join, now):
        """Enter a worker of before the restart: not connected, with one fresh lease, long enough
        for a worker that was told to come back later."""
        cdef Worker worker
        place(self, join, None)
        worker = <Worker> self.worker_of[join.worker_id]
        worker.attached = worker.kind != SESSION
        worker.expires_ns = <int64_t> now.mono_ns + max(worker.lease_ns, self.restart_grace_ns)
        if worker.kind != LOCAL:
            self.leases.put(self.lease_at, worker.expires_ns, worker.slot, worker.slot)
        refresh(self, worker)

    def load_drained(self, ids):
        """Whom others let take nothing new, before the workers."""
        self.drained.update(ids)

    def load_limit(self, command, now):
        """Enter a named limit of before the restart, before the tasks."""
        self.now_ns = now.mono_ns
        set_limit(self, command, now.mono_ns)

    def load(self, rows, now):
        """Rebuild from committed rows, after the workers; answers how many were taken in.

        A row: (id, state, name, kind, target_kind, target_ref, priority, timeout_ms,
        queue_timeout_ms, max_retries, on_lost, created_ms, due_ms, started_ms, cancel_ms, attempt,
        failures, lost, worker_id, run_id, step, has_input, concurrency_key, concurrency_limit).
        started_ms: of one that waits for its retry, when its last attempt ended.
        """
        cdef int64_t now_ns = now.mono_ns, now_ms = now.wall_ns // MS
        cdef int32_t slot
        cdef Task* task
        cdef MatchClass klass
        cdef Worker worker
        cdef Py_ssize_t count = 0
        self.now_ns = now_ns
        for (task_id, state, name, kind, target_kind, target_ref, priority, timeout_ms,
             queue_timeout_ms, max_retries, on_lost, created_ms, due_ms, started_ms, cancel_ms,
             attempt, failures, lost, worker_id, run_id, step, has_input, key, limit) in rows:
            klass = class_for(self, name, kind, target_kind, target_ref)
            slot = self.new_slot()
            task = &self.tasks[slot]
            task.id, task.run_id, task.step, task.state = task_id, run_id, step, state
            task.created_ms, task.due_ms, task.started_ms = created_ms, due_ms, started_ms
            task.cancel_ms, task.timeout_ms = cancel_ms, timeout_ms
            task.queue_timeout_ms, task.max_retries = queue_timeout_ms, max_retries
            task.attempt, task.failures, task.lost = attempt, failures, lost
            task.priority, task.on_lost, task.has_input = priority, on_lost, has_input
            task.klass = klass.number
            klass.live += 1
            self.counts[state] += 1
            self.ids.put(task_id, slot)
            count += 1
            if key:
                enter_lane(self, slot, key, limit)
            if task.state == PENDING:
                self.load_pending(slot, now_ns, now_ms)
            elif task.state == RETRYING:
                self.load_retrying(slot, now_ns, now_ms)
            elif task.state == RUNNING:
                self.load_running(slot, self.worker_of.get(worker_id), now_ns, now_ms)
        for loaded in list(self.key_of.values()):       # now that all that runs is known
            open_key(self, <Key> loaded)
        self.clear_step_events()
        return count

    cdef clear_step_events(self):
        """Loading is no news: nothing of it is written or told, but what must be sent again."""
        starts, stops = self.starts, self.stops
        self.clear_step()
        self.starts, self.stops = starts, stops

    # The wall clock may have been set back: after a restart nothing waits longer than was asked for.

    cdef int load_pending(self, int32_t slot, int64_t now_ns, int64_t now_ms) except -1:
        cdef Task* task = &self.tasks[slot]
        cdef int64_t delay_ms = 0 if task.attempt else max(0, task.due_ms - task.created_ms)
        task.due_ms = min(task.due_ms, now_ms + delay_ms)
        return self.enqueue(slot, now_ns, now_ms,
                            max(0, now_ms - max(task.created_ms, task.due_ms)))

    cdef int load_retrying(self, int32_t slot, int64_t now_ns, int64_t now_ms) except -1:
        cdef Task* task = &self.tasks[slot]
        cdef int64_t left_ms = min(task.due_ms - now_ms, task.due_ms - task.started_ms)
        task.started_ms = 0
        return self.arm(slot, now_ns + max(0, left_ms) * MS)

    cdef int load_running(self, int32_t slot, Worker worker, int64_t now_ns,
                          int64_t now_ms) except -1:
        cdef Task* task = &self.tasks[slot]
        cdef int64_t left_ms
        if worker is None:
            return self.arm(slot, now_ns)       # its worker is not known any more: lost
        task.since_ns = now_ns - max(0, now_ms - task.started_ms) * MS
        self.hold(slot, worker)
        refresh(self, worker)
        if task.timeout_ms:
            left_ms = task.started_ms + task.timeout_ms - now_ms
            left_ms = max(0, min(left_ms, task.timeout_ms))
            task.timeout_ns = now_ns + left_ms * MS
            self.arm(slot, task.timeout_ns)
        if worker.kind != SESSION:
            self.tell_start(slot, worker, True)
        if task.cancel_ms:
            self.stop(slot, STOP_CANCEL, now_ns, now_ms)
        return 0

    # ------------------------------------------------------------ looking in

    def counts_by_state(self):
        """Live tasks by state: (queued, pending, running, retrying)."""
        return (self.counts[QUEUED], self.counts[PENDING], self.counts[RUNNING],
                self.counts[RETRYING])

    def knows(self, int64_t task_id):
        """(state, attempt, cancel_ms) of a live task, else None."""
        cdef int32_t slot = self.ids.get(task_id)
        if slot < 0:
            return None
        return self.tasks[slot].state, self.tasks[slot].attempt, self.tasks[slot].cancel_ms

    def worker_view(self, str worker_id):
        """(attached, draining, running, capacity, lease left in ns as of expires) or None."""
        cdef Worker worker = self.worker_of.get(worker_id)
        if worker is None:
            return None
        return (worker.attached, worker.draining != 0, worker.running, worker.capacity,
                worker.expires_ns)

    def held_by(self, str worker_id):
        """(task id, attempt) of everything that a worker holds, newest first."""
        cdef Worker worker = self.worker_of.get(worker_id)
        cdef int32_t slot = -1 if worker is None else worker.head
        held = []
        while slot >= 0:
            held.append((self.tasks[slot].id, self.tasks[slot].attempt))
            slot = self.tasks[slot].next
        return held

    def silent(self, int64_t heard_ns):
        """(worker id, since when in ns) of those that were heard of and take nothing: calls do
        not reach them; or they are away from work that waits, where it is not known since when: 0.
        """
        return silent_workers(self, heard_ns)

    def why(self, int64_t task_id):
        """The true reasons why a live task is not running, most telling first; None: not live."""
        cdef int32_t slot = self.ids.get(task_id)
        cdef Task* task
        cdef MatchClass klass
        if slot < 0:
            return None
        task = &self.tasks[slot]
        if task.state == QUEUED:
            return (Cause("not_started", "It was created without autoStart; start it."),)
        if task.state == RETRYING:
            return (Cause("retry_wait", f"Attempt {task.attempt} ended; the next one is due later.",
                          until_ms=self.timer_ms(slot)),)
        if task.state == RUNNING:
            return ()
        klass = <MatchClass> self.classes[task.klass]
        if self.ready_at[slot] == 0:
            return (Cause("delayed", "It must not start before its due time.",
                          until_ms=self.timer_ms(slot)),)
        return why_pending(self, slot, klass)

    def statistics(self):
        """Sizes of everything that grows."""
        return {
            "tasks": self.task_count, "workers": len(self.worker_of),
            "classes": len(self.class_of), "timers": self.timers.count,
            "leases": self.leases.count, "alarms": self.alarms.slots.count,
            "keys": len(self.key_of), "lanes": len(self.lanes) - len(self.free_lanes),
            "task_bytes": self.task_room * sizeof(Task),
        }

    def meters(self):
        """What was counted since the core was made."""
        return meters_of(&self.met)

    def slots(self):
        """(all, busy) slots of the workers that are here, without the daemon's own executors; one
        that drains has as many as it still uses."""
        cdef Worker worker
        cdef int64_t total = 0, busy = 0, running       # what is in hand beyond it has no slot
        for worker in self.worker_of.values():
            if worker.kind != LOCAL and worker.attached:
                running = min(worker.running, worker.capacity)
                total += running if worker.draining else worker.capacity
                busy += running
        return total, busy

    cdef uint64_t draw(self) noexcept:
        """The next 64 random bits. Source: SplitMix64, Steele et al., OOPSLA 2014."""
        cdef uint64_t z
        self.rng += <uint64_t> 0x9E3779B97F4A7C15
        z = self.rng
        z = (z ^ (z >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * <uint64_t> 0x94D049BB133111EB
        return z ^ (z >> 31)

    def check(self, bint at_rest=False):
        """Assert every invariant, walking everything: for tests, simulation and diagnosis.

        at_rest: also that no ready task and free worker wait for a tick, as between two passes.
        """
        check_all(self, at_rest)


cdef int64_t count_us(int64_t* buckets, int64_t ns) noexcept:
    """Count one duration; answers it in whole us."""
    cdef int64_t us = ns // 1000 if ns > 0 else 0
    cdef int64_t left = us
    cdef int i = 0
    while left and i < BUCKETS - 1:
        left >>= 1
        i += 1
    buckets[i] += 1
    return us


cdef inline bint has_input(command):
    return command.payload is not None or command.blob or command.labels


include "_workers.pxi"
include "_match.pxi"
include "_keys.pxi"
include "_look.pxi"
