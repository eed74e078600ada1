"""Looks at endpoints: a program of its own beside the daemon, whose loop has tasks to dispatch.

    python -m plumd.lookout

It reads lines of JSON: first where it may call and how often it looks, then who is to be looked at,
once or again and again, and who no longer. It says what it found where that is not what it said
before, and in each beat that the others are as they were: so a thousand endpoints that are well
cost the daemon one line a second. It keeps nothing that the daemon cannot tell another one.

Those that were well when they were looked at last have a lane of their own, so that a crowd of dead
ones, each of which takes its whole time, delays no news of the living.
"""

from __future__ import annotations

import heapq
import ipaddress
import logging
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Final, Self, TypeAlias

import msgspec
import trio

from plumd.balance import Endpoint
from plumd.executors.checks import Checks
from plumd.executors.grpc_client import GrpcClient
from plumd.executors.outgoing import Client
from plumd.executors.targets import Policy

log = logging.getLogger("plumd.lookout")
WELL_MAX: Final = 256
SICK_MAX: Final = 32
CHECK_S: Final = 2.0
WHY_CHARS_MAX: Final = 1_000
"""The far side may write part of it."""
TICK_S: Final = 0.1
BEATS: Final = 5
"""So many in the time between two looks at an endpoint."""
BEAT_S_MAX: Final = 2.0
"""So long is between two of them at most: one that is silent is taken for one that hangs."""
TELL_S: Final = 0.02
"""So long findings are gathered: each line wakes the daemon."""
EARLY_S: Final = 0.02
"""So much earlier one is looked at, with those that are due: fewer wake-ups, a fifth less time."""
STEP_S: Final = 0.001
STEP_LOOKS: Final = 4
"""Many looks begin one after the other: at once they would hold a processor that a task may be
waiting for."""
SPREAD: Final = (5 ** 0.5 - 1) / 2
"""Multiples of the golden ratio are spread evenly, however many there are."""

Check: TypeAlias = Callable[[Endpoint], Awaitable[str]]
"""Why an endpoint does not seem to work, "" when it does."""


class Terms(msgspec.Struct, frozen=True):
    """How to look, the first line of all: where calls may go (see Policy), how often, and after
    how long only in time that nobody else wants."""

    networks: tuple[str, ...]
    listeners: tuple[tuple[str, int], ...]
    every_s: float
    idle_after_s: float

    @classmethod
    def by(cls, policy: Policy, every_s: float, idle_after_s: float) -> Self:
        """What a policy allows, so often."""
        return cls(tuple(map(str, policy.networks)), tuple(policy.listeners), every_s,
                   idle_after_s)

    @property
    def policy(self) -> Policy:
        """The policy that was said."""
        return Policy(tuple(map(ipaddress.ip_network, self.networks)), frozenset(self.listeners))


class Watch(msgspec.Struct):
    """An endpoint to be looked at, `again` and again or once; well: how it is believed to be.

    Its number is never that of another one, of the same endpoint neither.
    """

    number: int
    endpoint: Endpoint
    again: bool
    well: bool


class Orders(msgspec.Struct, frozen=True):
    """Whom to look at from now on, and whom no longer."""

    watch: list[Watch]
    leave: list[int]


class Said(msgspec.Struct, frozen=True):
    """What was found, by numbers: news only. Everyone else who is looked at again and again is as
    was said last, and was looked at when it was due or at most `late_ms` later."""

    found: list[tuple[int, str]]
    late_ms: int


class Lines:
    """The lines of a stream, to its end."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            seen = len(self._buffer)
            data = await self._stream.receive_some()
            if not data:
                raise StopAsyncIteration
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[:end + 1]
        return line


def line_of(value: Terms | Orders | Said) -> bytes:
    """A value as a line."""
    return msgspec.json.encode(value) + b"\n"


class Lane:
    """Who is due, with the time when it was, and how many are looked at, at most so many."""

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.waiting: deque[tuple[float, Watch]] = deque()
        self.looks = 0


class Lookout:
    """Looks like this, at each endpoint so often."""

    def __init__(self, check: Check, every_s: float) -> None:
        self.check = check
        self.every_s = every_s
        self._watches: dict[int, Watch] = {}
        self._said: dict[int, str] = {}
        self._due: list[tuple[float, int]] = []
        self._well, self._sick = self._lanes = Lane(WELL_MAX), Lane(SICK_MAX)
        self._wake = trio.Event()
        self._found: list[tuple[int, str]] = []
        self._news = trio.Event()
        self._ticks = 0
        self._looks: deque[tuple[int, trio.CancelScope]] = deque()
        self._begun = trio.Event()

    async def serve(self, asked: Lines, told: trio.abc.SendStream) -> None:
        """Until nobody asks any more."""
        asking = msgspec.json.Decoder(Orders)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, told)
            nursery.start_soon(self._begin_looks, nursery)
            nursery.start_soon(self._give_up)
            async for line in asked:
                self._heed(asking.decode(line))
            nursery.cancel_scope.cancel()

    def _heed(self, orders: Orders) -> None:
        now_s = trio.current_time()
        for watch in orders.watch:
            self._watches[watch.number] = watch
            later_s = watch.number * SPREAD % 1 * self.every_s if watch.again else 0.0
            heapq.heappush(self._due, (now_s + later_s, watch.number))
        for number in orders.leave:
            self._watches.pop(number, None)
            self._said.pop(number, None)
        self._wake.set()
        self._news.set()        # a beat: we are here

    async def _begin_looks(self, nursery: trio.Nursery) -> None:
        while True:
            self._wake = trio.Event()
            now_s = trio.current_time()
            while self._due and self._due[0][0] <= now_s + EARLY_S:
                at_s, number = heapq.heappop(self._due)
                watch = self._watches.get(number)
                if watch is not None:
                    (self._well if watch.well else self._sick).waiting.append((at_s, watch))
            begun = [self._begin(lane, nursery) for lane in self._lanes]
            if STEP_LOOKS in begun:
                await trio.sleep(STEP_S)
                continue
            with trio.move_on_after(self._due[0][0] - now_s if self._due else inf):
                await self._wake.wait()

    def _begin(self, lane: Lane, nursery: trio.Nursery) -> int:
        begun = 0
        while lane.waiting and lane.looks < lane.size_max and begun < STEP_LOOKS:
            _, watch = lane.waiting.popleft()
            if watch.number in self._watches:
                lane.looks += 1
                begun += 1
                nursery.start_soon(self._look, watch, lane)
        return begun

    async def _look(self, watch: Watch, lane: Lane) -> None:
        why = f"no answer within {CHECK_S:g} s"
        with trio.CancelScope() as scope:
            self._looks.append((self._ticks, scope))
            self._begun.set()
            try:
                why = await self.check(watch.endpoint)
            except Exception as error:  # a defect that one meets must not end looks at the others
                log.exception("a look failed")
                why = f"the look at it failed: {error!r}"
        lane.looks -= 1
        if lane.waiting:
            self._wake.set()
        if watch.number in self._watches:
            self._note(watch, why[:WHY_CHARS_MAX])

    def _note(self, watch: Watch, why: str) -> None:
        if self._said.get(watch.number) != why:
            self._found.append((watch.number, why))
            self._news.set()
        if watch.again:
            self._said[watch.number] = why
            watch.well = not why
            heapq.heappush(self._due, (trio.current_time() + self.every_s, watch.number))
            self._wake.set()
        else:
            del self._watches[watch.number]

    async def _give_up(self) -> None:
        """End looks that take too long, by a clock that goes no faster than we: where the machine
        has little time for us, an answer that lies there unread is not late."""
        while True:
            if not self._looks:
                self._begun = trio.Event()
                await self._begun.wait()
            await trio.sleep(TICK_S)
            self._ticks += 1
            while self._looks and (self._ticks - self._looks[0][0]) * TICK_S > CHECK_S:
                self._looks.popleft()[1].cancel()

    async def _tell(self, told: trio.abc.SendStream) -> None:
        beat_s = min(self.every_s / BEATS, BEAT_S_MAX)
        with suppress(trio.BrokenResourceError):    # nobody listens, so nobody asks, either
            while True:
                with trio.move_on_after(beat_s if self._watches else inf):
                    await self._news.wait()
                self._news = trio.Event()
                found, self._found = self._found, []
                await told.send_all(line_of(Said(found, round(self.late_s() * 1e3))))
                await trio.sleep(TELL_S)

    def late_s(self) -> float:
        """How long the look that should have begun first has been due."""
        now_s = trio.current_time()
        due_s = (first[0][0] for first in (self._well.waiting, self._due) if first)
        return max(0.0, now_s - min(due_s, default=now_s))


async def make_way(after_s: float, lookout: Lookout, ended: trio.CancelScope) -> None:
    """Look only in time that nobody else wants, from then on, and end where there is too little of
    it: from SCHED_IDLE nobody comes back without privileges, but another one can take our place.

    At any other priority it makes the daemon's tasks wait now and then, whatever its nice value.
    """
    await trio.sleep(after_s)
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError as error:        # somebody's filter of system calls
        log.warning("looks cannot be made behind everything else: %s", error)
        return
    while not ended.cancel_called:
        await trio.sleep(lookout.every_s)
        if lookout.late_s() > lookout.every_s:
            ended.cancel()


async def run(asked: Lines, told: trio.abc.SendStream) -> None:
    """The whole program, until `asked` ends."""
    terms = msgspec.json.decode(await anext(asked), type=Terms)
    client = Client(terms.policy)
    grpc = GrpcClient(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        nursery.start_soon(grpc.run)
        lookout = Lookout(Checks(client, grpc).check, terms.every_s)
        nursery.start_soon(make_way, terms.idle_after_s, lookout, nursery.cancel_scope)
        await lookout.serve(asked, told)
        nursery.cancel_scope.cancel()


async def main() -> None:
    """By stdin and stdout."""
    for number in (signal.SIGINT, signal.SIGHUP):   # the terminal's are for the daemon
        signal.signal(number, signal.SIG_IGN)
    with suppress(StopAsyncIteration):              # the daemon went before it said a word
        await run(Lines(trio.lowlevel.FdStream(os.dup(0))), trio.lowlevel.FdStream(os.dup(1)))


if __name__ == "__main__":
    trio.run(main)
