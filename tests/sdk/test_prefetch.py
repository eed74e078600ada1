"""A worker with prefetch has more in hand than it runs, and answers for all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec import Raw
from trio.testing import wait_all_tasks_blocked

from plumd.sdk import Worker
from plumd.sdk.desk import Desk
from plumd.sdk.handlers import Task
from plumd.sdk.protocol import Attempt, CancelNotice, Down, Refused, Result

CAPACITY = 2


class Table:
    """A desk whose handlers wait to be let go."""

    def __init__(self) -> None:
        self.begun: set[int] = set()       # those of one moment begin in any order
        self.gate = trio.Semaphore(0)
        self.desk = Desk({"t": Task("t", self.handle)}, CAPACITY)

    async def handle(self, payload: int) -> int:
        self.begun.add(payload)
        await self.gate.acquire()
        return payload

    async def give(self, *numbers: int) -> None:
        await self.desk.take(Down(attempts=[
            Attempt(key(number), "t", Raw(str(number).encode())) for number in numbers]))
        await wait_all_tasks_blocked()

    async def let_go(self, count: int) -> None:
        for _ in range(count):
            self.gate.release()
        await wait_all_tasks_blocked()

    def results(self) -> dict[str, Result]:
        return {result.id: result for result in self.desk.outbox.take(100, 1 << 20)[1]}


def key(number: int) -> str:
    return f"{number:015x}"


@asynccontextmanager
async def laid() -> AsyncIterator[Table]:
    table = Table()
    async with trio.open_nursery() as nursery:
        table.desk.open(nursery)
        yield table
        nursery.cancel_scope.cancel()


async def test_no_more_than_capacity_run_and_the_rest_follow_in_order() -> None:
    async with laid() as table:
        await table.give(1, 2, 3, 4, 5)
        assert table.begun == {1, 2}
        assert sorted(table.desk.holding()) == [key(number) for number in range(1, 6)]
        await table.let_go(1)
        assert table.begun == {1, 2, 3}
        await table.let_go(4)
        assert table.begun == {1, 2, 3, 4, 5}
        assert sorted(table.results()) == [key(number) for number in range(1, 6)]
        await table.give(6, 7, 8)
        assert table.begun == {1, 2, 3, 4, 5, 6, 7}


async def test_one_that_waits_is_canceled_at_once_and_never_runs() -> None:
    async with laid() as table:
        await table.give(1, 2, 3, 4)
        await table.desk.take(Down(cancel=[CancelNotice(key(3))]))
        assert table.results()[key(3)].stopped
        await table.let_go(3)
        assert table.begun == {1, 2, 4}


async def test_one_that_waits_and_is_refused_is_forgotten() -> None:
    async with laid() as table:
        await table.give(1, 2, 3)
        await table.desk.take(Down(refused=[Refused(key(3))]))
        await table.let_go(2)
        assert table.begun == {1, 2}
        assert sorted(table.results()) == [key(1), key(2)]


async def test_those_that_wait_are_given_up_at_once() -> None:
    async with laid() as table:
        await table.give(1, 2, 3, 4)
        table.desk.give_up("no word")
        lost = table.results()
        assert {key(3), key(4)} <= set(lost)
        assert all(result.error is not None and result.error.code == "lost"
                   for result in lost.values())
        assert table.begun == {1, 2}


async def test_the_end_leaves_nothing_unanswered() -> None:
    async with laid() as table:
        await table.give(1, 2, 3, 4)
        table.desk.abandon("the worker stopped")
        assert sorted(table.results()) == [key(number) for number in range(1, 5)]
        await table.let_go(2)
        assert table.begun == {1, 2}


@pytest.mark.parametrize(("capacity", "prefetch"), [(0, 4), (-1, 9), (1, -1)])
def test_what_cannot_be_is_refused(capacity: int, prefetch: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Worker(capacity=capacity, prefetch=prefetch)
