# Concurrency keys: at most so many tasks of a key run at once, and so many begin in a time; and keys
# take turns. Included by _sched.pyx; the fields are declared in _sched.pxd.
#
# The tasks of one key in one match class wait in a lane of their own. Of a class's open lanes, and of
# its tasks without a key, whichever has waited longest goes first: a lane has waited since it was
# last served, so that ten thousand tasks of one key hold up one task of another by a single turn.
# A lane whose key is at its limit is taken out until that changes.

@cython.final
cdef class Key:

    def __cinit__(self, str name, int32_t number):
        self.name, self.number = name, number
        self.lanes, self.members = {}, {}

    cdef int32_t most(self) noexcept:
        """How many may run at once, 0 = any number."""
        return self.limit if self.named and self.limit else self.own_limit


@cython.final
cdef class Lane:

    def __cinit__(self, Key key, MatchClass klass, int32_t number):
        self.key, self.klass, self.number = key, klass, number
        self.ready = Heap()


cdef Key key_for(Scheduler self, str name):
    """The key of this name, made if need be."""
    cdef Key key = self.key_of.get(name)
    if key is None:
        number = self.free_keys.pop() if self.free_keys else len(self.keys)
        key = Key(name, number)
        if number == len(self.keys):
            self.keys.append(key)
        else:
            self.keys[number] = key
        if number >= self.key_room:
            room = max(64, self.key_room * 2)
            self.gate_at = <int32_t*> grown(self.gate_at, self.key_room, room, sizeof(int32_t))
            self.key_room = room
        self.key_of[name] = key
    return key


cdef int forget_key(Scheduler self, Key key) except -1:
    """A key that nobody needs any more goes."""
    if key.members or key.named:
        return 0
    self.gates.drop(self.gate_at, key.number)
    del self.key_of[key.name]
    self.keys[key.number] = None
    self.free_keys.append(key.number)
    return 0


cdef int enter_lane(Scheduler self, int32_t slot, str name, int32_t limit) except -1:
    """A new task with a key: into the lane of its class."""
    cdef Task* task = &self.tasks[slot]
    cdef MatchClass klass = <MatchClass> self.classes[task.klass]
    cdef Key key = key_for(self, name)
    cdef Lane lane = key.lanes.get(klass.number)
    if lane is None:
        number = self.free_lanes.pop() if self.free_lanes else len(self.lanes)
        lane = Lane(key, klass, number)
        if number == len(self.lanes):
            self.lanes.append(lane)
        else:
            self.lanes[number] = lane
        if number >= self.lane_room:
            room = max(64, self.lane_room * 2)
            self.lane_at = <int32_t*> grown(self.lane_at, self.lane_room, room, sizeof(int32_t))
            self.lane_room = room
        key.lanes[klass.number] = lane
    lane.live += 1
    key.members[task.id] = None
    if limit:
        key.own_limit = limit
    self.tasks[slot].lane = lane.number + 1
    return 0


cdef int leave_lane(Scheduler self, int32_t slot) except -1:
    """A task with a key is over."""
    cdef Task* task = &self.tasks[slot]
    cdef Lane lane = <Lane> self.lanes[task.lane - 1]
    cdef Key key = lane.key
    lane.ready.drop(self.ready_at, slot)
    task.lane = 0
    del key.members[task.id]
    lane.live -= 1
    if lane.live == 0:
        lane.klass.lanes.drop(self.lane_at, lane.number)
        del key.lanes[lane.klass.number]
        self.lanes[lane.number] = None
        self.free_lanes.append(lane.number)
        return forget_key(self, key)
    return open_lane(self, lane)


cdef bint is_open(Scheduler self, Key key, int64_t now_ns) except -1:
    """Whether another task of the key may begin now; where time alone opens it, its gate is set."""
    cdef int32_t most = key.most()
    cdef int64_t open_ns
    if most and key.running >= most:
        return False
    if key.interval_ns == 0:
        return True
    # Source: the generic cell rate algorithm, ITU-T I.371; a bucket of `burst` tokens.
    open_ns = key.arrival_ns - (key.burst - 1) * key.interval_ns
    if open_ns <= now_ns:
        return True
    self.gates.put(self.gate_at, open_ns, key.number, key.number)
    return False


cdef int open_lane(Scheduler self, Lane lane) except -1:
    """Put the lane where its first task makes it stand, or take it out while it may not go."""
    cdef MatchClass klass = lane.klass
    cdef Entry* head
    cdef Task* task
    cdef int64_t since_ms, tie
    if lane.ready.count == 0 or not is_open(self, lane.key, self.now_ns):
        klass.lanes.drop(self.lane_at, lane.number)
        return 0
    head = &lane.ready.entries[0]
    task = &self.tasks[head.item]
    since_ms = head.key + task.priority * self.age_ms
    tie = head.tie
    if lane.served_ms >= since_ms:
        since_ms, tie = lane.served_ms, lane.turn
    klass.lanes.put(self.lane_at, since_ms - task.priority * self.age_ms, tie, lane.number)
    if klass.free.count:
        touch(self, klass)
    return 0


cdef int open_key(Scheduler self, Key key) except -1:
    """Something of the key has changed: look at all its lanes."""
    for lane in list(key.lanes.values()):
        open_lane(self, <Lane> lane)
    return 0


cdef int serve_lane(Scheduler self, Lane lane, int64_t now_ns, int64_t now_ms) except -1:
    """The lane's first task begins."""
    cdef Key key = lane.key
    self.turn += 1
    lane.turn, lane.served_ms = self.turn, now_ms
    if key.interval_ns:
        key.arrival_ns = max(key.arrival_ns, now_ns) + key.interval_ns
    return 0


cdef int open_gates(Scheduler self, int64_t now_ns) except -1:
    """Keys whose next token is there."""
    cdef Key key
    while self.gates.count and self.gates.entries[0].key <= now_ns:
        key = <Key> self.keys[self.gates.entries[0].item]
        self.gates.drop(self.gate_at, key.number)
        open_key(self, key)
    return 0


cdef set_limit(Scheduler self, command, int64_t now_ns):
    """A named limit is written, or (concurrency and count 0) gone."""
    cdef Key key = key_for(self, command.key)
    key.named = command.concurrency > 0 or command.rate_count > 0
    key.limit = command.concurrency
    if command.rate_count > 0:
        interval_ns = max(1, <int64_t> command.rate_per_ms * MS // <int64_t> command.rate_count)
        if (interval_ns, command.rate_count) != (key.interval_ns, key.burst):
            key.interval_ns, key.burst = interval_ns, command.rate_count
            # Nothing is known of what began lately, so the bucket begins empty.
            key.arrival_ns = now_ns + key.burst * key.interval_ns
    else:
        key.interval_ns = key.burst = 0
    self.gates.drop(self.gate_at, key.number)
    open_key(self, key)
    forget_key(self, key)
    return ACCEPTED


cdef list key_causes(Scheduler self, Lane lane):
    """Why a key lets none of its tasks begin."""
    cdef Key key = lane.key
    cdef int32_t most = key.most()
    cdef int64_t open_ns
    causes = []
    if most and key.running >= most:
        causes.append(Cause("concurrency_limit", f"{key.running} of the {most} tasks that may run "
                            f"at once with the key {key.name!r} are running."))
    if key.interval_ns:
        open_ns = key.arrival_ns - (key.burst - 1) * key.interval_ns
        if open_ns > self.now_ns:
            causes.append(Cause(
                "rate_limit", f"No more than {key.burst} tasks with the key {key.name!r} begin in "
                f"{key.burst * key.interval_ns / 1e9:g} s.",
                until_ms=(open_ns + self.offset_ns) // MS))
    return causes
