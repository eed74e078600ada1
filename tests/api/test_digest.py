"""The event log for screens: last states, shared looks, resume, gaps, and the figures."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
import trio.testing

from plumd.api import digest as room
from plumd.api.digest import LOOKS_KEPT, SINGLE_MAX, Channel, Digests, digest
from plumd.api.news import TOPICS
from plumd.clock import Instant
from plumd.engine import Engine
from plumd.model import Limits, TaskState, id_text
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.stats import Monitor
from plumd.store.definitions import Catalog
from plumd.store.events import Event, Record
from plumd.store.store import Store, Tx

ALL = frozenset(TOPICS)
Frame = tuple[int | None, str, dict[str, object]]


def task(number: int, state: TaskState = TaskState.RUNNING) -> Event:
    return ("task", number, "job", int(state), 1, "w", 0, 1000)


def read(chunk: bytes) -> list[Frame]:
    """(id, event, data) of every frame of a chunk."""
    frames: list[Frame] = []
    for part in chunk.decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in part.split("\n"))
        number = int(fields["id"]) if "id" in fields else None
        frames.append((number, fields["event"], json.loads(fields["data"])))
    return frames


# ---------------------------------------------------------------- pure

def test_only_the_last_state_in_the_order_of_the_last_changes() -> None:
    records = [
        Record(10, 3, [task(1), task(2), task(1, TaskState.SUCCEEDED)]),
        Record(13, 2, [("run", 7, 3, 2, 1000), ("worker", "w", "online", 1)]),
        Record(15, 3, [("worker", "w", "offline", 2), task(3), ("taskDeleted", 3, 5)]),
    ]
    frames = read(digest(records, 10, 18, ALL))
    assert [(name, data.get("taskId") or data.get("runId") or data.get("id"),
             data.get("state") or data.get("what")) for _, name, data in frames] == [
        ("task", id_text(2), "Running"), ("task", id_text(1), "Succeeded"),
        ("taskDeleted", id_text(3), "deleted"), ("run", id_text(7), "Running"),
        ("worker", "w", "offline")]
    assert [number for number, _, _ in frames] == [9, 9, 9, 9, 17], \
        "only the last frame may let a reader go on behind the look"
    assert [data["taskId"] for _, _, data in read(digest(records, 11, 13, ALL))] == [
        id_text(2), id_text(1)]
    assert read(digest(records, 10, 18, frozenset({"workers"})))[0][0] == 17
    assert digest(records, 10, 18, frozenset({"kv"})) == b""


def test_what_is_too_much_is_a_number() -> None:
    ids = range(1, SINGLE_MAX + 51)
    frames = read(digest([Record(1, len(ids), [task(i) for i in ids])], 1, len(ids) + 1, ALL))
    assert frames[0][1:] == ("more", {"topic": "tasks", "count": 50})
    assert [data["taskId"] for _, _, data in frames[1:]] == [id_text(i) for i in ids[50:]]
    just = digest([Record(1, SINGLE_MAX, [task(i) for i in ids[:SINGLE_MAX]])], 1, 999, ALL)
    assert len(read(just)) == SINGLE_MAX


def test_events_that_say_different_things_are_all_told() -> None:
    items: Sequence[Event] = [
        ("alert", "unreadable_row", "tasks", "1", 5), ("alert", "unreadable_row", "tasks", "2", 5),
        ("kv", "n", "set", "a", 1, 5), ("kv", "n", "set", "b", 1, 5), ("kv", "n", "set", "a", 2, 6),
        ("taskDef", "9", "created", "x", 5), ("taskDef", "9", "updated", "x", 5)]
    told = [(name, data.get("version"), data.get("what"))
            for _, name, data in read(digest([Record(1, len(items), items)], 1, 99, ALL))]
    assert told == [
        ("alert", None, "tasks"), ("alert", None, "tasks"), ("kv", 1, None), ("kv", 2, None),
        ("taskDef", None, "created"), ("taskDef", None, "updated")]


def test_looks_go_on_where_the_last_ended() -> None:
    channel = Channel(ALL, 1)
    for first in range(1, 30, 2):
        channel.add(first, [Record(first, 2, [task(first), task(first + 1)])], first + 2, 0)
    assert len(channel.looks) == LOOKS_KEPT
    assert [look.first for look in channel.after(27)] == [27, 29]
    assert [look.first for look in channel.after(28)] == [27, 29], "one is told twice, none missed"
    assert channel.after(31) == []
    assert channel.after(3) == [], "it was forgotten"


# ---------------------------------------------------------------- readers

class TrioClock:
    """The run's own clock."""

    def now(self) -> Instant:
        now_ns = round(trio.current_time() * 1e9)
        return Instant(now_ns, now_ns)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


class Stage:
    """An engine that runs, and readers of its digests."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        store = Store(folder / "plum.db", clock=TrioClock())
        store.threads = False
        self.engine = Engine(store, TrioClock(), Outbox(store), Planner(Catalog(store)), Limits(),
                             1)
        self.monitor = Monitor(self.engine, "n1")
        self.digests = Digests(self.engine, self.monitor)
        nursery.start_soon(self.engine.run)

    async def tell(self, *items: Event) -> None:
        """One commit with these events."""
        def write(tx: Tx) -> None:
            for topic, *facts in items:
                tx.emit(str(topic), *facts)
        await self.engine.write(write)

    def follow(self, seq: int | None = None, topics: frozenset[str] = ALL,
               pace_s: float = 0.25) -> AsyncGenerator[bytes]:
        return self.digests.follow(self.engine.journal.next_seq if seq is None else seq, topics,
                                   pace_s)


@pytest.fixture
def stage(tmp_path: Path, nursery: trio.Nursery) -> Stage:
    return Stage(tmp_path, nursery)


async def test_readers_share_the_looks(stage: Stage, nursery: trio.Nursery,
                                       clock: trio.testing.MockClock,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    assert trio.current_time() == clock.current_time()
    made = []

    def counted(records: Sequence[Record], first: int, end: int, topics: frozenset[str]) -> bytes:
        made.append((first, end))
        return digest(records, first, end, topics)

    monkeypatch.setattr(room, "digest", counted)
    got: list[list[Frame]] = [[] for _ in range(20)]

    async def reader(mine: list[Frame]) -> None:
        async with aclosing(stage.follow()) as chunks:
            async for chunk in chunks:
                if not chunk.startswith(b":"):
                    mine.extend(read(chunk))

    begun = trio.current_time()
    for mine in got:
        nursery.start_soon(reader, mine)
    await trio.testing.wait_all_tasks_blocked()
    for i in range(1, 101):
        await stage.tell(task(i % 7 + 1), task(i % 7 + 1, TaskState(i % 8)))
        await trio.sleep(0.02)
    await trio.sleep(3)
    looks = (trio.current_time() - begun) / 0.25
    assert len(made) <= looks, "a look is made once, not once a reader"
    assert len({end for _, end in made}) == len(made)
    last = {f"{i % 7 + 1:015x}": TaskState(i % 8).name.capitalize() for i in range(1, 101)}
    for mine in got:
        assert {data["taskId"]: data["state"] for _, _, data in mine} == last
        assert len(mine) < 100
        assert mine[-1][0] == stage.engine.journal.next_seq - 1
    nursery.cancel_scope.cancel()


async def test_every_cut_loses_nothing(stage: Stage, clock: trio.testing.MockClock) -> None:
    """Whichever frame was the last that came through, going on from its id tells all states."""
    start = stage.engine.journal.next_seq
    for i in range(1, 9):
        await stage.tell(task(i), task(100 + i), task(i, TaskState.SUCCEEDED))
    async with aclosing(stage.follow(start)) as chunks:
        whole = read(await anext(chunks))
    last = {data["taskId"]: data["state"] for _, _, data in whole}
    assert len(last) == 16
    for cut in range(len(whole) - 1):
        known = {data["taskId"]: data["state"] for _, _, data in whole[:cut + 1]}
        resumed = (whole[cut][0] or 0) + 1
        async with aclosing(stage.follow(resumed)) as chunks:
            for _, _, data in read(await anext(chunks)):
                known[data["taskId"]] = data["state"]
        assert known == last, cut
    assert trio.current_time() == clock.current_time()


async def test_a_slow_reader_gets_last_states_not_a_backlog(
        stage: Stage, nursery: trio.Nursery, clock: trio.testing.MockClock) -> None:
    async def quick() -> None:
        async with aclosing(stage.follow()) as chunks:
            async for _ in chunks:
                pass

    nursery.start_soon(quick)
    async with aclosing(stage.follow()) as slow:
        await stage.tell(task(1))
        first = read(await anext(slow))
        for i in range(200):
            await stage.tell(task(i % 5 + 1), task(i % 5 + 1, TaskState.SUCCEEDED))
            await trio.sleep(0.05)
        second = read(await anext(slow))
        assert [data["state"] for _, _, data in first] == ["Running"]
        assert sorted(str(data["taskId"]) for _, _, data in second) == [
            id_text(i) for i in range(1, 6)]
        assert {data["state"] for _, _, data in second} == {"Succeeded"}
    nursery.cancel_scope.cancel()
    assert trio.current_time() == clock.current_time()


async def test_resume_across_a_restart_reads_the_disk(
        stage: Stage, tmp_path: Path, nursery: trio.Nursery,
        clock: trio.testing.MockClock) -> None:
    start = stage.engine.journal.next_seq
    await stage.tell(task(1), task(2))
    await stage.tell(task(2, TaskState.SUCCEEDED))
    again = Stage(tmp_path, nursery)        # its ring is empty
    async with aclosing(again.follow(start)) as chunks:
        told = read(await anext(chunks))
    assert [(data["taskId"], data["state"]) for _, _, data in told] == [
        (id_text(1), "Running"), (id_text(2), "Succeeded")]
    assert told[-1][0] == again.engine.journal.next_seq - 1
    nursery.cancel_scope.cancel()
    assert trio.current_time() == clock.current_time()


async def test_too_far_back_is_a_gap(stage: Stage, clock: trio.testing.MockClock) -> None:
    start = stage.engine.journal.next_seq
    for _ in range(3):
        await stage.tell(*(task(i) for i in range(1, 10_001)))
    async with aclosing(stage.follow(start)) as chunks:
        assert read(await anext(chunks)) == [(stage.engine.journal.next_seq - 1, "gap", {})]
        await stage.tell(task(5, TaskState.FAILED))
        assert [data.get("state") for _, _, data in read(await anext(chunks))] == ["Failed"]
    assert trio.current_time() == clock.current_time()


async def test_the_figures_come_once_a_second(stage: Stage, nursery: trio.Nursery,
                                              clock: trio.testing.MockClock) -> None:
    assert trio.current_time() == clock.current_time()
    nursery.start_soon(stage.monitor.run)
    got: list[tuple[float, Frame]] = []

    async def reader() -> None:
        async with aclosing(stage.follow(topics=frozenset({"tasks", "stats"}))) as chunks:
            async for chunk in chunks:
                got.extend((trio.current_time(), frame) for frame in read(chunk))

    begun = trio.current_time()
    nursery.start_soon(reader)
    await trio.sleep(5.5)
    for i in range(100):
        await stage.tell(task(i + 1))
        await trio.sleep(0.05)
    stats = [(at - begun, frame) for at, frame in got if frame[1] == "stats"]
    assert 10 <= len(stats) <= 12
    assert {frame[0] for _, frame in stats} == {None}, "they have no number in the log"
    assert all(frame[2]["nodeId"] == "n1" for _, frame in stats)
    assert [round(at) for at, _ in stats][1:6] == [1, 2, 3, 4, 5]
    nursery.cancel_scope.cancel()


async def test_a_quiet_line_is_kept_alive(stage: Stage, clock: trio.testing.MockClock) -> None:
    async with aclosing(stage.follow()) as chunks:
        begun = trio.current_time()
        assert await anext(chunks) == b": still here\n\n"
        assert 15 <= trio.current_time() - begun < 16
        assert await anext(chunks) == b": still here\n\n"
        assert 30 <= trio.current_time() - begun < 32
    assert trio.current_time() == clock.current_time()
