"""The only room that reads time and randomness."""

from __future__ import annotations

import base64
import ctypes
import os
import struct
import time
from collections.abc import AsyncIterator
from typing import Final, NamedTuple, Protocol

import trio

CLOCK_REALTIME: Final = 0
TFD_NONBLOCK: Final = os.O_NONBLOCK
TFD_CLOEXEC: Final = os.O_CLOEXEC
TFD_ABSTIME_CANCEL_ON_SET: Final = 1 | 2
FAR_S: Final = 1 << 40
LOOK_S: Final = 10.0


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


def draw_token(count: int) -> str:
    """So many random bytes, as a text that any URL and header takes."""
    return base64.urlsafe_b64encode(os.urandom(count)).decode().rstrip("=")


async def wall_steps() -> AsyncIterator[None]:
    """Once for each time that the wall clock is set (by a person, by NTP, after a sleep).

    The kernel tells it; where there is no timerfd one looks now and then.
    Source: timerfd_create(2), TFD_TIMER_CANCEL_ON_SET.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "timerfd_create"):
        while True:
            await trio.sleep(LOOK_S)
            yield
    fd = libc.timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    try:
        while True:
            far = struct.pack("@llll", 0, 0, FAR_S, 0)
            libc.timerfd_settime(fd, TFD_ABSTIME_CANCEL_ON_SET, far, None)
            yield       # also once at the beginning, and after each: no step falls between
            await trio.lowlevel.wait_readable(fd)
            try:
                os.read(fd, 8)
            except OSError:     # ECANCELED: it was set
                continue
    finally:
        os.close(fd)
