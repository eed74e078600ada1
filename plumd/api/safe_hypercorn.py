"""Hypercorn 0.18's protocols with the holes closed that a client could crash or hang us through.

- HTTP/2 DATA for a stream whose answer is already out raised KeyError.
- Trailers ended an HTTP/2 stream twice, so DATA that still came reset it: maybe before the client
  saw them.
- A handler that ended in the middle of an answer left an HTTP/2 client waiting for ever.
- Paths or methods that are not ASCII, and odd PRIORITY frames, raised out of the protocol.
- HTTP/2 frames longer than allowed were kept whole before they were refused.
- `Upgrade: h2c` let a client switch protocols behind a proxy's back; prior knowledge still works.
- Two lengths of one body (Content-Length and Transfer-Encoding), and heads over the limit that
  came in one piece, were accepted.
- Bytes behind the last request that a connection answers cut that answer off.
- Errors of the parser were answered without a body; they are problem documents here.

These are internals of one version, which is why the version is pinned.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import h2.errors
import h2.events
import h2.exceptions
import h11
import priority.priority
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import StreamClosed, Trailers
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import (
    AppWrapper,
    ConnectionState,
    H11SendableEvent,
    TaskGroup,
    WorkerContext,
)

from plumd.api.gate import wire_headers
from plumd.api.problem import problem_of
from plumd.executors.h2_guard import frame_too_large

log = logging.getLogger("plumd.api")

HEAD_BYTES_MAX: Final = 16 * 1024
H2_STREAMS_MAX: Final = 1000

Address = tuple[str, int] | None
Send = Callable[[Event], Awaitable[None]]


def hypercorn_config(*, head_bytes_max: int = HEAD_BYTES_MAX) -> Config:
    """Hypercorn's settings for a daemon: no access log, no Date, long-lived connections."""
    config = Config()
    config.accesslog = None
    config.errorlog = log
    config.include_date_header = False
    config.include_server_header = False
    config.h11_max_incomplete_size = head_bytes_max
    config.h2_max_concurrent_streams = H2_STREAMS_MAX
    config.h2_max_header_list_size = head_bytes_max
    # Reaching the default of 1,000 sends GOAWAY and kills streams that are open.
    config.keep_alive_max_requests = 1 << 62
    return config


class _Gone:
    """Takes DATA for an HTTP/2 stream whose answer was already sent."""

    idle = True

    async def handle(self, event: StreamEvent) -> None:
        """Drop it."""


class _H2Streams(dict[int, HTTPStream | WSStream]):
    def __missing__(self, key: int) -> _Gone:
        return _Gone()


class SafeH2(H2Protocol):
    """HTTP/2 that survives early answers, ended handlers and hostile frames."""

    streams: dict[int, HTTPStream | WSStream]

    def __init__(self, app: AppWrapper, config: Config, context: WorkerContext,
                 task_group: TaskGroup, state: ConnectionState, ssl: bool, client: Address,
                 server: Address, send: Send) -> None:
        super().__init__(app, config, context, task_group, state, ssl, client, server, send)
        self.streams = _H2Streams()

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, RawData) and frame_too_large(self.connection):
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.connection.close_connection(h2.errors.ErrorCodes.FRAME_SIZE_ERROR)
            await self._flush()
            await self.send(Closed())

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        await super()._handle_events(joined(events) if len(events) > 1 else events)

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, StreamClosed):
            stream = self.streams.get(event.stream_id)
            if isinstance(stream, HTTPStream) and stream.state in (
                    ASGIHTTPState.RESPONSE, ASGIHTTPState.TRAILERS):
                await self._reset(event.stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        await super().stream_send(event)
        if isinstance(event, Trailers):
            await self._sent_all(event.stream_id)

    async def _sent_all(self, stream_id: int) -> None:
        """Let Hypercorn not end the stream once more: its other direction would be closed too."""
        buffer = self.stream_buffers.pop(stream_id, None)
        if buffer is not None:
            await buffer.close()
        with contextlib.suppress(priority.priority.MissingStreamError):
            self.priority.remove_stream(stream_id)

    async def _send_data(self, stream_id: int) -> None:
        try:
            await super()._send_data(stream_id)
        except KeyError:
            with contextlib.suppress(priority.priority.MissingStreamError):
                self.priority.remove_stream(stream_id)

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        for name, value in request.headers:
            if name in (b":method", b":path") and not value.isascii():
                return await self._reset(request.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
        if not any(name == b":path" for name, _ in request.headers):
            return await self._reset(request.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
        try:
            await super()._create_stream(request)
        except priority.priority.TooManyStreamsError:
            self.streams.pop(request.stream_id, None)
            self.stream_buffers.pop(request.stream_id, None)
            await self._reset(request.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)

    async def _priority_updated(self, event: h2.events.PriorityUpdated) -> None:
        """RFC 9113 took priorities back, and a hostile tree of them raises."""

    async def _reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.reset_stream(stream_id, code)
            await self._flush()


class _H11Connection(h11.Connection):
    """A parser whose errors do not cut an answer that is on its way."""

    def next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        try:
            return super().next_event()
        except h11.RemoteProtocolError:
            if self.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                raise
            # An answer has begun, and the connection ends with it: say it to its end first.
            return h11.NEED_DATA


_ASIDE: Final = (h2.events.WindowUpdated, h2.events.PingReceived, h2.events.PingAckReceived,
                 h2.events.SettingsAcknowledged)
"""Events that say nothing of a request, so that its DATA may pass them."""


def joined(events: list[h2.events.Event]) -> list[h2.events.Event]:
    """The same events in fewer: DATA of one stream as one event, windows named once.

    Small gRPC messages come many at a time, each with a window of its own, and every event costs
    turns of the loop.
    """
    found: list[h2.events.Event] = []
    data: dict[int, h2.events.DataReceived] = {}
    windows: set[int | None] = set()
    for event in events:
        if isinstance(event, h2.events.DataReceived):
            first = data.setdefault(event.stream_id, event)
            if first is not event:
                first.data += event.data
                first.flow_controlled_length += event.flow_controlled_length
                continue
        elif isinstance(event, h2.events.WindowUpdated):
            if event.stream_id in windows:
                continue
            windows.add(event.stream_id)
        elif not isinstance(event, _ASIDE):
            data.clear()
        found.append(event)
    return found


class SafeH11(H11Protocol):
    """HTTP/1.1 that answers its parser's errors in words and switches only to HTTP/2 by PRI."""

    def __init__(self, app: AppWrapper, config: Config, context: WorkerContext,
                 task_group: TaskGroup, state: ConnectionState, ssl: bool, client: Address,
                 server: Address, send: Send) -> None:
        super().__init__(app, config, context, task_group, state, ssl, client, server, send)
        self.connection = _H11Connection(
            h11.SERVER, max_incomplete_event_size=config.h11_max_incomplete_size)

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI" and event.target == b"*" and event.http_version == b"2.0":
            raise H2ProtocolAssumedError(
                b"PRI * HTTP/2.0\r\n\r\n" + self.connection.trailing_data[0])

    async def _create_stream(self, request: h11.Request) -> None:
        names = {name for name, _ in request.headers}
        size = len(request.target) + sum(len(n) + len(v) + 4 for n, v in request.headers)
        status = 0
        if size > self.config.h11_max_incomplete_size:
            status = 431        # h11 only bounds heads that come in pieces
        elif b"content-length" in names and b"transfer-encoding" in names:
            status = 400        # two lengths: somebody on the way may believe the other one
        if not status:
            await super()._create_stream(request)
            return
        await self._send_error_response(status)
        await self.send(Closed())

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            await super()._send_h11_event(event)
        except h11.LocalProtocolError:
            # An answer that stopped short, of a handler that failed or was cancelled inside it:
            # the client must not take it for whole.
            await self.send(Closed())

    async def _send_error_response(self, status_code: int) -> None:
        if status_code == 431:
            response = problem_of("headers_too_large", 431, "the request's head is too large")
        else:
            response = problem_of("malformed", status_code, "this is not a request in HTTP/1.1")
        headers = [(name.encode(), value.encode()) for name, value in wire_headers(response)]
        await self._send_h11_event(h11.Response(
            status_code=status_code, headers=[*headers, (b"connection", b"close")]))
        await self._send_h11_event(h11.Data(data=response.body))
        await self._send_h11_event(h11.EndOfMessage())


class SafeProtocol(ProtocolWrapper):
    """Hypercorn's protocol of one connection, made of the two above."""

    def __init__(self, app: AppWrapper, config: Config, context: WorkerContext,
                 task_group: TaskGroup, state: ConnectionState, ssl: bool, client: Address,
                 server: Address, send: Send, alpn_protocol: str) -> None:
        super().__init__(app, config, context, task_group, state, ssl, client, server, send,
                         alpn_protocol)
        kind = SafeH2 if alpn_protocol == "h2" else SafeH11
        self.protocol = self._made(kind)

    @property
    def goes_away(self) -> bool:
        """Whether the client is told that the connection ends before it does."""
        return isinstance(self.protocol, SafeH2)

    def _made(self, kind: type[SafeH2 | SafeH11]) -> SafeH2 | SafeH11:
        return kind(self.app, self.config, self.context, self.task_group, self.state, self.ssl,
                    self.client, self.server, self.send)

    async def handle(self, event: Event) -> None:
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as error:
            self.protocol = self._made(SafeH2)
            await self.protocol.initiate()
            if error.data:
                await self.protocol.handle(RawData(data=error.data))


