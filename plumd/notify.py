"""What a service tells its manager, and what it gets from it: sd_notify(3), sd_listen_fds(3).

Without a manager nothing of it does anything.  Source: the protocols of systemd 252.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

FIRST_FD: Final = 3


def tell(*words: str) -> bool:
    """Say this, like READY=1 or STATUS=...; whether somebody was there to hear it. Does not wait
    for a manager that has not heard yet what was said before: that would hold up all of us."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
        try:
            line.connect("\0" + path[1:] if path[0] == "@" else path)
            line.send("\n".join(words).encode(), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


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
