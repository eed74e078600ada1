"""Lines: how a worker reaches the daemon, as a WebSocket by trio-websocket."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol, final
from urllib.parse import quote, urlsplit

import trio
import trio_websocket

from plumd.sdk.headers import token_header
from plumd.sdk.messages import MessageSocket, dial_messages
from plumd.sdk.protocol import MESSAGE_BYTES_MAX
from plumd.sdk.quick import quick

DIAL_S: Final = 1.5
"""A TCP connection is there by then, or is tried again: a fresh try gets through a network that
has just come back, while the kernel would still wait for its next retransmission."""
HANDSHAKE_S: Final = 10.0
CLOSE_S: Final = 1.0


class LineClosed(Exception):
    """The line is gone, or never came to be."""


@final
class Unreachable(LineClosed):
    """Nobody answered at the address: the daemon or the network is down."""


class Line(Protocol):
    """An open line. Every method but close raises LineClosed once the line is gone.

    answered: `send` returns when the daemon has heard the message, not when it is on its way.
    """

    @property
    def answered(self) -> bool: ...

    async def send(self, message: bytes) -> None:
        """Send one message. Cancel: the line may be broken, close it."""

    async def receive(self) -> str | bytes:
        """The next message."""

    async def ping(self) -> None:
        """Return when the daemon has answered."""

    async def close(self, code: int | None = None) -> None:
        """Close with this WebSocket code, or without a word; takes CLOSE_S at most, never fails."""


Dial = Callable[[trio.Nursery], Awaitable[Line]]
"""Opens a line; its reader runs in the given nursery. Raises LineClosed, there or here."""


class Address(NamedTuple):
    """Where a worker's lines lead. headers: those that every request needs."""

    host: str
    port: int
    secure: bool
    authority: str
    path: str
    headers: list[tuple[bytes, bytes]]


def address_of(url: str, worker_id: str, token: str | None, last: str) -> Address:
    """The address of a worker's route; last: its last part. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http or https URL")
    secure = parts.scheme == "https"
    path = f"{parts.path.rstrip('/')}/v1/embedded-workers/{quote(worker_id, safe='')}/{last}"
    return Address(parts.hostname, parts.port or (443 if secure else 80), secure,
                   parts.netloc.rpartition("@")[2], path,
                   [(name.lower().encode(), value.encode())
                    for name, value in token_header(token).items()])


def websocket_dial(url: str, worker_id: str, *, token: str | None = None,
                   ssl_context: ssl.SSLContext | None = None) -> Dial:
    """A Dial to the daemon whose API is at url (http or https). Raises ValueError."""
    where = address_of(url, worker_id, token, "stream")

    async def dial(nursery: trio.Nursery) -> Line:
        tap = _Tap(quick(await connect(where, ssl_context)))
        try:
            with trio.fail_after(HANDSHAKE_S):
                messages = await dial_messages(
                    nursery, tap, where.authority, where.path, headers=where.headers,
                    message_bytes_max=MESSAGE_BYTES_MAX)
            tap.handshake = False
        except trio.TooSlowError:
            raise LineClosed("the WebSocket handshake took too long") from None
        finally:
            if tap.handshake:
                await trio.aclose_forcefully(tap)
        return WebSocketLine(messages, tap)

    return dial


async def connect(where: Address, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    """The byte stream. Raises Unreachable, and LineClosed when there is no TLS with the peer."""
    host, port = where.host, where.port
    try:
        with trio.fail_after(DIAL_S):
            stream = await trio.open_tcp_stream(host, port)
    except trio.TooSlowError:
        raise Unreachable(f"no answer from {host}:{port}") from None
    except OSError as error:
        raise Unreachable(str(error)) from error
    if not where.secure:
        return stream
    tls = trio.SSLStream(stream, ssl_context or ssl.create_default_context(),
                         server_hostname=host, https_compatible=True)
    try:
        with trio.fail_after(HANDSHAKE_S):
            await tls.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        await trio.aclose_forcefully(tls)
        raise LineClosed(f"no TLS with {host}:{port}: {error.__cause__ or error!r}") from error
    return tls


@final
class _Tap(trio.abc.Stream):
    """A stream that says so when the peer hangs up during the handshake.

    trio-websocket would wait for ever for the handshake of a stream that has ended; what its
    reader raises instead ends the nursery that it runs in.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.handshake = True
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self.handshake:
            return await self._stream.receive_some(max_bytes)
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            raise LineClosed(f"broken during the handshake: {error.__cause__}") from error
        if not data and self.handshake:
            raise LineClosed("hung up during the handshake")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            if self.handshake:
                raise LineClosed(f"broken during the handshake: {error.__cause__}") from error
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@final
class WebSocketLine:
    """A Line on an open WebSocket."""

    answered = False

    def __init__(self, messages: MessageSocket, stream: trio.abc.Stream) -> None:
        self._messages = messages
        self._stream = stream

    async def send(self, message: bytes) -> None:
        try:
            await self._messages.send_text(message)
        except trio_websocket.ConnectionClosed as error:
            raise LineClosed(str(error.reason)) from None

    async def receive(self) -> str | bytes:
        try:
            return await self._messages.get_message()
        except trio_websocket.ConnectionClosed as error:
            raise LineClosed(str(error.reason)) from None

    async def ping(self) -> None:
        try:
            await self._messages.ping()
        except trio_websocket.ConnectionClosed as error:
            raise LineClosed(str(error.reason)) from None

    async def close(self, code: int | None = None) -> None:
        if code is not None:
            with trio.move_on_after(CLOSE_S):
                await self._messages.aclose(code)
        await trio.aclose_forcefully(self._stream)
