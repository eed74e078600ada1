"""HTTP clients that cost little, so that the daemon is what is measured."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import msgspec

Json = dict[str, msgspec.Raw]
RECEIVE: Final = 1 << 18


def head(method: str, path: str, size: int, more: str = "") -> bytes:
    """A request's head."""
    return (f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {size}\r\n{more}\r\n").encode()


def answer_end(buffer: bytes) -> int:
    """Where the first answer in the buffer ends, -1 = not yet."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return -1
    low = buffer[:end].lower()
    at = low.find(b"content-length:")
    size = int(low[at + 15:].split(b"\r\n", 1)[0]) if at >= 0 else 0
    return end + 4 + size if len(buffer) >= end + 4 + size else -1


class Connection:
    """One keep-alive connection, one request at a time, blocking."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.socket.close()

    def call(self, method: str, path: str, body: bytes = b"", more: str = "") -> bytes:
        """The answer's body. Raises: OSError when the status is no success."""
        self.socket.sendall(head(method, path, len(body), more) + body)
        buffer = b""
        while (end := answer_end(buffer)) < 0:
            piece = self.socket.recv(RECEIVE)
            if not piece:
                raise ConnectionError("the daemon closed the connection")
            buffer += piece
        status = buffer[9:12]
        content = buffer[buffer.index(b"\r\n\r\n") + 4:end]
        if not status.startswith(b"2"):
            raise OSError(f"{method} {path}: {status.decode()} {content[:300].decode()}")
        return content

    def json(self, method: str, path: str, body: bytes = b"",
             more: str = "") -> dict[str, msgspec.Raw]:
        """The answer as an object of raw values."""
        return msgspec.json.decode(self.call(method, path, body, more), type=Json)

    def text(self, value: msgspec.Raw) -> str:
        """A raw value that is a string."""
        return msgspec.json.decode(value, type=str)


def flood(port: int, connections: int, request: bytes, until: Callable[[int], bool]) -> int:
    """So many connections, each with one request under way; answers how many were answered.

    until: asked after each answer with the count; True = send no more.
    """
    selector = selectors.DefaultSelector()
    sockets: dict[int, tuple[socket.socket, bytearray]] = {}
    for _ in range(connections):
        each = socket.create_connection(("127.0.0.1", port))
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        each.setblocking(False)
        selector.register(each, selectors.EVENT_READ)
        sockets[each.fileno()] = (each, bytearray())
    for each, _ in sockets.values():
        each.send(request)
    done, over, open_requests = 0, False, connections
    while open_requests:
        for key, _ in selector.select():
            each, buffer = sockets[key.fd]
            piece = each.recv(RECEIVE)
            if not piece:
                raise ConnectionError("the daemon closed a connection")
            buffer += piece
            end = answer_end(bytes(buffer))
            if end < 0:
                continue
            if buffer[9:10] != b"2":
                raise OSError(bytes(buffer[:500]).decode())
            del buffer[:end]
            done += 1
            over = over or until(done)
            if over:
                open_requests -= 1
            else:
                each.send(request)
    for each, _ in sockets.values():
        each.close()
    return done
