"""Carries attempts to the daemon's own executors, and their outcomes home."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import trio

from plumd.engine import Engine
from plumd.errors import PlumError, ValueLost
from plumd.executors import Attempt, Executor, Outcome, Stop, builtin
from plumd.executors.builtin_payloads import WAIT
from plumd.model import Ending, Finish, Nap, TaskError
from plumd.outbox import Carrier, Given, failed_by
from plumd.store import tasks, workers
from plumd.store.blobs import Blobs
from plumd.waits import Waits

log = logging.getLogger("plumd.carrier")
AGAIN_S: Final = 1.0
LABELS: Final = msgspec.json.Decoder(dict[str, str]).decode


class BuiltinCarrier:
    """Most builtins need no task of their own: a batch becomes a batch of commands. Those that
    reach out are handed on to `calls`; those that wait, to `waits`."""

    def __init__(self, engine: Engine, blobs: Blobs, calls: Carrier | None = None,
                 waits: Waits | None = None) -> None:
        self.engine = engine
        self.blobs = blobs
        self.calls = calls
        self.waits = waits

    def give(self, attempts: Sequence[Given]) -> None:
        commands = []
        reaching = []
        for given in attempts:
            name = self._name(given)
            # A large result is written to its file by those who may wait for the disk.
            large = given.blob and name == builtin.ECHO
            if self.calls is not None and (large or name in builtin.REACHING):
                reaching.append(given)
            elif (command := self._command(given, name)) is not None:
                commands.append(command)
        if self.calls is not None and reaching:
            self.calls.give(reaching)
        if commands:
            self._post(commands)

    def _post(self, commands: Sequence[Finish | Nap]) -> None:
        try:
            self.engine.post(commands, urgent=True)
        except PlumError:
            # The disk is down. The core is rebuilt when it is back, and gives them again.
            log.debug("builtins wait for the disk")

    def _name(self, given: Given) -> str:
        if given.name.startswith("builtin."):
            return given.name
        row = self.engine.store.peek(tasks.get, given.task_id)
        return "" if row is None else row.target_ref

    def _command(self, given: Given, name: str) -> Finish | Nap | None:
        try:
            payload = self.blobs.get(given.blob) if given.blob else given.payload
        except ValueLost as lost:
            return failed_by(given, lost)
        if self.waits is not None and name == WAIT:
            return self.waits.begin(given.task_id, given.attempt, given.worker_id, payload)
        started_ms = min(given.started_ms, self.engine.clock.now().wall_ms)  # it may be set back
        return builtin.carry_out(name, given.task_id, given.attempt, given.worker_id, payload,
                                 started_ms)

    def stop(self, worker_id: str, task_id: int, attempt: int, reason: str) -> None:
        """Echo and fail are over at once, naps are the core's; the others end what they do."""
        finish = None if self.waits is None else self.waits.stop(task_id, attempt, worker_id,
                                                                 reason)
        if finish is not None:
            self._post([finish])
        elif self.calls is not None:
            self.calls.stop(worker_id, task_id, attempt, reason)

    def kick(self, worker_id: str, session: str, code: str) -> None:
        """The daemon's own executors have no line to close."""


class LocalCarrier:
    """One Trio task for each attempt that has I/O outstanding; `run` holds their nursery."""

    def __init__(self, engine: Engine, blobs: Blobs, executor: Executor) -> None:
        self.engine = engine
        self.blobs = blobs
        self.executor = executor
        self._running: dict[tuple[int, int], Stop] = {}
        self._ended = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry attempts until canceled; work that can outlive the daemon is left running."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def wait_idle(self) -> None:
        """Return when nothing is being carried out."""
        while self._running:
            self._ended = trio.Event()
            await self._ended.wait()

    def give(self, attempts: Sequence[Given]) -> None:
        assert self._nursery is not None, "the carrier runs before the engine"
        for given in attempts:
            pair = (given.task_id, given.attempt)
            if pair not in self._running:
                stop = self._running[pair] = Stop()
                self._nursery.start_soon(self._carry, given, stop)

    def stop(self, worker_id: str, task_id: int, attempt: int, reason: str) -> None:
        del worker_id
        stop = self._running.get((task_id, attempt))
        if stop is not None:
            stop.ask(reason)

    def kick(self, worker_id: str, session: str, code: str) -> None:
        """An executor of this daemon, or a worker that is called back, has no line to close."""

    async def _carry(self, given: Given, stop: Stop) -> None:
        try:
            outcome = await self._outcome(given, stop)
            await self._bring_home(given, outcome)
        finally:
            del self._running[given.task_id, given.attempt]
            self._ended.set()

    async def _outcome(self, given: Given, stop: Stop) -> Outcome:
        try:
            attempt = await self._attempt(given)
        except ValueLost as lost:
            finish = failed_by(given, lost)
            return Outcome(Ending.FAILED, error=finish.error, retryable=False)
        try:
            return await self.executor.run(attempt, stop)
        except* Exception:
            log.exception("an executor failed", extra={
                "executor": self.executor.name, "task_id": given.task_id})
        return Outcome(Ending.FAILED, error=TaskError(
            "internal", f"the {self.executor.name} executor failed; the daemon's log says why"))

    async def _attempt(self, given: Given) -> Attempt:
        """All that the executor may need, from the committed row."""
        row = self.engine.store.peek(tasks.get, given.task_id)
        assert row is not None, "a claim without its row"
        payload = await self.blobs.load(given.blob) if given.blob else given.payload
        labels: Mapping[str, str] = {} if row.labels is None else LABELS(row.labels)
        worker = self.engine.store.peek(workers.get, given.worker_id)
        return Attempt(
            task_id=given.task_id, number=given.attempt, name=given.name,
            payload=payload or b"null", target_kind=row.target_kind, target_ref=row.target_ref,
            labels=labels, timeout_ms=given.timeout_ms, started_ms=given.started_ms,
            resumed=given.resumed, worker_id=given.worker_id,
            url="" if worker is None else worker.join.url)

    async def _bring_home(self, given: Given, outcome: Outcome) -> None:
        """Tell the engine, again and again while the disk is down."""
        while True:
            try:
                value, blob = await self.blobs.keep(outcome.result)
                finish = Finish(
                    given.task_id, given.attempt, given.worker_id, outcome.ending, value,
                    outcome.error, outcome.retryable, outcome.retry_after_ms, blob,
                    outcome.reached)
                await self.engine.call_all([finish], urgent=True)
            except PlumError:
                await trio.sleep(AGAIN_S)
            else:
                return
