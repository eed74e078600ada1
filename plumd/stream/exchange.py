"""The same session by long poll, for workers that cannot hold a stream open.

What a request does not name in `holding` is taken as not received. A worker asks once more while
an earlier request waits, when it has something to say: the earlier one is then answered at once
and empty, and what there is to tell goes to the latest. Each answer acknowledges the results and
lines of its own request.
"""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from plumd.api.decode import invalid_of
from plumd.api.routes import Request, Response
from plumd.engine import Engine
from plumd.errors import (
    Malformed,
    Overloaded,
    PlumError,
    SessionReplaced,
    SessionUnknown,
    TooLarge,
)
from plumd.model import Join, Leave
from plumd.outbox import Line
from plumd.sdk.ends import DaemonEnd
from plumd.sdk.protocol import ITEMS_MAX, Down, RemoteProtocolError, Up
from plumd.store.blobs import Blobs
from plumd.stream.session import Session, check_names, join_of, joining, pairs, registered_of

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
            check_names(worker_id, up.register.tasks, "id", "register.tasks",
                        up.register.node_id)
        session, join = self._session(worker_id, up, request.peer)
        if up.tasks is not None:
            join = msgspec.structs.replace(session.rename(up.tasks), holding=join.holding)
        turn = session.begin_turn()
        session.forget_given()
        commands = joining(join, up.drain)
        ask = await session.take_in(up, commands)
        log_ack = up.log_seq if await session.lines_written() else 0
        session.ack = session.log_ack = 0
        if ask.replies[0].code:
            self._forget(worker_id, session)
            raise Overloaded(ask.replies[0].detail)
        if up.bye:
            self._forget(worker_id, session)
            await self.engine.call_all([Leave(worker_id)], urgent=True)
            return Response(200, end.send(Down(ack=up.seq, log_ack=log_ack)))
        if up.register is not None:
            down = await session.compose(registered_of(join, up.register.beat_sec), _room(up))
        else:
            await _wait(session, turn, up)
            down = Down()
            if session.is_turn_of(turn) and not self._registered_again(session):
                self._check(worker_id, session)
                down = await session.compose(None, _room(up))
        return Response(200, end.send(msgspec.structs.replace(
            down, ack=up.seq, log_ack=log_ack)))

    def _session(self, worker_id: str, up: Up, peer: str) -> tuple[Session, Join]:
        """The session that a request belongs to, and the Join that it amounts to.

        Raises: SessionReplaced when it must register first.
        """
        known = self._sessions.get(worker_id)
        if up.register is not None:
            self._sweep()
            join = join_of(worker_id, up.register, up.holding or ())
            session = Session(self.engine, self.blobs, join)
            self._sessions[worker_id] = session
            self.engine.outbox.register(worker_id, session, Line("long-poll", peer))
            return session, join
        if known is None:
            raise SessionUnknown("this session is not known here: register", field="session")
        if known.join.session != up.session:
            raise SessionReplaced("another process has this worker's id", field="session")
        self._check(worker_id, known)
        if not self.engine.beat(worker_id, up.session):
            self._forget(worker_id, known)
            raise SessionUnknown("the lease ran out: register again", field="session")
        return known, msgspec.structs.replace(known.join, holding=pairs(up.holding or ()))

    def _registered_again(self, session: Session) -> bool:
        """Whether the same process has registered again meanwhile, so that its later line counts.
        """
        current = self._sessions.get(session.join.worker_id, session)
        return current is not session and current.join.session == session.join.session

    def _check(self, worker_id: str, session: Session) -> None:
        """Raises: SessionReplaced, SessionUnknown when the session is over."""
        if session.kicked == SessionReplaced.code:
            raise SessionReplaced("another process has this worker's id", field="session")
        if session.kicked:
            self._forget(worker_id, session)
            raise SessionUnknown(f"this session is over ({session.kicked}): register again",
                                 field="session")

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


def _room(up: Up) -> int:
    """How many attempts the answer may hold."""
    return ITEMS_MAX if up.max is None else min(up.max, ITEMS_MAX)


async def _wait(session: Session, turn: int, up: Up) -> None:
    """Until there is something to tell, a later request came, or the worker's patience or half
    its lease is over. The worker was heard of when it asked, and is not again when this ends.
    """
    if up.wait_sec and not (up.results or up.log_seq):
        with trio.move_on_after(min(up.wait_sec, WAIT_S_MAX, session.join.lease_ms / 2000)):
            await session.wait_turn(turn)


def refusal_of(error: RemoteProtocolError, body: bytes) -> PlumError:
    """The answer to a message that breaks the protocol."""
    if error.code == "too_large":
        return TooLarge(str(error))
    try:
        msgspec.json.decode(body.decode(), type=msgspec.Raw)
    except (ValueError, RecursionError):
        return Malformed(str(error))
    return invalid_of(str(error))
