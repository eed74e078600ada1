"""Far sides of calls for the tests: real servers on loopback that answer as a test says."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import msgspec
import trio

from plumd.executors import outgoing
from plumd.executors.outgoing import Client
from plumd.executors.targets import Policy


class Call(msgspec.Struct, frozen=True):
    """A request as it arrived; head: its raw bytes."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    head: bytes


Behave = Callable[[trio.SocketStream, Call], Awaitable[bool]]
"""Answers a call; False closes the connection after it."""


class FarSide:
    """A running server, and what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.calls: list[Call] = []
        self.connections = 0
        self.open = 0
        self.asked = trio.Event()
        """Set at the first call."""
        self.left = trio.Event()
        """Set when a connection was closed by the caller."""

    def url(self, path: str = "/") -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}{path}"


async def read_call(stream: trio.SocketStream, buffer: bytearray) -> Call | None:
    """The next request; None at the end of the connection."""
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        data = await stream.receive_some()
        if not data:
            return None
        buffer += data
    head = bytes(buffer[:end + 4])
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    headers = {name.lower(): value.strip() for name, value in pairs}
    size = end + 4 + int(headers.get("content-length", "0"))
    while len(buffer) < size:
        data = await stream.receive_some()
        if not data:
            return None
        buffer += data
    body = bytes(buffer[end + 4:size])
    del buffer[:size]
    method, path, _ = first.split(" ")
    return Call(method, path, headers, body, head)


_MADE: list[Client] = []


class Caller(Client):
    """A client that leaves no connection behind when the far side's block ends."""

    def __init__(self, policy: Policy | None = None, *, resolve: outgoing.Resolve | None = None,
                 tls: ssl.SSLContext | None = None, connect_s: float = outgoing.CONNECT_S) -> None:
        super().__init__(policy, resolve=resolve, tls=tls, connect_s=connect_s)
        _MADE.append(self)


@asynccontextmanager
async def far_side(behave: Behave) -> AsyncIterator[FarSide]:
    """A server on a free port until the end of the block."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        side = FarSide(listeners[0].socket.getsockname()[1])

        async def serve(stream: trio.SocketStream) -> None:
            side.connections += 1
            side.open += 1
            buffer = bytearray()
            try:
                async with stream:
                    while (call := await read_call(stream, buffer)) is not None:
                        side.calls.append(call)
                        side.asked.set()
                        if not await behave(stream, call):
                            return
                    side.left.set()
            except trio.BrokenResourceError:
                side.left.set()
            finally:
                side.open -= 1

        nursery.start_soon(trio.serve_listeners, serve, listeners)
        try:
            yield side
        finally:
            while _MADE:
                _MADE.pop().close()
        nursery.cancel_scope.cancel()


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    """A whole answer with Content-Length."""
    lines = [f"HTTP/1.1 {status} Word", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def replying(status: int, body: bytes = b"", *headers: str) -> Behave:
    """Answers every call the same way and keeps the connection."""
    async def behave(stream: trio.SocketStream, _: Call) -> bool:
        await stream.send_all(answer(status, body, *headers))
        return True

    return behave


async def silent(_stream: trio.SocketStream, _call: Call) -> NoReturn:
    """Never answers."""
    await trio.sleep_forever()


async def refusing_port() -> int:
    """A port of loopback on which nobody listens."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listeners[0].socket.getsockname()[1]
    for listener in listeners:
        await listener.aclose()
    return port



def certified(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=plum test", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True)
    return cert, key
