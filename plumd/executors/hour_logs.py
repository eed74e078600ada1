"""Logs of what has ended, all of one hour in one file: so files do not grow in number with runs.

While something runs, its log is in a directory of its own (process_log.py), which outlives whoever
asked for it. Afterwards it is put here:

    <root>/2026-11-26T10.0.log      the logs one after another, as they ended
                         .idx       where each one is: an entry of 36 bytes a log, in the same order
                         .key       the same sorted by key, instead of .idx, once the file is full

The next file begins with the next hour (UTC), and in a busy hour after 1 GiB (or an eighth of what
may be kept) or 32,768 logs.

A log is there when its entry is: an entry is written when the bytes that it tells of are on disk,
and has a checksum. What a crash left behind the last whole entry is cut off at the next start.

packed_log.py has the form of one log.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final, TypeAlias, final

from plumd.executors import packed_log, process_log
from plumd.executors.packed_log import PackedLog, Place
from plumd.executors.process_log import LogPage
from plumd.executors.trees import remove_tree

log = logging.getLogger("plumd.logs")

FILE_BYTES_MAX: Final = 1 << 30
FILE_LOGS_MAX: Final = 32_768
FILES_MIN: Final = 8
"""A file has at most so great a part of all that may be kept: for what goes is a whole file."""
GROUP_BYTES: Final = 64 << 20
"""So much is copied before room is made for more."""
ROOM_BYTES: Final = 32 << 20
"""So much stays free on the disk: the database must be able to write."""
HOUR_MS: Final = 3_600_000
MOVED: Final = "moved"
GONE: Final = ".gone"
_ENTRY: Final = Struct("<QQQQI")
_NUMBER_MAX: Final = (1 << 64) - 1

Key: TypeAlias = tuple[int, int]
"""Whose log, and which one of its logs: two numbers from 0, the first the greater the later."""


@final
class HourLogs:
    """Keeps the logs of a folder. Its methods read and write files: call them in threads.

    bytes_max: when the files have more, the oldest go.  Raises OSError.
    """

    def __init__(self, root: Path, bytes_max: int) -> None:
        self._root = root
        self._bytes_max = bytes_max
        self._lock = threading.Lock()           # guards the list
        self._changing = threading.Lock()       # one writes or drops files at a time
        self._hours = [_Hour(root / name) for name in _names(root)]
        for hour in self._hours[:-1]:
            with suppress(OSError):             # a full disk; it is tried again at the next start
                hour.seal()

    # ---- reading -----------------------------------------------------------------------------

    def has(self, key: Key) -> bool:
        """Whether this log is here."""
        return self._find(key) is not None

    def last(self, owner: int) -> int:
        """The highest second number of the logs whose key begins with this one; 0: there is none.
        """
        with self._lock:
            hours = list(self._hours)
        return max((hour.last_of(owner) for hour in hours), default=0)

    def read(self, key: Key, offset: int, limit: int) -> LogPage | None:
        """A page of a log, see process_log.page_of; None when it is not here (any more)."""
        found = self._find(key)
        if found is None:
            return None
        try:
            with found[0].path(".log").open("rb", buffering=0) as file:
                return process_log.page_of(PackedLog(file.fileno(), found[1]), offset, limit,
                                           finished=True)
        except FileNotFoundError:               # its hour was dropped
            return None

    def _find(self, key: Key) -> tuple[_Hour, Place] | None:
        with self._lock:
            hours = list(self._hours)
        for hour in reversed(hours):
            place = hour.find(key)
            if place is not None:
                return hour, place
        return None

    @property
    def size_bytes(self) -> int:
        """What all files have."""
        with self._lock:
            return sum(hour.size for hour in self._hours)

    # ---- writing -----------------------------------------------------------------------------

    def put(self, logs: Iterable[tuple[Key, Path]], now_ms: int) -> None:
        """Take in the logs of these directories, durably; those that are here already stay.

        The directories are left as they are. Raises OSError; some may have been taken in then.
        """
        with self._changing:
            fresh = {key: directory for key, directory in logs if not self.has(key)}
            for size, group in _groups(fresh):
                self._check_room(size)
                self._open_for(now_ms).append(group)
                while self.size_bytes > self._bytes_max and len(self._hours) > 1:
                    self._drop(self._hours[0], "there is more than may be kept")

    def _check_room(self, size: int) -> None:
        """Raises OSError when so much more would leave nothing for others on the disk."""
        there = self._root if self._root.exists() else self._root.parent
        free = shutil.disk_usage(there).free
        if size + ROOM_BYTES > free:
            raise OSError(errno.ENOSPC, f"{size} bytes of logs are to be kept, {free} are free")

    def _open_for(self, now_ms: int) -> _Hour:
        """The file for what ends now. Raises OSError."""
        name = time.strftime("%Y-%m-%dT%H", time.gmtime(now_ms / 1000))
        last = self._hours[-1] if self._hours else None
        part = 0
        if last is not None:
            if name <= last.name:               # or the clock was set back
                name, part = last.name, last.part
                if not last.full and last.size < self._bytes_max / FILES_MIN:
                    return last
                part += 1
            last.seal()
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = _Hour(self._root / f"{name}.{part}")
        with self._lock:
            self._hours.append(made)
        return made

    def drop_dead(self, before_ms: int, wanted: Callable[[int], bool]) -> int:
        """Remove the files from before this time of whose logs none is wanted any more; how many.

        wanted: whether somebody may still ask for a log whose key begins with this number.
        """
        name = time.strftime("%Y-%m-%dT%H", time.gmtime(max(0, before_ms - HOUR_MS) / 1000))
        with self._changing:
            dead = [hour for hour in self._hours[:-1]
                    if hour.name <= name and hour.is_dead(wanted)]
            for hour in dead:
                self._drop(hour, "nobody can ask for it any more")
        return len(dead)

    def _drop(self, hour: _Hour, why: str) -> None:
        with self._lock:
            self._hours.remove(hour)
        hour.remove()
        log.info("logs of an hour are gone", extra={
            "hour": hour.name, "logs": hour.count, "bytes": hour.size, "reason": why})


def _groups(logs: dict[Key, Path]) -> Iterator[tuple[int, dict[Key, Path]]]:
    """The same in portions of about GROUP_BYTES, with their sizes."""
    group: dict[Key, Path] = {}
    size = 0
    for key, directory in logs.items():
        group[key] = directory
        with suppress(FileNotFoundError):
            size += sum(length for _, length in process_log.segments(directory))
        if size >= GROUP_BYTES:
            yield size, group
            group, size = {}, 0
    if group:
        yield size, group


def _names(root: Path) -> list[str]:
    """The files that are there, the oldest first, each by its name without the ending."""
    try:
        found = {path.stem for path in root.iterdir() if path.suffix in (".idx", ".key")}
    except FileNotFoundError:
        return []
    return sorted(found, key=_order)


def _order(name: str) -> tuple[str, int]:
    hour, _, part = name.partition(".")
    return hour, int(part)


@final
class _Hour:
    """One file of logs. Where its logs are is in memory while it takes more, then on disk."""

    def __init__(self, stem: Path) -> None:
        self.name, self.part = _order(stem.name)
        self.size = 0
        self.count = 0
        self._stem = stem
        self._places: dict[Key, Place] | None = None
        self._first: Key = (0, 0)
        self._last: Key = (0, 0)
        self._alive: int | None = None          # the latest look at the dead found this one wanted
        if self.path(".key").exists():
            self._take_sorted()
        else:
            self._take_open()

    def path(self, ending: str) -> Path:
        """One of its files."""
        return self._stem.with_name(self._stem.name + ending)

    @property
    def full(self) -> bool:
        """Whether it takes no more."""
        return (self._places is None or self.size >= FILE_BYTES_MAX
                or self.count >= FILE_LOGS_MAX)

    def _take_sorted(self) -> None:
        self.path(".idx").unlink(missing_ok=True)
        with suppress(FileNotFoundError):       # a part of it was removed by hand
            self.size = self.path(".log").stat().st_size
        self.count = self.path(".key").stat().st_size // _ENTRY.size
        with self.path(".key").open("rb", buffering=0) as file:
            if self.count:
                self._first = _entry(file.fileno(), 0)[0]
                self._last = _entry(file.fileno(), self.count - 1)[0]

    def _take_open(self) -> None:
        """Find what was written whole, and cut off what was not. Raises OSError."""
        self._places = {}
        log_fd, index_fd = self._open()
        try:
            there, there_index = os.fstat(log_fd).st_size, os.fstat(index_fd).st_size
            raw, whole = os.pread(index_fd, there_index, 0), 0
            for at in range(0, len(raw) - _ENTRY.size + 1, _ENTRY.size):
                key, place, right = _parse(raw[at:at + _ENTRY.size])
                if not right or place.at != self.size or place.at + place.size > there:
                    break
                self._places[key] = place
                self.size = place.at + place.size
                whole = at + _ENTRY.size
            if there > self.size or there_index > whole:
                log.warning("what was not written whole is cut off a file of logs", extra={
                    "hour": self.name, "bytes": there - self.size})
                os.ftruncate(log_fd, self.size)
                os.ftruncate(index_fd, whole)
        finally:
            os.close(log_fd)
            os.close(index_fd)
        self.count = len(self._places)

    def _open(self) -> tuple[int, int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        log_fd = os.open(self.path(".log"), flags, 0o600)
        try:
            return log_fd, os.open(self.path(".idx"), flags, 0o600)
        except OSError:
            os.close(log_fd)
            raise

    def find(self, key: Key) -> Place | None:
        """Where this log is."""
        places = self._places
        if places is not None:
            return places.get(key)
        if not self._first <= key <= self._last:
            return None                         # most files, for keys are times
        found = self._at_most(key)
        return found[1] if found is not None and found[0] == key else None

    def last_of(self, owner: int) -> int:
        """The highest second number of a key that begins so, 0: there is none."""
        places = self._places
        if places is not None:
            return max((key[1] for key in list(places) if key[0] == owner), default=0)
        found = self._at_most((owner, _NUMBER_MAX))
        return found[0][1] if found is not None and found[0][0] == owner else 0

    def _at_most(self, key: Key) -> tuple[Key, Place] | None:
        """The last entry of the sorted index that is not beyond this key."""
        if not self.count or key < self._first:
            return None
        try:
            with self.path(".key").open("rb", buffering=0) as file:
                low, high = 0, self.count
                while high - low > 1:
                    middle = (low + high) // 2
                    beyond = _entry(file.fileno(), middle)[0] > key
                    low, high = (low, middle) if beyond else (middle, high)
                found, place, right = _entry(file.fileno(), low)
                return (found, place) if right else None
        except FileNotFoundError:               # its hour was dropped
            return None

    def append(self, logs: dict[Key, Path]) -> None:
        """Add logs at the end, durably. Raises OSError; the file is as before then."""
        assert self._places is not None, "a sorted file takes no more"
        fresh: dict[Key, Place] = {}
        log_fd, index_fd = self._open()
        entries = self.count * _ENTRY.size
        try:
            try:
                at = self.size
                os.lseek(log_fd, at, os.SEEK_SET)
                for key, directory in logs.items():
                    fresh[key] = Place(at, packed_log.write_log(log_fd, directory))
                    at += fresh[key].size
                os.fsync(log_fd)
                raw = b"".join(_raw(key, place) for key, place in fresh.items())
                os.lseek(index_fd, entries, os.SEEK_SET)
                packed_log.write(index_fd, raw)
                os.fsync(index_fd)
                if not entries:
                    _sync_folder(self._stem.parent)
            except OSError:
                os.ftruncate(index_fd, entries)
                os.ftruncate(log_fd, self.size)
                raise
        finally:
            os.close(log_fd)
            os.close(index_fd)
        self.size, self.count = at, self.count + len(fresh)
        self._places |= fresh

    def seal(self) -> None:
        """Sort the index, which then leaves memory; nothing is added any more. Raises OSError."""
        if self._places is None:
            return
        entries = sorted(self._places.items())
        part = self.path(".new")
        try:
            with part.open("wb") as file:
                file.write(b"".join(_raw(key, place) for key, place in entries))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path(".key"))
        except OSError:
            part.unlink(missing_ok=True)        # the disk is full, and this would fill it further
            raise
        _sync_folder(self._stem.parent)
        if entries:
            self._first, self._last = entries[0][0], entries[-1][0]
        self._places = None
        self.path(".idx").unlink(missing_ok=True)

    def is_dead(self, wanted: Callable[[int], bool]) -> bool:
        """Whether none of its logs is wanted; never of one that could not be sealed."""
        if self._places is not None:
            return False
        if self._alive is not None and wanted(self._alive):
            return False
        self._alive = next(filter(wanted, self._owners()), None)
        return self._alive is None

    def _owners(self) -> Iterator[int]:
        before = None
        with self.path(".key").open("rb") as file:
            while raw := file.read(_ENTRY.size):
                owner = _parse(raw)[0][0]
                if owner != before:
                    yield owner
                before = owner

    def remove(self) -> None:
        """Remove its files, the bytes before what tells of them."""
        for ending in (".log", ".idx", ".key"):
            self.path(ending).unlink(missing_ok=True)


def _raw(key: Key, place: Place) -> bytes:
    plain = _ENTRY.pack(*key, *place, 0)[:-4]
    return plain + zlib.crc32(plain).to_bytes(4, "little")


def _parse(raw: bytes) -> tuple[Key, Place, bool]:
    """The key, where it is, and whether the checksum says so, too."""
    first, second, at, size, crc = _ENTRY.unpack(raw)
    return (first, second), Place(at, size), crc == zlib.crc32(raw[:-4])


def _entry(descriptor: int, number: int) -> tuple[Key, Place, bool]:
    return _parse(os.pread(descriptor, _ENTRY.size, number * _ENTRY.size))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mark_moved(directory: Path) -> None:
    """Say that the log of a directory was put elsewhere: what else is in it stays."""
    with suppress(FileNotFoundError):
        (directory / MOVED).touch()


def discard(directory: Path) -> None:
    """Remove a directory whose log was put elsewhere: for whoever reads it is gone at once."""
    gone = directory.with_name(directory.name + GONE)
    remove_tree(gone)
    with suppress(OSError):
        directory.rename(gone)
        remove_tree(gone)


def discard_rest(parent: Path) -> bool:
    """Remove what an earlier process was removing when it ended; whether there was something."""
    found = list(parent.glob(f"*{GONE}"))
    for gone in found:
        remove_tree(gone)
    return bool(found)


def read_log(kept: HourLogs | None, key: Key, directory: Path, offset: int,
             limit: int) -> LogPage | None:
    """A page of a log, wherever it is just now; None when nothing is kept of it."""
    page = None
    with suppress(FileNotFoundError):
        page = process_log.read_page(directory, offset, limit)
    if kept is None or (page is not None and directory.exists()
                        and not (directory / MOVED).exists()):
        return page                             # it was whole when it was read
    return kept.read(key, offset, limit)
