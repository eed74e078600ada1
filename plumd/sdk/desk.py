"""The desk: the attempts that a worker has in hand, from the message that gave them to the result.

It knows nothing of lines: a lost line changes nothing on the desk. All of it runs in the worker's
Trio thread; only `Context` is touched by the threads of handlers.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Final, final

import trio

from plumd.sdk.handlers import Context, Mode, Task, failed
from plumd.sdk.log_lines import LogLines
from plumd.sdk.outbox import Outbox
from plumd.sdk.pace import Pace
from plumd.sdk.protocol import LOST, RETURNED, Attempt, Down, Failure, Page, Progress, Result

SLICE_S: Final = 0.001
"""How long inline handlers run before the sender gets a turn with what is ready by then."""
STUCK_S: Final = 0.1
"""When no handler ended for so long, what waits here is given back for others."""


@final
class Desk:
    """Starts what comes, stops what shall end, and gathers what is to be said about it.

    At most `capacity` handlers run at once, inline ones apart, for they run one by one; attempts
    beyond it wait for their turn.  adapts: it asks for as many of these as the pace of the handlers
    suggests, and gives them back when the handlers turn slow.
    changed: unparked whenever there may be something new to say, or something ended.
    draining: no more attempts are wanted.  leaving: none is even started any more.
    """

    def __init__(self, tasks: Mapping[str, Task], capacity: int,
                 *, adapts: bool = False) -> None:
        self.outbox = Outbox()
        self.lines = LogLines()
        self.names: tuple[str, ...] = ()        # what the daemon shall send attempts of
        self.running: dict[str, Context] = {}
        self.changed = trio.lowlevel.ParkingLot()
        self.draining = False
        self.leaving = False
        self.given_up = 0               # attempts that this worker let go, in its whole life
        self._tasks = tasks
        self._progress: dict[str, Progress] = {}
        self.pace = Pace(capacity, adapts=adapts)
        self._capacity = self._free = capacity
        self._moved_s = 0.0             # when a waiting attempt came or a handler ended
        self._waiting: dict[str, tuple[Task, Attempt]] = {}
        self._coming: list[str] = []            # for inline handlers, in the message being taken
        self._threads = trio.CapacityLimiter(capacity)
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread_id = 0

    def open(self, nursery: trio.Nursery) -> None:
        """Handlers that need a task or a thread run in this nursery."""
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()
        self._thread_id = threading.get_ident()

    def wake(self) -> None:
        """Let those who wait for a change look again."""
        if self.changed:
            self.changed.unpark_all()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on what is in hand. Cancel: nothing has changed."""
        while not condition():
            await self.changed.park()

    def holding(self) -> list[str]:
        """Attempts that run or will at once, or whose result is not acknowledged."""
        return [*self.running, *self._coming, *self.outbox.owed]

    async def take(self, down: Down) -> None:
        """Do what a message asks: forget, start, stop.

        Attempts that are in hand already are dropped: the daemon sends again what it is unsure of.
        Cancel: the rest of the message's attempts was neither started nor is it held.
        """
        if down.ack:
            self.outbox.acknowledged(down.ack)
        if down.refused:
            self._refused({refused.id for refused in down.refused})
        if down.attempts:
            await self._start_all(down.attempts, {notice.id for notice in down.cancel})
        for notice in down.cancel:
            self._cancel(notice.id, notice.reason)
        self.wake()

    async def _start_all(self, attempts: Sequence[Attempt], unwanted: set[str]) -> None:
        """Start them in order; inline handlers are called here and now."""
        now_s = perf_counter()
        pause_at = now_s + SLICE_S
        outbox, running = self.outbox, self.running
        inline, inline_s = 0, 0.0
        for index, attempt in enumerate(attempts):
            if attempt.id in running or outbox.knows(attempt.id):
                continue
            task = self._tasks.get(attempt.name)
            if attempt.id in unwanted:
                outbox.add(Result(attempt.id, stopped=True))
            elif self.leaving:
                outbox.add(Result(attempt.id, error=Failure(LOST, "the worker is leaving")))
            elif task is None:
                failure = Failure("unknown_task", f"this worker has no task {attempt.name!r}")
                outbox.add(Result(attempt.id, error=failure))
            elif task.mode is not Mode.INLINE:
                self._start(task, attempt)
            else:
                context = Context(attempt, self._tell, self._log) if task.wants_context else None
                result = task.answer(attempt, context)
                assert result is not None, "nobody can stop an inline handler"
                outbox.add(result, context.last_mark if context else 0)
                begun_s, now_s = now_s, perf_counter()
                inline += 1
                inline_s += now_s - begun_s
                if now_s >= pause_at:
                    await self._pause([each.id for each in attempts[index + 1:]])
                    now_s = perf_counter()
                    pause_at = now_s + SLICE_S
        if inline:
            self.pace.note(inline_s, inline, 1)

    async def _pause(self, coming: list[str]) -> None:
        """Let the sender have a turn; it may say what is held, and these are to come."""
        self._coming = [each for each in coming if each not in self.running
                        and not self.outbox.knows(each)]
        self.wake()
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._coming = []

    def _start(self, task: Task, attempt: Attempt) -> None:
        scope = trio.CancelScope() if task.mode is Mode.ASYNC else None
        self.running[attempt.id] = Context(attempt, self._tell, self._log, scope)
        self._waiting[attempt.id] = (task, attempt)
        self._moved_s = trio.current_time()
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Let attempts run whose turn it is, in the order in which they came."""
        assert self._nursery is not None, "the desk is not open"
        while self._free and self._waiting:
            attempt_id = next(iter(self._waiting))
            task, attempt = self._waiting.pop(attempt_id)
            self._free -= 1
            run = self._run_async if task.mode is Mode.ASYNC else self._run_thread
            self._nursery.start_soon(run, task, attempt, self.running[attempt_id])

    async def _run_async(self, task: Task, attempt: Attempt, context: Context) -> None:
        """One async handler. Cancel: the worker stops; the daemon hears of it from others."""
        assert context.scope is not None, "an async handler has a scope"
        result: Result | None = None
        begun_s = perf_counter()
        try:
            with context.scope:
                result = await task.answer_async(attempt, context)
        except (Exception, SystemExit) as error:    # the wall around the user's code
            result = failed(attempt, error, context)
        self._ended(context, result, perf_counter() - begun_s)

    async def _run_thread(self, task: Task, attempt: Attempt, context: Context) -> None:
        """One plain handler in a thread. Cancel: the thread is left to itself."""
        begun_s = perf_counter()
        result = await trio.to_thread.run_sync(
            task.answer, attempt, context, abandon_on_cancel=True, limiter=self._threads)
        self._ended(context, result, perf_counter() - begun_s)

    def _ended(self, context: Context, result: Result | None, spent_s: float) -> None:
        """A handler is done, and its slot free."""
        self._free += 1
        self._moved_s = trio.current_time()
        self.pace.note(spent_s, 1, self._capacity)
        self._start_waiting()
        if self.running.get(context.id) is context:     # else nobody waits for it any more
            self._report(context, result)

    def _report(self, context: Context, result: Result | None) -> None:
        del self.running[context.id]
        self._waiting.pop(context.id, None)
        self._progress.pop(context.id, None)
        if context.canceled or result is None:
            result = context.ending(result)
        self.outbox.add(result, context.last_mark)
        self.wake()

    def _refused(self, attempt_ids: set[str]) -> None:
        """These are not ours any more: end the work, say nothing about it."""
        for attempt_id in attempt_ids:
            context = self.running.pop(attempt_id, None)
            if context is not None:
                context.stop("stale")
            self._waiting.pop(attempt_id, None)
            self._progress.pop(attempt_id, None)
        self.outbox.forget(attempt_ids)

    def _cancel(self, attempt_id: str, reason: str) -> None:
        context = self.running.get(attempt_id)
        if context is not None:
            context.stop(reason)
            if attempt_id in self._waiting:
                self._report(context, None)
        elif attempt_id not in self.outbox.owed:
            # Not here, so it does not run here: that is what the daemon waits to hear.
            self.outbox.add(Result(attempt_id, stopped=True))

    @property
    def stuck_at_s(self) -> float:
        """When what waits here is given back, unless something ends before; a time of trio's."""
        return self._moved_s + STUCK_S if self._waiting and self.pace.asked else math.inf

    def give_back(self) -> None:
        """Let others have what waits here: it has not begun."""
        self.pace.slow()
        for attempt_id in self._waiting:
            del self.running[attempt_id]
            self.outbox.add(Result(attempt_id, error=Failure(RETURNED)))
        self._waiting.clear()

    def give_up(self, why: str) -> None:
        """Tell all handlers to end, because this worker cannot vouch for them any more."""
        for context in self.running.values():
            self.given_up += not context.canceled
            context.stop(LOST, why)
        for attempt_id in list(self._waiting):
            self._report(self.running[attempt_id], None)

    def abandon(self, why: str) -> None:
        """Report as lost what still runs, without waiting for it."""
        self.give_up(why)
        for context in self.running.values():
            self.outbox.add(context.lost() if context.reason == LOST else context.ending(None),
                            context.last_mark)
        self.running.clear()
        self._progress.clear()
        self.wake()

    def take_progress(self, items_max: int) -> list[Progress]:
        """The latest word of each attempt that said something since."""
        if not self._progress:
            return []
        latest = list(self._progress.values())[:items_max]
        for progress in latest:
            del self._progress[progress.id]
        return latest

    def take_page(self) -> Page | None:
        """Of output that the daemon asked to see; only an agent keeps any."""
        return None

    @property
    def has_progress(self) -> bool:
        """Whether some attempt said how far it is."""
        return bool(self._progress)

    def _tell(self, progress: Progress) -> None:
        """Note how far an attempt is; called by handlers, so maybe in a thread."""
        if threading.get_ident() == self._thread_id:
            self._note(progress)
            return
        assert self._token is not None, "the desk is not open"
        with contextlib.suppress(trio.RunFinishedError):  # a thread left behind by a gone worker
            self._token.run_sync_soon(self._note, progress)

    def _log(self, context: Context, text: str) -> None:
        """Add a line to an attempt's log; called by handlers, so maybe in a thread."""
        self.lines.add(context, text)
        self.wake_from_anywhere()

    def wake_from_anywhere(self) -> None:
        """`wake`, from whatever thread."""
        self.from_anywhere(self.wake)

    def from_anywhere(self, act: Callable[[], None]) -> None:
        """Call this in the worker's own thread, from whatever thread; at once before it serves."""
        if self._token is None or threading.get_ident() == self._thread_id:
            act()
        else:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(act, idempotent=True)

    def _note(self, progress: Progress) -> None:
        if progress.id in self.running:
            self._progress[progress.id] = progress
            self.wake()
