"""The engine from inside: what leaves it when, and how much it lets in (B19)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing

from plumd.clock import SystemClock
from plumd.engine import QUEUE_WEIGHT_MAX, Engine
from plumd.errors import Overloaded, StorageDown
from plumd.model import Cancel, Join, Limits, Submit, WorkerKind
from plumd.outbox import Given, Outbox
from plumd.planner import Planner
from plumd.store import tasks
from plumd.store.definitions import Catalog
from plumd.store.store import Change, Done, Store

PART = 10_000
WORKER = Join("w", WorkerKind.SESSION, "s", ("t",), capacity=4)


class GatedStore(Store):
    """A store whose commits wait at a gate when one is set up, and may then fail."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, log_bytes=0)
        self.gate: trio.Event | None = None
        self.waiting = trio.Event()
        self.fails = False

    async def commit(self, change: Change) -> Done:
        if self.gate is not None:
            self.waiting.set()
            await self.gate.wait()
            self.gate = None
        if self.fails:
            self.fails = False
            raise apsw.FullError("no room")
        return await super().commit(change)


class Mailbox:
    """A carrier that keeps what it is told."""

    def __init__(self) -> None:
        self.given: list[tuple[int, int]] = []
        self.kicked = False

    def give(self, attempts: Sequence[Given]) -> None:
        self.given += [(one.task_id, one.attempt) for one in attempts]

    def stop(self, worker_id: str, task_id: int, attempt: int, reason: str) -> None:
        """Nothing is stopped here."""

    def kick(self, worker_id: str, session: str, code: str) -> None:
        del worker_id, session, code
        self.kicked = True


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[GatedStore, Engine, Mailbox]]:
    """An engine at work, with one worker."""
    store = GatedStore(path / "plum.db")
    try:
        outbox, mailbox = Outbox(store), Mailbox()
        engine = Engine(store, SystemClock(), outbox, Planner(Catalog(store)), Limits(), 1)
        outbox.register("w", mailbox)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            await engine.call(WORKER)
            try:
                yield store, engine, mailbox
            finally:
                if store.gate is not None:
                    store.gate.set()        # a commit is not to be interrupted
            nursery.cancel_scope.cancel()
    finally:
        store.close()


async def test_answers_and_effects_leave_after_the_commit(tmp_path: Path) -> None:
    async with running(tmp_path) as (store, engine, mailbox):
        store.gate = gate = trio.Event()
        ask = engine.post([Submit(1, "t")])
        with trio.fail_after(5):
            await store.waiting.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert not ask.done.is_set(), "the caller was told before it was true"
            assert not mailbox.given, "the worker was told before it was true"
            gate.set()
            await ask.done.wait()
            await trio.testing.wait_all_tasks_blocked()
        assert mailbox.given == [(1, 1)]
        assert store.peek(tasks.get, 1) is not None


async def test_of_a_commit_that_failed_nothing_leaves(tmp_path: Path) -> None:
    async with running(tmp_path) as (store, engine, mailbox):
        store.fails = True
        with trio.fail_after(5), pytest.raises(StorageDown):
            await engine.call(Submit(1, "t"))
        await trio.testing.wait_all_tasks_blocked()
        assert not mailbox.given
        assert mailbox.kicked, "its session must say anew what it holds"
        assert store.peek(tasks.get, 1) is None
        assert engine.core.knows(1) is None
        assert (await engine.call(Submit(2, "t"))).ok


async def test_b19_past_its_bound_the_queue_takes_nothing_but_news_from_workers(
        tmp_path: Path) -> None:
    async with running(tmp_path) as (store, engine, _):
        store.gate = gate = trio.Event()
        engine.post([Submit(1, "nobody")])
        await store.waiting.wait()
        asked = [engine.post([Cancel(9)] * PART) for _ in range(QUEUE_WEIGHT_MAX // PART)]
        with pytest.raises(Overloaded) as refusal:
            engine.post([Cancel(9)])
        assert refusal.value.status == 503
        assert refusal.value.retry_after_s == 1
        asked.append(engine.post([Cancel(9)], urgent=True))
        gate.set()
        with trio.fail_after(10):
            for ask in asked:
                await ask.done.wait()
            await engine.call(Cancel(9))
        assert {reply.code for ask in asked for reply in ask.replies} == {"wrong_state"}
