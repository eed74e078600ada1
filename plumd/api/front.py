"""The one port: sockets, the accept loop, the sweep of idle connections, and the way out.

`serve` is our own because Hypercorn's has no hook before its protocol, shields its sends without
a limit, and lets a connection's failure end the server. A connection's failure ends nothing here.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
import ssl
import stat
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, LifespanState
from hypercorn.utils import wrap_app

from plumd.api.connection import Connection
from plumd.api.gate import Gate
from plumd.api.hot import STREAM_PATH, HotTable, encode_answer
from plumd.api.limits import Limits
from plumd.api.problem import problem, problem_of
from plumd.api.routes import Request, Response, Route
from plumd.api.safe_hypercorn import hypercorn_config
from plumd.api.upgrade import Stream, StreamHandler
from plumd.errors import Overloaded

log = logging.getLogger("plumd.api")

BACKLOG: Final = 1024
SWEEP_S_MAX: Final = 5.0
WATCH_AFTER_S: Final = 0.5
"""A request that waits so long is watched: when its client leaves it ends."""


async def _needs_upgrade(_request: Request) -> Response:
    return problem_of("malformed", 426, "this path speaks WebSocket only",
                      headers=(("upgrade", "websocket"),))


STREAM_ROUTE: Final = Route(
    "GET", STREAM_PATH, _needs_upgrade, "A worker's session, as a WebSocket.", "workers",
    "workers:session", answers={426: None}, trusted=True)
"""For the table of routes: the document's entry, and the answer without an upgrade."""


def bind(specs: Sequence[str], *, unix_mode: int = 0o660) -> list[socket.socket]:
    """Listening sockets for `host:port`, `[v6]:port` and `unix:/path`.

    A unix socket that nobody listens on any more is replaced. Raises OSError or ValueError.
    """
    sockets: list[socket.socket] = []
    spec = ""
    try:
        for spec in specs:
            if spec.startswith("unix:"):
                sockets.append(_bind_unix(spec.removeprefix("unix:"), unix_mode))
            else:
                sockets.extend(_bind_tcp(spec))
    except (OSError, ValueError) as error:
        for each in sockets:
            each.close()
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = spec
        raise
    return sockets


def bind_beside(held: Sequence[socket.socket], specs: Sequence[str]) -> list[socket.socket]:
    """Sockets that are held already, and those of the specs that none of them listens on.

    Raises OSError or ValueError.
    """
    return [*held, *bind([spec for spec in specs if not any(is_at(each, spec) for each in held)])]


def is_at(listener: socket.socket, spec: str) -> bool:
    """Whether a socket listens where the spec says: there, or on all addresses of that port.

    Raises OSError: the name in it is not known.
    """
    name = listener.getsockname()
    if spec.startswith("unix:") or listener.family == socket.AF_UNIX:
        return (listener.family == socket.AF_UNIX and spec.startswith("unix:")
                and os.path.abspath(name) == os.path.abspath(spec.removeprefix("unix:")))
    host, _, port = spec.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM,
                               flags=socket.AI_PASSIVE)
    wanted = {(each[4][0], each[4][1]) for each in found}
    everywhere = name[0] in ("0.0.0.0", "::") and name[1] in {at[1] for at in wanted}
    return everywhere or (name[0], name[1]) in wanted


def _bind_tcp(spec: str) -> list[socket.socket]:
    host, colon, port = spec.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"{spec!r} is no host:port to listen on")
    bound: list[socket.socket] = []
    found = socket.getaddrinfo(host.strip("[]") or None, int(port), type=socket.SOCK_STREAM,
                               flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, resolved in found:
        address = resolved
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if bound and int(port) == 0:
                # Port 0 draws one number; the name's other addresses share it.
                address = (address[0], bound[0].getsockname()[1], *address[2:])
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            for each in bound:
                each.close()
            raise
        bound.append(listener)
    return bound


def _bind_unix(path: str, mode: int) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Made private first: between bind and chmod nobody else may connect.
        before = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        os.chmod(path, mode)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "is there and is no socket", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise OSError(errno.EADDRINUSE, "somebody listens there", path)


def address_of(listener: socket.socket, *, secure: bool = False) -> str:
    """Where a listening socket is reached: `http://127.0.0.1:80`, `unix:/path`."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class Front:
    """All connections and what they share."""

    def __init__(self, app: ASGIFramework, *, routes: Sequence[Route], gate: Gate,
                 stream_handler: StreamHandler, limits: Limits) -> None:
        self.gate = gate
        self.limits = limits
        self.stream_handler = stream_handler
        self.hot = HotTable(routes)
        self.stream_route = next(
            (route for route in routes if route.path == STREAM_PATH), STREAM_ROUTE)
        self.config = hypercorn_config(head_bytes_max=limits.head_bytes_max)
        self.asgi = wrap_app(app, self.config.wsgi_max_body_size, "asgi")
        self.context = WorkerContext(None)
        self.state: LifespanState = {}
        self.draining = False       # no new requests; those in flight may end
        self.killing = False        # nothing is shielded any more
        self.connections: set[Connection] = set()
        self.waiting: dict[Connection, float] = {}
        """Whose request may wait long, and since when."""
        self._left = trio.Event()
        self._anyone_waits = trio.Event()

    async def handle(self, stream: Stream) -> None:
        """Serve one accepted connection."""
        if len(self.connections) >= self.limits.connections_max:
            await self._turn_away(stream)
            return
        connection = Connection(self, stream)
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)
            self.note_left()

    def note_left(self) -> None:
        """A connection or a stream ended; the way out may be waiting for it."""
        self._left.set()

    async def _turn_away(self, stream: Stream) -> None:
        answer = encode_answer(problem(Overloaded(
            f"{self.limits.connections_max} connections are open already")), keep_alive=False)
        try:
            with trio.move_on_after(self.limits.linger_s):
                await stream.send_all(answer)
                if isinstance(stream, trio.SocketStream):
                    await stream.send_eof()
                    await stream.receive_some(4096)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def sweep(self) -> None:
        """End the hot loop's waits whose time is over: one deadline a connection, no timers."""
        longest = min(self.limits.idle_s, self.limits.head_s, SWEEP_S_MAX * 4) / 4
        while True:
            now = trio.current_time()
            soonest = math.inf
            for connection in self.connections:
                if connection.expires <= now:
                    connection.kill()
                else:
                    soonest = min(soonest, connection.expires)
            await trio.sleep(min(soonest - now, longest))

    def note_waiting(self) -> None:
        """A request that may wait long began."""
        if not self._anyone_waits.is_set():
            self._anyone_waits.set()

    async def watch_waiting(self, nursery: trio.Nursery) -> None:
        """Watch the clients of requests that wait long; wakes only while any do."""
        while True:
            await self._anyone_waits.wait()
            await trio.sleep(WATCH_AFTER_S)
            long_ago = trio.current_time() - WATCH_AFTER_S
            for connection, since in self.waiting.items():
                if since <= long_ago:
                    connection.watch(nursery)
            if not self.waiting:
                self._anyone_waits = trio.Event()

    async def drain(self) -> None:
        """Let what is in flight end, within the limits' grace; then end the rest.

        A connection that was let in and has not asked yet may still ask, for its client cannot
        know that nobody would hear it.
        """
        await trio.lowlevel.checkpoint()        # who was let in a moment ago is counted from here
        started = trio.current_time()
        self.draining = True
        await self.context.terminated.set()
        self._kill(lambda each: each.idle and not each.fresh)
        self.gate.streams.close()
        await self._wait_left(started + self.limits.first_s, lambda each: each.fresh)
        self._kill(lambda each: each.fresh)
        await self._wait_left(started + self.limits.stream_grace_s, lambda each: each.streaming > 0)
        self._kill(lambda each: each.streaming > 0)
        await self._wait_left(started + self.limits.grace_s, lambda _: True)
        self.kill_all()

    def kill_all(self) -> None:
        """End every connection now."""
        self.killing = True
        self._kill(lambda _: True)

    def _kill(self, which: Callable[[Connection], bool]) -> None:
        for connection in list(self.connections):
            if which(connection):
                connection.kill()

    async def _wait_left(self, deadline: float, which: Callable[[Connection], bool]) -> None:
        with trio.move_on_at(deadline):
            while any(map(which, self.connections)):
                self._left = trio.Event()
                await self._left.wait()


async def serve(app: ASGIFramework, *, routes: Sequence[Route], gate: Gate,
                sockets: Sequence[socket.socket], stream_handler: StreamHandler,
                shutdown: trio.Event, limits: Limits | None = None,
                ssl_context: ssl.SSLContext | None = None,
                task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve the routes on listening sockets until `shutdown`; starts with their addresses.

    app: what Hypercorn runs (`build_app`'s, or an ASGI function around it).  gate: the one that
    the app was built with.  sockets: from `bind` or from systemd; serve closes them.
    ssl_context: TLS on all TCP sockets, HTTP/2 by ALPN; unix sockets stay plain.
    Cancel: connections end at once, whole answers are not waited for.
    """
    front = Front(app, routes=routes, gate=gate, stream_handler=stream_handler,
                  limits=limits or Limits())
    if ssl_context is not None:
        ssl_context.set_alpn_protocols(["h2", "http/1.1"])
    listeners = [_listener(each, ssl_context) for each in sockets]
    addresses = [address_of(each, secure=ssl_context is not None) for each in sockets]
    lifespan = Lifespan(front.asgi, front.config, front.state)
    async with trio.open_nursery() as life:
        await life.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as connections:
            life.start_soon(front.watch_waiting, connections)
            try:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(front.sweep)
                    accepting.start_soon(partial(
                        trio.serve_listeners, front.handle, listeners,
                        handler_nursery=connections))
                    task_status.started(addresses)
                    await shutdown.wait()
                    accepting.cancel_scope.cancel()
                await front.drain()
            finally:
                front.kill_all()
        await lifespan.wait_for_shutdown()
        life.cancel_scope.cancel()


def _listener(each: socket.socket, ssl_context: ssl.SSLContext | None,
              ) -> trio.SocketListener | trio.SSLListener[trio.SocketStream]:
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(each))
    if ssl_context is None or each.family == socket.AF_UNIX:
        return listener
    return trio.SSLListener(listener, ssl_context, https_compatible=True)
