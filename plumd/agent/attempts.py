"""The attempts of os_process tasks that this node has in hand: what a worker's desk is to others.

Everything about an attempt is in its directory, so that an agent that was killed finds it again:

    <data>/attempts/<task id>/<number>/attempt    what the controller said, before anything starts
                                      told        how much of the output it was told
                                      ...         the rest is plum-shim's

An agent that comes back holds what was started and not yet acknowledged; what was never started is
dropped, for the controller sends it again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, final

import msgspec
import trio

from plumd import executors
from plumd.agent.assigned import folder_of
from plumd.agent.pages import Pages
from plumd.agent.tail import tell_output
from plumd.executors import Outcome, Stop, process_log, shim
from plumd.executors.os_process import OsProcess
from plumd.executors.trees import remove_tree
from plumd.model import OS_PROCESS_POOL, Ending, TaskError, attempt_text, parse_attempt
from plumd.sdk.log_lines import LogLines
from plumd.sdk.outbox import Outbox
from plumd.sdk.pace import Pace
from plumd.sdk.protocol import EMPTY, LOST, Attempt, Down, Failure, Look, Page, Progress, Result

log = logging.getLogger("plumd.agent")
ATTEMPT_FILE: Final = "attempt"
STALE: Final = "stale"
_DECODE: Final = msgspec.json.Decoder(Attempt).decode


class InHand(NamedTuple):
    """An attempt under way."""

    attempt: Attempt
    stop: Stop


@final
class Attempts:
    """See `plumd.sdk.talk.Speaker`, and `plumd.sdk.desk.Desk` for what its parts mean.

    A lease that runs out ends nothing here: when the controller is back it says what is stale.
    """

    def __init__(self, processes: OsProcess, worker_id: str, pages: Pages) -> None:
        self.outbox = Outbox()
        self.lines = LogLines()
        self.names: tuple[str, ...] = (OS_PROCESS_POOL,)
        self.changed = trio.lowlevel.ParkingLot()
        self.pace = Pace(1, adapts=False)       # none is wanted ahead: each begins at once
        self.draining = False
        self.leaving = False
        self.running: dict[str, InHand] = {}
        self._processes = processes
        self._worker_id = worker_id
        self._pages = pages
        self._nursery: trio.Nursery | None = None

    # ------------------------------------------------------------ of before

    def recover(self) -> None:
        """Take up what an earlier agent had started; end what nobody knows of, and remove it. Reads
        files."""
        live: set[tuple[int, int]] = set()
        for pair in self._processes.stored():
            directory = self._processes.directory(*pair)
            attempt = read_attempt(directory)
            if attempt is not None and shim.was_claimed(directory):
                self.running[attempt.id] = InHand(attempt, Stop())
                live.add(pair)
        for pair in self._processes.sweep(live):
            log.warning("ended a stray process", extra={"attempt": attempt_text(*pair)})
        remove_all([self._processes.directory(*pair) for pair in self._processes.stored()
                    if pair not in live])

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry attempts until canceled; what runs is left running."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for one in self.running.values():
                nursery.start_soon(self._carry, one, True)
            task_status.started()
            await trio.sleep_forever()

    # ------------------------------------------------------------ what a line asks

    def holding(self) -> list[str]:
        """Attempts that run, or whose result is not acknowledged."""
        return [*self.running, *self.outbox.owed]

    def wake(self) -> None:
        """Let those who wait for a change look again."""
        if self.changed:
            self.changed.unpark_all()

    @property
    def has_progress(self) -> bool:
        """Processes say nothing of how far they are."""
        return False

    def take_progress(self, items_max: int) -> list[Progress]:
        """See has_progress."""
        del items_max
        return []

    def take_page(self) -> Page | None:
        """The next answer to a look at what an instance printed."""
        return self._pages.take()

    @property
    def stuck_at_s(self) -> float:
        """Never: none waits for its turn."""
        return math.inf

    def give_back(self) -> None:
        """See stuck_at_s."""

    def give_up(self, why: str) -> None:
        """The lease is over: go on, and let the controller say what is stale."""

    def abandon(self, why: str) -> None:
        """The agent leaves; processes live on."""

    async def take(self, down: Down) -> None:
        """Do what a message asks. Cancel: the rest of it is asked again on the next line."""
        if down.ack:
            before = list(self.outbox.owed)
            self.outbox.acknowledged(down.ack)
            self._forget(one for one in before if one not in self.outbox.owed)
        for refused in down.refused:
            self._drop(refused.id)
        unwanted = {notice.id for notice in down.cancel}
        for attempt in down.attempts:
            if attempt.id in self.running or self.outbox.knows(attempt.id):
                continue
            if attempt.id in unwanted:
                self.outbox.add(Result(attempt.id, stopped=True))
            else:
                self._start(attempt)
        for notice in down.cancel:
            self._cancel(notice.id, notice.reason)
        for look in down.looks:
            assert self._nursery is not None, "it runs before there is a line"
            self._nursery.start_soon(self._answer, look)
        self.wake()

    async def _answer(self, look: Look) -> None:
        await self._pages.answer(look, folder_of(look.instance_id))
        self.wake()

    def _cancel(self, attempt_id: str, reason: str) -> None:
        if reason == STALE:
            self._drop(attempt_id)
        elif attempt_id in self.running:
            self.running[attempt_id].stop.ask(reason)
        elif attempt_id not in self.outbox.owed:
            self.outbox.add(Result(attempt_id, stopped=True))

    def _drop(self, attempt_id: str) -> None:
        """The controller gave it up: end the work, say nothing of it."""
        one = self.running.get(attempt_id)
        if one is not None:
            one.stop.ask(STALE)
        elif attempt_id in self.outbox.owed:
            self.outbox.forget({attempt_id})
            self._forget([attempt_id])

    def let_go(self) -> None:
        """The node is another agent's: whatever was begun here is nobody's any more."""
        for attempt_id in self.holding():
            self._drop(attempt_id)

    # ------------------------------------------------------------ one attempt

    def _start(self, attempt: Attempt) -> None:
        assert self._nursery is not None, "it runs before there is a line"
        one = self.running[attempt.id] = InHand(attempt, Stop())
        self._nursery.start_soon(self._carry, one, False)

    async def _carry(self, one: InHand, resumed: bool) -> None:
        """From the start, or from where it stands, to the report. Cancel: it lives on."""
        attempt, pair = one.attempt, parse_attempt(one.attempt.id) or (0, 0)
        directory = self._processes.directory(*pair)
        given = executors.Attempt(
            task_id=pair[0], number=pair[1], name=attempt.name,
            payload=bytes(attempt.payload) or b"null",
            timeout_ms=round(attempt.timeout_sec * 1000), resumed=resumed,
            worker_id=self._worker_id)
        try:
            if not resumed:
                await trio.to_thread.run_sync(keep_attempt, directory, attempt)
        except OSError as error:
            failure = Failure("start_failed", f"the node's disk: {error}")
            self._report(one, Result(attempt.id, error=failure))
            return
        async with trio.open_nursery() as nursery:
            ended = trio.Event()
            nursery.start_soon(tell_output, directory, attempt.id, self, ended)
            try:
                outcome = await self._processes.run(given, one.stop)
            except OSError as error:        # a disk or a table that is full; nobody knows the end
                outcome = Outcome(Ending.LOST, error=unreachable(given, error))
            ended.set()
        self._report(one, result_of(attempt.id, outcome))

    def _report(self, one: InHand, result: Result) -> None:
        del self.running[one.attempt.id]
        if one.stop.reason == STALE:
            self.outbox.forget({one.attempt.id})
            self._forget([one.attempt.id])
        else:
            self.outbox.add(result, self.lines.mark)
        self.wake()

    def _forget(self, attempt_ids: Iterator[str] | list[str]) -> None:
        """Remove what is kept of attempts that are over and told."""
        pairs = [parse_attempt(one) or (0, 0) for one in attempt_ids]
        if pairs and self._nursery is not None:
            self._nursery.start_soon(
                trio.to_thread.run_sync, remove_all,
                [self._processes.directory(*pair) for pair in pairs])


def result_of(attempt_id: str, outcome: Outcome) -> Result:
    """What is told of an outcome: the error, and what the process left all the same."""
    value = msgspec.Raw(outcome.result) if outcome.result else EMPTY
    if outcome.ending == Ending.SUCCEEDED:
        return Result(attempt_id, value)
    said = outcome.error
    code = LOST if outcome.ending == Ending.LOST else "failed" if said is None else said.code
    failure = Failure(code)
    if said is not None:
        detail = said.detail if isinstance(said.detail, msgspec.Raw) else EMPTY
        failure = Failure(code, said.message[:8_000], detail, said.exit_code, said.signal or "")
    return Result(attempt_id, value, error=failure, retry=outcome.retryable,
                  stopped=outcome.ending in (Ending.CANCELED, Ending.TIMEOUT))


def unreachable(attempt: executors.Attempt, error: OSError) -> TaskError:
    """The error of an attempt whose end cannot be known."""
    return TaskError("lost", f"the node could not reach the process's keeper: {error}",
                               attempt=attempt.number, worker=attempt.worker_id)


# ---- files -----------------------------------------------------------------------------------

def keep_attempt(directory: Path, attempt: Attempt) -> None:
    """Write down what shall run, before anything does. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    shim.put(directory / ATTEMPT_FILE, msgspec.json.encode(attempt))


def read_attempt(directory: Path) -> Attempt | None:
    """What was written down; None when that is not there, or not whole."""
    try:
        return _DECODE((directory / ATTEMPT_FILE).read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def remove(directory: Path) -> None:
    """Remove one attempt's directory, and its task's when it was the last."""
    if not process_log.is_finished(directory):
        with suppress(OSError):
            line = shim.connect(directory)
            if line is not None:            # never from under a process that lives
                line.close()
                return
    remove_tree(directory)
    with suppress(OSError):
        directory.parent.rmdir()


def remove_all(directories: list[Path]) -> None:
    """Remove these."""
    for directory in directories:
        remove(directory)
