"""Power cuts at any write: what was acknowledged is there afterwards, whole."""

from __future__ import annotations

from pathlib import Path
from random import Random

import apsw
import pytest

from plumd.model import Submit
from plumd.store import events, tasks
from plumd.store.store import Change, Store
from tests.store.powerloss import Power, PowerVFS

CUTS = 60


def change_of(number: int) -> Change:
    """A commit of three tasks that belong together."""
    ids = [number * 10 + index for index in range(3)]
    created = [(Submit(one, "t", payload=b"1" * 300), 1, 1, 0, None, 0, 0, 0, 0) for one in ids]
    return Change(now_ms=number, created=created, events=[("task", one) for one in ids])


@pytest.mark.parametrize("seed", range(CUTS))
def test_nothing_acknowledged_is_lost(seed: int, tmp_path: Path) -> None:
    rng = Random(seed)
    power = Power()
    name = f"power-{seed}"
    vfs = PowerVFS(name, power)
    disk, after = tmp_path / "disk", tmp_path / "after"
    disk.mkdir()
    after.mkdir()
    store = Store(disk / "plum.db", name)
    power.cut_at = power.calls + rng.randrange(1, 260)
    acknowledged = []
    try:
        for number in range(1, 40):
            store.commit_now(change_of(number))
            acknowledged.append(number)
            if rng.random() < 0.1:
                store.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except apsw.Error:
        assert power.off
    power.off = True
    power.image(after, rng)
    found = Store(after / "plum.db", log_bytes=0)
    try:
        assert found.db.pragma("integrity_check") == "ok"
        rows = {row[0] for row in tasks.live(found.db)}
        for number in acknowledged:
            assert {number * 10, number * 10 + 1, number * 10 + 2} <= rows, "a commit is lost"
        assert len(rows) % 3 == 0, "a commit is torn"
        records = events.since(found.db, 1, 1_000)
        assert len(records) == len(rows) // 3, "rows and events of a commit are one"
        assert found.next_seq == 1 + sum(record.count for record in records)
    finally:
        found.close()
        power.off, power.cut_at = False, 0
        store.close()
        vfs.unregister()
