"""A worker's stream: one WebSocket, a reader and a writer.

The reader hands each message to the engine, a few ahead of the commit, so a worker that floods is
slowed by its own line. The writer sends whatever has gathered as one message.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from functools import partial
from typing import Final

import msgspec
import trio
from trio_websocket import ConnectionClosed

from plumd.api.routes import Request
from plumd.engine import Engine
from plumd.errors import Overloaded, PlumError
from plumd.model import Detach, Drain, Leave
from plumd.outbox import Line
from plumd.sdk.ends import DaemonEnd
from plumd.sdk.messages import MessageSocket
from plumd.sdk.protocol import ITEMS_MAX, Down, PeerError, Registered, RemoteProtocolError, Up
from plumd.store.blobs import Blobs
from plumd.stream.session import Session, check_names, join_of, joining, registered_of

log = logging.getLogger("plumd.stream")
REGISTER_S_MAX: Final = 10
SEND_S_MAX: Final = 20
CLOSE_S: Final = 2
IN_HAND_MAX: Final = 8
PROTOCOL_ERROR: Final = 1002
GOING_AWAY: Final = 1001


class Farewell(msgspec.Struct, frozen=True):
    """Why a line must end, as it is told to the worker."""

    code: str
    message: str
    ws_code: int = GOING_AWAY


class Streams:
    """Serves worker streams; told by the daemon when it leaves."""

    def __init__(self, engine: Engine, blobs: Blobs) -> None:
        self.engine = engine
        self.blobs = blobs
        self._open: set[Session] = set()

    def drain(self) -> None:
        """Tell every worker that no more attempts will come."""
        for session in self._open:
            session.drain()

    async def serve(self, ws: MessageSocket, worker_id: str, request: Request) -> None:
        """Talk to one worker until its line ends; the handler of the stream's route.

        Cancel: the daemon is leaving; the claim stays, the worker comes back.
        """
        end = DaemonEnd()
        try:
            up = await first_message(ws, end)
        except RemoteProtocolError as error:
            await close(ws, end, Farewell(error.code, str(error), PROTOCOL_ERROR))
            return
        if up is None or up.register is None:
            return
        try:
            check_names(worker_id, up.register.tasks, "id", "register.tasks",
                        up.register.node_id)
        except PlumError as error:
            await close(ws, end, Farewell(error.code, error.detail))
            return
        join = join_of(worker_id, up.register, up.holding or ())
        session = Session(self.engine, self.blobs, join)
        self.engine.outbox.register(worker_id, session, Line("websocket", request.peer))
        self._open.add(session)
        try:
            ask = await session.take_in(up, joining(join, up.drain))
            if ask.replies[0].code:
                raise Overloaded(ask.replies[0].detail)
            await self._talk(ws, end, session, registered_of(join, up.register.beat_sec))
        except PlumError as error:
            await close(ws, end, Farewell(error.code, error.detail))
        finally:
            self._open.discard(session)
            self._part(session)

    def _part(self, session: Session) -> None:
        """The line is over: unless another took its place, its worker is away."""
        outbox, join = self.engine.outbox, session.join
        if outbox.serves(join.worker_id, session):
            outbox.unregister(join.worker_id, session)
            try:
                self.engine.post([Detach(join.worker_id, join.session)], urgent=True)
            except PlumError:
                log.debug("a detach was not taken", extra={"worker_id": join.worker_id})

    async def _talk(self, ws: MessageSocket, end: DaemonEnd, session: Session,
                    registered: Registered) -> None:
        """Both directions, until one of them says why the line must end."""
        farewell: list[Farewell] = []
        try:
            async with trio.open_nursery() as nursery:

                async def direction(run: Awaitable[Farewell | None]) -> None:
                    reason = await run
                    if reason is not None:
                        farewell.append(reason)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(direction, self._write(ws, end, session, registered))
                nursery.start_soon(direction, self._read(ws, end, session))
        except* ConnectionClosed:
            farewell.clear()
        if farewell:
            await close(ws, end, farewell[0])

    async def _read(self, ws: MessageSocket, end: DaemonEnd,
                    session: Session) -> Farewell | None:
        try:
            return await self._listen(ws, end, session)
        except RemoteProtocolError as error:
            return Farewell(error.code, str(error), PROTOCOL_ERROR)
        except PlumError as error:
            return Farewell(error.code, error.detail)

    async def _listen(self, ws: MessageSocket, end: DaemonEnd,
                      session: Session) -> Farewell | None:
        worker_id, nonce = session.join.worker_id, session.join.session
        while True:
            up = end.receive(await ws.get_message())
            if not self.engine.beat(worker_id, nonce):
                return Farewell("lease_lost", "the lease ran out; register again")
            renames = () if up.tasks is None else (session.rename(up.tasks),)
            if up.results or up.progress or up.logs or up.pages or renames or up.ahead is not None:
                ask = await session.hand_in(up, renames)
                if session.in_hand >= IN_HAND_MAX:
                    await ask.done.wait()
            if up.drain:
                await self.engine.call_all([Drain(worker_id, own=True)], urgent=True)
            if up.bye:
                await self.engine.call_all([Leave(worker_id)], urgent=True)
                with trio.move_on_after(CLOSE_S):
                    await ws.send_text(end.send(Down(ack=session.ack)))
                return None

    async def _write(self, ws: MessageSocket, end: DaemonEnd, session: Session,
                     registered: Registered | None) -> Farewell | None:
        """Send what gathers, until the session is kicked or its worker reads no more."""
        session.sender = partial(send_nowait, ws, end, session)
        try:
            while True:
                if registered is None:
                    await session.wait_news()
                    if session.only_ack:
                        await trio.lowlevel.checkpoint()    # whoever waits for an answer goes first
                if session.kicked:
                    return Farewell(session.kicked, "this session is over")
                with trio.move_on_after(SEND_S_MAX) as scope:
                    if session.line_full:
                        session.line_full = False
                        await ws.flush()
                    if registered is not None or not session.idle:
                        down = await session.compose(registered, ITEMS_MAX)
                        registered = None
                        await ws.send_text(end.send(down))
                if scope.cancelled_caught:      # it reads no more: as good as gone
                    return None
        finally:
            session.sender = None


def send_nowait(ws: MessageSocket, end: DaemonEnd, session: Session) -> bool:
    """Tell the worker all that waits, without a turn of the scheduler: the engine calls this.

    False: it is the writer's, because the line is not free or has not taken all of it.
    """
    if session.kicked or not ws.ready:
        return False
    down = session.compose_nowait(ITEMS_MAX)
    if down is None:
        return False
    try:
        session.line_full = not ws.send_text_nowait(end.send(down))
        return session.idle
    except ConnectionClosed:
        return False    # the reader hears of it and ends the session; the claims stay


async def first_message(ws: MessageSocket, end: DaemonEnd) -> Up | None:
    """The register, or None when nothing came. Raises RemoteProtocolError."""
    with trio.move_on_after(REGISTER_S_MAX):
        try:
            return end.receive(await ws.get_message())
        except ConnectionClosed:
            return None
    return None


async def close(ws: MessageSocket, end: DaemonEnd, farewell: Farewell) -> None:
    """Say why, as far as it is still heard, and close the line in bounded time."""
    with trio.move_on_after(CLOSE_S):
        try:
            if farewell.ws_code != PROTOCOL_ERROR:
                error = PeerError(farewell.code, farewell.message[:1000])
                await ws.send_text(end.send(Down(error=error)))
            await ws.aclose(farewell.ws_code, farewell.message[:100])
        except ConnectionClosed:
            return
