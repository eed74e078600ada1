"""Moves the logs of what is over from directories of their own into the files of their hours.

That an attempt is over is the store's word, never the core's, which may run ahead of the disk: an
attempt that may have to be found again keeps its directory. So there are as many directories as
attempts that run, or ended in the last seconds, and those in which a process left files.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from plumd.attempt_logs import AttemptLogs, Pair
from plumd.engine import Engine
from plumd.executors import process_log, shim
from plumd.executors.hour_logs import MOVED, HourLogs, discard, discard_rest, mark_moved
from plumd.executors.os_process import OsProcess
from plumd.model import TaskState, id_text
from plumd.store import tasks

log = logging.getLogger("plumd.logs")
PAUSE_S: Final = 2.0
"""So long ended attempts gather: a move costs two fsyncs, for one log or for many."""
AGAIN_S: Final = 10.0
"""So long what is over stays while its keeper is at its door, or the disk takes no more."""
AT_ONCE_MAX: Final = 200


class Gathering:
    """Looks for what is over whenever something happened, at most every PAUSE_S."""

    def __init__(self, engine: Engine, kept: HourLogs, processes: OsProcess,
                 lines: AttemptLogs) -> None:
        self.engine = engine
        self.kept = kept
        self.processes = processes
        self.lines = lines
        self._left: set[Pair] = set()
        self._complained = False

    async def run(self) -> None:
        """Until canceled. Cancel: what is half moved is moved again at the next start."""
        self._left |= await trio.to_thread.run_sync(self._look)
        while True:
            journal = self.engine.journal       # another one when the disk was away
            seen = journal.next_seq
            done = await self.round()
            with trio.move_on_after(math.inf if done else AGAIN_S):
                await journal.wait_beyond(seen)
            await trio.sleep(PAUSE_S)

    def _look(self) -> set[Pair]:
        """All that has a directory."""
        for parent in self.processes.root.glob("*"):
            if discard_rest(parent):
                with suppress(OSError):
                    parent.rmdir()              # goes when nothing else was in it
        return set(self.processes.stored())

    async def round(self) -> bool:
        """Move everything that is over now; False: something of it stays, so look again."""
        for news in (self.processes.ended, self.lines.begun):
            self._left |= news
            news.clear()
        over = sorted(pair for pair in self._left if self._is_over(pair))
        await self.lines.settled()
        now_ms = self.engine.clock.now().wall_ms
        for at in range(0, len(over), AT_ONCE_MAX):
            self._left -= await trio.to_thread.run_sync(
                self._move, over[at:at + AT_ONCE_MAX], now_ms)
        return self._left.isdisjoint(over)

    def _is_over(self, pair: Pair) -> bool:
        known = self.engine.core.knows(pair[0])
        if known is not None and known[:2] == (TaskState.RUNNING, pair[1]):
            return False                        # the quick answer, which most get
        row = self.engine.store.peek(tasks.get, pair[0])
        return row is None or (row.state, row.attempt) != (TaskState.RUNNING, pair[1])

    def _move(self, pairs: Sequence[Pair], now_ms: int) -> set[Pair]:
        """Move these logs; answers whom that needs no more."""
        there = {pair: self.processes.directory(*pair) for pair in pairs}
        quiet = {pair: path for pair, path in there.items() if is_quiet(path)}
        wanted = {pair: path for pair, path in quiet.items() if not is_moved(path)}
        try:
            self.kept.put(wanted.items(), now_ms)
        except OSError as error:
            self._complain(error)
            moved = {pair for pair in wanted if self._move_one(pair, wanted[pair], now_ms)}
        else:
            moved = set(wanted)
            self._complained = False
        over = moved | (set(quiet) - set(wanted))
        for pair in over:
            clear(there[pair])
        return over

    def _move_one(self, pair: Pair, directory: Path, now_ms: int) -> bool:
        """Whether one of many could be moved alone, when together they could not."""
        try:
            self.kept.put([(pair, directory)], now_ms)
        except OSError as error:
            log.debug("a log stays where it is", extra={
                "task_id": id_text(pair[0]), "reason": str(error)})
            return False
        return True

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            log.warning("logs stay in directories of their own", extra={"reason": str(error)})
        self._complained = True


def is_quiet(directory: Path) -> bool:
    """Whether no process writes there."""
    try:
        line = shim.connect(directory)
    except OSError:                             # too many lines to it: it lives
        return False
    if line is not None:
        line.close()
    return line is None


def is_moved(directory: Path) -> bool:
    """Whether there is no log (any more)."""
    try:
        names = {path.name for path in directory.iterdir()}
    except FileNotFoundError:
        return True
    return MOVED in names or names <= {shim.own_directory(directory).name}


def clear(directory: Path) -> None:
    """Remove all but the files that the process itself left, and their directory if it is empty."""
    own = shim.own_directory(directory)
    mark_moved(directory)
    with suppress(OSError):
        own.rmdir()
    if not own.exists():
        discard(directory)
        with suppress(OSError):
            directory.parent.rmdir()
        return
    shim.close_log(directory)
    for path in directory.iterdir():
        if path.name not in (own.name, process_log.CLOSED, MOVED):
            with suppress(OSError):
                path.unlink()
