"""A worker: takes attempts from the daemon, calls handlers, and brings the results home.

    worker = Worker("http://127.0.0.1:8080", capacity=16)

    @worker.task("resize")
    def resize(payload, context): ...

    worker.run()

The worker keeps one line to the daemon and dials again when it is lost. What is in hand does not
depend on the line: handlers run on, results wait for it, and no attempt is started twice.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeVar, final

import msgspec
import trio

from plumd.sdk.desk import Desk
from plumd.sdk.handlers import Handler, Task
from plumd.sdk.keeping import GOODBYE_S, Keeper
from plumd.sdk.line import Dial, websocket_dial
from plumd.sdk.poll import poll_dial
from plumd.sdk.protocol import Register
from plumd.sdk.signals import first_error, serve_until_signaled
from plumd.sdk.talk import Lease, TurnedAway

log = logging.getLogger("plumd.sdk")

ID_CHARS_MAX: Final = 200
STOP_GRACE_S: Final = 2.0
FLUSH_S: Final = 5.0

Transport = Literal["websocket", "long-poll"]
_Handler = TypeVar("_Handler", bound=Handler)


@final
class Worker:
    """A worker process, or a part of one. Each object serves once.

    url: where the daemon's API is.  capacity: how many attempts at once.  prefetch: how many more
    it may have in hand, so that it need not wait for the daemon between short tasks; an attempt's
    timeout runs while it waits here, and no other worker can take it. None: what it carries out in
    5 ms, so none where tasks take long, and given back when they turn slow.  worker_id: stays the
    same over restarts if given; else drawn from host, process and chance.  beat_s: how often the
    daemon hears of it at least; three beats without a word and its attempts are lost.
    drain_timeout_s: how long attempts in hand may still run once it shall stop.
    token: for a daemon that asks for one.  transport: "websocket", or "long-poll" where a proxy
    lets no WebSocket through.  dial: another way of opening lines, for tests.
    What an agent puts into the environment of its processes is the default for url and names.
    """

    def __init__(self, url: str | None = None, *, capacity: int = 4, prefetch: int | None = None,
                 labels: Mapping[str, str] | None = None, node_id: str | None = None,
                 worker_id: str | None = None, instance_id: str | None = None,
                 app_name: str | None = None, app_version: str | None = None,
                 beat_s: float = 10.0, drain_timeout_s: float = 30.0, token: str | None = None,
                 ssl_context: ssl.SSLContext | None = None, transport: Transport = "websocket",
                 dial: Dial | None = None) -> None:
        if capacity < 1 or (prefetch or 0) < 0:
            raise ValueError(f"capacity {capacity} or prefetch {prefetch} is out of range")
        environ = os.environ
        chance = secrets.token_hex(3)
        self.worker_id = worker_id or f"{socket.gethostname()}-{os.getpid()}-{chance}"
        if len(self.worker_id) > ID_CHARS_MAX or self.worker_id.startswith("local:"):
            raise ValueError(f"a worker's id has 1 to {ID_CHARS_MAX} characters and does not begin "
                             "with local:")
        url = (url or environ.get("PLUM_SERVER") or environ.get("CONTROLLER_BASE")
               or "http://127.0.0.1:8080")
        self._where = url
        self._tasks: dict[str, Task] = {}
        self._register = Register(
            session=secrets.token_hex(8), tasks=[], capacity=capacity + (prefetch or 0),
            beat_sec=beat_s, labels=dict(labels or {}),
            node_id=_pick(node_id, "WORKER_NODE_ID"),
            instance_id=_pick(instance_id, "PLUM_INSTANCE_ID"),
            app_name=_pick(app_name, "PLUM_APP_NAME"),
            app_version=_pick(app_version, "PLUM_APP_VERSION"))
        # The daemon would refuse what is out of range, again and again: better to fail here.
        msgspec.convert(msgspec.to_builtins(self._register), Register)
        self._drain_timeout_s = drain_timeout_s
        self._desk = Desk(self._tasks, capacity, adapts=prefetch is None)
        self._dial = dial or self._dial_of(transport, url, token, ssl_context)
        self._lease = Lease(beat_s)
        self._keeper = Keeper(self._dial, url, self._desk, self._lease, self._register)
        self._drain_asked = trio.Event()
        self._scope = trio.CancelScope()
        self._served = False
        self._naming = threading.Lock()

    def _dial_of(self, transport: Transport, url: str, token: str | None,
                 ssl_context: ssl.SSLContext | None) -> Dial:
        if transport == "websocket":
            return websocket_dial(url, self.worker_id, token=token, ssl_context=ssl_context)
        if transport != "long-poll":
            raise ValueError(f"transport {transport!r} is neither 'websocket' nor 'long-poll'")
        return poll_dial(url, self.worker_id, self._register.session, self._desk.holding,
                         token=token, ssl_context=ssl_context)

    @property
    def given_up(self) -> int:
        """How many attempts were cut short by a lost lease or a stop that could not wait."""
        return self._desk.given_up

    def task(self, name: str, *, inline: bool = False,
             type: object = None) -> Callable[[_Handler], _Handler]:  # noqa: A002 - reads best
        """Decorator: this function carries out the tasks of that name.

        It takes the payload, or payload and context. An async function runs as a Trio task, a
        plain one in a thread, and with inline=True in the event loop itself: only for what takes
        microseconds and never waits. type: what the payload is decoded to, e.g. a msgspec Struct
        or a dataclass; one that does not fit fails with `invalid_payload`.

        What it returns is the result (anything JSON can say). What it raises is the failure:
        TaskFailed with advice, anything else as `handler_error`. Raises ValueError.
        """
        if self._served:
            raise RuntimeError("this worker serves already; use add_task")

        def register(handler: _Handler) -> _Handler:
            self.add_task(name, handler, inline=inline, type=type)
            return handler
        return register

    def add_task(self, name: str, handler: Handler, *, inline: bool = False,
                 type: object = None) -> None:  # noqa: A002 - as above
        """As `task` does, and also while the worker serves, from any thread: the daemon sends
        attempts of that name from now on. Raises ValueError.
        """
        task = Task(name, handler, inline=inline, type=type)
        with self._naming:
            if name in self._desk.names:
                raise ValueError(f"task {name!r} has a handler already")
            self._tasks[name] = task
            self._desk.names = (*self._desk.names, name)
        self._desk.wake_from_anywhere()

    def drop_task(self, name: str) -> None:
        """Take no more tasks of that name; from any thread. Attempts that run, or are on their way
        already, are carried out. Raises ValueError when there is no such name.
        """
        with self._naming:
            if name not in self._desk.names:
                raise ValueError(f"there is no task {name!r}")
            self._desk.names = tuple(each for each in self._desk.names if each != name)
        self._desk.wake_from_anywhere()

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks that this worker takes at present."""
        return self._desk.names

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT: then finish what runs, hand in the results, and return.

        A second signal stops at once. In another thread than the main one signals are left to the
        program, and `drain` ends it. Raises SystemExit(1) when attempts were cut short, TurnedAway
        when the daemon does not want this worker.
        """
        trio.run(serve_until_signaled, self.serve, self._drain_asked)
        if self._desk.given_up:
            raise SystemExit(1)

    def drain(self) -> None:
        """Ask for a graceful end, from any thread: `serve` returns when all is handed in."""
        self._desk.from_anywhere(self._drain_asked.set)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve inside a Trio program, until `drain` was asked for and is done.

        It has started when the daemon has taken the worker. Raises TurnedAway.
        Cancel: stops at once; what runs is reported as lost if the line still carries that.
        """
        if self._served:
            raise RuntimeError("a Worker serves once")
        self._served = True
        turned_away: Exception | None = None
        try:
            async with trio.open_nursery() as work:
                self._desk.open(work)
                work.start_soon(self._announce, task_status)
                work.start_soon(self._watch_lease)
                work.start_soon(self._wind_down)
                with self._scope:
                    await self._keeper.keep()
                work.cancel_scope.cancel()
        except* TurnedAway as group:
            turned_away = first_error(group)
        if turned_away is not None:
            raise turned_away

    async def _announce(self, task_status: trio.TaskStatus[None]) -> None:
        await self._lease.registered.wait()
        task_status.started()

    async def _watch_lease(self) -> None:
        """Work whose lease has run out may be done again elsewhere: end it."""
        lease = self._lease
        await lease.registered.wait()
        while True:
            if trio.current_time() < lease.ends_s():
                await trio.sleep_until(lease.ends_s())
                continue
            if self._desk.running:
                log.warning("no word from %s for %.1f s: ending %d attempts", self._where,
                            trio.current_time() - lease.heard_s, len(self._desk.running))
                self._desk.give_up("the lease ended without a word from the daemon")
            await trio.sleep(lease.lease_s / 4)

    async def _wind_down(self) -> None:
        """The graceful end, from `drain` to the last acknowledgement."""
        await self._drain_asked.wait()
        desk, deadline_s = self._desk, trio.current_time() + self._drain_timeout_s
        log.info("draining: %d attempts in hand", len(desk.running))
        desk.draining = True
        desk.wake()
        with trio.move_on_at(deadline_s):
            await desk.wait_until(lambda: not desk.running)
        desk.leaving = True
        if desk.running:
            desk.give_up("the worker stopped")
            with trio.move_on_after(STOP_GRACE_S):
                await desk.wait_until(lambda: not desk.running)
            desk.abandon("the worker stopped")
        with trio.move_on_at(max(deadline_s, trio.current_time() + FLUSH_S)):
            await desk.wait_until(lambda: not desk.outbox)
        desk.wake()
        await trio.sleep(GOODBYE_S)  # the daemon closes the line before that
        self._scope.cancel()


def _pick(given: str | None, variable: str) -> str:
    """What was given, else what the environment says."""
    return given if given is not None else os.environ.get(variable, "")
