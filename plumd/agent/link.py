"""The agent's session with the controller: a worker's, for the processes that tasks ask for.

Over a WebSocket, or by long polls where the network lets none through.
"""

from __future__ import annotations

import logging
from typing import Final

import trio
import trio_websocket

from plumd.agent.attempts import Attempts
from plumd.agent.beats import Beats
from plumd.agent.identity import Identity
from plumd.agent.settings import Settings
from plumd.model import AGENT_PREFIX, OS_PROCESS_POOL
from plumd.sdk.keeping import Keeper
from plumd.sdk.line import Dial, Line, LineClosed, Unreachable, websocket_dial
from plumd.sdk.poll import poll_dial
from plumd.sdk.protocol import Register
from plumd.sdk.signals import first_error
from plumd.sdk.talk import Lease, TurnedAway

log = logging.getLogger("plumd.agent")
TURNED_AWAY_S: Final = 5.0


def worker_id_of(node_id: str) -> str:
    """Under which id the agent of a node takes attempts."""
    return AGENT_PREFIX + node_id


async def serve(settings: Settings, who: Identity, attempts: Attempts, beats: Beats) -> None:
    """Keep the session while the node's name is ours. Cancel: the session ends, processes do not.
    """
    worker_id = worker_id_of(settings.node_id)
    register = Register(
        session=who.session, tasks=[OS_PROCESS_POOL], node_id=settings.node_id,
        labels=settings.labels, capacity=settings.slots, beat_sec=settings.task_beat_s)
    token = settings.token or None
    dial = _either(websocket_dial(settings.controller, worker_id, token=token),
                   poll_dial(settings.controller, worker_id, who.session, attempts.holding,
                             token=token))
    while True:
        await _until_ours(beats, attempts)
        keeper = Keeper(dial, settings.controller, attempts, Lease(settings.task_beat_s), register,
                        leave=False)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_taken, beats, nursery.cancel_scope)
                await keeper.keep()
        except* TurnedAway as group:
            log.warning("the controller turned the agent away", extra={
                "reason": str(first_error(group))})
        await trio.sleep(TURNED_AWAY_S)


async def _until_ours(beats: Beats, attempts: Attempts) -> None:
    """Wait; while the node is another agent's, end what was begun here."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_let_go_when_taken, beats, attempts)
        await beats.owned.wait()
        nursery.cancel_scope.cancel()


async def _let_go_when_taken(beats: Beats, attempts: Attempts) -> None:
    await beats.taken.wait()
    attempts.let_go()


async def _cancel_when_taken(beats: Beats, scope: trio.CancelScope) -> None:
    await beats.taken.wait()
    scope.cancel()


def _either(first: Dial, second: Dial) -> Dial:
    """A line by the second way where the controller is there and the first does not get through."""
    async def dial(nursery: trio.Nursery) -> Line:
        try:
            return await first(nursery)
        except Unreachable:
            raise
        except (LineClosed, trio_websocket.HandshakeError) as error:
            log.debug("no WebSocket, so by polls", extra={"reason": str(error)})
            return await second(nursery)

    return dial
