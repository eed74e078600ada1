# Looking into the core: why a task waits, and whether every promise of the structures holds.
# Included by _sched.pyx; nothing here decides anything.

cdef tuple why_pending(Scheduler self, int32_t slot, MatchClass klass):
    cdef Worker worker
    cdef int away = 0, draining = 0, busy = 0, free = 0
    cdef Heap ready = klass.ready
    causes = []
    if self.tasks[slot].lane:
        ready = (<Lane> self.lanes[self.tasks[slot].lane - 1]).ready
        causes = key_causes(self, <Lane> self.lanes[self.tasks[slot].lane - 1])
    for number in klass.workers:
        worker = <Worker> self.workers[number]
        if not worker.attached:
            away += 1
        elif worker.draining:
            draining += 1
        elif not has_room(worker):
            busy += 1
        else:
            free += 1
    serving = len(self.workers_of_pool.get(klass.pool, ()))
    if not klass.workers and klass.pool == NODE_POOL:
        causes.append(no_node(klass, serving))
    elif not klass.workers and not serving:
        causes.append(Cause("no_worker", f"No worker has registered the task {klass.name!r}."))
    elif not klass.workers:
        causes.append(Cause(
            "target_mismatch", f"{serving} serve {klass.name!r}, but none matches the target "
            f"{klass.target_kind} {klass.target_ref!r}.", workers=serving))
    if busy:
        ahead = count_ahead(ready, self.ready_at[slot] - 1)
        causes.append(Cause("workers_busy", f"All slots of {busy} workers are taken; "
                            f"{ahead} tasks are ahead.", workers=busy, ahead=ahead))
    if away:
        causes.append(Cause("workers_away", f"{away} workers are not connected.", workers=away))
    if draining:
        causes.append(Cause("workers_draining", f"{draining} workers take no new tasks.",
                            workers=draining))
    if free and not causes:
        causes.append(Cause("dispatching", "A free worker takes it in this moment.",
                            workers=free))
    return tuple(causes)


cdef no_node(MatchClass klass, Py_ssize_t serving):
    """Why no node runs a process."""
    if klass.target_kind == "node":
        text = f"No agent of the node {klass.target_ref!r} is here."
    elif klass.target_kind == "":
        text = "The controller's own machine runs no processes; name a node."
    else:
        text = f"No agent is here whose node has the labels {klass.target_ref!r}."
    return Cause("no_node", text, workers=serving)


cdef int count_ahead(Heap heap, Py_ssize_t i) except -1:
    """How many entries come before entry i (at most AHEAD_MAX): only smaller ones are visited."""
    cdef int count = 0
    cdef Py_ssize_t at
    todo = [0]
    while todo and count < AHEAD_MAX:
        at = todo.pop()
        if at >= heap.count or at == i or not before(&heap.entries[at], &heap.entries[i]):
            continue
        count += 1
        todo.append(2 * at + 1)
        todo.append(2 * at + 2)
    return count


cdef list silent_workers(Scheduler self, int64_t heard_ns):
    """Those heard of since then that are away, or that calls did not reach, the last one lately."""
    cdef Worker worker
    found = []
    for worker in self.worker_of.values():
        if (worker.kind == LOCAL or worker.draining
                or worker.expires_ns - worker.lease_ns < heard_ns):
            continue
        if worker.missed_since and worker.missed_last >= heard_ns:
            found.append((worker.worker_id, worker.missed_since))
        elif not worker.attached and is_wanted(self, worker):
            found.append((worker.worker_id, 0))
    return found


cdef bint is_wanted(Scheduler self, Worker worker) except -1:
    """Whether something waits that it could take."""
    cdef MatchClass klass
    for number in worker.classes:
        klass = <MatchClass> self.classes[number]
        if klass.ready.count or klass.lanes.count:
            return True
    return False


cdef meters_of(Meters* met):
    return Counted(
        met.submitted, met.started, met.ended[SUCCEEDED], met.ended[FAILED], met.ended[TIMEOUT],
        met.ended[CANCELED], met.lost, met.stale, met.wait_us, met.run_us,
        tuple([met.wait[i] for i in range(BUCKETS)]), tuple([met.run[i] for i in range(BUCKETS)]))


cdef int check_all(Scheduler self, bint at_rest) except -1:
    cdef int32_t slot
    cdef Task* task
    cdef Worker worker
    cdef MatchClass klass
    cdef Py_ssize_t live = 0
    running = {}
    waiting = {}
    for slot in range(<int32_t> self.task_top):
        task = &self.tasks[slot]
        if task.id == 0:
            assert not self.ready_at[slot] and not self.timer_at[slot], "a ghost in a queue"
            continue
        live += 1
        waiting[task.klass] = waiting.get(task.klass, 0) + 1
        assert self.ids.get(task.id) == slot, "the id map is wrong"
        assert task.state < SUCCEEDED, "a terminal task is live"
        in_queue, timed = self.ready_at[slot] != 0, self.timer_at[slot] != 0
        if task.state == QUEUED:
            assert not in_queue and not timed, "a Queued task waits for a person only"
        elif task.state == PENDING:
            assert in_queue or timed, f"nothing will wake task {task.id:x}"
            assert task.worker < 0, "a waiting task holds a slot"
        elif task.state == RETRYING:
            assert timed and not in_queue and task.worker < 0, "a retry without its timer"
        else:
            assert not in_queue, "a running task is queued"
            assert task.worker >= 0 or timed, "a running task that nobody holds"
            if task.worker >= 0:
                running[task.worker] = running.get(task.worker, 0) + 1
            if task.napping:
                assert timed and task.id in self.naps, "a nap without its timer"
            if task.timeout_ms and not task.stopping:
                assert timed, "a timeout without its timer"
    assert live == self.task_count == self.ids.count, "the task count is wrong"
    assert sum(self.counts_by_state()) == live, "the state counts are wrong"
    for worker in self.worker_of.values():
        assert worker.running == running.get(worker.slot, 0), "a slot was not freed"
        assert len(self.held_by(worker.worker_id)) == worker.running, "the list is torn"
        assert worker.kind == LOCAL or self.lease_at[worker.slot], "a worker without a lease"
    check_keys(self)
    for klass in self.class_of.values():
        assert klass.live == waiting.get(klass.number, 0), "the class count is wrong"
        assert not ((klass.ready.count or klass.lanes.count) and klass.free.count) \
            or (self.dirty_classes and not at_rest), \
            "a ready task and a free worker were left unmatched"
        for number in klass.workers:
            worker = <Worker> self.workers[number]
            assert has_room(worker) == (klass.free_at[number] != 0), "the free heap is wrong"
    return 0


cdef int check_keys(Scheduler self) except -1:
    cdef int32_t slot
    cdef Key key
    cdef Lane lane
    running = {}
    live = {}
    for slot in range(<int32_t> self.task_top):
        if self.tasks[slot].id and self.tasks[slot].lane:
            lane = <Lane> self.lanes[self.tasks[slot].lane - 1]
            live[lane.number] = live.get(lane.number, 0) + 1
            assert self.tasks[slot].id in lane.key.members, "a key does not know its task"
            if self.tasks[slot].worker >= 0:
                running[lane.key.name] = running.get(lane.key.name, 0) + 1
    for key in self.key_of.values():
        assert key.running == running.get(key.name, 0), "a key's count of running tasks is wrong"
        assert key.named or key.members, "a key without use"
        for lane in key.lanes.values():
            assert lane.live == live.get(lane.number, 0), "a lane's count is wrong"
            open_ = lane.ready.count > 0 and is_open(self, key, self.now_ns)
            assert open_ or not self.lane_at[lane.number], "a lane is open that may not go"
            assert not open_ or self.lane_at[lane.number] or self.gate_at[key.number], \
                "a lane that may go is shut"
    return 0
