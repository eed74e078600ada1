"""The gRPC client of the calls that plumd makes: unary calls by h2 over Trio's streams.

Where a call may go, and how the connection is made, is outgoing.py's affair. A connection carries
one call at a time and is kept for the next one; a call is never sent twice. What the far side
cannot have begun (a connection that broke before the call was sent whole, a refused stream, a
GOAWAY that leaves the call out) is `unreachable`; what it may have begun is `connection_lost`.

Source: RFC 9113 sections 5.1, 6.8, 8.7; grpc/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trio

import plumd
from plumd.executors.h2_guard import frame_too_large
from plumd.executors.kept import Kept, Place
from plumd.executors.outgoing import ORIGIN_HEADER, ORIGIN_VALUE, Client
from plumd.executors.targets import CallFailed, Target, parse
from plumd.stream.grpc_frames import (
    OF_HTTP,
    Frames,
    GrpcError,
    Status,
    decode_message,
    frame,
    status_of,
    timeout_text,
)

SCHEME: Final = "grpc://"
HEALTH: Final = "/grpc.health.v1.Health/Check"
SERVING: Final = bytes((1 << 3, 1))
"""How the answer of HEALTH begins when all is well."""
RECEIVE_BYTES: Final = 64 << 10
WINDOW_BYTES: Final = 1 << 20
KEEP_S: Final = 30.0
CALLS_PER_PLACE_MAX: Final = 256

Header: TypeAlias = tuple[str | bytes, str | bytes]


class GrpcLine:
    """One connection, for one call at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.expires = 0.0
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._http.local_settings = h2.settings.Settings(client=True, initial_values={
            h2.settings.SettingCodes.ENABLE_PUSH: 0,
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES})
        self._http.initiate_connection()
        self._http.increment_flow_control_window(WINDOW_BYTES)
        self._over = False          # the far side takes no more calls here
        self._whole = False         # the present call was taken whole
        self._stream_id = 0
        self._frames = Frames()
        self._answers: list[bytes] = []
        self._status: Status | None = None
        self._message = ""
        self._ended = False

    def close(self) -> None:
        """Close it, at once."""
        self.stream.socket.close()

    async def is_usable(self) -> bool:
        """Take in what came while nobody called: pings, settings, the far side's goodbye."""
        try:
            while not self._over and self.stream.socket.is_readable():
                await self._receive()
        except CallFailed:
            return False
        return not self._over

    async def call(self, target: Target, path: str, message: bytes, timeout_ms: int) -> bytes:
        """Make one call; its answer's one message.

        Raises: CallFailed without an answer, GrpcError with one that is no success.
        Cancel: anywhere; the connection is then of no more use, and the far side sees its end.
        """
        self._whole, self._ended, self._status, self._message = False, False, None, ""
        self._frames, self._answers = Frames(), []
        try:
            self._stream_id = self._http.get_next_available_stream_id()
            self._http.send_headers(self._stream_id, headers_of(target, path, timeout_ms))
            await self._send(frame(message))
            while not self._ended:
                await self._receive()
        except h2.exceptions.ProtocolError as error:
            raise self._lost(f"HTTP/2: {error}") from None
        return self._answer()

    @property
    def reusable(self) -> bool:
        """Whether another call can follow the one that ended."""
        return self._whole and self._ended and not self._over

    def _answer(self) -> bytes:
        if self._status is None:
            raise GrpcError(Status.UNKNOWN, "the answer has no grpc-status")
        if self._status != Status.OK:
            raise GrpcError(self._status, self._message)
        if len(self._answers) != 1 or not self._frames.empty:
            raise GrpcError(Status.INTERNAL, f"the answer has {len(self._answers)} messages")
        return self._answers[0]

    async def _send(self, data: bytes) -> None:
        """Send a body as far as the far side's windows let it; an early answer ends it."""
        at = 0
        while at < len(data) and not self._ended:
            room = min(self._http.local_flow_control_window(self._stream_id),
                       self._http.max_outbound_frame_size, len(data) - at)
            if room > 0:
                self._http.send_data(self._stream_id, data[at:at + room])
                at += room
                if at < len(data) and self._http.local_flow_control_window(self._stream_id):
                    continue
            if at == len(data):
                self._http.end_stream(self._stream_id)
            await self._flush()
            if at < len(data):
                await self._receive()
        self._whole = at == len(data)

    async def _flush(self) -> None:
        data = self._http.data_to_send()
        if not data:
            return
        try:
            await self.stream.send_all(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._lost(str(error.__cause__ or error)) from error

    async def _receive(self) -> None:
        try:
            data = await self.stream.receive_some(RECEIVE_BYTES)
        except (OSError, trio.BrokenResourceError) as error:
            raise self._lost(str(error.__cause__ or error)) from error
        if not data:
            raise self._lost("it was closed before the answer was whole")
        try:
            events = self._http.receive_data(bytes(data))
        except h2.exceptions.ProtocolError as error:
            raise CallFailed("bad_answer", f"the answer is no HTTP/2: {error}") from None
        for event in events:
            self._take_in(event)
        if frame_too_large(self._http):
            raise CallFailed("bad_answer", "the answer is no HTTP/2")
        await self._flush()

    def _take_in(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self._over = True
            if event.last_stream_id is not None and event.last_stream_id < self._stream_id:
                raise CallFailed("unreachable", "the worker takes no more calls")
        elif getattr(event, "stream_id", None) != self._stream_id:
            return
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self._note_headers(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self._answers += self._frames.feed(event.data)
            self._http.acknowledge_received_data(event.flow_controlled_length, self._stream_id)
        elif isinstance(event, h2.events.StreamReset):
            if event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM:
                raise CallFailed("unreachable", "the worker refused the call")
            if self._status is None:
                raise self._lost(f"the worker reset it ({event.error_code!r})")
            self._ended = True
        elif isinstance(event, h2.events.StreamEnded):
            self._ended = True

    def _note_headers(self, headers: Sequence[Header]) -> None:
        said = {text(name): text(value) for name, value in headers}
        if "grpc-status" in said:
            self._status = status_of(said["grpc-status"])
            self._message = decode_message(said.get("grpc-message", ""))
        elif said.get(":status", "200") != "200":
            status = said[":status"]
            if not re.fullmatch("[0-9]{3}", status):
                raise CallFailed("bad_answer", f"the answer's status is {status}")
            self._status = OF_HTTP.get(int(status), Status.UNKNOWN)
            self._message = f"an HTTP answer of status {status}"

    def _lost(self, why: str) -> CallFailed:
        if self._whole:
            return CallFailed("connection_lost",
                              f"the connection was lost during the call: {why}")
        return CallFailed("unreachable", f"the connection broke before the call was sent: {why}")


class GrpcClient:
    """Calls out, over kept connections that `client` makes."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._kept: Kept[GrpcLine] = Kept(CALLS_PER_PLACE_MAX, KEEP_S)

    async def run(self) -> None:
        """Close connections that nobody used for a while, and all of them at the end."""
        await self._kept.run()

    def close(self) -> None:
        """Close all idle connections."""
        self._kept.close()

    @property
    def idle(self) -> int:
        """How many connections are kept for the next call."""
        return self._kept.count

    async def call(self, url: str, path: str, message: bytes, timeout_ms: int = 0) -> bytes:
        """Make a unary call at `grpc://host:port`; the answer's message.

        timeout_ms: told to the far side; 0 = none.
        Raises: CallFailed, GrpcError.
        Cancel: anywhere; the connection is closed, by which the far side sees it too.
        """
        target = target_of(url)
        with self._kept.calling((target.host, target.port)) as place:
            async with place.limiter:
                line = await self._take_idle(place)
                if line is None:
                    line = GrpcLine(await self.client.open(target))
                kept = False
                try:
                    answer = await line.call(target, path, message, timeout_ms)
                    kept = line.reusable and self._kept.keep(place, line)
                    return answer
                except GrpcError:
                    kept = line.reusable and self._kept.keep(place, line)
                    raise
                finally:
                    if not kept:
                        line.close()

    async def health(self, url: str) -> str:
        """Why a server is not well by grpc.health.v1, "" when it is.

        Raises: CallFailed, GrpcError.
        """
        answer = await self.call(url, HEALTH, b"")
        return "" if answer.startswith(SERVING) else "its health service does not say SERVING"

    async def _take_idle(self, place: Place[GrpcLine]) -> GrpcLine | None:
        while (line := self._kept.take(place)) is not None:
            usable = False
            try:
                usable = await line.is_usable()
            finally:
                if not usable:
                    line.close()
            if usable:
                return line
        return None


async def is_serving(stream: trio.SocketStream, url: str) -> bool:
    """Whether the server at the other end of a new connection says that all of it is well.

    Source: grpc/doc/health-checking.md
    """
    try:
        return (await GrpcLine(stream).call(target_of(url), HEALTH, b"", 0)).startswith(SERVING)
    except (CallFailed, GrpcError):
        return False


def target_of(url: str) -> Target:
    """The parts of `grpc://host:port`. Raises: CallFailed (bad_url)."""
    if not url.startswith(SCHEME):
        raise CallFailed("bad_url", "the address does not begin with grpc://")
    target = parse("http://" + url.removeprefix(SCHEME))
    if target.path != "/":
        raise CallFailed("bad_url", "the address is more than host:port")
    return target


def headers_of(target: Target, path: str, timeout_ms: int) -> list[tuple[str, str]]:
    """The head of a call."""
    headers = [
        (":method", "POST"), (":scheme", "http"), (":authority", target.authority),
        (":path", path), ("te", "trailers"), ("content-type", "application/grpc+proto"),
        ("user-agent", f"plumd/{plumd.__version__}"), (ORIGIN_HEADER, ORIGIN_VALUE)]
    if timeout_ms:
        headers.append(("grpc-timeout", timeout_text(timeout_ms)))
    return headers


def text(value: str | bytes) -> str:
    """A header's name or value."""
    return value.decode("latin-1") if isinstance(value, bytes) else value
