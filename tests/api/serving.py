"""Servers and clients for the tests of the HTTP doors: real sockets on loopback, raw bytes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import msgspec
import trio

from plumd.api.admission import Policy
from plumd.api.app import build_app
from plumd.api.front import bind, serve
from plumd.api.gate import Gate
from plumd.api.limits import Limits
from plumd.api.routes import Request, Route
from plumd.sdk.messages import MessageSocket

LIMITS = Limits(idle_s=20, head_s=20, body_s=20, send_s=5, linger_s=0.3, grace_s=3,
                stream_grace_s=1)

StreamHandler = Callable[[MessageSocket, str, Request], Awaitable[None]]


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer as the client saw it."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Served:
    """A running server."""

    port: int
    gate: Gate
    shutdown: trio.Event
    stopped: trio.Event

    async def connect(self) -> Client:
        """A new connection to it."""
        return Client(await trio.open_tcp_stream("127.0.0.1", self.port))

    async def ask(self, raw: bytes) -> Answer:
        """One request on a connection of its own."""
        client = await self.connect()
        async with client.stream:
            await client.send(raw)
            return await client.answer()


class Client:
    """One connection, read answer by answer."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = bytearray()

    async def send(self, data: bytes) -> None:
        """Send bytes; a server that hung up already is no error here."""
        with suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def more(self) -> bool:
        """Read something. False at the end of the connection."""
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            return False
        self.buffer += data
        return bool(data)

    async def answer(self, method: str = "POST") -> Answer:
        """The next final answer; interim ones are passed over."""
        while True:
            while (end := self.buffer.find(b"\r\n\r\n")) < 0:
                assert await self.more(), f"closed before an answer: {bytes(self.buffer)!r}"
            lines = bytes(self.buffer[:end]).decode("latin-1").split("\r\n")
            del self.buffer[:end + 4]
            status = int(lines[0].split(" ")[1])
            if status >= 200:
                break
        pairs = (line.split(":", 1) for line in lines[1:])
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        if method == "HEAD" or status in (204, 304):
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, await self.chunked())
        size = int(headers["content-length"])
        while len(self.buffer) < size:
            assert await self.more(), "closed inside a body"
        body = bytes(self.buffer[:size])
        del self.buffer[:size]
        return Answer(status, headers, body)

    async def chunked(self) -> bytes:
        """A chunked body to its end."""
        body = b""
        while True:
            chunk = await self.chunk()
            if not chunk:
                return body
            body += chunk

    async def chunk(self) -> bytes:
        """The next chunk, b"" for the last."""
        while (end := self.buffer.find(b"\r\n")) < 0:
            assert await self.more(), "closed inside a chunked body"
        size = int(self.buffer[:end], 16)
        while len(self.buffer) < end + 4 + size:
            assert await self.more(), "closed inside a chunk"
        data = bytes(self.buffer[end + 2:end + 2 + size])
        del self.buffer[:end + 4 + size]
        return data

    async def at_end(self) -> bool:
        """Whether the server closes without sending more. Waits for either."""
        return not self.buffer and not await self.more()


async def no_stream(_socket: MessageSocket, _worker: str, _request: Request) -> None:
    """A session that ends at once."""


@asynccontextmanager
async def running(routes: Sequence[Route], *, policy: Policy | None = None,
                  limits: Limits = LIMITS, streams_max: int = 1000,
                  stream_handler: StreamHandler = no_stream,
                  gate: Gate | None = None, deep: Route | None = None) -> AsyncIterator[Served]:
    """A server of these routes on a free port, stopped at the end of the block."""
    gate = gate or Gate(policy or Policy(), streams_max=streams_max)
    app = build_app(routes, gate, body_s=limits.body_s, deep=deep)
    sockets = bind(["127.0.0.1:0"])
    served = Served(sockets[0].getsockname()[1], gate, trio.Event(), trio.Event())

    async def run(task_status: trio.TaskStatus[list[str]]) -> None:
        await serve(app, routes=routes, gate=gate, sockets=sockets, limits=limits,
                    stream_handler=stream_handler, shutdown=served.shutdown,
                    task_status=task_status)
        served.stopped.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield served
        nursery.cancel_scope.cancel()


def cold(routes: Sequence[Route]) -> list[Route]:
    """The same routes, none of them hot."""
    return [msgspec.structs.replace(route, hot=False) for route in routes]


def reset_on_close(stream: trio.SocketStream) -> None:
    """Make closing this socket a reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
