"""A wire between two TAP devices that loses and delays frames as it is told, in each direction.

    python wire.py NEAR FAR <state

Every line of stdin sets all: `near_loss far_loss delay_s`: how likely a frame that comes from NEAR
(or from FAR) is lost, and how long each one takes. Frames keep their order.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque
from typing import Final

TUNSETIFF: Final = 0x400454CA
TAP_PLAIN: Final = 0x0002 | 0x1000
"""IFF_TAP | IFF_NO_PI: whole frames and nothing before them."""
FRAME_BYTES_MAX: Final = 65_536


def tap(name: str) -> int:
    """The end of a TAP device that is there."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP_PLAIN))
    os.set_blocking(fd, False)
    return fd


class Direction:
    """One direction: what is on its way."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.loss = 0.0
        self.waiting: deque[tuple[float, bytes]] = deque()

    def take(self, delay_s: float) -> None:
        """Read what is there."""
        try:
            while frame := os.read(self.source, FRAME_BYTES_MAX):
                if random.random() >= self.loss:
                    self.waiting.append((time.monotonic() + delay_s, frame))
        except BlockingIOError:
            return

    def give(self) -> float | None:
        """Write what has come through; in how many seconds the next one will."""
        while self.waiting:
            left_s = self.waiting[0][0] - time.monotonic()
            if left_s > 0:
                return left_s
            try:
                os.write(self.target, self.waiting.popleft()[1])
            except OSError:         # a full or a closed device loses frames, as devices do
                continue
        return None


def main() -> None:
    """Until stdin ends."""
    near, far = tap(sys.argv[1]), tap(sys.argv[2])
    ways = (Direction(near, far), Direction(far, near))
    delay_s, said = 0.0, b""
    while True:
        left = [left_s for way in ways if (left_s := way.give()) is not None]
        ready, _, _ = select.select([0, near, far], [], [], min(left, default=None))
        for way in ways:
            if way.source in ready:
                way.take(delay_s)
        if 0 in ready:
            news = os.read(0, 4096)
            if not news:
                return
            *lines, said = (said + news).split(b"\n")
            for line in lines:
                ways[0].loss, ways[1].loss, delay_s = map(float, line.split())
                os.write(1, b"set\n")


if __name__ == "__main__":
    main()
