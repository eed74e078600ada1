"""The key-value store from Python: `KV` blocks, `AsyncKV` is for Trio.

    from plumd.sdk import KV

    with KV("plant") as kv:
        kv.put("line/1/speed", 12.5)
        kv.cas("owner", "me", version=0)        # only if nobody is there
        for change in kv.watch("line/"):
            print(change.key, change.entry)

Values are Python's bool, int, float, str and bytes, and come back as what they were.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Self, TypeAlias

import trio

from plumd.sdk import keys
from plumd.sdk.aio import AsyncClient, closing
from plumd.sdk.async_locks import locked_async
from plumd.sdk.client import Client
from plumd.sdk.keys import (
    Change,
    Delete,
    Entry,
    Guard,
    Mirror,
    Put,
    Told,
    Update,
    Value,
    lost_pause_s,
)
from plumd.sdk.locks import TTL_S, Lock, locked, wished
from plumd.sdk.wire import SILENCE_S, ClientError, Frames, passing

Entries: TypeAlias = list[Entry]
Names: TypeAlias = list[str]


class KV:
    """One namespace. client: a Client, or the URL of a daemon, or None as Client has it.

    A client that it made is closed with it. Every method raises ProblemError and UnreachableError.
    """

    def __init__(self, namespace: str, client: Client | str | None = None) -> None:
        self.namespace = namespace
        self._mine = not isinstance(client, Client)
        self.client = client if isinstance(client, Client) else Client(client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the client, if it is its own."""
        if self._mine:
            self.client.close()

    # ------------------------------------------------------------ one key

    def get(self, key: str) -> Value | None:
        """A key's value; None when it is not there."""
        entry = self.entry(key)
        return None if entry is None else entry.value

    def entry(self, key: str) -> Entry | None:
        """A key's value with its version and times; None when it is not there."""
        return self.client.follow(keys.get(self.namespace, key))

    def put(self, key: str, value: Value, *, ttl_s: float | None = None,
            once: str | None = None, lock: Guard | None = None) -> Entry:
        """Write a key; it is on disk when this returns. ttl_s: it is gone after so long.

        once: an Idempotency-Key; asked again with the same one, nothing is written again.
        lock: of `lock`; if it was lost nothing is written (ProblemError `lease_lost`).
        """
        return self.client.follow(keys.put(self.namespace, Put(key, value, ttl_s), once, lock))

    def cas(self, key: str, value: Value, version: int, *, ttl_s: float | None = None,
            once: str | None = None, lock: Guard | None = None) -> Entry:
        """Write a key only if it is at this version, 0 = only if it is not there.

        Raises: Conflict, with what is there.
        """
        return self.client.follow(keys.put(
            self.namespace, Put(key, value, ttl_s, version), once, lock))

    def update(self, key: str, change: Update, *, ttl_s: float | None = None) -> Entry:
        """Write what `change` makes of the present value (None = not there), by compare-and-set:
        it is called again whenever somebody else was faster."""
        return self.client.follow(keys.update(self.namespace, key, change, ttl_s))

    def delete(self, key: str, *, version: int | None = None,
               lock: Guard | None = None) -> None:
        """Delete a key; with a version only if it is at it. Raises: Conflict."""
        self.client.follow(keys.delete(self.namespace, Delete(key, version), lock))

    def clear(self, prefix: str = "", *, lock: Guard | None = None) -> int:
        """Delete all keys that begin like this; how many there were."""
        return self.client.follow(keys.clear(self.namespace, prefix, lock))

    def lock(self, name: str, *, ttl_s: float = TTL_S, wait_s: float | None = None,
             owner: str | None = None) -> AbstractContextManager[Lock]:
        """Have a lock of this namespace for the length of a block; it is renewed meanwhile.

        ttl_s: so long after its last sign of life it is lost.  wait_s: None = wait for it however
        long it takes; when it does not come in time, ProblemError `lease_held`.
        """
        return locked(self.client, wished(self.namespace, name, ttl_s, wait_s, owner))

    # ------------------------------------------------------------ many

    def batch(self, writes: Iterable[Put | Delete], *, once: str | None = None,
              lock: Guard | None = None) -> dict[str, int]:
        """Write many keys, all or nothing; key -> its version. Raises: Conflict."""
        return self.client.follow(keys.batch(self.namespace, writes, once, lock))

    def list(self, prefix: str = "") -> Entries:
        """All entries whose keys begin like this, by key."""
        return self.client.follow(keys.entries(self.namespace, prefix))

    def keys(self, prefix: str = "") -> Names:
        """All keys that begin like this, in order."""
        return self.client.follow(keys.keys(self.namespace, prefix))

    # ------------------------------------------------------------ watching

    def watch(self, prefix: str = "") -> Iterator[Change]:
        """What is there, as changes, and then every change; without end.

        Dials again when the line is lost, and then says what changed meanwhile: of a key the
        newest value, not what was between.
        """
        mirror = Mirror(self.namespace, prefix)
        tries = 0
        while True:
            try:
                frames = Frames()
                for chunk in self.client.chunks(mirror.ask(), SILENCE_S):
                    for _, name, data in frames.feed(chunk):
                        told = mirror.take(name, data)
                        if isinstance(told, Change):
                            yield told
                        elif told is Told.LIST:
                            yield from mirror.listed(self.client.follow(mirror.list_steps()))
                            tries = 0
            except ClientError as error:
                if not passing(error):
                    raise
            time.sleep(lost_pause_s(tries, random.random()))
            tries += 1

    @contextmanager
    def cached(self, prefix: str = "") -> Iterator[Cache]:
        """The namespace in memory, kept true by a watch in a thread of its own.

        The block begins when everything is there, and ends when the thread has.
        """
        cache = Cache(self.namespace, prefix)
        ready: Answer = Answer()
        thread = threading.Thread(target=trio.run, args=(self._mirror, cache, ready),
                                  name=f"kv {self.namespace}", daemon=True)
        thread.start()
        ready.event.wait()
        try:
            cache.check()
            yield cache
        finally:
            ready.end()
            thread.join()

    def _twin(self) -> AsyncClient:
        return AsyncClient(self.client.url, timeout_s=self.client.timeout_s,
                           token=self.client.token)

    async def _mirror(self, cache: Cache, ready: Answer) -> None:
        """In the cache's thread: follow, until the block ends."""
        with trio.CancelScope() as scope:
            ready.token, ready.scope = trio.lowlevel.current_trio_token(), scope
            try:
                async with self._twin() as client, trio.open_nursery() as nursery:
                    await nursery.start(cache.follow, AsyncKV(self.namespace, client))
                    ready.event.set()
            finally:
                ready.event.set()


class Answer:
    """What the thread of a cache hands to the one that began it."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.token: trio.lowlevel.TrioToken | None = None
        self.scope: trio.CancelScope | None = None

    def end(self) -> None:
        """Ask the thread to end, if it has not."""
        if self.token is not None and self.scope is not None:
            try:
                self.token.run_sync_soon(self.scope.cancel)
            except trio.RunFinishedError:
                return


class AsyncKV:
    """One namespace, under Trio; the methods of KV, awaited.

    client: an AsyncClient, or the URL of a daemon, or None as AsyncClient has it.
    """

    def __init__(self, namespace: str, client: AsyncClient | str | None = None) -> None:
        self.namespace = namespace
        self._mine = not isinstance(client, AsyncClient)
        self.client = client if isinstance(client, AsyncClient) else AsyncClient(client)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client, if it is its own."""
        if self._mine:
            await self.client.aclose()

    async def get(self, key: str) -> Value | None:
        """A key's value; None when it is not there."""
        entry = await self.entry(key)
        return None if entry is None else entry.value

    async def entry(self, key: str) -> Entry | None:
        """A key's value with its version and times; None when it is not there."""
        return await self.client.follow(keys.get(self.namespace, key))

    async def put(self, key: str, value: Value, *, ttl_s: float | None = None,
                  once: str | None = None, lock: Guard | None = None) -> Entry:
        """Write a key; it is on disk when this returns."""
        return await self.client.follow(keys.put(
            self.namespace, Put(key, value, ttl_s), once, lock))

    async def cas(self, key: str, value: Value, version: int, *, ttl_s: float | None = None,
                  once: str | None = None, lock: Guard | None = None) -> Entry:
        """Write a key only if it is at this version, 0 = only if it is not there."""
        return await self.client.follow(keys.put(
            self.namespace, Put(key, value, ttl_s, version), once, lock))

    async def update(self, key: str, change: Update, *, ttl_s: float | None = None) -> Entry:
        """Write what `change` makes of the present value, by compare-and-set."""
        return await self.client.follow(keys.update(self.namespace, key, change, ttl_s))

    async def delete(self, key: str, *, version: int | None = None,
                     lock: Guard | None = None) -> None:
        """Delete a key; with a version only if it is at it."""
        await self.client.follow(keys.delete(self.namespace, Delete(key, version), lock))

    async def clear(self, prefix: str = "", *, lock: Guard | None = None) -> int:
        """Delete all keys that begin like this; how many there were."""
        return await self.client.follow(keys.clear(self.namespace, prefix, lock))

    def lock(self, name: str, *, ttl_s: float = TTL_S, wait_s: float | None = None,
             owner: str | None = None) -> AbstractAsyncContextManager[Lock]:
        """Have a lock for the length of a block; see KV.lock. When it is lost the block is
        cancelled and raises LockLost."""
        return locked_async(self.client, wished(self.namespace, name, ttl_s, wait_s, owner))

    async def batch(self, writes: Iterable[Put | Delete], *, once: str | None = None,
                    lock: Guard | None = None) -> dict[str, int]:
        """Write many keys, all or nothing; key -> its version."""
        return await self.client.follow(keys.batch(self.namespace, writes, once, lock))

    async def list(self, prefix: str = "") -> Entries:
        """All entries whose keys begin like this, by key."""
        return await self.client.follow(keys.entries(self.namespace, prefix))

    async def keys(self, prefix: str = "") -> Names:
        """All keys that begin like this, in order."""
        return await self.client.follow(keys.keys(self.namespace, prefix))

    def watch(self, prefix: str = "") -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """What is there, as changes, and then every change; see KV.watch."""
        return closing(self._watch(prefix))

    async def _watch(self, prefix: str) -> AsyncIterator[Change]:
        async with closing(self.changes(Mirror(self.namespace, prefix))) as changes:
            async for change in changes:
                if isinstance(change, Change):
                    yield change

    async def changes(self, mirror: Mirror) -> AsyncIterator[Change | bool]:
        """Changes without end; True whenever the mirror is whole, False when its line is lost."""
        tries = 0
        while True:
            try:
                frames = Frames()
                async with closing(self.client.chunks(mirror.ask(), SILENCE_S)) as chunks:
                    async for chunk in chunks:
                        for _, name, data in frames.feed(chunk):
                            told = mirror.take(name, data)
                            if isinstance(told, Change):
                                yield told
                            elif told is Told.LIST:
                                for change in mirror.listed(
                                        await self.client.follow(mirror.list_steps())):
                                    yield change
                                yield True
                                tries = 0
            except ClientError as error:
                if not passing(error):
                    raise
            yield False
            await trio.sleep(lost_pause_s(tries, random.random()))
            tries += 1

    @asynccontextmanager
    async def cached(self, prefix: str = "") -> AsyncIterator[Cache]:
        """The namespace in memory, kept true by a watch; the block begins when all is there."""
        cache = Cache(self.namespace, prefix)
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.follow, self)
            cache.check()
            yield cache
            nursery.cancel_scope.cancel()


class Cache(Mapping[str, Value]):
    """Keys and values as they are, as far as the watch has heard. Reading it asks nobody.

    fresh: whether the watch's line stands; if not, it may be behind.  A namespace that cannot be
    watched any more (it was refused) raises when it is read.
    """

    def __init__(self, namespace: str, prefix: str) -> None:
        self.fresh = False
        self._mirror = Mirror(namespace, prefix)
        self._trouble: ClientError | None = None

    async def follow(self, kv: AsyncKV, *, task_status: trio.TaskStatus[None]
                     = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the watch; started when everything is there, or never will be."""
        begun = False
        try:
            async with closing(kv.changes(self._mirror)) as changes:
                async for change in changes:
                    if isinstance(change, bool):
                        self.fresh = change
                    if self.fresh and not begun:
                        begun = True
                        task_status.started()
        except ClientError as error:
            self._trouble, self.fresh = error, False
            if not begun:
                task_status.started()

    def check(self) -> None:
        """Raises: ClientError when the watch has ended."""
        if self._trouble is not None:
            raise self._trouble

    def entry(self, key: str) -> Entry | None:
        """A key with its version and times."""
        self.check()
        return self._mirror.entries.get(key)

    def __getitem__(self, key: str) -> Value:
        self.check()
        return self._mirror.entries[key].value

    def __iter__(self) -> Iterator[str]:
        self.check()
        return iter(self._mirror.entries.copy())        # the watch may be at it in its thread

    def __len__(self) -> int:
        return len(self._mirror.entries)
