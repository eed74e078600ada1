"""The quick stream is a stream like Trio's own, with fewer turns of the scheduler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from plumd.sdk.quick import BUSY_MAX, QuickStream, quick


async def pair() -> tuple[QuickStream, QuickStream]:
    left, right = trio.socket.socketpair()
    return QuickStream(trio.SocketStream(left)), QuickStream(trio.SocketStream(right))


@asynccontextmanager
async def lines() -> AsyncIterator[tuple[QuickStream, QuickStream]]:
    left, right = await pair()
    async with left, right:
        yield left, right


async def test_bytes_arrive_whole_and_in_order() -> None:
    async with lines() as (left, right), trio.open_nursery() as nursery:
        sent = bytes(range(256)) * 20_000
        nursery.start_soon(left.send_all, sent)
        got = b""
        while len(got) < len(sent):
            got += await right.receive_some(1_000_000)
        assert got == sent


async def test_the_end_is_told_and_a_closed_one_refuses() -> None:
    async with lines() as (left, right):
        await left.aclose()
        assert await right.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await left.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await left.send_all(b"x")


async def test_closing_wakes_who_waits() -> None:
    async with lines() as (left, _), trio.open_nursery() as nursery:
        await left.send_all(b"x")

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await left.receive_some()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await left.aclose()


async def test_a_flood_lets_others_run() -> None:
    async with lines() as (left, right):
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await left.send_all(b"x" * 1_000)
            for _ in range(BUSY_MAX * 8):
                await right.receive_some(1)
            nursery.cancel_scope.cancel()
        assert turns >= 2


async def test_other_streams_stay_as_they_are() -> None:
    one, other = trio.testing.memory_stream_pair()
    assert quick(one) is one
    await one.aclose()
    await other.aclose()
