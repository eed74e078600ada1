# Workers: how they come, are believed and go, and what each may take. Included by _sched.pyx.

@cython.final
cdef class Worker:
    pass


cdef inline int note_call(Worker worker, bint reached, int64_t now_ns) except -1:
    """A call ended. Misses that are long ago say nothing of a new one."""
    if reached:
        worker.missed_since = 0
        return 0
    if worker.missed_since == 0 or now_ns - worker.missed_last > MISSES_APART_NS:
        worker.missed_since = now_ns
    worker.missed_last = now_ns
    return 0


cdef bint same_worker(a, b):
    """Whether two Joins describe the same worker; what it holds does not count."""
    return (a.session == b.session and a.tasks == b.tasks and a.capacity == b.capacity
            and a.labels == b.labels and a.node_id == b.node_id and a.kind == b.kind
            and a.lease_ms == b.lease_ms and a.url == b.url and a.app_name == b.app_name
            and a.app_version == b.app_version and a.instance_id == b.instance_id)


cdef on_join(Scheduler self, command, int64_t now_ns, int64_t now_ms):
    cdef Worker worker = self.worker_of.get(command.worker_id)
    cdef bint changed, back, restarted = False
    cdef int32_t slot, following
    cdef set held
    if worker is None and len(self.worker_of) >= self.limits.workers_max:
        return Reply("overloaded", "too many workers")
    if worker is not None and worker.session != command.session:
        self.kicks.append((worker.worker_id, worker.session))
        lose_all(self, worker, "worker_restarted", now_ns, now_ms)
        worker.draining &= ~DRAIN_OWN
        restarted = True
    back = worker is not None
    changed = place(self, command, worker)
    worker = <Worker> self.worker_of[command.worker_id]
    if changed or not worker.attached:
        self.joined.append(command)
        tell_worker(self, worker, "changed" if back and worker.attached and not restarted
                    else "online", now_ms)
    if restarted or not worker.attached:
        worker.ahead = 0        # what a line wants it says anew
    worker.attached = True
    worker.expires_ns = now_ns + worker.lease_ns
    if worker.kind != LOCAL:
        self.leases.put(self.lease_at, worker.expires_ns, worker.slot, worker.slot)
    if back:
        held = set(command.holding)
        slot = worker.head
        while slot >= 0:
            following = self.tasks[slot].next
            pair = (self.tasks[slot].id, self.tasks[slot].attempt)
            if pair in held:
                held.discard(pair)
                if self.tasks[slot].stopping:
                    self.stops.append((worker.worker_id, pair[0], pair[1],
                                       STOP_REASONS[self.tasks[slot].stopping]))
            elif self.tasks[slot].stopping and worker.kind == SESSION:
                self.confirm_stop(slot, now_ns, now_ms)     # it never arrived there
            elif worker.kind == SESSION:
                self.tell_start(slot, worker, True)
            slot = following
        for pair in command.holding:
            if pair in held:
                self.stops.append((worker.worker_id, pair[0], pair[1], "stale"))
    else:
        for pair in command.holding:
            self.stops.append((worker.worker_id, pair[0], pair[1], "stale"))
    refresh(self, worker)
    return ACCEPTED


cdef bint place(Scheduler self, command, Worker worker) except -1:
    """Make the worker what the Join says; answers whether anything changed."""
    cdef MatchClass klass
    cdef str name
    cdef object before_join = None
    if worker is not None:
        before_join = worker.join
        if same_worker(before_join, command):
            worker.join = command
            return False
        leave_pools(self, worker)
    else:
        worker = Worker()
        if self.free_workers:
            worker.slot = self.free_workers.pop()
            self.workers[worker.slot] = worker
        else:
            worker.slot = <int32_t> len(self.workers)
            self.workers.append(worker)
        if worker.slot >= self.worker_room:
            room = max(64, self.worker_room * 2)
            self.lease_at = <int32_t*> grown(self.lease_at, self.worker_room, room,
                                             sizeof(int32_t))
            self.worker_room = room
        worker.head = -1
        self.arrivals += 1      # never used: before all others, in order of arrival
        worker.last_use = self.arrivals - NEVER
        worker.draining = DRAIN_ASKED if command.worker_id in self.drained else 0
        self.worker_of[command.worker_id] = worker
    worker.worker_id, worker.session = command.worker_id, command.session
    worker.node_id, worker.kind = command.node_id, command.kind
    worker.labels, worker.capacity = dict(command.labels), command.capacity
    worker.lease_ns, worker.join, worker.classes = command.lease_ms * MS, command, {}
    for name in dict.fromkeys(command.tasks):
        self.workers_of_pool.setdefault(name, {})[worker.slot] = None
        for klass in self.classes_of_pool.get(name, {}).values():
            admit(self, klass, worker)
    return True


cdef leave_pools(Scheduler self, Worker worker):
    cdef MatchClass klass
    cdef str name
    for number in worker.classes:
        klass = <MatchClass> self.classes[number]
        klass.workers.pop(worker.slot, None)
        klass.free.drop(klass.free_at, worker.slot)
    worker.classes = {}
    for name in dict.fromkeys(worker.join.tasks):
        members = self.workers_of_pool.get(name)
        if members is not None:
            members.pop(worker.slot, None)
            if not members:
                del self.workers_of_pool[name]


cdef on_detach(Scheduler self, command, int64_t now_ms):
    cdef Worker worker = self.worker_of.get(command.worker_id)
    if worker is None or worker.session != command.session:
        return Reply("session_replaced", "another session took over")
    detach(self, worker, now_ms)
    return ACCEPTED


cdef int detach(Scheduler self, Worker worker, int64_t now_ms) except -1:
    """Nothing new goes to it until it is back; its lease runs on."""
    if worker.attached:
        worker.attached = False
        tell_worker(self, worker, "away", now_ms)
    return refresh(self, worker)


cdef int tell_worker(Scheduler self, Worker worker, str what, int64_t now_ms) except -1:
    if worker.kind != LOCAL:
        self.events.append(("worker", worker.worker_id, what, now_ms))
    return 0


cdef on_leave(Scheduler self, command, int64_t now_ns, int64_t now_ms):
    cdef Worker worker = self.worker_of.get(command.worker_id)
    if not command.worker_id.startswith(AGENT_PREFIX):      # whose node is still drained
        self.drained.discard(command.worker_id)
    if worker is None:
        return Reply("not_found", "no such worker is here")
    lose_all(self, worker, "worker_left", now_ns, now_ms)
    self.kicks.append((worker.worker_id, worker.session))
    self.gone.append((worker.worker_id, "left"))
    tell_worker(self, worker, "left", now_ms)
    remove_worker(self, worker)
    return ACCEPTED


cdef on_ahead(Scheduler self, command):
    cdef Worker worker = self.worker_of.get(command.worker_id)
    if worker is None or worker.session != command.session:
        return Reply("session_replaced", "another session took over")
    worker.ahead = command.count
    refresh(self, worker)
    return ACCEPTED


cdef on_drain(Scheduler self, command, int64_t now_ms):
    cdef Worker worker = self.worker_of.get(command.worker_id)
    cdef int before
    if worker is None and command.own:
        return Reply("not_found", "no such worker is here")
    if not command.on:
        self.drained.discard(command.worker_id)
    elif not command.own:
        self.drained.add(command.worker_id)
    if worker is None:
        return ACCEPTED     # it is so when it comes
    before = worker.draining
    if command.on:
        worker.draining |= DRAIN_OWN if command.own else DRAIN_ASKED
    else:
        worker.draining = 0
    if (before == 0) != (worker.draining == 0):
        tell_worker(self, worker, "draining" if command.on else "resumed", now_ms)
    refresh(self, worker)
    return ACCEPTED


cdef int remove_worker(Scheduler self, Worker worker) except -1:
    leave_pools(self, worker)
    self.leases.drop(self.lease_at, worker.slot)
    del self.worker_of[worker.worker_id]
    self.workers[worker.slot] = None
    self.free_workers.append(worker.slot)
    return 0


cdef int lose_all(Scheduler self, Worker worker, str code, int64_t now_ns,
                  int64_t now_ms) except -1:
    while worker.head >= 0:
        self.end(worker.head, END_LOST, code, None, True, 0, now_ns, now_ms)
    return 0
