"""Large values live in files named by their content, never in a row.

A file is durable before the row that names it; a file that no row names any more is swept.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apsw
import trio

from plumd.errors import StorageDown, ValueLost
from plumd.model import INLINE_BYTES_MAX
from plumd.store import sql
from plumd.store.migrate import sync_directory

SQL: Final = sql.load("blobs")


class Blobs:
    """The files under one directory: `ab/abcdef...`, by sha256."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._drafts = itertools.count()
        self._lock = threading.Lock()
        """Between those that find a file there and the sweep, which takes it away."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where a value's file is."""
        return self.root / digest[:2] / digest

    async def keep(self, value: bytes | None) -> tuple[bytes | None, str]:
        """(value, "") when it is small enough for a row, else (None, its file's name).

        Raises: StorageDown.
        Cancel: nothing is lost but a file that nobody names yet.
        """
        if value is None or len(value) <= INLINE_BYTES_MAX:
            return value, ""
        try:
            return None, await trio.to_thread.run_sync(self.put, value)
        except OSError as error:
            raise StorageDown(f"a large value cannot be written: {error.strerror}",
                              retry_after_s=1) from error

    def put(self, value: bytes) -> str:
        """Write a value durably and answer its name; what is there already is not written.

        Called by many threads, also with the same value.
        """
        digest = hashlib.sha256(value).hexdigest()
        path = self.path(digest)
        with self._lock:
            known = path.exists()
            if known:
                os.utime(path)          # young again, so that the sweep leaves it alone
            elif not path.parent.exists():
                path.parent.mkdir(mode=0o700)
                sync_directory(self.root)
        if not known:
            self._write(path, value)
        sync_directory(path.parent)     # whoever wrote it may not have come so far
        return digest

    def _write(self, path: Path, value: bytes) -> None:
        draft = path.with_name(f".{path.name}.{os.getpid()}.{next(self._drafts)}")
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "wb") as file:
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
        except OSError:
            draft.unlink(missing_ok=True)       # a full disk needs its room
            raise

    def get(self, digest: str) -> bytes:
        """A value. Raises: ValueLost."""
        try:
            value = self.path(digest).read_bytes()
        except OSError as error:
            raise ValueLost(f"the file of a large value cannot be read: {error.strerror}"
                            ) from error
        if hashlib.sha256(value).hexdigest() != digest:
            raise ValueLost("the file of a large value is damaged")
        return value

    async def load(self, digest: str) -> bytes:
        """The same, in a thread."""
        return await trio.to_thread.run_sync(self.get, digest)

    def files(self) -> Iterator[os.DirEntry[str]]:
        """All files, drafts too."""
        for folder in os.scandir(self.root):
            if folder.is_dir(follow_symlinks=False):
                yield from os.scandir(folder.path)

    def sweep(self, db: apsw.Connection, before_s: float) -> int:
        """Remove files that no row names and that were last touched before a Unix time."""
        gone = 0
        for entry in self.files():
            path = Path(entry.path)
            if is_older(path, before_s) and not named(db, entry.name):
                with self._lock:        # unless somebody has put it meanwhile, whose row comes yet
                    if is_older(path, before_s):
                        path.unlink()
                        gone += 1
        return gone


def is_older(path: Path, before_s: float) -> bool:
    """Whether a file was last touched before a Unix time; one that is gone was not: a draft."""
    try:
        return path.stat().st_mtime < before_s
    except FileNotFoundError:
        return False


def named(db: apsw.Connection, digest: str) -> bool:
    """Whether a task's payload or result is in this file."""
    return bool(db.execute(SQL["named"], (digest, digest)).fetchall())
