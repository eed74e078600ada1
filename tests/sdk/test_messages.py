"""The short way of plain messages and the library's way of all others are one WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    wrap_client_stream,
    wrap_server_stream,
)
from wsproto.frame_protocol import CloseReason

from plumd.sdk.messages import (
    TEXT,
    MessageSocket,
    accept_messages,
    dial_messages,
    frame_head,
    text_frame,
)

BYTES_MAX = 1 << 20
FIN = 0x80
MASK = b"\1\2\3\4"


def frame(first: int, payload: bytes, *, masked: bool = True) -> bytes:
    """Any frame of a client, or of a server."""
    bit = 0x80 if masked else 0
    if len(payload) < 126:
        head = bytes((first, bit | len(payload)))
    else:
        head = bytes((first, bit | 126)) + len(payload).to_bytes(2, "big")
    if not masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[i % 4] for i, byte in enumerate(payload))


REQUEST = (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")


@asynccontextmanager
async def server_and_library() -> AsyncIterator[tuple[MessageSocket, WebSocketConnection]]:
    """Our server's end, with trio-websocket as the client."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        made: list[MessageSocket] = []

        async def accept() -> None:
            made.append(await accept_messages(nursery, ours, b"", message_bytes_max=BYTES_MAX))

        nursery.start_soon(accept)
        library = await wrap_client_stream(
            nursery, theirs, "a", "/",  # type: ignore[arg-type]  # any trio Stream will do
            max_message_size=BYTES_MAX)
        yield made[0], library
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_and_library() -> AsyncIterator[tuple[MessageSocket, WebSocketConnection]]:
    """Our client's end, with trio-websocket as the server."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        made: list[WebSocketConnection] = []

        async def accept() -> None:
            request = await wrap_server_stream(
                nursery, theirs, max_message_size=BYTES_MAX)
            made.append(await request.accept())

        nursery.start_soon(accept)
        socket = await dial_messages(nursery, ours, "a", "/", headers=[],
                                     message_bytes_max=BYTES_MAX)
        yield socket, made[0]
        nursery.cancel_scope.cancel()


async def listen(get: Callable[[], Awaitable[str | bytes]]) -> list[str]:
    """All messages until the end."""
    heard: list[str] = []
    try:
        while True:
            heard.append(text_of(await get()))
    except ConnectionClosed:
        return heard


def text_of(message: str | bytes) -> str:
    return message if isinstance(message, str) else message.decode()


@pytest.mark.parametrize("ends", [server_and_library, client_and_library])
async def test_both_sides_understand_each_other(ends: object) -> None:
    assert callable(ends)
    sizes = (0, 1, 125, 126, 65_535, 65_536, 300_000, BYTES_MAX)
    async with ends() as (socket, library), trio.open_nursery() as nursery:
        for size in sizes:
            text = ("ä" + "x" * size)[-size:] if size else ""
            nursery.start_soon(socket.send_text, text.encode())
            assert await library.get_message() == text
            nursery.start_soon(library.send_message, text)
            assert text_of(await socket.get_message()) == text


@pytest.mark.parametrize("ends", [server_and_library, client_and_library])
async def test_pings_are_answered_between_messages(ends: object) -> None:
    assert callable(ends)
    async with ends() as (socket, library), trio.open_nursery() as nursery:
        got: list[str] = []

        async def ours() -> None:
            got.extend(await listen(socket.get_message))

        nursery.start_soon(ours)
        nursery.start_soon(listen, library.get_message)
        await library.send_message("a")
        await library.ping()
        await socket.ping()
        await library.send_message("b")
        await library.aclose(1000, "done")
        await trio.testing.wait_all_tasks_blocked()
    assert got == ["a", "b"]


@pytest.mark.parametrize("ends", [server_and_library, client_and_library])
async def test_closing_tells_the_peer_why(ends: object) -> None:
    assert callable(ends)
    async with ends() as (socket, library):
        await library.send_message("nobody reads this")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(socket.aclose, 1001, "going")
            with pytest.raises(ConnectionClosed):
                await library.get_message()
        assert library.closed is not None
        assert (library.closed.code, library.closed.reason) == (1001, "going")
        with pytest.raises(ConnectionClosed):
            await socket.send_text(b"x")


PLAIN = st.text(max_size=200).map(lambda text: [(TEXT, text.encode())])
PING = st.binary(max_size=125).map(lambda data: [(FIN | 9, data)])
SPLIT = st.lists(st.text(max_size=100), min_size=2, max_size=4).map(lambda parts: [
    ((FIN if i == len(parts) - 1 else 0) | (0 if i else 1), part.encode())
    for i, part in enumerate(parts)])
TALK = st.lists(st.one_of(PLAIN, PLAIN, PING, SPLIT), max_size=12)


@given(TALK, st.lists(st.integers(1, 60), max_size=40))
async def test_any_mix_in_any_pieces(talk: list[list[tuple[int, bytes]]], cuts: list[int]) -> None:
    """Plain messages, fragmented ones and pings arrive in order, however the bytes are cut."""
    said = [b"".join(payload for _, payload in message).decode()
            for message in talk if message[0][0] & 0x0F != 9]
    data = REQUEST + b"".join(frame(first, payload) for message in talk
                              for first, payload in message)
    ours, theirs = memory_stream_pair()
    start = data[:len(REQUEST) + (cuts[0] if cuts else 0)]
    async with trio.open_nursery() as nursery:
        async def feed() -> None:
            at = len(start)
            for size in cuts:
                await theirs.send_all(data[at:at + size])
                at += size
            await theirs.send_all(data[at:])
            await theirs.send_eof()

        nursery.start_soon(feed)
        socket = await accept_messages(nursery, ours, start, message_bytes_max=BYTES_MAX)
        heard = await listen(socket.get_message)
        nursery.cancel_scope.cancel()
    assert heard == said


@pytest.mark.parametrize(("bad", "code"), [
    (frame(TEXT, b"not masked", masked=False), CloseReason.PROTOCOL_ERROR),
    (frame(TEXT | 0x40, b"reserved bit"), CloseReason.PROTOCOL_ERROR),
    (frame(FIN | 3, b"no such opcode"), CloseReason.PROTOCOL_ERROR),
    (frame(FIN | 0, b"continues nothing"), CloseReason.PROTOCOL_ERROR),
    (frame(9, b"a ping in parts"), CloseReason.PROTOCOL_ERROR),
    (frame(1, b"begun") + frame(TEXT, b"anew"), CloseReason.PROTOCOL_ERROR),
    (b"\x81\xff\xff" + b"\xff" * 7 + MASK + b"huge", CloseReason.PROTOCOL_ERROR),
    (b"\x81\xff" + (1 << 40).to_bytes(8, "big") + MASK + b"x" * BYTES_MAX * 2,
     CloseReason.MESSAGE_TOO_BIG),
])
async def test_what_is_wrong_ends_the_line_and_is_told(bad: bytes, code: int) -> None:
    """By us, but for what follows a message in parts: that the library ends without a word."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        socket = await accept_messages(nursery, ours, REQUEST, message_bytes_max=BYTES_MAX)
        await theirs.send_all(frame(TEXT, b"good") + bad)
        await theirs.send_eof()
        assert await socket.get_message() == b"good"
        with pytest.raises(ConnectionClosed) as closed:
            await socket.get_message()
        heard = b"".join([bytes(data) async for data in theirs])
        assert heard.endswith(b"\x88\x02" + code.to_bytes(2, "big")) or bad[0] & 0x8F == 1
        nursery.cancel_scope.cancel()
    assert closed.value.reason is not None
    assert closed.value.reason.code == code


async def test_a_wait_that_is_canceled_loses_nothing() -> None:
    async with server_and_library() as (socket, library):
        for round_ in range(3):
            with trio.move_on_after(0):
                await socket.get_message()
            await library.send_message(str(round_))
            assert text_of(await socket.get_message()) == str(round_)


@given(st.binary(max_size=70_000), st.booleans())
def test_a_frame_is_read_back(data: bytes, mask: bool) -> None:
    made = text_frame(data, mask=mask)
    head = frame_head(made)
    assert head is not None
    assert (head.first, head.masked, head.end) == (TEXT, mask, len(made))
    assert all(frame_head(made[:cut]) is None for cut in range(head.start))
    if not mask:
        assert made[head.start:] == data


async def test_a_message_that_goes_out_in_part_is_flushed() -> None:
    """A socket whose reader is slow takes a part; the rest goes first, and in order."""
    left, right = trio.socket.socketpair()
    ours, theirs = trio.SocketStream(left), trio.SocketStream(right)
    async with ours, theirs, trio.open_nursery() as nursery:
        await theirs.send_all(REQUEST)
        socket = await accept_messages(nursery, ours, b"", message_bytes_max=BYTES_MAX)
        sent = 1
        while socket.send_text_nowait(b"%06d" % (sent - 1) + b"x" * 50_000):
            sent += 1
        got = bytearray()

        async def read() -> None:
            async for data in theirs:
                got.extend(data)

        nursery.start_soon(read)
        await socket.flush()
        await socket.send_text(b"last")
        assert socket.ready
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    frames = bytes(got).partition(b"\r\n\r\n")[2]
    heard = []
    while frames:
        head = frame_head(frames)
        assert head is not None
        heard.append(frames[head.start:head.end][:6])
        frames = frames[head.end:]
    assert heard == [b"%06d" % number for number in range(sent)] + [b"last"]
