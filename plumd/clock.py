"""The only room that reads time and randomness."""

from __future__ import annotations

import os
import time
from typing import NamedTuple, Protocol


class Instant(NamedTuple):
    """One moment on both clocks. mono_ns drives every timer; wall_ns is what people see."""

    mono_ns: int
    wall_ns: int

    @property
    def wall_ms(self) -> int:
        """Unix milliseconds, as on the wire."""
        return self.wall_ns // 1_000_000


class Clock(Protocol):
    """Where the engine gets its time."""

    def now(self) -> Instant:
        """The present moment; mono_ns never goes backwards."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Instant:
        return Instant(time.monotonic_ns(), time.time_ns())


def draw_seed() -> int:
    """64 random bits for the core's generator."""
    return int.from_bytes(os.urandom(8), "little")
