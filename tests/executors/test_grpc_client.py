"""ExecuteTask: calls to workers that serve it by grpcio, and to far sides that break the rules."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
import msgspec
import pytest
import trio

from plumd.executors import Attempt, Outcome, Stop
from plumd.executors.callback import Callback
from plumd.executors.grpc_client import GrpcClient, target_of
from plumd.executors.outgoing import Client
from plumd.executors.targets import MESSAGE_CHARS_MAX, CallFailed, Policy
from plumd.model import Ending, id_text
from plumd.stream.grpc_frames import GrpcError, Status, frame
from plumd.stream.task_service_pb2 import TaskRequest, TaskResponse
from tests.executors.farside import refusing_port

EXECUTE = "/plum.task.TaskService/ExecuteTask"


class ServicerContext(Protocol):
    """The part of grpcio's context that is used here."""

    def time_remaining(self) -> float | None: ...
    def abort(self, code: object, details: str) -> None: ...
    def add_callback(self, callback: Callable[[], None]) -> bool: ...
    def peer(self) -> str: ...
    def invocation_metadata(self) -> tuple[tuple[str, str], ...]: ...


class Server:
    """A worker that serves ExecuteTask by grpcio; `answer` says what."""

    def __init__(self) -> None:
        self.requests: list[TaskRequest] = []
        self.contexts: list[ServicerContext] = []
        self.peers: set[str] = set()
        self.remaining: list[float | None] = []
        self.canceled = threading.Event()
        self.asked = threading.Event()
        self.answer: Callable[[TaskRequest, ServicerContext], TaskResponse] = (
            lambda request, _: TaskResponse(task_id=request.task_id, result=request.payload))
        self.server = grpc.server(futures.ThreadPoolExecutor(8), options=[
            ("grpc.max_receive_message_length", 40 << 20),
            ("grpc.max_send_message_length", 40 << 20)])
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
            "plum.task.TaskService", {"ExecuteTask": grpc.unary_unary_rpc_method_handler(
                self._execute, TaskRequest.FromString, TaskResponse.SerializeToString)}),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.url = f"grpc://127.0.0.1:{self.port}"

    def _execute(self, request: TaskRequest, context: ServicerContext) -> TaskResponse:
        self.requests.append(request)
        self.contexts.append(context)
        self.peers.add(context.peer())
        self.remaining.append(context.time_remaining())
        context.add_callback(self.canceled.set)
        self.asked.set()
        return self.answer(request, context)


@contextmanager
def serving() -> Iterator[Server]:
    """A server until the end of the block."""
    server = Server()
    server.server.start()
    try:
        yield server
    finally:
        server.server.stop(None).wait()


@asynccontextmanager
async def client() -> AsyncIterator[GrpcClient]:
    """A client whose connections are closed at the end of the block."""
    made = GrpcClient(Client(Policy()))
    try:
        yield made
    finally:
        made.close()


def attempt(url: str, payload: bytes = b"null", number: int = 1, timeout_ms: int = 0) -> Attempt:
    return Attempt(0xABC, number, "job", payload, worker_id="w1", url=url, timeout_ms=timeout_ms)


async def run(made: GrpcClient, one: Attempt, stop: Stop | None = None) -> Outcome:
    return await Callback(made.client, made).run(one, stop or Stop())


def code(outcome: Outcome) -> str:
    assert outcome.error is not None
    return outcome.error.code


async def test_what_the_worker_gets_and_what_is_kept() -> None:
    with serving() as server:
        async with client() as made:
            outcome = await run(made, attempt(server.url, b'{"x": "\xc3\xbc"}', 3, 5_000))
            assert (outcome.ending, outcome.result) == (
                Ending.SUCCEEDED, b'{"x": "\xc3\xbc"}')
            [request] = server.requests
            assert (request.task_id, request.name, request.payload) == (
                id_text(0xABC) + ".3", "job", '{"x": "ü"}')
            [remaining] = server.remaining
            assert remaining is not None
            assert 0 < remaining <= 5
            said = dict(server.contexts[0].invocation_metadata())
            assert said["x-plum-origin"] == "plumd"
            await run(made, attempt(server.url))
            assert server.remaining[1] is None or server.remaining[1] > 1e9     # none


@pytest.mark.parametrize(("said", "kept"), [
    ("all done", b'"all done"'), ("", b'""'), ("7", b"7"), ('{"a":', b'"{\\"a\\":"')])
async def test_results_that_are_no_json_are_strings(said: str, kept: bytes) -> None:
    with serving() as server:
        server.answer = lambda request, _: TaskResponse(task_id=request.task_id, result=said)
        async with client() as made:
            assert (await run(made, attempt(server.url))).result == kept


async def test_a_connection_is_kept_and_used_again_and_again() -> None:
    with serving() as server:
        async with client() as made:
            for number in range(20):
                assert (await run(made, attempt(server.url, b"%d" % number))).result == (
                    b"%d" % number)
            assert len(server.peers) == 1
            assert made.idle == 1
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(run, made, attempt(server.url, b"%d" % number))
            assert 1 <= made.idle <= 8


async def test_large_values_pass_the_windows() -> None:
    payload = json.dumps("x" * (9 << 20)).encode()
    with serving() as server:
        async with client() as made:
            assert (await run(made, attempt(server.url, payload))).result == payload
            assert (await run(made, attempt(server.url, b"1"))).result == b"1"
            assert len(server.peers) == 1


async def test_errors_and_statuses_are_failures() -> None:
    with serving() as server:
        async with client() as made:
            server.answer = lambda *_: TaskResponse(error="no luck", result="x")
            outcome = await run(made, attempt(server.url))
            assert (outcome.ending, code(outcome), outcome.reached) == (
                Ending.FAILED, "failed", True)
            assert outcome.error is not None
            assert outcome.error.message == "no luck"

            def refuse(_: TaskRequest, context: ServicerContext) -> TaskResponse:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "voll: ü%")
                raise AssertionError

            server.answer = refuse
            outcome = await run(made, attempt(server.url))
            assert (outcome.ending, code(outcome), outcome.retryable) == (
                Ending.FAILED, "grpc_status", True)
            assert outcome.error is not None
            assert outcome.error.message == "worker w1 answered RESOURCE_EXHAUSTED: voll: ü%"
            assert isinstance(outcome.error.detail, msgspec.Raw)
            assert json.loads(bytes(outcome.error.detail)) == {
                "url": server.url, "status": "RESOURCE_EXHAUSTED"}
            with pytest.raises(GrpcError) as raised:
                await made.call(server.url, "/no.Such/Method", b"")
            assert raised.value.status == Status.UNIMPLEMENTED
            assert len(server.peers) == 1, "a status is an answer, and the connection is kept"


@pytest.mark.parametrize(("reason", "ending"), [
    ("canceled", Ending.CANCELED), ("timeout", Ending.TIMEOUT)])
async def test_a_stop_ends_the_call_and_says_so(reason: str, ending: Ending) -> None:
    with serving() as server:
        release = threading.Event()

        def wait(_request: TaskRequest, _context: ServicerContext) -> TaskResponse:
            release.wait(30)
            return TaskResponse()

        server.answer = wait
        stop = Stop()
        outcomes: list[Outcome] = []
        async with client() as made:
            async with trio.open_nursery() as nursery:
                async def go() -> None:
                    outcomes.append(await run(made, attempt(server.url), stop))

                nursery.start_soon(go)
                await trio.to_thread.run_sync(server.asked.wait, 30)
                stop.ask(reason)
            assert await trio.to_thread.run_sync(server.canceled.wait, 30), "it sees the end"
            assert made.idle == 0
        release.set()
        [outcome] = outcomes
        assert outcome.ending == ending
        assert outcome.error is not None
        assert "discarded" in outcome.error.message


async def test_a_server_that_leaves_is_dialed_anew() -> None:
    with serving() as server:
        async with client() as made:
            await run(made, attempt(server.url))
            assert made.idle == 1
            await trio.to_thread.run_sync(lambda: server.server.stop(None).wait())
            outcome = await run(made, attempt(server.url))
            assert (outcome.ending, code(outcome), outcome.reached) == (
                Ending.FAILED, "unreachable", False)
            assert made.idle == 0


async def test_nobody_there_and_addresses_that_are_not_called() -> None:
    port = await refusing_port()
    async with client() as made:
        for url, expected in ((f"grpc://127.0.0.1:{port}", "unreachable"),
                              ("grpc://169.254.169.254:1", "refused_address"),
                              ("grpc://", "bad_url"), ("http://127.0.0.1:1", "bad_url")):
            with pytest.raises(CallFailed) as raised:
                await made.call(url, EXECUTE, b"")
            assert (raised.value.code, raised.value.reached) == (expected, False), url
    assert (target_of("grpc://[::1]:5").host, target_of("grpc://w:5").port) == ("::1", 5)
    with pytest.raises(CallFailed):
        target_of("grpc://h:1/path")


# ---------------------------------------------------------------- far sides by hand

Behave = Callable[[trio.SocketStream, h2.connection.H2Connection, h2.events.Event],
                  Awaitable[bool]]
"""What a far side does at an event; False ends the connection."""


@asynccontextmanager
async def far_side(behave: Behave) -> AsyncIterator[str]:
    """An HTTP/2 server by hand; its URL."""
    async def serve(stream: trio.SocketStream) -> None:
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        http.initiate_connection()
        async with stream:
            await stream.send_all(http.data_to_send())
            while data := await stream.receive_some(65536):
                for event in http.receive_data(bytes(data)):
                    if not await behave(stream, http, event):
                        return
                await stream.send_all(http.data_to_send())

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"grpc://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def answering(headers: list[tuple[str, str]], body: bytes = b"",
              trailers: list[tuple[str, str]] | None = None) -> Behave:
    """Answers each call like this."""
    async def behave(stream: trio.SocketStream, http: h2.connection.H2Connection,
                     event: h2.events.Event) -> bool:
        del stream
        if isinstance(event, h2.events.StreamEnded):
            only = not body and trailers is None
            http.send_headers(event.stream_id, headers, end_stream=only)
            if body:
                http.send_data(event.stream_id, body, end_stream=trailers is None)
            if trailers is not None:
                http.send_headers(event.stream_id, trailers, end_stream=True)
        return True

    return behave


OK = [(":status", "200"), ("content-type", "application/grpc")]
GOOD = frame(TaskResponse(result="1").SerializeToString())


@pytest.mark.parametrize(("behave", "status"), [
    (answering([(":status", "503")]), Status.UNAVAILABLE),
    (answering([(":status", "404")], b"<html>"), Status.UNIMPLEMENTED),
    (answering([(":status", "299")]), Status.UNKNOWN),
    (answering([*OK, ("grpc-status", "5"), ("grpc-message", "no%20such")]), Status.NOT_FOUND),
    (answering(OK, GOOD), Status.UNKNOWN),
    (answering(OK, GOOD, [("grpc-status", "x")]), Status.UNKNOWN),
    (answering(OK, b"", [("grpc-status", "0")]), Status.INTERNAL),
    (answering(OK, GOOD * 2, [("grpc-status", "0")]), Status.INTERNAL),
    (answering(OK, GOOD[:-1], [("grpc-status", "0")]), Status.INTERNAL),
    (answering(OK, b"\1\0\0\0\0", [("grpc-status", "0")]), Status.UNIMPLEMENTED),
    (answering(OK, b"\0\xff\xff\xff\xff", [("grpc-status", "0")]), Status.RESOURCE_EXHAUSTED),
])
async def test_odd_answers_are_failures_of_the_call(behave: Behave, status: Status) -> None:
    async with far_side(behave) as url, client() as made:
        with pytest.raises(GrpcError) as raised:
            await made.call(url, EXECUTE, b"")
        assert raised.value.status == status
        outcome = await run(made, attempt(url))
        assert (outcome.ending, outcome.reached) == (Ending.FAILED, True)


@pytest.mark.parametrize("status", ["\xb2", "9" * 5_000, "20", "abc"])
async def test_a_status_that_is_none_is_a_bad_answer(status: str) -> None:
    async with far_side(answering([(":status", status)])) as url, client() as made:
        with pytest.raises(CallFailed) as raised:
            await made.call(url, EXECUTE, b"")
        assert raised.value.code == "bad_answer"
        assert len(raised.value.message) <= MESSAGE_CHARS_MAX


async def test_what_is_no_task_response_is_a_failure() -> None:
    bad = answering(OK, frame(b"\xff\xff"), [("grpc-status", "0")])
    async with far_side(bad) as url, client() as made:
        assert code(await run(made, attempt(url))) == "bad_answer"


def ending(how: str) -> Behave:
    """Ends each call without an answer."""
    async def behave(stream: trio.SocketStream, http: h2.connection.H2Connection,
                     event: h2.events.Event) -> bool:
        if isinstance(event, h2.events.RequestReceived) and how == "refused":
            http.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
        if not isinstance(event, h2.events.StreamEnded):
            return True
        if how == "goaway":
            http.close_connection(last_stream_id=0)
            await stream.send_all(http.data_to_send())
            while await stream.receive_some(65536):
                pass
            return False
        if how == "reset":
            http.reset_stream(event.stream_id, h2.errors.ErrorCodes.CANCEL)
        elif how == "garbage":
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        return how != "closed"

    return behave


@pytest.mark.parametrize(("how", "failure", "end"), [
    ("refused", "unreachable", Ending.FAILED), ("goaway", "unreachable", Ending.FAILED),
    ("reset", "connection_lost", Ending.LOST), ("closed", "connection_lost", Ending.LOST),
    ("garbage", "bad_answer", Ending.FAILED)])
async def test_calls_that_may_or_cannot_have_begun(how: str, failure: str, end: Ending) -> None:
    async with far_side(ending(how)) as url, client() as made:
        outcome = await run(made, attempt(url))
        assert (outcome.ending, code(outcome)) == (end, failure)
        assert outcome.reached == (failure != "unreachable")
        assert made.idle == 0


async def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    good = answering(OK, GOOD, [("grpc-status", "0")])
    async with far_side(good) as url, client() as made, trio.open_nursery() as nursery:
        await made.call(url, EXECUTE, b"")
        assert made.idle == 1
        made._kept.keep_s = 0.0
        await made.call(url, EXECUTE, b"")
        nursery.start_soon(made.run)
        with trio.fail_after(30):
            while made.idle:
                await trio.lowlevel.checkpoint()
        monkeypatch.undo()
        await made.call(url, EXECUTE, b"")
        nursery.cancel_scope.cancel()
    assert made.idle == 0
