"""Connections that are kept between calls, by the place to which they lead.

Whoever calls out makes the connections and knows which are still good; here is how many there may
be, how long they may idle, and how many calls a place gets at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, Protocol, TypeVar

import trio

IDLE_MAX: Final = 256


class Closable(Protocol):
    """A connection. expires: when nobody wants it any more, in Trio's time."""

    expires: float

    def close(self) -> None:
        """Close it at once."""


L = TypeVar("L", bound=Closable)


class Place(Generic[L]):
    """A place that is being called: its idle connections, and the bound on its calls."""

    def __init__(self, calls_max: int) -> None:
        self.idle: list[L] = []
        self.calls = 0
        self.limiter = trio.CapacityLimiter(calls_max)


class Kept(Generic[L]):
    """All places that are called, or to which connections are kept.

    calls_max: how many calls a place gets at once.  keep_s: how long a connection may idle.
    """

    def __init__(self, calls_max: int, keep_s: float) -> None:
        self.keep_s = keep_s
        self.count = 0
        """How many connections are kept for the next call."""
        self.places: dict[Hashable, Place[L]] = {}
        self._calls_max = calls_max
        self._news = trio.Event()

    async def run(self) -> None:
        """Close connections that nobody used for a while, and all of them at the end."""
        try:
            while True:
                if not self.count:
                    self._news = trio.Event()
                    await self._news.wait()
                await trio.sleep_until(min(
                    line.expires for place in self.places.values() for line in place.idle))
                self._close_until(trio.current_time())
        finally:
            self.close()

    def close(self) -> None:
        """Close all idle connections."""
        self._close_until(float("inf"))

    @contextmanager
    def calling(self, where: Hashable) -> Iterator[Place[L]]:
        """The place that a call goes to; it is known as long as somebody calls it."""
        place = self.places.setdefault(where, Place(self._calls_max))
        place.calls += 1
        try:
            yield place
        finally:
            place.calls -= 1
            self._forget_unused(where, place)

    def take(self, place: Place[L]) -> L | None:
        """The connection that was used last, unless it has idled for too long."""
        while place.idle:
            line = place.idle.pop()
            self.count -= 1
            if trio.current_time() < line.expires:
                return line
            line.close()
        return None

    def keep(self, place: Place[L], line: L) -> bool:
        """Keep a connection for the next call; False: there are too many, close it."""
        if self.count >= IDLE_MAX:
            return False
        line.expires = trio.current_time() + self.keep_s
        place.idle.append(line)
        self.count += 1
        self._news.set()
        return True

    def _close_until(self, time: float) -> None:
        for where, place in list(self.places.items()):
            left = [line for line in place.idle if line.expires > time]
            for line in place.idle:
                if line.expires <= time:
                    line.close()
            self.count -= len(place.idle) - len(left)
            place.idle = left
            self._forget_unused(where, place)

    def _forget_unused(self, where: Hashable, place: Place[L]) -> None:
        if not place.calls and not place.idle:
            self.places.pop(where, None)
