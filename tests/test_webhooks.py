"""Webhooks that go out, in a room without a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from plumd.executors.outgoing import Client
from plumd.mqtt import Brokers
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
