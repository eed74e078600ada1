"""Webhooks that go out, in a room without a daemon."""

from __future__ import annotations

from pathlib import Path

import apsw
import apsw.ext
import pytest
import trio
from trio.testing import MockClock

from plumd.executors.outgoing import Client
from plumd.mqtt import Brokers
from plumd.store import events, webhooks
from plumd.store.events import Event
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
        await engine.write(lambda tx: webhooks.delete(tx, 5, None))
        await engine.write(lambda tx: webhooks.note(tx, [Note(5, 3, "kv", b"{}")]))
        assert store.peek(webhooks.waiting, 5) == 0, "it is noted for nobody"


async def test_of_too_many_that_wait_the_oldest_are_given_up(
        tmp_path: Path, clock: MockClock) -> None:
    """A tenth at once, and it is told once."""
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        def write(tx: Tx) -> list[tuple[int, int]]:
            webhooks.create(tx, 5, WebhookBody("w", "http://127.0.0.1:9/", ("kv",)), "s")
            webhooks.note(tx, [Note(5, seq, "kv", b"{}") for seq in range(1, 26)])
            webhooks.tried(tx, Tried(5, 1, DeliveryState.DELIVERED, 1, 0, 204, ""))
            return [webhooks.bound(tx, 5, 30, told=False), webhooks.bound(tx, 5, 20, told=False),
                    webhooks.bound(tx, 5, 20, told=True)]

        assert await engine.write(write) == [(6, 0), (2, 6), (2, 0)]
        assert [one.seq for one in store.peek(webhooks.due, 5, 100)] == [*range(8, 26)]
        assert [row.seq for row in store.peek(webhooks.deliveries, 5, None, 0, 100)][-1] == 1, (
            "what became of others stays")
        found = store.peek(webhooks.get, 5)
        assert found is not None
        assert found.dropped == 6
        for name in ("drop_oldest", "waiting"):
            info = apsw.ext.query_info(store.db, webhooks.SQL[name], explain_query_plan=True)
            assert "deliveries_waiting" in str(info.query_plan), name


async def test_what_waits_for_a_dead_receiver_is_bounded(
        tmp_path: Path, clock: MockClock) -> None:
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        client = Client()
        room = Webhooks(engine, client, Brokers(engine, client))
        body = WebhookBody("w", "mqtt:nowhere/x", ("kv",), max_waiting=20, max_attempts=100)
        await engine.write(lambda tx: webhooks.create(tx, 5, body, "s"))

        def happens(tx: Tx) -> None:
            tx.emit("kv", "n", "set", "key", 1, tx.now_ms)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.run)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(200):
                await engine.write(happens)
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
        found = sorted(one.seq for one in store.peek(webhooks.due, 5, 1_000))
        assert 18 <= len(found) <= 20
        log = [(record.first_seq + at, event) for record in store.peek(events.since, 1, 1_000)
               for at, event in enumerate(record.items)]
        assert found == [seq for seq, event in log if event[0] == "kv"][-len(found):], "the newest"
        assert room.ended == {"delivered": 0, "failed": 0, "dropped": 200 - len(found)}
        assert [event[:2] for _, event in log].count(("alert", "webhook_failed")) == 1


async def test_of_those_that_fail_in_a_row_the_first_is_told(
        tmp_path: Path, clock: MockClock) -> None:
    """Whatever the order in which they end: some are under way at once."""
    assert clock.autojump_threshold == 0
    async with running(tmp_path) as (engine, store):
        failed, delivered = DeliveryState.FAILED, DeliveryState.DELIVERED

        def write(tx: Tx) -> list[int]:
            """How many alerts each end makes."""
            webhooks.create(tx, 5, WebhookBody("w", "http://127.0.0.1:9/", ("kv",)), "s")
            webhooks.note(tx, [Note(5, seq, "kv", b"{}") for seq in range(1, 9)])
            found = []
            for at_ms, (seq, state) in enumerate([
                    (3, failed), (1, failed), (4, failed), (6, delivered), (5, failed),
                    (7, failed)], 1):
                told: list[Event] = []
                webhooks.tried(Tx(tx.db, at_ms, told), Tried(5, seq, state, 1, 0, 0, "away"))
                found.append(len(told))
            return found

        assert await engine.write(write) == [1, 0, 0, 0, 1, 0]
        info = apsw.ext.query_info(store.db, webhooks.SQL["ended_before"], explain_query_plan=True)
        assert "deliveries_ended" in str(info.query_plan)
