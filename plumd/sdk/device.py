"""A device in Python: it reports states and carries out operations, and needs no listening port.

    from plumd.sdk import Device

    device = Device("radar-1", type="radar")

    @device.operation("set-power", type="int", unit="%", min=0, max=100)
    def set_power(value: int) -> None:
        device.report({"power": value})

    device.run()

It asks the daemon for operations and waits for them there; when the daemon cannot be reached it
asks again, with growing pauses, and what was reported meanwhile is sent when it is back.
"""

from __future__ import annotations

import inspect
import logging
import os
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, Literal, Never, TypeAlias, TypeVar, cast, final

import httpx
import trio

from plumd.sdk.aio import AsyncClient
from plumd.sdk.keys import Value, decoded, encoded
from plumd.sdk.signals import first_error, serve_until_signaled, unwrapped
from plumd.sdk.wire import (
    ANSWER_S,
    Ask,
    ClientError,
    Json,
    JsonObject,
    ProblemError,
    object_of,
    part,
    passing,
)

log = logging.getLogger("plumd.sdk")

WAIT_S: Final = 25.0
SLACK_S: Final = 10.0
"""Beyond what was asked for; then the line is dead, and another one is tried."""
REPORTS_MAX: Final = 1_000
ORDERS_MAX: Final = 64
REFUSALS: Final = range(400, 600)
RETRY_S_FIRST: Final = 0.2
RETRY_S_MAX: Final = 5.0
LAST_WORDS_S: Final = 2.0
BODY_CHARS_MAX: Final = 8_000

Type: TypeAlias = Literal["int", "double", "bool", "string", "enum"]
Handler = Callable[[Never], object]
_Handler = TypeVar("_Handler", bound=Handler)


class OperationFailed(Exception):
    """The device says no. status: what the caller is told beside the text, 400 .. 599; any other
    is 500."""

    def __init__(self, message: str, *, status: int = 409) -> None:
        super().__init__(message)
        self.status = status


class DeviceReplaced(Exception):
    """Another program serves this device now, or it may not be served: this one ends."""


@final
class Operation:
    """A handler under its name. type: int, double and bool arrive as Python's, else as text."""

    __slots__ = ("_call", "desc", "is_async", "name", "type")

    def __init__(self, name: str, handler: Handler, desc: JsonObject) -> None:
        self.name = name
        self.type = str(desc["type"])
        self.desc = desc
        self.is_async = inspect.iscoroutinefunction(handler)
        self._call = cast("Callable[[Value], object]", handler)

    async def carry_out(self, text: str) -> None:
        """Call the handler with the value. Raises whatever it raises."""
        value = decoded(self.type, text)
        if self.is_async:
            await cast("Awaitable[object]", self._call(value))
        else:
            await trio.to_thread.run_sync(self._call, value, abandon_on_cancel=True)


class Device:
    """One device. Declare its states and operations, then `run` it, or `serve` it under Trio.

    url: default the environment's PLUM_SERVER, CONTROLLER_BASE, else http://127.0.0.1:8080.
    beat_s: the daemon takes it for gone after three of these without a word.  wait_s: how long it
    waits for operations by one request, 1 .. 60.
    """

    def __init__(self, device_id: str, url: str | None = None, *,
                 type: str = "",  # noqa: A002 - the wire's word
                 node_id: str = "", beat_s: float = 5.0, wait_s: float = WAIT_S,
                 token: str | None = None,
                 transport: httpx.AsyncBaseTransport | None = None) -> None:
        if not 1 <= wait_s <= 60:
            raise ValueError(f"wait_s is 1 to 60, not {wait_s:g}")
        self.device_id = device_id
        self._client = AsyncClient(url, token=token, transport=transport,
                                   timeout_s=ANSWER_S)
        self._about: JsonObject = {
            "resourceId": device_id, "nodeId": node_id, "type": type, "transport": "poll",
            "beatSec": beat_s}
        self._wait_s = wait_s
        self._session = os.urandom(16).hex()
        self._states: dict[str, JsonObject] = {}
        self._operations: dict[str, Operation] = {}
        self._reports: deque[tuple[int, dict[str, str]]] = deque()
        self._answers: list[Json] = []
        self._to_do, self._orders = trio.open_memory_channel[JsonObject](ORDERS_MAX)
        self._news = trio.Event()
        self._said = trio.Event()
        self._speaking = False
        self._ending = trio.Event()
        self._trio: trio.lowlevel.TrioToken | None = None
        self._registering = trio.Lock()
        self._registered = False

    # ------------------------------------------------------------ what it has

    def state(self, name: str, *, type: str = "", unit: str = "",  # noqa: A002 - the wire's word
              value: Value = "") -> None:
        """Declare a state, for people who look at it; any state may be reported undeclared."""
        self._states[name] = {"name": name, "type": type, "unit": unit, "value": encoded(value)[1]}

    def operation(self, name: str, *, type: Type = "string",  # noqa: A002 - the wire's words
                  unit: str = "", min: float | None = None,  # noqa: A002 - the wire names
                  max: float | None = None,  # noqa: A002 - the wire names
                  value: Value = "") -> Callable[[_Handler], _Handler]:
        """Decorator: this function carries out the operation of that name.

        It takes the value. A plain function runs in a thread, an async one as a Trio task; one
        operation at a time. When it returns, the caller is told that it is done; OperationFailed,
        or any other exception, is what the caller is told instead.
        type: int, double, bool, string or enum; the daemon refuses values that are none, or
        outside min .. max.
        """
        if self._registered:
            raise RuntimeError("the daemon was already told which operations this device has")

        def register(handler: _Handler) -> _Handler:
            if name in self._operations:
                raise ValueError(f"operation {name!r} has a handler already")
            self._operations[name] = Operation(name, handler, {
                "name": name, "type": type, "unit": unit, "value": encoded(value)[1],
                "min": "" if min is None else f"{min:.17g}",
                "max": "" if max is None else f"{max:.17g}"})
            return handler
        return register

    def report(self, states: Mapping[str, Value], *, timestamp_ms: int | None = None) -> None:
        """Report states, from any thread, at once. They are sent in order; while the daemon is
        away the newest REPORTS_MAX reports are kept."""
        when_ms = time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
        self._reports.append((when_ms, {name: encoded(value)[1]
                                        for name, value in states.items()}))
        while len(self._reports) > REPORTS_MAX:
            self._reports.popleft()
        self._wake()

    def _wake(self) -> None:
        if self._trio is not None:
            with suppress(trio.RunFinishedError):
                self._trio.run_sync_soon(self._tell, idempotent=True)

    def _tell(self) -> None:
        self._news.set()

    # ------------------------------------------------------------ serving

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second signal stops at once. In another thread than the
        main one until `stop`. Raises: as `serve`."""
        trio.run(serve_until_signaled, self.serve, self._ending)

    def stop(self) -> None:
        """Ask for the end, from any thread: what runs is finished and told, then `serve` returns.
        """
        if self._trio is None:
            self._ending.set()
            return
        with suppress(trio.RunFinishedError):
            self._trio.run_sync_soon(self._ending.set)

    async def serve(self, *, task_status: trio.TaskStatus[None]
                    = trio.TASK_STATUS_IGNORED) -> None:
        """Serve inside a Trio program, until `stop`. It has started when the daemon knows it.

        Raises: DeviceReplaced, ProblemError when the daemon does not take it, RuntimeError when it
        has served.
        Cancel: stops at once; an operation that runs is not answered.
        """
        if self._trio is not None:
            raise RuntimeError("a Device serves once")
        self._trio = trio.lowlevel.current_trio_token()
        trouble: Exception | None = None
        try:
            async with self._client, trio.open_nursery() as nursery:
                nursery.start_soon(self._until_stopped, nursery.cancel_scope)
                await self._register()
                task_status.started()
                nursery.start_soon(self._speak)
                nursery.start_soon(self._poll)
                await self._work()
                await self._last_words()
                nursery.cancel_scope.cancel()
        except* (DeviceReplaced, ProblemError) as group:
            trouble = first_error(group)
        if trouble is not None:
            raise trouble

    async def _until_stopped(self, scope: trio.CancelScope) -> None:
        """From `stop` on nothing new is taken; one that was never registered just ends."""
        await self._ending.wait()
        await self._to_do.aclose()
        if not self._registered:
            scope.cancel()

    async def _last_words(self) -> None:
        """Let answers and reports go out, but not for long."""
        with trio.move_on_after(LAST_WORDS_S):
            while self._answers or self._reports or self._speaking:
                self._said = trio.Event()
                await self._said.wait()

    async def _register(self) -> None:
        """Make the daemon know the device; tries until it does. Raises: ProblemError."""
        async with self._registering:
            if self._registered:
                return
            body: JsonObject = {
                **self._about, "stateDesc": list(self._states.values()),
                "opDesc": [one.desc for one in self._operations.values()]}
            await self._persist(Ask("POST", "/v1/resources/register", body))
            self._registered = True

    async def _persist(self, ask: Ask) -> httpx.Response:
        """Send until it is answered, with growing pauses while nobody does. Raises: ProblemError.
        """
        tries = 0
        while True:
            try:
                return await self._client.send(ask)
            except ClientError as error:
                if not passing(error):
                    raise
                if tries < 2:
                    log.warning("device %s: %s", self.device_id, error)
                pause_s = min(RETRY_S_MAX, RETRY_S_FIRST * 2 ** min(tries, 10))
                # Full jitter, so that a plant does not come back in step.
                await trio.sleep(random.uniform(0, pause_s))
                tries += 1

    async def _exchange(self, more: JsonObject) -> None:
        """One exchange; what comes back goes to `_work`. Raises: DeviceReplaced, ProblemError."""
        wait_s = more.get("waitSec", 0)
        assert isinstance(wait_s, int | float)
        ask = Ask("POST", f"/v1/resources/{part(self.device_id)}/exchange",
                  {"session": self._session, **more}, timeout_s=SLACK_S + wait_s)
        while True:
            try:
                answer = await self._persist(ask)
                break
            except ProblemError as problem:
                if problem.status == 409:
                    raise DeviceReplaced(problem.detail) from None
                if problem.status != 404:
                    raise
                self._registered = False        # it was deleted, or the daemon's data are others
                await self._register()
        orders = object_of(answer).get("operations")
        for order in orders if isinstance(orders, list) else ():
            if isinstance(order, dict):
                try:
                    self._to_do.send_nowait(order)
                except (trio.WouldBlock, trio.ClosedResourceError):
                    self._answer(order, 503, "the device is busy or stopping")

    async def _poll(self) -> None:
        """Wait for operations, again and again."""
        while True:
            await self._exchange({"waitSec": self._wait_s})

    async def _speak(self) -> None:
        """Send answers and reports whenever there are some, beside the request that waits."""
        while True:
            while not (self._answers or self._reports):
                self._said.set()
                self._news = trio.Event()
                await self._news.wait()
            self._speaking = True
            if self._answers:
                body: JsonObject = {"answers": self._answers}
                self._answers = []
            else:
                when_ms, states = self._reports.popleft()
                body = {"timestamp": when_ms, "states": dict(states)}
            try:
                await self._exchange(body)
            except ProblemError as problem:
                # It would be refused again; what it was about is lost, and the log says why.
                log.warning("device %s: a report was refused: %s", self.device_id, problem)
            self._speaking = False

    # ------------------------------------------------------------ operations

    async def _work(self) -> None:
        """Carry out what was asked for, one order after the other, until `stop`."""
        async for order in self._orders:
            status, body = await self._carry_out(order)
            self._answer(order, status, body)

    def _answer(self, order: JsonObject, status: int, body: str) -> None:
        text = body[:BODY_CHARS_MAX].encode("utf-8", "replace").decode()
        self._answers.append({"id": str(order.get("id")), "status": status, "body": text})
        self._tell()

    async def _carry_out(self, order: JsonObject) -> tuple[int, str]:
        """The operations of an order, up to the first that fails: (status, text)."""
        operations = order.get("operations")
        for each in operations if isinstance(operations, list) else ():
            name, value = (str(each.get(word)) for word in ("name", "value")) if isinstance(
                each, dict) else ("", "")
            one = self._operations.get(name)
            if one is None:
                return 404, f"there is no operation {name!r}"
            try:
                await one.carry_out(value)
            except (Exception, SystemExit) as raised:
                error = unwrapped(raised)
                if isinstance(error, OperationFailed):
                    return error.status if error.status in REFUSALS else 500, f"{name}: {error}"
                log.exception("device %s: operation %s failed", self.device_id, name)
                return 500, f"{name}: {type(error).__name__}: {error}"
        return 200, ""
