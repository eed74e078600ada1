"""Artifacts: fetched, checked, kept by their hash, and unpacked whole or not at all.

    <data>/cache/<sha256>.zip     complete and checked; the ones used least lately go first
    <data>/cache/<name>.part      under way; a fetch that was broken off goes on where it stood, or
                                  is forgotten after a day
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import lzma
import os
import shutil
import stat
import time
import zipfile
import zlib
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple, final

import trio

from plumd.agent.http import CallFailed, Http, Stream
from plumd.executors.trees import remove_tree

ENTRIES_MAX: Final = 100_000
UNPACKED_BYTES_MAX: Final = 8 << 30
NAME_BYTES_MAX: Final = 1024
COPY_BYTES: Final = 1 << 20
PART_S_MAX: Final = 86_400.0
ROOM_BYTES: Final = 64 << 20
"""So much stays free on the disk: for logs, exit codes and everybody else."""
LOOK_BYTES: Final = 16 << 20
"""After so much of a download that room is looked at again: its length need not be told."""
UNSOUND: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError,
                  ValueError, OverflowError)
"""What zipfile says to a damaged file; RuntimeError: to a way of packing that it does not know,
ValueError: to names that are not the UTF-8 that they say."""


class Refused(Exception):
    """The artifact cannot be used; another try would end the same way. The text is for people."""


class NotFetched(Exception):
    """It could not be had just now. The text is for people."""


class Artifact(NamedTuple):
    """What to fetch. sha256 "" = not told, so not checked; size 0 = not told."""

    url: str
    sha256: str = ""
    size: int = 0


@final
class Artifacts:
    """The artifacts of one node. One fetch at a time of each, however many want it."""

    def __init__(self, data_dir: Path, http: Http, cache_bytes: int) -> None:
        self._cache = data_dir / "cache"
        self._http = http
        self._cache_bytes = cache_bytes
        self._locks: dict[str, trio.Lock] = {}

    async def unpacked(self, artifact: Artifact, target: Path) -> None:
        """Make target the unpacked artifact. Raises Refused, NotFetched.

        Cancel: target is there whole, or not at all.
        """
        lock = self._locks.setdefault(artifact.sha256.lower() or artifact.url, trio.Lock())
        async with lock:
            path = await self._fetched(artifact)
            try:
                await trio.to_thread.run_sync(unpack, path, target)
            except OSError as error:
                raise NotFetched(disk_words(error, "unpacking the artifact")) from None
            finally:
                if not artifact.sha256:         # who knows what it will be next time
                    path.unlink(missing_ok=True)
        await trio.to_thread.run_sync(self.prune)

    async def _fetched(self, artifact: Artifact) -> Path:
        """The checked file."""
        name = artifact.sha256 or "u-" + hashlib.sha256(artifact.url.encode()).hexdigest()
        path, part = self._cache / f"{name}.zip", self._cache / f"{name}.part"
        if await trio.to_thread.run_sync(is_kept, path, artifact.sha256):
            return path
        try:
            await trio.to_thread.run_sync(partial(
                self._cache.mkdir, mode=0o700, parents=True, exist_ok=True))
            if not artifact.sha256:
                part.unlink(missing_ok=True)
            await self._fetch(artifact, part)
            found = await trio.to_thread.run_sync(sha256_of, part)
            if artifact.sha256 and found != artifact.sha256.lower():
                part.unlink(missing_ok=True)
                raise Refused(f"wrong sha256: {artifact.url} is {found}, wanted {artifact.sha256}")
            part.replace(path)
        except CallFailed as error:
            raise NotFetched(f"fetching {artifact.url}: {error}") from None
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise NotFetched(disk_words(error, "fetching the artifact")) from None
        return path

    async def _fetch(self, artifact: Artifact, part: Path) -> None:
        """Fetch what is missing of the file. Raises CallFailed, Refused, OSError."""
        have = begun(part, artifact.size)
        if artifact.size and have == artifact.size:
            return
        headers = [("Range", f"bytes={have}-")] if have else []
        async with self._http.stream(artifact.url, headers) as stream:
            if have and stream.status == 416:
                forget(part)
                raise CallFailed("the part that is here does not fit; it is fetched anew")
            if stream.status not in (200, 206):
                text = (await stream.text()).decode(errors="replace")
                words = f"{artifact.url} answered {stream.status}: {text[:200]}"
                if stream.status in (404, 410):
                    raise Refused(words)
                raise CallFailed(words)
            await self._keep(stream, part, have if stream.status == 206 else 0)

    async def _keep(self, stream: Stream, part: Path, have: int) -> None:
        """Append the body to the file. Raises CallFailed, OSError."""
        check_room(self._cache, int(stream.headers.get("content-length", 0)))
        unseen = 0
        async with aclosing(stream.chunks()) as pieces:
            with part.open("r+b" if have else "wb") as file:
                file.seek(have)
                async for piece in pieces:
                    await trio.to_thread.run_sync(file.write, piece)
                    unseen += len(piece)
                    if unseen >= LOOK_BYTES:
                        check_room(self._cache, 0)
                        unseen = 0
                await trio.to_thread.run_sync(file.flush)

    def prune(self) -> None:
        """Forget what was used least lately, beyond what the cache may hold, and what nobody went
        on to fetch. Reads files."""
        before_s = time.time() - PART_S_MAX
        for part, is_now in stats(self._cache, "*.part"):
            if is_now.st_mtime < before_s:
                part.unlink(missing_ok=True)
        found = sorted(stats(self._cache, "*.zip"), key=lambda pair: pair[1].st_mtime)
        size = sum(is_now.st_size for _, is_now in found)
        for path, is_now in found:
            if size <= self._cache_bytes:
                return
            size -= is_now.st_size
            path.unlink(missing_ok=True)


def stats(folder: Path, pattern: str) -> list[tuple[Path, os.stat_result]]:
    """The files of that pattern; others may remove some meanwhile."""
    found = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            found.append((path, path.stat()))
    return found


def is_kept(path: Path, sha256: str) -> bool:
    """Whether an artifact is there, whole; what became something else, as by a loss of power, is
    removed. Reads the file.
    """
    with suppress(OSError):
        if sha256 and path.exists():
            if sha256_of(path) == sha256.lower():
                os.utime(path)
                return True
            path.unlink()
    return False


def check_room(folder: Path, size: int) -> None:
    """Raises OSError when so much more would leave nothing for others on the disk."""
    free = shutil.disk_usage(folder).free
    if size + ROOM_BYTES > free:
        raise OSError(errno.ENOSPC, f"it needs {size} bytes, and {free} are free")


def to_disk(folder: Path) -> None:
    """All that was written to the file system of that folder is on the disk when this returns.

    For a tree this costs far less than a sync of each file. Raises OSError.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


def disk_words(error: OSError, what: str) -> str:
    """What went wrong with the disk, for people."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the node's disk is full ({what}: {error.strerror})"
    return f"{what}: {error}"


def begun(part: Path, size: int) -> int:
    """How much of a file is there already; one that is longer than it may be is forgotten."""
    have = part.stat().st_size if part.exists() else 0
    if size and have > size:
        forget(part)
        return 0
    return have


def forget(part: Path) -> None:
    """Fetch it anew the next time."""
    part.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Its hash, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- unpacking -------------------------------------------------------------------------------

def unpack(archive: Path, target: Path) -> None:
    """Unpack into a new directory, durably, then give it its name. Raises Refused, OSError.

    The controller has checked the archive; here it is checked again, for it may be somebody else's.
    """
    fresh = target.with_name(target.name + ".new")
    remove_tree(fresh)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = check(opened)
            fresh.mkdir(mode=0o755, parents=True)
            check_room(fresh, sum(member.file_size for member in members))
            for member in members:
                _extract(opened, member, fresh)
        to_disk(fresh)
        remove_tree(target)
        fresh.replace(target)
    except UNSOUND as error:
        raise Refused(f"the artifact is no sound zip file: {error}") from None
    finally:
        remove_tree(fresh)


def check(opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Its members, when all of them stay inside and are files or directories. Raises Refused."""
    members = opened.infolist()
    if len(members) > ENTRIES_MAX:
        raise Refused(f"the artifact has over {ENTRIES_MAX} entries")
    names: set[str] = set()
    size = 0
    for member in members:
        name = member.filename.rstrip("/")
        parts = PurePosixPath(name).parts
        mode = member.external_attr >> 16
        wrong = ""
        if not name or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
            wrong = "leads out of its directory"
        elif len(name.encode(errors="replace")) > NAME_BYTES_MAX:
            wrong = "has too long a name"
        elif mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            wrong = "is neither file nor directory"
        elif member.flag_bits & 1:
            wrong = "is encrypted"
        elif str(PurePosixPath(name)) in names:
            wrong = "is there twice"
        if wrong:
            raise Refused(f"the artifact's entry {member.filename[:200]!r} {wrong}")
        names.add(str(PurePosixPath(name)))
        size += member.file_size
    if size > UNPACKED_BYTES_MAX:
        raise Refused(f"the artifact unpacks to over {UNPACKED_BYTES_MAX} bytes")
    return members


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, root: Path) -> None:
    """One member. Raises Refused when it is longer than it said, OSError, BadZipFile."""
    path = root / PurePosixPath(member.filename)
    if member.is_dir():
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    mode = (member.external_attr >> 16) & 0o777
    flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

    def made(name: str, more: int) -> int:
        return os.open(name, flags | more, 0o644 | (mode & 0o111))

    left = member.file_size
    with opened.open(member) as source, open(path, "wb", opener=made) as file:
        while piece := source.read(COPY_BYTES):
            left -= len(piece)
            if left < 0:
                raise Refused(f"the artifact's entry {member.filename[:200]!r} is too long")
            file.write(piece)
