# The core's structs and class fields. Persistent fields first, bookkeeping after the rule.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t


cdef struct Entry:
    int64_t key             # smaller goes first
    int64_t tie             # then this: ids, so that order never depends on memory
    int32_t item            # a task's or worker's slot, or a class's number


cdef class Heap:
    """A binary heap that knows where each item stands, so that any item can move or leave.

    `where` (one int32 an item, owned by the caller) holds position + 1; 0 = not in the heap.
    """
    cdef Entry* entries
    cdef Py_ssize_t count, room

    cdef int put(self, int32_t* where, int64_t key, int64_t tie, int32_t item) except -1
    cdef void drop(self, int32_t* where, int32_t item) noexcept
    cdef void up(self, int32_t* where, Py_ssize_t i, Entry moving) noexcept
    cdef void down(self, int32_t* where, Py_ssize_t i, Entry moving) noexcept


cdef class IdMap:
    """Task id -> slot: open addressing, linear probing, deletion by shifting back."""
    cdef int64_t* keys      # 0 = free
    cdef int32_t* slots
    cdef Py_ssize_t count, mask

    cdef int grow(self) except -1
    cdef int put(self, int64_t key, int32_t slot) except -1
    cdef int32_t get(self, int64_t key) noexcept
    cdef void drop(self, int64_t key) noexcept


cdef class Alarms:
    """Schedule id -> when to look at it: milliseconds of the wall, or monotonic nanoseconds."""
    cdef IdMap slots
    cdef Heap wall, paced
    cdef int64_t* idents
    cdef int32_t* wall_at
    cdef int32_t* paced_at
    cdef Py_ssize_t top, room
    cdef list free, due

    cdef int put(self, int64_t ident, int64_t at, bint paced) except -1
    cdef int drop(self, int64_t ident) except -1
    cdef int ring(self, int64_t now_ns, int64_t now_ms, Py_ssize_t most) except -1
    cdef int64_t next_ns(self, int64_t offset_ns) except? -1


cdef struct Task:
    int64_t id
    int64_t run_id          # 0 = none
    int64_t created_ms
    int64_t due_ms          # not before; 0 = at once
    int64_t started_ms      # of the current attempt
    int64_t cancel_ms       # when a cancel was asked for; 0 = never
    int64_t timeout_ms      # of an attempt; 0 = none
    int64_t queue_timeout_ms
    int32_t attempt         # the current or last one's number, from 1
    int32_t failures
    int32_t lost
    int32_t max_retries
    int32_t step            # the step of the run that this task is, -1 = none
    uint8_t state
    uint8_t priority
    uint8_t on_lost
    uint8_t has_input       # a payload is stored
    # ---------------------------------------------------------------
    int64_t timeout_ns      # when the running attempt's time is up; 0 = never
    int64_t since_ns        # since when it is ready or, RUNNING, since when it runs
    int32_t klass           # its match class
    int32_t lane            # the number of the lane of its concurrency key + 1; 0 = it has none
    int32_t worker          # who holds the attempt, -1 = nobody
    int32_t next            # neighbours in the worker's list of attempts, and in the free list
    int32_t prev
    uint8_t dirty           # its row must be written in this step
    uint8_t fresh           # it was submitted in this step
    uint8_t stopping        # 0, STOP_CANCEL or STOP_TIMEOUT
    uint8_t napping         # a builtin delay: the core's own timer ends it


cdef enum:
    BUCKETS = 42            # bucket i counts times below 2**i us and not below 2**(i - 1)


cdef struct Meters:         # what was counted since the core was made; nothing decides by it
    int64_t submitted
    int64_t started         # attempts
    int64_t ended[8]        # tasks, by their terminal state
    int64_t lost            # attempts
    int64_t stale           # reports that were refused
    int64_t wait_us         # the sum of all waits
    int64_t run_us
    int64_t wait[BUCKETS]   # ready -> started
    int64_t run[BUCKETS]    # started -> ended


cdef class MatchClass:
    """All tasks that the same workers can take: one name, one target."""
    cdef readonly str name, pool, target_kind, target_ref
    cdef int32_t number
    cdef int64_t live       # tasks of this class in the core
    cdef Heap ready         # tasks by (time - priority, id)
    cdef Heap lanes         # of concurrency keys that may go, by (time - priority, turn)
    cdef Heap free          # eligible workers with a free slot by (load, last use)
    cdef int32_t* free_at
    cdef Py_ssize_t free_room
    cdef dict workers       # slots of all eligible workers, in order of arrival

    cdef int make_room(self, Py_ssize_t slot) except -1


cdef class Key:
    """A concurrency key: how many of its tasks run, and how many may. Times are monotonic ns."""
    cdef readonly str name
    cdef int32_t number, running
    cdef int32_t own_limit  # of its newest task that names one, 0 = none
    cdef int32_t limit      # of the named limit, which goes first
    cdef bint named
    cdef int64_t interval_ns, burst     # a token each interval, so many at most; 0 = no rate
    cdef int64_t arrival_ns             # when the bucket would be full again
    cdef dict lanes         # by the number of their class
    cdef dict members       # ids of its live tasks, oldest first

    cdef int32_t most(self) noexcept


cdef class Lane:
    """The ready tasks of a key in a match class."""
    cdef Key key
    cdef MatchClass klass
    cdef Heap ready
    cdef int32_t number
    cdef int64_t live, served_ms, turn


cdef class Worker:
    """A worker's place in the core: what it can, how much it does, until when it is believed."""
    cdef readonly str worker_id, session, node_id
    cdef object join        # the last Join, as it is stored
    cdef dict labels
    cdef int32_t slot, capacity, running, head
    cdef int32_t ahead      # how many it takes beyond its capacity
    cdef int kind
    cdef int64_t lease_ns, expires_ns, last_use
    cdef bint attached
    cdef int draining       # who wants that: DRAIN_OWN | DRAIN_ASKED
    cdef int64_t missed_since, missed_last      # calls that never came to it, 0 = the last one did
    cdef dict classes       # numbers of the classes it is eligible for, in order


cdef class Scheduler:
    cdef object limits
    cdef uint64_t rng
    cdef Task* tasks
    cdef int32_t* ready_at
    cdef int32_t* timer_at
    cdef Py_ssize_t task_room, task_top, task_count
    cdef int32_t free_task
    cdef IdMap ids
    cdef Heap timers, leases, turns, gates
    cdef int32_t* gate_at   # of keys: when time opens them
    cdef int32_t* lane_at
    cdef Py_ssize_t key_room, lane_room
    cdef list keys, free_keys, lanes, free_lanes
    cdef dict key_of
    cdef int64_t turn, now_ns
    cdef Alarms alarms
    cdef int64_t offset_ns  # the wall clock is ahead of the monotonic one by so much
    cdef int32_t* lease_at
    cdef int32_t* turn_at
    cdef Py_ssize_t worker_room, turn_room
    cdef list classes, free_classes, workers, free_workers
    cdef dict class_of, classes_of_pool, worker_of, workers_of_pool, naps
    cdef set drained        # ids of workers that are to take nothing new, here or not
    cdef dict idle
    cdef list dirty_classes
    cdef set dirty_set
    cdef int64_t uses, arrivals
    cdef int64_t counts[8]
    cdef Meters met
    # one step
    cdef list dirty, created, changed, ended, run_ends, events, starts, stops, kicks, joined, gone
    cdef dict submits
    # constants from limits
    cdef int64_t age_ms, backoff_base_ms, backoff_cap_ms, stop_grace_ns, restart_grace_ns
    cdef int32_t lost_extra, timers_per_tick, alarms_per_tick

    cdef on_submit(self, command, int64_t now_ns, int64_t now_ms)
    cdef bint make_way(self, int32_t slot, int policy, int64_t now_ns, int64_t now_ms) except -1
    cdef on_start(self, command, int64_t now_ns, int64_t now_ms)
    cdef on_cancel(self, command, int64_t now_ns, int64_t now_ms)
    cdef on_finish(self, command, int64_t now_ns, int64_t now_ms)
    cdef stale(self, str detail, int state, int32_t attempt)
    cdef bint has_other(self, int32_t klass, Worker worker) except -1
    cdef on_nap(self, command, int64_t now_ns, int64_t now_ms)

    cdef int32_t new_slot(self) except -1
    cdef void mark(self, int32_t slot) noexcept
    cdef int tell_state(self, Task* task, int64_t at_ms) except -1
    cdef int set_state(self, int32_t slot, int state, int64_t at_ms) except -1
    cdef int arm(self, int32_t slot, int64_t due_ns) except -1
    cdef int64_t timer_ms(self, int32_t slot) noexcept
    cdef int enqueue(self, int32_t slot, int64_t now_ns, int64_t now_ms,
                     int64_t waited_ms=*) except -1
    cdef int hold(self, int32_t slot, Worker worker) except -1
    cdef int release(self, int32_t slot) except -1
    cdef int start(self, int32_t slot, Worker worker, int64_t now_ns, int64_t now_ms) except -1
    cdef int tell_start(self, int32_t slot, Worker worker, bint resumed) except -1
    cdef int stop(self, int32_t slot, int reason, int64_t now_ns, int64_t now_ms) except -1
    cdef int confirm_stop(self, int32_t slot, int64_t now_ns, int64_t now_ms) except -1
    cdef int end(self, int32_t slot, int ending, str code, object report, bint retryable,
                 int64_t retry_after_ms, int64_t now_ns, int64_t now_ms) except -1
    cdef int settle(self, Task* task, int ending, bint retryable) noexcept
    cdef int64_t backoff_ms(self, int32_t failures) noexcept
    cdef int close(self, int32_t slot, int state, int64_t now_ms) except -1
    cdef int write(self, int32_t slot, int64_t finished_ms) except -1

    cdef int expire(self, int64_t now_ns, int64_t now_ms) except -1
    cdef int fire(self, int32_t slot, int64_t now_ns, int64_t now_ms) except -1
    cdef clear_step(self)
    cdef clear_step_events(self)
    cdef int load_pending(self, int32_t slot, int64_t now_ns, int64_t now_ms) except -1
    cdef int load_retrying(self, int32_t slot, int64_t now_ns, int64_t now_ms) except -1
    cdef int load_running(self, int32_t slot, Worker worker, int64_t now_ns,
                          int64_t now_ms) except -1
    cdef uint64_t draw(self) noexcept
