"""Concurrency keys: never more at once than the limit, never idle while one may go, and turns."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from plumd._sched import Scheduler
from plumd.clock import Instant
from plumd.model import (
    Cancel,
    CoreCommand,
    Finish,
    Join,
    Limits,
    Reply,
    Row,
    SetLimit,
    Submit,
    TaskState,
    WorkerKind,
)

MS = 10**6
NOW_MS = 1_764_072_000_000


class Floor:
    """A core, a clock, and what runs as a worker sees it."""

    def __init__(self, slots: int = 100, limits: Limits | None = None) -> None:
        self.core = Scheduler(limits or Limits(), 1)
        self.ms = NOW_MS
        self.running: dict[int, int] = {}
        self.order: list[int] = []
        self.submits: dict[int, Submit] = {}
        self.over: dict[int, str] = {}
        self.do(Join("w", WorkerKind.SESSION, "s", ("a", "b"), capacity=slots,
                     lease_ms=10**9))

    @property
    def now(self) -> Instant:
        return Instant(self.ms * MS, self.ms * MS)

    def do(self, *commands: CoreCommand) -> list[Reply]:
        replies = [self.core.apply(command, self.now) for command in commands]
        self.submits.update({one.task_id: one for one in commands if isinstance(one, Submit)})
        self.settle()
        return replies

    def settle(self) -> None:
        self.core.tick(self.now)
        _, _, ended, _, starts, stops, _, _, _ = self.core.take()
        for end in ended:
            self.running.pop(end.task_id, None)
            if end.state >= TaskState.SUCCEEDED:
                self.over[end.task_id] = end.code
        for start in starts:
            self.running[start[2]] = start[3]
            self.order.append(start[2])
        self.core.check()
        for stop in stops:
            self.core.apply(Finish(stop[1], stop[2], "w", 3), self.now)
        if stops:
            self.settle()

    def end(self, task_id: int) -> None:
        self.do(Finish(task_id, self.running[task_id], "w"))

    def key(self, task_id: int) -> str:
        return self.submits[task_id].concurrency_key

    def at_once(self, key: str) -> int:
        return sum(self.key(task_id) == key for task_id in self.running)

    def codes(self, task_id: int) -> list[str]:
        return [cause.code for cause in self.core.why(task_id) or ()]


def tasks(first: int, count: int, key: str, limit: int = 0, *, priority: int = 5,
          on_conflict: int = 0) -> list[Submit]:
    return [Submit(first + number, "a", concurrency_key=key, concurrency_limit=limit,
                   timeout_ms=0, priority=priority, on_conflict=on_conflict)
            for number in range(count)]


def test_no_more_at_once_than_the_limit() -> None:
    floor = Floor()
    floor.do(*tasks(1, 10, "k", 3), *tasks(100, 10, "", 0))
    assert (floor.at_once("k"), floor.at_once("")) == (3, 10)
    assert floor.codes(9) == ["concurrency_limit"]
    message = (floor.core.why(9) or ())[0].message
    assert "3 of the 3" in message
    for _ in range(10):
        floor.end(next(one for one in floor.running if floor.key(one) == "k"))
        assert floor.at_once("k") <= 3
    assert floor.at_once("k") == 0
    sizes = floor.core.statistics()
    assert (sizes["keys"], sizes["lanes"]) == (0, 0), "nothing of it is left"


def test_a_named_limit_goes_first_and_can_be_changed() -> None:
    floor = Floor()
    floor.do(SetLimit("k", 2), *tasks(1, 10, "k", 5))
    assert floor.at_once("k") == 2
    floor.do(SetLimit("k", 4))
    assert floor.at_once("k") == 4
    floor.do(SetLimit("k"))
    assert floor.at_once("k") == 5, "the tasks' own"


def test_a_key_has_one_limit_over_all_names() -> None:
    floor = Floor()
    floor.do(*[Submit(number, "ab"[number % 2], concurrency_key="k", concurrency_limit=3)
               for number in range(1, 11)])
    assert floor.at_once("k") == 3


def test_one_task_of_another_key_waits_for_one_turn() -> None:
    """10,000 of one key do not starve another's one, nor do two keys each other."""
    floor = Floor(slots=1)
    floor.do(*tasks(1, 10_000, "many"))
    floor.ms += 5_000
    floor.do(*tasks(20_001, 50, "few"), *tasks(30_001, 50, "some"))
    floor.order.clear()
    for _ in range(151):
        floor.ms += 1
        floor.end(next(iter(floor.running)))
    turns = [floor.key(one) for one in floor.order]
    assert "few" in turns[:3]
    for begin in range(3, 140, 3):
        assert sorted(turns[begin:begin + 3]) == ["few", "many", "some"]
    assert [one for one in floor.order if one > 30_000] == list(range(30_001, 30_051))


def test_a_higher_priority_goes_first_within_and_between_keys() -> None:
    floor = Floor(slots=1)
    floor.do(*tasks(1, 5, "x", priority=5), *tasks(11, 5, "y", priority=5),
             *tasks(21, 2, "y", priority=8))
    for _ in range(4):
        floor.end(next(iter(floor.running)))
    assert floor.order[:2] == [21, 22]


def test_a_rate_is_kept() -> None:
    floor = Floor()
    floor.do(SetLimit("k", 0, 5, 1_000), *tasks(1, 40, "k"))
    begun: list[int] = []
    assert floor.running == {}, "after a start nothing is known of what began before"
    assert floor.codes(1) == ["rate_limit"]
    until = (floor.core.why(1) or ())[0].until_ms
    while len(floor.running) < 40:
        due_ns = floor.core.next_due_ns()
        assert due_ns is not None
        floor.ms = max(floor.ms + 1, -(-due_ns // MS))
        before = len(floor.running)
        floor.settle()
        begun += [floor.ms] * (len(floor.running) - before)
    assert begun[0] == until
    assert all(later - earlier >= 199 for earlier, later in pairwise(begun))
    assert begun[-1] - begun[0] <= 40 * 200
    floor.ms += 60_000
    floor.do(*tasks(101, 20, "k"))
    assert len(floor.running) == 45, "a full bucket gives its count at once"


def test_skip_and_cancel_when_a_key_is_full() -> None:
    floor = Floor()
    floor.do(*tasks(1, 2, "k", 2))
    [reply] = floor.do(*tasks(3, 1, "k", 2, on_conflict=1))
    assert (reply.state, floor.over) == (TaskState.CANCELED, {3: "concurrency_skipped"})
    floor.do(*tasks(4, 1, "k", 2, on_conflict=2))
    assert set(floor.running) == {2, 4}, "the oldest had to go"
    floor.do(*tasks(5, 3, "k", 1))
    floor.do(*tasks(8, 1, "k", 1, on_conflict=2))
    assert set(floor.running) == {8}
    assert floor.over[7] == "concurrency_replaced"


def test_a_restart_keeps_to_the_limit() -> None:
    floor = Floor()
    again = Scheduler(Limits(), 1)
    again.load_worker(Join("w", WorkerKind.SESSION, "s", ("a",), capacity=100), floor.now)
    again.load_limit(SetLimit("rate", 0, 2, 1_000), floor.now)
    rows: list[Row] = [
        (number, 2 if number <= 2 else 1, "a", 0, "", "", 5, 0, 0, 0, 0, NOW_MS, 0, 0, 0, 1, 0, 0,
         "w" if number <= 2 else None, 0, -1, 0, "k", 3) for number in (5, 6, 7, 3, 4, 1, 2)]
    assert again.load(rows, floor.now) == 7
    again.check()
    again.apply(Join("w", WorkerKind.SESSION, "s", ("a",), capacity=100,
                     holding=((1, 1), (2, 1))), floor.now)
    again.tick(floor.now)
    again.check()
    assert again.counts_by_state() == (0, 4, 3, 0)
    again.apply(Submit(50, "a", concurrency_key="rate"), floor.now)
    again.tick(floor.now)
    assert (again.why(50) or ())[0].code == "rate_limit", "the bucket begins empty"


@pytest.mark.parametrize("seed", range(40))
def test_nothing_waits_without_need_and_no_limit_is_broken(seed: int) -> None:
    random = Random(seed)
    floor = Floor(slots=random.randrange(2, 12), limits=Limits(age_ms_per_priority=50))
    keys = {"": 0, "p": 1, "q": 2, "r": 3, "named": 2}
    floor.do(SetLimit("named", 2))
    last = 0
    for _ in range(200):
        floor.ms += random.choice((0, 1, 40))
        what = random.random()
        if what < 0.5:
            last += 1
            key = random.choice(list(keys))
            floor.do(Submit(last, random.choice("ab"), priority=random.randrange(10),
                            concurrency_key=key, timeout_ms=0, max_retries=1,
                            concurrency_limit=0 if key == "named" else keys[key]))
        elif what < 0.8 and floor.running:
            task_id = random.choice(list(floor.running))
            floor.do(Finish(task_id, floor.running[task_id], "w", random.choice((0, 1))))
        elif what < 0.9 and last:
            floor.do(Cancel(random.randrange(1, last + 1)))
        else:
            keys["named"] = random.randrange(1, 4)
            floor.do(SetLimit("named", keys["named"]))
        for key, most in keys.items():
            if most and key != "named":
                assert floor.at_once(key) <= most
        _, pending, running, _ = floor.core.counts_by_state()
        assert running == len(floor.running)
        for task_id in floor.submits:
            known = floor.core.knows(task_id)
            if known is not None and known[0] == TaskState.PENDING:
                assert floor.codes(task_id)[0] in ("concurrency_limit", "workers_busy"), \
                    floor.core.why(task_id)
        del pending
