"""The folder of uploaded apps: a file each, whole and checked before its row is written.

An upload goes to a file of its own name first, is read through, gets its lasting name, and then its
row. Whatever a crash or a client that left leaves behind has no row, and is swept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import trio

from plumd import artifact
from plumd.clock import Clock
from plumd.errors import Exists, PlumError, StorageDown, TooLarge, TooMany, WrongState, reason
from plumd.model import id_text
from plumd.store import apps, deployments
from plumd.store.apps import AppRow
from plumd.store.store import Store, Tx, Write

log = logging.getLogger("plumd.artifacts")
PART: Final = ".part"
SUFFIX: Final = ".zip"
BELOW: Final = "/artifacts/"
"""What urls of apps begin with."""
BUFFER_BYTES: Final = 1 << 20
READ_BYTES: Final = 256 << 10
UPLOADS_MAX: Final = 8
SWEEP_AFTER_S: Final = 3_600.0


class Artifacts:
    """Uploaded apps. `run` in a nursery of the daemon's."""

    def __init__(self, folder: Path, store: Store, clock: Clock, write: Write,
                 new_id: Callable[[], int], bytes_max: int) -> None:
        self.folder = folder
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.store = store
        self.clock = clock
        self.bytes_max = bytes_max
        self._write = write
        self._new_id = new_id
        self._uploads = 0
        self.removed: Callable[[str], None] = nobody_minds
        """Told the url of each app that was removed."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sweep now, while nothing is under way, and then every hour, until canceled."""
        await self.sweep()
        task_status.started()
        while True:
            await trio.sleep(SWEEP_AFTER_S)
            try:
                if count := await self.sweep(SWEEP_AFTER_S):
                    log.info("files of no app were removed", extra={"count": count})
            except (PlumError, OSError) as error:
                log.warning("the folder of apps cannot be swept", extra={"reason": str(error)})

    # ------------------------------------------------------------ in

    async def receive(self, chunks: AsyncIterator[bytes]) -> AppRow:
        """Take an upload to its end; it is on disk, checked and known when this returns.

        Raises: Invalid, Exists, TooLarge, TooMany, StorageDown, and as Engine.write.
        Cancel: nothing is left of it.
        """
        if self._uploads >= UPLOADS_MAX:
            raise TooMany(f"{UPLOADS_MAX} uploads are under way already", retry_after_s=5)
        number = self._new_id()
        part = self.folder / f"{id_text(number)}{PART}"
        self._uploads += 1
        try:
            with self._full_disk_told():
                size, digest = await self._save(part, chunks)
            meta = await trio.to_thread.run_sync(artifact.inspect, part)
            if self.store.peek(apps.exact, meta.name, meta.version) is not None:
                raise Exists(f"version {meta.version!r} of the app {meta.name!r} exists",
                             field="version", more=reason(
                                 "app_exists", name=meta.name, version=meta.version))
            file = f"{plain(meta.name)}-{plain(meta.version)}-{id_text(number)}{SUFFIX}"
            app = AppRow(number, meta.name, meta.version, file, digest, size, meta.ports,
                         self.clock.now().wall_ms)
            with trio.CancelScope(shield=True):     # the name and the row come together
                await self._name(part, app)
            return app
        finally:
            self._uploads -= 1
            part.unlink(missing_ok=True)

    async def _save(self, part: Path, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        """Write it down and sync it; its size and sha256."""
        digest, size, waiting = hashlib.sha256(), 0, bytearray()

        def flush(file: BinaryIO, data: bytes) -> None:
            digest.update(data)
            file.write(data)

        def sync(file: BinaryIO) -> None:
            file.flush()
            os.fsync(file.fileno())

        with open_new(part) as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > self.bytes_max:
                    raise TooLarge(f"an app has at most artifact_bytes_max = {self.bytes_max} "
                                   "bytes", field="file",
                                   more=reason("app_large", max=self.bytes_max))
                waiting += chunk
                if len(waiting) >= BUFFER_BYTES:
                    await trio.to_thread.run_sync(flush, file, bytes(waiting))
                    waiting.clear()
            await trio.to_thread.run_sync(flush, file, bytes(waiting))
            await trio.to_thread.run_sync(sync, file)
        return size, digest.hexdigest()

    async def _name(self, part: Path, app: AppRow) -> None:
        lasting = self.folder / app.file

        def rename() -> None:
            part.rename(lasting)
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

        with self._full_disk_told():
            await trio.to_thread.run_sync(rename)
        try:
            await self._write(lambda tx: apps.create(tx, app))
        except BaseException:
            if self.store.peek(apps.by_file, app.file) is None:
                lasting.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def _full_disk_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            raise StorageDown(f"the upload cannot be written: {error.strerror}",
                              retry_after_s=60) from None

    # ------------------------------------------------------------ out

    def has_file(self, app: AppRow) -> bool:
        """Whether its file is there."""
        return (self.folder / app.file).is_file()

    async def read(self, app: AppRow, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes start .. end - 1 of an app."""
        fd = os.open(self.folder / app.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while start < end:
                data = await trio.to_thread.run_sync(
                    os.pread, fd, min(READ_BYTES, end - start), start)
                if not data:
                    raise OSError(errno.EIO, "the artifact is shorter than it was")
                yield data
                start += len(data)
        finally:
            os.close(fd)

    async def remove(self, app: AppRow) -> None:
        """Forget an app. Raises: NotFound; WrongState while a deployment needs it."""
        def delete(tx: Tx) -> None:
            user = deployments.user_of(tx.db, app.url)
            if user is not None:
                raise WrongState(f"the deployment {user!r} uses this app")
            apps.delete(tx, app)

        with trio.CancelScope(shield=True):
            await self._write(delete)
            self.removed(app.url)
            (self.folder / app.file).unlink(missing_ok=True)

    async def sweep(self, older_s: float = 0.0) -> int:
        """Remove files that belong to no app, if they are so old; answers how many."""
        before_s = self.clock.now().wall_ms / 1000 - older_s
        known = await self.store.read(apps.files)

        def remove() -> int:
            count = 0
            for path in self.folder.iterdir():
                if path.suffix not in (PART, SUFFIX) or path.name in known:
                    continue        # what is not ours stays, like the lost+found of a volume
                with contextlib.suppress(FileNotFoundError):    # an upload ends meanwhile
                    if path.stat().st_mtime <= before_s:
                        path.unlink()
                        count += 1
            return count

        return await trio.to_thread.run_sync(remove)


def nobody_minds(url: str) -> None:
    """Where nobody remembers apps."""
    del url


def open_new(path: Path) -> BinaryIO:
    """A file that was not there, for this user's eyes alone."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def plain(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:60]


def is_ours(url: str) -> bool:
    """Whether it leads to an app below this controller, that is or was."""
    return url.startswith(BELOW)


def by_url(store: Store, url: str) -> AppRow | None:
    """The app behind an url below this controller, or None."""
    file = url.removeprefix(BELOW)
    return store.peek(apps.by_file, file) if is_ours(url) and "/" not in file else None


class Range(msgspec.Struct, frozen=True):
    """Bytes start .. end - 1 of a file; whole: all of it was asked for."""

    start: int
    end: int
    whole: bool


_RANGE: Final = re.compile(r"bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})")


def range_of(header: str, size: int) -> Range | None:
    """What a Range header asks for; None when the file has nothing of it.

    Several ranges at once, and what is not understood, get the whole file, as the RFC allows.
    Source: RFC 9110 section 14.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or not (found[1] or found[2]):
        return Range(0, size, True)
    if not found[1]:
        count = min(int(found[2]), size)
        return Range(size - count, size, False) if count else None
    start = int(found[1])
    end = min(int(found[2]) + 1, size) if found[2] else size
    if found[2] and int(found[2]) < start:
        return Range(0, size, True)
    return Range(start, end, False) if start < size else None
