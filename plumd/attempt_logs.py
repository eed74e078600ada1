"""The live logs of attempts that workers carry out: what they said line by line, in files.

Sessions hand lines over and go on; one task writes them in a thread, in the form that plum-shim
gives to the output of processes (executors/process_log.py), so both are read alike. Nothing waits
for the disk: when more than QUEUE_BYTES_MAX are waiting, lines are left out, and the log says so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

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
QUEUE_BYTES_MAX: Final = 16 << 20

Pair: TypeAlias = tuple[int, int]
"""(task id, attempt number)"""


class Said(NamedTuple):
    """Lines that came together."""

    time_ms: int
    data: bytes


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
        self._complained = False
        self._news = trio.Event()
        self._batch = 0             # number of the batch that gathers
        self._written_batch = -1    # the last one that is in its files
        self._written = trio.Event()

    def note(self, pair: Pair, time_ms: int, texts: Sequence[str]) -> None:
        """Keep what was said of an attempt, as it is; returns at once."""
        data = "".join(texts).encode()
        if self._waiting_bytes + len(data) > QUEUE_BYTES_MAX:
            self._left_out[pair] = self._left_out.get(pair, 0) + len(texts)
            return
        left_out = self._left_out.pop(pair, 0)
        if left_out:
            data = b"[... %d lines left out: the disk was too slow ...]\n" % left_out + data
        self._waiting.setdefault(pair, []).append(Said(time_ms, data))
        if self.kept is not None:
            self.begun.add(pair)
        self._waiting_bytes += len(data)
        self._news.set()

    async def run(self) -> None:
        """Write what comes. Cancel: what waits is written first."""
        try:
            while True:
                while not self._waiting:
                    self._news = trio.Event()
                    await self._news.wait()
                await self._write()
        finally:
            await self._write()

    async def _write(self) -> None:
        """Everything that waits now, in a thread."""
        waiting, self._waiting, size = self._waiting, {}, self._waiting_bytes
        if not waiting:
            return
        self._batch += 1
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._write_all, waiting)
        finally:
            self._waiting_bytes -= size
            self._written_batch = self._batch - 1
            self._written.set()
            self._written = trio.Event()

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
    """Add lines at the end of a log, in new segments where one is full. Raises: OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    segments = process_log.segments(directory)
    room_each = max(1, bytes_max // SEGMENTS)
    start, size = segments[-1] if segments else (0, room_each)
    last_ms = 0         # what the index said last is not looked up: one entry a batch more
    for time_ms, data in said:
        at = 0
        while at < len(data):
            if size >= room_each:
                start, size, last_ms = start + size if segments else 0, 0, 0
                segments.append((start, 0))
                forget_middle(directory, segments)
            piece = data[at:at + room_each - size]
            if not last_ms or time_ms - last_ms >= INDEX_EVERY_MS:
                write(directory / f"idx.{start:012x}",
                      process_log.index_entry(start + size, time_ms, STDOUT))
                last_ms = time_ms
            write(directory / f"log.{start:012x}", piece)
            at += len(piece)
            size += len(piece)


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
