# Matching: which workers a task may go to, and which of them takes it. Included by _sched.pyx.

@cython.final
cdef class MatchClass:

    def __cinit__(self, str name, str pool, str target_kind, str target_ref, int32_t number):
        self.name, self.pool, self.number = name, pool, number
        self.target_kind, self.target_ref = target_kind, target_ref
        self.ready, self.free, self.lanes = Heap(), Heap(), Heap()
        self.workers = {}

    def __dealloc__(self):
        free(self.free_at)

    cdef int make_room(self, Py_ssize_t slot) except -1:
        cdef Py_ssize_t room
        if slot < self.free_room:
            return 0
        room = max(slot + 1, self.free_room * 2, 8)
        self.free_at = <int32_t*> grown(self.free_at, self.free_room, room, sizeof(int32_t))
        self.free_room = room
        return 0


cdef bint matches(MatchClass klass, Worker worker, str home):
    """Whether a worker of the class's pool is one that the target means.

    home: the node whose agent runs the processes that name none, "" when the daemon does it.
    """
    cdef str kind = klass.target_kind, ref = klass.target_ref, pair, key, value
    if kind == "" and klass.pool == NODE_POOL:
        return worker.kind == LOCAL or (home != "" and worker.node_id == home)
    if kind == "" or kind == "builtin" or kind == "service":
        return True
    if kind == "node":
        return worker.node_id == ref
    if kind == "worker":
        return worker.worker_id == ref
    if kind == "deployment":
        return worker.labels.get("deploymentId") == ref
    if kind == "app":
        return ref in (worker.join.app_name, worker.labels.get("appName"),
                       worker.labels.get("serviceName"))
    if kind == "labels":
        for pair in ref.split(","):
            key, _, value = pair.partition("=")
            if worker.labels.get(key.strip()) != value.strip():
                return False
        return True
    return False


cdef inline bint has_room(Worker worker):
    """Whether it takes one more attempt."""
    return (worker.attached and not worker.draining
            and worker.running < worker.capacity + worker.ahead)


cdef MatchClass class_for(Scheduler self, str name, int kind, str target_kind, str target_ref):
    cdef MatchClass klass
    cdef str pool
    cdef tuple key = (name, kind, target_kind, target_ref)
    cdef Py_ssize_t room
    klass = self.class_of.get(key)
    if klass is not None:
        if klass.live == 0:
            self.idle.pop(klass.number, None)
        return klass
    pool = POOLS[kind] or name
    if kind == 0 and (target_kind == "builtin" or name.startswith("builtin.")):
        pool = BUILTIN_POOL
    number = self.free_classes.pop() if self.free_classes else len(self.classes)
    klass = MatchClass(name, pool, target_kind, target_ref, number)
    if number == len(self.classes):
        self.classes.append(klass)
    else:
        self.classes[number] = klass
    if number >= self.turn_room:
        room = max(64, self.turn_room * 2)
        self.turn_at = <int32_t*> grown(self.turn_at, self.turn_room, room, sizeof(int32_t))
        self.turn_room = room
    self.class_of[key] = klass
    self.classes_of_pool.setdefault(pool, {})[number] = klass
    for slot in self.workers_of_pool.get(pool, ()):
        admit(self, klass, <Worker> self.workers[slot])
    return klass


cdef int admit(Scheduler self, MatchClass klass, Worker worker) except -1:
    """Enter a worker of the class's pool where the target means it."""
    if matches(klass, worker, <str> self.limits.home_node):
        klass.workers[worker.slot] = None
        worker.classes[klass.number] = None
        klass.make_room(worker.slot)
        offer(self, klass, worker)
    return 0


cdef int leave_class(Scheduler self, MatchClass klass) except -1:
    """One live task less; classes without tasks are kept for a while, a bounded number."""
    cdef MatchClass oldest
    klass.live -= 1
    if klass.live > 0:
        return 0
    self.idle[klass.number] = None
    if len(self.idle) > self.limits.idle_classes_max:
        number = next(iter(self.idle))
        del self.idle[number]
        oldest = <MatchClass> self.classes[number]
        for slot in oldest.workers:
            (<Worker> self.workers[slot]).classes.pop(number, None)
        self.class_of = {key: klass for key, klass in self.class_of.items()
                         if klass is not oldest}
        members = self.classes_of_pool[oldest.pool]
        del members[number]
        if not members:
            del self.classes_of_pool[oldest.pool]
        self.classes[number] = None
        self.free_classes.append(number)
        self.turns.drop(self.turn_at, number)
        if number in self.dirty_set:
            self.dirty_set.discard(number)
            self.dirty_classes.remove(number)
    return 0


cdef int offer(Scheduler self, MatchClass klass, Worker worker) except -1:
    """Put the worker's load into the class's heap, or take the worker out of it."""
    if has_room(worker):
        klass.free.put(klass.free_at, (<int64_t> worker.running << 20) // worker.capacity,
                       worker.last_use, worker.slot)
        if klass.ready.count or klass.lanes.count:
            touch(self, klass)
    else:
        klass.free.drop(klass.free_at, worker.slot)
    return 0


cdef int refresh(Scheduler self, Worker worker) except -1:
    for number in worker.classes:
        offer(self, <MatchClass> self.classes[number], worker)
    return 0


cdef int touch(Scheduler self, MatchClass klass) except -1:
    """The class may have both a ready task and a free worker now."""
    if klass.number not in self.dirty_set:
        self.dirty_set.add(klass.number)
        self.dirty_classes.append(klass.number)
    return 0


cdef Entry* first(MatchClass klass) noexcept:
    """What goes first in a class: a task without a key, or a lane."""
    cdef Entry* lane
    if klass.lanes.count == 0:
        return &klass.ready.entries[0] if klass.ready.count else NULL
    lane = &klass.lanes.entries[0]
    if klass.ready.count and before(&klass.ready.entries[0], lane):
        return &klass.ready.entries[0]
    return lane


cdef int match(Scheduler self, int64_t now_ns, int64_t now_ms) except -1:
    """Give ready tasks to free workers: over all classes the most urgent task goes first,
    and of its class's workers the least loaded takes it."""
    cdef MatchClass klass
    cdef Entry* head
    cdef Lane lane
    cdef int32_t number, slot
    if not self.dirty_classes:
        return 0
    for number in self.dirty_classes:
        klass = <MatchClass> self.classes[number]
        head = first(klass)
        if head is not NULL and klass.free.count:
            self.turns.put(self.turn_at, head.key, head.tie, number)
    while self.turns.count:
        number = self.turns.entries[0].item
        klass = <MatchClass> self.classes[number]
        head = first(klass)
        if head is not NULL and klass.free.count:
            slot, lane = head.item, None
            if klass.lanes.count and head == &klass.lanes.entries[0]:
                lane = <Lane> self.lanes[slot]
                slot = lane.ready.entries[0].item
                lane.ready.drop(self.ready_at, slot)
                serve_lane(self, lane, now_ns, now_ms)
            else:
                klass.ready.drop(self.ready_at, slot)
            self.start(slot, <Worker> self.workers[klass.free.entries[0].item], now_ns, now_ms)
            if lane is not None:
                open_key(self, lane.key)
            head = first(klass)
        if head is not NULL and klass.free.count:
            self.turns.put(self.turn_at, head.key, head.tie, number)
        else:
            self.turns.drop(self.turn_at, number)
    self.dirty_classes.clear()
    self.dirty_set.clear()
    return 0
