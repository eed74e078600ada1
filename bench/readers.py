"""Event-stream readers that only read, as a process: python -m bench.readers PORT COUNT PATH.

Prints a line when all are connected; until SIGTERM.
"""

from __future__ import annotations

import selectors
import socket
import sys


def main() -> None:
    """Read and drop."""
    port, count, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    selector = selectors.DefaultSelector()
    for _ in range(count):
        line = socket.create_connection(("127.0.0.1", port))
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert line.recv(4096).startswith(b"HTTP/1.1 200")
        selector.register(line, selectors.EVENT_READ)
    print("reading", flush=True)
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            if not key.fileobj.recv(1 << 18):
                raise ConnectionError("the daemon closed a stream")


if __name__ == "__main__":
    main()
