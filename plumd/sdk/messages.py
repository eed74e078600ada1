"""A WebSocket whose plain messages take the short way.

trio-websocket does the handshake, pings, closing, and every frame that is in any way unusual. But
almost all that a worker and the daemon say are short text messages of one frame each, and for
them its reader task, its channel and wsproto cost more than all the rest of a round. So this
stands under it, as the stream that it reads and writes: a plain message is cut out and given to
whoever waits for one; pings and pongs go to the library. The first frame that is anything else,
a close among them, leaves the library alone with the socket, for good. A frame that may not be is
refused here, and the peer is told why.

Source: RFC 6455 section 5.2 (frames) and 5.3 (masks).
"""

from __future__ import annotations

import secrets
from collections import deque
from contextlib import suppress
from typing import Final, NamedTuple, final

import trio
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    WebSocketConnection,
    wrap_client_stream,
    wrap_server_stream,
)
from wsaccel.xormask import XorMaskerSimple

from plumd.sdk.quick import QuickStream, quick

HEAD_END: Final = b"\r\n\r\n"
SWITCHING: Final = b"HTTP/1.1 101"
CONTROL_BYTES_MAX: Final = 125
RECEIVE_BYTES: Final = 64 * 1024
TEXT: Final = 0x81          # a whole message: FIN and the opcode for text
PING: Final = 0x89
PONG: Final = 0x8A
MASKED: Final = 0x80
CLOSE: Final = 0x88
OPCODES: Final = frozenset({1, 2, 8, 9, 10})
"""Those that a frame may have that goes on with nothing."""
ABNORMAL: Final = 1006
PROTOCOL_ERROR: Final = 1002
TOO_LONG: Final = 1009
LINGER_S: Final = 1.0
LINGER_BYTES: Final = 4 * 1024 * 1024


class FrameHead(NamedTuple):
    """The head of a frame at the start of a buffer; positions count from there."""

    first: int
    masked: bool
    start: int
    end: int


def frame_head(buffer: bytes | bytearray) -> FrameHead | None:
    """The head of the frame that begins the buffer; None while it is not all there."""
    if len(buffer) < 2:
        return None
    size = buffer[1] & 0x7F
    start = 2
    if size == 126:
        size, start = int.from_bytes(buffer[2:4], "big"), 4
    elif size == 127:
        size, start = int.from_bytes(buffer[2:10], "big"), 10
    masked = bool(buffer[1] & MASKED)
    start += 4 * masked
    return FrameHead(buffer[0], masked, start, start + size) if len(buffer) >= start else None


def text_frame(data: bytes, *, mask: bool) -> bytes:
    """A text message as one frame."""
    size, bit = len(data), MASKED if mask else 0
    if size < 126:
        head = bytes((TEXT, bit | size))
    elif size < 65_536:
        head = bytes((TEXT, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((TEXT, bit | 127)) + size.to_bytes(8, "big")
    if not mask:
        return head + data
    key = secrets.token_bytes(4)
    return head + key + bytes(XorMaskerSimple(key).process(data))


@final
class _Below(trio.abc.Stream):
    """What trio-websocket takes for its stream.

    Until the handshake's head it reads from the socket; then it is fed with what
    MessageSocket.get_message does not want, until it is left alone with the socket for good.
    """

    def __init__(self, stream: trio.abc.Stream, start: bytes) -> None:
        self.buffer = bytearray(start)      # read, and not yet anybody's
        self.stream = quick(stream)
        self._fed: deque[bytes] = deque()
        self.alone = True           # nobody else reads: the handshake, or after something odd
        self._headless = True       # the handshake's head has not come
        self._news = trio.lowlevel.ParkingLot()
        self._sending = trio.Lock()
        self._rest = b""            # of a frame that went out in part

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        del max_bytes
        while not self._fed:
            if self._headless:
                await self._read_head()
            elif not self.alone:
                await self._news.park()
            elif self.buffer:
                self._fed.append(self.take(len(self.buffer)))
            else:
                return await self.stream.receive_some(RECEIVE_BYTES)
        return self._fed.popleft()

    async def _read_head(self) -> None:
        """Wait for the handshake's head, and give the library that and nothing behind it."""
        while (end := self.buffer.find(HEAD_END)) < 0:
            data = await self.stream.receive_some(RECEIVE_BYTES)
            self.buffer += data
            if not data or len(self.buffer) > RECEIVE_BYTES:
                self._headless = False
                self._fed.append(self.take(len(self.buffer)))
                return
        self._headless = False
        self.alone = self.buffer.startswith(b"HTTP/") and not self.buffer.startswith(SWITCHING)
        self._fed.append(self.take(end + len(HEAD_END)))

    def take(self, size: int) -> bytes:
        """Cut bytes off the buffer's start."""
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def feed(self, data: bytes) -> None:
        """Give the library bytes."""
        self._fed.append(data)
        self._news.unpark_all()

    def leave_alone(self) -> None:
        """Let the library have all that comes from now on, beginning with the buffer."""
        self.alone = True
        self._news.unpark_all()

    async def more(self) -> bool:
        """Read more into the buffer. False at the end."""
        data = await self.stream.receive_some(RECEIVE_BYTES)
        self.buffer += data
        return bool(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending.locked():
            await self._sending.acquire()
        else:
            self._sending.acquire_nowait()      # without the turn that acquire would take
        try:
            while self._rest:
                rest = self._rest
                await self.stream.send_all(rest)
                self._rest = self._rest[len(rest):]
            if data:
                await self.stream.send_all(data)
        finally:
            self._sending.release()

    @property
    def ready(self) -> bool:
        """Whether something can be sent at once, in front of nothing else."""
        return isinstance(self.stream, QuickStream) and not (self._rest or self._sending.locked())

    def send_nowait(self, data: bytes) -> bool:
        """Send at once, when `ready`. False: `send_all(b"")` must send the rest.

        Raises: trio.BrokenResourceError, trio.ClosedResourceError.
        """
        assert isinstance(self.stream, QuickStream), "not ready"
        self._rest = data[self.stream.send_nowait(data):]
        return not self._rest

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


@final
class MessageSocket:
    """An open WebSocket: one task receives, and any may send. Raises ConnectionClosed throughout.

    Made by `accept_messages` and `dial_messages`.
    """

    def __init__(self, library: WebSocketConnection, below: _Below,
                 message_bytes_max: int) -> None:
        self._library = library
        self._below = below
        self._client = library.is_client
        self._message_bytes_max = message_bytes_max
        self._receiving = False
        self._closing = False

    async def get_message(self) -> str | bytes:
        """The next message; a plain one as the bytes of its text, whose UTF-8 nobody has checked.

        Cancel: nothing is lost.
        """
        self._receiving = True
        try:
            while not self._below.alone:
                head = frame_head(self._below.buffer)
                if head is not None and (code := self._fault(head)):
                    await self._refuse(code)
                elif head is not None and self._is_odd(head):
                    self._below.leave_alone()
                elif head is None or len(self._below.buffer) < head.end:
                    await self._more()
                elif head.first == TEXT:
                    return self._take_text(head)
                elif self._closing:
                    self._below.take(head.end)      # a ping or pong: see _drop_until_close
                else:
                    self._below.feed(self._below.take(head.end))
            return await self._library.get_message()
        finally:
            self._receiving = False

    def _fault(self, head: FrameHead) -> int:
        """The close code for a frame that may not be; 0 for one that may. No extension is spoken.
        """
        size, opcode = head.end - head.start, head.first & 0x0F
        control = opcode >= 8 and (size > CONTROL_BYTES_MAX or head.first < MASKED)
        if head.masked is self._client or head.first & 0x70 or opcode not in OPCODES or control:
            return PROTOCOL_ERROR
        if size >> 63:
            return PROTOCOL_ERROR
        return TOO_LONG if size > self._message_bytes_max else 0

    async def _refuse(self, code: int) -> None:
        """Say why, and end the connection: the library would end it without a word. Raises
        ConnectionClosed.

        What is unread at the end would reset the connection, and that can overtake our word.
        """
        body = code.to_bytes(2, "big")
        key = secrets.token_bytes(4) if self._client else b""
        masked = bytes(XorMaskerSimple(key).process(body)) if key else body
        with trio.move_on_after(LINGER_S):
            try:
                await self._below.send_all(
                    bytes((CLOSE, (MASKED if key else 0) | len(body))) + key + masked)
                left = LINGER_BYTES
                while left > 0 and (data := await self._below.stream.receive_some(RECEIVE_BYTES)):
                    left -= len(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        await self._below.stream.aclose()
        self._below.buffer.clear()
        self._below.leave_alone()
        raise ConnectionClosed(CloseReason(code, None))

    def _is_odd(self, head: FrameHead) -> bool:
        """Whether the library must read this frame, and all that follow it."""
        return head.first not in (TEXT, PING, PONG)

    def _take_text(self, head: FrameHead) -> bytes:
        frame = self._below.take(head.end)
        if not head.masked:
            return frame[head.start:]
        mask = XorMaskerSimple(frame[head.start - 4:head.start])
        return bytes(mask.process(frame[head.start:]))

    async def _more(self) -> None:
        """Read on. At the end the library says why."""
        try:
            if await self._below.more():
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self._below.leave_alone()

    async def send_text(self, data: bytes) -> None:
        """Send a text message. Cancel: it may have gone out in part; close the socket."""
        self._check_open()
        try:
            await self._below.send_all(text_frame(data, mask=self._client))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._gone() from None

    @property
    def ready(self) -> bool:
        """Whether `send_text_nowait` may be called now."""
        return self._below.ready

    def send_text_nowait(self, data: bytes) -> bool:
        """Send a text message at once. False: `flush` must send the rest of it."""
        self._check_open()
        try:
            return self._below.send_nowait(text_frame(data, mask=self._client))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._gone() from None

    async def flush(self) -> None:
        """Send what is left of a message that went out in part."""
        try:
            await self._below.send_all(b"")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._gone() from None

    def _check_open(self) -> None:
        if self._library.closed is not None:
            raise ConnectionClosed(self._library.closed)

    def _gone(self) -> ConnectionClosed:
        return ConnectionClosed(self._library.closed or CloseReason(ABNORMAL, None))

    async def ping(self) -> None:
        """Return when the peer has answered; somebody must be receiving meanwhile."""
        await self._library.ping()

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        """The closing handshake; messages that come meanwhile are dropped. Never raises.

        Cancel: the socket is closed without it.
        """
        self._closing = True
        async with trio.open_nursery() as nursery:
            if not self._receiving:
                nursery.start_soon(self._drop_until_close)
            await self._library.aclose(code, reason)
            nursery.cancel_scope.cancel()

    async def _drop_until_close(self) -> None:
        """Let the library see nothing but the peer's close: it fails at a ping that it must not
        answer any more.
        """
        below = self._below
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while not below.alone:
                head = frame_head(below.buffer)
                if head is None or (len(below.buffer) < head.end and not self._fault(head)):
                    if not await below.more():
                        break
                elif head.first == CLOSE or self._fault(head):
                    break
                else:
                    below.take(head.end)
        below.leave_alone()


async def accept_messages(nursery: trio.Nursery, stream: trio.abc.Stream, start: bytes, *,
                          message_bytes_max: int) -> MessageSocket:
    """Accept the WebSocket that a client asks for; its keeper runs in the nursery.

    start: what was read already, from the request's first byte on.
    """
    below = _Below(stream, start)
    proposal = await wrap_server_stream(
        nursery, below, message_queue_size=1, max_message_size=message_bytes_max)
    return MessageSocket(await proposal.accept(), below, message_bytes_max)


async def dial_messages(nursery: trio.Nursery, stream: trio.abc.Stream, host: str, path: str, *,
                        headers: list[tuple[bytes, bytes]], message_bytes_max: int,
                        ) -> MessageSocket:
    """Ask for a WebSocket on an open stream; its keeper runs in the nursery.

    Raises: trio_websocket.HandshakeError.
    """
    below = _Below(stream, b"")
    library = await wrap_client_stream(
        nursery,
        below,  # type: ignore[arg-type]  # any trio Stream will do
        host, path, extra_headers=headers, message_queue_size=1, max_message_size=message_bytes_max)
    return MessageSocket(library, below, message_bytes_max)
