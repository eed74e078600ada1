"""builtin.wait: attempts that end when a key, a device's state or the time is as they want it.

A wait is an entry here and nothing else: no task, no timer, no look at a clock. One follower reads
the event log; what an event speaks of is looked up for those who wait for it. Waits for a time are
the core's naps. After a restart the engine gives all of them again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

import msgspec
import trio

from plumd.devices import Devices
from plumd.engine import Engine
from plumd.errors import Invalid, NotFound, PlumError, TooLarge
from plumd.executors.builtin_payloads import (
    WAIT,
    DeviceCondition,
    KvCondition,
    WaitCall,
    checked,
    holds,
    json_value,
)
from plumd.follow import Log
from plumd.model import Ending, Finish, Nap, TaskError
from plumd.store import devices, kv
from plumd.store.events import Event

log = logging.getLogger("plumd.waits")
ENCODE: Final = msgspec.json.Encoder().encode
AGAIN_S: Final = 1.0
Subject: TypeAlias = tuple[str, str, str]
"""("kv", namespace, key) or ("resource", device, "")."""


class Ripe(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a wait answers. value: of the key or state, as it was when it was as wanted."""

    message: str
    value: str | int | float | bool | msgspec.UnsetType = msgspec.UNSET


class Waiting(NamedTuple):
    """An attempt and what it waits for."""

    task_id: int
    attempt: int
    worker_id: str
    call: WaitCall


class Waits:
    """All waits of this daemon. `run` in a nursery of the daemon's."""

    def __init__(self, engine: Engine, registry: Devices) -> None:
        self.engine = engine
        self.registry = registry
        self._of: dict[Subject, dict[int, Waiting]] = {}
        self._subject: dict[int, tuple[int, Subject]] = {}      # task -> attempt, where it is
        self._owed: list[Finish] = []
        self._since = 0                 # from this event on there is somebody who waits
        self._anyone = trio.Event()

    def begin(self, task_id: int, attempt: int, worker_id: str,
              payload: bytes | None) -> Finish | Nap | None:
        """The command that a wait comes to at once; None: it is to be waited for."""
        try:
            call = checked(WAIT, payload)
            assert isinstance(call, WaitCall), "it was read as one"
        except (Invalid, TooLarge) as refusal:
            where = f"{refusal.field}: " if refusal.field else ""
            return Finish(task_id, attempt, worker_id, Ending.FAILED, retryable=False,
                          error=TaskError("invalid_payload", where + refusal.detail))
        if isinstance(call.until, int):
            return Nap(task_id, attempt, call.until, ENCODE(Ripe("the time has come")))
        waiting = Waiting(task_id, attempt, worker_id, call)
        seq = self.engine.journal.next_seq
        ripe = self._look(waiting)
        if ripe is not None:
            return self._finish(waiting, ripe)
        subject = subject_of(call)
        self.forget(task_id)
        if not self._of:
            self._since = seq
            self._anyone.set()
        self._of.setdefault(subject, {})[task_id] = waiting
        self._subject[task_id] = attempt, subject
        return None

    def stop(self, task_id: int, attempt: int, worker_id: str, reason: str) -> Finish | None:
        """The wish that a wait ends; None: it is none that is here."""
        known = self._subject.get(task_id)
        if known is None or known[0] != attempt:
            return None
        self.forget(task_id)
        timeout = reason == "timeout"
        return Finish(task_id, attempt, worker_id, Ending.TIMEOUT if timeout else Ending.CANCELED,
                      error=TaskError("timeout" if timeout else "canceled",
                                      "it was not as it was waited for"))

    def forget(self, task_id: int) -> None:
        """It waits no more."""
        known = self._subject.pop(task_id, None)
        if known is not None:
            waiting = self._of[known[1]]
            del waiting[task_id]
            if not waiting:
                del self._of[known[1]]

    @property
    def count(self) -> int:
        """How many wait."""
        return len(self._subject)

    async def run(self) -> None:
        """Follow the log while there are any, and end those that are over. Until canceled."""
        reader = Log(self.engine, self._since)
        while True:
            if self._owed:
                await self._pay()
            if not self._of:
                self._anyone = trio.Event()
                await self._anyone.wait()
                reader.seq = self._since
            lost = reader.lost
            events = await reader.more()
            subjects = {subject_in(event) for _, event in events}
            self._take(list(self._of) if reader.lost > lost
                       else [one for one in subjects if one in self._of])

    def _take(self, subjects: Iterable[Subject]) -> None:
        """Look for those who wait for these."""
        for subject in subjects:
            for waiting in list(self._of.get(subject, {}).values()):
                ripe = self._look(waiting)
                if ripe is not None:
                    self.forget(waiting.task_id)
                    self._owed.append(self._finish(waiting, ripe))

    async def _pay(self) -> None:
        owed, self._owed = self._owed, []
        try:
            self.engine.post(owed, urgent=True)
        except PlumError as error:
            # The disk is down. The core is rebuilt when it is back, and gives all waits again.
            log.debug("waits that are over wait", extra={"reason": error.detail})
            await trio.sleep(AGAIN_S)

    def _finish(self, waiting: Waiting, ripe: Ripe) -> Finish:
        return Finish(waiting.task_id, waiting.attempt, waiting.worker_id, result=ENCODE(ripe))

    def _look(self, waiting: Waiting) -> Ripe | None:
        """What a wait answers now, None while it is not so."""
        call, store = waiting.call, self.engine.store
        if isinstance(call.kv, KvCondition):
            entry = store.peek(kv.get, call.kv.namespace, call.kv.key,
                               self.engine.clock.now().wall_ms)
            return ripe_key(call.kv, entry)
        assert isinstance(call.device, DeviceCondition), "until is a nap"
        try:
            live = self.registry.find(call.device.resource_id)
        except NotFound:
            return None
        state = store.peek(devices.latest, live.row.number).get(call.device.state)
        if state is None or not holds(call.device.op, state.value, call.device.value):
            return None
        return Ripe("the state is as it was waited for", state.value)


def ripe_key(condition: KvCondition, entry: kv.Entry | None) -> Ripe | None:
    """Whether a key is as it is wanted."""
    if isinstance(condition.value, msgspec.UnsetType):
        wanted = condition.exists is not False
        if wanted != (entry is not None):
            return None
        value = msgspec.UNSET if entry is None else json_value(entry.type, entry.value)
        return Ripe(f"the key is {'' if wanted else 'not '}there", value)
    if entry is None or not holds(condition.op, entry.value, condition.value):
        return None
    return Ripe("the key is as it was waited for", json_value(entry.type, entry.value))


def subject_of(call: WaitCall) -> Subject:
    """What events speak of that can end a wait."""
    if isinstance(call.kv, KvCondition):
        return "kv", call.kv.namespace, call.kv.key
    assert isinstance(call.device, DeviceCondition), "until is a nap"
    return "resource", call.device.resource_id, ""


def subject_in(event: Event) -> Subject:
    """What an event speaks of."""
    if event[0] == "kv":
        return "kv", str(event[1]), str(event[3])
    return str(event[0]), str(event[1]), ""
