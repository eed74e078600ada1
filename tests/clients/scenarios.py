"""What every kind of worker must show, and the few things that a kind cannot, with the reason."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Final

from plumd.sdk.client import Json, JsonObject
from tests.clients.kinds import BEAT_MS, Links
from tests.clients.orders import big, echo, fail, hold, line, talk, who
from tests.clients.stage import Stage
from tests.clients.workers import CAPACITY
from tests.sdk_c.programs import until

Scenario = Callable[[Stage], None]
BURST = 1_000
MEGABYTE = 1_000_000
CUT_S = 60
SILENCE_S = 0.3
"""So long the network of a worker that goes on talking is away: it says some hundred lines."""

# ---------------------------------------------------------------- with a worker that serves


def success(stage: Stage) -> None:
    done = stage.done(echo({"a": [1, -2.5, None, True]}))
    assert (done["state"], done["attempt"]) == ("Succeeded", 1)
    assert done["result"] == {"a": [1, -2.5, None, True]}
    assert done["worker"] == stage.worker_id()
    assert stage.done(echo(None))["result"] is None


def failure(stage: Stage) -> None:
    done = stage.done(fail('it "broke"\n\u00e9'), maxRetries=0)
    assert (done["state"], done["attempt"]) == ("Failed", 1)
    error = error_of(done)
    detail = error.get("detail")
    said = detail["body"] if isinstance(detail, dict) and "body" in detail else error["message"]
    assert said == 'it "broke"\n\u00e9', error
    again = stage.done(fail("again"), maxRetries=1)
    assert (again["state"], again["attempt"]) == ("Failed", 2)
    stage.once(str(again["taskId"]), f"{again['taskId']}.2")


def texts_and_bytes(stage: Stage) -> None:
    """Values come back as they went, whatever is in them."""
    data = bytes(range(256))
    values: list[Json] = [
        "\u00e9\"\\\n\u0000\u007f\U0001d11e\u2028", base64.b64encode(data).decode(), "",
        {"\u00e9 \U0001d11e": ["\ud7ff", "\uffff"]}, 2**53, 1e300, [[[[]]]]]
    for value in values:
        assert stage.done(echo(value))["result"] == value


def megabytes(stage: Stage) -> None:
    """Up and down: a payload and a result of a megabyte."""
    large = "\u00e9\U0001d11e" * (MEGABYTE // 6)
    assert stage.done(echo(large))["result"] == large
    assert stage.done(big(MEGABYTE))["result"] == "x" * MEGABYTE


def timeout(stage: Stage) -> None:
    """The state says so; who can be told to stop has stopped by then."""
    gate = stage.folder / "timeout"
    done = stage.done(hold(gate), timeoutSec=0.5, maxRetries=0)
    assert done["state"] == "Timeout"
    check_untold(stage, done)
    gate.touch()
    until(stage.idle)
    assert stage.task(str(done["taskId"])) == done, "what came later changed nothing"


def cancel(stage: Stage) -> None:
    """The slot is free at once, and an answer that comes later is not kept."""
    gate = stage.folder / "cancel"
    task_id = stage.submit(hold(gate))
    stage.until_started(task_id)
    stage.api.cancel_task(task_id)
    done = stage.ended(task_id)
    assert done["state"] == "Canceled"
    check_untold(stage, done)
    gate.touch()
    until(stage.idle)
    assert stage.done(echo(1))["result"] == 1
    assert stage.task(task_id) == done, "what came later changed nothing"


def slow_handler(stage: Stage) -> None:
    """Others are not delayed by one that takes its time."""
    gate = stage.folder / "slow"
    slow = stage.submit(hold(gate))
    stage.until_started(slow)
    assert [stage.done(echo(number))["result"] for number in range(20)] == list(range(20))
    assert stage.task(slow)["state"] == "Running"
    gate.touch()
    assert stage.ended(slow)["result"] == "held"


def burst(stage: Stage) -> None:
    ids = stage.bulk([echo(number) for number in range(BURST)])
    assert stage.results(ids) == list(range(BURST))
    stage.each_once(ids)
    assert stage.idle()


def drain_by_operator(stage: Stage) -> None:
    """What runs is finished, nothing new is taken until the worker is resumed."""
    gate = stage.folder / "drain"
    running = stage.submit(hold(gate))
    stage.until_started(running)
    stage.act("drain")
    assert stage.state()["health"] == "Draining"
    later = stage.submit(echo("later"))
    gate.touch()
    assert stage.ended(running)["result"] == "held"
    assert stage.task(later)["state"] == "Pending"
    stage.act("resume")
    assert stage.ended(later)["result"] == "later"


# ---------------------------------------------------------------- with workers that come and go


def drain_by_signal(stage: Stage) -> None:
    """SIGTERM: what runs is finished and handed in, and the worker leaves for good."""
    gate = stage.folder / "gate"
    with stage.worker() as program:
        running = stage.submit(hold(gate))
        stage.until_started(running)
        program.process.terminate()
        until(lambda: stage.state()["health"] == "Draining")
        later = stage.submit(echo("later"))
        gate.touch()
        assert program.process.wait(30) == 0, program.said
    assert stage.state() == {}
    assert stage.task(running)["result"] == "held"
    assert stage.task(later)["state"] == "Pending"
    stage.api.cancel_task(later)


def worker_killed(stage: Stage) -> None:
    """kill -9 with attempts in hand: lost within the lease, run again, and no slot is held."""
    gate = stage.folder / "gate"
    with stage.worker(1, beat_ms=BEAT_MS) as program:
        ids = [stage.submit(hold(gate), maxRetries=3) for _ in range(3)]
        stage.until_started(*ids)
        program.process.kill()
        program.process.wait()
        with stage.worker(2):
            if stage.kind.lease_s > 20:
                stage.forget(1)     # an operator need not wait for a long lease
            again = stage.until_again(*ids)
            until(lambda: not stage.state(1).get("running"))
            gate.touch()
            done = [stage.ended(each) for each in ids]
            assert [(one["result"], one["worker"]) for one in done] == (
                [("held", stage.worker_id(2))] * 3)
            stage.once(*ids, *again)
            until(lambda: stage.idle(2))


def controller_killed(stage: Stage) -> None:
    """kill -9 of the daemon under work: who can go on does, and its results are kept."""
    gate = stage.folder / "gate"
    with stage.worker():
        # All slots are taken, so that no attempt is on its way to the worker in that moment: a
        # gRPC worker could not say whether it came.
        ids = [stage.submit(hold(gate), maxRetries=3) for _ in range(CAPACITY)]
        stage.until_started(*ids)
        queued = stage.bulk([echo(number) for number in range(100)])
        stage.daemon.kill()
        gate.touch()
        stage.until_held(*ids)
        stage.daemon.start()
        assert [stage.ended(each)["result"] for each in ids] == ["held"] * CAPACITY
        assert stage.results(queued) == list(range(100))
        if stage.kind.resumes:
            assert [stage.task(each)["attempt"] for each in ids] == [1] * CAPACITY
            stage.once(*ids)
        assert max(stage.starts().values()) == 1, "no attempt was started twice"
        until(stage.idle)


def lines_and_a_dead_controller(stage: Stage) -> None:
    """kill -9 of the daemon under handlers that talk: each line is in its log once, in order."""
    gate = stage.folder / "gate"
    with stage.worker():
        ids = [stage.submit(talk(gate), maxRetries=0) for _ in range(3)]
        for _ in range(2):
            stage.until_said_more(*ids)
            stage.daemon.kill()
            stage.daemon.start()
        stage.until_said_more(*ids)
        gate.touch()
        check_lines(stage, ids)
        until(stage.idle)


def lines_and_cuts(stage: Stage) -> None:
    """As above, where the network breaks."""
    links, gate = Links(stage.daemon.port), stage.folder / "gate"
    try:
        with stage.worker(link=links):
            ids = [stage.submit(talk(gate), maxRetries=0) for _ in range(3)]
            for refuse in (True, False):
                stage.until_said_more(*ids)
                links.cut(refuse=refuse)
                time.sleep(SILENCE_S)       # the cut itself: nothing is waited for
                links.restore()
            gate.touch()
            check_lines(stage, ids)
            until(stage.idle)
    finally:
        links.close()


def short_cut(stage: Stage) -> None:
    """The network is gone for less than a lease while work ends: nothing is lost or doubled."""
    links, gate = Links(stage.daemon.port), stage.folder / "gate"
    try:
        with stage.worker(link=links):
            ids = [stage.submit(hold(gate), maxRetries=3) for _ in range(4)]
            stage.until_started(*ids)
            links.cut(refuse=True)
            gate.touch()
            stage.until_held(*ids)
            links.restore()
            done = [stage.ended(each) for each in ids]
            assert [one["result"] for one in done] == ["held"] * 4
            if stage.kind.resumes:
                assert [one["attempt"] for one in done] == [1] * 4
                stage.once(*ids)
            until(stage.idle)
    finally:
        links.close()


def long_cut(stage: Stage) -> None:
    """Everything is silent for longer than a lease: the work is lost, ended where it can be told,
    and run again; what the first attempt would say is not wanted any more.
    """
    links, gate = Links(stage.daemon.port), stage.folder / "gate"
    try:
        with stage.worker(link=links, beat_ms=BEAT_MS):
            task_id = stage.submit(hold(gate), maxRetries=3)
            stage.until_started(task_id)
            links.cut(refuse=False)
            until(lambda: stage.task(task_id)["state"] != "Running")
            links.restore()
            again = stage.until_again(task_id)
            gate.touch()
            done = stage.ended(task_id)
            assert done["result"] == "held"
            stage.once(task_id, *again)
            until(stage.idle)
            assert stage.task(task_id) == done
    finally:
        links.close()


def minute_cut(stage: Stage) -> None:
    """The network is silent for a minute, whatever the lease: the work is done once more where it
    was lost, and not where the lease was longer.
    """
    links, gate = Links(stage.daemon.port), stage.folder / "gate"
    try:
        with stage.worker(link=links, beat_ms=BEAT_MS):
            ids = [stage.submit(hold(gate), maxRetries=3) for _ in range(4)]
            stage.until_started(*ids)
            links.cut(refuse=False)
            time.sleep(CUT_S)       # this is the cut, nothing is waited for
            links.restore()
            gate.touch()
            done = [stage.ended(each) for each in ids]
            assert [one["result"] for one in done] == ["held"] * 4
            assert [one["attempt"] == 1 for one in done] == [stage.kind.lease_s > CUT_S] * 4
            assert max(stage.starts().values()) == 1, "no attempt was started twice"
            until(stage.idle)
    finally:
        links.close()


def not_behind_slow_ones(stage: Stage) -> None:
    """Quick tasks, then slow ones: none waits at a worker that is full while another is free."""
    gate = stage.folder / "gate"
    with stage.worker():
        stage.results(stage.bulk([echo(number) for number in range(BURST)]))
        ids = stage.bulk([hold(gate)] * (CAPACITY + 6))
        with stage.worker(2):
            until(lambda: {each.partition(".")[0] for each in stage.starts()} >= set(ids))
            gate.touch()
            done = [stage.ended(each) for each in ids]
            assert [one["result"] for one in done] == ["held"] * len(ids)
            assert {one["worker"] for one in done} == {stage.worker_id(), stage.worker_id(2)}
            assert max(stage.starts().values()) == 1, "no attempt was started twice"
            until(lambda: stage.idle() and stage.idle(2))


def duplicate_id(stage: Stage) -> None:
    """The newer process replaces the older one, whose end removes nothing."""
    gate = stage.folder / "gate"
    with stage.worker() as older:
        held = stage.submit(hold(gate), maxRetries=3)
        stage.until_started(held)
        assert stage.done(who())["result"] == older.process.pid
        with stage.worker(label="-newer") as newer:
            if stage.kind.replaced is not None:
                assert older.process.wait(30) == stage.kind.replaced, older.said
            until(lambda: stage.done(who())["result"] == newer.process.pid)
            older.process.kill()
            older.process.wait()
            assert stage.done(who())["result"] == newer.process.pid
            assert stage.state()["health"] == "Healthy"
            if stage.kind.replaced is not None and stage.kind.told:
                stage.until_started(f"{held}.2")
                gate.touch()
                assert stage.ended(held)["attempt"] == 2
            else:
                stage.api.cancel_task(held)
                assert stage.ended(held)["state"] in ("Canceled", "Failed")
            until(stage.idle)


# ---------------------------------------------------------------- the tables

STEADY: Final[dict[str, Scenario]] = {each.__name__: each for each in (
    success, failure, texts_and_bytes, megabytes, timeout, cancel, slow_handler, burst,
    drain_by_operator)}
COMING: Final[dict[str, Scenario]] = {each.__name__: each for each in (
    drain_by_signal, worker_killed, lines_and_cuts, short_cut, long_cut, not_behind_slow_ones,
    duplicate_id)}
LONG: Final[dict[str, Scenario]] = {each.__name__: each for each in (minute_cut,)}
"""Those that PLUM_CLIENTS_LONG asks for."""
MORTAL: Final[dict[str, Scenario]] = {each.__name__: each for each in (
    controller_killed, lines_and_a_dead_controller)}

LEFT_OUT: Final[dict[tuple[str, str], str]] = {
    ("http", "drain_by_signal"): "a called worker has no word for leaving; an operator drains it",
    ("grpc", "drain_by_signal"): "its protocol has no word for draining; an operator drains it",
    ("grpc", "long_cut"): "its lease is 90 s; a minute's cut is in `make clients`",
    **{(kind, scenario): "its protocol has no word for lines" for kind in ("http", "grpc")
       for scenario in ("lines_and_cuts", "lines_and_a_dead_controller")},
}


def error_of(task: JsonObject) -> JsonObject:
    """Why a task failed."""
    error = task["error"]
    assert isinstance(error, dict), task
    return error


def check_lines(stage: Stage, task_ids: list[str]) -> None:
    """What these tasks said is in their logs once they are over, in order and nothing twice."""
    for each in task_ids:
        done = stage.ended(each)
        assert (done["state"], done["attempt"]) == ("Succeeded", 1), done
        count = done["result"]
        assert isinstance(count, int)
        said = b"".join(stage.api.logs(each)).decode().split("\n")
        assert said == [line(number).removesuffix("\n") for number in range(count)] + [""]


def check_untold(stage: Stage, task: JsonObject) -> None:
    """The record says it where the worker could not be told to stop."""
    detail = error_of(task).get("detail")
    told: Json = detail.get("workerTold") if isinstance(detail, dict) else None
    assert stage.kind.told == (told is None), task
    assert stage.kind.told or (isinstance(detail, dict) and detail["resultDiscarded"]), task
