"""Leases over a real database in virtual time: one owner at a time, tokens that only grow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from plumd.errors import LeaseHeld, LeaseLost, StorageDown
from plumd.leases import Leases
from plumd.store import leases
from plumd.store.leases import DEVICE, LOCK
from tests.fabric_rig import Disk

KEY = (LOCK, "plant", "press")


def reborn(disk: Disk) -> Leases:
    """The room as after a restart."""
    room = Leases(disk.store, disk.clock, disk.write)
    room.load()
    return room


@asynccontextmanager
async def running(path: Path, clock: MockClock) -> AsyncIterator[tuple[Disk, Leases]]:
    disk = Disk(path, clock)
    room = reborn(disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.run)
        yield disk, room
        nursery.cancel_scope.cancel()
    disk.store.close()


async def test_one_has_it_and_tokens_grow(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path, autojump_clock) as (disk, room):
        first = await room.acquire(KEY, "a", 10_000, 0)
        with pytest.raises(LeaseHeld, match="a has it"):
            await room.acquire(KEY, "b", 10_000, 0)
        again = await room.acquire(KEY, "a", 10_000, 0)
        assert again.lease.token == first.lease.token
        await room.release(KEY, first.lease.token)
        second = await room.acquire(KEY, "b", 10_000, 0)
        other = await room.acquire((DEVICE, "", "press"), "a", 10_000, 0)
        assert first.lease.token < second.lease.token < other.lease.token
        for stale in (first.lease.token, second.lease.token + 5):
            with pytest.raises(LeaseLost):
                await room.release(KEY, stale)
            with pytest.raises(LeaseLost):
                await room.renew(KEY, stale, None)
        assert disk.told("lock") == [("plant", "acquired"), ("plant", "released"),
                                     ("plant", "acquired")]


async def test_renewing_writes_nothing_and_silence_ends_it(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path, autojump_clock) as (disk, room):
        token = (await room.acquire(KEY, "a", 9_000, 0)).lease.token
        commits = disk.commits
        for _ in range(10):
            await trio.sleep(8)
            await room.renew(KEY, token, None)
        assert disk.commits == commits
        begun = trio.current_time()
        standing = await room.acquire(KEY, "b", 9_000, 60)
        assert trio.current_time() - begun == pytest.approx(9, abs=0.1)
        assert standing.lease.token > token
        assert standing.lease.owner == "b"
        with pytest.raises(LeaseLost, match="b has it"):
            await room.renew(KEY, token, None)
        await room.renew(KEY, standing.lease.token, 60_000)
        await trio.sleep(30)
        assert room.holder(KEY) is not None


async def test_a_line_is_served_in_its_order(tmp_path: Path, autojump_clock: MockClock) -> None:
    served: list[str] = []

    async def want(room: Leases, owner: str) -> None:
        token = (await room.acquire(KEY, owner, 5_000, 50)).lease.token
        served.append(owner)
        await trio.sleep(1)
        await room.release(KEY, token)

    async with running(tmp_path, autojump_clock) as (_, room), trio.open_nursery() as nursery:
        first = await room.acquire(KEY, "x", 5_000, 0)
        gone = trio.CancelScope()

        async def impatient() -> None:
            with gone:
                await want(room, "never")

        nursery.start_soon(impatient)
        await wait_all_tasks_blocked()
        for owner in "abcd":
            nursery.start_soon(want, room, owner)
            await wait_all_tasks_blocked()
        gone.cancel()
        await wait_all_tasks_blocked()
        standing = room.standing(KEY)
        assert standing is not None
        assert standing.waiting == 4
        await room.release(KEY, first.lease.token)
        with pytest.raises(LeaseHeld):
            await room.acquire(KEY, "e", 5_000, 0)      # newcomers do not overtake
        await trio.sleep(6)
        assert served == ["a", "b", "c", "d"]


async def test_a_restart_gives_a_fresh_time_and_keeps_token_and_owner(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    disk = Disk(tmp_path, autojump_clock)
    before = reborn(disk)
    token = (await before.acquire(KEY, "a", 10_000, 0)).lease.token
    await trio.sleep(9)
    after = reborn(disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after.run)
        await trio.sleep(9)
        assert (await after.renew(KEY, token, None)).lease.token == token
        await trio.sleep(11)
        assert after.holder(KEY) is None
        newer = await after.acquire(KEY, "b", 10_000, 0)
        assert newer.lease.token > token
        nursery.cancel_scope.cancel()
    disk.store.close()


async def test_while_the_disk_is_down_nothing_changes_hands(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path, autojump_clock) as (disk, room):
        token = (await room.acquire(KEY, "a", 3_000, 0)).lease.token
        disk.down = True
        await trio.sleep(10)            # its time is over, and cannot be written
        with pytest.raises(LeaseHeld):
            await room.acquire(KEY, "b", 3_000, 0)
        with pytest.raises(LeaseLost):
            await room.renew(KEY, token, None)
        with pytest.raises(StorageDown):
            await room.release(KEY, token)
        disk.down = False
        standing = await room.acquire(KEY, "b", 3_000, 30)
        assert standing.lease.token > token


async def test_taking_away_makes_the_token_stale_for_writes(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path, autojump_clock) as (disk, room):
        token = (await room.acquire(KEY, "a", 30_000, 0)).lease.token
        await disk.write(lambda tx: leases.check(tx, KEY, token))
        assert await room.take_away(KEY)
        assert not await room.take_away(KEY)
        with pytest.raises(LeaseLost, match="nobody has it now"):
            await disk.write(lambda tx: leases.check(tx, KEY, token))
