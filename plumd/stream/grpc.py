"""Stream workers of earlier programs: `/plum.task.TaskService` by gRPC, on the same port.

A worker registers with the first message of its stream, then says heartbeats and results; attempts
come back. It is the session of `session.py` behind another door, with what that protocol lacks
settled here:

- It has no session nonce. A worker that comes back is taken for the same one, and keeps what it
  held; what it does not answer within a lease of the loss of its stream is lost. What never went
  out on the old stream goes out on the new one.
- It has no word for "stop". A canceled attempt ends at once, and what the worker answers later is
  refused as stale; the record says so.
- It has no acknowledgements. A worker says each result but once, so the daemon keeps it until it
  is durable, however long the disk is away.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import msgspec
import trio
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGISendCallable,
    HTTPScope,
    Scope,
)

from plumd.api.connection import CONNECTION_STATE_KEY, Connection
from plumd.api.gate import Gate
from plumd.api.routes import Request, Response, Route
from plumd.engine import Engine
from plumd.errors import Overloaded, PlumError
from plumd.model import Detach, Drain, Ending, Finish, Join, Leave, TaskError
from plumd.outbox import Line
from plumd.sdk.protocol import Result, Up
from plumd.store.blobs import Blobs
from plumd.stream.grpc_call import Call, Gone
from plumd.stream.grpc_frames import GrpcError, Status
from plumd.stream.grpc_session import AGAIN_S, GrpcSession, Pair
from plumd.stream.grpc_words import (
    NONCE,
    End,
    end_of,
    end_of_response,
    join_of_register,
    parsed,
    result_of_response,
)
from plumd.stream.task_service_pb2 import HealthRequest, HealthResponse, TaskAck, TaskRequest

log = logging.getLogger("plumd.stream")

SERVICE: Final = "/plum.task.TaskService/"
FIRST_S_MAX: Final = 10.0
BURST_S: Final = 0.003
GATHER_S: Final = 0.001
"""Results that come so close behind each other share a commit: these workers send them singly,
and a commit each would cost more than the work. A result that comes alone does not wait, nor does
that of the only attempt that the worker has."""
ATTEMPTS_A_SEND: Final = 64
LAST_S: Final = 1.0
SWEEP_PASTS: Final = 256

GONE: Final[End] = (Status.CANCELLED, "")
DEFECT: Final[End] = (
    Status.INTERNAL, "the daemon met an unexpected error; its log says which")
LEAVING: Final[End] = (Status.UNAVAILABLE, "the daemon is shutting down; come back")


class Past(msgspec.Struct):
    """What is known of a worker's earlier streams.

    undelivered: attempts that never went out.  deadlines: when those are lost that did.
    """

    undelivered: set[Pair]
    deadlines: dict[Pair, float]


class TaskService:
    """An ASGI application around another: takes gRPC calls, and hands on everything else."""

    def __init__(self, app: ASGIFramework, engine: Engine, blobs: Blobs, gate: Gate) -> None:
        self.app = app
        self.engine = engine
        self.blobs = blobs
        self.gate = gate
        self._open: set[GrpcSession] = set()
        self._pasts: dict[str, Past] = {}
        self._sweep_at = SWEEP_PASTS

    def drain(self) -> None:
        """Let no more attempts come to these workers: the daemon is leaving."""
        drains = [Drain(session.join.worker_id, own=True) for session in self._open]
        try:
            self.engine.post(drains, urgent=True)
        except PlumError:
            log.debug("a drain was not taken")

    # ------------------------------------------------------------ the wall

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable,
                       send: ASGISendCallable) -> None:
        if scope["type"] != "http" or not is_grpc(scope):
            await self.app(scope, receive, send)
            return
        client = scope["client"]
        call = Call(receive, send, self.gate, "" if client is None else client[0])
        found = scope["state"].get(CONNECTION_STATE_KEY)
        connection = found if isinstance(found, Connection) else None
        if connection is not None:
            connection.begin_stream()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call.pump)
                await self._serve(scope, call)
                nursery.cancel_scope.cancel()
        finally:
            if connection is not None:
                connection.end_stream()

    async def _serve(self, scope: HTTPScope, call: Call) -> None:
        """Answer one call, whatever happens in it."""
        end = DEFECT
        try:
            with self.gate.streams.ticket() as ticket:
                end = LEAVING       # unless the block below comes to its own end
                with ticket.waiting():
                    end = await self._answer(scope, call)
        except* Gone:
            end = GONE
        except* GrpcError as group:
            end = end_of(group)
        except* PlumError as group:
            end = end_of(group)
        except* Exception:
            log.exception("gRPC call failed", extra={"method": scope["path"]})
            end = DEFECT
        await call.end(*end)

    async def _answer(self, scope: HTTPScope, call: Call) -> End:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1")
                   for name, value in scope["headers"]}
        path = scope["path"]
        refusal = self.gate.refuse(ROUTES.get(path), "POST", headers, call.peer,
                                   scheme=scope["scheme"])
        if refusal is not None:
            return end_of_response(refusal)
        if headers.get("grpc-encoding", "identity") != "identity":
            raise GrpcError(Status.UNIMPLEMENTED, "compressed messages are not taken")
        if path == SERVICE + "ExecuteTask":
            raise GrpcError(Status.UNIMPLEMENTED, "workers serve ExecuteTask, and the daemon calls "
                            "it there; tasks are submitted by POST /v1/tasks")
        serve = {SERVICE + "TaskStream": self._task_stream,
                 SERVICE + "HealthCheck": self._health_check}.get(path)
        if serve is None:
            raise GrpcError(Status.UNIMPLEMENTED, f"there is no method {path}")
        return await serve(call)

    # ------------------------------------------------------------ HealthCheck

    async def _health_check(self, call: Call) -> End:
        """Whether this daemon takes what the worker says, and believes that the worker is here."""
        worker_id = parsed(HealthRequest, await first_message(call)).worker_id
        healthy, message = not self.engine.down, self.engine.down or "ok"
        if healthy and worker_id:
            live = self.engine.core.worker_view(worker_id)
            healthy = live is not None and bool(live[0])
            message = "ok" if healthy else (
                "the worker is not connected" if live else "no such worker")
        await call.send(HealthResponse(healthy=healthy, message=message).SerializeToString())
        return Status.OK, ""

    # ------------------------------------------------------------ TaskStream

    async def _task_stream(self, call: Call) -> End:
        """Talk to one worker until its stream ends.

        Cancel: the client is gone or the daemon is leaving; what the worker holds stays its own.
        """
        ack = parsed(TaskAck, await first_message(call))
        if ack.WhichOneof("payload") != "register":
            raise GrpcError(Status.INVALID_ARGUMENT, "the first message must register")
        join = join_of_register(ack.register)
        past = self._past_of(join)
        session = GrpcSession(self.engine, self.blobs, msgspec.structs.replace(
            join, holding=tuple(past.deadlines)))
        self.engine.outbox.register(join.worker_id, session, Line("grpc-stream", call.peer))
        self._open.add(session)
        try:
            asked = await session.take_in(Up(), [session.join])
            if asked.replies[0].code:
                raise Overloaded(asked.replies[0].detail)
            await call.begin()      # the client may read this as: registered
            try:
                end = await self._talk(call, session, past)
                await session.settle()
                return end
            finally:
                with trio.move_on_after(LAST_S, shield=True):
                    await self._last_words(call, session)
        finally:
            self._open.discard(session)
            self._part(session)

    async def _last_words(self, call: Call, session: GrpcSession) -> None:
        """Results that had come when the stream ended count too."""
        with suppress(GrpcError, PlumError):
            await self._take(call.ready(), session)
            await session.settle()

    def _past_of(self, join: Join) -> Past:
        """What the worker held before, without what never reached it."""
        known = self._pasts.get(join.worker_id) or Past(set(), {})
        lost_s = trio.current_time() + join.lease_ms / 1000
        carrier = next((each for each in self._open if each.join.worker_id == join.worker_id
                        and self.engine.outbox.serves(join.worker_id, each)), None)
        undelivered = known.undelivered if carrier is None else carrier.undelivered
        known.deadlines = {
            pair: known.deadlines.get(pair, lost_s)
            for pair in self.engine.core.held_by(join.worker_id) if pair not in undelivered}
        known.undelivered = set()
        self._sweep()
        self._pasts[join.worker_id] = known
        return known

    def _sweep(self) -> None:
        """Forget the pasts of workers whose lease ran out."""
        if len(self._pasts) >= self._sweep_at:
            for worker_id in list(self._pasts):
                if self.engine.core.worker_view(worker_id) is None:
                    del self._pasts[worker_id]
            self._sweep_at = max(SWEEP_PASTS, 2 * len(self._pasts))

    def _part(self, session: GrpcSession) -> None:
        """The stream is over: unless another took its place, its worker is away."""
        outbox, worker_id = self.engine.outbox, session.join.worker_id
        if not outbox.serves(worker_id, session):
            return
        outbox.unregister(worker_id, session)
        past = self._pasts.setdefault(worker_id, Past(set(), {}))
        past.undelivered = session.undelivered
        lost_s = trio.current_time() + session.join.lease_ms / 1000
        for pair in self.engine.core.held_by(worker_id):
            past.deadlines.setdefault(pair, lost_s)
        try:
            self.engine.post([Detach(worker_id, NONCE)], urgent=True)
        except PlumError:
            log.debug("a detach was not taken", extra={"worker_id": worker_id})

    async def _talk(self, call: Call, session: GrpcSession, past: Past) -> End:
        """Both directions, until one of them says why the stream must end."""
        ends: list[End] = []
        async with trio.open_nursery() as nursery:

            async def direction(run: Callable[[Call, GrpcSession], Awaitable[End]]) -> None:
                try:
                    ends.append(await run(call, session))
                except Gone:
                    ends.append(GONE)
                except (GrpcError, PlumError) as error:
                    ends.append(end_of(error))
                nursery.cancel_scope.cancel()

            nursery.start_soon(direction, self._write)
            nursery.start_soon(direction, self._read)
            nursery.start_soon(self._give_up, session, past)
        return ends[0]

    async def _write(self, call: Call, session: GrpcSession) -> End:
        while True:
            await session.wait_news()
            if session.kicked:
                replaced = session.kicked == "session_replaced"
                return (Status.ABORTED if replaced else Status.UNAVAILABLE,
                        f"{session.kicked}: this session is over")
            down = await session.compose(None, ATTEMPTS_A_SEND)
            if down.attempts:
                await call.send(*[
                    TaskRequest(task_id=attempt.id, name=attempt.name,
                                payload=bytes(attempt.payload or b"null").decode()
                                ).SerializeToString() for attempt in down.attempts])

    async def _read(self, call: Call, session: GrpcSession) -> End:
        worker_id, last_s = session.join.worker_id, 0.0
        while await call.arrived():
            now_s = trio.current_time()
            if now_s - last_s < BURST_S and len(self.engine.core.held_by(worker_id)) > 1:
                await trio.sleep(GATHER_S)
            last_s = now_s
            if not self.engine.beat(worker_id, NONCE):
                return Status.UNAVAILABLE, "lease_lost: the lease ran out; register again"
            await self._take(call.ready(), session)
        await session.settle()
        outbox = self.engine.outbox
        if outbox.serves(worker_id, session) and not self.engine.core.held_by(worker_id):
            outbox.unregister(worker_id, session)
            await self.engine.call_all([Leave(worker_id)], urgent=True)
        return Status.OK, ""

    async def _take(self, messages: list[bytes], session: GrpcSession) -> None:
        """What the worker said. Raises: GrpcError."""
        results: list[Result] = []
        for data in messages:
            ack = parsed(TaskAck, data)
            kind = ack.WhichOneof("payload")
            if kind == "result":
                results.append(result_of_response(ack.result))
            elif kind == "register":
                raise GrpcError(Status.INVALID_ARGUMENT, "registered twice")
        if results:
            await session.bring_in(results)

    async def _give_up(self, session: GrpcSession, past: Past) -> None:
        """What came from an earlier stream and is not answered in time is lost."""
        worker_id = session.join.worker_id
        while past.deadlines:
            await trio.sleep_until(min(past.deadlines.values()))
            now, held = trio.current_time(), set(self.engine.core.held_by(worker_id))
            due = [pair for pair, at in past.deadlines.items() if at <= now]
            for pair in due:
                del past.deadlines[pair]
            error = TaskError("stream_lost", "the worker's stream was lost, and no answer came "
                              "within its lease")
            lost = [Finish(*pair, worker_id, Ending.LOST, error=error)
                    for pair in due if pair in held]
            if lost:
                try:
                    self.engine.post(lost, urgent=True)
                except PlumError:
                    past.deadlines |= dict.fromkeys(due, now + AGAIN_S)


async def _unreachable(_request: Request) -> Response:
    raise AssertionError("these routes are for admission alone")


ROUTES: Final = {SERVICE + method: Route(
    "POST", SERVICE + method, _unreachable, method, "workers", "workers:session", lenient=True,
    trusted=True) for method in ("TaskStream", "HealthCheck", "ExecuteTask")}
"""What admission is told of the methods: a worker's, open to a trusted network."""


def is_grpc(scope: HTTPScope) -> bool:
    """Whether a request is a gRPC call."""
    return scope["http_version"] == "2" and any(
        name == b"content-type" and value.startswith(b"application/grpc")
        and value[16:17] in (b"", b"+", b";") for name, value in scope["headers"])


async def first_message(call: Call) -> bytes:
    """The one that every call begins with. Raises: GrpcError, Gone."""
    with trio.move_on_after(FIRST_S_MAX):
        if await call.arrived():
            first, *others = call.ready()
            call.push_back(others)
            return first
        raise GrpcError(Status.INVALID_ARGUMENT, "the call ended without a message")
    raise GrpcError(Status.DEADLINE_EXCEEDED, f"no message came within {FIRST_S_MAX:g} s")
