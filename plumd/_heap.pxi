# What the core keeps order with: an indexed heap, and the map from task ids to slots. Included
# by _sched.pyx; the fields are declared in _sched.pxd.

@cython.final
cdef class Heap:

    def __dealloc__(self):
        free(self.entries)

    cdef int put(self, int32_t* where, int64_t key, int64_t tie, int32_t item) except -1:
        cdef Entry entry
        cdef Entry* grown
        cdef Py_ssize_t i = where[item] - 1
        entry.key, entry.tie, entry.item = key, tie, item
        if i < 0:
            if self.count == self.room:
                self.room = self.room * 2 if self.room else 16
                grown = <Entry*> realloc(self.entries, self.room * sizeof(Entry))
                if grown is NULL:
                    raise MemoryError()
                self.entries = grown
            self.count += 1
            self.up(where, self.count - 1, entry)
        elif before(&entry, &self.entries[i]):
            self.up(where, i, entry)
        else:
            self.down(where, i, entry)
        return 0

    cdef void drop(self, int32_t* where, int32_t item) noexcept:
        cdef Py_ssize_t i = where[item] - 1
        cdef Entry last
        if i < 0:
            return
        where[item] = 0
        self.count -= 1
        if i == self.count:
            return
        last = self.entries[self.count]
        if i > 0 and before(&last, &self.entries[(i - 1) >> 1]):
            self.up(where, i, last)
        else:
            self.down(where, i, last)

    cdef void up(self, int32_t* where, Py_ssize_t i, Entry moving) noexcept:
        cdef Py_ssize_t parent
        while i > 0:
            parent = (i - 1) >> 1
            if not before(&moving, &self.entries[parent]):
                break
            self.entries[i] = self.entries[parent]
            where[self.entries[i].item] = <int32_t> (i + 1)
            i = parent
        self.entries[i] = moving
        where[moving.item] = <int32_t> (i + 1)

    cdef void down(self, int32_t* where, Py_ssize_t i, Entry moving) noexcept:
        cdef Py_ssize_t child
        while True:
            child = 2 * i + 1
            if child >= self.count:
                break
            if child + 1 < self.count and before(&self.entries[child + 1], &self.entries[child]):
                child += 1
            if not before(&self.entries[child], &moving):
                break
            self.entries[i] = self.entries[child]
            where[self.entries[i].item] = <int32_t> (i + 1)
            i = child
        self.entries[i] = moving
        where[moving.item] = <int32_t> (i + 1)


cdef inline bint before(Entry* x, Entry* y) noexcept:
    return x.key < y.key or (x.key == y.key and x.tie < y.tie)


@cython.final
cdef class IdMap:

    def __dealloc__(self):
        free(self.keys)
        free(self.slots)

    cdef int grow(self) except -1:
        cdef Py_ssize_t old_room = self.mask + 1 if self.keys is not NULL else 0
        cdef Py_ssize_t room = old_room * 2 if old_room else 64
        cdef int64_t* old_keys = self.keys
        cdef int32_t* old_slots = self.slots
        cdef Py_ssize_t i
        cdef int64_t* keys = <int64_t*> malloc(room * sizeof(int64_t))
        cdef int32_t* slots = <int32_t*> malloc(room * sizeof(int32_t))
        if keys is NULL or slots is NULL:
            free(keys)
            free(slots)
            raise MemoryError()
        memset(keys, 0, room * sizeof(int64_t))
        self.keys, self.slots, self.mask, self.count = keys, slots, room - 1, 0
        for i in range(old_room):
            if old_keys[i]:
                self.put(old_keys[i], old_slots[i])
        free(old_keys)
        free(old_slots)
        return 0

    cdef int put(self, int64_t key, int32_t slot) except -1:
        cdef Py_ssize_t i
        if self.keys is NULL or self.count * 5 >= (self.mask + 1) * 3:
            self.grow()
        i = home(key) & self.mask
        while self.keys[i] and self.keys[i] != key:
            i = (i + 1) & self.mask
        if not self.keys[i]:
            self.count += 1
        self.keys[i], self.slots[i] = key, slot
        return 0

    cdef int32_t get(self, int64_t key) noexcept:
        cdef Py_ssize_t i
        if self.keys is NULL or key <= 0:
            return -1
        i = home(key) & self.mask
        while self.keys[i]:
            if self.keys[i] == key:
                return self.slots[i]
            i = (i + 1) & self.mask
        return -1

    cdef void drop(self, int64_t key) noexcept:
        cdef Py_ssize_t hole, i, ideal
        if self.keys is NULL:
            return
        hole = home(key) & self.mask
        while self.keys[hole] != key:
            if not self.keys[hole]:
                return
            hole = (hole + 1) & self.mask
        self.count -= 1
        i = hole
        while True:
            i = (i + 1) & self.mask
            if not self.keys[i]:
                break
            ideal = home(self.keys[i]) & self.mask
            if ((i - ideal) & self.mask) >= ((i - hole) & self.mask):
                self.keys[hole], self.slots[hole] = self.keys[i], self.slots[i]
                hole = i
        self.keys[hole] = 0


cdef inline Py_ssize_t home(int64_t key) noexcept:
    cdef uint64_t mixed = <uint64_t> key * <uint64_t> 0x9E3779B97F4A7C15
    return <Py_ssize_t> (mixed >> 20)


cdef void* grown(void* block, Py_ssize_t old, Py_ssize_t new, size_t size) except NULL:
    """The block with room for `new` items; the new ones are zero."""
    cdef char* bigger = <char*> realloc(block, new * size)
    if bigger is NULL:
        raise MemoryError()
    memset(bigger + old * size, 0, (new - old) * size)
    return bigger
