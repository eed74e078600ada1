"""The line for networks that let no WebSocket through: one POST a message.

What the worker says goes out at once, as a request that is answered as soon as the daemon has it
safe. While there is nothing to say, another request waits for attempts on a second connection; the
daemon answers that one early when the worker says something meanwhile. So a result never waits for
attempts, nor attempts for a result, and a worker that is busy needs one connection only: the answer
to its results brings what is next.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, final

import httptools
import msgspec
import trio

from plumd.sdk.ends import WorkerEnd
from plumd.sdk.line import Address, Dial, Line, LineClosed, address_of, connect
from plumd.sdk.protocol import MESSAGE_BYTES_MAX, Down, PeerError, Up
from plumd.sdk.quick import quick

RECEIVE_BYTES: Final = 64 * 1024
WAIT_S: Final = 30.0
"""How long the daemon may keep a request that waits; it answers before that, by half a lease."""
OK: Final = 200
CONTINUE: Final = 100


class _Problem(msgspec.Struct):
    """What is read of problem+json."""

    code: str = ""
    detail: str = ""


class NothingCame(LineClosed):
    """The connection ended before the first byte of an answer."""


_UP: Final = msgspec.json.Decoder(Up)
_ENCODE: Final = msgspec.json.Encoder().encode
_PROBLEM: Final = msgspec.json.Decoder(_Problem)


def poll_dial(url: str, worker_id: str, session: str, holding: Callable[[], list[str]], *,
              token: str | None = None, ssl_context: ssl.SSLContext | None = None) -> Dial:
    """A Dial like `websocket_dial`. holding: what the worker has in hand. Raises ValueError."""
    where = address_of(url, worker_id, token, "exchange")

    async def open_one() -> Connection:
        return Connection(quick(await connect(where, ssl_context)), where)

    async def dial(_nursery: trio.Nursery) -> Line:
        return PollLine(await open_one(), open_one, session, holding)

    return dial


@final
class Connection:
    """One HTTP/1.1 connection, one request at a time.

    used: a request was answered on it.  keeps: it can carry another now.
    """

    def __init__(self, stream: trio.abc.Stream, where: Address) -> None:
        self.stream = stream
        self.used = False
        self.keeps = True
        lines = [f"POST {where.path} HTTP/1.1".encode(), b"Host: " + where.authority.encode(),
                 b"Content-Type: application/json",
                 *(name + b": " + value for name, value in where.headers), b"Content-Length: "]
        self._head = b"\r\n".join(lines)
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._size_bytes = 0
        self._status = 0
        self._done = False

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises NothingCame, LineClosed.

        Cancel: the connection is of no use any more.
        """
        self._done = self.keeps = False     # until the answer is whole, and says so
        self._size_bytes = 0
        self._body.clear()
        begun = False
        try:
            await self.stream.send_all(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
            while not self._done:
                data = await self.stream.receive_some(RECEIVE_BYTES)
                if not data:
                    raise (LineClosed if begun else NothingCame)("the daemon hung up")
                begun = True
                self._parser.feed_data(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise (LineClosed if begun else NothingCame)(f"broken: {error.__cause__}") from error
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise LineClosed(f"what answers does not speak HTTP: {error}") from error
        self.used = True
        return self._status, b"".join(self._body)

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self._size_bytes += len(data)
        if self._size_bytes > MESSAGE_BYTES_MAX:
            raise LineClosed("the answer is too long")
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser; an interim answer is none."""
        self._status = self._parser.get_status_code()
        if not CONTINUE <= self._status < OK:
            self.keeps = self._parser.should_keep_alive()
            self._done = True


@final
class PollLine:
    """A Line by exchanges: `send` carries one out; `receive` hands on the answers, and waits for
    attempts with a request of its own when nothing else is under way.
    """

    answered = True

    def __init__(self, first: Connection, open_one: Callable[[], Awaitable[Connection]],
                 session: str, holding: Callable[[], list[str]]) -> None:
        self._open_one = open_one
        self._session = session
        self._holding = holding
        self._all = {first}
        self._free = [first]
        self._answers: deque[bytes] = deque()
        self._registered = False
        self._closed = ""       # why, once it is
        self._telling = trio.Lock()
        self._news = trio.lowlevel.ParkingLot()

    async def send(self, message: bytes) -> None:
        up = _UP.decode(message)    # our own words; the daemon is told a little more here
        async with self._telling:
            try:
                self._answers.append(await self._exchange(up))
            finally:
                self._news.unpark_all()
            self._registered = True
            if up.bye:
                self._closed = "the worker has left"

    async def receive(self) -> str | bytes:
        while True:
            if self._answers:
                return self._answers.popleft()
            if self._closed:
                raise LineClosed(self._closed)
            if self._telling.locked() or not self._registered:
                await self._news.park()
            else:
                return await self._exchange(Up(wait_sec=WAIT_S))

    async def ping(self) -> None:
        await self.send(b"{}")

    async def close(self, code: int | None = None) -> None:
        del code
        self._closed = self._closed or "closed"
        self._news.unpark_all()
        for connection in list(self._all):
            await self._drop(connection)

    async def _exchange(self, up: Up) -> bytes:
        """What the daemon says to this; what it refuses is said as a stream would say it.

        Raises LineClosed. Cancel: it may have been carried out.
        """
        holding = self._holding() if up.holding is None else up.holding
        body = WorkerEnd(exchange=True).send(
            msgspec.structs.replace(up, session=self._session, holding=holding))
        status, answer = await self._ask(body)
        return answer if status == OK else _ENCODE(Down(error=_refusal(status, answer)))

    async def _ask(self, body: bytes) -> tuple[int, bytes]:
        """Ask on a connection that is free, or on a new one."""
        while True:
            if self._closed:
                raise LineClosed(self._closed)
            connection = self._free.pop() if self._free else await self._open()
            again = connection.used
            try:
                answer = await connection.ask(body)
            except NothingCame:
                if not again:
                    raise
                continue        # it had been idle, and the other side closed it meanwhile
            finally:
                if not connection.keeps:
                    await self._drop(connection)
            self._free.append(connection)
            return answer

    async def _open(self) -> Connection:
        connection = await self._open_one()
        self._all.add(connection)
        return connection

    async def _drop(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        await trio.aclose_forcefully(connection.stream)


def _refusal(status: int, answer: bytes) -> PeerError:
    """What an answer that is no success says."""
    try:
        problem = _PROBLEM.decode(answer)
    except ValueError:
        problem = _Problem()
    return PeerError(problem.code[:200] or f"http_{status}", problem.detail[:1000])
