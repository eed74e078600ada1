"""B19, inside: what waits for the engine is counted, and past the bound callers are sent away."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from plumd.clock import SystemClock
from plumd.engine import QUEUE_WEIGHT_MAX, Engine
from plumd.errors import Overloaded
from plumd.model import Cancel, Limits
from plumd.outbox import Outbox
from plumd.runs import Planner
from plumd.store.definitions import Catalog
from plumd.store.store import Store

PART = 10_000


async def test_b19_past_its_bound_the_queue_takes_nothing_but_news_from_workers(
        tmp_path: Path) -> None:
    store = Store(tmp_path / "plum.db", log_bytes=0)
    try:
        engine = Engine(store, SystemClock(), Outbox(store), Planner(Catalog(store)), Limits(), 1)
        asked = [engine.post([Cancel(1)] * PART) for _ in range(QUEUE_WEIGHT_MAX // PART)]
        with pytest.raises(Overloaded) as refusal:
            engine.post([Cancel(1)])
        assert refusal.value.status == 503
        assert refusal.value.retry_after_s == 1
        asked.append(engine.post([Cancel(1)], urgent=True))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            with trio.fail_after(10):
                for ask in asked:
                    await ask.done.wait()
                await engine.call(Cancel(1))
            nursery.cancel_scope.cancel()
        assert {reply.code for ask in asked for reply in ask.replies} == {"wrong_state"}
    finally:
        store.close()
