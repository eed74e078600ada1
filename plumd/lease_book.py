"""Pure: until when each lease holds, and who stands in line for one. Times are monotonic ns.

The book knows deadlines only; whose lease it is, is decided on rows. A lease that is renewed
costs nothing: its old place in the heap is seen to be out of date when it comes up.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

SWEPT: Final = 10_000
"""More places in the heap than this, and twice as many as at the last sweep, are swept."""
K = TypeVar("K", bound=Hashable)


class Held:
    """A lease that somebody has. ending: its end is being written."""

    def __init__(self, owner: str, token: int, ttl_ns: int, until_ns: int) -> None:
        self.owner = owner
        self.token = token
        self.ttl_ns = ttl_ns
        self.until_ns = until_ns
        self.queued_ns = until_ns   # its place in the heap, never later than until_ns
        self.ending = False


class LeaseBook(Generic[K]):
    """All leases by key, and the lines of those who wait."""

    def __init__(self) -> None:
        self._held: dict[K, Held] = {}
        self._heap: list[tuple[int, int, K]] = []       # (until, token, key)
        self._sweep_at = SWEPT
        self._lines: dict[K, OrderedDict[int, None]] = {}
        self._tickets = 0

    def __len__(self) -> int:
        return len(self._held)

    # ------------------------------------------------------------ leases

    def get(self, key: K) -> Held | None:
        """Who has it."""
        return self._held.get(key)

    def put(self, key: K, owner: str, token: int, ttl_ns: int, now_ns: int) -> None:
        """Somebody has it from now on, or has it still and begins his time anew."""
        until_ns = now_ns + ttl_ns
        known = self._held.get(key)
        if known is not None and known.token == token and known.queued_ns <= until_ns:
            known.ttl_ns, known.until_ns = ttl_ns, until_ns
            return
        held = self._held[key] = Held(owner, token, ttl_ns, until_ns)
        self._queue(key, held)

    def renew(self, key: K, token: int, now_ns: int) -> bool:
        """Begin its time anew; False when this token has it no more."""
        held = self._held.get(key)
        if held is None or held.token != token or held.ending or now_ns >= held.until_ns:
            return False
        held.until_ns = now_ns + held.ttl_ns
        return True

    def drop(self, key: K) -> None:
        """Nobody has it."""
        self._held.pop(key, None)

    def due(self, now_ns: int, count: int) -> list[tuple[K, int]]:
        """Up to count (key, token) whose time is over; they are `ending` until told otherwise."""
        found: list[tuple[K, int]] = []
        while self._heap and len(found) < count and self._heap[0][0] <= now_ns:
            queued_ns, token, key = heapq.heappop(self._heap)
            held = self._held.get(key)
            if held is None or held.token != token or held.queued_ns != queued_ns:
                continue        # another lease by now, or one with an earlier place
            if held.until_ns > now_ns:
                self._queue(key, held)
                continue
            held.ending = True
            found.append((key, token))
        return found

    def still(self, key: K, token: int) -> None:
        """Its end could not be written: it is due again."""
        held = self._held.get(key)
        if held is not None and held.token == token and held.ending:
            held.ending = False
            self._queue(key, held)

    def _queue(self, key: K, held: Held) -> None:
        held.queued_ns = held.until_ns
        heapq.heappush(self._heap, (held.until_ns, held.token, key))
        if len(self._heap) > self._sweep_at:
            self._sweep()

    def _sweep(self) -> None:
        """Forget the places of leases that were given back before their time."""
        self._heap = [place for place in self._heap if self._holds(*place)]
        heapq.heapify(self._heap)
        self._sweep_at = max(SWEPT, 2 * len(self._heap))

    def _holds(self, queued_ns: int, token: int, key: K) -> bool:
        held = self._held.get(key)
        return (held is not None and held.token == token and held.queued_ns == queued_ns
                and not held.ending)

    def next_due_ns(self) -> int | None:
        """When to look again; perhaps too early, never too late."""
        return self._heap[0][0] if self._heap else None

    # ------------------------------------------------------------ lines

    def join(self, key: K) -> int:
        """Stand in line at its end; the ticket."""
        self._tickets += 1
        self._lines.setdefault(key, OrderedDict())[self._tickets] = None
        return self._tickets

    def leave(self, key: K, ticket: int) -> None:
        """Stand in line no more."""
        line = self._lines.get(key)
        if line is not None:
            line.pop(ticket, None)
            if not line:
                del self._lines[key]

    def first(self, key: K) -> int | None:
        """The ticket whose turn it is when nobody has the lease."""
        line = self._lines.get(key)
        return next(iter(line)) if line else None

    def waiting(self, key: K) -> int:
        """How many stand in line."""
        return len(self._lines.get(key, ()))
