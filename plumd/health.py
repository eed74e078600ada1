"""Looks at endpoints that cannot speak for themselves: off the request path, so many at once.

Those that were well when they were looked at last have a lane of their own, so that a crowd of dead
ones, each of which takes its whole time, delays no news of the living.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from plumd.balance import Endpoint, Key
from plumd.clock import Clock

CHECK_S: Final = 2.0
WELL_MAX: Final = 256
SICK_MAX: Final = 32
ACTIVE: Final = ("http", "https", "tcp", "grpc")
"""Values of the label healthCheck."""

Check: TypeAlias = Callable[[Endpoint], Awaitable[str]]
"""Why an endpoint does not seem to work, "" when it does."""
Find: TypeAlias = Callable[[Key], "tuple[Endpoint, bool] | None"]
"""(endpoint, whether it was well); None: it is gone."""
Judge: TypeAlias = Callable[[Key, str], None]
"""Told what a look came to."""


class Health:
    """`run` in a nursery of the daemon's."""

    def __init__(self, clock: Clock, check: Check, find: Find, judge: Judge) -> None:
        self.clock = clock
        self.check = check
        self._find = find
        self._judge = judge
        self._due: list[tuple[int, Key]] = []
        self._at: dict[Key, int] = {}
        self._well = trio.CapacityLimiter(WELL_MAX)
        self._sick = trio.CapacityLimiter(SICK_MAX)
        self._wake = trio.Event()

    def look(self, key: Key, at_ns: int) -> None:
        """Look at an endpoint at this time, unless it is to be looked at earlier anyway."""
        if self._at.get(key, 1 << 62) <= at_ns:
            return
        self._at[key] = at_ns
        heapq.heappush(self._due, (at_ns, key))
        self._wake.set()

    @property
    def waiting(self) -> int:
        """How many are to be looked at."""
        return len(self._at)

    async def run(self) -> None:
        """Until canceled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                now_ns = self.clock.now().mono_ns
                while self._due and self._due[0][0] <= now_ns:
                    at_ns, key = heapq.heappop(self._due)
                    if self._at.get(key) == at_ns:
                        nursery.start_soon(self._look, key)
                        self._at[key] = -1          # it is under way
                if not self._due:
                    await self._wake.wait()
                    continue
                with trio.move_on_after((self._due[0][0] - now_ns) / 1e9):
                    await self._wake.wait()

    async def _look(self, key: Key) -> None:
        found = self._find(key)
        if found is not None:
            async with self._well if found[1] else self._sick:
                why = f"no answer within {CHECK_S:g} s"
                with trio.move_on_after(CHECK_S):
                    why = await self.check(found[0])
        self._at.pop(key, None)
        if found is not None:
            self._judge(key, why)
