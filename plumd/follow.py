"""The event log, read to its end by rooms that act on it.

A follower keeps the number of the next event in the database and moves it on in the commit of what
followed from the events before; so nothing is passed over and nothing is done twice, whenever the
daemon ends. What was only looked at is looked at again after a restart: that costs a little time
and changes nothing.
"""

from __future__ import annotations

from typing import Final

import trio

from plumd.engine import Engine
from plumd.store import events
from plumd.store.events import Event

RECORDS: Final = 200
EVENTS: Final = 500
"""So many events are looked at before others have their turn."""


class Log:
    """Where a follower is. seq: the next event.  lost: events were pruned before it read them."""

    def __init__(self, engine: Engine, seq: int) -> None:
        self.engine = engine
        self.seq = seq
        self.lost = 0

    async def more(self) -> list[tuple[int, Event]]:
        """The next events with their numbers; waits while there are none. An empty list means only
        that others have had their turn."""
        engine = self.engine
        await engine.journal.wait_beyond(self.seq)
        records = engine.journal.since(self.seq)
        if records is None:
            records = await engine.store.read(events.since, self.seq, RECORDS)
            if records and records[0].first_seq > self.seq:
                self.lost += records[0].first_seq - self.seq
                self.seq = records[0].first_seq
        else:
            await trio.lowlevel.checkpoint()
        found: list[tuple[int, Event]] = []
        for record in records:
            for index, event in enumerate(record.items):
                if record.first_seq + index >= self.seq:
                    found.append((record.first_seq + index, event))
            self.seq = max(self.seq, record.first_seq + record.count)
            if len(found) >= EVENTS:
                break
        return found
