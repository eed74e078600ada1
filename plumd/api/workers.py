"""/v1/workers (called back) and /v1/embedded-workers (pull or stream): old clients' routes too."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from plumd.api.context import Context, answer
from plumd.api.decode import lenient
from plumd.api.paging import ALL_OR_LIMIT, CURSOR, all_or_limit, cursor_key, page_of
from plumd.api.params import query_action
from plumd.api.routes import Query, Request, Response, Route
from plumd.api.task_views import time_of
from plumd.errors import Invalid, NotFound, TooMany
from plumd.executors.grpc_client import SCHEME, target_of
from plumd.executors.targets import CallFailed
from plumd.model import Detach, Drain, Join, Leave, WorkerKind, attempt_text
from plumd.sdk.protocol import Down, Up
from plumd.store import workers
from plumd.store.store import Tx
from plumd.store.workers import WorkerRow
from plumd.stream.exchange import Exchanges
from plumd.stream.grpc_words import CAPACITY_DEFAULT, capacity_of
from plumd.stream.session import WORKER_ID_CHARS_MAX, check_names

HTTP_LEASE_MS: Final = 15_000
GRPC_LEASE_MS: Final = 90_000
STATE_OF: Final = {"Healthy": "online", "Away": "away", "Draining": "draining",
                   "Offline": "offline"}
ACTIONS: Final = ("drain", "resume")
EXCHANGE_BYTES_MAX: Final = 32 << 20
TOLD: Final = "told"
"""The session of a worker that was registered by a plain request and has no line yet."""

WorkerId = Annotated[str, Meta(min_length=1, max_length=WORKER_ID_CHARS_MAX)]
Text = Annotated[str, Meta(max_length=500)]
Capacity = Annotated[int, Meta(ge=1, le=100_000)]
TaskNames = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]],
                      Meta(max_length=10_000)]
Labels = Annotated[dict[Annotated[str, Meta(max_length=100)], Text], Meta(max_length=64)]


class HttpWorker(msgspec.Struct, frozen=True, rename="camel"):
    """A worker that is called back at url."""

    worker_id: WorkerId
    url: Text
    node_id: Text = ""
    tasks: TaskNames = []
    labels: Labels = {}
    capacity: Capacity = CAPACITY_DEFAULT


class EmbeddedWorker(msgspec.Struct, frozen=True, rename="camel"):
    """A worker that pulls or streams, announced by a plain request before its line is there.

    grpcAddress: host:port where it serves ExecuteTask itself; then it is called there.
    """

    worker_id: WorkerId
    node_id: Text = ""
    instance_id: Text = ""
    app_name: Text = ""
    app_version: Text = ""
    grpc_address: Text = ""
    tasks: TaskNames = []
    labels: Labels = {}


class WorkerBeat(msgspec.Struct, frozen=True, rename="camel"):
    """A sign of life."""

    worker_id: WorkerId
    capacity: Capacity | None = None


class WorkerView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A worker. health: Healthy, Draining, Away (its lease runs on) or Offline.

    transport: websocket, long-poll or grpc-stream while it has a line, http or grpc when it is
    called back.  address: where it is called, or where its line comes from.  state: online, away,
    draining or offline; taskNames and lastSeenAt are `tasks` and `lastSeen` by newer names.
    """

    worker_id: str
    kind: str
    transport: str | None
    address: str | None
    health: str
    state: str
    node_id: str
    url: str
    instance_id: str
    app_name: str
    app_version: str
    tasks: tuple[str, ...]
    task_names: tuple[str, ...]
    labels: dict[str, str]
    capacity: int
    running: int
    attempts: tuple[str, ...] | None = None
    registered_at: int
    last_seen: int | None
    last_seen_at: int | None
    offline_since: int | None


class Done(msgspec.Struct, frozen=True, rename="camel"):
    """An old client's answer."""

    worker_id: str
    ttl_sec: float


class Workers:
    """The handlers."""

    def __init__(self, context: Context, exchanges: Exchanges) -> None:
        self.context = context
        self.engine = context.engine
        self.exchanges = exchanges

    # ------------------------------------------------------------ from workers

    async def register_http(self, request: Request) -> Response:
        """Again = replace."""
        body = lenient(request.body, HttpWorker)
        check_names(body.worker_id, body.tasks, "workerId", "tasks")
        if not body.url.startswith(("http://", "https://")):
            raise Invalid("url begins with http:// or https://", field="url")
        await self.join(Join(
            body.worker_id, WorkerKind.CALLBACK, "", tuple(sorted(set(body.tasks))), body.node_id,
            tuple(sorted(body.labels.items())), body.capacity, HTTP_LEASE_MS, body.url,
            app_name=body.labels.get("appName", "")))
        return answer(200, Done(body.worker_id, HTTP_LEASE_MS / 1000))

    async def join(self, join: Join) -> None:
        """Raises: TooMany."""
        reply = await self.engine.call(join)
        if reply.code:
            raise TooMany(reply.detail, retry_after_s=5)

    async def beat_http(self, request: Request) -> Response:
        """Renews the lease."""
        body = lenient(request.body, WorkerBeat)
        row = self.stored(body.worker_id, embedded=False)
        await self.beat_called(row, body.capacity or row.join.capacity)
        return answer(200, Done(body.worker_id, row.join.lease_ms / 1000))

    async def beat_called(self, row: WorkerRow, capacity: int) -> None:
        """A worker whose lease ran out, or that could not be reached, is taken back as it was."""
        live = self.engine.core.worker_view(row.join.worker_id)
        if row.offline_ms or capacity != row.join.capacity or live is None or not live[0] or (
                not self.engine.beat(row.join.worker_id, row.join.session)):
            await self.join(msgspec.structs.replace(row.join, capacity=capacity))

    async def register_embedded(self, request: Request) -> Response:
        """With an address it is called there by gRPC; else it is known from now on, and away until
        its line is there. A worker whose line is there, or that still holds attempts, stays as it
        is."""
        body = lenient(request.body, EmbeddedWorker)
        check_names(body.worker_id, body.tasks, "workerId", "tasks")
        url = url_of(body.grpc_address, request.peer)
        join = Join(
            body.worker_id, WorkerKind.CALLBACK if url else WorkerKind.SESSION,
            "" if url else TOLD, tuple(sorted(set(body.tasks))), body.node_id,
            tuple(sorted(body.labels.items())), capacity_of(body.labels), GRPC_LEASE_MS, url,
            body.instance_id, body.app_name, body.app_version)
        live = self.engine.core.worker_view(body.worker_id)
        row = self.context.store.peek(workers.get, body.worker_id)
        called = row is not None and row.join.kind == WorkerKind.CALLBACK
        if url and (live is None or called or not (live[0] or live[2])):
            await self.join(join)
        elif live is None:
            await self.engine.call_all([join, Detach(body.worker_id, TOLD)])
        return answer(201, Done(body.worker_id, GRPC_LEASE_MS / 1000))

    async def beat_embedded(self, request: Request) -> Response:
        """Renews the lease."""
        body = lenient(request.body, WorkerBeat)
        row = self.stored(body.worker_id, embedded=True)
        if row.join.kind == WorkerKind.CALLBACK:
            await self.beat_called(row, row.join.capacity)
        elif not self.engine.beat(body.worker_id, row.join.session):
            await self.engine.call_all([row.join, Detach(body.worker_id, row.join.session)])
        return Response(204)

    def stored(self, worker_id: str, *, embedded: bool) -> WorkerRow:
        """Raises: NotFound."""
        row = self.context.store.peek(workers.get, worker_id)
        if row is None or is_embedded(row.join) != embedded:
            raise NotFound("no such worker; register it first", field="workerId")
        return row

    # ------------------------------------------------------------ for people

    def view(self, row: WorkerRow, *, whole: bool = False) -> WorkerView:
        """A worker as the API shows it."""
        join, live = row.join, self.engine.core.worker_view(row.join.worker_id)
        health, running, seen = "Offline", 0, None
        if live is not None:
            attached, draining, running, _, expires_ns = live
            health = "Away" if not attached else "Draining" if draining else "Healthy"
            now = self.engine.clock.now()
            seen = (now.wall_ns + expires_ns - now.mono_ns) // 1_000_000 - join.lease_ms
        transport, address = self.line_of(join)
        held = tuple(attempt_text(*pair) for pair in self.engine.core.held_by(join.worker_id))
        return WorkerView(
            worker_id=join.worker_id,
            kind="embedded" if is_embedded(join) else "http", transport=transport,
            address=address, health=health, state=STATE_OF[health],
            node_id=join.node_id, url=join.url, instance_id=join.instance_id,
            app_name=join.app_name, app_version=join.app_version, tasks=join.tasks,
            task_names=join.tasks, labels=dict(join.labels), capacity=join.capacity,
            running=running,
            attempts=held if whole else None, registered_at=row.registered_ms, last_seen=seen,
            last_seen_at=seen,
            offline_since=time_of(row.offline_ms))

    def line_of(self, join: Join) -> tuple[str | None, str | None]:
        """(transport, address) of a worker; None without a line."""
        if join.kind == WorkerKind.CALLBACK:
            return ("grpc" if join.url.startswith(SCHEME) else "http"), join.url
        line = self.engine.outbox.line_of(join.worker_id)
        return (None, None) if line is None else (line.transport, line.peer or None)

    async def page(self, request: Request) -> Response:
        """All workers of a kind, by id; a part of them when ?limit= is given."""
        embedded, after = about_embedded(request), cursor_key(request) or ""
        limit = all_or_limit(request)
        rows = [row for row in await self.context.store.read(workers.every)
                if is_embedded(row.join) == embedded and row.join.worker_id > after]
        return page_of(request, rows, limit, self.view, lambda row: row.join.worker_id)

    def known(self, request: Request) -> WorkerRow:
        """The worker that the path names. Raises: NotFound."""
        row = self.context.store.peek(workers.get, request.params["id"])
        if row is None or is_embedded(row.join) != about_embedded(request):
            raise NotFound("no such worker")
        return row

    async def get(self, request: Request) -> Response:
        """One worker with the attempts that it holds."""
        return answer(200, self.view(self.known(request), whole=True))

    async def act(self, request: Request) -> Response:
        """?action=drain | resume"""
        action = query_action(request.query, ACTIONS)
        row = self.known(request)
        worker_id, on = row.join.worker_id, action == "drain"
        await self.engine.call_all([Drain(worker_id, on)],
                                   lambda tx: workers.set_drained(tx.db, worker_id, on))
        return answer(200, self.view(row, whole=True))

    async def delete(self, request: Request) -> Response:
        """Forget a worker; what it holds is lost, and its line is closed."""
        row = self.known(request)

        def forget(tx: Tx) -> None:
            workers.delete(tx.db, row.join.worker_id)

        await self.engine.call_all([Leave(row.join.worker_id)], forget)
        return Response(204)


def about_embedded(request: Request) -> bool:
    """Which sort of workers a path is about."""
    return request.path.startswith("/v1/embedded-workers")


def is_embedded(join: Join) -> bool:
    """Whether it pulls, streams or serves ExecuteTask, and is not called back over HTTP."""
    return join.kind == WorkerKind.SESSION or join.url.startswith(SCHEME)


def url_of(address: str, peer: str) -> str:
    """Where a worker with a grpcAddress is called, "" when it has none; a host that is left out, or
    means every address, is the one that the request came from. Raises: Invalid.
    """
    if not address:
        return ""
    host, colon, port = address.rpartition(":")
    if host in ("", "0.0.0.0", "[::]"):
        host = f"[{peer}]" if ":" in peer else peer or "127.0.0.1"
    try:
        target_of(SCHEME + host + colon + port)
    except CallFailed as error:
        raise Invalid(f"grpcAddress is host:port: {error.message}", field="grpcAddress") from None
    if not colon or not port.isdigit():
        raise Invalid("grpcAddress is host:port", field="grpcAddress")
    return f"{SCHEME}{host}:{port}"


def routes(handlers: Workers) -> list[Route]:
    """The table's part about workers."""
    read, serve, operate, tag = "workers:read", "workers:serve", "workers:write", "workers"
    table = [
        Route("POST", "/v1/workers/register", handlers.register_http,
              "Register a worker that is called back", tag, serve, body=HttpWorker,
              answers={200: Done}, lenient=True, trusted=True),
        Route("POST", "/v1/workers/heartbeat", handlers.beat_http, "A worker's sign of life", tag,
              serve, body=WorkerBeat, answers={200: Done}, lenient=True, trusted=True, hot=True),
        Route("POST", "/v1/embedded-workers/register", handlers.register_embedded,
              "Announce an embedded worker", tag, serve, body=EmbeddedWorker,
              answers={201: Done}, lenient=True, trusted=True),
        Route("POST", "/v1/embedded-workers/heartbeat", handlers.beat_embedded,
              "An embedded worker's sign of life", tag, serve, body=WorkerBeat,
              answers={204: None}, lenient=True, trusted=True, hot=True),
        Route("POST", "/v1/embedded-workers/{id}/exchange", handlers.exchanges.exchange,
              "A worker session by long poll: results in, attempts out", tag, serve, body=Up,
              answers={200: Down}, trusted=True, hot=True, body_bytes_max=EXCHANGE_BYTES_MAX),
    ]
    for base, word in (("/v1/workers", "workers that are called back"),
                       ("/v1/embedded-workers", "embedded workers")):
        table += [
            Route("GET", base, handlers.page, f"List {word}", tag, read,
                  answers={200: list[WorkerView]}, trusted=True, query=(ALL_OR_LIMIT, CURSOR)),
            Route("GET", base + "/{id}", handlers.get, f"Get one of the {word}", tag, read,
                  answers={200: WorkerView}, trusted=True),
            Route("POST", base + "/{id}", handlers.act, f"Drain or resume one of the {word}", tag,
                  operate, answers={200: WorkerView},
                  query=(Query("action", str, "What to do", required=True, choices=ACTIONS),)),
            Route("DELETE", base + "/{id}", handlers.delete, f"Forget one of the {word}", tag,
                  serve, answers={204: None}, trusted=True),
        ]
    return table
