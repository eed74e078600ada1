"""A worker session: its mailbox, and what its messages mean to the engine.

Stream and long poll issue the same commands through this; neither has rules of its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final

import msgspec
import trio

from plumd.attempt_logs import LinePiece
from plumd.engine import Ask, Engine
from plumd.errors import Invalid, PlumError, ValueLost
from plumd.model import (
    AGENT_PREFIX,
    INLINE_BYTES_MAX,
    OS_PROCESS_POOL,
    Ahead,
    CoreCommand,
    Drain,
    Ending,
    Finish,
    Join,
    Reply,
    TaskError,
    WorkerKind,
    attempt_text,
    parse_attempt,
)
from plumd.outbox import Given, failed_by
from plumd.sdk.protocol import (
    EMPTY,
    LOST,
    RETURNED,
    Attempt,
    CancelNotice,
    Down,
    LogLine,
    Look,
    Page,
    Refused,
    Register,
    Registered,
    Result,
    Up,
    fitting,
)
from plumd.store.blobs import Blobs

log = logging.getLogger("plumd.stream")
LEASE_BEATS = 3
LEASE_S_MIN = 3.0
WORKER_ID_CHARS_MAX: Final = 200
LINES_S_MAX: Final = LEASE_S_MIN / 3
"""So long a result waits for the lines that were said before it."""
LOOK_S_MAX: Final = 10.0
"""So long an agent may take for an answer, beyond what it was told to wait."""
REFS: Final = count(1)
LOCAL_PREFIX: Final = "local:"
"""What the ids of the daemon's own executors begin with."""
POOL_PREFIX: Final = "!"
"""What the names begin with under which they take their work."""
ENDINGS: Final = {(LOST, False): Ending.LOST, (LOST, True): Ending.LOST,
                  (RETURNED, False): Ending.LOST, (RETURNED, True): Ending.LOST,
                  ("canceled", True): Ending.CANCELED, ("timeout", True): Ending.TIMEOUT}
"""What an error's code and whether the work was stopped say; anything else is a failure."""


def lease_s(beat_sec: float) -> float:
    """How long a worker that beats so often is believed without a word."""
    return max(LEASE_S_MIN, LEASE_BEATS * beat_sec)


def pairs(ids: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """(task id, attempt) of attempts' ids; the protocol has checked their form."""
    found = (parse_attempt(text) for text in ids)
    return tuple(pair for pair in found if pair is not None)


def check_names(worker_id: str, tasks: Sequence[str], id_field: str, tasks_field: str,
                node_id: str = "") -> None:
    """Refuse what would put a worker in the place of the daemon's own executors.

    An agent, whose id is its node's behind a prefix, takes the processes of its node; so who says
    node_id lets it.  Raises: Invalid.
    """
    if node_id and worker_id == AGENT_PREFIX + node_id:
        tasks = [name for name in tasks if name != OS_PROCESS_POOL]
    if not 0 < len(worker_id) <= WORKER_ID_CHARS_MAX or worker_id.startswith(LOCAL_PREFIX):
        raise Invalid(f"a worker's id has 1 to {WORKER_ID_CHARS_MAX} characters and does not begin "
                      f"with {LOCAL_PREFIX}", field=id_field)
    for index, name in enumerate(tasks):
        if name.startswith(POOL_PREFIX):
            raise Invalid(f"a task's name does not begin with {POOL_PREFIX}",
                          field=f"{tasks_field}[{index}]")


def join_of(worker_id: str, register: Register, holding: Sequence[str]) -> Join:
    """The command behind a register."""
    return Join(
        worker_id=worker_id, kind=WorkerKind.SESSION, session=register.session,
        tasks=tuple(sorted(set(register.tasks))), node_id=register.node_id,
        labels=tuple(sorted(register.labels.items())), capacity=register.capacity,
        lease_ms=math.ceil(lease_s(register.beat_sec) * 1000), instance_id=register.instance_id,
        app_name=register.app_name, app_version=register.app_version, holding=pairs(holding))


def joining(join: Join, drain: bool) -> list[CoreCommand]:
    """The commands by which a worker is here again."""
    return [join, Drain(join.worker_id, own=True)] if drain else [join]


class Asked:
    """A question to an agent, and its answer."""

    def __init__(self, done: trio.Event) -> None:
        self.done = done
        self.page: Page | None = None


class Session:
    """What waits to be told to one worker. The engine's outbox fills it, a door empties it."""

    def __init__(self, engine: Engine, blobs: Blobs, join: Join) -> None:
        self.engine = engine
        self.blobs = blobs
        self.join = join
        self.ack = self.log_ack = 0
        self.in_hand = 0
        """Messages that were handed in and are not yet durable."""
        self.refused: list[Refused] = []
        self.kicked = ""
        """Why the line must be closed; "" = it need not."""
        self.draining = False
        self.sender: Callable[[], bool] | None = None
        """Tells the worker all that waits, at once; False when it cannot, and news must do."""
        self.line_full = False
        """The rest of a message must go out before anything else can."""
        self._given: dict[tuple[int, int], Given] = {}
        self._cancels: dict[tuple[int, int], str] = {}
        self._looks: list[Look] = []
        self._asked: dict[str, Asked] = {}
        self._news = trio.Event()
        self._turn = 0
        self._unwritten = 0     # messages whose lines are not in their files yet
        self._written = trio.lowlevel.ParkingLot()

    # ------------------------------------------------------------ from the outbox

    def give(self, attempts: Sequence[Given]) -> None:
        for given in attempts:
            self._given[given.task_id, given.attempt] = given
        if self.sender is None or not self.sender():
            self._news.set()

    def stop(self, worker_id: str, task_id: int, attempt: int, reason: str) -> None:
        del worker_id
        self._cancels[task_id, attempt] = reason
        self._news.set()

    def kick(self, worker_id: str, session: str, code: str) -> None:
        del worker_id
        if session in ("", self.join.session):
            self.kicked = self.kicked or code
            self._news.set()
            for asked in self._asked.values():
                asked.done.set()

    def drain(self) -> None:
        """Tell the worker that no more attempts will come: the daemon is leaving."""
        self.draining = True
        self._news.set()

    async def look(self, look: Look) -> Page | None:
        """Ask an agent for a part of what an instance printed; None when no answer came.

        Cancel: nobody waits for the answer any more.
        """
        asked, ref = Asked(trio.Event()), f"{next(REFS):x}"
        self._asked[ref] = asked
        self._looks.append(msgspec.structs.replace(look, ref=ref))
        self._news.set()
        try:
            with trio.move_on_after(look.wait_sec + LOOK_S_MAX):
                await asked.done.wait()
        finally:
            del self._asked[ref]
        return asked.page

    # ------------------------------------------------------------ from the worker

    async def take_in(self, up: Up, commands: Sequence[CoreCommand] = ()) -> Ask:
        """Carry out one message, behind commands that come before its results; returns after the
        commit.

        Raises: PlumError; then nothing of it was done.
        """
        ask = await self.hand_in(up, commands)
        await ask.done.wait()
        if ask.error is not None:
            raise ask.error
        return ask

    async def hand_in(self, up: Up, commands: Sequence[CoreCommand] = ()) -> Ask:
        """The same without waiting for the commit; its acknowledgement is in the mailbox before
        the attempts that the commit set free, so that one message tells both.

        An attempt ends when its lines are in their file: behind it they would not be taken again.
        Raises: PlumError when it is not even taken.
        """
        if up.logs:
            self._note_lines(up)
        if up.results and self._unwritten:
            await self.lines_written()
        finishes = [
            self._success(result) if is_plain(result) else await self._finish(result)
            for result in up.results]
        if up.ahead is not None:
            commands = [*commands, Ahead(self.join.worker_id, self.join.session, up.ahead)]
        before = len(commands)

        def acknowledge(ask: Ask) -> None:
            self.in_hand -= 1
            if ask.error is not None:
                self.kick("", "", ask.error.code)
            elif finishes:
                self.ack = up.seq
                for finish, reply in zip(finishes, ask.replies[before:], strict=True):
                    if reply.code:
                        self.refused.append(refusal(finish, reply))
            self.engine.outbox.after(self._look_again)      # what is given next tells this, too

        for progress in up.progress:
            pair = parse_attempt(progress.id)
            if pair is not None:
                self.engine.note_progress(pair, self.join.worker_id, progress.ratio, progress.text)
        for page in up.pages:
            if page.ref in self._asked:
                self._asked[page.ref].page = page
                self._asked[page.ref].done.set()
        self.in_hand += 1
        try:
            return self.engine.post([*commands, *finishes], urgent=True, then=acknowledge)
        except PlumError:
            self.in_hand -= 1
            raise

    def _look_again(self) -> None:
        if not self.idle:
            self._news.set()

    def rename(self, tasks: Sequence[str]) -> Join:
        """The command behind a change of the worker's names. Raises: Invalid."""
        check_names(self.join.worker_id, tasks, "id", "tasks", self.join.node_id)
        held = tuple(self.engine.core.held_by(self.join.worker_id))
        self.join = msgspec.structs.replace(
            self.join, tasks=tuple(sorted(set(tasks))), holding=held)
        return self.join

    def _note_lines(self, up: Up) -> None:
        """Lines of attempts that are this worker's go to their logs, in order."""
        self._unwritten += 1

        def written() -> None:
            self._unwritten -= 1
            self.log_ack = up.log_seq or self.log_ack
            self._look_again()
            if not self._unwritten:
                self._written.unpark_all()

        self.engine.note_lines(self.join.worker_id, line_pieces(up.logs), written)

    async def lines_written(self) -> bool:
        """Return when the lines that came are in their files, or never will be.

        False: the disk of the logs is slow, and whoever waits on must hear the worker's next beat.
        """
        with trio.move_on_after(LINES_S_MAX):
            while self._unwritten:
                await self._written.park()
        return not self._unwritten

    async def _finish(self, result: Result) -> Finish:
        """The command behind a result that is large, or that is no plain success."""
        value, blob = await self.blobs.keep(bytes(result.result) or None)
        task_id, attempt = parse_attempt(result.id) or (0, 0)
        error = None
        ending = Ending.CANCELED if result.stopped else Ending.SUCCEEDED
        if result.error is not None:
            ending = ENDINGS.get((result.error.code, result.stopped), Ending.FAILED)
            detail = bytes(result.error.detail)
            error = TaskError(code=result.error.code or "failed",
                              message=result.error.message or "the task failed",
                              exit_code=result.error.exit_code, signal=result.error.signal or None,
                              detail=msgspec.Raw(detail) if detail else msgspec.UNSET)
        return Finish(
            task_id=task_id, attempt=attempt, worker_id=self.join.worker_id, ending=ending,
            result=value, error=error, retryable=result.retry, blob=blob,
            retry_after_ms=math.ceil((result.retry_after_sec or 0) * 1000),
            reached=result.error is None or result.error.code != RETURNED)

    def _success(self, result: Result) -> Finish:
        """The command behind a plain success: most results, so without a detour."""
        task_id, attempt = parse_attempt(result.id) or (0, 0)
        return Finish(task_id, attempt, self.join.worker_id, Ending.SUCCEEDED,
                      bytes(result.result) or None)

    # ------------------------------------------------------------ to the worker

    @property
    def idle(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self._given or self.ack or self._cancels or self.refused or self.kicked
                    or self.draining or self.line_full or self._looks or self.log_ack)

    @property
    def only_ack(self) -> bool:
        """Whether there is nothing to tell but that results or lines are safe, for which nobody
        waits.
        """
        return not (self._given or self._cancels or self.refused or self.kicked or self.draining
                    or self.line_full or self._looks)

    async def wait_news(self) -> None:
        """Return when there may be something to tell."""
        while self.idle:
            self._news = trio.Event()
            await self._news.wait()

    def begin_turn(self) -> int:
        """Another request of this session came: an earlier one that waits shall wait no longer."""
        self._turn += 1
        self._news.set()
        return self._turn

    def is_turn_of(self, turn: int) -> bool:
        """Whether no later request came."""
        return self._turn == turn

    async def wait_turn(self, turn: int) -> None:
        """Return when there may be something to tell, or a later request came."""
        while self.idle and self._turn == turn:
            self._news = trio.Event()
            await self._news.wait()

    def forget_given(self) -> None:
        """Drop what was not fetched; the next Join's holding makes the core give it again."""
        self._given.clear()

    async def compose(self, registered: Registered | None, attempts_max: int) -> Down:
        """Everything that waits, as one message; attempts that do not fit stay."""
        attempts = []
        for one in self._next_given(attempts_max):
            try:
                payload = await self.blobs.load(one.blob) if one.blob else one.payload
            except ValueLost as lost:
                self._fail(one, lost)
            else:
                attempts.append(attempt_of(one, payload))
        return self._down(registered, attempts)

    def _fail(self, given: Given, lost: ValueLost) -> None:
        """An attempt whose payload is gone: it alone fails, and the session goes on."""
        try:
            self.engine.post([failed_by(given, lost)], urgent=True)
        except PlumError:
            # The disk is down. The core is rebuilt when it is back, and gives it again.
            log.debug("a failure waits for the disk")

    def compose_nowait(self, attempts_max: int) -> Down | None:
        """The same at once; None when a payload must be read from a file first."""
        if any(one.blob for one in self._given.values()):
            return None
        return self._down(None, [
            attempt_of(one, one.payload) for one in self._next_given(attempts_max)])

    def _next_given(self, attempts_max: int) -> list[Given]:
        if len(self._given) <= attempts_max:
            given, self._given = list(self._given.values()), {}
            return given
        return [self._given.pop(pair) for pair in list(self._given)[:attempts_max]]

    def _down(self, registered: Registered | None, attempts: list[Attempt]) -> Down:
        room = fitting(attempts)
        if room < len(attempts):
            attempts = self._put_back(attempts, room)
        # Of an attempt that stays here its worker hears first: else it would begin what is over.
        cancels = [CancelNotice(attempt_text(*pair), reason)
                   for pair, reason in self._cancels.items() if pair not in self._given]
        down = Down(registered, self.ack, self.refused, attempts, cancels, self._looks,
                    self.draining, log_ack=self.log_ack)
        self._looks = []
        self._cancels = {pair: reason for pair, reason in self._cancels.items()
                         if pair in self._given}
        self.ack, self.log_ack, self.refused, self.draining = 0, 0, [], False
        return down

    def _put_back(self, attempts: list[Attempt], room: int) -> list[Attempt]:
        """Those of the attempts that fit into one message; the others wait for the next."""
        for attempt in attempts[room:]:
            pair = parse_attempt(attempt.id)
            if pair is not None:
                self._given[pair] = Given(
                    self.join.worker_id, *pair, attempt.name, int(attempt.timeout_sec * 1000), 0,
                    bytes(attempt.payload) or None, "", False)
        self._news.set()
        return attempts[:room]


def line_pieces(lines: Sequence[LogLine]) -> list[LinePiece]:
    """The lines, those of an attempt that follow each other in its log together."""
    pieces: list[LinePiece] = []
    open_ends: dict[str, tuple[list[str], int | None]] = {}
    for line in lines:
        text = line.text if line.part or line.text.endswith("\n") else line.text + "\n"
        texts, end = open_ends.get(line.id, (None, None))
        if texts is None or line.at != end:
            texts = []
            pieces.append((parse_attempt(line.id) or (0, 0), texts, line.at))
        texts.append(text)
        open_ends[line.id] = (texts, None if line.at is None else line.at + len(text.encode()))
    return pieces


def is_plain(result: Result) -> bool:
    """Whether it is a success small enough for a row."""
    return (result.error is None and not result.stopped
            and len(result.result) <= INLINE_BYTES_MAX)


def attempt_of(given: Given, payload: bytes | None) -> Attempt:
    """An attempt as it is told to a worker."""
    return Attempt(
        id=attempt_text(given.task_id, given.attempt), name=given.name,
        payload=EMPTY if payload is None else msgspec.Raw(payload),
        timeout_sec=given.timeout_ms / 1000, attempt=given.attempt)


def refusal(finish: Finish, reply: Reply) -> Refused:
    """How a worker is told that its report changed nothing."""
    return Refused(attempt_text(finish.task_id, finish.attempt), reply.code, reply.attempt)


def registered_of(join: Join, beat_sec: float) -> Registered:
    """The daemon's side of the bargain with this worker."""
    return Registered(lease_sec=join.lease_ms / 1000, beat_sec=beat_sec, log_acks=True)
