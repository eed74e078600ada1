"""One gRPC call on the daemon's side, over ASGI: messages in, messages out, and a status.

`pump` reads all the time: what nobody takes would fill Hypercorn's queue and hold up the whole
connection, its pings and windows too. It stops only while more than PUMP_BYTES_MAX wait.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Final

import trio
from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    HTTPResponseStartEvent,
)

from plumd.api.gate import SMALL_BODY_BYTES, Gate
from plumd.errors import PlumError
from plumd.stream.grpc_frames import Frames, GrpcError, Status, encode_message, frame

SEND_S_MAX: Final = 20.0
END_S_MAX: Final = 5.0
LINGER_S: Final = 10.0
PUMP_BYTES_MAX: Final = 1 << 20
CONTENT_TYPE: Final = (b"content-type", b"application/grpc+proto")


class Gone(Exception):
    """The client is gone, or takes nothing any more: nobody hears a status."""


class Call:
    """The two directions of a call. One task reads, one task sends, one runs `pump`."""

    def __init__(self, receive: ASGIReceiveCallable, send: ASGISendCallable, gate: Gate,
                 peer: str = "") -> None:
        self.peer = peer
        self._receive = receive
        self._send = send
        self._gate = gate
        self._frames = Frames()
        self._ready: list[bytes] = []
        self._ready_bytes = 0
        self._large = ExitStack()   # holds the share of the budget that a large message takes
        self._large_held = False
        self._half_closed = False
        self._gone = False
        self._begun = False
        self._ending = False
        self._error: GrpcError | None = None
        self._news = trio.Event()       # something came, or will come no more
        self._taken = trio.Event()      # there is room again

    async def pump(self) -> None:
        """Take in what comes, until the client is gone. Runs beside all else."""
        while True:
            while self._ready_bytes > PUMP_BYTES_MAX and not self._ending:
                self._taken = trio.Event()
                await self._taken.wait()
            event = await self._receive()
            if event["type"] != "http.request":
                self._gone = True
                self._news.set()
                return
            if self._error is None and not self._ending:
                self._take_in(event["body"])
            self._half_closed = self._half_closed or not event["more_body"]
            self._news.set()

    def _take_in(self, body: bytes) -> None:
        try:
            found = self._frames.feed(body)
            if found:
                self._let_go()
                self._ready += found
                self._ready_bytes += sum(map(len, found))
            self._budget()
        except GrpcError as error:
            self._error = error

    def _budget(self) -> None:
        """Large messages share what the large bodies of all requests may take together."""
        if self._frames.wanted > SMALL_BODY_BYTES and not self._large_held:
            try:
                self._large.enter_context(self._gate.body_budget())(self._frames.wanted)
            except PlumError as error:
                raise GrpcError(Status.RESOURCE_EXHAUSTED, error.detail) from None
            self._large_held = True

    def _let_go(self) -> None:
        self._large.close()
        self._large_held = False

    async def arrived(self) -> bool:
        """Whether there is a message; waits for one. False: the client has said its last.

        Raises: GrpcError for what is no message, Gone.
        """
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self._gone:
                raise Gone
            if self._half_closed:
                if not self._frames.empty:
                    raise GrpcError(Status.INVALID_ARGUMENT,
                                    "the call ended in the middle of a message")
                return False
            self._news = trio.Event()
            await self._news.wait()
        return True

    def ready(self) -> list[bytes]:
        """All that has come and was not taken."""
        found, self._ready, self._ready_bytes = self._ready, [], 0
        self._taken.set()
        return found

    def push_back(self, messages: list[bytes]) -> None:
        """Give these again, before all that comes."""
        self._ready = [*messages, *self._ready]

    # ------------------------------------------------------------ to the client

    async def begin(self) -> None:
        """Say that the call is being served, if that was not said. Raises: Gone."""
        if self._begun:
            return
        self._begun = True
        start: HTTPResponseStartEvent = {
            "type": "http.response.start", "status": 200, "trailers": True, "headers": [
                CONTENT_TYPE, (b"grpc-accept-encoding", b"identity")]}
        await self._bounded(start)

    async def send(self, *messages: bytes) -> None:
        """Send messages, together. Raises: Gone when the client does not take them in time."""
        await self.begin()
        await self._bounded({"type": "http.response.body", "more_body": True,
                             "body": b"".join([frame(message) for message in messages])})

    async def _bounded(self, event: ASGISendEvent) -> None:
        with trio.move_on_after(SEND_S_MAX) as scope:
            await self._send(event)
        if scope.cancelled_caught:
            self._gone = True
            raise Gone

    async def end(self, status: Status, message: str = "") -> None:
        """Send the status, for as long as the client may take for it."""
        self._let_go()
        self._ending = True
        self._taken.set()
        if self._gone:
            return
        headers = [(b"grpc-status", b"%d" % status)]
        if message:
            headers.append((b"grpc-message", encode_message(message)))
        with trio.move_on_after(END_S_MAX), suppress(Gone):
            await self.begin()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            await self._send({"type": "http.response.trailers", "headers": headers,
                              "more_trailers": False})
        if self._error is not None:
            await self._linger()

    async def _linger(self) -> None:
        """Take what a refused client still sends: a stream that is gone would be reset for it,
        and a reset can overtake the status.
        """
        with trio.move_on_after(LINGER_S):
            while not (self._half_closed or self._gone):
                self._news = trio.Event()
                await self._news.wait()
