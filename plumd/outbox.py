"""Effects: what must happen outside once a commit is durable, and who carries it out.

Carriers register here; the outbox knows no door. A carrier never blocks: it takes what it is
given into a mailbox of its own and returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from plumd.errors import ValueLost
from plumd.model import (
    Created,
    Ending,
    Finish,
    StartEffect,
    StopEffect,
    TaskError,
    WorkerKind,
)
from plumd.store import tasks
from plumd.store.store import Store

INPUT_BYTES_MAX: Final = 32 << 20


class Given(msgspec.Struct, frozen=True, gc=False):
    """An attempt on its way to whoever carries it out; blob: the file that holds the payload."""

    worker_id: str
    task_id: int
    attempt: int
    name: str
    timeout_ms: int
    started_ms: int
    payload: bytes | None
    blob: str
    resumed: bool


class Line(NamedTuple):
    """How a worker's session reaches it. transport: websocket, long-poll or grpc-stream."""

    transport: str
    peer: str
    """The worker's address, "" for a unix socket."""


class Carrier(Protocol):
    """Takes attempts to a worker or an executor."""

    def give(self, attempts: Sequence[Given]) -> None:
        """These attempts are claimed for it, durably."""

    def stop(self, worker_id: str, task_id: int, attempt: int, reason: str) -> None:
        """This attempt shall end: "canceled", "timeout", or "stale" (it is not current)."""

    def kick(self, worker_id: str, session: str, code: str) -> None:
        """That session is over ("" = whichever there is): close its line and say this code."""


class Inputs:
    """Payloads of tasks that were submitted a short while ago, bounded in bytes."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[bytes | None, str]] = {}
        self._size = 0

    def keep(self, created: Iterable[Created]) -> None:
        """Remember the payloads of new tasks; past the bound the oldest go."""
        for row in created:
            command = row[0]
            if command.payload is not None or command.blob:
                self._kept[command.task_id] = (command.payload, command.blob)
                self._size += len(command.payload or b"") + 200
        while self._size > INPUT_BYTES_MAX:
            self._forget(next(iter(self._kept)))

    def _forget(self, task_id: int) -> tuple[bytes | None, str] | None:
        found = self._kept.pop(task_id, None)
        if found is not None:
            self._size -= len(found[0] or b"") + 200
        return found

    def take(self, store: Store, task_ids: Sequence[int]) -> dict[int, tuple[bytes | None, str]]:
        """The payloads of these tasks, from memory or from the store."""
        found, missing = {}, []
        for task_id in task_ids:
            kept = self._forget(task_id)
            if kept is None:
                missing.append(task_id)
            else:
                found[task_id] = kept
        if missing:
            found.update(store.peek(tasks.inputs, missing))
        return found


def failed_by(given: Given, lost: ValueLost) -> Finish:
    """The end of an attempt whose payload is gone; another try would find it no better."""
    return Finish(given.task_id, given.attempt, given.worker_id, Ending.FAILED,
                  error=TaskError(lost.code, f"the payload: {lost.detail}"), retryable=False)


class Outbox:
    """worker id -> carrier; sessions come and go, the daemon's own executors stay."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._inputs = Inputs()
        self._carriers: dict[str, Carrier] = {}
        self._lines: dict[str, Line] = {}
        self._caller: Carrier | None = None
        self._after: list[Callable[[], None]] = []

    def register(self, worker_id: str, carrier: Carrier, line: Line | None = None) -> None:
        """From now on this carrier serves the worker; one that served it before is kicked."""
        old = self._carriers.get(worker_id)
        self._carriers[worker_id] = carrier
        if line is not None:
            self._lines[worker_id] = line
        if old is not None and old is not carrier:
            old.kick(worker_id, "", "session_replaced")

    def register_caller(self, carrier: Carrier) -> None:
        """Serves every worker that has no carrier of its own because it is called back."""
        self._caller = carrier

    def serves(self, worker_id: str, carrier: Carrier) -> bool:
        """Whether this carrier is the one that serves the worker."""
        return self._carriers.get(worker_id) is carrier

    def carrier_of(self, worker_id: str) -> Carrier | None:
        """Who serves the worker at present."""
        return self._carriers.get(worker_id)

    def unregister(self, worker_id: str, carrier: Carrier) -> None:
        """Forget a carrier, unless another has taken its place."""
        if self._carriers.get(worker_id) is carrier:
            del self._carriers[worker_id]
            self._lines.pop(worker_id, None)

    def line_of(self, worker_id: str) -> Line | None:
        """How a worker is reached at present; None when it has no line, or is called back."""
        return self._lines.get(worker_id)

    def kick_all(self, code: str) -> None:
        """Close every line; the workers come back and say what they hold."""
        for worker_id, carrier in list(self._carriers.items()):
            carrier.kick(worker_id, "", code)

    def after(self, call: Callable[[], None]) -> None:
        """For who is answered: call this when the effects of the same step are out."""
        self._after.append(call)

    def release(self, created: Sequence[Created], starts: Sequence[StartEffect],
                stops: Sequence[StopEffect], kicks: Sequence[tuple[str, str]]) -> None:
        """Let one step's effects out, in this order: kicks, stops, starts."""
        if created:
            self._inputs.keep(created)
        for worker_id, session in kicks:
            carrier = self._carriers.get(worker_id)
            if carrier is not None:
                carrier.kick(worker_id, session, "lease_lost")
        for worker_id, task_id, attempt, reason in stops:
            carrier = self._carriers.get(worker_id, self._caller)
            if carrier is not None:
                carrier.stop(worker_id, task_id, attempt, reason)
        if starts:
            self._give(starts)
        if self._after:
            after, self._after = self._after, []
            for call in after:
                call()

    def _give(self, starts: Sequence[StartEffect]) -> None:
        wanted = [start[2] for start in starts if start[6]]
        found = self._inputs.take(self._store, wanted) if wanted else {}
        by_worker: dict[str, list[Given]] = {}
        callbacks: list[Given] = []
        for worker_id, kind, task_id, attempt, name, timeout, _, started, resumed in starts:
            payload, blob = found.get(task_id, (None, ""))
            if kind == WorkerKind.CALLBACK:
                callbacks.append(Given(worker_id, task_id, attempt, name, timeout, started,
                                       payload, blob, resumed))
                continue
            by_worker.setdefault(worker_id, []).append(Given(
                worker_id, task_id, attempt, name, timeout, started, payload, blob, resumed))
        for worker_id, given in by_worker.items():
            carrier = self._carriers.get(worker_id)
            if carrier is not None:
                carrier.give(given)
            # else: the session dropped its line; it is given again when it is back
        if callbacks and self._caller is not None:
            self._caller.give(callbacks)
