"""Workers that give signs of life and take nothing, while work waits for them: an alert says so.

Such a worker's beats come by another way than its work: its stream is cut by something between,
or the address at which it is called leads nowhere.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from plumd.engine import Engine
from plumd.errors import PlumError
from plumd.store.store import Tx

log = logging.getLogger("plumd.silence")

LOOK_S: Final = 5.0
"""Silence is nothing that happens, so it is looked for; a look costs microseconds."""
ALERT_NS: Final = 50_000_000_000
"""With the time between two looks before and behind it, no more than a minute."""
HEARD_NS: Final = 30_000_000_000
"""A sign of life that is older is none."""
DETAIL: Final = "it gives signs of life and takes nothing, while tasks wait for it"


class Silence:
    """`run` in a nursery of the daemon's."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._since_ns: dict[str, int] = {}
        self._told: set[str] = set()

    async def run(self) -> None:
        """Until canceled."""
        while True:
            await trio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Tell of those that have been silent for too long: once, until they take something."""
        now_ns = self.engine.clock.now().mono_ns
        silent = self.engine.core.silent(now_ns - HEARD_NS)
        self._since_ns = {one: since_ns or self._since_ns.get(one, now_ns)
                          for one, since_ns in silent}
        self._told &= self._since_ns.keys()
        for worker_id, since_ns in self._since_ns.items():
            if now_ns - since_ns >= ALERT_NS and worker_id not in self._told:
                await self._tell(worker_id)

    async def _tell(self, worker_id: str) -> None:
        def write(tx: Tx) -> None:
            tx.emit("alert", "worker_silent", worker_id, DETAIL, tx.now_ms)

        try:
            await self.engine.write(write)
        except PlumError as error:
            log.warning("an alert waits", extra={"reason": error.detail})
        else:
            self._told.add(worker_id)
            log.warning("a worker takes nothing", extra={"worker_id": worker_id, "why": DETAIL})
