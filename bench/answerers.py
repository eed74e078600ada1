"""Endpoints that say that they are well, as a process: python -m bench.answerers COUNT.

Prints their ports in a line; until SIGTERM.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
from contextlib import suppress

WELL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def main() -> None:
    """Answer each request with 200, over connections that are kept."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))      # they are other machines'
    selector = selectors.DefaultSelector()
    doors = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(int(sys.argv[1]))]
    for door in doors:
        selector.register(door, selectors.EVENT_READ)
    print(*(door.getsockname()[1] for door in doors), flush=True)
    while True:
        for key, _ in selector.select():
            line = key.fileobj
            assert isinstance(line, socket.socket)
            if line in doors:
                selector.register(line.accept()[0], selectors.EVENT_READ)
                continue
            with suppress(ConnectionError):
                if line.recv(4096):
                    line.sendall(WELL)
                    continue
            selector.unregister(line)
            line.close()


if __name__ == "__main__":
    main()
