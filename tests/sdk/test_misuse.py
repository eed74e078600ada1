"""What users' code does that it should not: the worker and the device go on, or say so plainly."""

from __future__ import annotations

import sys

import msgspec
import pytest
import trio

from plumd.sdk import Device, TaskFailed, TurnedAway, Worker
from plumd.sdk.line import Line
from plumd.sdk.protocol import Down, PeerError, Result
from tests.sdk.test_worker import Hall, attempt, code, hall, serving, worker

__all__ = ["hall", "worker"]        # fixtures


def failure(result: Result) -> tuple[str, str]:
    """Code and message."""
    assert result.error is not None
    return result.error.code, result.error.message


def odd_failure(**facts: object) -> TaskFailed:
    """Handlers are not always type-checked: what they give away may be anything."""
    failed = TaskFailed("later")
    for name, fact in facts.items():
        setattr(failed, name, fact)
    return failed


@pytest.mark.parametrize("inline", [False, True])
async def test_advice_of_wrong_types_fails_the_attempt_alone(hall: Hall, worker: Worker,
                                                             inline: bool) -> None:
    def give(payload: int) -> object:
        raise [odd_failure(message=OSError("disk"), code=507),
               odd_failure(retry_after_s="soon", retry="no"),
               odd_failure(message=None, retry=0, retry_after_s="2.5")][payload]

    worker.add_task("odd", give, inline=inline)
    worker.add_task("well", lambda _: 1, inline=inline)
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(*[attempt("odd", n, task=n + 1) for n in range(3)], attempt("well", task=9))
        results = await wire.hear_results(4)
    first, second, third = (results[f"{n:015x}"] for n in (1, 2, 3))
    assert failure(first) == ("507", "disk")
    assert (failure(second), second.retry, second.retry_after_sec) == (
        ("task_failed", "later"), True, None)
    assert (failure(third), third.retry, third.retry_after_sec) == (
        ("task_failed", "None"), False, 2.5)
    assert results[f"{9:015x}"].error is None


async def test_sys_exit_in_a_handler_ends_the_attempt_alone(hall: Hall, worker: Worker) -> None:
    def leave(_payload: object) -> None:
        sys.exit("no such option: --x")     # as argparse does

    @worker.task("async")
    async def leave_async(_payload: object) -> None:
        await trio.lowlevel.checkpoint()
        sys.exit(3)

    worker.add_task("thread", leave)
    worker.add_task("inline", leave, inline=True)
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("thread", task=1), attempt("inline", task=2), attempt("async", task=3))
        results = await wire.hear_results(3)
    assert [failure(results[f"{n:015x}"]) for n in (1, 2, 3)] == [
        ("handler_error", "SystemExit: no such option: --x")] * 2 + [
        ("handler_error", "SystemExit: 3")]


async def test_one_error_in_a_nursery_is_that_error(hall: Hall, worker: Worker) -> None:
    @worker.task("one")
    async def one(_payload: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise TaskFailed("no disk", code="no_disk", retry=False)

    @worker.task("two")
    async def two(_payload: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ExceptionGroup("both", [TaskFailed("a"), ValueError("b")])

    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("one", task=1), attempt("two", task=2))
        results = await wire.hear_results(2)
    first, second = results[f"{1:015x}"], results[f"{2:015x}"]
    assert (failure(first), first.retry) == (("no_disk", "no disk"), False)
    assert code(second) == "handler_error"


class Refusal:
    """A line on which the daemon says that it does not want this worker."""

    answered = False

    async def send(self, message: bytes) -> None:
        del message
        await trio.lowlevel.checkpoint()

    async def receive(self) -> str:
        await trio.lowlevel.checkpoint()
        error = PeerError("session_replaced", "another process has this id")
        return msgspec.json.encode(Down(error=error)).decode()

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()

    async def close(self, code: int | None = None) -> None:
        del code
        await trio.lowlevel.checkpoint()


def test_run_raises_plain_errors() -> None:
    async def dial(_nursery: trio.Nursery) -> Line:
        await trio.lowlevel.checkpoint()
        return Refusal()

    worker = Worker(dial=dial)
    with pytest.raises(TurnedAway, match="another process"):
        worker.run()
    with pytest.raises(RuntimeError, match="serves once"):
        worker.run()


def test_a_device_serves_once() -> None:
    device = Device("x", "http://127.0.0.1:9")
    device.stop()
    device.run()
    with pytest.raises(RuntimeError, match="serves once"):
        device.run()
