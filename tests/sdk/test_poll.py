"""The line of exchanges against a daemon played by hand, over streams in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from plumd.sdk import TurnedAway, Worker
from plumd.sdk.ends import DaemonEnd, WorkerEnd
from plumd.sdk.line import LineClosed, Unreachable, address_of
from plumd.sdk.poll import Connection, PollLine
from plumd.sdk.protocol import MESSAGE_BYTES_MAX, Attempt, Down, Register, Registered, Result, Up

WHERE = address_of("http://daemon:1/base/", "w/1", "secret", "exchange")
OVER_S = 5


class Peer:
    """The daemon's side of one connection."""

    def __init__(self, stream: trio.abc.Stream, *, strict: bool = True) -> None:
        self.stream = stream
        self.strict = strict
        self.buffer = b""

    async def hear(self) -> Up:
        """The next request, checked as the daemon checks it."""
        with trio.fail_after(OVER_S):
            while b"\r\n\r\n" not in self.buffer:
                self.buffer += await self.read()
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            assert not self.strict or lines[:4] == [
                b"POST /base/v1/embedded-workers/w%2F1/exchange HTTP/1.1",
                b"Host: daemon:1", b"Content-Type: application/json",
                b"authorization: Bearer secret"]
            size = int(lines[-1].removeprefix(b"Content-Length: "))
            while len(self.buffer) < size:
                self.buffer += await self.read()
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        up = DaemonEnd(exchange=True).receive(body)
        assert up.session == "s" or not self.strict
        return up

    async def read(self) -> bytes:
        """Some bytes, which must come."""
        data = bytes(await self.stream.receive_some())
        assert data, "the worker hung up"
        return data

    async def say(self, down: object, status: int = 200, more: str = "") -> None:
        """Answer."""
        body = json.dumps(down).encode()
        await self.raw(f"HTTP/1.1 {status} X\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode()
                       + body)

    async def raw(self, data: bytes) -> None:
        """Answer with these bytes, one by one as far as they are few."""
        step = 1 if len(data) < 1_000 else len(data)
        for at in range(0, len(data), step):
            await self.stream.send_all(data[at:at + step])


class Hall:
    """Where connections come in."""

    def __init__(self) -> None:
        self.came_send, self.came = trio.open_memory_channel[Peer](10)
        self.open = True

    async def dial(self) -> Connection:
        await trio.lowlevel.checkpoint()
        if not self.open:
            raise Unreachable("nobody is there")
        near, far = memory_stream_pair()
        self.came_send.send_nowait(Peer(far))
        return Connection(near, WHERE)

    async def peer(self) -> Peer:
        """The next connection."""
        with trio.fail_after(OVER_S):
            return await self.came.receive()


async def talking(hall: Hall, holding: Callable[[], list[str]] = list) -> tuple[PollLine, Peer]:
    """A line whose worker is registered, and the connection that it came by."""
    line = PollLine(await hall.dial(), hall.dial, "s", holding)
    peer = await hall.peer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.send, WorkerEnd().send(
            Up(register=Register("s", ["t"]), holding=[])))
        assert (await peer.hear()).register == Register("s", ["t"])
        await peer.say({"registered": {"leaseSec": 30, "beatSec": 10}})
    assert json.loads(await line.receive())["registered"]["leaseSec"] == 30
    return line, peer


def results(seq: int, *ids: str) -> bytes:
    """What a worker's end says of results."""
    end = WorkerEnd()
    end.send(Up(register=Register("s", ["t"]), holding=[]))
    return end.send(Up(seq=seq, results=[Result(each) for each in ids]))


async def test_results_do_not_wait_for_attempts() -> None:
    """While one request waits they go out on another connection, and both answers are heard."""
    hall = Hall()
    line, first = await talking(hall, lambda: ["5"])
    heard: list[object] = []

    async def listen() -> None:
        while len(heard) < 3:
            down = json.loads(await line.receive())
            heard.append(down)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        waiting = await first.hear()
        assert (waiting.holding, waiting.results) == (["5"], [])
        assert (waiting.wait_sec or 0) > 0
        nursery.start_soon(line.send, results(1, "5"))
        second = await hall.peer()
        said = await second.hear()
        assert (said.seq, [one.id for one in said.results], said.wait_sec) == (1, ["5"], None)
        await first.say({})
        await second.say({"ack": 1, "attempts": [{"id": "6", "name": "t"}]})
        # Nothing is under way: a request waits again, on a connection that is there.
        waiting = await second.hear()
        assert waiting.wait_sec
        await second.say({"attempts": [{"id": "7", "name": "t"}]})
    assert heard == [{}, {"ack": 1, "attempts": [{"id": "6", "name": "t"}]},
                     {"attempts": [{"id": "7", "name": "t"}]}]
    assert hall.came.statistics().current_buffer_used == 0, "two connections are enough"
    await line.close()


async def test_nothing_is_asked_before_the_register_is_answered() -> None:
    hall = Hall()
    line = PollLine(await hall.dial(), hall.dial, "s", list)
    peer = await hall.peer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.receive)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(line.send, WorkerEnd().send(
            Up(register=Register("s", ["t"]), holding=[])))
        assert (await peer.hear()).register is not None
        await peer.say({"registered": {"leaseSec": 30, "beatSec": 10}})
    assert hall.came.statistics().current_buffer_used == 0
    await line.close()


async def test_a_connection_that_was_idle_and_is_closed_is_dialed_again() -> None:
    hall = Hall()
    line, first = await talking(hall)
    await first.stream.aclose()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.send, results(1, "5"))
        second = await hall.peer()
        assert (await second.hear()).seq == 1
        await second.say({"ack": 1})
    assert json.loads(await line.receive()) == {"ack": 1}
    await line.close()


@pytest.mark.parametrize(("answer", "heard"), [
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", b"{}"),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", b"{}"),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
    ((b"HTTP/1.1 409 Conflict\r\nContent-Length: 44\r\n\r\n"
      b'{"code": "session_unknown", "detail": "who"}'),
     b'{"error":{"code":"session_unknown","message":"who"}}'),
    (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\n<ht>",
     b'{"error":{"code":"http_502"}}'),
])
async def test_answers_in_every_form(answer: bytes, heard: bytes) -> None:
    hall = Hall()
    line, peer = await talking(hall)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.send, results(1, "5"))
        await peer.hear()
        await peer.raw(answer)
    assert await line.receive() == heard
    # Whether the connection may be used again or not: the next message gets through.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.send, results(2, "5"))
        last = b"close" in answer or b"HTTP/1.0" in answer
        peer = await hall.peer() if last else peer
        assert (await peer.hear()).seq == 2
        await peer.say({"ack": 2})
    assert json.loads(await line.receive()) == {"ack": 2}
    await line.close()


@pytest.mark.parametrize("answer", [
    b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", b"SSH-2.0-OpenSSH_9\r\n", b"\0" * 100,
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MESSAGE_BYTES_MAX + 1)])
async def test_what_is_no_answer_ends_the_line(answer: bytes) -> None:
    hall = Hall()
    line, peer = await talking(hall)

    async def refuse() -> None:
        await peer.hear()
        hall.open = False
        try:
            await peer.raw(answer)
            await peer.stream.aclose()
        except trio.BrokenResourceError:
            pass        # the worker had enough

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse)
        with trio.fail_after(OVER_S), pytest.raises(LineClosed):
            await line.send(results(1, "5"))
    await line.close()
    with pytest.raises(LineClosed):
        await line.receive()


@given(st.lists(st.binary(max_size=80), max_size=5), st.booleans())
def test_no_bytes_raise_anything_else(pieces: list[bytes], begins_well: bool) -> None:
    async def once() -> None:
        near, far = memory_stream_pair()
        connection = Connection(near, WHERE)

        async def answer() -> None:
            await far.receive_some()
            if begins_well:
                await far.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n")
            for piece in pieces:
                await far.send_all(piece)
            await far.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            try:
                await connection.ask(b"{}")
            except LineClosed:
                assert not connection.keeps

    trio.run(once)


async def test_a_line_is_over_with_the_bye() -> None:
    hall = Hall()
    line, peer = await talking(hall)
    end = WorkerEnd()
    end.send(Up(register=Register("s", ["t"]), holding=[]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.send, end.send(Up(bye=True)))
        assert (await peer.hear()).bye
        await peer.say({})
    assert await line.receive() == b"{}"
    with pytest.raises(LineClosed):
        await line.receive()
    await line.close()


def test_a_transport_that_is_none() -> None:
    with pytest.raises(ValueError, match="neither 'websocket' nor 'long-poll'"):
        Worker("http://127.0.0.1:1", transport="pigeon")  # type: ignore[arg-type]


async def test_a_worker_that_was_replaced_ends_and_one_that_is_unknown_registers_again() -> None:
    came_send, came = trio.open_memory_channel[Peer](10)
    ran: list[object] = []

    async def accept(stream: trio.SocketStream) -> None:
        await came_send.send(Peer(stream, strict=False))
        await trio.sleep_forever()

    async def register(*attempts: Attempt) -> Peer:
        """A new line, its worker registered, and the connection."""
        with trio.fail_after(OVER_S):
            peer = await came.receive()
        up = await peer.hear()
        assert up.register is not None
        down = Down(registered=Registered(30, 10), attempts=list(attempts))
        await peer.say(msgspec.to_builtins(down))
        return peer

    async def daemon() -> None:
        peer = await register()
        assert (await peer.hear()).wait_sec
        await peer.say({"code": "session_unknown"}, 409)
        peer = await register(Attempt("1", "t"))
        assert [one.id for one in (await peer.hear()).results] == ["1"]
        await peer.say({"code": "session_replaced", "detail": "another"}, 409)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, accept, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        worker = Worker(f"http://127.0.0.1:{port}", transport="long-poll")
        worker.task("t", inline=True)(ran.append)
        nursery.start_soon(daemon)
        with pytest.raises(TurnedAway, match="session_replaced: another"):
            await worker.serve()
        nursery.cancel_scope.cancel()
    assert ran == [None]
