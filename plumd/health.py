"""Who looks at endpoints that cannot speak for themselves, and what came of it.

A program of its own looks, lookout.py, so that looks are off the request path. It keeps its own
time and says what changed, so that the daemon's loop is not woken for endpoints that are as they
were. It is started when there is somebody to look at.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from math import inf
from typing import Final, TypeAlias

import msgspec
import trio

from plumd import companion
from plumd.balance import Endpoint, Key
from plumd.clock import Clock
from plumd.executors.targets import Policy
from plumd.lookout import Lines, Orders, Said, Terms, Watch, line_of

log = logging.getLogger("plumd.health")
LOOKOUT: Final = (*companion.PYTHON, "plumd.lookout")
START_S: Final = 30.0
"""So long a lookout may take to say its first word, on a machine that has much else to do."""
IDLE_AFTER_S: Final = 60.0
IDLE_AFTER_S_MAX: Final = 3600.0
"""The first lookout looks in time that nobody else wants. One that ended, as it does where there is
too little of that, has a successor who takes his share for so long, and the next for longer."""
SILENT_S: Final = 10.0
"""One that is silent for so long, while there is somebody to look at, is ended for another one."""
HOLD_TTLS: Final = 4
"""So long after a look who was well is believed to be: a machine that has no time for looks, or
lost who looks, has found nothing wrong with it."""
LINE_MAX: Final = 256
"""So many endpoints in a line: more would hold up the loop."""
ACTIVE: Final = ("http", "https", "tcp", "grpc")
"""Values of the label healthCheck."""


class Vouch:
    """The word of a lookout for all endpoints that it found well and looks at again and again."""

    def __init__(self) -> None:
        self.until_ns = 0
        self.seen_ms = 0


NOBODY: Final = Vouch()
"""Vouches for nothing."""

Judge: TypeAlias = Callable[[Endpoint, str, Vouch], None]
"""Told what a look came to, and who vouches for the endpoint until something else is told."""


class Health:
    """`run` in a nursery of the daemon's. ttl_ns: so long an endpoint is well without a sign; it is
    looked at in each third of that. revived: called when a word that had lapsed holds again."""

    def __init__(self, clock: Clock, ttl_ns: int, judge: Judge,
                 revived: Callable[[], None]) -> None:
        self.clock = clock
        self.ttl_ns = ttl_ns
        self._judge = judge
        self._revived = revived
        self._number = 0
        self._asked: dict[int, Watch] = {}
        self._numbers: dict[Key, int] = {}
        self._orders: Orders | None = None      # None: nobody is there to heed them
        self._vouch = Vouch()
        self._idle_after_s = 0.0
        self._wake = trio.Event()
        self._patience = trio.CancelScope()

    def look(self, endpoint: Endpoint, *, well: bool) -> None:
        """Have an endpoint looked at once, unless that is asked for already; well: how it is
        believed to be."""
        self._ask(endpoint, again=False, well=well)

    def watch(self, endpoint: Endpoint, *, well: bool) -> None:
        """Have it looked at again and again from now on, unless it is already."""
        self._ask(endpoint, again=True, well=well)

    def leave(self, key: Key) -> bool:
        """Have it looked at no longer, and nothing told of a look at it that is under way.
        Answers whether it was to be looked at."""
        number = self._numbers.pop(key, None)
        if number is None:
            return False
        del self._asked[number]
        if self._orders is not None:
            self._orders.leave.append(number)
            self._wake.set()
        return True

    @property
    def asked(self) -> int:
        """How many are to be looked at."""
        return len(self._asked)

    def _ask(self, endpoint: Endpoint, *, again: bool, well: bool) -> None:
        asked = self._asked.get(self._numbers.get(endpoint.key, 0))
        if asked is not None and asked.again == again and asked.endpoint == endpoint:
            return
        self.leave(endpoint.key)
        self._number += 1
        self._numbers[endpoint.key] = self._number
        self._asked[self._number] = watch = Watch(self._number, endpoint, again, well)
        if self._orders is not None:
            self._orders.watch.append(watch)
        self._wake.set()

    async def run(self, policy: Policy) -> None:
        """Until canceled. policy: where looks may go."""
        while not self._asked:
            await self._wake.wait()
            self._wake = trio.Event()

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
        self._vouch = Vouch()       # that of the one before it holds no longer than it said
        self._orders = Orders(list(self._asked.values()), [])
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._order, line, self._orders, policy)
                with trio.CancelScope() as self._patience:
                    await self._hear(line)
                nursery.cancel_scope.cancel()
        finally:
            self._orders = None
            self._idle_after_s = min(max(IDLE_AFTER_S, 2 * self._idle_after_s), IDLE_AFTER_S_MAX)

    async def _order(self, line: trio.abc.SendStream, orders: Orders, policy: Policy) -> None:
        try:
            await line.send_all(line_of(Terms.by(policy, self.ttl_ns / 3e9,
                                                 self._idle_after_s)))
            patience_s = START_S
            while True:
                self._wake = trio.Event()
                if (orders.watch or orders.leave) and self._patience.deadline == inf:
                    self._patience.deadline = trio.current_time() + patience_s
                    patience_s = SILENT_S
                while orders.watch or orders.leave:
                    await line.send_all(line_of(_first_of(orders)))
                await self._wake.wait()
        except trio.BrokenResourceError:
            pass        # it ended, and `_hear` hears that

    async def _hear(self, line: trio.abc.ReceiveStream) -> None:
        saying = msgspec.json.Decoder(Said)
        async for heard in Lines(line):
            try:
                said = saying.decode(heard)
            except ValueError as error:
                log.warning("what the lookout says is not understood",
                            extra={"reason": str(error)})
                return
            now = self.clock.now()
            lapsed = self._vouch.until_ns <= now.mono_ns
            self._vouch.until_ns = now.mono_ns + HOLD_TTLS * self.ttl_ns - said.late_ms * 1_000_000
            self._vouch.seen_ms = now.wall_ms - said.late_ms
            for number, why in said.found:
                self._take(number, why)
            if lapsed and now.mono_ns < self._vouch.until_ns:
                self._revived()
            self._patience.deadline = trio.current_time() + SILENT_S if self._asked else inf

    def _take(self, number: int, why: str) -> None:
        watch = self._asked.get(number)
        if watch is None:
            return      # nobody wants to know any more, or what was looked at is another one by now
        watch.well = not why
        if not watch.again:
            del self._asked[number], self._numbers[watch.endpoint.key]
        self._judge(watch.endpoint, why, self._vouch if watch.again and not why else NOBODY)


def _first_of(orders: Orders) -> Orders:
    """What goes into one line, taken from them: those who are to be left were told of before."""
    watch = orders.watch[:LINE_MAX]
    del orders.watch[:LINE_MAX]
    leave = [] if orders.watch else orders.leave[:]
    del orders.leave[:len(leave)]
    return Orders(watch, leave)
