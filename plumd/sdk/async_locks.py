"""Locks under Trio; see locks.py."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from plumd.sdk.aio import AsyncClient
from plumd.sdk.locks import Lock, LockLost, Wish, acquire, release, renew
from plumd.sdk.wire import ClientError


@asynccontextmanager
async def locked_async(client: AsyncClient, wish: Wish) -> AsyncIterator[Lock]:
    """Have a lock for the length of a block.

    When it is lost the block is cancelled. Raises: LockLost.
    """
    end = None if wish.wait_s is None else time.monotonic() + wish.wait_s
    lock = Lock(wish, await client.follow(acquire(wish, end)))
    trouble: Exception | None = None
    async with trio.open_nursery() as nursery:      # a private detail: it raises no group
        nursery.start_soon(_keep, client, wish, lock, nursery.cancel_scope)
        try:
            yield lock
        except Exception as error:
            trouble = error
        finally:
            nursery.cancel_scope.cancel()
            with trio.move_on_after(wish.ttl_s, shield=True), suppress(ClientError):
                await client.follow(release(wish, lock.token))
    if trouble is not None:
        raise trouble
    if lock.lost:
        raise LockLost(f"the lock {lock.name!r} was lost")


async def _keep(client: AsyncClient, wish: Wish, lock: Lock, scope: trio.CancelScope) -> None:
    while not lock.lost:
        await trio.sleep(lock.beat_s)
        asked = time.monotonic()
        try:
            with trio.move_on_after(wish.ttl_s):
                await client.follow(renew(wish, lock.token))
                lock.heard(asked)
        except ClientError as error:
            lock.troubled(error)
        if time.monotonic() - asked >= wish.ttl_s:
            lock.lost = True
    scope.cancel()
