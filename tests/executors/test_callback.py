"""HTTP workers that are called back, on real sockets and through a real engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from plumd.carrier import LocalCarrier
from plumd.clock import SystemClock
from plumd.engine import Engine
from plumd.executors import Attempt, Outcome, Stop
from plumd.executors.callback import Callback
from plumd.model import Ending, Join, Limits, OnLost, Submit, TaskState, WorkerKind, id_text
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.store import tasks
from plumd.store.blobs import Blobs
from plumd.store.definitions import Catalog
from plumd.store.store import Store
from plumd.store.tasks import TaskRow
from tests.executors.farside import (
    Behave,
    Call,
    Caller,
    answer,
    far_side,
    refusing_port,
    replying,
    silent,
)


def attempt(url: str, payload: bytes = b"null", number: int = 1, *,
            resumed: bool = False) -> Attempt:
    """An attempt for a worker at this URL."""
    return Attempt(0xABC, number, "job", payload, worker_id="w1", url=url, resumed=resumed)


def detail_of(outcome: Outcome) -> dict[str, object]:
    """error.detail."""
    assert outcome.error is not None
    assert isinstance(outcome.error.detail, msgspec.Raw)
    detail: dict[str, object] = json.loads(bytes(outcome.error.detail))
    return detail


async def test_exactly_what_the_worker_gets() -> None:
    async with far_side(replying(200, b'{"done": 1.0}\n')) as side:
        outcome = await Callback(Caller()).run(attempt(side.url("/run"), b'{"x": [1,  2]}'), Stop())
        again = attempt(side.url("/run"), b"null", 3)
        await Callback(Caller()).run(again, Stop())
    assert (outcome.ending, outcome.result) == (Ending.SUCCEEDED, b'{"done": 1.0}\n')
    assert side.calls[0].body == b'{"name":"job","payload":{"x": [1,  2]},"taskId":"%s"}' % (
        id_text(0xABC).encode())
    assert side.calls[0].headers["content-type"] == "application/json"
    assert json.loads(side.calls[1].body) == {
        "name": "job", "payload": None, "taskId": id_text(0xABC) + ".3"}


@pytest.mark.parametrize(("body", "result"), [
    (b"", b'""'), (b"all done", b'"all done"'), (b"\xff\xfe", '"ÿþ"'.encode()),
    (b"7", b"7"),
])
async def test_results_that_are_no_json_are_strings(body: bytes, result: bytes) -> None:
    async with far_side(replying(201, body)) as side:
        outcome = await Callback(Caller()).run(attempt(side.url()), Stop())
    assert (outcome.ending, outcome.result) == (Ending.SUCCEEDED, result)


@pytest.mark.parametrize("status", [302, 400, 404, 500, 503])
async def test_any_other_status_is_a_failure_that_says_so(status: int) -> None:
    async with far_side(replying(status, b"no luck", "Location: http://127.0.0.1:1/",
                                 "Retry-After: 3")) as side:
        outcome = await Callback(Caller()).run(attempt(side.url()), Stop())
    assert outcome.ending == Ending.FAILED
    assert outcome.retryable
    assert outcome.retry_after_ms == (3_000 if status == 503 else 0)
    assert outcome.error is not None
    assert outcome.error.code == "http_status"
    assert str(status) in outcome.error.message
    assert "no luck" in outcome.error.message
    assert "w1" in outcome.error.message
    assert detail_of(outcome) == {"url": side.url(), "status": status, "body": "no luck",
                                  "instance": None}


async def test_a_worker_that_is_not_there() -> None:
    port = await refusing_port()
    outcome = await Callback(Caller()).run(attempt(f"http://127.0.0.1:{port}/"), Stop())
    assert (outcome.ending, outcome.retryable) == (Ending.FAILED, True)
    assert outcome.error is not None
    assert outcome.error.code == "unreachable"


async def test_a_worker_that_dies_during_the_call_loses_the_attempt() -> None:
    async def die(_stream: trio.SocketStream, _call: Call) -> bool:
        return False

    async with far_side(die) as side:
        outcome = await Callback(Caller()).run(attempt(side.url()), Stop())
    assert outcome.ending == Ending.LOST
    assert len(side.calls) == 1


@pytest.mark.parametrize(("reason", "ending"), [
    ("canceled", Ending.CANCELED), ("timeout", Ending.TIMEOUT)])
async def test_a_stop_closes_the_connection_and_says_that_the_worker_was_not_told(
        reason: str, ending: Ending) -> None:
    stop = Stop()
    outcomes: list[Outcome] = []

    async def run(url: str) -> None:
        outcomes.append(await Callback(Caller()).run(attempt(url), stop))

    async def reading(_stream: trio.SocketStream, _call: Call) -> bool:
        return True     # answers nothing, and sees the connection's end

    async with far_side(reading) as side, trio.open_nursery() as nursery:
        nursery.start_soon(run, side.url())
        await side.asked.wait()
        stop.ask(reason)
        await side.left.wait()
    [outcome] = outcomes
    assert outcome.ending == ending
    assert outcome.error is not None
    assert "discarded" in outcome.error.message
    assert detail_of(outcome)["workerTold"] is False
    assert detail_of(outcome)["resultDiscarded"] is True


async def test_an_attempt_from_before_the_restart_is_lost_and_not_called_again() -> None:
    async with far_side(replying(200)) as side:
        outcome = await Callback(Caller()).run(attempt(side.url(), resumed=True), Stop())
    assert outcome.ending == Ending.LOST
    assert side.calls == []


# ---------------------------------------------------------------- through the engine


class Rig:
    """An engine whose HTTP workers are called back."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def join(self, url: str) -> None:
        """Register worker w1 at this URL."""
        reply = await self.engine.call(Join("w1", WorkerKind.CALLBACK, "", ("job",), url=url))
        assert reply.ok

    async def finished(self, submit: Submit) -> TaskRow:
        """The task's row at its end."""
        over = self.engine.watch(submit.task_id)
        assert (await self.engine.call(submit)).ok
        with trio.fail_after(10):
            await over.wait()
        row = self.engine.store.peek(tasks.get, submit.task_id)
        assert row is not None
        return row


@asynccontextmanager
async def rigged(path: Path) -> AsyncIterator[Rig]:
    """A running engine on a database in this directory."""
    store = Store(path / "plum.db")
    outbox, catalog, clock = Outbox(store), Catalog(store), SystemClock()
    engine = Engine(store, clock, outbox, Planner(catalog), Limits(), seed=1)
    carrier = LocalCarrier(engine, Blobs(path / "blobs"), Callback(Caller()))
    outbox.register_caller(carrier)
    async with trio.open_nursery() as nursery:
        await nursery.start(carrier.run)
        nursery.start_soon(engine.run)
        yield Rig(engine)
        nursery.cancel_scope.cancel()
    store.close()


async def test_a_task_goes_to_the_worker_and_its_answer_home(tmp_path: Path) -> None:
    async with far_side(replying(200, b"text")) as side, rigged(tmp_path) as rig:
        await rig.join(side.url())
        row = await rig.finished(Submit(rig.engine.new_id(), "job", payload=b'{"n":1}'))
        assert row.state == TaskState.SUCCEEDED
        assert row.result == b'"text"'
    assert json.loads(side.calls[0].body)["payload"] == {"n": 1}


def failing_first(status: int) -> Behave:
    """Fails the first call by a status, 0 by hanging up, and answers the next."""
    calls: list[Call] = []

    async def behave(stream: trio.SocketStream, call: Call) -> bool:
        calls.append(call)
        if len(calls) == 1 and not status:
            return False
        await stream.send_all(answer(status if len(calls) == 1 else 200, b"1"))
        return True

    return behave


async def test_a_failed_attempt_is_retried_under_a_new_id(tmp_path: Path) -> None:
    async with far_side(failing_first(500)) as side, rigged(tmp_path) as rig:
        await rig.join(side.url())
        task_id = rig.engine.new_id()
        row = await rig.finished(Submit(task_id, "job", max_retries=1))
        assert (row.state, row.attempt) == (TaskState.SUCCEEDED, 2)
    assert [json.loads(call.body)["taskId"] for call in side.calls] == [
        id_text(task_id), id_text(task_id) + ".2"]


@pytest.mark.parametrize(("on_lost", "state", "calls"), [
    (OnLost.RETRY, TaskState.SUCCEEDED, 2), (OnLost.FAIL, TaskState.FAILED, 1)])
async def test_a_lost_call_follows_on_lost(
        tmp_path: Path, on_lost: OnLost, state: TaskState, calls: int) -> None:
    async with far_side(failing_first(0)) as side, rigged(tmp_path) as rig:
        await rig.join(side.url())
        row = await rig.finished(Submit(rig.engine.new_id(), "job", on_lost=on_lost))
        assert row.state == state
    assert len(side.calls) == calls


async def test_a_timeout_ends_the_call_and_the_task(tmp_path: Path) -> None:
    async with far_side(silent) as side, rigged(tmp_path) as rig:
        await rig.join(side.url())
        row = await rig.finished(Submit(rig.engine.new_id(), "job", timeout_ms=50))
        assert row.state == TaskState.TIMEOUT
        assert row.error is not None
        assert json.loads(row.error)["detail"]["resultDiscarded"] is True


async def test_a_worker_of_one_call_a_connection_that_answers_in_two_segments() -> None:
    """As the C++ worker of earlier programs does it, without a word about the connection."""
    async def behave(stream: trio.SocketStream, _: Call) -> bool:
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        whole = answer(200, b'{"done": true}')
        head = whole.index(b"\r\n\r\n") + 4
        await stream.send_all(whole[:head])
        await trio.testing.wait_all_tasks_blocked()     # the head arrives by itself
        await stream.send_all(whole[head:])
        return False

    caller = Caller()
    async with far_side(behave) as side:
        for _ in range(5):
            outcome = await Callback(caller).run(attempt(side.url()), Stop())
            assert (outcome.ending, outcome.result) == (Ending.SUCCEEDED, b'{"done": true}')
    assert len(side.calls) == side.connections == 5


async def test_a_connection_is_used_again() -> None:
    caller = Caller()
    async with far_side(replying(200, b"1")) as side:
        for _ in range(5):
            await Callback(caller).run(attempt(side.url()), Stop())
        assert (len(side.calls), side.connections, caller.idle) == (5, 1, 1)


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://a b/", "http://127.0.0.1:1/"])
async def test_what_was_not_reached_is_said(url: str) -> None:
    outcome = await Callback(Caller()).run(attempt(url), Stop())
    assert (outcome.ending, outcome.reached) == (Ending.FAILED, False)
    async with far_side(replying(500)) as side:
        outcome = await Callback(Caller()).run(attempt(side.url()), Stop())
    assert (outcome.ending, outcome.reached) == (Ending.FAILED, True)


@pytest.mark.parametrize("on_lost", list(OnLost))
async def test_a_call_that_never_came_there_is_made_to_another_worker(
        tmp_path: Path, on_lost: OnLost) -> None:
    port = await refusing_port()
    async with far_side(replying(200, b"1")) as side, rigged(tmp_path) as rig:
        join = Join("gone", WorkerKind.CALLBACK, "", ("job",), url=f"http://127.0.0.1:{port}/")
        await rig.engine.call(join)
        task_id = rig.engine.new_id()
        over = rig.engine.watch(task_id)
        here = Join("here", WorkerKind.CALLBACK, "", ("job",), url=side.url())
        await rig.engine.call_all([Submit(task_id, "job", on_lost=on_lost), here])
        with trio.fail_after(10):
            await over.wait()
        row = rig.engine.store.peek(tasks.get, task_id)
        assert row is not None
        assert (row.state, row.attempt, row.worker_id) == (TaskState.SUCCEEDED, 2, "here")
        [first] = rig.engine.store.peek(tasks.attempts, task_id)[:1]
        assert first.error is not None
        error = json.loads(first.error)
        assert (error["code"], "did not reach" in error["message"]) == ("lost", True)
        live = rig.engine.core.worker_view("gone")
        assert live is not None
        assert live[0] is False
