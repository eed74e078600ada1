"""Workers that die, sleep past their lease, or do not stop when they are told: B1, B2, B5, B24."""

from __future__ import annotations

import msgspec
import pytest

from plumd.sdk.protocol import Refused
from tests.daemon.plant import LEASE_S, Api, Hand, hand, wait_for
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
SLACK_S = 1.0


def test_b1_work_of_a_killed_worker_is_run_by_another_within_its_lease(daemon: Running) -> None:
    with hand(daemon, "doomed", 50) as doomed, Api(daemon) as api:
        ids = api.bulk([{"name": "soak.async", "payload": {"ms": 60_000 if n % 2 else 59_000}}
                        for n in range(50)])
        wait_for(lambda: doomed.count("start") == 50, "it holds all 50")
        with hand(daemon, "heir", 50) as heir:
            doomed.kill()
            took_s = wait_for(lambda: heir.count("start") == 50, "the heir has all 50")
            assert took_s < LEASE_S + SLACK_S
            again = {line.attempt_id for line in heir.lines()}
            assert again == {f"{task_id}.2" for task_id in ids}
            assert {task.worker for task in api.tasks("&state=Running")} == {"heir"}
            past = msgspec.json.decode(api.get(f"/v1/tasks/{ids[0]}/attempts"))
            assert (past[0]["ending"], past[0]["worker"]) == ("lost", "doomed")
            assert [worker["workerId"] for worker in api.workers() if worker["health"] != "Offline"
                    ] == ["heir"]
            canceled = api.post("/v1/tasks/bulk-cancel", {"taskIds": ids})
            assert canceled.status == 200, canceled
            wait_for(lambda: api.state().live == 0, "all slots are free")
            assert api.ended(api.submit("soak.async", payload={}).task_id).worker == "heir"


def test_b1_a_task_that_must_not_run_twice_fails(daemon: Running) -> None:
    with hand(daemon, "doomed") as doomed, Api(daemon) as api:
        task = api.submit("soak.async", payload={"ms": 60_000}, onLost="fail")
        wait_for(lambda: doomed.count("start") == 1, "it runs")
        doomed.kill()
        with hand(daemon, "heir") as heir:
            ended = api.ended(task.task_id)
            assert ended.state == "Failed"
            assert ended.error is not None
            assert (ended.error.code, ended.error.worker, ended.error.attempt) == (
                "lost", "doomed", 1)
            assert not heir.lines()


def test_b2_a_worker_that_slept_past_its_lease_has_no_say(daemon: Running) -> None:
    with hand(daemon, "sleeper") as sleeper, Api(daemon) as api:
        ids = [api.submit("soak.async", payload={"ms": 3_500 + 100 * n}).task_id
               for n in range(5)]
        wait_for(lambda: sleeper.count("start") == 5, "it holds them")
        sleeper.pause()
        with hand(daemon, "other") as other:
            wait_for(lambda: other.count("start") == 5, "another has them")
            sleeper.resume()
            # It comes back while they run elsewhere, and must end its own copies.
            ended = [api.ended(task_id) for task_id in ids]
            assert [(task.state, task.attempt, task.worker) for task in ended] == [
                ("Succeeded", 2, "other")] * 5
            wait_for(lambda: any(worker["workerId"] == "sleeper" for worker in api.workers()
                                 if worker["health"] != "Offline"), "it registers again")
            assert [api.task(task_id).ending for task_id in ids] == [
                task.ending for task in ended]
            assert sleeper.process.poll() is None
            api.submit("soak.async", payload={}, targetKind="worker", targetRef="sleeper")
            wait_for(lambda: sleeper.count("done") >= 1, "it takes new work")
            assert not {line.attempt_id for line in sleeper.lines()} & {
                line.attempt_id for line in other.lines()}


class Polling:
    """A worker that polls, by hand."""

    def __init__(self, api: Api, worker_id: str) -> None:
        self.api = api
        self.path = f"/v1/embedded-workers/{worker_id}/exchange"
        self.session = f"{worker_id}-1"

    def say(self, **message: object) -> tuple[int, dict[str, msgspec.Raw]]:
        """(status, what the daemon says)."""
        answer = self.api.post(self.path, {"session": self.session, "holding": [], **message})
        return answer.status, msgspec.json.decode(answer.body, type=dict[str, msgspec.Raw])


def test_b2_a_report_after_the_lease_is_refused(daemon: Running) -> None:
    with Api(daemon) as api:
        late = Polling(api, "late")
        status, _ = late.say(register={"session": "late-1", "tasks": ["t"], "beatSec": 0.5})
        assert status == 200
        task = api.submit("t")
        status, said = late.say(waitSec=5)
        assert task.task_id.encode() in bytes(said["attempts"])
        wait_for(lambda: api.task(task.task_id).state == "Pending", "its lease runs out")
        status, said = late.say(seq=1, results=[{"id": task.task_id, "result": 1}])
        assert (status, bytes(said["code"])) == (409, b'"session_unknown"')
        late.session = "late-2"
        status, said = late.say(register={"session": "late-2", "tasks": ["other"]},
                                holding=[task.task_id], seq=1,
                                results=[{"id": task.task_id, "result": 1}])
        assert status == 200
        refused = msgspec.json.decode(said["refused"], type=list[Refused])
        assert [(one.id, one.code) for one in refused] == [(task.task_id, "stale_attempt")]
        assert api.task(task.task_id).state == "Pending"


def ends_before(first: Hand, attempt_id: str, second_id: str) -> bool:
    """Whether an attempt ended on a worker before another began there."""
    at = {(line.word, line.attempt_id): line.at_s for line in first.lines()}
    return at["done", attempt_id] <= at["start", second_id]


def test_b5_a_retry_does_not_overlap_the_attempt_before_it(daemon: Running) -> None:
    """The handler does not care that it shall stop: its successor waits for its end."""
    with hand(daemon, "deaf") as worker, Api(daemon) as api:
        task = api.submit("soak.thread", payload={"ms": 2_000}, timeoutSec=0.3, maxRetries=1)
        wait_for(lambda: worker.count("start") == 2, "the second attempt starts")
        assert ends_before(worker, task.task_id, f"{task.task_id}.2")
        ended = api.ended(task.task_id)
        assert (ended.state, ended.attempt) == ("Timeout", 2)
        assert ended.error is not None
        assert (ended.error.code, ended.error.worker) == ("timeout", "deaf")


@pytest.mark.parametrize(("script", "exit_code", "signal"), [
    ("exit 7", 7, None), ("kill -9 $$", None, "SIGKILL"), ("kill -SEGV $$", None, "SIGSEGV")])
def test_b24_the_record_says_how_a_process_died(
        shared_daemon: Running, script: str, exit_code: int | None, signal: str | None) -> None:
    with Api(shared_daemon) as api:
        task = api.submit("p", executor="os_process",
                          payload={"command": "/bin/sh", "args": ["-c", script]})
        ended = api.ended(task.task_id)
        assert ended.state == "Failed"
        assert ended.error is not None
        assert (ended.error.exit_code, ended.error.signal) == (exit_code, signal)
        assert (ended.error.worker, ended.error.attempt) == ("local:os_process", 1)


def test_b24_the_record_names_the_attempt_that_failed(shared_daemon: Running) -> None:
    with hand(shared_daemon, "blamed"), Api(shared_daemon) as api:
        task = api.submit("soak.async", payload={"fail_until": 9}, maxRetries=1)
        ended = api.ended(task.task_id)
        assert ended.error is not None
        assert (ended.error.code, ended.error.worker, ended.error.attempt) == (
            "task_failed", "blamed", 2)
