"""The database behind two doors: `commit` on the one writing connection, `read` on the others.

A transaction never spans an await: it runs whole, inline on the loop when it is small and the
disk has been quick, else in a thread while the next group gathers. See docs/internals.md for
the measurements behind the bounds.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

import apsw
import msgspec
import trio

from plumd.clock import Clock, SystemClock
from plumd.errors import PlumError
from plumd.model import Changed, Created, Ended, Join
from plumd.store import events, flows, migrate, schedules, tasks, workers
from plumd.store.events import Event, Record

log = logging.getLogger("plumd.store")
P = ParamSpec("P")
T = TypeVar("T")

INLINE_ROWS_MAX: Final = 64
INLINE_COMMIT_MAX_NS: Final = 2_000_000
CHECKPOINT_PAGES: Final = 4_000
CHECKPOINT_AGAIN_S: Final = 1.0
READERS: Final = 4
NO_RUNS: Final = flows.RunChange()


class Tx:
    """What a store command works with: the open transaction, and the events that it adds."""

    def __init__(self, db: apsw.Connection, now_ms: int, emitted: list[Event]) -> None:
        self.db = db
        self.now_ms = now_ms
        self._emitted = emitted

    def emit(self, topic: str, *facts: int | str) -> None:
        """Add an event to this commit's record."""
        self._emitted.append((topic, *facts))


Call = Callable[[Tx], object]


class Written(Protocol):
    """What became of a store command."""

    @property
    def error(self) -> PlumError | None:
        """Why it is not on disk, None when it is."""

    @property
    def value(self) -> object:
        """What it answered."""


class Write(Protocol):
    """Engine.write: run a store command in the next commit; answers its value after it.

    then: called after the commit, in the order of the commands, also when nobody waits any more.
    """

    def __call__(self, fn: Callable[[Tx], T], /,
                 then: Callable[[Written], None] | None = None) -> Awaitable[T]: ...


class Change(msgspec.Struct):
    """All that one commit writes: the core's step and the store commands, in this order.

    probe: it is written though it says nothing, to see whether the disk takes it.
    """

    now_ms: int
    created: Sequence[Created] = ()
    changed: Sequence[Changed] = ()
    ended: Sequence[Ended] = ()
    joined: Sequence[Join] = ()
    gone: Sequence[tuple[str, str]] = ()
    runs: flows.RunChange = NO_RUNS
    events: list[Event] = []
    calls: Sequence[Call] = ()
    moves: schedules.Moves | None = None
    probe: bool = False

    @property
    def weight(self) -> int:
        """About how many rows it writes."""
        return (len(self.created) + len(self.changed) + len(self.ended) + len(self.joined)
                + self.runs.weight + 8 * len(self.calls)
                + (0 if self.moves is None else self.moves.weight))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to make durable."""
        return not (self.created or self.changed or self.joined or self.gone or self.events
                    or self.calls or self.ended or self.runs.weight or self.moves)


class Done(msgspec.Struct):
    """What a commit came to: the event record, and each call's value or its refusal."""

    record: Record
    values: list[object]


class Spent:
    """How long something took, over all times that it was done."""

    BUCKETS: Final = 32

    def __init__(self) -> None:
        self.total_ns = 0
        self.buckets = [0] * self.BUCKETS
        """As those of Meters: bucket i counts times below 2**i us."""

    def count(self, ns: int) -> None:
        """It was done once more."""
        self.total_ns += ns
        self.buckets[min((ns // 1000).bit_length(), self.BUCKETS - 1)] += 1


class Store:
    """One database file. Ended by `close`."""

    def __init__(self, path: Path, vfs: str | None = None, clock: Clock | None = None, *,
                 log_bytes: int = migrate.LOG_BYTES, threads: bool = True) -> None:
        self.path = path
        self.clock = clock or SystemClock()
        self.vfs = vfs
        self._log_bytes = log_bytes
        self.db = migrate.open_writer(path, vfs, log_bytes=log_bytes)
        self.point = migrate.open_reader(path, vfs)
        self.threads = threads and vfs is None
        """False keeps everything on the loop: in simulation there are no threads."""
        self._readers = [migrate.open_reader(path, vfs) for _ in range(READERS * self.threads)]
        self._reading = trio.CapacityLimiter(READERS)
        self._writing = trio.CapacityLimiter(1)
        self.next_seq = events.next_seq(self.db)
        self.commit_ns = 0
        """A moving average of how long the COMMIT of a small group takes: what the disk costs."""
        self.commits = 0
        self.committing = Spent()
        """Of every COMMIT, the large ones too."""
        self._away = False          # the writing connection is in its thread
        self._log_pages = 0
        self._checkpoint_wanted = trio.Event()
        self._log_copied = False
        self._watch_log()

    async def commit(self, change: Change) -> Done:
        """Make one change durable, or raise apsw.Error: then its outcome is not known.

        Cancel: never called with one pending; the engine shields it.
        """
        small = change.weight <= INLINE_ROWS_MAX and self.commit_ns < INLINE_COMMIT_MAX_NS
        if small or not self.threads:
            done = self.commit_now(change)
        else:
            self._away = True
            try:
                done = await trio.to_thread.run_sync(self.commit_now, change,
                                                     limiter=self._writing)
            finally:
                self._away = False
        if self._log_pages >= CHECKPOINT_PAGES:
            self._checkpoint_wanted.set()
        return done

    def commit_now(self, change: Change) -> Done:
        """The same, at once."""
        db = self.db
        if self._log_copied:
            self._log_copied = False
            with suppress(apsw.Error):      # the commit itself says whether the disk takes writes
                db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)     # the little that is left
        db.execute("BEGIN IMMEDIATE")
        try:
            untouched = db.total_changes()
            if change.moves is not None:    # first: who writes a schedule anew sees what has fired
                schedules.write(db, change.moves)
            values = [self._run(call, change) for call in change.calls]
            tasks.write(db, change.created, change.changed, change.ended)
            if change.runs is not NO_RUNS:
                flows.write(db, change.runs)
            if change.joined or change.gone:
                workers.write(db, change.joined, change.gone, change.now_ms)
            if not (change.events or change.probe) and db.total_changes() == untouched:
                db.execute("ROLLBACK")      # a look that found nothing to do
                return Done(Record(self.next_seq, 0, ()), values)
            record = events.insert(db, self.next_seq, change.now_ms, change.events)
            begun_ns = self.clock.now().mono_ns
            db.execute("COMMIT")
        except Exception:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self.next_seq += record.count
        self.commits += 1
        took_ns = self.clock.now().mono_ns - begun_ns
        self.committing.count(took_ns)
        if change.weight <= INLINE_ROWS_MAX:
            # One hiccup of the disk says little about the next commit: it counts, but bounded.
            self.commit_ns += (min(took_ns, 2 * INLINE_COMMIT_MAX_NS) - self.commit_ns) // 8
        return Done(record, values)

    def _watch_log(self) -> None:
        def note(db: apsw.Connection, name: str, pages: int) -> int:
            del db, name
            self._log_pages = pages
            return 0

        self.db.set_wal_hook(note)

    async def run_checkpoints(self) -> None:
        """Copy the write-ahead log into the database when it has grown, beside the writer.

        What the writer adds meanwhile it copies itself, so that the log begins anew and its
        file keeps its size. Until canceled.
        """
        while True:
            await self._checkpoint_wanted.wait()
            self._log_copied = await trio.to_thread.run_sync(self._copy_log)
            self._checkpoint_wanted = trio.Event()
            if not self._log_copied:
                await trio.sleep(CHECKPOINT_AGAIN_S)

    def _copy_log(self) -> bool:
        """Whether it went well; while it does not, the log grows, and the data are safe in it."""
        try:
            db = apsw.Connection(str(self.path), vfs=self.vfs)
        except apsw.Error as error:
            log.warning("the log cannot be copied", extra={"reason": str(error)})
            return False
        try:
            db.set_busy_timeout(0)
            db.pragma("user_version")       # it must have read to know that there is a log
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except (apsw.BusyError, apsw.LockedError):
            return False        # somebody else is at it
        except apsw.Error as error:
            log.warning("the log cannot be copied", extra={"reason": str(error)})
            return False
        finally:
            db.close(True)
        return True

    def _run(self, call: Call, change: Change) -> object:
        """One store command: what it raises as PlumError undoes it alone and is its answer."""
        told = len(change.events)
        answer: object
        try:
            with self.db:
                answer = call(Tx(self.db, change.now_ms, change.events))
        except PlumError as refusal:
            del change.events[told:]
            answer = refusal
        return answer

    def peek(self, fn: Callable[Concatenate[apsw.Connection, P], T], *args: P.args,
             **kwargs: P.kwargs) -> T:
        """A point read of committed rows, at once, on the loop.

        Between transactions the writing connection is the quickest, for its pages are warm.
        """
        idle = not self._away and not self.db.in_transaction
        return fn(self.db if idle else self.point, *args, **kwargs)

    async def read(self, fn: Callable[Concatenate[apsw.Connection, P], T], *args: P.args,
                   **kwargs: P.kwargs) -> T:
        """A longer read of committed rows, in a thread with a connection of its own."""
        if not self.threads:
            return fn(self.point, *args, **kwargs)

        def run() -> T:
            with self._reader() as db:
                return fn(db, *args, **kwargs)

        return await trio.to_thread.run_sync(run, limiter=self._reading)

    @contextmanager
    def _reader(self) -> Iterator[apsw.Connection]:
        db = self._readers.pop()
        try:
            yield db
        finally:
            self._readers.append(db)

    def sizes(self) -> tuple[int, int]:
        """Bytes of the database's file and of its write-ahead log."""
        found = []
        for path in (self.path, self.path.with_name(self.path.name + "-wal")):
            try:
                found.append(path.stat().st_size)
            except OSError:         # the log comes and goes; a simulated disk has no files
                found.append(0)
        return found[0], found[1]

    def reopen(self) -> None:
        """A fresh writing connection after an error, so that only what the disk has is seen."""
        self._away = True           # until it is there, points are read by the reader
        self.db.close(True)
        self.db = migrate.open_writer(self.path, self.vfs, log_bytes=self._log_bytes)
        self._away = False
        self._watch_log()
        self.next_seq = events.next_seq(self.db)
        self.commit_ns = 0

    def close(self) -> None:
        """Close all connections; the last one checkpoints the log."""
        for db in (*self._readers, self.point, self.db):
            db.close(True)
