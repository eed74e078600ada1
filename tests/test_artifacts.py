"""The folder of apps: what no row names goes, at the start and while the daemon runs."""

from __future__ import annotations

import math
import os
from pathlib import Path

import trio
from trio.testing import MockClock

from plumd.artifacts import SWEEP_AFTER_S, Artifacts
from plumd.store import apps
from plumd.store.apps import AppRow
from tests.fabric_rig import Disk


async def test_files_of_no_app_go(tmp_path: Path, autojump_clock: MockClock) -> None:
    disk = Disk(tmp_path, autojump_clock)
    folder = tmp_path / "artifacts"
    room = Artifacts(folder, disk.store, disk.clock, disk.write, disk.new_id, 1 << 20)

    def left(name: str, age_s: float) -> Path:
        path = folder / name
        path.write_bytes(b"zip")
        at_s = disk.clock.now().wall_ms / 1000 - age_s
        os.utime(path, (at_s, at_s))
        return path

    known = left("known.zip", 0)
    await disk.write(lambda tx: apps.create(tx, AppRow(1, "a", "1", known.name, "", 3, (), 0)))
    before = left("before.part", 1)
    (folder / "lost+found").mkdir()
    os.utime(folder / "lost+found", (0, 0))
    async with trio.open_nursery() as nursery:
        await nursery.start(room.run)
        assert not before.exists(), "at the start all of it goes"
        fresh, old = left("fresh.part", -10), left("old.part", 10)
        # The sweep works in a thread, which a clock that jumps takes for idleness.
        autojump_clock.autojump_threshold = math.inf
        autojump_clock.jump(SWEEP_AFTER_S + 1)
        for _ in range(1_000_000):
            if not old.exists():
                break
            await trio.lowlevel.checkpoint()
        assert not old.exists()
        assert fresh.exists(), "it may be an upload that is under way"
        assert known.exists()
        assert (folder / "lost+found").exists(), "what is not ours stays"
        nursery.cancel_scope.cancel()
    disk.store.close()
