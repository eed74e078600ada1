"""What must be the same after kill -9 and a new start: keys, runs, the event log, poison rows."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import msgspec
import pytest

from tests.daemon.plant import Api, change, crash, hand, rows, wait_for
from tests.daemon.running import Running
from tests.soak.__main__ import make_workflow
from tests.soak.wire import Frame, Run, Task, frames

pytestmark = pytest.mark.daemon
POISON = b"\xff\xfe\xfd"


def heard(daemon: Running, last_id: int = 0) -> list[Frame]:
    """The event log behind a number, as it is when nothing happens."""
    return list(frames(daemon.port, last_id, 0.5))


def test_an_idempotency_key_outlives_the_daemon(daemon: Running) -> None:
    body = {"name": "nobody.does", "labels": {"which": "one"}}
    with Api(daemon) as api:
        first = api.post("/v1/tasks", body, idempotency_key="k")
        assert first.status == 201
        crash(daemon, api)
        again = api.post("/v1/tasks", body, idempotency_key="k")
        other = api.post("/v1/tasks", {**body, "priority": 1}, idempotency_key="k")
        assert (again.status, other.status) == (201, 422)
        assert again.headers["idempotency-replayed"] == "true"
        found = [msgspec.json.decode(one.body, type=Task).task_id for one in (first, again)]
        assert found[0] == found[1]
        assert [task.task_id for task in api.tasks("&label=which=one")] == found[:1]


def test_a_run_goes_on_where_it_stood(daemon: Running) -> None:
    with hand(daemon, "w") as worker, Api(daemon) as api:
        workflow = make_workflow(api)
        answer = api.post(f"/v1/workflows/{workflow}?action=run", {"payload": {"seconds": 1.2}})
        run = msgspec.json.decode(answer.body, type=Run)
        path = f"/v1/workflow-runs/{run.run_id}"

        def state_of(step: int) -> str:
            found = msgspec.json.decode(api.get(path), type=Run)
            assert found.steps is not None
            return found.steps[step].state

        wait_for(lambda: state_of(1) == "Running", "the second step runs")
        crash(daemon, api)
        wait_for(lambda: state_of(2) == "Succeeded", "the third step ends")
        assert msgspec.json.decode(api.get(path), type=Run).state == "Succeeded"
        tasks = api.tasks(f"&runId={run.run_id}")
        assert sorted(task.step_id or "" for task in tasks) == ["0", "1", "2"]
        assert [task.attempt for task in tasks] == [1, 1, 1]
        assert worker.count("start") == worker.count("done") == 2


def test_the_event_log_is_the_same_before_and_after(daemon: Running) -> None:
    with Api(daemon) as api:
        for task_id in [api.submit("builtin.echo", payload=1).task_id for _ in range(5)]:
            api.ended(task_id)
        api.bulk([{"name": "builtin.echo"}] * 20)
        wait_for(lambda: api.state().live == 0, "all end")
    before = heard(daemon)
    assert [frame.id for frame in before] == sorted({frame.id for frame in before})
    middle = before[len(before) // 2].id
    assert heard(daemon, middle) == [frame for frame in before if frame.id > middle]
    daemon.kill()
    daemon.start()
    assert heard(daemon)[:len(before)] == before
    assert heard(daemon, middle)[0] == next(one for one in before if one.id > middle)
    assert daemon.stop() == 0
    records = rows(daemon, "SELECT first_seq, count FROM events ORDER BY first_seq")
    numbers = msgspec.convert(records, list[tuple[int, int]])
    assert all(first + count == following for (first, count), (following, _) in pairwise(numbers))
    assert sum(count for _, count in numbers) >= len(before) >= 50


def test_a_poison_task_is_set_aside_and_all_others_go_on(daemon: Running) -> None:
    with Api(daemon) as api:
        ids = [api.submit("soak.async", payload={}).task_id for _ in range(5)]
    daemon.kill()
    change(daemon, "UPDATE tasks SET name = CAST(? AS TEXT) WHERE id = ?",
           (POISON, int(ids[1], 16)))
    daemon.start()
    with hand(daemon, "w"), Api(daemon) as api:
        for task_id in (ids[0], *ids[2:]):
            assert api.ended(task_id).state == "Succeeded"
        assert api.state().live == 0
        assert {task.task_id: task.state for task in api.tasks()}[ids[1]] == "Failed"
    assert rows(daemon, "SELECT subject, row_id FROM quarantine") == [
        ("task", str(int(ids[1], 16)))]
    alerts = [frame for frame in heard(daemon) if frame.name == "alert"]
    assert len(alerts) == 1
    daemon.kill()
    daemon.start()
    assert len(rows(daemon, "SELECT id FROM quarantine")) == 1, "it is set aside once"


def test_a_poison_worker_is_set_aside(daemon: Running) -> None:
    with hand(daemon, "bad"), hand(daemon, "good"), Api(daemon) as api:
        daemon.kill()
        change(daemon, "UPDATE workers SET body = ? WHERE id = ?", (POISON, "bad"))
        daemon.start()
        api.close()
        task = api.submit("soak.async", payload={})
        assert api.ended(task.task_id).state == "Succeeded"
        assert "good" in {worker["workerId"] for worker in api.workers()}
    assert rows(daemon, "SELECT subject, row_id FROM quarantine") == [("worker", "bad")]


@pytest.mark.parametrize("column", ["pins", "version"])
def test_a_poison_run_is_set_aside(daemon: Running, column: str) -> None:
    with Api(daemon) as api:
        path = f"/v1/workflows/{make_workflow(api)}?action=run"
        answers = [api.post(path, {"payload": {}}) for _ in range(3)]
        runs = [msgspec.json.decode(one.body, type=Run).run_id for one in answers]
    daemon.kill()
    value: str | int = "[1, oops" if column == "pins" else 77
    change(daemon, f"UPDATE workflow_runs SET {column} = ? WHERE id = ?",
           (value, int(runs[1], 16)))
    daemon.start()
    with hand(daemon, "w"), Api(daemon) as api:
        for run_id in (runs[0], runs[2]):
            answer = api.call("GET", f"/v1/workflow-runs/{run_id}", headers={"Prefer": "wait=15"})
            assert msgspec.json.decode(answer.body, type=Run).state == "Succeeded"
        assert msgspec.json.decode(api.get(f"/v1/workflow-runs/{runs[1]}"), type=Run
                                   ).state == "Failed"
        assert api.call("GET", "/v1/workflow-runs").status == 200
    assert rows(daemon, "SELECT subject, row_id FROM quarantine") == [
        ("workflow_run", str(int(runs[1], 16)))]


GRAPH: dict[str, object] = {"name": "graph", "steps": [
    {"id": "hold", "type": "wait", "event": "go"},
    {"id": "nap", "type": "wait", "seconds": 0.6, "needs": []},
    {"id": "each", "type": "map", "needs": ["hold"], "items": [1, 2, 3, 4, 5, 6],
     "concurrency": 2, "body": [
         {"id": "work", "task": {"name": "builtin.echo"}, "payload": "${item * 10}"},
         {"id": "rest", "task": {"name": "builtin.delay"}, "payload": 0.15},
         {"id": "big", "type": "branch", "condition": "steps.work.result.echo > 30"}],
     "result": "${steps.work.result.echo + (steps.big.result ? 1 : 0)}"},
    {"id": "end", "task": {"name": "builtin.echo"}, "needs": ["each", "nap"],
     "payload": "${steps.each.result.results}"}],
    "result": "${steps.end.result.echo}"}


def test_a_graph_goes_on_exactly_where_it_stood(daemon: Running) -> None:
    with Api(daemon) as api:
        made = msgspec.json.decode(api.post("/v1/workflows", GRAPH).body, type=dict[str, object])
        answer = api.post(f"/v1/workflows/{made['workflowId']}?action=run", {})
        run = msgspec.json.decode(answer.body, type=Run)
        path = f"/v1/workflow-runs/{run.run_id}"

        def over(count: int) -> bool:
            page = api.get(f"{path}/steps?inside=each")
            found = msgspec.json.decode(page, type=list[dict[str, object]])
            return sum(one["state"] == "Succeeded" for one in found) >= count

        crash(daemon, api)          # while it waits
        assert api.post(f"{path}/steps/hold?action=complete", {}).status == 200
        for count in (1, 5, 11):    # and three times within the map
            wait_for(partial(over, count), "more of the map is done")
            crash(daemon, api)
        wait_for(lambda: msgspec.json.decode(api.get(path), type=Run).state != "Running",
                 "the run ends")
        done = msgspec.json.decode(api.get(path), type=dict[str, object])
        assert done["state"] == "Succeeded", done
        assert done["result"] == [10, 20, 30, 41, 51, 61]
        tasks = api.tasks(f"&runId={run.run_id}&limit=100")
        assert len(tasks) == len({task.step_id for task in tasks}) == 13


def test_a_worker_that_was_drained_stays_so_until_it_is_resumed(daemon: Running) -> None:
    path = "/v1/embedded-workers/w"
    register = {"session": "s", "holding": [],
                "register": {"session": "s", "tasks": ["t"]}}
    with Api(daemon) as api:
        assert api.post(f"{path}/exchange", register).status == 200
        assert api.post(f"{path}?action=drain").status == 200
        crash(daemon, api)
        assert api.post(f"{path}/exchange", register).status == 200
        task = api.submit("t")
        assert msgspec.json.decode(api.get(path))["health"] == "Draining"
        assert api.task(task.task_id).state == "Pending"
        assert api.post(f"{path}?action=resume").status == 200
        crash(daemon, api)
        given = api.post(f"{path}/exchange", register, prefer="wait=10")
        assert task.task_id in given.body.decode(), given
