"""Locks: one at a time, with a token by which the daemon refuses writes of one who lost it.

    with KV("plant") as kv, kv.lock("press") as press:      # waits for it, renews it meanwhile
        kv.put("press/job", 17, lock=press)                 # refused if the lock was lost

A lock is lost when its owner is silent for ttl_s: it was stopped, or cut off. Then somebody else
may have it, whatever this program believes; `check` says so, and so does a write that names it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple
from urllib.parse import quote

from plumd.sdk.client import Client
from plumd.sdk.wire import (
    ANSWER_S,
    Ask,
    ClientError,
    JsonObject,
    Patience,
    Pause,
    ProblemError,
    Steps,
    object_of,
    part,
    passing,
    sent,
)

TTL_S: Final = 30.0
WAIT_S_MAX: Final = 50
LOST_CODE: Final = "lease_lost"
HELD_CODE: Final = "lease_held"


class LockLost(ClientError):
    """This program has the lock no more."""


class Wish(NamedTuple):
    """Which lock is wanted, and by whom. wait_s: None = however long it takes."""

    namespace: str
    name: str
    owner: str
    ttl_s: float
    wait_s: float | None


def lock_path(namespace: str, name: str) -> str:
    """Where a lock is."""
    return f"/v1/locks/{part(namespace)}/{quote(name, safe='').replace('.', '%2E')}"


def some_owner() -> str:
    """A name that nobody else has."""
    return f"sdk-{secrets.token_hex(8)}"


def acquire(wish: Wish, clock_end: float | None) -> Steps[int]:
    """Wait for a lock, in line; its token. clock_end: time.monotonic() when patience ends.

    Asking again after a lost answer is safe: an owner who has the lock is given the same token.
    Raises: ProblemError `lease_held` when it did not come in time.
    """
    patience = Patience()
    while True:
        now = time.monotonic()
        left_s = float(WAIT_S_MAX) if clock_end is None else max(0.0, clock_end - now)
        wait_s = min(WAIT_S_MAX, int(left_s + 0.999))
        body: JsonObject = {"owner": wish.owner, "ttlSec": wish.ttl_s}
        try:
            answer = yield from sent(Ask(
                "POST", lock_path(wish.namespace, wish.name), body, {"action": "acquire"},
                {"Prefer": f"wait={wait_s}"} if wait_s else {}, ANSWER_S + wait_s))
        except ClientError as error:
            held = isinstance(error, ProblemError) and error.code == HELD_CODE
            if held and (clock_end is None or time.monotonic() < clock_end):
                patience = Patience()
                continue
            if held:
                raise
            yield Pause(patience.pause_s(error, time.monotonic()))
            continue
        token = object_of(answer).get("token")
        assert isinstance(token, int), "a lock has a token"
        return token


def renew(wish: Wish, token: int) -> Steps[None]:
    """Say that its owner is alive."""
    body: JsonObject = {"token": token}
    yield from sent(Ask("POST", lock_path(wish.namespace, wish.name), body, {"action": "renew"}))


def release(wish: Wish, token: int) -> Steps[None]:
    """Give it up; one that was lost already is."""
    body: JsonObject = {"token": token}
    try:
        yield from sent(Ask("POST", lock_path(wish.namespace, wish.name), body,
                            {"action": "release"}))
    except ProblemError as problem:
        if problem.code != LOST_CODE:
            raise


class Lock:
    """A lock that this program has, until `lost` says otherwise. token: grows with each owner."""

    def __init__(self, wish: Wish, token: int) -> None:
        self.name = wish.name
        self.token = token
        self.lost = False
        self._wish = wish
        self._well = time.monotonic()

    def check(self) -> None:
        """Raises: LockLost when somebody else may have it."""
        if self.lost or time.monotonic() - self._well >= self._wish.ttl_s:
            self.lost = True
            raise LockLost(f"the lock {self.name!r} was lost")

    @property
    def beat_s(self) -> float:
        """How often it is renewed."""
        return self._wish.ttl_s / 3

    def heard(self, asked: float) -> None:
        """It was renewed, by a request that left at this time."""
        self._well = asked

    def troubled(self, error: ClientError) -> None:
        """It was not renewed: for good, or until the next try."""
        self.lost = (self.lost or not passing(error)
                     or time.monotonic() - self._well >= self._wish.ttl_s)


def wished(namespace: str, name: str, ttl_s: float, wait_s: float | None,
           owner: str | None) -> Wish:
    """A wish, with an owner's name of its own unless one is given."""
    return Wish(namespace, name, owner or some_owner(), ttl_s, wait_s)


@contextmanager
def locked(client: Client, wish: Wish) -> Iterator[Lock]:
    """Have a lock for the length of a block; a thread renews it."""
    end = None if wish.wait_s is None else time.monotonic() + wish.wait_s
    lock = Lock(wish, client.follow(acquire(wish, end)))
    over = threading.Event()

    def keep() -> None:
        with Client(client.url, timeout_s=min(client.timeout_s, wish.ttl_s),
                    token=client.token) as twin:
            while not over.wait(lock.beat_s) and not lock.lost:
                asked = time.monotonic()
                try:
                    twin.follow(renew(wish, lock.token))
                    lock.heard(asked)
                except ClientError as error:
                    lock.troubled(error)

    thread = threading.Thread(target=keep, name=f"lock {wish.name}", daemon=True)
    thread.start()
    try:
        yield lock
    finally:
        over.set()
        thread.join()
        with suppress(ClientError):     # then it runs out by itself
            client.follow(release(wish, lock.token))
