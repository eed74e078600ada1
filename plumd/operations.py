"""Operations on their way to devices: by a call to the device's url, or by a request of the
device's that waits for them.

Whoever asks for an operation waits for the device's answer, and nobody else waits for either: each
device has bounds of its own. An operation goes out once; when nothing is known of it in time, that
is what the caller is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import trio

from plumd.devices import Devices, Live
from plumd.errors import (
    DeviceRefused,
    DeviceTimeout,
    DeviceUnreachable,
    Invalid,
    LeaseHeld,
    NotFound,
    PlumError,
    SessionReplaced,
    TooMany,
    reason,
)
from plumd.executors.outgoing import Client
from plumd.executors.targets import CallFailed
from plumd.leases import Leases, lost
from plumd.store.devices import OpDesc
from plumd.store.leases import DEVICE
from plumd.values import finite, wrong

ANSWER_S: Final = 5.0
DELIVERY_S: Final = 5.0
CALLS_MAX: Final = 16
ORDERS_MAX: Final = 64
REPLACED_MAX: Final = 16
BODY_CHARS_MAX: Final = 64 << 10
DETAIL_CHARS: Final = 500
ENCODE: Final = msgspec.json.Encoder().encode
KINDS: Final = {"integer": "int", "long": "int", "int32": "int", "int64": "int",
                "float": "double", "number": "double", "boolean": "bool"}
NUMBERS: Final = ("int", "double")


class Operation(msgspec.Struct, frozen=True, rename="camel"):
    """One operation, as it is asked for and as the device gets it."""

    name: str
    value: str


class Called(msgspec.Struct, frozen=True):
    """What a device that is called gets."""

    operations: Sequence[Operation]


class Order:
    """Operations that one caller waits for."""

    def __init__(self, order_id: str, operations: Sequence[Operation]) -> None:
        self.order_id = order_id
        self.operations = operations
        self.delivered = trio.Event()
        self.done = trio.Event()
        self.error: PlumError | None = None
        self.answer = ""

    def end(self, error: PlumError | None, answer: str = "") -> None:
        """The device, or what became of it, has answered. Only the first word counts."""
        if not self.done.is_set():
            self.error, self.answer = error, answer
            self.delivered.set()
            self.done.set()


class Poll:
    """A request that waits for operations. replaced: another one waits in its place."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.replaced = False


class Line:
    """What is under way to one device."""

    def __init__(self) -> None:
        self.calls = 0
        self.session = ""
        self.replaced: deque[str] = deque(maxlen=REPLACED_MAX)
        self.poll: Poll | None = None
        self.waiting: dict[str, Order] = {}     # not yet fetched
        self.sent: dict[str, Order] = {}        # not yet answered

    def news(self) -> None:
        """Let the request that waits look."""
        if self.poll is not None:
            self.poll.event.set()


class Operations:
    """Delivery to all devices."""

    def __init__(self, devices: Devices, client: Client, new_id: Callable[[], str],
                 leases: Leases) -> None:
        self.devices = devices
        self.leases = leases
        self.client = client
        self._new_id = new_id
        self._lines: dict[int, Line] = {}
        self._leaving = False
        devices.dropped = self._drop

    def _line(self, live: Live) -> Line:
        return self._lines.setdefault(live.row.number, Line())

    def _drop(self, live: Live) -> None:
        """A device was removed: whoever waits for it or as it is told."""
        line = self._lines.pop(live.row.number, None)
        if line is not None:
            for order in (*line.waiting.values(), *line.sent.values()):
                order.end(NotFound("the device was removed", field="resourceId"))
            line.news()

    def drain(self) -> None:
        """Answer every device that waits: the daemon is leaving."""
        self._leaving = True
        for line in self._lines.values():
            line.news()

    # ------------------------------------------------------------ for who asks

    async def operate(self, device_id: str, operations: Sequence[Operation],
                      token: int | None = None) -> str:
        """Have a device carry operations out; its answer when it says that it has.

        token: of whoever has the device for himself.
        Raises: LeaseHeld, LeaseLost, NotFound, Invalid, TooMany, DeviceRefused, DeviceUnreachable,
        DeviceTimeout.
        Cancel: what was not fetched yet is not delivered.
        """
        live = self.devices.find(device_id)
        check(live.row.device.op_desc, operations)
        self._check_lease(device_id, token)
        if live.row.device.polls:
            return await self._by_poll(live, operations)
        return await self._by_call(live, operations)

    def _check_lease(self, device_id: str, token: int | None) -> None:
        """Raises: LeaseHeld, LeaseLost."""
        key = (DEVICE, "", device_id)
        held = self.leases.holder(key)
        if token is not None and (held is None or held.token != token):
            raise lost(key, token, held)
        if token is None and held is not None:
            raise LeaseHeld(f"{held.owner} has this device for himself", field="resourceId",
                            more={"owner": held.owner, **reason("held_by", owner=held.owner)})

    async def _by_call(self, live: Live, operations: Sequence[Operation]) -> str:
        line, url = self._line(live), live.row.device.url
        if line.calls >= CALLS_MAX:
            raise busy(CALLS_MAX)
        line.calls += 1
        try:
            with trio.fail_after(ANSWER_S):
                answer = await self.client.post(url, ENCODE(Called(operations)))
        except CallFailed as failure:
            raise DeviceUnreachable(f"the device cannot be called: {failure.message}") from None
        except trio.TooSlowError:
            raise silent(DeviceUnreachable) from None
        finally:
            line.calls -= 1
        text = answer.body.decode(errors="replace")
        if answer.status != 200:
            raise refusal(answer.status, text)
        return text

    async def _by_poll(self, live: Live, operations: Sequence[Operation]) -> str:
        line, order = self._line(live), Order(self._new_id(), operations)
        if len(line.waiting) + len(line.sent) >= ORDERS_MAX:
            raise busy(ORDERS_MAX)
        line.waiting[order.order_id] = order
        line.news()
        try:
            with trio.move_on_after(DELIVERY_S):
                await order.delivered.wait()
            if not order.delivered.is_set():
                raise DeviceTimeout(f"the device did not ask for operations for {DELIVERY_S:g} s",
                                    more=reason("device_asks_not", seconds=DELIVERY_S))
            with trio.move_on_after(ANSWER_S):
                await order.done.wait()
            if not order.done.is_set():
                raise silent(DeviceTimeout)
        finally:
            line.waiting.pop(order.order_id, None)
            line.sent.pop(order.order_id, None)
        if order.error is not None:
            raise order.error
        return order.answer

    # ------------------------------------------------------------ for devices

    def answered(self, live: Live, order_id: str, status: int, body: str) -> None:
        """A device's answer; one that nobody waits for any more is passed over."""
        order = self._line(live).sent.get(order_id)
        if order is not None:
            order.end(None if status == 200 else refusal(status, body), body)

    def enter(self, live: Live, session: str) -> None:
        """A request of a session comes in; the device's newest session has it alone.

        One that was replaced is let in again only when the newer one has fallen silent.
        Raises: SessionReplaced.
        """
        line = self._line(live)
        if session == line.session:
            return
        if session in line.replaced and self.devices.seen(live).healthy:
            raise SessionReplaced("another session of this device took over", field="session")
        if line.session:
            line.replaced.append(line.session)
        line.session = session
        if line.poll is not None:
            line.poll.replaced = True
            line.poll.event.set()

    async def fetch(self, live: Live, session: str, wait_s: float) -> Sequence[Order]:
        """The operations for a device, once there are some or it has waited long enough.

        Raises: SessionReplaced, NotFound.  Cancel: nothing was fetched.
        """
        line = self._line(live)
        if not line.waiting and wait_s and not self._leaving:
            poll = await self._wait(live, line, wait_s)
            if poll.replaced and line.session == session:
                return ()       # this session asks anew by another request
        if live.gone:
            raise NotFound("the device was removed", field="resourceId")
        if line.session != session:
            raise SessionReplaced("another session of this device took over", field="session")
        found = list(line.waiting.values())
        line.waiting.clear()
        for order in found:
            line.sent[order.order_id] = order
            order.delivered.set()
        return found

    async def _wait(self, live: Live, line: Line, wait_s: float) -> Poll:
        if line.poll is not None:
            line.poll.replaced = True
            line.poll.event.set()
        poll = line.poll = Poll()
        live.waiting += 1
        try:
            with trio.move_on_after(wait_s):
                await poll.event.wait()
        finally:
            live.waiting -= 1
            if line.poll is poll:
                line.poll = None
            if not live.gone:
                self.devices.settle(live)
        return poll


def refusal(status: int, body: str) -> DeviceRefused:
    """What a caller is told of a device's answer that is not 200."""
    text = body[:BODY_CHARS_MAX]
    said = f": {text[:DETAIL_CHARS]}" if text else ""
    return DeviceRefused(f"the device answered {status}{said}",
                         more={"deviceStatus": status, "deviceBody": text,
                               **reason("device_answered", status=status, said=said)})


def silent(kind: type[DeviceTimeout | DeviceUnreachable]) -> PlumError:
    """No answer came from the device."""
    return kind(f"the device did not answer within {ANSWER_S:g} s",
                more=reason("device_silent", seconds=ANSWER_S))


def busy(most: int) -> TooMany:
    """The device has as much to do as it may have."""
    return TooMany(f"{most} operations of this device are under way already",
                   more=reason("device_busy", count=most))


def check(known: Sequence[OpDesc], operations: Sequence[Operation]) -> None:
    """Whether a device takes these operations by its own words; without any it takes all.

    Raises: Invalid.
    """
    described: Mapping[str, OpDesc] = {one.name: one for one in known}
    for index, operation in enumerate(operations):
        one = described.get(operation.name)
        if one is not None:
            why = unfit(one, operation.value)
            if why:
                raise Invalid(why, field=f"operations[{index}].value")
        elif described:
            raise Invalid(f"the device has no operation {operation.name!r}",
                          field=f"operations[{index}].name")


def unfit(one: OpDesc, value: str) -> str:
    """Why a value is none for this operation, "" when it is one."""
    kind = KINDS.get(one.type.lower(), one.type.lower())
    if why := wrong(kind, value):
        return f"this is no {kind}: {why}"
    if kind not in NUMBERS:
        return ""
    number = int(value) if kind == "int" else finite(value)
    low, high = finite(one.min), finite(one.max)
    if low is None and high is None:
        return ""
    if number is None:
        return "it is no finite number"
    if (low is not None and number < low) or (high is not None and number > high):
        bounds = " to ".join(each or "any" for each in (one.min, one.max))
        return f"it is not within {bounds}{one.unit and ' ' + one.unit}"
    return ""
