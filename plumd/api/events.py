"""Server-sent events: the durable log, and the plain wake-ups that old clients read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Final, TypeAlias
from urllib.parse import urlencode

import msgspec
import trio
from msgspec import Raw

from plumd.api import watch
from plumd.api.context import Context, answer
from plumd.api.digest import MS_MAX, MS_MIN, STATS, Digests
from plumd.api.news import ENCODE, TOPICS, frames, gap_before, news_of, topic_of
from plumd.api.openapi import LAST_EVENT_ID, EventStream
from plumd.api.paging import LIMIT, page_limit
from plumd.api.params import query_int
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.watch import KEEPALIVE_S, RECORDS_PER_READ, STILL_HERE, WAKE_S_MIN
from plumd.errors import Invalid
from plumd.kv_checks import check_namespace
from plumd.stats import Monitor
from plumd.store import events
from plumd.store.events import Record

SSE: Final = "text/event-stream"
ENCODED_BYTES_MAX: Final = 4 << 20
LOOKED_AT_MAX: Final = 20_000
"""A page of the history looks at so many events, wanted or not."""

WakeNode: TypeAlias = Callable[[str], AsyncIterator[bytes]]


class PastEvent(msgspec.Struct, frozen=True):
    """An event of the log. data: as in the stream.  at: when it was written, Unix ms.

    name: what people call now what it is about: of a run its workflow; "" = it is gone, or has none
    but what data says.
    """

    seq: int
    at: int
    topic: str
    event: str
    name: str
    data: Raw


class Events:
    """The handlers."""

    def __init__(self, context: Context, monitor: Monitor, wake_node: WakeNode) -> None:
        """wake_node: a frame whenever a node's agent has something new to look at."""
        self.context = context
        self.wake_node = wake_node
        self.engine = context.engine
        self.monitor = monitor
        self.digests = Digests(context.engine, monitor)
        self._encoded: dict[tuple[int, frozenset[str]], bytes] = {}
        self._encoded_bytes = 0

    async def log(self, request: Request) -> Response:
        """The event log from Last-Event-ID on, or from now."""
        pace_ms = query_int(request.query, "digest", 0, low=MS_MIN, high=MS_MAX)
        known = (*TOPICS, STATS) if pace_ms else TOPICS
        topics = topics_of(request, known)
        last = request.headers.get("last-event-id", request.query.get("lastEventId", ""))
        if last:
            seq = query_int({"Last-Event-ID": last}, "Last-Event-ID", 0, low=0,
                            high=(1 << 53)) + 1
        else:
            seq = self.engine.journal.next_seq
        return Response(200, content_type=SSE, stream=self.follow(seq, topics, pace_ms / 1000))

    async def follow(self, seq: int, topics: frozenset[str], pace_s: float,
                     ) -> AsyncIterator[bytes]:
        """Frames without end. pace_s: between two looks of a digest; 0 = every event."""
        oldest = self.context.store.peek(events.oldest_seq)
        with self.monitor.reading():
            yield b"retry: 1000\n: plum events\n\n"
            if seq < oldest or seq > self.engine.journal.next_seq:
                seq = max(oldest, min(seq, self.engine.journal.next_seq))
                yield gap_before(seq)
            chunks = self.digests.follow(seq, topics, pace_s) if pace_s else (
                self.every_event(seq, topics))
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk

    async def every_event(self, seq: int, topics: frozenset[str]) -> AsyncGenerator[bytes]:
        """All frames from seq on; a comment when there was nothing to say for a while."""
        store = self.context.store
        quiet_at = trio.current_time() + KEEPALIVE_S
        while True:
            records = self.engine.journal.since(seq)
            if records is None:
                records = await store.read(events.since, seq, RECORDS_PER_READ)
                if records and records[0].first_seq > seq:      # pruned while we were behind
                    yield gap_before(records[0].first_seq)
            out = b"".join([self.encoded(record, seq, topics) for record in records])
            if records:
                seq = records[-1].first_seq + records[-1].count
            if out:
                yield out
                quiet_at = trio.current_time() + KEEPALIVE_S
            elif trio.current_time() >= quiet_at:
                yield STILL_HERE
                quiet_at = trio.current_time() + KEEPALIVE_S
            if records:
                await trio.sleep(WAKE_S_MIN)    # what comes meanwhile shares the next look
                continue
            with trio.move_on_at(quiet_at):
                await self.engine.journal.wait_beyond(seq)

    def encoded(self, record: Record, seq: int, topics: frozenset[str]) -> bytes:
        """A record's frames from seq on. Readers of the same topics share them while it is new."""
        if record.first_seq < seq:
            return b"".join(frames(record, seq, topics))
        key = (record.first_seq, topics)
        found = self._encoded.get(key)
        if found is None:
            found = self._encoded[key] = b"".join(frames(record, seq, topics))
            self._encoded_bytes += len(found)
            while self._encoded_bytes > ENCODED_BYTES_MAX or len(self._encoded) > RECORDS_PER_READ:
                self._encoded_bytes -= len(self._encoded.pop(next(iter(self._encoded))))
        return found

    async def history(self, request: Request) -> Response:
        """The log backwards; a page may be short and have a next one."""
        seq = query_int(request.query, "before", self.engine.journal.next_seq, low=1,
                        high=(1 << 53))
        topics = topics_of(request, TOPICS)
        limit = page_limit(request)
        found, below = await self.context.store.read(
            events.before, seq, lambda event: topic_of(event) in topics, limit,
            looked_at_max=LOOKED_AT_MAX)
        items = []
        for past in found:
            topic, name, data = news_of(past.event)
            items.append(PastEvent(past.seq, past.at_ms, topic, name, past.name,
                                   Raw(ENCODE(data))))
        if below <= 1:
            return answer(200, items)
        query = urlencode({**request.query, "before": str(below)})
        return answer(200, items, ("link", f'<{request.path}?{query}>; rel="next"'))

    async def tasks_stream(self, request: Request) -> Response:
        """`update` / `tasks` whenever a task changed."""
        del request
        return Response(200, content_type=SSE, stream=self.wake(
            frozenset({"tasks"}), b"event: update\ndata: tasks\n\n"))

    async def stream(self, request: Request) -> Response:
        """`update` / `assignments` for a node, or the changes of a namespace's keys."""
        if "namespace" in request.query:
            namespace = check_namespace(request.query["namespace"])
            return Response(200, content_type=SSE, stream=watch.changes(
                self.engine, namespace, request.query.get("prefix", "")))
        return Response(200, content_type=SSE, stream=self.wake_node(
            request.query.get("nodeId", "")))

    async def wake(self, topics: frozenset[str], frame: bytes) -> AsyncIterator[bytes]:
        """One frame after each commit that touched a topic; nothing carries an id."""
        seq = self.engine.journal.next_seq      # from before the reader looks for the first time
        yield b"event: ping\ndata: init\n\n"
        quiet_at = trio.current_time() + KEEPALIVE_S
        while True:
            with trio.move_on_at(quiet_at):
                await self.engine.journal.wait_beyond(seq)
            records = self.engine.journal.since(seq)
            seq = self.engine.journal.next_seq
            if records is None or any(news_of(event)[0] in topics
                                      for record in records for event in record.items):
                yield frame
                quiet_at = trio.current_time() + KEEPALIVE_S
            elif trio.current_time() >= quiet_at:
                yield STILL_HERE
                quiet_at = trio.current_time() + KEEPALIVE_S
            await trio.sleep(WAKE_S_MIN)


def topics_of(request: Request, known: tuple[str, ...]) -> frozenset[str]:
    """The topics that are asked for, all without a word. Raises: Invalid."""
    wanted = request.query.get("topics", "")
    topics = frozenset(filter(None, wanted.split(","))) or frozenset(known)
    if unknown := topics - set(known):
        raise Invalid(f"no topic {min(unknown)!r}; there are {', '.join(known)}", field="topics")
    return topics


def routes(handlers: Events) -> list[Route]:
    """The table's part about events."""
    tag, read, topics = "events", "events:read", ", ".join(TOPICS)
    wake_up = partial(Route, "GET", tag=tag, permission=read, answers={200: EventStream},
                      lenient=True, trusted=True)
    return [
        Route("GET", "/v1/events", handlers.log, "Follow the event log (SSE); resume with "
              "Last-Event-ID", tag, read, answers={200: EventStream}, query=(
                  LAST_EVENT_ID,
                  Query("topics", str, f"Some of {topics}, with commas; default all. A digest has "
                        "stats too: the daemon's figures, once a second"),
                  Query("digest", int, f"For screens: look at most every so many ms ({MS_MIN} to "
                        f"{MS_MAX}), and tell of each thing only its last state"),
                  Query("lastEventId", str, "For readers that cannot set the header"))),
        Route("GET", "/v1/events/history", handlers.history, "The event log, newest first", tag,
              read, answers={200: list[PastEvent]}, query=(
                  LIMIT, Query("before", int, "Only events with a smaller number; default the end"),
                  Query("topics", str, f"Some of {topics}, with commas; default all"))),
        wake_up("/v1/tasks/stream", handlers.tasks_stream, "Wake-ups about tasks (old SSE)"),
        wake_up("/v1/stream", handlers.stream,
                "A namespace's changes, or wake-ups for agents (old SSE)", query=(
                    Query("namespace", str, "Follow this namespace's keys"),
                    Query("prefix", str, "Only keys that begin like this"),
                    Query("nodeId", str, "The agent's node"))),
    ]
