"""A worker has as much in hand as its pace asks for, and gives back what it does not begin."""

# ruff: noqa: ARG001 - pytest-trio takes a test's clock from its arguments
from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from plumd.sdk import Worker
from plumd.sdk.pace import AHEAD_S, SAMPLE, TIMES_CAPACITY_MAX, Pace
from plumd.sdk.protocol import RETURNED, Up
from tests.sdk.test_worker import Hall, Wire, attempt, hall, serving

__all__ = ["hall"]      # a fixture
CAPACITY = 4
MOST = TIMES_CAPACITY_MAX * CAPACITY


def paced(each_s: float, capacity: int = CAPACITY) -> Pace:
    pace = Pace(capacity, adapts=True)
    pace.note(each_s * SAMPLE * capacity, SAMPLE, capacity)
    return pace


def test_quick_handlers_want_more_and_slow_ones_nothing() -> None:
    assert paced(1e-6).wanted == MOST
    assert paced(0.0).wanted == MOST
    assert paced(AHEAD_S / 10).wanted == 10
    assert paced(AHEAD_S / 1.5).wanted == 1
    assert paced(AHEAD_S * 1.01).wanted == 0
    assert paced(0.1 / 100, capacity=100).wanted == 5, "many slots come free often"


def test_few_attempts_say_nothing_yet() -> None:
    pace = Pace(CAPACITY, adapts=True)
    pace.note(1e-6, SAMPLE - 1, 1)
    assert not pace.wanted
    pace.note(1e-6, 1, 1)
    assert pace.wanted == MOST
    assert pace.asked


def test_who_fixed_it_is_not_asked() -> None:
    pace = Pace(CAPACITY, adapts=False)
    pace.note(1e-6, SAMPLE, 1)
    assert not pace.wanted
    assert not pace.asked


@given(st.lists(st.floats(1e-7, 10), min_size=1, max_size=20), st.integers(1, 100))
def test_it_is_bounded_and_follows(each_s: list[float], capacity: int) -> None:
    pace = Pace(capacity, adapts=True)
    for one_s in each_s:
        pace.note(one_s * SAMPLE, SAMPLE, 1)
        assert 0 <= pace.wanted <= TIMES_CAPACITY_MAX * capacity
        fit = min(AHEAD_S / one_s, TIMES_CAPACITY_MAX * capacity)
        assert pace.wanted == 0 if fit < 1 else fit / 2 - 1 <= pace.wanted <= 2 * fit + 1


async def hear_returned(wire: Wire) -> Up:
    while True:
        up = await wire.hear()
        if any(result.error and result.error.code == RETURNED for result in up.results):
            return up


async def test_the_daemon_hears_what_the_worker_wants(hall: Hall,
                                                      autojump_clock: MockClock) -> None:
    worker = Worker(dial=hall.dial, capacity=CAPACITY)
    gate = trio.Event()

    async def wait(payload: int) -> int:
        await gate.wait()
        return payload

    worker.add_task("quick", lambda payload: payload, inline=True)
    worker.add_task("slow", wait)
    async with serving(worker):
        wire, up = await hall.answer()
        assert up.register is not None
        assert (up.register.capacity, up.ahead) == (CAPACITY, None)
        asked, task = 0, 1000
        while not asked:        # a machine that stalls makes them look slow once or twice
            wire.give(*(attempt("quick", 0, task=task + n) for n in range(SAMPLE)))
            task += SAMPLE
            answered = 0
            while answered < SAMPLE:
                up = await wire.hear()
                answered += len(up.results)
                asked = asked or up.ahead or 0
        assert 0 < asked <= MOST
        ids = [attempt("slow", n, task=n).id for n in range(1, CAPACITY + 4)]
        wire.give(*(attempt("slow", n, task=n) for n in range(1, CAPACITY + 4)))
        up = await hear_returned(wire)
        assert up.ahead == 0
        assert [result.id for result in up.results] == ids[CAPACITY:]
        gate.set()
        done = await wire.hear_results(CAPACITY)
        assert sorted(done) == ids[:CAPACITY]
        wire.cut()
        _, up = await hall.answer()
        assert up.ahead is None, "a new line begins without"


async def test_what_was_never_asked_for_is_kept(hall: Hall, autojump_clock: MockClock) -> None:
    """A daemon that gives more than the capacity, unasked, knows what it does."""
    worker = Worker(dial=hall.dial, capacity=1)

    async def wait(payload: int) -> int:
        await trio.sleep(5)
        return payload

    worker.add_task("slow", wait)
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(*(attempt("slow", n, task=n) for n in range(1, 4)))
        done = await wire.hear_results(3)
        assert all(result.error is None for result in done.values())
