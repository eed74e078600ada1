"""Large values: in files by their content, swept when no row names them any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumd.errors import StorageDown
from plumd.model import INLINE_BYTES_MAX, Submit
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
