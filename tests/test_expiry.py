"""Keys go when their time is over, told in the commit; nobody looks at a clock before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from plumd.clock import Instant
from plumd.engine import Engine
from plumd.expiry import Expiry
from plumd.model import Limits
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.store import kv
from plumd.store.definitions import Catalog
from plumd.store.kv import Write
from plumd.store.store import Store


class TrioClock:
    """Trio's time, which a MockClock makes fly."""

    def now(self) -> Instant:
        now_ns = round(trio.current_time() * 1e9)
        return Instant(now_ns, now_ns)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[Engine, Expiry]]:
    """An engine whose expiry runs."""
    store = Store(path / "plum.db")
    store.threads = False       # a virtual clock would run away while a thread works
    engine = Engine(store, TrioClock(), Outbox(store), Planner(Catalog(store)), Limits(), seed=1)
    expiry = Expiry(engine)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        nursery.start_soon(expiry.run)
        yield engine, expiry
        nursery.cancel_scope.cancel()
    store.close()


async def put(engine: Engine, expiry: Expiry, key: str, ttl_ms: int) -> None:
    await engine.write(lambda tx: kv.write(tx, "n", [Write(key, "v", ttl_ms=ttl_ms)]))
    expiry.note(ttl_ms)


async def test_each_key_goes_at_its_time(tmp_path: Path,
                                         autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    async with opened(tmp_path) as (engine, expiry):
        begun = trio.current_time()
        await put(engine, expiry, "slow", 86_400_000)
        await put(engine, expiry, "quick", 2_000)
        await put(engine, expiry, "stays", 0)
        gone: dict[str, float] = {}
        seq = 1
        while len(gone) < 2:
            await engine.journal.wait_beyond(seq)
            for record in engine.journal.since(seq) or ():
                for event in record.items:
                    if event[2] == "deleted":
                        gone[str(event[3])] = trio.current_time() - begun
            seq = engine.journal.next_seq
        assert list(gone) == ["quick", "slow"]
        assert 2 <= gone["quick"] < 2.1
        assert 86_400 <= gone["slow"] < 86_400.1
        assert engine.store.peek(kv.keys, "n", "", 0) == ["stays"]
        commits = engine.store.commits
        await trio.sleep(80_000)
        assert engine.store.commits == commits, "nothing is looked for when nothing expires"


async def test_keys_that_expired_while_the_daemon_was_away(
        tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    async with opened(tmp_path) as (engine, expiry):
        for number in range(1_000):
            await put(engine, expiry, str(number), 5_000)
    await trio.sleep(10)
    async with opened(tmp_path) as (engine, expiry):
        assert engine.store.peek(kv.keys, "n", "", engine.clock.now().wall_ms) == []
        while engine.store.peek(kv.next_expiry) is not None:
            await engine.journal.wait_beyond(engine.journal.next_seq)
        assert engine.store.peek(kv.keys, "n", "", 0) == []
