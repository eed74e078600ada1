"""What a worker says while it serves: names that come and go, lines for the logs of tasks."""

# ruff: noqa: ARG001 - pytest-trio takes a test's clock from its arguments
from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import MockClock

from plumd.sdk import Context, Worker
from plumd.sdk.log_lines import MESSAGE_CHARS
from plumd.sdk.protocol import LOG_CHARS_MAX, LOG_LINES_MAX, Down, LogLine, Registered, Up
from tests.sdk.test_worker import (
    BEAT_S,
    LEASE_S,
    Hall,
    Wire,
    attempt,
    hall,
    serving,
    value,
    worker,
)

__all__ = ["hall", "worker"]        # fixtures


def add(payload: list[int]) -> int:
    return sum(payload)


async def hear_names(wire: Wire) -> list[str]:
    """The names that the worker says next."""
    while (names := (await wire.hear()).tasks) is None:
        pass
    return names


async def test_names_come_and_go_while_it_serves(hall: Hall, worker: Worker,
                                                 autojump_clock: MockClock) -> None:
    before = set(worker.task_names)
    async with serving(worker):
        wire, up = await hall.answer()
        assert up.register is not None
        assert set(up.register.tasks) == before
        worker.add_task("late.add", add, inline=True)
        assert set(await hear_names(wire)) == before | {"late.add"}
        wire.give(attempt("late.add", [1, 2]))
        [result] = (await wire.hear_results(1)).values()
        assert value(result) == 3
        worker.drop_task("late.add")
        assert set(await hear_names(wire)) == before
        wire.give(attempt("late.add", [3, 4], task=2))      # it was on its way already
        [result] = (await wire.hear_results(1)).values()
        assert value(result) == 7
        wire.cut()
        worker.add_task("between", add)
        _, up = await hall.answer()
        assert up.register is not None
        assert set(up.register.tasks) == before | {"between"}
        assert up.tasks is None


async def test_a_name_has_one_handler(worker: Worker) -> None:
    worker.add_task("mine", add)
    with pytest.raises(ValueError, match="already"):
        worker.add_task("mine", add)
    with pytest.raises(ValueError, match="no task"):
        worker.drop_task("other")
    for name in ("", "x" * 201, "!builtin"):
        with pytest.raises(ValueError, match="name"):
            worker.add_task(name, add)
    worker.drop_task("mine")
    worker.add_task("mine", add)
    assert worker.task_names[-1] == "mine"


async def test_names_from_another_thread(hall: Hall, worker: Worker) -> None:
    async with serving(worker):
        wire, _ = await hall.answer()
        threads = [threading.Thread(target=worker.add_task, args=(f"t{n}", add))
                   for n in range(5)]
        for thread in threads:
            thread.start()
        names: list[str] = []
        while not {f"t{n}" for n in range(5)} <= set(names):
            names = await hear_names(wire)


async def test_lines_go_before_the_result(hall: Hall, worker: Worker,
                                          autojump_clock: MockClock) -> None:
    def talkative(payload: int, context: Context) -> int:
        for number in range(payload):
            context.log(f"{number}".ljust(LOG_CHARS_MAX))
        return payload

    worker.add_task("talk", talkative, inline=True)
    count = 3 * MESSAGE_CHARS // LOG_CHARS_MAX      # more than one message
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("talk", count))
        said: list[int] = []
        while not (up := await wire.hear()).results:
            said += [int(line.text) for line in up.logs]
        assert said + [int(line.text) for line in up.logs] == list(range(count))
        assert {line.id for line in up.logs} <= {up.results[0].id}
        wire.say(Down(ack=up.seq))


async def test_lines_alone_are_held_back_a_moment_and_survive_a_lost_line(
        hall: Hall, worker: Worker, autojump_clock: MockClock) -> None:
    go_on = trio.Event()

    async def talkative(payload: None, context: Context) -> None:
        del payload
        context.log("one\n")
        context.log("two \ud800")
        await go_on.wait()
        context.log("three")
        await trio.sleep_forever()

    worker.add_task("talk", talkative)
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("talk"))
        up = await wire.hear()
        assert [line.text for line in up.logs] == ["one\n", "two ?"]
        wire.cut()
        go_on.set()
        said: list[Up] = []
        wire, up = await hall.answer()
        while not up.logs:
            up = await wire.hear()
        said.append(up)
        assert [line.text for up in said for line in up.logs] == ["three"]


async def test_lines_are_sent_again_until_they_are_acknowledged(
        hall: Hall, worker: Worker, autojump_clock: MockClock) -> None:
    """In the old order, before the result, which waits for them."""
    welcome = Down(registered=Registered(LEASE_S, BEAT_S, log_acks=True))
    go_on = trio.Event()

    async def talkative(payload: None, context: Context) -> None:
        del payload
        context.log("one")
        await go_on.wait()
        context.log("two")

    worker.add_task("talk", talkative)
    async with serving(worker):
        wire, _ = await hall.answer(first=welcome)
        wire.give(attempt("talk"))
        up = await wire.hear()
        assert ([line.text for line in up.logs], up.results) == (["one"], [])
        go_on.set()
        while not (up := await wire.hear()).results:
            pass
        assert [line.text for line in up.logs] == ["two"]
        wire.cut()
        wire, up = await hall.answer(first=welcome)
        assert (up.logs, up.results) == ([], []), "it is not known yet who listens"
        said: list[LogLine] = []
        while not up.results:
            up = await wire.hear()
            said += up.logs
        assert [(line.text, line.at) for line in said] == [("one", 0), ("two", 4)]
        wire.say(Down(ack=up.seq, log_ack=up.log_seq - 1))
        wire.cut()
        wire, up = await hall.answer(first=welcome)
        assert [line.text for line in (await wire.hear()).logs] == ["two"]


async def test_no_result_waits_for_the_lines_of_others(
        hall: Hall, worker: Worker, autojump_clock: MockClock) -> None:
    """Else one handler that says more than the line takes holds back what all others did."""
    async def talk_on(payload: None, context: Context) -> None:
        del payload
        while True:
            for _ in range(3 * LOG_LINES_MAX):
                context.log("more")
            await trio.lowlevel.checkpoint()

    def say_one(payload: int, context: Context) -> int:
        context.log("mine")
        return payload

    worker.add_task("add", add, inline=True)    # a thread might end it late
    worker.add_task("talk_on", talk_on)
    worker.add_task("say_one", say_one, inline=True)
    async with serving(worker):
        wire, _ = await hall.answer(
            first=Down(registered=Registered(LEASE_S, BEAT_S, log_acks=True)))
        wire.give(attempt("talk_on"))
        while not (await wire.hear()).logs:
            pass
        wire.give(attempt("add", [1, 2], task=2), attempt("say_one", 7, task=3))
        said: list[LogLine] = []
        ended: dict[str, bool] = {}
        for _ in range(200):
            up = await wire.hear()
            said += up.logs
            mine = any(line.text == "mine" for line in said)
            ended |= {str(value(result)): mine for result in up.results}
            wire.say(Down(log_ack=up.log_seq) if up.log_seq else Down())
            if len(ended) == 2:
                break
        assert ended == {"3": False, "7": True}


async def test_lines_of_a_thread(hall: Hall, worker: Worker) -> None:
    def talkative(payload: int, context: Context) -> None:
        for number in range(payload):
            context.log(str(number))

    worker.add_task("talk", talkative)
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("talk", 2_500))
        said: list[str] = []
        while True:
            up = await wire.hear()
            said += [line.text for line in up.logs]
            if up.results:
                break
        assert said == [str(number) for number in range(2_500)]
        wire.say(Down(ack=up.seq))
