"""The live logs of attempts that workers carry out: what they said line by line, in files.

Sessions hand lines over and go on; one task writes them in a thread, in the form that plum-shim
gives to the output of processes (executors/process_log.py), so both are read alike. When more than
QUEUE_BYTES_MAX are waiting for the disk, lines are left out, and the log says so.

What is written outlives this process, and a log's length says how much of it there is. So a worker
that says where in the log its lines stand may say them again: what is there is not written twice.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias

import trio

from plumd.executors import process_log
from plumd.executors.hour_logs import HourLogs, read_log
from plumd.executors.process_log import STDOUT, LogPage
from plumd.model import id_text

log = logging.getLogger("plumd.attempt_logs")

LOG_BYTES_MAX: Final = 64 << 20
SEGMENTS: Final = 16
SEGMENTS_KEPT: Final = 8
"""At the beginning as at the end."""
INDEX_EVERY_MS: Final = 1_000
GAP: Final = b"[... %d bytes left out ...]\n"
"""Stands at the beginning of what never came, or could not be written."""
QUEUE_BYTES_MAX: Final = 16 << 20

Pair: TypeAlias = tuple[int, int]
"""(task id, attempt number)"""
LinePiece: TypeAlias = tuple[Pair, list[str], int | None]
"""Lines of one attempt that follow each other, and where in its log they stand: see Said."""


class LineKeeper(Protocol):
    """Who keeps the lines of attempts; see `AttemptLogs`."""

    def note(self, pair: Pair, time_ms: int, texts: Sequence[str], at: int | None) -> None: ...

    def when_written(self, then: Callable[[], None]) -> None: ...


class NoLines:
    """Keeps nothing: where nobody reads logs."""

    def note(self, pair: Pair, time_ms: int, texts: Sequence[str], at: int | None) -> None: ...

    def when_written(self, then: Callable[[], None]) -> None:
        then()


class Said(NamedTuple):
    """Lines that came together. at: where in the log they stand; None: at its end."""

    time_ms: int
    data: bytes
    at: int | None = None


class AttemptLogs:
    """Keeps the lines of attempts. data_dir, kept: those that OsProcess has."""

    def __init__(self, data_dir: Path, *, bytes_max: int = LOG_BYTES_MAX,
                 kept: HourLogs | None = None) -> None:
        self.kept = kept
        self.begun: set[Pair] = set()
        """Attempts of which something was said; who keeps their logs takes them out."""
        self._root = data_dir.absolute() / "attempts"
        self._bytes_max = bytes_max
        self._waiting: dict[Pair, list[Said]] = {}
        self._waiting_bytes = 0
        self._left_out: dict[Pair, int] = {}
        self._then: list[Callable[[], None]] = []
        self._complained = False
        self._news = trio.Event()
        self._batch = 0             # number of the batch that gathers
        self._written_batch = -1    # the last one that is in its files
        self._written = trio.Event()

    def note(self, pair: Pair, time_ms: int, texts: Sequence[str], at: int | None = None) -> None:
        """Keep what was said of an attempt, as it is; returns at once. at: see Said."""
        data = "".join(texts).encode()
        if self._waiting_bytes + len(data) > QUEUE_BYTES_MAX:
            if at is None:          # else there is a gap in the log
                self._left_out[pair] = self._left_out.get(pair, 0) + len(texts)
            return
        left_out = self._left_out.pop(pair, 0)
        if left_out:
            data = b"[... %d lines left out: the disk was too slow ...]\n" % left_out + data
        self._waiting.setdefault(pair, []).append(Said(time_ms, data, at))
        if self.kept is not None:
            self.begun.add(pair)
        self._waiting_bytes += len(data)
        self._news.set()

    def when_written(self, then: Callable[[], None]) -> None:
        """Call this when all that was noted before is in its file, or is lost."""
        self._then.append(then)
        self._news.set()

    async def run(self) -> None:
        """Write what comes. Cancel: what waits is written first."""
        try:
            while True:
                while not (self._waiting or self._then):
                    self._news = trio.Event()
                    await self._news.wait()
                await self._write()
        finally:
            await self._write()

    async def _write(self) -> None:
        """Everything that waits now, in a thread."""
        waiting, self._waiting, size = self._waiting, {}, self._waiting_bytes
        then, self._then = self._then, []
        if waiting:
            self._batch += 1
            try:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._write_all, waiting)
            finally:
                self._waiting_bytes -= size
                self._written_batch = self._batch - 1
                self._written.set()
                self._written = trio.Event()
        for each in then:
            each()

    def _write_all(self, waiting: dict[Pair, list[Said]]) -> None:
        for (task_id, number), said in waiting.items():
            try:
                append(self.directory(task_id, number), said, self._bytes_max)
            except OSError as error:
                if not self._complained:
                    log.warning("lines of a task's log are lost", extra={
                        "task_id": id_text(task_id), "reason": str(error)})
                self._complained = True
            else:
                self._complained = False

    async def settled(self) -> None:
        """Return when all that was noted before is in its file, or is lost."""
        wanted = self._batch if self._waiting else self._batch - 1
        while self._written_batch < wanted:
            await self._written.wait()

    def directory(self, task_id: int, number: int) -> Path:
        """Where everything about this attempt is."""
        return self._root / id_text(task_id) / str(number)

    def read(self, task_id: int, number: int, offset: int, limit: int) -> LogPage | None:
        """At most limit bytes from offset on; None when nothing was said.

        finished is set only of what is kept of ended attempts. Reads files: call it in a thread.
        """
        return read_log(self.kept, (task_id, number), self.directory(task_id, number), offset,
                        limit)


def append(directory: Path, said: Sequence[Said], bytes_max: int) -> None:
    """Add lines at the end of a log, or where they stand, without what of them is there already.

    Raises: OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_file = _LogFile(directory, bytes_max)
    for time_ms, data, at in said:
        if at is not None and at > log_file.end:
            note = GAP % (at - log_file.end)
            if len(note) <= at - log_file.end:      # else it would stand in the way of what comes
                log_file.add(time_ms, note)
            log_file.begin_segment(at)
        log_file.add(time_ms, data if at is None else data[log_file.end - at:])


class _LogFile:
    """The end of a log, to which is added, in new segments where one is full."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self._segments = process_log.segments(directory)
        self._room_each = max(1, bytes_max // SEGMENTS)
        self._start, self.end = 0, 0
        if self._segments:
            self._start = self._segments[-1][0]
            self.end = sum(self._segments[-1])
        self._last_ms = 0   # what the index said last is not looked up: one entry a batch more

    def begin_segment(self, start: int) -> None:
        """What comes stands there in the log."""
        self._start, self.end, self._last_ms = start, start, 0
        self._segments.append((start, 0))
        forget_middle(self._directory, self._segments)

    def add(self, time_ms: int, data: bytes) -> None:
        """Add this at the end. Raises: OSError."""
        at = 0
        while at < len(data):
            if not self._segments or self.end - self._start >= self._room_each:
                self.begin_segment(self.end)
            piece = data[at:at + self._room_each - (self.end - self._start)]
            if not self._last_ms or time_ms - self._last_ms >= INDEX_EVERY_MS:
                write(self._directory / f"idx.{self._start:012x}",
                      process_log.index_entry(self.end, time_ms, STDOUT))
                self._last_ms = time_ms
            write(self._directory / f"log.{self._start:012x}", piece)
            at += len(piece)
            self.end += len(piece)


def write(path: Path, data: bytes) -> None:
    """Append to a file that only we may read. Raises: OSError, also for a part of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError("the disk is full")
    finally:
        os.close(descriptor)


def forget_middle(directory: Path, segments: list[tuple[int, int]]) -> None:
    """Of more segments than a log may have, those behind the first and before the last go."""
    while len(segments) > SEGMENTS:
        start, _ = segments.pop(SEGMENTS_KEPT)
        for kind in ("log", "idx"):
            (directory / f"{kind}.{start:012x}").unlink(missing_ok=True)
