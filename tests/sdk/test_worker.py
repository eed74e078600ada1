"""The worker against a daemon played by hand, against one that loses things, over sockets."""

# ruff: noqa: ARG001 - pytest-trio takes a test's clock from its arguments
from __future__ import annotations

import functools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
import trio
import trio_websocket
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from trio.testing import MockClock

from plumd.sdk import Canceled, Context, TaskFailed, TurnedAway, Worker
from plumd.sdk.ends import DaemonEnd
from plumd.sdk.line import Line, LineClosed, Unreachable
from plumd.sdk.protocol import (
    MESSAGE_BYTES_MIN,
    VALUE_BYTES_MAX,
    Attempt,
    CancelNotice,
    Down,
    PeerError,
    Refused,
    Registered,
    Result,
    Up,
)

ROOT = pathlib.Path(__file__).parents[2]
LEASE_S, BEAT_S = 30.0, 10.0


class Wire:
    """A line in memory; the daemon's side of it has the verbs hear, say and cut."""

    answered = False

    def __init__(self) -> None:
        self.end = DaemonEnd()
        self.up_send, self.up = trio.open_memory_channel[bytes](1000)
        self.down, self.down_receive = trio.open_memory_channel[bytes](1000)
        self.frozen = False     # open, but nothing passes any more
        self.cut_off = trio.Event()
        self.code: int | None = None

    # the worker's side

    async def send(self, message: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.cut_off.is_set():
            raise LineClosed("cut")
        if not self.frozen:
            self.up_send.send_nowait(message)

    async def receive(self) -> str | bytes:
        try:
            return (await self.down_receive.receive()).decode()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise LineClosed("cut") from None

    async def ping(self) -> None:
        if self.frozen:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    async def close(self, code: int | None = None) -> None:
        self.code = code if self.code is None else self.code
        if code is not None:
            for _ in range(5):      # the closing handshake; others may try to speak meanwhile
                await trio.lowlevel.checkpoint()
        self.cut()

    # the daemon's side

    async def hear(self) -> Up:
        """The next message, beats left out."""
        with trio.fail_after(60):
            while True:
                up = self.end.receive(await self.up.receive())
                if not up.beat or up != Up(beat=True):
                    return up

    async def hear_results(self, count: int) -> dict[str, Result]:
        """So many results, acknowledged as they come."""
        results: dict[str, Result] = {}
        while len(results) < count:
            up = await self.hear()
            results |= {result.id: result for result in up.results}
            if up.seq:
                self.say(Down(ack=up.seq))
        return results

    def say(self, down: Down) -> None:
        """Send, if the line is still there."""
        if not self.cut_off.is_set() and not self.frozen:
            self.down.send_nowait(self.end.send(down))

    def give(self, *attempts: Attempt, cancel: list[CancelNotice] | None = None) -> None:
        self.say(Down(attempts=list(attempts), cancel=cancel or []))

    def cut(self) -> None:
        """The line is gone. What the worker sent before can still be heard."""
        self.cut_off.set()
        self.down.close()
        self.down_receive.close()
        self.up_send.close()


class Hall:
    """Where lines come in."""

    def __init__(self) -> None:
        self.lines_send, self.lines = trio.open_memory_channel[Wire](1000)
        self.dialed_s: list[float] = []
        self.trouble: Exception | None = None

    async def dial(self, _nursery: trio.Nursery) -> Line:
        self.dialed_s.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.trouble is not None:
            raise self.trouble
        wire = Wire()
        self.lines_send.send_nowait(wire)
        return wire

    async def answer(self, *, first: Down | None = None) -> tuple[Wire, Up]:
        """The next line, its worker registered, and the message that did it."""
        with trio.fail_after(60):
            wire = await self.lines.receive()
        up = await wire.hear()
        assert up.register is not None
        wire.say(first or Down(registered=Registered(LEASE_S, BEAT_S)))
        return wire, up


def attempt(name: str, payload: object = None, number: int = 1, task: int = 1) -> Attempt:
    identity = f"{task:015x}" + (f".{number}" if number > 1 else "")
    return Attempt(identity, name, Raw(msgspec.json.encode(payload)), 300.0, number)


def batch(name: str, count: int) -> list[Attempt]:
    return [attempt(name, index, task=index + 1) for index in range(count)]


def value(result: Result) -> object:
    assert result.error is None, result.error
    return json.loads(bytes(result.result) or b"null")


def code(result: Result) -> str:
    assert result.error is not None
    return result.error.code


@asynccontextmanager
async def serving(worker: Worker) -> AsyncIterator[trio.CancelScope]:
    """The worker runs; its scope. It is stopped at the end, if it has not ended by itself."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.serve)
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()


@pytest.fixture
def hall() -> Hall:
    return Hall()


@pytest.fixture
def worker(hall: Hall) -> Worker:
    return Worker(dial=hall.dial, worker_id="w1", capacity=8, labels={"gpu": "no"},
                  node_id="n1", app_name="app", app_version="1.2")


# --- handlers ------------------------------------------------------------------------------------

async def test_registers_with_what_it_is_and_can(hall: Hall, worker: Worker) -> None:
    worker.task("a")(lambda payload: payload)
    worker.task("b", inline=True)(lambda payload: payload)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nursery.start, worker.serve)     # it starts when it is registered
        _, up = await hall.answer()
        register = up.register
        assert register is not None
        assert (register.tasks, register.capacity) == (["a", "b"], 8)
        assert register.labels == {"gpu": "no"}
        assert (register.node_id, register.app_name, register.app_version) == ("n1", "app", "1.2")
        assert up.holding == []
        nursery.cancel_scope.cancel()


class Job(msgspec.Struct):
    width: int
    height: int = 1


async def test_every_kind_of_handler_answers(hall: Hall, worker: Worker) -> None:
    here = threading.get_ident()

    @worker.task("inline", inline=True)
    def inline(payload: dict[str, int]) -> list[object]:
        return [payload["n"] + 1, threading.get_ident() == here]

    @worker.task("thread")
    def thread(_payload: dict[str, int], context: Context) -> list[object]:
        return [context.task_id, context.attempt, threading.get_ident() == here]

    @worker.task("async", type=Job)
    async def coroutine(payload: Job) -> Job:
        await trio.lowlevel.checkpoint()
        return Job(payload.height, payload.width)

    @worker.task("nothing", inline=True)
    def nothing(payload: object, context: Context) -> None:
        assert payload is None
        assert not context.canceled
        context.progress(0.5)

    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("inline", {"n": 1}, task=1), attempt("thread", {}, 3, task=2),
                  attempt("async", {"width": 7}, task=3), Attempt("4", "nothing"))
        results = await wire.hear_results(4)
    assert value(results[f"{1:015x}"]) == [2, True]
    assert value(results[f"{2:015x}.3"]) == [f"{2:015x}", 3, False]
    assert value(results[f"{3:015x}"]) == {"width": 1, "height": 7}
    assert results["4"] == Result("4")


class Strange(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def fail(payload: str) -> object:
    nested: list[object] = []
    for _ in range(300):
        nested = [nested]
    errors = {"advice": TaskFailed("no disk", code="no_disk", retry=False, retry_after_s=2.5,
                                   detail={"free": 0}),
              "bad detail": TaskFailed("x", detail=object()),
              "plain": KeyError("k"), "strange": Strange(), "canceled": Canceled(),
              "file": FileNotFoundError("caf\udce9")}
    if payload in errors:
        raise errors[payload]
    return {"object": object(), "large": "x" * VALUE_BYTES_MAX, "deep": nested,
            "surrogate": "\udce9"}[payload]


async def test_failures_say_what_is_known(hall: Hall, worker: Worker,
                                          caplog: pytest.LogCaptureFixture) -> None:
    worker.task("fail", inline=True)(fail)
    worker.task("typed", type=Job)(lambda payload: payload)
    kinds = ["advice", "bad detail", "plain", "strange", "canceled", "file", "object", "large",
             "deep", "surrogate"]
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(*[Attempt(f"{index:x}", "fail", Raw(msgspec.json.encode(kind)))
                    for index, kind in enumerate(kinds)],
                  attempt("typed", {"width": "wide"}, task=101), attempt("unknown", task=102))
        results = await wire.hear_results(len(kinds) + 2)
    said = {kind: results[f"{index:x}"] for index, kind in enumerate(kinds)}
    advice = said["advice"]
    assert advice.error is not None
    assert (advice.error.code, advice.error.message) == ("no_disk", "no disk")
    assert bytes(advice.error.detail) == b'{"free":0}'
    assert (advice.retry, advice.retry_after_sec) == (False, 2.5)
    assert [code(said[kind]) for kind in kinds[1:]] == [
        "task_failed", *["handler_error"] * 4, "invalid_result", "result_too_large",
        "invalid_result", "invalid_result"]
    assert said["plain"].error is not None
    assert said["plain"].error.message == "KeyError: 'k'"
    assert said["plain"].retry
    assert not said["large"].retry
    typed = results[f"{101:015x}"]
    assert (code(typed), typed.retry) == ("invalid_payload", False)
    assert code(results[f"{102:015x}"]) == "unknown_task"
    assert "KeyError" in caplog.text, "the traceback is in the worker's own log"


def test_wrong_handlers_and_settings_are_refused_at_once() -> None:
    worker = Worker(worker_id="w")
    worker.task("a")(lambda payload: payload)

    async def coroutine(payload: object) -> None:
        pass

    def register_all() -> list[Callable[[], object]]:
        return [lambda: worker.task("a")(lambda payload: payload),
                lambda: worker.task("b", inline=True)(coroutine),
                lambda: worker.task("")(lambda payload: payload),
                lambda: worker.task("c")(lambda: None),  # type: ignore[type-var]
                lambda: Worker(capacity=0), lambda: Worker(beat_s=0), lambda: Worker("ftp://x"),
                lambda: Worker(labels={"gpu": 1})]  # type: ignore[dict-item]
    for wrong in register_all():
        with pytest.raises(ValueError, match=r".+"):
            wrong()


async def test_doubled_attempts_start_once(hall: Hall, worker: Worker) -> None:
    calls: Counter[object] = Counter()
    go = trio.Event()

    @worker.task("inline", inline=True)
    def inline(payload: object) -> None:
        calls[payload] += 1

    @worker.task("async")
    async def coroutine(payload: object) -> None:
        calls[payload] += 1
        await go.wait()

    async with serving(worker):
        wire, _ = await hall.answer()
        twice = [attempt("inline", "i", task=1), attempt("async", "a", task=2)] * 2
        wire.give(*twice)
        up = await wire.hear()
        wire.give(*twice)       # running, and finished but not acknowledged
        go.set()
        assert [result.id for result in up.results] == [f"{1:015x}"]
        assert [*await wire.hear_results(1)] == [f"{2:015x}"]
        wire.give(*twice)
        await trio.testing.wait_all_tasks_blocked()
    assert calls == {"i": 1, "a": 1}


async def test_results_of_a_long_batch_come_before_its_end(hall: Hall, worker: Worker) -> None:
    heard: list[Up] = []
    heard_early: list[bool] = []

    @worker.task("slow", inline=True)
    def slow(payload: int) -> None:
        deadline = trio.current_time() + 0.001
        while trio.current_time() < deadline:
            pass
        if payload == 29:
            heard_early.append(bool(heard))

    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(*batch("slow", 30))
        while sum(len(up.results) for up in heard) < 30:
            heard.append(await wire.hear())
    assert heard_early == [True]


async def test_small_results_share_messages(hall: Hall) -> None:
    worker = Worker(dial=hall.dial, worker_id="w1", capacity=100)

    @worker.task("async")
    async def coroutine(payload: object) -> object:
        await trio.lowlevel.checkpoint()
        return payload

    worker.task("inline", inline=True)(lambda payload: payload)
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(*batch("async", 100))
        messages = 0
        results = 0
        while results < 100:
            results += len((await wire.hear()).results)
            messages += 1
    assert messages <= 5


async def test_results_respect_the_daemons_bounds(hall: Hall, worker: Worker) -> None:
    worker.task("inline", inline=True)(lambda payload: "x" * payload)
    async with serving(worker):
        wire, _ = await hall.answer(
            first=Down(registered=Registered(30.0, 10.0, 3, MESSAGE_BYTES_MIN)))
        sizes = [1] * 5 + [8_000_000] * 3 + [VALUE_BYTES_MAX - 2]
        wire.give(*[attempt("inline", size, task=task) for task, size in enumerate(sizes)])
        counts: list[int] = []
        while sum(counts) < len(sizes):
            data = await wire.up.receive()
            assert len(data) <= MESSAGE_BYTES_MIN
            counts.append(len(wire.end.receive(data).results))
    assert max(counts) <= 3


# --- stopping attempts ---------------------------------------------------------------------------

async def test_cancel_ends_an_async_handler(hall: Hall, worker: Worker) -> None:
    seen = []

    @worker.task("async")
    async def coroutine(_payload: object, context: Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            seen.append((context.canceled, context.reason))

    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("async"))
        await trio.testing.wait_all_tasks_blocked()
        wire.give(cancel=[CancelNotice(f"{1:015x}", "timeout")])
        results = await wire.hear_results(1)
    assert results == {f"{1:015x}": Result(f"{1:015x}", stopped=True)}
    assert seen == [(True, "timeout")]


async def test_cancel_reaches_a_thread(hall: Hall, worker: Worker) -> None:
    started = [threading.Event(), threading.Event()]
    release = threading.Event()

    @worker.task("asks")
    def asks(payload: int, context: Context) -> str:
        started[payload].set()
        release.wait(10)
        context.check_canceled()
        return "not reached"

    @worker.task("returns")
    def returns(payload: int, context: Context) -> str:
        started[payload].set()
        release.wait(10)
        return "so far" if context.canceled else "all"

    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("asks", 0, task=1), attempt("returns", 1, task=2))
        for event in started:
            await trio.to_thread.run_sync(event.wait, 10)
        wire.give(cancel=[CancelNotice(f"{1:015x}"), CancelNotice(f"{2:015x}")])
        await trio.testing.wait_all_tasks_blocked()
        release.set()
        results = await wire.hear_results(2)
    assert results[f"{1:015x}"] == Result(f"{1:015x}", stopped=True)
    assert results[f"{2:015x}"].stopped
    assert value(results[f"{2:015x}"]) == "so far"


async def test_cancel_of_what_is_not_there(hall: Hall, worker: Worker) -> None:
    calls: list[object] = []
    worker.task("inline", inline=True)(calls.append)
    async with serving(worker):
        wire, _ = await hall.answer()
        # Given and taken back in one message: never started. Unknown: confirmed as not running.
        wire.give(attempt("inline", "never"), cancel=[CancelNotice(f"{1:015x}"), CancelNotice("9")])
        results = await wire.hear_results(2)
        assert results == {key: Result(key, stopped=True) for key in (f"{1:015x}", "9")}
        # Finished, but not yet acknowledged: its result stands.
        wire.give(attempt("inline", "done", task=2))
        assert (await wire.hear()).results == [Result(f"{2:015x}")]
        wire.give(cancel=[CancelNotice(f"{2:015x}")])
        await trio.testing.wait_all_tasks_blocked()
        assert wire.up.statistics().current_buffer_used == 0
    assert calls == ["done"]


async def test_refused_work_ends_and_is_forgotten(hall: Hall, worker: Worker) -> None:
    ended: list[str] = []

    @worker.task("async")
    async def coroutine(_payload: object, context: Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(context.reason)

    worker.task("inline", inline=True)(lambda payload: payload)
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("async", task=1), attempt("inline", task=2))
        assert len((await wire.hear()).results) == 1
        wire.say(Down(refused=[Refused(f"{1:015x}", attempt=2), Refused(f"{2:015x}", attempt=2)]))
        await trio.testing.wait_all_tasks_blocked()
        assert ended == ["stale"]
        wire.cut()
        _, up = await hall.answer()
        assert (up.holding, up.results) == ([], [])


# --- lines that fail -----------------------------------------------------------------------------

async def test_results_wait_for_the_next_line(hall: Hall, worker: Worker,
                                              autojump_clock: MockClock) -> None:
    go = trio.Event()

    @worker.task("async")
    async def coroutine(payload: object) -> object:
        await go.wait()
        return payload

    worker.task("inline", inline=True)(lambda payload: payload)
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(*batch("inline", 3), attempt("async", "a", task=9))
        assert len((await wire.hear()).results) == 3
        wire.cut()                                      # before they were acknowledged
        cut_s = trio.current_time()
        wire, up = await hall.answer()
        assert trio.current_time() - cut_s < 0.5
        assert up.holding is not None
        assert sorted(up.holding) == [f"{task:015x}" for task in (1, 2, 3, 9)]
        assert [result.id for result in up.results] == [f"{task:015x}" for task in (1, 2, 3)]
        wire.say(Down(ack=up.seq))
        go.set()
        assert value((await wire.hear_results(1))[f"{9:015x}"]) == "a"
        await trio.testing.wait_all_tasks_blocked()
        wire.cut()
        _, up = await hall.answer()
        assert (up.holding, up.results) == ([], [])


async def test_a_lost_lease_ends_the_work(hall: Hall, worker: Worker,
                                          autojump_clock: MockClock) -> None:
    ended_s: list[float] = []

    @worker.task("async")
    async def coroutine(_payload: object, context: Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            assert context.reason == "lost"
            ended_s.append(trio.current_time())

    async with serving(worker):
        wire, _ = await hall.answer()
        for round_ in (1, 2):
            heard_s = trio.current_time()
            wire.give(attempt("async", task=round_))
            await trio.testing.wait_all_tasks_blocked()
            hall.trouble = Unreachable("no route")
            wire.cut()
            await trio.sleep(LEASE_S + 5)
            assert ended_s.pop() == pytest.approx(heard_s + LEASE_S, abs=0.1)
            hall.trouble = None
            wire, up = await hall.answer()
            assert up.holding == [f"{round_:015x}"], "else the attempt would be sent again"
            assert [code(result) for result in up.results] == ["lost"]
            wire.say(Down(ack=up.seq, refused=[Refused(f"{round_:015x}", attempt=2)]))
            await trio.testing.wait_all_tasks_blocked()
        wire.cut()
        _, up = await hall.answer()
        assert up.holding == []
        assert worker.given_up == 2


@pytest.mark.parametrize("answered", [False, True])
async def test_a_lease_counts_from_what_the_daemon_has_heard(
        hall: Hall, worker: Worker, autojump_clock: MockClock, answered: bool) -> None:
    """What it says of itself proves nothing; an acknowledgement proves that it heard the batch."""
    ended_s: list[float] = []

    @worker.task("async")
    async def coroutine(_payload: object) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended_s.append(trio.current_time())

    worker.task("now", inline=True)(lambda payload: payload)
    async with serving(worker):
        wire, _ = await hall.answer()
        sure_s = trio.current_time()
        wire.give(attempt("async"))
        await trio.sleep(BEAT_S / 2)
        wire.give(attempt("now", task=2))
        up = await wire.hear()
        said_s = trio.current_time()
        await trio.sleep(BEAT_S / 4)
        wire.say(Down(ack=up.seq) if answered else Down(drain=True))
        await trio.testing.wait_all_tasks_blocked()
        hall.trouble = Unreachable("no route")
        wire.cut()
        await trio.sleep(LEASE_S + BEAT_S)
        expected_s = (said_s if answered else sure_s) + LEASE_S
        assert ended_s == [pytest.approx(expected_s, abs=0.1)]


async def test_an_old_word_does_not_renew_a_lost_lease(hall: Hall, worker: Worker,
                                                       autojump_clock: MockClock) -> None:
    @worker.task("async")
    async def coroutine(_payload: object) -> None:
        await trio.sleep_forever()

    async with serving(worker):
        wire, _ = await hall.answer()
        for task in range(8):       # who wakes up first, after the pause, is a matter of chance
            wire.give(attempt("async", task=task))
            await trio.testing.wait_all_tasks_blocked()
            wire.say(Down(drain=True))      # waits in the buffer while the process is paused
            autojump_clock.jump(LEASE_S + 1)
            assert [code(result) for result in (await wire.hear_results(1)).values()] == ["lost"]


async def test_it_is_heard_at_every_beat(hall: Hall, worker: Worker,
                                         autojump_clock: MockClock) -> None:
    async with serving(worker):
        wire, _ = await hall.answer()
        start_s = trio.current_time()
        for beat in range(1, 6):
            assert wire.end.receive(await wire.up.receive()) == Up(beat=True)
            assert trio.current_time() == pytest.approx(start_s + beat * BEAT_S, abs=0.1)
        worker.drain()                      # any other message counts as one
        assert (await wire.hear()).drain


async def test_a_silent_line_is_replaced(hall: Hall, worker: Worker,
                                         autojump_clock: MockClock) -> None:
    async with serving(worker):
        wire, _ = await hall.answer()
        await trio.sleep(100)
        assert len(hall.dialed_s) == 1, "a line that answers pings is good"
        wire.frozen = True
        frozen_s = trio.current_time()
        await hall.answer()
        assert trio.current_time() - frozen_s < LEASE_S - BEAT_S, "in time to keep the lease"


async def test_a_line_that_never_registers_is_replaced(hall: Hall, worker: Worker,
                                                       autojump_clock: MockClock) -> None:
    async with serving(worker):
        await hall.lines.receive()
        await hall.answer()
        assert trio.current_time() < 12


async def test_dialing_is_quick_where_nobody_answers_and_patient_else(
        hall: Hall, worker: Worker, autojump_clock: MockClock) -> None:
    async with serving(worker):
        hall.trouble = Unreachable("refused")
        await trio.sleep(300)
        pauses = [after - before for before, after in zip(hall.dialed_s, hall.dialed_s[1:],
                                                          strict=False)]
        assert pauses[0] < 0.5
        assert max(pauses) <= 1.5, "back within two seconds, however long it took"
        assert len(pauses) < 700
        hall.trouble = trio_websocket.ConnectionRejected(503, (), None)
        tries = len(hall.dialed_s)
        await trio.sleep(3000)
        pauses = [after - before for before, after in zip(hall.dialed_s[tries:],
                                                          hall.dialed_s[tries + 1:], strict=False)]
        assert 5 < max(pauses) <= 15
        hall.trouble = None
        await hall.answer()


async def test_a_worker_that_is_turned_away_ends(hall: Hall, worker: Worker) -> None:
    ended: list[bool] = []

    @worker.task("async")
    async def coroutine(_payload: object) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    with pytest.RaisesGroup(TurnedAway):
        async with serving(worker):
            wire, _ = await hall.answer()
            wire.give(attempt("async"))
            await trio.testing.wait_all_tasks_blocked()
            wire.say(Down(error=PeerError("session_replaced", "another process has this id")))
            worker.drain()      # it would like to say something, but nobody listens any more
            await trio.sleep_forever()
    assert ended == [True]
    with pytest.raises(RuntimeError):
        await worker.serve()
    with pytest.raises(RuntimeError):
        worker.task("late")


async def test_a_daemon_that_breaks_the_protocol_is_dialed_again(hall: Hall, worker: Worker,
                                                                 autojump_clock: MockClock) -> None:
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.down.send_nowait(b'{"ack":99}')
        await hall.answer()
        assert wire.code == 1002


# --- progress ------------------------------------------------------------------------------------

async def test_progress_is_told_in_time_and_not_too_often(hall: Hall, worker: Worker,
                                                          autojump_clock: MockClock) -> None:
    @worker.task("async")
    async def coroutine(_payload: object, context: Context) -> None:
        for step in range(1000):
            context.progress(step / 999, f"step {step}")
            await trio.sleep(0.001)
        await trio.sleep(1)
        context.progress(7)

    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("async"))
        told = []
        while not (up := await wire.hear()).results:
            told += up.progress
    assert told[0].ratio == 0
    assert any(progress.text == "step 999" for progress in told), "the last word is not lost"
    assert told[-1].ratio in (1, 999 / 999)
    assert len(told) < 10


async def test_progress_from_a_thread(hall: Hall, worker: Worker) -> None:
    release = threading.Event()

    @worker.task("thread")
    def thread(_payload: object, context: Context) -> None:
        context.progress(0.25, "caf\udce9")
        release.wait(10)

    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("thread"))
        told = (await wire.hear()).progress
        release.set()
        await wire.hear_results(1)
    assert [(progress.ratio, progress.text) for progress in told] == [(0.25, "caf?")]


# --- the end -------------------------------------------------------------------------------------

async def test_drain_finishes_hands_in_and_says_goodbye(hall: Hall, worker: Worker,
                                                        autojump_clock: MockClock) -> None:
    @worker.task("async")
    async def coroutine(_payload: object) -> str:
        await trio.sleep(12)
        return "done"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.serve)
        wire, _ = await hall.answer()
        wire.give(attempt("async", task=1))
        await trio.testing.wait_all_tasks_blocked()
        worker.drain()
        assert (await wire.hear()).drain
        wire.give(attempt("async", task=2))             # was under way: it counts
        wire.cut()                                      # and the line may be lost meanwhile
        wire, up = await hall.answer()
        assert up.drain
        up = await wire.hear()
        while not up.seq or len(up.results) < 2:
            wire.say(Down(ack=up.seq))
            up = await wire.hear()
        assert [value(result) for result in up.results] == ["done", "done"]
        await trio.sleep(3)
        assert wire.up.statistics().current_buffer_used == 0, "no goodbye before the last ack"
        wire.say(Down(ack=up.seq))
        assert (await wire.hear()).bye
        wire.cut()
    assert worker.given_up == 0


async def test_drain_is_bounded(hall: Hall, autojump_clock: MockClock) -> None:
    worker = Worker(dial=hall.dial, drain_timeout_s=7)

    @worker.task("async")
    async def coroutine(_payload: object) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.serve)
        wire, _ = await hall.answer()
        wire.give(attempt("async"))
        await trio.testing.wait_all_tasks_blocked()
        start_s = trio.current_time()
        worker.drain()
        assert [code(result) for result in (await wire.hear_results(1)).values()] == ["lost"]
        assert trio.current_time() - start_s == pytest.approx(7, abs=0.1)
        assert (await wire.hear()).bye
        # This daemon does not close the line; the worker leaves all the same.
    assert trio.current_time() - start_s < 9
    assert worker.given_up == 1


async def test_drain_without_a_daemon_ends_too(hall: Hall, worker: Worker,
                                               autojump_clock: MockClock) -> None:
    hall.trouble = Unreachable("down")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.serve)
        await trio.sleep(10)
        worker.drain()
    assert trio.current_time() < 12


async def test_a_cancelled_worker_says_what_it_leaves(hall: Hall, worker: Worker) -> None:
    @worker.task("async")
    async def coroutine(_payload: object) -> None:
        await trio.sleep_forever()

    async with serving(worker) as scope:
        wire, _ = await hall.answer()
        wire.give(attempt("async"))
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    up = await wire.hear()
    assert up.bye
    assert [code(result) for result in up.results] == ["lost"]


# --- a daemon and lines that lose things ---------------------------------------------------------

class Lossy:
    """A daemon that doubles attempts, delays acks and cuts lines; what it has heard is durable."""

    def __init__(self, hall: Hall, dice: random.Random, names: list[str]) -> None:
        self.hall = hall
        self.dice = dice
        self.todo = {f"{task:x}" + (".2" if task % 5 == 0 else ""): name
                     for task, name in enumerate(names)}
        self.results: dict[str, Result] = {}
        self.faults = 12

    def fault(self) -> bool:
        """Whether something goes wrong now; in the end nothing does."""
        happens = self.faults > 0 and self.dice.random() < 0.3
        self.faults -= happens
        return happens

    async def run(self) -> None:
        """Until every task has its result and the worker knows it."""
        claimed: set[str] = set()
        while True:
            wire = await self.hall.lines.receive()
            try:
                if await self.talk(wire, claimed):
                    return
            except trio.EndOfChannel:
                pass
            wire.cut()

    async def talk(self, wire: Wire, claimed: set[str]) -> bool:
        acks: list[int] = []
        while True:
            if self.fault():
                wire.cut()                              # what is under way may still arrive
            up = wire.end.receive(await wire.up.receive())
            if self.fault():
                return False                            # heard by nobody
            for result in up.results:
                self.results.setdefault(result.id, result)
            resend: set[str] = set()
            if up.register is not None:
                assert up.holding is not None
                assert set(up.holding) <= claimed, "it holds what it was never given"
                resend = claimed - set(up.holding) - set(self.results)
            free = [key for key in self.todo if key not in claimed][:self.dice.randint(0, 6)]
            claimed |= set(free)
            given_out = [*resend, *free] + [key for key in claimed - set(self.results)
                                            if self.fault()]
            self.dice.shuffle(given_out)
            if up.seq:
                acks.append(up.seq)
            late = self.fault() and up.register is None
            down = Down(
                registered=None if up.register is None else Registered(LEASE_S, BEAT_S),
                attempts=[Attempt(key, self.todo[key], Raw(b"0")) for key in given_out],
                ack=0 if late or not acks else acks.pop())
            acks = acks if late else []
            if self.fault():
                return False                            # claimed, but never said
            wire.say(down)
            if not acks and len(self.results) == len(self.todo):
                return True


async def once_each(seed: int, names: list[str]) -> None:
    dice = random.Random(seed)
    random.seed(seed)       # the worker's backoff
    hall = Hall()
    worker = Worker(dial=hall.dial, beat_s=1.0)
    starts: Counter[str] = Counter()

    @worker.task("inline", inline=True)
    def inline(_payload: object, context: Context) -> str:
        starts[context.id] += 1
        return context.id

    @worker.task("async")
    async def coroutine(_payload: object, context: Context) -> str:
        starts[context.id] += 1
        await trio.sleep(dice.random())
        return context.id

    daemon = Lossy(hall, dice, names)
    with trio.fail_after(600):
        async with serving(worker):
            await daemon.run()
            await trio.testing.wait_all_tasks_blocked()
    assert starts == dict.fromkeys(daemon.todo, 1)
    assert {key: value(result) for key, result in daemon.results.items()} == \
        {key: key for key in daemon.todo}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(["inline", "async"]), min_size=1,
                                       max_size=25))
def test_each_attempt_starts_once_and_each_result_arrives(seed: int, names: list[str]) -> None:
    trio.run(once_each, seed, names, clock=MockClock(autojump_threshold=0))


# --- real sockets and processes ------------------------------------------------------------------

class Gate:
    """A WebSocket server on a free port; each accepted line goes to the test as (line, end)."""

    def __init__(self) -> None:
        self.requests_send, self.requests = trio.open_memory_channel[
            trio_websocket.WebSocketRequest](10)
        self.closing = trio.Event()
        self.port = 0

    async def handle(self, request: trio_websocket.WebSocketRequest) -> None:
        await self.requests_send.send(request)
        await self.closing.wait()

    async def register(self) -> tuple[trio_websocket.WebSocketConnection, DaemonEnd]:
        """Accept the next line and its worker."""
        connection = await (await self.requests.receive()).accept()
        end = DaemonEnd()
        end.receive(await connection.get_message())
        await connection.send_message(
            end.send(Down(registered=Registered(LEASE_S, BEAT_S))).decode())
        return connection, end


@asynccontextmanager
async def open_gate(port: int = 0) -> AsyncIterator[Gate]:
    gate = Gate()
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        server = await nursery.start(functools.partial(
            trio_websocket.serve_websocket, gate.handle, "127.0.0.1", port, None,
            message_queue_size=4, max_message_size=1 << 25))
        gate.port = server.port
        yield gate
        nursery.cancel_scope.cancel()


async def test_over_a_websocket_and_over_a_restart() -> None:
    async with open_gate() as gate:
        worker = Worker(f"http://127.0.0.1:{gate.port}/base/", worker_id="a/b", token="secret")
        worker.task("echo", inline=True)(lambda payload: payload)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.serve)
            request = await gate.requests.receive()
            assert request.path == "/base/v1/embedded-workers/a%2Fb/stream"
            assert (b"authorization", b"Bearer secret") in request.headers
            await request.reject(503)
            connection, end = await gate.register()
            large = "ü" * 3_000_000
            for task, payload in enumerate((1, large)):
                await connection.send_message(
                    end.send(Down(attempts=[attempt("echo", payload, task=task)])).decode())
                up = end.receive(await connection.get_message())
                assert value(up.results[0]) == payload
                await connection.send_message(end.send(Down(ack=up.seq)).decode())
            await connection.aclose()
            connection, end = await gate.register()
            worker.drain()
            while not end.receive(await connection.get_message()).bye:
                pass
            await connection.aclose()


async def test_a_daemon_that_hangs_up_in_the_handshake_is_dialed_again() -> None:
    listener, = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    worker = Worker(f"http://127.0.0.1:{port}")
    with trio.fail_after(5):
        async with serving(worker):
            for hang_up in (trio.SocketStream.aclose, trio.aclose_forcefully):
                stream = await listener.accept()
                await stream.receive_some()
                await hang_up(stream)
            stream = await listener.accept()
            async with stream:
                await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
            await (await listener.accept()).aclose()
            await listener.aclose()


@pytest.mark.parametrize("signals", [1, 2])
async def test_sigterm_drains_the_example_and_a_second_stops_it(signals: int) -> None:
    async with open_gate() as gate:
        process = subprocess.Popen(  # noqa: ASYNC220 - starting it takes no time worth a thread
            [sys.executable, str(ROOT / "examples/worker.py"), f"http://127.0.0.1:{gate.port}"],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
        try:
            with trio.fail_after(20):
                connection, end = await gate.register()
                await connection.send_message(end.send(Down(attempts=[
                    attempt("word-count", {"text": "one two"}, task=1),
                    attempt("add", [1, 2], task=2),
                    attempt("sleep", {"seconds": 0.6 if signals == 1 else 600}, task=3),
                    attempt("crunch", 20 if signals == 1 else 60_000, task=4)])).decode())
                results: dict[str, Result] = {}
                signalled = drain = bye = False
                while not bye:
                    up = end.receive(await connection.get_message())
                    results |= {result.id: result for result in up.results}
                    if up.seq and not up.bye:
                        await connection.send_message(end.send(Down(ack=up.seq)).decode())
                    if up.progress and len(results) == 2 and not signalled:
                        signalled = True
                        process.send_signal(signal.SIGTERM)
                    if up.drain and signals == 2:
                        process.send_signal(signal.SIGINT)
                    drain, bye = drain or up.drain, up.bye
                await connection.aclose()
                status = await trio.to_thread.run_sync(process.wait)
        finally:
            process.kill()
            process.wait()
    assert drain
    ordered = [results[f"{task:015x}"] for task in (1, 2, 3, 4)]
    assert [value(result) for result in ordered[:2]] == [{"words": 2}, 3]
    if signals == 1:
        assert [value(result) for result in ordered[2:]] == ["slept 0.6 s in attempt 1", 190]
        assert status == 0
    else:
        assert [code(result) for result in ordered[2:]] == ["lost", "lost"]
        assert status == 1
