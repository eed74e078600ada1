"""The session of a gRPC stream worker: what its protocol has no word for is settled here."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final, TypeAlias

import msgspec
import trio

from plumd.engine import Ask, Engine
from plumd.errors import PlumError
from plumd.model import Ending, Finish, Join, TaskError
from plumd.sdk.protocol import Result, Up
from plumd.store.blobs import Blobs
from plumd.stream.session import Session

log = logging.getLogger("plumd.stream")
AGAIN_S: Final = 0.5
IN_HAND_MAX: Final = 8

Pair: TypeAlias = tuple[int, int]
"""(task id, attempt number)"""


class Untold(msgspec.Struct, frozen=True, rename="camel"):
    """error.detail of an attempt whose worker could not be told to stop."""

    worker_told: bool = False
    result_discarded: bool = True


class Owed:
    """Results of one hand-in that are not durable yet."""

    def __init__(self, results: list[Result]) -> None:
        self.results = results
        self.ask: Ask | None = None


class GrpcSession(Session):
    """A session whose worker hears nothing but attempts, and says each result but once."""

    def __init__(self, engine: Engine, blobs: Blobs, join: Join) -> None:
        super().__init__(engine, blobs, join)
        self._owed: deque[Owed] = deque()

    @property
    def undelivered(self) -> set[Pair]:
        """Attempts that never went out on this stream."""
        return set(self._given)

    def stop(self, worker_id: str, task_id: int, attempt: int, reason: str) -> None:
        if reason == "stale":
            return
        ending = Ending.TIMEOUT if reason == "timeout" else Ending.CANCELED
        error = TaskError(reason, "it had not gone out to the worker")
        if self._given.pop((task_id, attempt), None) is None:
            error = TaskError(reason, "the worker cannot be told to stop, and what it answers is "
                              "discarded", detail=msgspec.Raw(msgspec.json.encode(Untold())))
        try:
            self.engine.post([Finish(task_id, attempt, worker_id, ending, error=error)],
                             urgent=True)
        except PlumError:
            # The disk is down. The core is rebuilt when it is back, and asks for the stop again.
            log.debug("a stop waits for the disk")

    async def bring_in(self, results: list[Result]) -> None:
        """Hand results in, a few ahead of the commit. Cancel: `settle` does the rest."""
        self._owed.append(owed := Owed(results))
        try:
            owed.ask = await self.hand_in(Up(results=results))
        except PlumError:
            await self.settle()
            return
        while self._owed and is_durable(self._owed[0].ask):
            self._owed.popleft()
        if self.in_hand >= IN_HAND_MAX:
            await owed.ask.done.wait()

    async def settle(self) -> None:
        """Return when all that was brought is durable, however long the disk is away."""
        while self._owed:
            owed = self._owed[0]
            try:
                owed.ask = owed.ask or await self.hand_in(Up(results=owed.results))
                await owed.ask.done.wait()
            except PlumError:
                owed.ask = None
            if is_durable(owed.ask):
                self._owed.popleft()
                continue
            owed.ask = None
            await trio.sleep(AGAIN_S)


def is_durable(ask: Ask | None) -> bool:
    """Whether what was asked is on disk."""
    return ask is not None and ask.done.is_set() and ask.error is None
