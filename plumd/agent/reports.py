"""Tells the controller how instances are: each end, and beside that the latest word; again until it
is heard."""

from __future__ import annotations

import logging
from typing import Final, final

import trio

from plumd.agent.assigned import Report
from plumd.agent.http import CallFailed, Http

log = logging.getLogger("plumd.agent")
AGAIN_S: Final = 1.0
AGAIN_S_MAX: Final = 15.0
UNKNOWN: Final = 404
ENDS: Final = ("Failed", "Completed")
ENDS_MAX: Final = 20


@final
class Reports:
    """What is still to be told."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._waiting: dict[str, list[Report]] = {}
        self._news = trio.Event()
        self._told = trio.Event()
        self._heard = trio.Event()

    def heard_again(self) -> None:
        """The controller is heard after it was not: what waits is told now."""
        self._http.hang_up()
        self._heard.set()

    def tell(self, report: Report) -> None:
        """Tell this; of what was to be told of the same instance before only ends are still told.
        """
        before = self._waiting.pop(report.instance_id, [])
        ends = [one for one in before if one.phase in ENDS and one != report]
        self._waiting[report.instance_id] = [*ends[-ENDS_MAX:], report]
        self._news.set()

    async def flushed(self) -> None:
        """Return when nothing waits to be told."""
        while self._waiting:
            self._told = trio.Event()
            await self._told.wait()

    async def run(self) -> None:
        """Tell, until canceled."""
        pause_s = AGAIN_S
        while True:
            while not self._waiting:
                self._news = trio.Event()
                await self._news.wait()
            instance_id, reports = next(iter(self._waiting.items()))
            report = reports[0]
            if await self._say(report):
                pause_s = AGAIN_S
                left = [one for one in self._waiting[instance_id] if one is not report]
                self._waiting[instance_id] = left
                if not left:
                    del self._waiting[instance_id]
                self._told.set()
            else:
                with trio.move_on_after(pause_s) as pausing:
                    await self._heard.wait()
                self._heard = trio.Event()
                pause_s = min(2 * pause_s, AGAIN_S_MAX) if pausing.cancelled_caught else AGAIN_S

    async def _say(self, report: Report) -> bool:
        """Whether it was heard, or never will be."""
        try:
            answer = await self._http.call("POST", "v1/instances/status", report)
        except CallFailed as error:
            log.debug("a report waits", extra={"reason": str(error)})
            return False
        if answer.ok or answer.status == UNKNOWN:
            return True
        log.warning("a report was not taken", extra={
            "instance_id": report.instance_id, "reason": answer.problem})
        return answer.status < 500 and answer.status != 429
