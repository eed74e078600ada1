"""The event log for screens: of each thing only its last state within a look.

A screen that is told of everything at a thousand changes a second does nothing else, and twenty of
them would take the daemon's time. So a screen asks for looks at least so many ms apart. All readers
that want the same topics at the same pace share the looks: the first one that is due makes it, the
others send the same bytes. They are sent one after another, not all in the same turn of the loop,
so that dispatch never waits for more than one of them.

A look that is cut off in the middle is sent again on resume: only its last frame carries the number
of its last event, the others that of the last event before the look.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

import msgspec
import trio

from plumd.api.news import ENCODE, gap_before, news_of, topic_of
from plumd.api.watch import KEEPALIVE_S, STILL_HERE
from plumd.engine import Engine
from plumd.journal import RING_EVENTS_MAX
from plumd.stats import Monitor
from plumd.store import events
from plumd.store.events import Event, Record

MS_MIN: Final = 50
MS_MAX: Final = 5_000
SINGLE_MAX: Final = 200
"""So many changed things of a topic a look tells one by one."""
LOOKS_KEPT: Final = 8
CATCH_UP_RECORDS: Final = 2_000
APART_S: Final = 0.004
STATS: Final = "stats"
LAST_STATE: Final = frozenset({"tasks", "runs", "workers"})
"""Topics of which each event says all that is to be said of its thing."""

Key: TypeAlias = tuple[int | str, ...]


class More(msgspec.Struct, frozen=True):
    """So many more things of a topic changed than are told one by one: look at them anew."""

    topic: str
    count: int


class Look(msgspec.Struct, frozen=True):
    """What happened from event `first` up to, not including, `end`, as frames."""

    first: int
    end: int
    frames: bytes


class Channel:
    """The looks that all readers of the same topics at the same pace share."""

    def __init__(self, topics: frozenset[str], pace_s: float) -> None:
        self.topics = topics
        self.pace_s = pace_s
        self.readers = 0
        self.due = 0.0
        """When the next look may be made, by Trio's clock."""
        self.looks: deque[Look] = deque(maxlen=LOOKS_KEPT)

    def after(self, seq: int) -> list[Look]:
        """The looks that tell what happened from seq on; none when they begin later, or end."""
        found: list[Look] = []
        for look in reversed(self.looks):
            if look.end <= seq:
                break
            found.append(look)
        return found[::-1] if found and found[-1].first <= seq else []

    def add(self, seq: int, records: Sequence[Record], end: int, now: float) -> None:
        """Make the look at seq .. end."""
        self.looks.append(Look(seq, end, digest(records, seq, end, self.topics)))
        self.due = now + self.pace_s


class Digests:
    """All digest readers."""

    def __init__(self, engine: Engine, monitor: Monitor) -> None:
        self.engine = engine
        self.monitor = monitor
        self._channels: dict[tuple[frozenset[str], float], Channel] = {}
        self._places: set[int] = set()

    @contextmanager
    def _joined(self, topics: frozenset[str], pace_s: float) -> Iterator[tuple[Channel, float]]:
        """The channel, and how long after a look's time this reader takes it."""
        channel = self._channels.setdefault((topics, pace_s), Channel(topics, pace_s))
        place = next(i for i in range(len(self._places) + 1) if i not in self._places)
        self._places.add(place)
        channel.readers += 1
        try:
            yield channel, (place * APART_S) % (pace_s / 2)
        finally:
            self._places.discard(place)
            channel.readers -= 1
            if not channel.readers:
                del self._channels[topics, pace_s]

    async def follow(self, seq: int, topics: frozenset[str], pace_s: float,
                     ) -> AsyncGenerator[bytes]:
        """Frames from event seq on, without end. pace_s: between two looks, at least."""
        with self._joined(topics - {STATS}, pace_s) as (channel, place_s):
            told = -1 if STATS in topics else None
            quiet_at = trio.current_time() + KEEPALIVE_S
            while True:
                out, seq = await self._news(channel, seq)
                if told is not None and told != self.monitor.serial:
                    told = self.monitor.serial
                    out += b"event: stats\ndata: %b\n\n" % self.monitor.encoded
                if out:
                    yield out
                elif trio.current_time() >= quiet_at:
                    out = STILL_HERE
                    yield out
                if out:
                    quiet_at = trio.current_time() + KEEPALIVE_S
                looked = trio.current_time()
                until = quiet_at if told is None else min(
                    quiet_at, max(self.monitor.next_at, looked) + APART_S + place_s)
                with trio.move_on_at(until):
                    await self.engine.journal.wait_beyond(seq)
                await trio.sleep_until(max(channel.due, looked + pace_s / 2) + place_s)

    async def _news(self, channel: Channel, seq: int) -> tuple[bytes, int]:
        """The frames from seq on, and the number that follows them."""
        journal, now = self.engine.journal, trio.current_time()
        if seq >= journal.next_seq:
            return b"", seq
        newest = channel.looks[-1].end if channel.looks else seq
        if channel.due <= now and newest < journal.next_seq:
            # From where the newest look ends, so that it goes on for all; who comes from a little
            # later is told a state or two that it knows.
            records = journal.since(newest)
            if records is not None:
                channel.add(newest, records, journal.next_seq, now)
        if looks := channel.after(seq):
            return b"".join([look.frames for look in looks]), looks[-1].end
        if channel.looks and channel.looks[-1].end <= seq:
            return b"", seq             # the next look is not due
        return await self._behind(channel, seq)

    async def _behind(self, channel: Channel, seq: int) -> tuple[bytes, int]:
        """For a reader that comes from before the looks that are kept: one of its own, up to where
        the newest ends. What is further back than memory reaches is looked at anew as a whole.
        """
        journal = self.engine.journal
        records = journal.since(seq)
        if records is None and journal.next_seq - seq <= RING_EVENTS_MAX:
            records = await self.engine.store.read(events.since, seq, CATCH_UP_RECORDS)
        if not records or records[0].first_seq > seq:
            return gap_before(journal.next_seq), journal.next_seq
        end = records[-1].first_seq + records[-1].count
        if channel.looks:
            end = min(end, channel.looks[-1].end)
        return digest(records, seq, end, channel.topics), end


def digest(records: Sequence[Record], first: int, end: int, topics: frozenset[str]) -> bytes:
    """The frames that tell the last state of each thing that changed in first .. end - 1."""
    last: dict[str, dict[Key, Event]] = {}
    for record in records:
        for index, event in enumerate(record.items):
            number = record.first_seq + index
            if first <= number < end and (topic := topic_of(event)) in topics:
                things = last.setdefault(topic, {})
                key = key_of(topic, event, number)
                things.pop(key, None)       # the order is that of the last changes
                things[key] = event
    frames: list[bytes] = []
    for topic, things in last.items():
        chosen = list(things.values())
        if len(chosen) > SINGLE_MAX:
            frames.append(b"event: more\ndata: %b\n\n" % ENCODE(
                More(topic, len(chosen) - SINGLE_MAX)))
            chosen = chosen[-SINGLE_MAX:]
        for event in chosen:
            _, name, data = news_of(event)
            frames.append(b"event: %b\ndata: %b\n\n" % (name.encode(), ENCODE(data)))
    if not frames:
        return b""
    before = b"id: %d\n" % (first - 1)
    return b"".join([before + frame for frame in frames[:-1]] + [
        b"id: %d\n" % (end - 1), frames[-1]])


def key_of(topic: str, event: Event, number: int) -> Key:
    """Events with the same key say the same thing anew; the last one is enough."""
    if topic in LAST_STATE:
        return (event[1],)
    if topic == "kv":
        return event[1], event[3]
    if topic == "alerts":
        return (number,)
    return event[0], event[1], event[2]
