"""The same session by long poll against the real program."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.api.live import WAIT_S, Api, Json, listed, refused, serving
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


class Poller:
    """A worker that asks again and again, played by hand."""

    def __init__(self, api: Api, worker_id: str, session: str = "s") -> None:
        self.api = api
        self.path = f"/v1/embedded-workers/{worker_id}/exchange"
        self.session = session
        self.seq = 0

    def say(self, *holding: object, **up: object) -> Json:
        """One exchange."""
        return self.api.done("POST", self.path, {
            "session": self.session, "holding": list(holding), **up})

    def register(self, *tasks: str, holding: tuple[object, ...] = (), **more: object) -> Json:
        down = self.say(*holding, register={
            "session": self.session, "tasks": list(tasks), **more})
        assert down["registered"]["leaseSec"] > 0, down  # type: ignore[index]
        return down

    def attempt(self, *holding: object) -> Json:
        """The one attempt that comes next."""
        down = self.say(*holding, waitSec=WAIT_S)
        [attempt] = listed(down["attempts"])
        return attempt

    def report(self, *results: Json, holding: tuple[object, ...] = ()) -> Json:
        self.seq += 1
        down = self.say(*holding, *(one["id"] for one in results), seq=self.seq,
                        results=list(results))
        assert down["ack"] == self.seq
        return down


def test_attempts_results_and_acknowledgements(api: Api) -> None:
    worker = Poller(api, "x-one")
    down = worker.register("x.one", nodeId="n", beatSec=5)
    assert down["registered"] == {"leaseSec": 15, "beatSec": 5, "logAcks": True}
    task = api.task("x.one", payload=[1])
    attempt = worker.attempt()
    assert attempt == {"id": task["taskId"], "name": "x.one", "payload": [1], "timeoutSec": 300}
    assert api.get("/v1/embedded-workers/x-one")["attempts"] == [task["taskId"]]
    worker.say(attempt["id"], progress=[{"id": attempt["id"], "ratio": 0.25, "text": "quarter"}])
    progress = api.get(f"/v1/tasks/{task['taskId']}")["progress"]
    assert isinstance(progress, dict)
    assert (progress["ratio"], progress["text"]) == (0.25, "quarter")
    assert "refused" not in worker.report({"id": attempt["id"], "result": {"r": None}})
    done = api.ended(task["taskId"])
    assert (done["state"], done["result"], done["progress"]) == ("Succeeded", {"r": None}, None)
    again = worker.report({"id": attempt["id"], "error": {"message": "late"}})
    assert again["refused"][0]["id"] == attempt["id"]  # type: ignore[index]
    assert api.get(f"/v1/tasks/{task['taskId']}") == done


def test_an_exchange_waits_until_there_is_something(api: Api) -> None:
    worker = Poller(api, "x-wait")
    worker.register("x.wait")
    begun = time.monotonic()
    assert worker.say(waitSec=0.3) == {}
    assert time.monotonic() - begun >= 0.29
    with ThreadPoolExecutor(1) as pool, Api(api.daemon) as other:
        waiting = pool.submit(worker.attempt)
        task = other.task("x.wait")
        attempt = waiting.result(WAIT_S)
        assert attempt["id"] == task["taskId"]
        cancel = pool.submit(worker.say, attempt["id"], waitSec=WAIT_S)
        other.done("POST", f"/v1/tasks/{task['taskId']}?action=cancel")
        assert cancel.result(WAIT_S)["cancel"] == [{"id": attempt["id"]}]
        worker.report({"id": attempt["id"], "stopped": True})
        assert other.ended(task["taskId"])["state"] == "Canceled"


def test_what_is_not_held_is_given_again(api: Api) -> None:
    worker = Poller(api, "x-again")
    worker.register("x.again")
    task = api.task("x.again")
    attempt = worker.attempt()
    assert worker.attempt() == attempt, "the answer was lost: the same attempt comes again"
    assert worker.say(attempt["id"], waitSec=0.1) == {}
    assert Poller(api, "x-again").register("x.again", holding=(attempt["id"],)).get(
        "attempts") is None
    worker.report({"id": attempt["id"]})
    done = api.ended(task["taskId"])
    assert (done["state"], done["attempt"]) == ("Succeeded", 1)


def test_max_bounds_an_answer_and_the_rest_follows(api: Api) -> None:
    worker = Poller(api, "x-max")
    worker.register("x.max", capacity=5)
    ids = {api.task("x.max")["taskId"] for _ in range(5)}
    held: list[object] = []
    while len(held) < 5:
        down = worker.say(*held, waitSec=WAIT_S, max=2)
        got = [one["id"] for one in down["attempts"]]  # type: ignore[attr-defined]
        assert 0 < len(got) <= 2
        held += got
    assert set(held) == ids
    worker.report(*({"id": each} for each in held))
    assert {api.ended(each)["state"] for each in ids} == {"Succeeded"}


def test_a_new_session_takes_over_and_the_old_one_is_turned_away(api: Api) -> None:
    old, new = Poller(api, "x-new", "old"), Poller(api, "x-new", "new")
    old.register("x.new")
    again, once = api.task("x.new"), api.task("x.new", onLost="fail")
    held = again["taskId"]
    given = old.say(waitSec=WAIT_S)["attempts"]
    assert {one["id"] for one in given} == {held, once["taskId"]}  # type: ignore[attr-defined]
    down = new.register("x.new")
    while not down.get("attempts"):
        down = new.say(waitSec=WAIT_S)
    [attempt] = listed(down["attempts"])
    assert attempt["id"] == f"{again['taskId']}.2"
    before = api.get(f"/v1/tasks/{again['taskId']}")
    refused(api.ask("POST", old.path, {"session": "old", "holding": [], "seq": 1, "results": [
        {"id": held, "result": "old"}]}), 409, "session_replaced", "session")
    assert api.get(f"/v1/tasks/{again['taskId']}") == before
    new.report({"id": attempt["id"], "result": "new"})
    assert api.ended(again["taskId"])["result"] == "new"
    assert api.ended(once["taskId"])["error"]["code"] == "lost"  # type: ignore[index]


def test_drain_and_bye(api: Api) -> None:
    worker = Poller(api, "x-bye")
    worker.register("x.bye", capacity=1)
    first, second = api.task("x.bye"), api.task("x.bye")
    attempt = worker.attempt()
    worker.say(attempt["id"], drain=True)
    worker.report({"id": attempt["id"]})
    assert worker.say(waitSec=0.1) == {}
    assert api.get("/v1/embedded-workers/x-bye")["health"] == "Draining"
    assert api.get(f"/v1/tasks/{second['taskId']}")["state"] == "Pending"
    assert worker.say(bye=True) == {}
    assert api.ask("GET", "/v1/embedded-workers/x-bye").status_code == 404
    refused(api.ask("POST", worker.path, {"session": "s", "holding": []}), 409,
            "session_unknown", "session")
    assert api.ended(first["taskId"])["state"] == "Succeeded"
    api.done("POST", f"/v1/tasks/{second['taskId']}?action=cancel")


@pytest.mark.parametrize(("body", "status", "code", "field"), [
    (b"", 400, "malformed", None), (b"{", 400, "malformed", None),
    (b'{"session": "s", "holding": [', 400, "malformed", None),
    (b'{"session": "\xff"}', 400, "malformed", None),
    (b"[]", 422, "invalid", None), (b"null", 422, "invalid", None), (b"{}", 422, "invalid", None),
    (b'{"session": 1}', 422, "invalid", "session"),
    (b'{"session": "s"}', 422, "invalid", None),
    (b'{"session": "s", "holding": ["x y"]}', 422, "invalid", None),
    (b'{"session": "s", "holding": [], "waitSec": -1}', 422, "invalid", "waitSec"),
    (b'{"session": "s", "holding": [], "seq": 1}', 422, "invalid", None),
    (b'{"session": "s", "holding": [], "results": [{}]}', 422, "invalid", "results[0].id"),
    (b'{"session": "s", "holding": [], "register": {"session": "t", "tasks": []}}', 422,
     "invalid", None),
    (b'{"session": "s", "holding": [], "register": {"session": "s", "tasks": ["!builtin"]}}', 422,
     "invalid", "register.tasks[0]"),
    (b'{"session": "unknown", "holding": []}', 409, "session_unknown", "session"),
])
def test_bad_exchanges(api: Api, body: bytes, status: int, code: str, field: str | None) -> None:
    before = api.count()
    refused(api.ask("POST", "/v1/embedded-workers/x-bad/exchange", body), status, code, field)
    assert api.count() == before


def test_an_exchange_over_its_bounds(api: Api) -> None:
    before = api.count()
    path = "/v1/embedded-workers/x-bad/exchange"
    refused(api.ask("POST", path, b" " * ((32 << 20) + 1)), 413, "too_large")
    body: Json = {"session": "s", "holding": [], "register": {"session": "s", "tasks": []}}
    for worker_id in ("local:builtin", "x" * 201):
        refused(api.ask("POST", f"/v1/embedded-workers/{worker_id}/exchange", body), 422,
                "invalid", "id")
    refused(api.ask("POST", path, body, headers={"content-type": "text/plain"}), 415,
            "unsupported_media_type", "Content-Type")
    assert api.count() == before


def test_two_at_once_with_one_session_do_no_harm(api: Api) -> None:
    worker = Poller(api, "x-twice")
    worker.register("x.twice", capacity=1)
    gate = threading.Barrier(4)

    def ask(_: int) -> Json:
        with Api(api.daemon) as own:
            gate.wait()
            return Poller(own, "x-twice").say(waitSec=0.2)

    task = api.task("x.twice")
    with ThreadPoolExecutor(4) as pool:
        downs = list(pool.map(ask, range(4)))
    told = {one["id"] for down in downs for one in down.get("attempts", [])}  # type: ignore[attr-defined]
    assert told <= {task["taskId"]}
    attempt = worker.attempt()
    worker.report({"id": attempt["id"], "result": 1})
    done = api.ended(task["taskId"])
    assert (done["state"], done["attempt"]) == ("Succeeded", 1)


def test_a_later_exchange_ends_the_wait_of_an_earlier_one(api: Api) -> None:
    """The earlier is answered at once and empty; acknowledgement and attempts go to the later."""
    worker = Poller(api, "x-later")
    worker.register("x.later", capacity=1)
    first, second = api.task("x.later"), api.task("x.later")
    attempt = worker.attempt()
    assert attempt["id"] == first["taskId"]
    with ThreadPoolExecutor(1) as pool, Api(api.daemon) as other:
        seen = last_seen(api, "x-later")
        waiting = pool.submit(Poller(other, "x-later").say, attempt["id"], waitSec=60)
        while last_seen(api, "x-later") == seen:
            threading.Event().wait(0.01)
        down = worker.report({"id": attempt["id"], "result": "early"})
        assert waiting.result(WAIT_S) == {}
        while "attempts" not in down:
            down = worker.say(waitSec=WAIT_S)
        assert [one["id"] for one in listed(down["attempts"])] == [second["taskId"]]
        worker.report({"id": second["taskId"]})
    assert api.ended(first["taskId"])["result"] == "early"


def test_each_answer_acknowledges_its_own_results(api: Api) -> None:
    """Results by one connection while another waits: no answer names a batch that is not its own.
    """
    worker = Poller(api, "x-own")
    worker.register("x.own", capacity=8)
    ids = [api.task("x.own")["taskId"] for _ in range(8)]
    held: list[object] = []
    while len(held) < 8:
        held += [one["id"] for one in listed(worker.say(*held, waitSec=WAIT_S)["attempts"])]
    gate = threading.Barrier(8)

    def report(number: int) -> Json:
        with Api(api.daemon) as own:
            gate.wait()
            return Poller(own, "x-own").say(*held, seq=number + 1, results=[{"id": ids[number]}])

    with ThreadPoolExecutor(8) as pool:
        downs = list(pool.map(report, range(8)))
    assert [down["ack"] for down in downs] == list(range(1, 9))
    assert {api.ended(each)["state"] for each in ids} == {"Succeeded"}


def test_a_session_outlives_a_kill_of_the_daemon(tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon, Api(daemon) as api:
        worker = Poller(api, "x-kill")
        worker.register("x.kill")
        task = api.task("x.kill")
        attempt = worker.attempt()
        daemon.kill()
        daemon.start()
        refused(api.ask("POST", worker.path, {"session": "s", "holding": [attempt["id"]]}), 409,
                "session_unknown", "session")
        assert "attempts" not in worker.register("x.kill", holding=(attempt["id"],))
        worker.report({"id": attempt["id"], "result": "kept"})
        done = api.ended(task["taskId"])
        assert (done["result"], done["attempt"]) == ("kept", 1)


def test_a_daemon_that_leaves_answers_those_who_wait(tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon, Api(daemon) as api:
        worker = Poller(api, "x-leave")
        worker.register("x.leave")
        assert daemon.process is not None
        with ThreadPoolExecutor(1) as pool, Api(daemon) as other:
            seen = last_seen(other)
            threading.Event().wait(0.02)
            waiting = pool.submit(worker.say, waitSec=60)
            while last_seen(other) < seen + 10:     # the exchange arrived
                threading.Event().wait(0.01)
            begun = time.monotonic()
            daemon.process.terminate()
            assert waiting.result(WAIT_S) == {"drain": True}
            assert daemon.process.wait(WAIT_S) == 0
            assert time.monotonic() - begun < 8, "it waited for the worker's patience to end"


def last_seen(api: Api, worker_id: str = "x-leave") -> int:
    """When the worker was heard of last, in milliseconds."""
    seen = api.get(f"/v1/embedded-workers/{worker_id}")["lastSeen"]
    assert isinstance(seen, int)
    return seen
