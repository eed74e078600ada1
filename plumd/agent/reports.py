"""Tells the controller how instances are: each end, and beside that the latest word; again until it
is heard."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from typing import Final, final

import trio

from plumd.agent.assigned import Report
from plumd.agent.http import Answer, CallFailed, Http

log = logging.getLogger("plumd.agent")
AGAIN_S: Final = 1.0
AGAIN_S_MAX: Final = 15.0
UNKNOWN: Final = 404
ENDS: Final = ("Failed", "Completed")
ENDS_MAX: Final = 20
TOGETHER_MAX: Final = 100


@final
class Reports:
    """What is still to be told."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._waiting: dict[str, list[Report]] = {}
        self._news = trio.Event()
        self._heard = trio.Event()
        self._ours = trio.Event()
        self._anothers = False
        self.together = False
        """Whether the controller takes several reports at once."""

    def heard_again(self) -> None:
        """The controller is heard after it was not: what waits is told now."""
        self._http.hang_up()
        self._heard.set()

    def owns(self, is_ours: bool) -> None:
        """Whether the node is ours. Before that is known nothing is told; of another's node nothing
        is ever told, for the instances of that name are not those that we had."""
        self._anothers = not is_ours
        if is_ours:
            self._ours.set()
        else:
            self._ours = trio.Event()
            self._waiting.clear()

    def tell(self, report: Report) -> None:
        """Tell this; of what was to be told of the same instance before only ends are still told.
        """
        if self._anothers:
            return
        before = self._waiting.pop(report.instance_id, [])
        ends = [one for one in before if one.phase in ENDS and one != report]
        self._waiting[report.instance_id] = [*ends[-ENDS_MAX:], report]
        self._news.set()

    async def run(self) -> None:
        """Tell, until canceled."""
        pause_s = AGAIN_S
        while True:
            if not self._waiting:
                self._news = trio.Event()
                await self._news.wait()
                continue
            if not self._ours.is_set():
                await self._ours.wait()
                continue
            count = TOGETHER_MAX if self.together else 1
            first = [waiting[0] for waiting in islice(self._waiting.values(), count)]
            if done := await self._say_all(first):
                pause_s = AGAIN_S
                for report in done:
                    self._forget(report)
            else:
                with trio.move_on_after(pause_s) as pausing:
                    await self._heard.wait()
                self._heard = trio.Event()
                pause_s = min(2 * pause_s, AGAIN_S_MAX) if pausing.cancelled_caught else AGAIN_S

    def _forget(self, report: Report) -> None:
        """It was told. Others of the instance may have come meanwhile."""
        left = [one for one in self._waiting.get(report.instance_id, ()) if one is not report]
        if left:
            self._waiting[report.instance_id] = left
        else:
            self._waiting.pop(report.instance_id, None)

    async def _say_all(self, reports: Sequence[Report]) -> Sequence[Report]:
        """Tell several at once; those that were heard, or never will be. Where one of them spoils
        the others it is told alone."""
        if len(reports) == 1:
            return reports if await self._say(reports[0]) else ()
        answer = await self._call({"items": reports})
        if answer is None or answer.ok:
            return reports if answer is not None else ()
        return reports[:1] if await self._say(reports[0]) else ()

    async def _say(self, report: Report) -> bool:
        """Whether it was heard, or never will be."""
        answer = await self._call(report)
        if answer is None or answer.ok or answer.status == UNKNOWN:
            return answer is not None
        log.warning("a report was not taken", extra={
            "instance_id": report.instance_id, "reason": answer.problem})
        return answer.status < 500 and answer.status != 429

    async def _call(self, body: object) -> Answer | None:
        """What the controller answers, None when nothing came."""
        try:
            return await self._http.call("POST", "v1/instances/status", body)
        except CallFailed as error:
            log.debug("reports wait", extra={"reason": str(error)})
            return None
