"""Leases: one at a time has a lock or a device, for as long as he says that he is alive.

Whose a lease is, is decided on rows in a commit, with a token that is higher than all before it.
Until when it holds is known here: renewing writes nothing, and after a restart every lease has one
fresh time, for its owner could not renew it meanwhile. When a time is over its row goes, in a
commit too, and not before that somebody else gets it. Who waits stands in line, first come first
served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
import trio

from plumd.clock import Clock
from plumd.errors import LeaseHeld, LeaseLost, PlumError, TooMany, reason
from plumd.lease_book import Held, LeaseBook
from plumd.store import leases
from plumd.store.leases import Key, Lease
from plumd.store.store import Store, Tx, Write

log = logging.getLogger("plumd.leases")
T = TypeVar("T")
MS: Final = 1_000_000
SLICE: Final = 300
AGAIN_S: Final = 1.0
LATE_S: Final = 0.001
WAITING_MAX: Final = 10_000


class Standing(msgspec.Struct, frozen=True):
    """A lease, until when it holds (Unix ms) unless it is renewed, and how many wait for it."""

    lease: Lease
    until_ms: int
    waiting: int


class Leases:
    """All leases. `load` first; `run` in a nursery of the daemon's."""

    def __init__(self, store: Store, clock: Clock, write: Write) -> None:
        self.store = store
        self.clock = clock
        self._write = write
        self._book: LeaseBook[Key] = LeaseBook()
        self._bells: dict[int, trio.Event] = {}     # ticket -> rung when it may be its turn
        self._wake = trio.Event()

    def load(self) -> None:
        """Read who has what."""
        now_ns = self.clock.now().mono_ns
        for key, lease in self.store.peek(leases.every):
            self._book.put(key, lease.owner, lease.token, lease.ttl_ms * MS, now_ns)

    # ------------------------------------------------------------ for holders

    async def acquire(self, key: Key, owner: str, ttl_ms: int, wait_s: float) -> Standing:
        """Get a lease, waiting in line for it at most so long; an owner who has it keeps it.

        Raises: LeaseHeld, TooMany, and as Engine.write.
        Cancel: the place in line is given up; a lease that was just given stays for its time.
        """
        held = self._book.get(key)
        if held is not None and held.owner == owner and not held.ending:
            return await self._take(key, owner, ttl_ms)
        if len(self._bells) >= WAITING_MAX:
            raise TooMany(f"{WAITING_MAX} wait for leases already", retry_after_s=1)
        ticket = self._book.join(key)
        until = trio.current_time() + wait_s
        try:
            while True:
                bell = self._bells[ticket] = trio.Event()
                if self._book.get(key) is None and self._book.first(key) == ticket:
                    return await self._take(key, owner, ttl_ms)
                if trio.current_time() >= until:
                    raise self._held(key)
                with trio.move_on_at(until):
                    await bell.wait()
        finally:
            del self._bells[ticket]
            self._book.leave(key, ticket)
            self._ring(key)

    async def renew(self, key: Key, token: int, ttl_ms: int | None) -> Standing:
        """Begin its time anew, in memory alone; another ttl is written.

        Raises: LeaseLost, and as Engine.write.
        """
        held = self._book.get(key)
        if not self._book.renew(key, token, self.clock.now().mono_ns):
            raise lost(key, token, held)
        if ttl_ms is not None and held is not None and ttl_ms * MS != held.ttl_ns:
            return await self._change(key, lambda tx: leases.set_ttl(tx, key, token, ttl_ms))
        row = self.store.peek(leases.get, key)
        if row is None or row.token != token:
            raise lost(key, token, self._book.get(key))
        return self._standing(key, row)

    async def release(self, key: Key, token: int) -> None:
        """Give it up. Raises: LeaseLost, and as Engine.write."""
        await self._done(key, lambda tx: leases.release(tx, key, token))

    async def take_away(self, key: Key) -> bool:
        """Let nobody have it, whoever has; False when nobody had. Raises: as Engine.write."""
        return await self._done(key, lambda tx: leases.take_away(tx, key))

    async def _take(self, key: Key, owner: str, ttl_ms: int) -> Standing:
        return await self._change(key, lambda tx: leases.acquire(tx, key, owner, ttl_ms))

    async def _change(self, key: Key, fn: Callable[[Tx], Lease]) -> Standing:
        lease = await self._done(key, fn)
        self._book.put(key, lease.owner, lease.token, lease.ttl_ms * MS,
                       self.clock.now().mono_ns)
        self._wake.set()
        return self._standing(key, lease)

    async def _done(self, key: Key, fn: Callable[[Tx], T]) -> T:
        # Whoever asked may be gone before the commit; memory must follow it all the same.
        with trio.CancelScope(shield=True):
            try:
                value = await self._write(fn)
            finally:
                self._read_back(key)
        return value

    def _read_back(self, key: Key) -> None:
        row, held = self.store.peek(leases.get, key), self._book.get(key)
        if row is None:
            self._book.drop(key)
            self._ring(key)
        elif held is None or held.token != row.token:
            self._book.put(key, row.owner, row.token, row.ttl_ms * MS, self.clock.now().mono_ns)
            self._wake.set()

    def _ring(self, key: Key) -> None:
        """Let the first in line look."""
        first = self._book.first(key)
        if first is not None and self._book.get(key) is None and first in self._bells:
            self._bells[first].set()

    def _held(self, key: Key) -> LeaseHeld:
        held = self._book.get(key)
        if held is None:
            return LeaseHeld("others wait for it", more={"owner": "", **reason("others_wait")})
        return leases.held(held.owner)

    # ------------------------------------------------------------ questions

    @property
    def count(self) -> int:
        """How many somebody has."""
        return len(self._book)

    def holder(self, key: Key) -> Held | None:
        """Who has it, None when nobody does."""
        return self._book.get(key)

    def standing(self, key: Key) -> Standing | None:
        """A lease as it is, None when nobody has it."""
        row = self.store.peek(leases.get, key)
        return None if row is None else self._standing(key, row)

    async def every(self, kind: str, scope: str = "") -> list[Standing]:
        """All leases of a kind that somebody has, of a scope if one is named; by scope and name."""
        return [self._standing(key, row) for key, row in await self.store.read(leases.every)
                if key[0] == kind and scope in ("", key[1])]

    def _standing(self, key: Key, row: Lease) -> Standing:
        now, held = self.clock.now(), self._book.get(key)
        left_ns = 0 if held is None else max(0, held.until_ns - now.mono_ns)
        return Standing(row, now.wall_ms + left_ns // MS, self._book.waiting(key))

    # ------------------------------------------------------------ in the background

    async def run(self) -> None:
        """End leases whose time is over; sleeps until there is one. Until canceled."""
        while True:
            self._wake = trio.Event()
            now_ns = self.clock.now().mono_ns
            due = self._book.due(now_ns, SLICE)
            if due:
                await self._expire(due)
                continue
            next_ns = self._book.next_due_ns()
            if next_ns is None:
                await self._wake.wait()
                continue
            with trio.move_on_after(max(0, next_ns - now_ns) / 1e9 + LATE_S):
                await self._wake.wait()

    async def _expire(self, due: list[tuple[Key, int]]) -> None:
        failed = True
        try:
            await self._write(lambda tx: leases.expire(tx, due))
            failed = False
        except PlumError as error:
            log.warning("leases that are over wait", extra={"reason": error.detail})
        finally:
            for key, token in due:
                self._read_back(key)
                self._book.still(key, token)
        if failed:
            await trio.sleep(AGAIN_S)


def lost(key: Key, token: int, held: Held | None) -> LeaseLost:
    """A token that is none any more."""
    what = ("nobody has it now" if held is None or held.token == token
            else f"{held.owner} has it, with token {held.token}")
    return LeaseLost(f"token {token} of {key[0]} {key[2]!r} is stale: {what}", field="token")
