"""Webhooks that go out, in a room without a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from plumd.executors.outgoing import Client
from plumd.mqtt import Brokers
from plumd.store import webhooks
from plumd.store.store import Tx
from plumd.store.webhooks import DeliveryState, Note, Tried, WebhookBody
from plumd.webhooks import Webhooks
from tests.test_engine import running


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Virtual time: a test that takes it takes no time."""
    return autojump_clock


async def test_one_that_is_paused_as_its_delivery_ends_is_left_alone(
        tmp_path: Path, clock: MockClock) -> None:
    """Whoever delivers is past its last cancel point then, and looks for it once more."""
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, _):
        client = Client()
        room = Webhooks(engine, client, Brokers(engine, client))
        with trio.fail_after(5):
            await room._serve(7, trio.CancelScope())
        assert not room._news


async def test_what_waits_is_not_pruned(tmp_path: Path, clock: MockClock) -> None:
    """A receiver may be away for longer than the history is kept."""
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        def write(tx: Tx) -> int:
            webhooks.create(tx, 5, WebhookBody("w", "http://127.0.0.1:9/", ("kv",)), "s")
            webhooks.note(tx, [Note(5, seq, "kv", b"{}") for seq in (1, 2)])
            webhooks.tried(tx, Tried(5, 1, DeliveryState.DELIVERED, 1, 0, 204, ""))
            return webhooks.prune(tx.db, tx.now_ms + 1, 100)

        assert await engine.write(write) == 1
        assert store.peek(webhooks.waiting, 5) == 1
        await engine.write(lambda tx: webhooks.delete(tx, 5))
        await engine.write(lambda tx: webhooks.note(tx, [Note(5, 3, "kv", b"{}")]))
        assert store.peek(webhooks.waiting, 5) == 0, "it is noted for nobody"
