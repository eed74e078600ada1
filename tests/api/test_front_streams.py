"""SSE, WebSockets, HTTP/2, TLS, and the way out with all of them open."""

from __future__ import annotations

import logging
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import msgspec
import pytest
import trio
import trio.testing
import trio_websocket

from plumd.api.admission import Policy
from plumd.api.app import build_app
from plumd.api.front import STREAM_ROUTE, bind, serve
from plumd.api.gate import Gate
from plumd.api.routes import Request, Response, Route
from plumd.sdk.messages import MessageSocket
from tests.api.serving import LIMITS, Client, Served, no_stream, running

PATH = "/v1/embedded-workers/w-1/stream"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


async def quick(_request: Request) -> Response:
    return Response(201, b"{}")


async def ticks(_request: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        yield b": hello\n\n"
        await trio.sleep_forever()

    return Response(content_type="text/event-stream", stream=chunks())


async def flood(_request: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    return Response(content_type="text/event-stream", stream=chunks())


async def much(_request: Request) -> Response:
    return Response(body=b"x" * 16_000_000)


ROUTES = [
    Route("POST", "/v1/tasks", quick, "x", "t", "p", hot=True),
    Route("POST", "/v1/json", quick, "x", "t", "p", body=dict, body_bytes_max=10),
    Route("POST", "/v1/much", much, "x", "t", "p", hot=True),
    Route("GET", "/v1/much", much, "x", "t", "p"),
    Route("GET", "/v1/events", ticks, "x", "t", "p"),
    Route("GET", "/v1/flood", flood, "x", "t", "p"),
    STREAM_ROUTE,
]


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


POST = b"POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"


def upgrade(path: str = PATH, *headers: str, key: str = KEY, version: str = "13") -> bytes:
    return get(path, "Upgrade: websocket", "Connection: keep-alive, Upgrade", key,
               f"Sec-WebSocket-Version: {version}", *headers)


async def events(served: Served) -> Client:
    """A connection with an open event stream."""
    client = await served.connect()
    await client.send(get("/v1/events"))
    while b"hello" not in client.buffer:
        assert await client.more()
    return client


@asynccontextmanager
async def worker(served: Served, path: str = PATH,
                 ) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    """A client's WebSocket whose TCP stream is closed whoever closed the WebSocket."""
    async with trio.open_nursery() as nursery:
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            yield await trio_websocket.wrap_client_stream(nursery, stream, "127.0.0.1", path)
        nursery.cancel_scope.cancel()


async def talk(socket: MessageSocket, worker: str, request: Request) -> None:
    """A session that says who it serves, then echoes."""
    await socket.send_text(f"{worker} {request.query.get('session', '')}".encode())
    while True:
        message = await socket.get_message()
        await socket.send_text(message.encode() if isinstance(message, str) else message)


# WebSockets.

async def test_worker_stream_echoes() -> None:
    async with running(ROUTES, stream_handler=talk) as served:
        path = "/v1/embedded-workers/a%20b/stream?session=s%C3%A9"
        async with worker(served, path) as socket:
            assert await socket.get_message() == "a b sé"
            assert len(served.gate.streams) == 1
            for text in ("one", "x" * 100_000):
                await socket.send_message(text)
                assert await socket.get_message() == text
            await socket.aclose()
    assert len(served.gate.streams) == 0


async def test_hot_request_and_upgrade_in_one_packet() -> None:
    masked_hi = b"\x81\x82\0\0\0\0hi"
    async with running(ROUTES, stream_handler=talk) as served:
        client = await served.connect()
        async with client.stream:
            await client.send(POST + upgrade())
            assert (await client.answer()).status == 201
            while not client.buffer.endswith(b"w-1 "):
                assert await client.more()
            assert client.buffer.startswith(b"HTTP/1.1 101")
            for byte in masked_hi:
                await client.send(bytes([byte]))
            while not client.buffer.endswith(b"\x81\x02hi"):
                assert await client.more()


@pytest.mark.parametrize(("raw", "status"), [
    (upgrade(PATH, "Origin: http://evil.example"), 403),
    (upgrade(PATH, "Origin: null"), 403),
    (upgrade(PATH, "Origin: http://127.0.0.1"), 101),
    (upgrade(PATH, "Sec-Fetch-Site: cross-site"), 403),
    (upgrade(PATH, "X-Forwarded-For: 1.2.3.4"), 403),
    (upgrade().replace(b"Host: 127.0.0.1", b"Host: evil.example"), 403),
    (upgrade("/v1/embedded-workers/%ff/stream"), 400),
    (upgrade(version="8"), 426),
    (upgrade(key="Sec-WebSocket-Key: c2hvcnQ="), 400),
    (upgrade(key="X-Nothing: 1"), 400),
    (upgrade().replace(b"keep-alive, Upgrade", b"keep-alive"), 400),
    (get(PATH), 426),
    (get(PATH, "Upgrade: h2c", "Connection: Upgrade"), 426),
    (upgrade("/v1/embedded-workers//stream"), 404),
    (upgrade("/v1/other"), 404),
    (upgrade("/v1/other", "Origin: http://evil.example"), 403),
    (upgrade("/v1/events"), 404),
])
async def test_upgrades_good_and_bad(raw: bytes, status: int) -> None:
    async with running(ROUTES) as served:
        client = await served.connect()
        async with client.stream:
            await client.send(raw)
            while b"\r\n\r\n" not in client.buffer:
                assert await client.more()
            assert int(client.buffer.split(b" ")[1]) == status
        assert (await served.ask(POST)).status == 201
        assert len(served.gate.streams) == 0


async def test_failing_session_closes_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_socket: MessageSocket, _worker: str,
                   _request: Request) -> None:
        raise RuntimeError("secret")

    caplog.set_level(logging.CRITICAL, "plumd.api")
    async with running(ROUTES, stream_handler=fail) as served:
        async with worker(served) as socket:
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await socket.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1011
        assert "secret" not in str(closed.value.reason.reason)


async def test_what_comes_behind_our_close_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """A ping that crosses it must not be answered any more, and is no error."""
    mask = b"\0\0\0\0"
    ping, text = b"\x89\x80" + mask, b"\x81\x82" + mask + b"hi"
    close = b"\x88\x82" + mask + (1000).to_bytes(2, "big")
    async with running(ROUTES) as served:       # its sessions end at once
        for said in (ping + text + close, ping, text[:4], b"\x8f" + mask, b""):
            client = await served.connect()
            async with client.stream:
                await client.send(upgrade())
                while b"\r\n\r\n\x88\x02" + (1000).to_bytes(2, "big") not in client.buffer:
                    assert await client.more()
                for at in range(len(said)):
                    await client.send(said[at:at + 1])
                with trio.fail_after(5):
                    while await client.more():
                        pass
    assert len(served.gate.streams) == 0
    assert not caplog.records


async def test_streams_are_limited() -> None:
    async with running(ROUTES, streams_max=2, stream_handler=talk) as served:
        async with (await events(served)).stream, worker(served) as socket:
            await socket.get_message()
            for raw in (get("/v1/events"), upgrade()):
                answer = await served.ask(raw)
                assert (answer.status, answer.headers["retry-after"]) == (429, "5")
        with trio.fail_after(10):
            while len(served.gate.streams):
                await trio.testing.wait_all_tasks_blocked()
        async with (await events(served)).stream:
            pass


async def test_stream_ends_with_its_client() -> None:
    closed = trio.Event()

    async def watched(_request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield b": hello\n\n"
                await trio.sleep_forever()
            finally:
                closed.set()

        return Response(content_type="text/event-stream", stream=chunks())

    routes = [Route("GET", "/v1/events", watched, "x", "t", "p")]
    async with running(routes) as served:
        client = await events(served)
        await client.stream.aclose()
        with trio.fail_after(10):
            await closed.wait()


async def test_head_of_a_stream_is_its_headers() -> None:
    async with running(ROUTES) as served:
        client = await served.connect()
        async with client.stream:
            await client.send(get("/v1/events").replace(b"GET", b"HEAD"))
            answer = await client.answer("HEAD")
            assert answer.headers["content-type"] == "text/event-stream"
            await client.send(get("/v1/much").replace(b"GET", b"HEAD"))
            assert (await client.answer("HEAD")).headers["content-length"] == "16000000"
        assert len(served.gate.streams) == 0


async def test_failing_stream_cuts_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            raise RuntimeError("secret")

        return Response(content_type="text/event-stream", stream=chunks())

    caplog.set_level(logging.CRITICAL)
    async with running([Route("GET", "/v1/x", broken, "x", "t", "p")]) as served:
        client = await served.connect()
        async with client.stream:
            await client.send(get("/v1/x"))
            while await client.more():
                pass
            assert b"data: 1" in client.buffer
            assert not client.buffer.endswith(b"0\r\n\r\n")
            assert b"secret" not in client.buffer


# The way out.

async def test_shutdown_is_bounded_with_everything_open() -> None:
    """Idle, streaming and stalled connections of every kind cannot hold it."""
    limits = msgspec.structs.replace(LIMITS, grace_s=1.0, stream_grace_s=0.5, send_s=30)
    served_by = running(ROUTES, limits=limits, stream_handler=talk)
    async with served_by as served, AsyncExitStack() as stack:
        clients = []
        for sent in (b"", POST, get("/v1/nothing"), b"POST /v1/ta", b"GET /v1",
                     POST[:-4], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
            for _ in range(5):
                client = await served.connect()
                await client.send(sent)
                clients.append(client)
        # Readers that do not read: SSE, a large answer at each door.
        for sent in (get("/v1/flood"), get("/v1/much"), POST.replace(b"tasks", b"much")):
            client = await served.connect()
            await client.send(sent)
            clients.append(client)
        live = [await events(served) for _ in range(50)]
        sockets = []
        for _ in range(20):
            socket = await stack.enter_async_context(worker(served))
            await socket.get_message()
            sockets.append(socket)
        started = trio.current_time()
        served.shutdown.set()
        for client in live:
            while not client.buffer.endswith(b"0\r\n\r\n"):
                assert await client.more(), "an event stream was cut, not ended"
        for socket in sockets:
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await socket.get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1001
        assert trio.current_time() - started < 2.0
        with trio.fail_after(3):
            await served.stopped.wait()
        for client in [*clients, *live]:
            await client.stream.aclose()


async def test_cancelled_server_does_not_wait_for_stalled_readers() -> None:
    limits = msgspec.structs.replace(LIMITS, send_s=60)
    clients = []
    with trio.fail_after(5):
        async with running(ROUTES, limits=limits) as served:
            for sent in (get("/v1/flood"), get("/v1/much"), POST.replace(b"tasks", b"much")):
                client = await served.connect()
                await client.send(sent)
                await client.more()
                clients.append(client)
    for client in clients:
        await client.stream.aclose()


@pytest.mark.parametrize("sent", [
    get("/v1/flood"), get("/v1/much"), POST.replace(b"tasks", b"much")])
async def test_stalled_reader_is_given_up_in_time(sent: bytes) -> None:
    """Shutdown with an endless grace ends only when the stalled connection does."""
    limits = msgspec.structs.replace(LIMITS, send_s=0.2, grace_s=60, stream_grace_s=60)
    async with running(ROUTES, limits=limits) as served:
        client = await served.connect()
        async with client.stream:
            await client.send(sent)
            await client.more()
            served.shutdown.set()
            # Sooner than TCP_USER_TIMEOUT, which would end it too.
            with trio.fail_after(1.5):
                await served.stopped.wait()
    assert len(served.gate.streams) == 0


@pytest.mark.parametrize("hot", [True, False])
async def test_request_in_flight_gets_its_answer(hot: bool) -> None:
    started, release = trio.Event(), trio.Event()

    async def slow(_request: Request) -> Response:
        started.set()
        await release.wait()
        return Response(200, b'"done"')

    async with running([Route("POST", "/v1/slow", slow, "x", "t", "p", hot=hot)]) as served:
        client = await served.connect()
        async with client.stream:
            await client.send(POST.replace(b"tasks", b"slow"))
            await started.wait()
            served.shutdown.set()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(OSError, match="all attempts to connect"):
                await served.connect()
            release.set()
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b'"done"')
            if hot:
                assert answer.headers["connection"] == "close"
            assert await client.at_end()
        with trio.fail_after(2):
            await served.stopped.wait()


# HTTP/2.

class H2Client:
    """HTTP/2 by prior knowledge, just enough of it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.state = h2.connection.H2Connection(
            config=h2.config.H2Configuration(header_encoding=None))
        self.statuses: dict[int, int] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.sent_away = False

    async def flush(self) -> None:
        await self.stream.send_all(self.state.data_to_send())

    async def request(self, method: str, path: str, *, end: bool = True, **more: str) -> int:
        number: int = self.state.get_next_available_stream_id()
        headers = [(":method", method), (":scheme", "http"), (":authority", "127.0.0.1"),
                   (":path", path), *((k.replace("_", "-"), v) for k, v in more.items())]
        self.state.send_headers(number, headers, end_stream=end)
        await self.flush()
        return number

    async def more(self) -> bool:
        """Take in what comes next. False: nothing more will come."""
        data = await self.stream.receive_some(65536)
        for event in self.state.receive_data(data):
            self.take(event)
        await self.flush()
        return bool(data)

    async def until_end(self, number: int) -> int:
        """The status of a stream, when it has ended."""
        while number not in self.ended:
            assert await self.more(), "closed"
        return self.statuses.get(number, 0)

    def take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.statuses[event.stream_id] = int(dict(event.headers)[b":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.sent_away = True


async def open_h2(stream: trio.abc.Stream) -> H2Client:
    client = H2Client(stream)
    client.state.initiate_connection()
    await client.flush()
    return client


async def test_http2_works_and_survives_data_after_an_early_answer(
        caplog: pytest.LogCaptureFixture) -> None:
    async with running(ROUTES) as served:
        client = await open_h2((await served.connect()).stream)
        async with client.stream:
            # Refused by its head alone, while its body is still to come.
            early = await client.request("POST", "/v1/tasks", end=False, x_plum_origin="plumd")
            assert await client.until_end(early) == 403
            for _ in range(3):
                client.state.send_data(early, b"more of it")
            await client.flush()
            for _ in range(3):
                good = await client.request("POST", "/v1/tasks")
                assert await client.until_end(good) == 201
            assert client.bodies[good] == b"{}"
            strange = await client.request("POST", "/v1/\xe9")
            await client.until_end(strange)
            assert await client.until_end(await client.request("GET", "/v1/none")) == 404
        assert (await served.ask(POST)).status == 201
    assert not caplog.records


@pytest.mark.parametrize(("body", "media", "status"), [
    (b"{}", "application/json", 201), (b"{}", "text/plain", 415), (b"", "text/plain", 201),
    (b"x" * 11, "application/json", 413)])
async def test_http2_bodies_need_no_length(body: bytes, media: str, status: int) -> None:
    """What the head did not announce is still judged once it is here."""
    async with running(ROUTES) as served:
        client = await open_h2((await served.connect()).stream)
        async with client.stream:
            number = await client.request("POST", "/v1/json", end=False, content_type=media)
            client.state.send_data(number, body, end_stream=True)
            await client.flush()
            assert await client.until_end(number) == status


async def stream_until_shutdown(served: Served, client: H2Client) -> int:
    """Tell the server to end while this client has a stream open; its number."""
    number = await client.request("GET", "/v1/events")
    while not client.bodies.get(number):
        assert await client.more()
    served.shutdown.set()
    return number


async def test_http2_client_that_is_sent_away_ends_the_connection_itself() -> None:
    """The end of the line right behind the last answer could be taken for the answer's failure."""
    limits = msgspec.structs.replace(LIMITS, linger_s=60, grace_s=60)
    async with running(ROUTES, limits=limits) as served:
        client = await open_h2((await served.connect()).stream)
        async with client.stream:
            number = await stream_until_shutdown(served, client)
            while not client.sent_away:
                assert await client.more()
            assert number in client.ended
            with trio.move_on_after(0.2):
                assert await client.more(), "the daemon ended the connection"
            assert not served.stopped.is_set()
        with trio.fail_after(10):
            await served.stopped.wait()


async def test_http2_client_that_stays_is_left_in_time() -> None:
    async with running(ROUTES) as served:
        client = await open_h2((await served.connect()).stream)
        async with client.stream:
            await stream_until_shutdown(served, client)
            while await client.more():
                pass
            assert client.sent_away
            with trio.fail_after(2):
                await served.stopped.wait()


async def test_http2_stream_that_fails_is_reset(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            raise RuntimeError("secret")

        return Response(content_type="text/event-stream", stream=chunks())

    caplog.set_level(logging.CRITICAL)
    async with running([Route("GET", "/v1/x", broken, "x", "t", "p"), *ROUTES]) as served:
        client = await open_h2((await served.connect()).stream)
        async with client.stream:
            with trio.fail_after(2):
                await client.until_end(await client.request("GET", "/v1/x"))
            assert await client.until_end(await client.request("POST", "/v1/tasks")) == 201


# TLS.

@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, key and all in one file."""
    where = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", str(where / "key.pem"), "-out", str(where / "cert.pem"),
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        capture_output=True)
    if made.returncode:
        pytest.skip("openssl, the program, is needed to make a certificate")
    return where


async def test_tls_with_both_protocols(certificate: Path) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    h2_only = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    h2_only.set_alpn_protocols(["h2"])
    gate = Gate(Policy())
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(
            serve, build_app(ROUTES, gate), routes=ROUTES, gate=gate, limits=LIMITS,
            sockets=bind(["127.0.0.1:0"]), stream_handler=no_stream, shutdown=shutdown,
            ssl_context=server))
        assert address.startswith("https://127.0.0.1:")
        port = int(address.rpartition(":")[2])

        async def connect(context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
            return trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", port), context,
                                  server_hostname="localhost", https_compatible=True)

        same = f"Host: localhost:{port}\r\nOrigin: https://localhost:{port}".encode()
        for sent, status in (
                (POST.replace(b"Host: 127.0.0.1", same), b" 201 "),
                (POST.replace(b"Host: 127.0.0.1", same.replace(b"https", b"http")), b" 403 "),
                (get("/v1/none"), b" 404 ")):
            async with await connect(trusting) as stream:
                for _ in range(2):
                    await stream.send_all(sent)
                    answer = b""
                    while b"}" not in answer:
                        answer += await stream.receive_some(65536)
                    assert status in answer
        async with await connect(h2_only) as stream:
            client = await open_h2(stream)
            assert await client.until_end(await client.request("POST", "/v1/tasks")) == 201
        # No TLS at all must not disturb the others.
        async with await trio.open_tcp_stream("127.0.0.1", port) as plain:
            await plain.send_all(POST)
            while await plain.receive_some(65536):
                pass
        async with await connect(trusting) as stream:
            await stream.send_all(POST)
            assert b" 201 " in await stream.receive_some(65536)
            shutdown.set()
            assert await stream.receive_some(65536) == b""


@pytest.mark.parametrize("sent", [POST, get("/v1/nothing")])
async def test_who_was_let_in_before_the_end_may_ask_once(sent: bytes) -> None:
    """Its client cannot know: one whose request is on its way, and one that begins with it."""
    async with running(ROUTES) as served:
        late, begun, silent = [await served.connect() for _ in range(3)]
        await begun.send(sent[:10])
        await trio.testing.wait_all_tasks_blocked()
        served.shutdown.set()
        await trio.testing.wait_all_tasks_blocked()
        for client, rest in ((late, sent), (begun, sent[10:])):
            await client.send(rest)
            assert (await client.answer()).status in (200, 201, 404)
            assert await client.at_end()
        with trio.fail_after(3):
            assert await silent.at_end()
            await served.stopped.wait()
        for client in (late, begun, silent):
            await client.stream.aclose()
