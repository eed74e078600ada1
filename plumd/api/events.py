"""Server-sent events: the durable log, and the plain wake-ups that old clients read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Final

import msgspec
import trio

from plumd.api import watch
from plumd.api.context import Context
from plumd.api.kv import check_namespace
from plumd.api.openapi import LAST_EVENT_ID, EventStream
from plumd.api.params import query_int
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.watch import KEEPALIVE_S, RECORDS_PER_READ, STILL_HERE, WAKE_S_MIN
from plumd.errors import Invalid
from plumd.model import TASK_STATES, id_text
from plumd.store import events
from plumd.store.events import Event, Record

SSE: Final = "text/event-stream"
TOPICS: Final = ("tasks", "workflows", "runs", "workers", "taskDefs", "services", "resources",
                 "kv", "alerts")
ENCODE: Final = msgspec.json.Encoder().encode


class TaskNews(msgspec.Struct, frozen=True, rename="camel"):
    """A task's new state."""

    task_id: str
    name: str
    state: str
    attempt: int
    worker: str | None
    run_id: str | None
    at: int


class RunNews(msgspec.Struct, frozen=True, rename="camel"):
    """A workflow run's new state."""

    run_id: str
    workflow_id: str
    state: str
    at: int


class KeyNews(msgspec.Struct, frozen=True, rename="camel"):
    """A key was written or deleted; its value is to be asked for."""

    namespace: str
    key: str
    version: int
    deleted: bool
    at: int


class OtherNews(msgspec.Struct, frozen=True, rename="camel"):
    """What happened to something else."""

    id: str
    what: str
    facts: tuple[str | int, ...] = ()


def news_of(event: Event) -> tuple[str, str, msgspec.Struct]:
    """(topic, SSE event name, data) of a recorded event."""
    kind = event[0]
    if kind == "task":
        _, task_id, name, state, attempt, worker, run_id, at_ms = event
        return "tasks", "task", TaskNews(
            id_text(int(task_id)), str(name), TASK_STATES[int(state)], int(attempt),
            str(worker) or None, id_text(int(run_id)) if run_id else None, int(at_ms))
    if kind == "run":
        _, number, workflow_id, state, at_ms = event
        return "runs", "run", RunNews(id_text(int(number)), id_text(int(workflow_id)),
                                      TASK_STATES[int(state)], int(at_ms))
    if kind == "kv":
        _, namespace, what, key, version, at_ms = event
        return "kv", "kv", KeyNews(str(namespace), str(key), int(version), what == "deleted",
                                   int(at_ms))
    topic = {"worker": "workers", "taskDef": "taskDefs", "workflow": "workflows",
             "service": "services", "resource": "resources", "taskDeleted": "tasks",
             "runDeleted": "runs"}.get(str(kind), "alerts")
    ident = id_text(event[1]) if isinstance(event[1], int) else event[1]
    what = "deleted" if str(kind).endswith("Deleted") else str(event[2])
    return topic, str(kind), OtherNews(ident, what, tuple(event[2:]))


def frames(record: Record, seq: int, topics: frozenset[str]) -> Iterator[bytes]:
    """The SSE frames of a record's events from seq on, for these topics."""
    for index, event in enumerate(record.items):
        number = record.first_seq + index
        if number >= seq:
            topic, name, data = news_of(event)
            if topic in topics:
                yield b"id: %d\nevent: %s\ndata: %s\n\n" % (number, name.encode(), ENCODE(data))


class Events:
    """The handlers."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.engine = context.engine

    async def log(self, request: Request) -> Response:
        """The event log from Last-Event-ID on, or from now."""
        wanted = request.query.get("topics", "")
        topics = frozenset(filter(None, wanted.split(","))) or frozenset(TOPICS)
        if unknown := topics - set(TOPICS):
            raise Invalid(f"no topic {min(unknown)!r}; there are {', '.join(TOPICS)}",
                          field="topics")
        last = request.headers.get("last-event-id", request.query.get("lastEventId", ""))
        if last:
            seq = query_int({"Last-Event-ID": last}, "Last-Event-ID", 0, low=0,
                            high=(1 << 53)) + 1
        else:
            seq = self.engine.journal.next_seq
        return Response(200, content_type=SSE, stream=self.follow(seq, topics))

    async def follow(self, seq: int, topics: frozenset[str]) -> AsyncIterator[bytes]:
        """Frames without end; a comment when there was nothing to say for a while."""
        store = self.context.store
        oldest = store.peek(events.oldest_seq)
        yield b"retry: 1000\n: plum events\n\n"
        if seq < oldest or seq > self.engine.journal.next_seq:
            seq = max(oldest, min(seq, self.engine.journal.next_seq))
            yield gap_before(seq)
        quiet_at = trio.current_time() + KEEPALIVE_S
        while True:
            records = self.engine.journal.since(seq)
            if records is None:
                records = await store.read(events.since, seq, RECORDS_PER_READ)
                if records and records[0].first_seq > seq:      # pruned while we were behind
                    yield gap_before(records[0].first_seq)
            out = b"".join(b"".join(frames(record, seq, topics)) for record in records)
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
        return Response(200, content_type=SSE, stream=self.wake(
            frozenset({"assignments"}), b"event: update\ndata: assignments\n\n"))

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


def gap_before(seq: int) -> bytes:
    """The frame that tells a reader to look at everything anew; its next event is seq."""
    return b"id: %d\nevent: gap\ndata: {}\n\n" % (seq - 1)


def routes(handlers: Events) -> list[Route]:
    """The table's part about events."""
    tag, read, topics = "events", "events:read", ", ".join(TOPICS)
    wake_up = partial(Route, "GET", tag=tag, permission=read, answers={200: EventStream},
                      lenient=True, trusted=True)
    return [
        Route("GET", "/v1/events", handlers.log, "Follow the event log (SSE); resume with "
              "Last-Event-ID", tag, read, answers={200: EventStream}, query=(
                  LAST_EVENT_ID,
                  Query("topics", str, f"Some of {topics}, with commas; default all"),
                  Query("lastEventId", str, "For readers that cannot set the header"))),
        wake_up("/v1/tasks/stream", handlers.tasks_stream, "Wake-ups about tasks (old SSE)"),
        wake_up("/v1/stream", handlers.stream,
                "A namespace's changes, or wake-ups for agents (old SSE)", query=(
                    Query("namespace", str, "Follow this namespace's keys"),
                    Query("prefix", str, "Only keys that begin like this"),
                    Query("nodeId", str, "The agent's node"))),
    ]
