"""Any bytes at all, whole or in pieces: the server stays, and the two doors never disagree."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from threading import Thread

import h11
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plumd.api.admission import Policy
from plumd.api.app import build_app
from plumd.api.front import STREAM_ROUTE, bind, serve
from plumd.api.gate import Gate
from plumd.api.hot import HotTable, may_be_ours, parse_hot, parse_stream
from plumd.api.limits import Limits
from plumd.api.routes import Request, Response, Route
from tests.api.serving import no_stream

GOOD = b"POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"
LOOK = b"GET /v1/discovery?service=a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
UPGRADE = (b"GET /v1/embedded-workers/w/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n"
           b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
HUNG_UP = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)
"""What a client is told whose server hung up first, at whatever it does next."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def echo(request: Request) -> Response:
    return Response(body=request.body, content_type="text/plain")


ROUTES = [Route("POST", "/v1/tasks", echo, "x", "t", "p", hot=True),
          Route("GET", "/v1/discovery", echo, "x", "t", "p", hot=True),
          Route("POST", "/v1/task-defs/{id}", echo, "x", "t", "p", hot=True), STREAM_ROUTE]


class Running:
    """A server in a thread of its own, so that many examples share it."""

    def __init__(self) -> None:
        self.sockets = bind(["127.0.0.1:0"])
        self.port: int = self.sockets[0].getsockname()[1]
        self.started: Future[trio.lowlevel.TrioToken] = Future()
        self.shutdown = trio.Event()
        self.thread = Thread(target=trio.run, args=(self.main,))

    async def main(self) -> None:
        gate = Gate(Policy())
        async with trio.open_nursery() as nursery:
            await nursery.start(self.serve, gate)
            self.started.set_result(trio.lowlevel.current_trio_token())

    async def serve(self, gate: Gate, task_status: trio.TaskStatus[list[str]]) -> None:
        await serve(build_app(ROUTES, gate), routes=ROUTES, gate=gate, sockets=self.sockets,
                    stream_handler=no_stream, shutdown=self.shutdown,
                    limits=Limits(idle_s=1, head_s=1, body_s=1, linger_s=0.1, grace_s=0.5),
                    task_status=task_status)

    def send(self, pieces: list[bytes]) -> bytes:
        """What comes back until the server closes; our end is shut after the last byte."""
        got = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
            try:
                for piece in pieces:
                    client.sendall(piece)
                client.shutdown(socket.SHUT_WR)
                while data := client.recv(65536):
                    got += data
            except OSError as error:
                if error.errno not in HUNG_UP:
                    raise
        return got

    def alive(self) -> bool:
        """Whether a good request is answered."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
            client.sendall(GOOD)
            return client.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    running = Running()
    running.thread.start()
    token = running.started.result(timeout=5)
    yield running
    token.run_sync_soon(running.shutdown.set)
    running.thread.join(timeout=5)
    assert not running.thread.is_alive()


TOKENS = st.sampled_from([
    b"POST ", b"GET ", b"/v1/tasks", b"/v1/discovery", LOOK, b"/v1/task-defs/",
    b"/v1/embedded-workers/w/stream",
    b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"Host: 127.0.0.1\r\n",
    b"Content-Length: ", b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n",
    b"Connection: close\r\n", b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n", b": ", b"?",
    b"Prefer: wait=1\r\n", b" ", b"\t", b"\0", b"\xff", b"%", b"{}", b"2", b"-", GOOD, UPGRADE,
    PREFACE, PREFACE + bytes(9)])
SOUP = st.lists(TOKENS | st.binary(max_size=8), max_size=25).map(b"".join)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A good message with one slice replaced."""
    base = draw(st.sampled_from([GOOD, GOOD * 2, LOOK, LOOK + GOOD, UPGRADE, PREFACE + bytes(27)]))
    start = draw(st.integers(0, len(base)))
    end = draw(st.integers(start, min(len(base), start + 6)))
    return base[:start] + draw(TOKENS | st.binary(max_size=4)) + base[end:]


SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(SHARED, max_examples=300)
@given(data=SOUP | spoiled() | st.binary(max_size=200), cut=st.integers(0, 200))
def test_no_bytes_end_the_server(server: Running, caplog: pytest.LogCaptureFixture, data: bytes,
                                 cut: int) -> None:
    """And none is worth an error in the log, or strangers could fill the disk."""
    server.send([piece for piece in (data[:cut], data[cut:]) if piece])
    assert server.alive()
    assert [record.getMessage() for record in caplog.records] == []


@settings(max_examples=400)
@given(SOUP | spoiled() | st.binary(max_size=200))
def test_recognition_never_raises(data: bytes) -> None:
    table = HotTable(ROUTES)
    may_be_ours(table, data)
    parse_hot(table, data)
    parse_stream(data)


@settings(max_examples=600)
@given(spoiled() | SOUP.map(lambda soup: GOOD[:-6] + soup + b"\r\n\r\n"))
def test_what_the_front_takes_h11_reads_alike(data: bytes) -> None:
    """The front may hand over what it likes, but what it takes must mean the same to h11."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return
    raw = data[:end + 4]
    head = parse_hot(HotTable(ROUTES), raw)
    if head is None:
        return
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(raw)
    event = reader.next_event()
    assert isinstance(event, h11.Request)
    assert head.route is not None
    assert event.method == head.route.method.encode()
    assert event.target == head.target
    assert {name.decode("latin-1"): value.decode("latin-1")
            for name, value in event.headers} == head.headers
    if head.length:
        assert reader.next_event() is h11.NEED_DATA
        reader.receive_data(bytes(head.length))
        body = reader.next_event()
        assert isinstance(body, h11.Data)
        assert len(body.data) == head.length
    assert isinstance(reader.next_event(), h11.EndOfMessage)
