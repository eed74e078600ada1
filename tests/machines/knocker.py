"""knocker.py HOST PORT FILE: asks /readyz over a new connection, again and again; a line each."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

PAUSE_S = 0.005
WAIT_S = 60


def knock(host: str, port: int) -> str:
    """The status, or what went wrong."""
    try:
        with socket.create_connection((host, port), WAIT_S) as line:
            line.sendall(f"GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                         .encode())
            answer = line.recv(100)
    except OSError as error:
        return repr(error)
    return answer.split(b" ", 2)[1].decode() if answer else "it hung up"


def main() -> None:
    """Until killed."""
    host, port, record = sys.argv[1:]
    with Path(record).open("a") as file:
        while True:
            print(knock(host, int(port)), file=file, flush=True)
            time.sleep(PAUSE_S)     # the load that it makes


if __name__ == "__main__":
    main()
