"""When endpoints that cannot speak for themselves are looked at, and how many at once.

A program of its own looks, lookout.py, so that looks are off the request path and cost the
daemon's loop a line of many now and then. It is started when there is somebody to look at.

Those that were well when they were looked at last have a lane of their own, so that a crowd of dead
ones, each of which takes its whole time, delays no news of the living.
"""

from __future__ import annotations

import heapq
import logging
import subprocess
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final, TypeAlias

import msgspec
import trio

from plumd import companion
from plumd.balance import Endpoint, Key
from plumd.clock import Clock
from plumd.executors.targets import Policy
from plumd.lookout import Allowed, Found, Lines, line_of

log = logging.getLogger("plumd.health")
LOOKOUT: Final = (*companion.PYTHON, "plumd.lookout")
WELL_MAX: Final = 256
SICK_MAX: Final = 32
EARLY_NS: Final = 20_000_000
"""So much earlier one is looked at, with those that are due: each line wakes two programs."""
SILENT_S: Final = 30.0
"""A lookout that says nothing for so long, while it looks, is ended for another one. Its start is
in this, on a machine that has much else to do."""
ACTIVE: Final = ("http", "https", "tcp", "grpc")
"""Values of the label healthCheck."""
UNDER_WAY: Final = -1

Find: TypeAlias = Callable[[Key], "tuple[Endpoint, bool] | None"]
"""(endpoint, whether it was well); None: it is gone."""
Judge: TypeAlias = Callable[[Key, str], None]
"""Told what a look came to."""


class Lane:
    """Who waits to be looked at, and who is looked at, at most so many."""

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.waiting: deque[Key] = deque()
        self.looked_at: dict[Key, Endpoint] = {}


class Health:
    """`run` in a nursery of the daemon's."""

    def __init__(self, clock: Clock, find: Find, judge: Judge) -> None:
        self.clock = clock
        self._find = find
        self._judge = judge
        self._due: list[tuple[int, Key]] = []
        self._at: dict[Key, int] = {}
        self._well, self._sick = self._lanes = Lane(WELL_MAX), Lane(SICK_MAX)
        self._wake = trio.Event()
        self._patience = trio.CancelScope()

    def look(self, key: Key, at_ns: int) -> None:
        """Look at an endpoint at this time, unless it is to be looked at earlier anyway."""
        if self._at.get(key, 1 << 62) <= at_ns:
            return
        self._at[key] = at_ns
        heapq.heappush(self._due, (at_ns, key))
        if self._due[0][0] == at_ns:
            self._wake.set()

    @property
    def waiting(self) -> int:
        """How many are to be looked at."""
        return len(self._at)

    async def run(self, policy: Policy) -> None:
        """Until canceled. policy: where looks may go."""
        await self._wake.wait()

        async def live(process: trio.Process) -> None:
            assert process.stdio is not None, "it has two pipes"
            try:
                await self.talk(process.stdio, policy)
            finally:
                process.kill()      # it has nothing to leave in order, and may hang

        await companion.keep("lookout", LOOKOUT, live, stdout=subprocess.PIPE)

    async def talk(self, line: trio.abc.Stream, policy: Policy) -> None:
        """Let the lookout at the other end look; until it ends, is not understood, or has
        been silent for too long."""
        for lane in self._lanes:        # what the one before it did not come to say
            lane.waiting.extendleft(lane.looked_at)
            lane.looked_at.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask, line, policy)
            with trio.CancelScope() as self._patience:
                await self._hear(line)
            nursery.cancel_scope.cancel()

    async def _ask(self, line: trio.abc.SendStream, policy: Policy) -> None:
        try:
            await line.send_all(line_of(Allowed.by(policy)))
            while True:
                self._wake = trio.Event()
                now_ns = self.clock.now().mono_ns
                self._line_up(now_ns + EARLY_NS)
                resting = not self._looking
                if looks := [look for lane in self._lanes for look in self._let_in(lane)]:
                    if resting:
                        self._be_patient()
                    await line.send_all(line_of(looks))
                with trio.move_on_after((self._due[0][0] - now_ns) / 1e9 if self._due else inf):
                    await self._wake.wait()
        except trio.BrokenResourceError:
            pass        # it ended, and `_hear` hears that

    def _line_up(self, until_ns: int) -> None:
        while self._due and self._due[0][0] <= until_ns:
            at_ns, key = heapq.heappop(self._due)
            if self._at.get(key) == at_ns:
                found = self._find(key)
                if found is None:
                    del self._at[key]
                else:
                    self._at[key] = UNDER_WAY
                    (self._well if found[1] else self._sick).waiting.append(key)

    def _let_in(self, lane: Lane) -> list[Endpoint]:
        looks = []
        while lane.waiting and len(lane.looked_at) < lane.size_max:
            key = lane.waiting.popleft()
            found = self._find(key)
            if found is None:
                del self._at[key]
            else:
                lane.looked_at[key] = found[0]
                looks.append(found[0])
        return looks

    @property
    def _looking(self) -> bool:
        return any(lane.looked_at for lane in self._lanes)

    def _be_patient(self) -> None:
        self._patience.deadline = trio.current_time() + SILENT_S if self._looking else inf

    async def _hear(self, line: trio.abc.ReceiveStream) -> None:
        saying = msgspec.json.Decoder(list[Found])
        async for said in Lines(line):
            try:
                found = saying.decode(said)
            except ValueError as error:
                log.warning("what the lookout says is not understood",
                            extra={"reason": str(error)})
                return
            for key, why in found:
                self._take(key, why)
            self._be_patient()
            if any(lane.waiting for lane in self._lanes):
                self._wake.set()

    def _take(self, key: Key, why: str) -> None:
        """What a look came to counts, unless it was at what is another one by now."""
        for lane in self._lanes:
            asked = lane.looked_at.pop(key, None)
            if asked is not None:
                del self._at[key]
                found = self._find(key)
                if found is not None and found[0] is not asked:
                    self.look(key, self.clock.now().mono_ns)
                else:
                    self._judge(key, why)
