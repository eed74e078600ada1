"""When the logs of what is over are moved: also where nothing happens any more."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest
import trio

from plumd import gathering
from plumd.attempt_logs import AttemptLogs
from plumd.clock import SystemClock
from plumd.engine import Engine
from plumd.executors.hour_logs import HourLogs, Key
from plumd.executors.os_process import OsProcess
from plumd.gathering import Gathering
from plumd.model import Limits
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.store.definitions import Catalog
from plumd.store.events import Record
from plumd.store.store import Change, Store
from tests.daemon.plant import wait_for

PAIR = (5, 1)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what only files show."""
    await trio.to_thread.run_sync(wait_for, condition, what)


async def test_what_could_not_be_moved_is_tried_again_while_nothing_happens(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAUSE_S", "AGAIN_S"):
        monkeypatch.setattr(gathering, name, 0.01)
    store = Store(tmp_path / "plum.db", threads=False)
    engine = Engine(store, SystemClock(), Outbox(store), Planner(Catalog(store)), Limits(), 1)
    kept = HourLogs(tmp_path / "logs", 1 << 30)
    lines = AttemptLogs(tmp_path, kept=kept)
    processes = OsProcess(tmp_path, kept=kept)
    tries, put = [], kept.put

    def full(logs: Iterable[tuple[Key, Path]], now_ms: int) -> None:
        tries.append(now_ms)
        if len(tries) < 5:
            raise OSError(errno.ENOSPC, "no room")
        put(logs, now_ms)

    monkeypatch.setattr(kept, "put", full)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lines.run)
        lines.note(PAIR, 1, ["hello\n"])
        await lines.settled()
        nursery.start_soon(Gathering(engine, kept, processes, lines).run)
        await until(lambda: kept.has(PAIR), "its log is kept")
        await until(lambda: not lines.directory(*PAIR).exists(), "its directory is gone")
        nursery.cancel_scope.cancel()
    page = processes.read_log(*PAIR, 0, 100)
    assert [entry.data for entry in page.entries] == [b"hello\n"]
    assert len(tries) >= 5
    store.close()


async def test_logs_are_moved_after_the_disk_was_away(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PAUSE_S", 0.01)
    store = Store(tmp_path / "plum.db", threads=False)
    engine = Engine(store, SystemClock(), Outbox(store), Planner(Catalog(store)), Limits(), 1)
    kept = HourLogs(tmp_path / "logs", 1 << 30)
    lines = AttemptLogs(tmp_path, kept=kept)

    def commit() -> Record:
        return store.commit_now(Change(1, probe=True)).record

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lines.run)
        nursery.start_soon(Gathering(engine, kept, OsProcess(tmp_path, kept=kept), lines).run)
        for pair in (PAIR, (6, 1), (7, 1)):
            lines.note(pair, 1, ["hello\n"])
            await lines.settled()
            engine.journal.append(commit())
            await until(partial(kept.has, pair), f"the log of {pair} is kept")
            commit()
            engine.journal = engine._rejoin_journal()
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    store.close()
