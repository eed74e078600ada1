"""Whoever hangs up in the middle of a write leaves nothing in memory that says otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing
from trio.testing import MockClock

from plumd.api.context import Context
from plumd.api.kv import KeyValues
from plumd.api.named_limits import NamedLimits
from plumd.api.routes import Handler, Request
from plumd.api.schedules import Schedules
from plumd.api.task_defs import TaskDefs
from plumd.api.tasks import Tasks
from plumd.bodies import ScheduleBody, TaskDefBody
from plumd.expiry import Expiry
from plumd.model import Submit, id_text
from plumd.planner import Planner
from plumd.store import definitions, kv
from plumd.store.blobs import Blobs
from plumd.store.definitions import TASK_DEFS, Catalog
from tests.test_engine import running, worker


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Context]:
    async with running(path) as (engine, store):
        catalog = Catalog(store)
        yield Context(engine, catalog, Planner(catalog), Blobs(path / "blobs"))


async def hang_up(context: Context, handler: Handler, method: str, body: bytes,
                  **params: str) -> None:
    """A request whose client leaves as soon as it was handed to the engine."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await handler(Request(method, "/", params, {}, {}, body))
    await context.engine.call_all((), urgent=True)


async def test_a_definition_is_read_as_it_was_written(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    assert autojump_clock.autojump_threshold == 0
    async with opened(tmp_path) as context:
        await context.engine.write(
            lambda tx: definitions.create(tx, TASK_DEFS, 5, TaskDefBody("a")))
        handlers = TaskDefs(context, object.__new__(Tasks))
        assert context.catalog.task_def_named("a") is not None
        await hang_up(context, handlers.update, "PUT", b'{"name":"b"}', id=id_text(5))
        found = context.catalog.task_def(5)
        assert found is not None
        assert (found.version, found.body.name) == (2, "b")
        await hang_up(context, handlers.delete, "DELETE", b"", id=id_text(5))
        assert context.catalog.task_def(5) is None


async def test_a_limit_holds_as_it_was_written(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    assert autojump_clock.autojump_threshold == 0
    async with opened(tmp_path) as context:
        engine = context.engine
        await hang_up(context, NamedLimits(context).put, "PUT", b'{"concurrency":1}', key="k")
        await engine.call(worker(capacity=2))
        for number in (1, 2):
            await engine.call(Submit(number, "t", concurrency_key="k"))
        assert engine.core.counts_by_state() == (0, 1, 1, 0)


async def test_a_calendar_holds_as_it_was_written(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    assert autojump_clock.autojump_threshold == 0
    async with opened(tmp_path) as context:
        handlers = Schedules(context)
        body = ScheduleBody("s", def_id="x", calendars=("off",), time_zone="UTC")
        assert handlers.room.blackout(body, 0) == ""
        await hang_up(context, handlers.put_calendar, "PUT", b'{"days":["1970-01-01"]}', name="off")
        assert handlers.room.blackout(body, 0) == "off"


async def test_a_key_goes_when_its_time_is_over(
        tmp_path: Path, autojump_clock: MockClock) -> None:
    assert autojump_clock.autojump_threshold == 0
    async with opened(tmp_path) as context, trio.open_nursery() as nursery:
        expiry = Expiry(context.engine)
        nursery.start_soon(expiry.run)
        await trio.testing.wait_all_tasks_blocked()
        await hang_up(context, KeyValues(context, expiry).put, "PUT",
                      b'{"value":"v","ttlSec":1}', ns="n", key="k")
        assert context.store.peek(kv.next_expiry) is not None
        await trio.sleep(2)
        assert context.store.peek(kv.next_expiry) is None
        nursery.cancel_scope.cancel()
