# The alarms of schedules: when each shall be looked at next. Included by _sched.pyx; the fields
# are declared in _sched.pxd. Those of the wall follow the wall clock wherever it is set; the
# paced ones count elapsed time. What an alarm means is decided outside.

@cython.final
cdef class Alarms:

    def __cinit__(self):
        self.slots, self.wall, self.paced = IdMap(), Heap(), Heap()
        self.free, self.due = [], []

    def __dealloc__(self):
        free(self.idents)
        free(self.wall_at)
        free(self.paced_at)

    cdef int put(self, int64_t ident, int64_t at, bint paced) except -1:
        """Set one's alarm, in place of the one that it had."""
        cdef int32_t slot = self.slots.get(ident)
        cdef Py_ssize_t room
        if slot < 0:
            if self.free:
                slot = self.free.pop()
            else:
                if self.top == self.room:
                    room = self.room * 2 if self.room else 64
                    self.idents = <int64_t*> grown(self.idents, self.room, room, 8)
                    self.wall_at = <int32_t*> grown(self.wall_at, self.room, room, 4)
                    self.paced_at = <int32_t*> grown(self.paced_at, self.room, room, 4)
                    self.room = room
                slot = <int32_t> self.top
                self.top += 1
            self.idents[slot] = ident
            self.slots.put(ident, slot)
        if paced:
            self.wall.drop(self.wall_at, slot)
            return self.paced.put(self.paced_at, at, ident, slot)
        self.paced.drop(self.paced_at, slot)
        return self.wall.put(self.wall_at, at, ident, slot)

    cdef int drop(self, int64_t ident) except -1:
        cdef int32_t slot = self.slots.get(ident)
        if slot < 0:
            return 0
        self.wall.drop(self.wall_at, slot)
        self.paced.drop(self.paced_at, slot)
        self.slots.drop(ident)
        self.free.append(slot)
        return 0

    cdef int ring(self, int64_t now_ns, int64_t now_ms, Py_ssize_t most) except -1:
        """Move what is due to `due`, at most so many; each is set again by whoever looks at it."""
        cdef int64_t ident
        while len(self.due) < most:
            if self.paced.count and self.paced.entries[0].key <= now_ns:
                ident = self.idents[self.paced.entries[0].item]
            elif self.wall.count and self.wall.entries[0].key <= now_ms:
                ident = self.idents[self.wall.entries[0].item]
            else:
                break
            self.drop(ident)
            self.due.append(ident)
        return 0

    cdef int64_t next_ns(self, int64_t offset_ns) except? -1:
        """When the next one is due on the monotonic clock; NEVER_NS without any."""
        cdef int64_t due = NEVER_NS
        if self.due:
            return 0
        if self.paced.count:
            due = self.paced.entries[0].key
        if self.wall.count:
            due = min(due, self.wall.entries[0].key * MS - offset_ns)
        return due
