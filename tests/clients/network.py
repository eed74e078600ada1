"""A network between workers and a daemon that a test can cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

RECEIVE_BYTES = 65_536


class Network:
    """Passes connections on to a port of this machine. refuse: how a cut shows itself: connections
    break and new ones are refused, or everything goes on to seem well and nothing passes.
    """

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._silent = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._accept(self._server)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._refuse()

    @property
    def url(self) -> str:
        """How a worker reaches the daemon through it."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self, *, refuse: bool) -> None:
        """From now on nothing passes."""
        self._silent = True
        if refuse:
            self._refuse()

    def restore(self) -> None:
        """From now on new connections pass; those of before the cut are gone."""
        self._refuse()
        self._silent = False
        self._server = socket.create_server(("127.0.0.1", self.port))
        self._accept(self._server)

    def _accept(self, server: socket.socket) -> None:
        threading.Thread(target=self._serve, args=(server,), daemon=True).start()

    def _refuse(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)     # wakes the thread that accepts
        self._server.close()
        with self._guard:
            broken, self._open = self._open, set()
        for each in broken:
            _break(each)

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            for each in (near, far):
                with contextlib.suppress(OSError):          # its other end may be gone already
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._guard:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):     # from here on others may close them
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(RECEIVE_BYTES):
                if not self._silent:
                    sink.sendall(data)
        if not self._silent:
            with self._guard:
                self._open -= {source, sink}
            _break(source)
            _break(sink)


def _break(line: socket.socket) -> None:
    """End a connection at once, for those who read from it too."""
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()
