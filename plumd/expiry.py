"""Deletes keys when their time is over: it sleeps until then, and looks at no clock before.

A key that has expired is not shown any more, whether it is deleted yet or not; deleting it is
what those who watch it are told of.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from plumd.engine import Engine
from plumd.errors import PlumError
from plumd.store import kv

log = logging.getLogger("plumd.expiry")
SLICE: Final = 300
AGAIN_S: Final = 1.0
SLEEP_S_MAX: Final = 60.0
"""The wall clock that keys expire by may be set; this long at most it is not looked at."""
NEVER: Final = 1 << 63


class Expiry:
    """`run` in a nursery of the daemon's; `note` after each write of a key that expires."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._due_ms = NEVER
        self._wake = trio.Event()

    def note(self, ttl_ms: int) -> None:
        """A key was written that expires after so long, 0 = it does not."""
        if ttl_ms and self.engine.clock.now().wall_ms + ttl_ms < self._due_ms:
            self._wake.set()

    async def run(self) -> None:
        """Until canceled."""
        while True:
            self._wake = trio.Event()
            due_ms = self.engine.store.peek(kv.next_expiry)
            self._due_ms = NEVER if due_ms is None else due_ms
            left_ms = self._due_ms - self.engine.clock.now().wall_ms
            if due_ms is None:
                await self._wake.wait()
            elif left_ms > 0:
                with trio.move_on_after(min(left_ms / 1000, SLEEP_S_MAX)):
                    await self._wake.wait()
            else:
                await self._expire()

    async def _expire(self) -> None:
        try:
            await self.engine.write(lambda tx: kv.expire(tx, SLICE))
        except PlumError as error:
            log.warning("keys that have expired wait", extra={"reason": error.detail})
            await trio.sleep(AGAIN_S)
