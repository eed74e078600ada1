"""Brings a database to the schema of this program, or refuses before anything is written."""

from __future__ import annotations

import contextlib
import functools
import os
from importlib.resources import files
from pathlib import Path
from typing import Final

import apsw

APPLICATION_ID: Final = 0x506C756D     # "Plum"
LOG_BYTES: Final = 32 << 20
INDEX_BYTES: Final = 4 * 32_768


class Refused(Exception):
    """The file is not ours or is newer than this program; the message says what to do."""


@functools.cache
def schema_files() -> list[tuple[int, str]]:
    """(version, text) of every schema step, in order."""
    steps = [(int(entry.name[:4]), entry.read_text(encoding="utf-8"))
             for entry in (files("plumd.store") / "schema").iterdir()
             if entry.name.endswith(".sql")]
    steps.sort()
    assert [number for number, _ in steps] == list(range(1, len(steps) + 1)), "a gap in schema/"
    return steps


def open_writer(path: Path, vfs: str | None = None, *,
                log_bytes: int = LOG_BYTES) -> apsw.Connection:
    """The writing connection: created or migrated, WAL, every commit synced.

    Raises: Refused; apsw.Error when the disk refuses.
    """
    fresh = not path.exists()
    db = apsw.Connection(str(path), vfs=vfs)
    try:
        db.set_busy_timeout(2_000)
        check_owner(db, path)
        # A new database's first transactions must survive a power cut too: EXTRA also syncs the
        # directory when the rollback journal goes, and WAL takes over from there.
        db.execute("PRAGMA synchronous=EXTRA").fetchall()
        if fresh:
            db.execute(f"PRAGMA application_id={APPLICATION_ID}").fetchall()
        db.execute("PRAGMA journal_mode=WAL").fetchall()
        db.execute("PRAGMA synchronous=FULL").fetchall()
        db.execute("PRAGMA foreign_keys=ON").fetchall()
        db.execute("PRAGMA wal_autocheckpoint=0").fetchall()       # store.py says when
        db.execute("PRAGMA cache_size=-16000").fetchall()
        migrate(db)
        if fresh:
            sync_directory(path.parent)
        if vfs is None and log_bytes:
            with contextlib.suppress(OSError):      # only quicker, and a full disk may not want it
                prefill_log(path, log_bytes)
    except BaseException:
        db.close(True)
        raise
    return db


def prefill_log(path: Path, log_bytes: int) -> None:
    """Lengthen the write-ahead log with zeros, which end it wherever it is read back.

    A sync that need not make a file longer takes half the time, for the file system then writes
    no metadata: 145 us a commit against 260 us on ext4.
    The index of such a log gets its room too, so that a full disk does not stop it half way: by the
    descriptor that SQLite holds. Closing one of our own would give up all locks that this process
    has on the file, and the next program that opens the database would take itself for the first
    one and cut the index off under us.
    Source: POSIX.1-2017, fcntl, F_SETLK; sqlite/src/os_unix.c, "Posix Advisory Locking".
    """
    fd = os.open(f"{path}-wal", os.O_WRONLY)
    try:
        lengthen(fd, log_bytes)
    finally:
        os.close(fd)
    for held in descriptors_of(f"{path.resolve()}-shm"):
        lengthen(held, INDEX_BYTES)


def lengthen(fd: int, size_bytes: int) -> None:
    """Append zeros to a file, durably, until it has this size."""
    size = os.fstat(fd).st_size
    if size < size_bytes:
        os.pwrite(fd, bytes(size_bytes - size), size)
        os.fsync(fd)


def descriptors_of(path: str) -> list[int]:
    """The descriptors by which this process has a file open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):      # it was closed meanwhile, like that of the list
            if os.readlink(f"/proc/self/fd/{name}") == path:
                found.append(int(name))
    return found


def open_reader(path: Path, vfs: str | None = None) -> apsw.Connection:
    """A read-only connection; it sees committed rows only."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
    db.set_busy_timeout(2_000)
    db.execute("PRAGMA query_only=ON").fetchall()
    db.execute("PRAGMA cache_size=-4000").fetchall()
    return db


def check_owner(db: apsw.Connection, path: Path) -> None:
    """Raises Refused for a file of another application or of a newer schema."""
    owner = int(str(db.pragma("application_id")))
    tables = db.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0][0]
    if owner != APPLICATION_ID and (owner != 0 or tables):
        raise Refused(f"{path} is a database of another application; choose another --data-dir")
    version, newest = int(str(db.pragma("user_version"))), schema_files()[-1][0]
    if version > newest:
        raise Refused(f"{path} has schema {version}, this program knows up to {newest}: start the "
                      "newer program again, or restore a backup made before the upgrade")


def migrate(db: apsw.Connection) -> None:
    """Apply the steps that are missing, each whole in one transaction."""
    for number, text in schema_files():
        if number <= int(str(db.pragma("user_version"))):
            continue
        with db:
            for _ in db.execute(text):
                pass
            db.execute(f"PRAGMA user_version={number}").fetchall()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
