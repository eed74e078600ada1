"""The same session by long poll, for workers that cannot hold a stream open.

One request at a time: what a request does not name in `holding` is taken as not received.
"""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from plumd.api.decode import invalid_of
from plumd.api.routes import Request, Response
from plumd.engine import Engine
from plumd.errors import Malformed, Overloaded, PlumError, SessionReplaced, TooLarge
from plumd.model import CoreCommand, Drain, Join, Leave
from plumd.sdk.protocol import ITEMS_MAX, DaemonEnd, Down, RemoteProtocolError, Up
from plumd.store.blobs import Blobs
from plumd.stream.session import Session, check_names, join_of, pairs, registered_of

WAIT_S_MAX: Final = 60.0
SWEEP_SESSIONS: Final = 256


class Exchanges:
    """Sessions that live from one request to the next."""

    def __init__(self, engine: Engine, blobs: Blobs) -> None:
        self.engine = engine
        self.blobs = blobs
        self._sessions: dict[str, Session] = {}
        self._sweep_at = SWEEP_SESSIONS

    def drain(self) -> None:
        """Answer every worker that waits: no more attempts will come, the daemon is leaving."""
        for session in self._sessions.values():
            session.drain()

    async def exchange(self, request: Request) -> Response:
        """Results and news in, attempts and notices out."""
        worker_id = request.params["id"]
        end = DaemonEnd(exchange=True)
        try:
            up = end.receive(request.body)
        except RemoteProtocolError as error:
            raise refusal_of(error, request.body) from None
        if up.register is not None:
            check_names(worker_id, up.register.tasks, "id", "register.tasks")
        session, join = self._session(worker_id, up)
        if up.tasks is not None:
            join = msgspec.structs.replace(session.rename(up.tasks), holding=join.holding)
        session.forget_given()
        commands: list[CoreCommand] = [join]
        if up.drain:
            commands.append(Drain(worker_id))
        ask = await session.take_in(up, commands)
        if ask.replies[0].code:
            self._forget(worker_id, session)
            raise Overloaded(ask.replies[0].detail)
        if up.bye:
            self._forget(worker_id, session)
            await self.engine.call_all([Leave(worker_id)], urgent=True)
            return Response(200, end.send(Down(ack=session.ack)))
        beat_sec = 10.0 if up.register is None else up.register.beat_sec
        registered = None if up.register is None else registered_of(join, beat_sec)
        if registered is None:
            await self._wait(session, join, up)
        room = ITEMS_MAX if up.max is None else min(up.max, ITEMS_MAX)
        return Response(200, end.send(await session.compose(registered, room)))

    def _session(self, worker_id: str, up: Up) -> tuple[Session, Join]:
        """The session that a request belongs to, and the Join that it amounts to.

        Raises: SessionReplaced when it must register first.
        """
        known = self._sessions.get(worker_id)
        if up.register is not None:
            self._sweep()
            join = join_of(worker_id, up.register, up.holding or ())
            session = Session(self.engine, self.blobs, join)
            self._sessions[worker_id] = session
            self.engine.outbox.register(worker_id, session)
            return session, join
        if known is None or known.kicked or known.join.session != up.session:
            raise SessionReplaced("this session is not known here: register", field="session")
        if not self.engine.beat(worker_id, up.session):
            self._forget(worker_id, known)
            raise SessionReplaced("the lease ran out: register again", field="session")
        return known, msgspec.structs.replace(known.join, holding=pairs(up.holding or ()))

    async def _wait(self, session: Session, join: Join, up: Up) -> None:
        """Until there is something to tell, or the worker's patience or half its lease is over."""
        if up.wait_sec and not up.results:
            with trio.move_on_after(min(up.wait_sec, WAIT_S_MAX, join.lease_ms / 2000)):
                await session.wait_news()
            self.engine.beat(join.worker_id, join.session)

    def _forget(self, worker_id: str, session: Session) -> None:
        if self._sessions.get(worker_id) is session:
            del self._sessions[worker_id]
        self.engine.outbox.unregister(worker_id, session)

    def _sweep(self) -> None:
        """Forget sessions that are over and whose workers never came again."""
        if len(self._sessions) < self._sweep_at:
            return
        for worker_id, session in list(self._sessions.items()):
            if session.kicked:
                self._forget(worker_id, session)
        self._sweep_at = max(SWEEP_SESSIONS, 2 * len(self._sessions))


def refusal_of(error: RemoteProtocolError, body: bytes) -> PlumError:
    """The answer to a message that breaks the protocol."""
    if error.code == "too_large":
        return TooLarge(str(error))
    try:
        msgspec.json.decode(body.decode(), type=msgspec.Raw)
    except (ValueError, RecursionError):
        return Malformed(str(error))
    return invalid_of(str(error))
