"""What a service tells its manager, and what it gets from it: sd_notify(3), sd_listen_fds(3).

Without a manager nothing of it does anything.  Source: the protocols of systemd 252.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

FIRST_FD: Final = 3
AGAIN_S: Final = 1.0
START_S: Final = 60
SLOW_DISK_BYTES_S: Final = 5_000_000
OWED: Final[list[str]] = []
"""What the manager must hear and has not heard."""


def tell(*words: str, surely: bool = False) -> bool:
    """Say this, like READY=1 or STATUS=...; whether there is a manager at all. Does not wait for
    one that has not heard yet what was said before: that would hold up all of us.

    surely: what it does not hear now is said again with the next words, until it was heard or
    something else is said so.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    if surely:
        OWED[:], words = words, ()
    if OWED or words:
        with suppress(OSError), socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
            line.connect("\0" + path[1:] if path[0] == "@" else path)
            line.send("\n".join((*OWED, *words)).encode(), socket.MSG_DONTWAIT)
            OWED.clear()
    return True


def pause_s(longest: float) -> float:
    """How long to wait before the next words: less where a watchdog wants a sign of life sooner,
    or something was not heard."""
    wanted_s = watchdog_s()
    return min(longest, AGAIN_S if OWED else longest, wanted_s / 3 if wanted_s else longest)


def extend(file: Path) -> None:
    """Ask for as much time as a start may take that reads this file back, or migrates it: a minute,
    and all of it once from a slow disk."""
    size_bytes = file.stat().st_size if file.exists() else 0
    patience_s = START_S + size_bytes / SLOW_DISK_BYTES_S
    tell(f"EXTEND_TIMEOUT_USEC={patience_s * 1e6:.0f}", "STATUS=reading the database")


def watchdog_s() -> float | None:
    """How often the manager wants a sign of life, of this very process; None: not at all."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or int(usec) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(usec) / 1e6


def inherited() -> list[socket.socket]:
    """The listening sockets that the manager holds for this process; children get none of them."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    found: list[socket.socket] = []
    for descriptor in range(FIRST_FD, FIRST_FD + (int(count) if count.isdigit() else 0)):
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
        with suppress(OSError):
            if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                listener.setblocking(False)
                found.append(listener)
                continue
        listener.close()
    return found
