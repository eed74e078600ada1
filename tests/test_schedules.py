"""plumd.schedules: a slot makes one run, whatever happens; every policy does what it says."""

# ruff: noqa: ARG001  # the clock that a test asks for is the one that it runs by

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio
from trio.testing import MockClock

from plumd import cron
from plumd.clock import Instant
from plumd.model import Finish, Limits, id_text
from plumd.schedules import QUEUE_MAX, Backfill, Trigger
from plumd.slots import plan_of
from plumd.store import flows, schedules, tasks
from plumd.store.schedules import Fire, FireKind, FireState, Moves, Plan
from plumd.store.store import Change, Tx
from tests.scheduling import DEF_ID, HOUR_MS, MINUTE_MS, NOON_MS, WORKFLOW_ID, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An empty directory."""
    return World(tmp_path)


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Virtual time."""
    return autojump_clock


async def test_every_slot_once_with_its_task(clock: MockClock, world: World) -> None:
    async with world.life():
        number = await world.schedule(cron="* * * * *", overlap_policy="allow")
        await world.until(NOON_MS + 5 * MINUTE_MS)
        assert world.told(number) == [(minute, "started", "") for minute in range(1, 6)]
        for fire in world.fires(number):
            task = world.store.peek(tasks.get, fire.task_id)
            assert task is not None
            assert (task.def_id, task.scheduled_ms) == (DEF_ID, fire.slot_ms)
            assert fire.late_ms < 100


async def test_a_workflow_runs_with_the_schedules_payload(clock: MockClock, world: World) -> None:
    async with world.life(working=True):
        number = await world.schedule(cron="* * * * *", workflow_id=id_text(WORKFLOW_ID),
                                      payload={"a": 1})
        await world.until(NOON_MS + MINUTE_MS)
        [fire] = world.fires(number)
        run = world.store.peek(flows.get, fire.run_id)
        assert run is not None
        assert (run.workflow_id, run.payload) == (WORKFLOW_ID, b'{"a":1}')
        await world.end_one()
        [fire] = world.fires(number)
        assert fire.outcome == 4
        assert not world.engine.schedules.live


# ---------------------------------------------------------------- overlap

@pytest.mark.parametrize("what", [{}, {"workflow_id": id_text(WORKFLOW_ID)}])
async def test_overlap_skip(clock: MockClock, world: World, what: dict[str, str]) -> None:
    async with world.life(working=True):
        number = await world.schedule(cron="* * * * *", overlap_policy="skip", **what)
        await world.until(NOON_MS + 3 * MINUTE_MS)
        await world.end_one()
        await world.until(NOON_MS + 4 * MINUTE_MS)
        assert world.told(number) == [(1, "started", ""), (2, "skipped", "overlap"),
                                      (3, "skipped", "overlap"), (4, "started", "")]
        holder = world.fires(number)[0]
        assert world.fires(number)[1].detail == id_text(holder.run_id or holder.task_id)


@pytest.mark.parametrize("what", [{}, {"workflow_id": id_text(WORKFLOW_ID)}])
async def test_overlap_queue(clock: MockClock, world: World, what: dict[str, str]) -> None:
    async with world.life(working=True):
        number = await world.schedule(cron="* * * * *", overlap_policy="queue", **what)
        await world.until(NOON_MS + 3 * MINUTE_MS)
        assert world.told(number) == [(1, "started", ""), (2, "queued", "queue"),
                                      (3, "queued", "queue")]
        await world.end_one()
        assert world.told(number)[1:] == [(2, "started", ""), (3, "queued", "queue")]
    # What waits does so through a restart too.
    async with world.life(working=True):
        await world.settle()
        assert world.told(number)[2] == (3, "queued", "queue")
        assert len(world.engine.schedules.queued[number]) == 1
        await world.end_one()
        assert world.told(number)[2] == (3, "started", "")
        assert number not in world.engine.schedules.queued


@pytest.mark.parametrize("what", [{}, {"workflow_id": id_text(WORKFLOW_ID)}])
async def test_overlap_replace(clock: MockClock, world: World, what: dict[str, str]) -> None:
    async with world.life(working=True) as engine:
        number = await world.schedule(cron="* * * * *", overlap_policy="replace", **what)
        await world.until(NOON_MS + 3 * MINUTE_MS)
        # The old one was asked to end and has not ended yet, so nothing runs beside it.
        assert world.told(number) == [(1, "started", ""), (2, "skipped", "replaced"),
                                      (3, "queued", "replace")]
        [given] = world.hand.held
        known = engine.core.knows(given.task_id)
        assert known is not None
        assert known[2] > 0
        await world.end_one()
        assert world.told(number)[2] == (3, "started", "")
        assert world.fires(number)[0].outcome == 7


async def test_overlap_allow(clock: MockClock, world: World) -> None:
    async with world.life(working=True):
        number = await world.schedule(cron="* * * * *", overlap_policy="allow")
        await world.until(NOON_MS + 3 * MINUTE_MS)
        assert world.started(number) == [1, 2, 3]
        assert len(world.hand.held) == 3


async def test_a_queue_has_its_bound(clock: MockClock, world: World) -> None:
    async with world.life(working=True):
        number = await world.schedule(cron="* * * * * *", overlap_policy="queue")
        await world.until(NOON_MS + (QUEUE_MAX + 3) * 1000)
        states = [state for _, state, _ in world.told(number)]
        assert states.count("queued") == QUEUE_MAX
        assert world.told(number)[-1][1:] == ("skipped", "queue_full")


# ---------------------------------------------------------------- missed

@pytest.mark.parametrize(("policy", "window", "expected"), [
    ("skip", 86_400, 0), ("last", 86_400, 1), ("all", 86_400, 180), ("all", 3_600, 60),
    ("last", 10, 0)])
async def test_three_hours_away(clock: MockClock, world: World, policy: str, window: int,
                                expected: int) -> None:
    async with world.life():
        number = await world.schedule(cron="* * * * *", overlap_policy="allow",
                                      missed_policy=policy, missed_window_sec=window)
        await world.until(NOON_MS + 2 * MINUTE_MS)
    await world.until(NOON_MS + 182 * MINUTE_MS + 30_000)
    async with world.life():
        for _ in range(200):
            await world.settle()
        late = [one for one in world.fires(number) if one.slot_ms > NOON_MS + 2 * MINUTE_MS]
        run = [one for one in late if one.state == FireState.STARTED]
        assert len(run) == expected
        assert all(30_000 <= one.late_ms <= 180 * MINUTE_MS for one in run), "marked late_by"
        assert sum(one.count for one in late if one.state == FireState.MISSED) == 180 - expected \
            or policy == "all"
        if policy == "last" and window > 100:
            assert run[0].slot_ms == NOON_MS + 182 * MINUTE_MS
        await world.until(NOON_MS + 184 * MINUTE_MS)
        assert world.started(number)[-2:] == [183, 184], "and it goes on"


async def test_years_away_are_soon_over(clock: MockClock, world: World) -> None:
    async with world.life():
        number = await world.schedule(cron="* * * * * *", overlap_policy="allow")
        await world.until(NOON_MS + 1_000)
    world.clock.set_by(3 * 365 * 24 * HOUR_MS)
    async with world.life():
        for _ in range(20):
            await world.settle()
        assert 2 <= len(world.fires(number)) < 60


# ---------------------------------------------------------------- the clock is set

@pytest.mark.parametrize("hours", [1, -1])
async def test_an_interval_counts_elapsed_time(clock: MockClock, world: World, hours: int) -> None:
    async with world.life():
        number = await world.schedule(every_sec=600, overlap_policy="allow")
        begun = trio.current_time()
        await trio.sleep(25 * 60)
        world.clock.set_by(hours * HOUR_MS)
        await world.engine.call_all(())
        await trio.sleep(begun + 65 * 60 - trio.current_time())
        made = [one.at_ms for one in world.fires(number)]
        assert len(made) == 6, "as many as the elapsed time makes"
        slots = sorted(one.slot_ms for one in world.fires(number))
        assert len(set(slots)) == 6
    async with world.life():
        await world.settle()
        assert len(world.fires(number)) == 6
        await trio.sleep(600)
        assert len(world.fires(number)) == 7


async def test_set_ahead_there_is_no_storm_and_no_gap(clock: MockClock, world: World) -> None:
    async with world.life():
        minutely = await world.schedule(cron="* * * * *", overlap_policy="allow")
        daily = await world.schedule(cron="30 12 * * *", overlap_policy="allow")
        await world.until(NOON_MS + 10 * MINUTE_MS)
        world.clock.set_by(HOUR_MS)
        await world.engine.call_all(())
        await world.until(NOON_MS + 72 * MINUTE_MS)
        assert world.started(minutely) == [*range(1, 11), 70, 71, 72]
        assert world.started(daily) == [30], "the jump went over its slot"


async def test_set_back_no_slot_runs_twice_and_what_was_left_out_has_its_turn(
        clock: MockClock, world: World) -> None:
    async with world.life():
        minutely = await world.schedule(cron="* * * * *", overlap_policy="allow")
        await world.until(NOON_MS + 10 * MINUTE_MS)
        world.clock.set_by(HOUR_MS)                     # a wrong time server ...
        await world.engine.call_all(())
        await world.until(NOON_MS + 72 * MINUTE_MS)
        world.clock.set_by(-HOUR_MS)                    # ... is set right
        await world.engine.call_all(())
        await world.until(NOON_MS + 90 * MINUTE_MS)
        assert world.started(minutely) == list(range(1, 13))[:10] + list(range(13, 91))


# ---------------------------------------------------------------- what people ask for

async def test_trigger_runs_at_once_whatever_goes_on(clock: MockClock, world: World) -> None:
    async with world.life(working=True) as engine:
        number = await world.schedule(cron="0 0 1 1 *", enabled=False)
        replies = [await engine.call(Trigger(number, engine.new_id(), b"5")) for _ in range(3)]
        assert len({reply.value for reply in replies}) == 3
        assert [one.kind for one in world.fires(number)] == [1, 1, 1]
        assert len(world.hand.held) == 3
        assert world.hand.held[0].payload == b"5"
        assert (await engine.call(Trigger(99, 1))).code == "not_found"


@pytest.mark.parametrize("alone", [True, False])
async def test_backfill_makes_each_slot_once(clock: MockClock, world: World, alone: bool) -> None:
    async with world.life(working=True) as engine:
        number = await world.schedule(cron="* * * * *", overlap_policy="skip", enabled=False)
        slots = tuple(NOON_MS - minute * MINUTE_MS for minute in range(120, 0, -1))
        assert (await engine.call(Backfill(number, slots, alone))).value == 120
        assert (await engine.call(Backfill(number, slots, alone))).value == 0
        while len(world.started(number)) < 120:
            await world.settle()
            if alone:
                assert len(world.hand.held) == 1, "one after another"
            await world.end_one()
        assert [one.slot_ms for one in world.fires(number)] == list(slots)


async def test_a_blackout_day_is_told_and_nothing_runs(clock: MockClock, world: World) -> None:
    async with world.life():
        number = await world.schedule(cron="0 12 * * *", calendars=("days",),
                                      overlap_policy="allow")
        await world.until(NOON_MS + 50 * HOUR_MS)
        assert [(state, reason) for _, state, reason in world.told(number)] == [
            ("skipped", "blackout"), ("started", "")]


async def test_what_cannot_be_started_is_told(clock: MockClock, world: World) -> None:
    async with world.life():
        number = await world.schedule(cron="* * * * *", def_id=id_text(12345))
        await world.until(NOON_MS + 2 * MINUTE_MS)
        assert [(state, reason) for _, state, reason in world.told(number)] == [
            ("failed", "not_found")] * 2
        assert any(event[:2] == ("alert", "schedule_failed") for event in world.events())


async def test_a_full_core_makes_a_slot_late_and_loses_none(clock: MockClock, world: World) -> None:
    world.limits = Limits(tasks_max=2)
    async with world.life(working=True):
        number = await world.schedule(cron="* * * * *", overlap_policy="allow",
                                      missed_policy="all")
        await world.until(NOON_MS + 4 * MINUTE_MS)
        assert world.started(number) == [1, 2]
        count = 0
        while world.hand.held:
            await world.end_one()
            count += 1
            await trio.sleep(2)
        assert world.started(number) == [1, 2, 3, 4]
        assert count == 4, "a slot is told as started, and has no task"


async def test_a_full_core_makes_a_backfill_wait(clock: MockClock, world: World) -> None:
    world.limits = Limits(tasks_max=2)
    async with world.life(working=True) as engine:
        number = await world.schedule(cron="0 0 1 1 *")
        slots = tuple(NOON_MS - minute * MINUTE_MS for minute in range(5, 0, -1))
        await engine.call(Backfill(number, slots, alone=False))
        count = 0
        await world.settle()
        while world.hand.held:
            await world.end_one()
            count += 1
            await trio.sleep(2)
        assert (count, len(world.started(number))) == (5, 5)


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_backfill_starts_all_that_may_go(clock: MockClock, world: World, *,
                                                 enabled: bool) -> None:
    async with world.life(working=True) as engine:
        number = await world.schedule(cron="0 0 1 1 *", enabled=enabled)
        slots = tuple(NOON_MS - minute * MINUTE_MS for minute in range(180, 0, -1))
        await engine.call(Backfill(number, slots, alone=False))
        await world.settle()
        assert len(world.hand.held) == 180, "those behind the first ones waited for an end"


async def test_one_shot_start_end_and_jitter(clock: MockClock, world: World) -> None:
    async with world.life():
        once = await world.schedule(at=NOON_MS + 90_000, overlap_policy="allow")
        bounded = await world.schedule(cron="* * * * *", start_at=NOON_MS + 2 * MINUTE_MS,
                                       end_at=NOON_MS + 3 * MINUTE_MS, overlap_policy="allow")
        shaken = await world.schedule(cron="*/10 * * * *", jitter_sec=300,
                                      overlap_policy="allow")
        await world.until(NOON_MS + HOUR_MS + 5 * MINUTE_MS)
        assert world.started(once) == [1.5]
        assert world.started(bounded) == [2, 3]
        assert world.started(shaken) == [10, 20, 30, 40, 50, 60]
        row = world.store.peek(schedules.get, bounded)
        assert row is not None
        assert row.next_ms == 0
        timing = cron.Timing(row.body, 0)
        drawn = [one.at_ms - one.slot_ms for one in world.fires(shaken)]
        assert len(set(drawn)) > 1
        shaken_row = world.store.peek(schedules.get, shaken)
        assert shaken_row is not None
        timing = cron.Timing(shaken_row.body, 0)
        for fire in world.fires(shaken):
            assert 0 <= fire.at_ms - fire.slot_ms - timing.jitter_ms(shaken, fire.slot_ms) < 100


async def test_what_is_saved_without_new_times_keeps_the_slot_that_is_due(
        clock: MockClock, world: World) -> None:
    async with world.life():
        number = await world.schedule(cron="* * * * *", overlap_policy="allow")
        row = world.store.peek(schedules.get, number)
        assert row is not None
        kept = plan_of(number, 2, row.body, NOON_MS + 5 * MINUTE_MS, row)
        assert kept.next_ms == row.next_ms
        off = plan_of(number, 2, type(row.body)("x", cron="* * * * *", enabled=False),
                      NOON_MS, row)
        assert off.next_ms == 0


@pytest.mark.parametrize("together", [True, False])
async def test_who_saves_a_schedule_as_it_fires_starts_nothing_twice(
        clock: MockClock, world: World, *, together: bool) -> None:
    """together: both are one commit."""
    async with world.life():
        number = await world.schedule(every_sec=60, overlap_policy="allow", jitter_sec=5)
        seen = world.store.peek(schedules.get, number)
        assert seen is not None
        body = msgspec.structs.replace(seen.body, name="other", jitter_sec=1)
        plan = plan_of(number, 2, body, world.clock.now_ms, seen)

        def write(tx: Tx) -> None:
            schedules.update(tx, seen, body, plan, None, keeps=True)

        if together:
            next_ms = seen.next_ms + MINUTE_MS
            fire = Fire(number, seen.next_ms, 0, FireState.STARTED, seen.next_ms)
            moved = Plan(number, 1, True, seen.next_ms, next_ms, next_ms, cron.ZONES_VERSION)
            world.store.commit_now(Change(world.clock.now_ms, calls=[write],
                                          moves=Moves([fire], [moved])))
        else:
            await world.until(NOON_MS + MINUTE_MS + 6_000)
            await world.engine.write(write)
        world.engine.schedules.rearm(number, world.clock.now())
        await world.engine.call_all(())
        await world.until(NOON_MS + 3 * MINUTE_MS + 6_000)
        assert world.started(number) == [1, 2, 3]
        row = world.store.peek(schedules.get, number)
        assert row is not None
        assert 0 <= row.due_ms - row.next_ms <= 1_000


async def test_what_a_step_started_by_hand_is_not_started_by_its_alarm(
        clock: MockClock, world: World) -> None:
    async with world.life() as engine:
        number = await world.schedule(cron="* * * * *", overlap_policy="skip")
        slot_ms, room = NOON_MS + MINUTE_MS, engine.schedules
        now = Instant(world.clock.now().mono_ns + MINUTE_MS * 1_000_000, slot_ms * 1_000_000)
        assert room.backfill(Backfill(number, (slot_ms,), alone=False), now).value == 1
        assert len(list(room.wake([number], now))) == 1
        moves, _ = room.take()
        assert moves is not None
        assert [(one.slot_ms, one.kind, one.state) for one in moves.fires] == [
            (slot_ms, FireKind.BACKFILL, FireState.STARTED)]


async def test_new_rules_for_zones_move_the_next_slot(clock: MockClock, world: World) -> None:
    async with world.life():
        number = await world.schedule(cron="0 3 * * *", time_zone="Europe/Berlin",
                                      overlap_policy="allow")
        row = world.store.peek(schedules.get, number)
        assert row is not None
        world.store.db.execute("UPDATE schedule_plans SET next_ms = next_ms + 3600000, "
                               "due_ms = due_ms + 3600000, zones = 'old'")
    async with world.life():
        await world.settle()
        now = world.store.peek(schedules.get, number)
        assert now is not None
        assert now.next_ms == row.next_ms


async def test_a_schedule_that_cannot_be_read_holds_up_no_other(
        clock: MockClock, world: World) -> None:
    async with world.life():
        bad = await world.schedule(cron="* * * * *", overlap_policy="allow")
        good = await world.schedule(cron="* * * * *", overlap_policy="allow")
        world.store.db.execute("UPDATE schedules SET body = x'ff' WHERE id = ?", (bad,))
        await world.until(NOON_MS + 2 * MINUTE_MS)
        assert world.started(good) == [1, 2]
        assert any(event[:3] == ("alert", "unreadable_row", "schedule")
                   for event in world.events())


# ---------------------------------------------------------------- crashes

FAULTS = ("error_before", "error_after", "die_before", "die_after")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("policy", ["allow", "queue", "replace"])
async def test_a_fault_at_any_commit_makes_no_slot_twice_and_loses_none(
        clock: MockClock, world: World, fault: str, policy: str) -> None:
    """At each of the commits of a few minutes in turn."""
    number = 0
    for place in range(12):
        async with world.life(working=True):
            if not number:
                number = await world.schedule(cron="*/10 * * * * *", overlap_policy=policy,
                                              missed_policy="all")
            await tripped(world, place, fault)
    async with world.life(working=True):
        for _ in range(400):
            await world.settle()
            if world.hand.held:
                await world.end_one()
        await world.settle()
    check_exactly_once(world, number, policy)


async def tripped(world: World, place: int, fault: str) -> None:
    """Some time of a life, in which the commit at this place goes wrong."""
    for step in range(place + 4):
        if step == place:
            world.store.fault = fault
        await trio.sleep(7)
        if world.engine._stopping:
            return
        if world.hand.held and not world.engine.down:
            given = world.hand.held.pop(0)
            try:
                world.engine.post([Finish(given.task_id, given.attempt, "w")])
            except Exception:       # refused: the disk is down
                continue


def check_exactly_once(world: World, number: int, policy: str) -> None:
    """Every slot has its row, and every run is of one slot."""
    world.store = type(world.store)(world.path / "plum.db", world.clock, world.truth)
    try:
        fires = world.fires(number)
        slots = [one.slot_ms for one in fires if one.state != FireState.MISSED]
        assert all(later - earlier == 10_000 for earlier, later in pairwise(slots)), "a gap"
        items = [one.task_id for one in fires if one.state == FireState.STARTED]
        assert len(set(items)) == len(items) > 5
        made = {row[0]: row[1] for row in world.store.db.execute(
            "SELECT id, scheduled_ms FROM tasks")}
        assert len(made) == len(items), "a run without its slot"
        assert len(set(made.values())) == len(made), "two runs of a slot"
        if policy != "replace":
            assert all(one.state == FireState.STARTED for one in fires[:-3])
    finally:
        world.store.close()


async def test_a_million_seconds_of_random_faults(clock: MockClock, world: World) -> None:
    """B4: seeded crashes at random commits; a slot has one run, ever."""
    random = Random(4)
    numbers: list[int] = []
    for _ in range(40):
        async with world.life():
            while len(numbers) < 5:
                numbers.append(await world.schedule(
                    cron=f"*/{len(numbers) + 2} * * * *", overlap_policy="allow",
                    missed_policy="all", jitter_sec=20 * len(numbers)))
            for _ in range(random.randrange(1, 6)):
                world.store.fault = random.choice(("", *FAULTS))
                if random.random() < 0.2:
                    world.clock.set_by(random.choice((-1, 1)) * random.uniform(1_000, 3_000_000))
                await trio.sleep(random.uniform(1, 1_000))
                if world.engine._stopping:
                    break
    async with world.life():
        for _ in range(100):
            await world.settle()
        made = world.store.db.execute(
            "SELECT scheduled_ms, def_id, id FROM tasks WHERE scheduled_ms > 0").fetchall()
        rows = [one for number in numbers for one in world.fires(number)]
        started = [one for one in rows if one.state == FireState.STARTED]
        assert len(made) == len(started) > 100
        assert {row[2] for row in made} == {one.task_id for one in started}
