"""Keeps a worker's line to the daemon: dials, talks, and dials again when it is lost."""

from __future__ import annotations

import logging
import random
from typing import Final, Protocol, final

import trio
import trio_websocket

from plumd.sdk.line import Dial, Line, LineClosed, Unreachable
from plumd.sdk.protocol import Register, RemoteProtocolError
from plumd.sdk.signals import first_error
from plumd.sdk.talk import Lease, Speaker, Talk

log = logging.getLogger("plumd.sdk")

RETRY_S_FIRST: Final = 0.25
RETRY_S_MAX: Final = 15.0
REDIAL_S_MAX: Final = 1.5
"""Where nobody answers, a try costs the daemon nothing; so the line is back soon after it is."""
SETTLED_S: Final = 5.0
"""A line that held so long is one that works: the next pauses start small again."""
GOODBYE_S: Final = 1.0


class Leaver(Speaker, Protocol):
    """A desk that can be cleared at once."""

    def abandon(self, why: str) -> None:
        """Report as lost what still runs, without waiting for it."""


@final
class Keeper:
    """One line at a time, for as long as `keep` runs.

    where: for the log.  leave: whoever cancels `keep` ends the worker for good, so that its work is
    given to others at once; else the line just ends, and the worker will be back.
    """

    def __init__(self, dial: Dial, where: str, desk: Leaver, lease: Lease, register: Register, *,
                 leave: bool = True) -> None:
        self._dial = dial
        self._where = where
        self._desk = desk
        self._lease = lease
        self._register = register
        self._leave = leave

    async def keep(self) -> None:
        """Keep a line open, with growing pauses between tries; returns when goodbye was said.

        Raises TurnedAway.  Cancel: takes leave if that is wanted and the line still carries it.
        """
        tries = 0
        while True:
            base_s = trio.current_time()
            talk, reason = await self._one_line()
            if talk is not None and talk.bye_said:
                return
            now_s = trio.current_time()
            if talk is not None and talk.registered:
                tries, base_s = 0 if now_s - base_s > SETTLED_S else tries, now_s
            if tries < 2:
                log.warning("no line to %s: %s", self._where, reason)
            limit_s = REDIAL_S_MAX if isinstance(reason, Unreachable) else RETRY_S_MAX
            # Full jitter, so that a fleet does not come back in step.
            pause_s = random.uniform(0, min(limit_s, RETRY_S_FIRST * 2 ** min(tries, 10)))
            await trio.sleep_until(base_s + pause_s)
            tries += 1

    async def _one_line(self) -> tuple[Talk | None, Exception]:
        """Dial and talk until the line ends: (the talk, if it came to one; why it ended).

        Cancel: takes leave if that is wanted and the line still carries it.
        """
        line: Line | None = None
        talk: Talk | None = None
        reason: Exception = LineClosed("the line ended")
        leaving = self._leave
        try:
            try:
                async with trio.open_nursery() as nursery:
                    line = await self._dial(nursery)
                    talk = Talk(self._desk, self._lease, line)
                    nursery.start_soon(talk.speak, self._register)
                    nursery.start_soon(talk.watch)
                    await talk.listen()
            except* (LineClosed, RemoteProtocolError, trio_websocket.HandshakeError) as group:
                reason = first_error(group)
            leaving = False
        finally:
            # Inside the nursery nobody could tell the end of the worker from that of a line.
            with trio.move_on_after(GOODBYE_S, shield=True):
                if leaving and talk is not None:
                    self._desk.abandon("the worker stopped")
                    await talk.last_words()
                if line is not None:
                    await line.close()
        self._desk.outbox.rewind()
        self._desk.lines.rewind()
        return talk, reason
