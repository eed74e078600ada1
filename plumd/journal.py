"""The newest events in memory, and the one wake-up that all readers of the event log share.

A reader holds nothing but the number of the next event that it wants, so a slow one costs
nothing: when the ring has moved past it, it reads from the store.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from plumd.store.events import Record

RING_EVENTS_MAX: Final = 20_000


class Journal:
    """Appended to by the engine after each commit, read by any number of streams."""

    def __init__(self, next_seq: int) -> None:
        self.next_seq = next_seq
        """The number that the next event will have."""
        self._ring: deque[Record] = deque()
        self._kept = 0
        self._news = trio.Event()

    def append(self, record: Record) -> None:
        """One commit's events; wakes all who wait."""
        self._ring.append(record)
        self._kept += record.count
        while self._kept > RING_EVENTS_MAX and len(self._ring) > 1:
            self._kept -= self._ring.popleft().count
        self.next_seq = record.first_seq + record.count
        if self._news.statistics().tasks_waiting:
            self._news.set()
            self._news = trio.Event()

    def since(self, seq: int) -> list[Record] | None:
        """The records from the one that holds seq on; None: the store must be asked."""
        if seq >= self.next_seq:
            return []
        if not self._ring or seq < self._ring[0].first_seq:
            return None
        found: list[Record] = []
        for record in reversed(self._ring):
            found.append(record)
            if record.first_seq <= seq:
                break
        found.reverse()
        return found

    async def wait_beyond(self, seq: int) -> None:
        """Return once the event with this number exists."""
        while self.next_seq <= seq:
            await self._news.wait()

    def wake_all(self) -> None:
        """Let every reader look again: the daemon is leaving."""
        self._news.set()
        self._news = trio.Event()
