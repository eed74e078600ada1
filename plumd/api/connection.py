"""One accepted connection: hot requests on the socket, worker streams, and the rest to Hypercorn.

A connection starts in the hot loop. Each head that is a hot route's, and unremarkable, is answered
in one send; a WebSocket request for a worker's stream becomes one; anything else makes the whole
connection Hypercorn's, with the bytes replayed, and that is for good. There is one Trio task per
connection, no timer task, and no nursery per request.
"""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING, Final, NamedTuple

import trio
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from plumd.api.admission import Policy
from plumd.api.gate import SMALL_BODY_BYTES, open_request, too_slow
from plumd.api.hot import (
    HEAD_END,
    Head,
    encode_answer,
    may_be_ours,
    parse_hot,
    parse_stream,
)
from plumd.api.limits import Limits
from plumd.api.problem import internal, problem
from plumd.api.routes import Request, Response, Route
from plumd.api.safe_hypercorn import SafeProtocol
from plumd.api.upgrade import Stream, bad_upgrade, run_session
from plumd.errors import Malformed, PlumError
from plumd.sdk.quick import quick

if TYPE_CHECKING:
    from plumd.api.front import Front

log = logging.getLogger("plumd.api")

RECEIVE_BYTES: Final = 64 * 1024
SEND_SLICE_BYTES: Final = 64 * 1024
LINGER_BYTES_MAX: Final = 1024 * 1024
REMEMBERED_HEADS_MAX: Final = 4
REMEMBERED_BYTES_MAX: Final = 1024
CONNECTION_STATE_KEY: Final = "plum.connection"
_TCP_USER_TIMEOUT: Final = 18


class _Hot(NamedTuple):
    """What the head of a hot request came to: a request without its body, or a refusal."""

    route: Route
    length: int
    keep_alive: bool
    refusal: Response | None
    request: Request | None
    policy: Policy


class Connection:
    """The server's end of one connection, from accept to close."""

    def __init__(self, front: Front, stream: Stream) -> None:
        self.front = front
        self.stream = stream
        self._incoming = quick(stream)      # its bytes, without a look where none can be yet
        self.limits: Limits = front.limits
        self.scope = trio.CancelScope()
        self.idle = True
        self.fresh = True           # let in, and has not asked yet
        self.expires = math.inf     # when the front's sweep ends a wait in the hot loop
        self.streaming = 0          # open SSE answers and worker streams
        self.protocol: SafeProtocol | None = None

        self._secure = isinstance(stream, trio.SSLStream)
        self._socket = (stream.transport_stream if isinstance(stream, trio.SSLStream)
                        else stream).socket
        self.scheme = "https" if self._secure else "http"
        self.peer = ""
        self._buffer = bytearray()
        self._last = False          # the answer being made is this connection's last
        self._closing = False
        self._heads: dict[bytes, _Hot] = {}
        self._reading = trio.CancelScope()
        self._asked = trio.CancelScope()            # the request that may wait long
        self._watched: tuple[trio.CancelScope, trio.Event] | None = None
        self._sending: trio.CancelScope | None = None
        self._send_lock = trio.Lock()

    async def run(self) -> None:
        """Serve until either side is done. Nothing but cancellation leaves this."""
        try:
            with self.scope:
                await self._start()
                if not await self._hot_loop():
                    await self._linger()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except* Exception:
            log.exception("connection failed", extra={"peer": self.peer})
        finally:
            await trio.aclose_forcefully(self.stream)

    def kill(self) -> None:
        """End it now, whatever it is doing; a send to a stalled reader too."""
        self.scope.cancel()
        if self._sending is not None:
            self._sending.shield = False

    def begin_stream(self) -> None:
        """An SSE answer or a worker's session begins on this connection."""
        self.streaming += 1

    def end_stream(self) -> None:
        """The stream is over."""
        self.streaming -= 1
        self.front.note_left()

    async def _start(self) -> None:
        if self._socket.family in (trio.socket.AF_INET, trio.socket.AF_INET6):
            self.peer = self._socket.getpeername()[0]
            # A peer that vanished without a word is noticed while we send, not a quarter hour on.
            milliseconds = int(max(self.limits.send_s, 1.0) * 2000)
            self._socket.setsockopt(trio.socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, milliseconds)
        if isinstance(self.stream, trio.SSLStream):
            with trio.move_on_after(self.limits.handshake_s) as handshake:
                await self.stream.do_handshake()
            if handshake.cancelled_caught:
                raise trio.BrokenResourceError

    # The hot loop.

    async def _hot_loop(self) -> bool:
        """Serve hot requests. False: the connection ends with our last answer; True: it is done."""
        if isinstance(self.stream, trio.SSLStream) and (
                self.stream.selected_alpn_protocol() == "h2"):
            await self._hand_over("h2")
            return True
        buffer = self._buffer
        while True:
            end = buffer.find(HEAD_END)
            if end < 0:
                if buffer and (len(buffer) > self.limits.head_bytes_max
                               or not may_be_ours(self.front.hot, buffer)):
                    await self._hand_over()
                    return True
                if not await self._receive_head():
                    return True
                continue
            self.idle = False
            self.expires = math.inf
            raw = bytes(buffer[:end + 4])
            hot = self._heads.get(raw)
            if hot is None or hot.policy is not self.front.gate.policy:
                hot = self._judge(raw)
            if hot is not None:
                self.fresh = False
                if not await self._hot_request(hot, end + 4):
                    return False
                if buffer:
                    await trio.lowlevel.checkpoint()    # a pipelining client is not alone
                continue
            stream_head = parse_stream(raw) if end <= self.limits.head_bytes_max else None
            if stream_head is None:
                await self._hand_over()
                return True
            return await self._worker_stream(stream_head)

    async def _receive_head(self) -> bool:
        """Wait for more of a head. False: the client left, or we are leaving."""
        if self.front.draining and not self.fresh:
            return False
        self.idle = True
        if not self._buffer:
            self.expires = trio.current_time() + self.limits.idle_s
        data = await self._incoming.receive_some(RECEIVE_BYTES)
        if not data:
            return False
        if not self._buffer:
            self.expires = trio.current_time() + self.limits.head_s
        self._buffer += data
        return True

    def _judge(self, raw: bytes) -> _Hot | None:
        """What a hot request's head alone says; None when it is not a hot request's.

        Clients send the same head again and again, and the same bytes from the same peer mean the
        same: so the last few are remembered.
        """
        if len(raw) > self.limits.head_bytes_max:
            return None
        head = parse_hot(self.front.hot, raw)
        if head is None or head.route is None:
            return None
        method = head.route.method
        refusal = self.front.gate.refuse(head.route, method, head.headers, self.peer,
                                         scheme=self.scheme, body_size=head.length)
        request = None
        if refusal is None:
            try:
                request = open_request(method, _path_of(head), head.query, head.params,
                                       head.headers, b"", self.peer)
            except Malformed as error:
                refusal = problem(error)
        hot = _Hot(head.route, head.length, head.keep_alive, refusal, request,
                   self.front.gate.policy)
        if len(raw) <= REMEMBERED_BYTES_MAX:
            if len(self._heads) >= REMEMBERED_HEADS_MAX:
                self._heads.clear()
            self._heads[raw] = hot
        return hot

    async def _hot_request(self, hot: _Hot, body_start: int) -> bool:
        """Answer one hot request. False: the connection must end now."""
        keep_alive = hot.keep_alive
        response: Response | None
        if hot.request is None:
            # The body is not worth reading, and unread it would pass for the next request.
            response = hot.refusal
            keep_alive = keep_alive and self._take_body(body_start, hot.length) is not None
        elif hot.length > SMALL_BODY_BYTES:
            try:
                with self.front.gate.body_budget() as take:
                    take(hot.length)
                    response = await self._hot_answer(hot, hot.request, body_start)
            except PlumError as error:
                response = problem(error)
                keep_alive = False
        else:
            response = await self._hot_answer(hot, hot.request, body_start)
        if response is None:
            return False
        keep_alive = keep_alive and not self._last and not self.front.draining
        sent = await self._send_answer(encode_answer(response, keep_alive=keep_alive))
        return sent and keep_alive

    async def _hot_answer(self, hot: _Hot, opened: Request, body_start: int) -> Response | None:
        """The answer to a hot request that admission let in; None when the client left."""
        body = self._take_body(body_start, hot.length)
        if body is None:
            try:
                body = await self._receive_body(body_start, hot.length)
            except trio.TooSlowError:
                self._last = True
                return problem(too_slow(self.limits.body_s))
        request = Request(opened.method, opened.path, opened.params, opened.query, opened.headers,
                          body, self.peer)
        if "prefer" in opened.headers:
            response = await self._answer_watched(hot.route, request)
        else:
            response = await self.front.gate.answer(hot.route, request)
        if response is not None and response.stream is not None:
            log.error("request failed: a hot route must not stream",
                      extra={"route": hot.route.path})
            return internal()
        return response

    def _take_body(self, start: int, length: int) -> bytes | None:
        """The body, cut from the buffer with its head; None while it is not all there."""
        buffer = self._buffer
        if len(buffer) < start + length:
            return None
        body = bytes(buffer[start:start + length])
        del buffer[:start + length]
        return body

    async def _receive_body(self, start: int, length: int) -> bytes:
        """Wait for the rest of a body.

        Raises trio.TooSlowError, or trio.BrokenResourceError when the client left before its end.
        """
        with trio.fail_after(self.limits.body_s):
            while (body := self._take_body(start, length)) is None:
                data = await self._incoming.receive_some(RECEIVE_BYTES)
                if not data:
                    raise trio.BrokenResourceError
                self._buffer += data
        return body

    async def _answer_watched(self, route: Route, request: Request) -> Response | None:
        """The answer to a request that may wait long; None when its client is gone meanwhile.

        Most answers are there at once, so the front looks only at requests that have waited for
        WATCH_AFTER_S: a task of their own then reads on. What the client sends is kept for its
        next request.
        """
        response: Response | None = None
        with trio.CancelScope() as scope:
            self.front.waiting[self] = trio.current_time()
            self.front.note_waiting()
            self._asked = scope
            try:
                response = await self.front.gate.answer(route, request)
            finally:
                del self.front.waiting[self]
                if self._watched is not None:
                    await self._end_watch(*self._watched)
        return response

    def watch(self, nursery: trio.Nursery) -> None:
        """Notice from now on when the client of the waiting request leaves."""
        if self._watched is None:
            self._watched = trio.CancelScope(), trio.Event()
            nursery.start_soon(self._watch, *self._watched, self._asked)

    async def _end_watch(self, watching: trio.CancelScope, over: trio.Event) -> None:
        watching.cancel()
        with trio.CancelScope(shield=True):
            await over.wait()       # two tasks must not read from one socket
        self._watched = None

    async def _watch(self, watching: trio.CancelScope, over: trio.Event,
                     asked: trio.CancelScope) -> None:
        try:
            with watching:
                while len(self._buffer) <= RECEIVE_BYTES:
                    data = await self._incoming.receive_some(RECEIVE_BYTES)
                    if not data:
                        asked.cancel()
                        return
                    self._buffer += data
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            asked.cancel()
        finally:
            over.set()

    async def _send_answer(self, data: bytes) -> bool:
        """Send it whole; the usual small answer without a detour. False: the client is gone."""
        if not self._secure:
            try:
                sent = os.write(self._socket.fileno(), data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return False
            if sent == len(data):
                return True
            data = data[sent:]
        return await self._send_bytes(data)

    async def _send_bytes(self, data: bytes) -> bool:
        """Send whole slices, shielded but bounded; a client that does not take one is given up.

        Waiting for another's send is shielded too, for `kill` ends that one: what HTTP/2 says in
        the name of a request that is being cancelled is said of the whole connection.
        """
        with trio.CancelScope(shield=True):
            await self._send_lock.acquire()
        try:
            if self.scope.cancel_called:
                await trio.lowlevel.checkpoint_if_cancelled()   # an endless answer ends here
                return False
            for start in range(0, len(data), SEND_SLICE_BYTES):
                piece = data[start:start + SEND_SLICE_BYTES]
                with trio.CancelScope(shield=not self.front.killing) as sending:
                    sending.deadline = trio.current_time() + self.limits.send_s
                    self._sending = sending
                    try:
                        await self.stream.send_all(piece)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        sending.cancel()
                    finally:
                        self._sending = None
                if sending.cancel_called:
                    self.scope.cancel()
                    return False
        finally:
            self._send_lock.release()
        return True

    async def _linger(self) -> None:
        """Say that we are done, then read on for a moment.

        Closing a socket with unread bytes resets it, and a reset can overtake the last answer.
        """
        if isinstance(self.stream, trio.SSLStream):
            with trio.move_on_after(self.limits.linger_s):
                await self.stream.aclose()
            return
        await self.stream.send_eof()
        left = LINGER_BYTES_MAX
        with trio.move_on_after(self.limits.linger_s):
            while left > 0:
                data = await self.stream.receive_some(RECEIVE_BYTES)
                if not data:
                    return
                left -= len(data)

    # Worker streams.

    async def _worker_stream(self, head: Head) -> bool:
        """Turn the connection into a worker's WebSocket. False: it was refused, with an answer."""
        self.expires = math.inf
        self.fresh = False
        route = self.front.stream_route
        refusal = self.front.gate.refuse(route, "GET", head.headers, self.peer,
                                         scheme=self.scheme) or bad_upgrade(head)
        if refusal is None:
            try:
                request = open_request("GET", _path_of(head), head.query, head.params,
                                       head.headers, b"", self.peer)
                ticket = self.front.gate.streams.enter()
            except PlumError as error:
                refusal = problem(error)
        if refusal is not None:
            await self._send_answer(encode_answer(refusal, keep_alive=False))
            return False
        self.begin_stream()
        try:
            await run_session(self.stream, bytes(self._buffer), self.front.stream_handler,
                              request, ticket, self.limits)
        finally:
            self.end_stream()
            self.front.gate.streams.leave(ticket)
        return True

    # Hypercorn's connections.

    async def _hand_over(self, alpn_protocol: str = "http/1.1") -> None:
        """Let Hypercorn have the connection, and the bytes that were read already."""
        self.expires = math.inf
        prefix = bytes(self._buffer)
        self._buffer.clear()
        family = self._socket.family
        client = parse_socket_addr(family, self._socket.getpeername())
        server = parse_socket_addr(family, self._socket.getsockname())
        state = ConnectionState({**self.front.state, CONNECTION_STATE_KEY: self})
        async with TaskGroup() as group:
            self.protocol = SafeProtocol(
                self.front.asgi, self.front.config, self.front.context, group, state,
                self._secure, client, server, self._protocol_send, alpn_protocol)
            self._set_idle(idle=True)
            await self.protocol.initiate()
            with self._reading:
                if prefix:
                    await self.protocol.handle(RawData(prefix))
                await self._read_for(self.protocol)
            self._closing = True
            await self.protocol.handle(Closed())
        if isinstance(self.stream, trio.SSLStream):
            with trio.move_on_after(self.limits.linger_s):
                await self.stream.aclose()

    async def _read_for(self, protocol: SafeProtocol) -> None:
        """Feed Hypercorn until the client ends, or until `_reading` is cancelled."""
        left = LINGER_BYTES_MAX
        while left > 0:
            try:
                data = await self._incoming.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if self._closing:
                left -= len(data)
            else:
                await protocol.handle(RawData(bytes(data)))
            if not data:
                return

    async def _protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._send_bytes(event.data)
        elif isinstance(event, Closed):
            self._begin_close()
            assert self.protocol is not None
            await self.protocol.handle(Closed())
        elif isinstance(event, Updated):
            self._set_idle(idle=event.idle)

    def _set_idle(self, *, idle: bool) -> None:
        # No await here: Quart's task may be under cancellation when it reports the end of its
        # request, and Hypercorn's own timer task was never started again because of that.
        self.idle = idle
        self.fresh = self.fresh and idle
        if self._closing:
            return
        if idle and self.front.draining and not self.fresh:
            if self.protocol is not None and self.protocol.goes_away:
                self._let_go()
            else:
                self._begin_close()
        elif idle:
            self._reading.deadline = trio.current_time() + self.limits.idle_s
        else:
            self._reading.deadline = math.inf

    def _begin_close(self) -> None:
        """Send nothing more, read on for a moment, then let the reader end the connection."""
        if self._closing:
            return
        self._closing = True
        if self._secure:
            self._reading.cancel()
            return
        try:
            self._socket.shutdown(trio.socket.SHUT_WR)
        except OSError:
            self._reading.cancel()
        else:
            self._reading.deadline = trio.current_time() + self.limits.linger_s


    def _let_go(self) -> None:
        """HTTP/2 clients are told GOAWAY and end the connection themselves. Ending it right behind
        that word would let some take the end of the line for the end of their streams.
        """
        self._closing = True
        self._reading.deadline = trio.current_time() + self.limits.linger_s


def _path_of(head: Head) -> str:
    return head.target.partition(b"?")[0].decode("ascii")
