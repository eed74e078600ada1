"""Large values: in files by their content, swept when no row names them any more."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

from plumd.errors import StorageDown
from plumd.model import INLINE_BYTES_MAX, Submit
from plumd.store import blobs as room
from plumd.store.blobs import Blobs
from plumd.store.store import Change, Store


async def test_small_values_stay_and_large_ones_move(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    assert await blobs.keep(None) == (None, "")
    small = b"x" * INLINE_BYTES_MAX
    assert await blobs.keep(small) == (small, "")
    value, name = await blobs.keep(small + b"x")
    assert value is None
    assert await blobs.load(name) == small + b"x"
    assert await blobs.keep(small + b"x") == (None, name), "the same content is one file"
    assert blobs.path(name).stat().st_mode & 0o077 == 0, "nobody else may read it"


async def test_a_disk_that_refuses_is_an_answer(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    (tmp_path / "blobs").rmdir()
    (tmp_path / "blobs").write_text("no directory")
    with pytest.raises(StorageDown):
        await blobs.keep(b"x" * (INLINE_BYTES_MAX + 1))


def test_many_put_the_same_value_at_once(tmp_path: Path) -> None:
    blobs, together = Blobs(tmp_path / "blobs"), threading.Barrier(8)

    def put(value: bytes) -> str:
        together.wait()
        return blobs.put(value)

    with ThreadPoolExecutor(8) as threads:
        for number in range(30):
            value = bytes([number]) * 300_000
            names = set(threads.map(put, [value] * 8))
            assert [blobs.get(name) for name in names] == [value]
    assert not [entry.name for entry in blobs.files() if entry.name.startswith(".")]


def test_what_cannot_be_written_leaves_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(tmp_path / "blobs")

    def full(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        blobs.put(b"x" * 100_000)
    assert list(blobs.files()) == []


def test_a_draft_that_becomes_a_file_does_not_end_the_sweep(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs, store = Blobs(tmp_path / "blobs"), Store(tmp_path / "plum.db", log_bytes=0)
    orphan = blobs.path(blobs.put(b"orphan" * 20_000))
    draft = orphan.with_name(f".{orphan.name}")
    draft.touch()
    listed = list(blobs.files())
    monkeypatch.setattr(blobs, "files", lambda: iter(listed))
    draft.unlink()
    assert blobs.sweep(store.db, before_s=2**40) == 1
    store.close()


def test_the_sweep_leaves_what_was_put_again_meanwhile(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(tmp_path / "blobs")
    value = b"again" * 20_000
    os.utime(blobs.path(blobs.put(value)), (0, 0))
    asked: Callable[[apsw.Connection, str], bool] = room.named

    def named(db: apsw.Connection, digest: str) -> bool:
        found = asked(db, digest)
        blobs.put(value)        # its row comes a moment later
        return found

    monkeypatch.setattr(room, "named", named)
    store = Store(tmp_path / "plum.db", log_bytes=0)
    assert blobs.sweep(store.db, before_s=1_000_000) == 0
    assert blobs.get(blobs.put(value)) == value
    store.close()


def test_the_sweep_takes_what_no_row_names(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    store = Store(tmp_path / "plum.db", log_bytes=0)
    named, orphan = blobs.put(b"named" * 20_000), blobs.put(b"orphan" * 20_000)
    submit = Submit(1, "t", blob=named)
    store.commit_now(Change(1, created=[(submit, 1, 1, 0, None, 0, 0, 0, 0)]))
    assert blobs.sweep(store.db, before_s=0) == 0, "young files are left alone"
    assert blobs.sweep(store.db, before_s=2**40) == 1
    assert blobs.path(named).exists()
    assert not blobs.path(orphan).exists()
    store.close()
