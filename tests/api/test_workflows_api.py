"""/v1/workflows and /v1/workflow-runs against the real program."""

from __future__ import annotations

import time

import pytest

from tests.api.live import WAIT_S, Api, Json, refused, serving, whole

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

WAIT = {"prefer": f"wait={WAIT_S}"}
OVER = {"Succeeded", "Failed", "Timeout", "Canceled"}


def definition(api: Api, builtin: str, **body: object) -> object:
    """A definition of a builtin, under a name of its own."""
    name = f"{builtin.removeprefix('builtin.')}/{time.monotonic_ns()}"
    return api.made("/v1/task-defs", {
        "name": name, "targetKind": "builtin", "targetRef": builtin, **body})["defId"]


def workflow(api: Api, name: str, *steps: object) -> Json:
    return api.made("/v1/workflows", {"name": name, "steps": [
        step if isinstance(step, dict) else {"definitionId": step} for step in steps]})


def run(api: Api, made: Json, body: object = None) -> Json:
    """A run of a workflow, at its end."""
    answer = api.ask("POST", f"/v1/workflows/{made['workflowId']}?action=run", body, headers=WAIT)
    found = whole(answer, 201)
    assert answer.headers["location"] == f"/v1/workflow-runs/{found['runId']}"
    assert found["state"] in OVER
    return found


def steps_of(found: Json) -> list[Json]:
    steps: list[Json] = found["steps"]  # type: ignore[assignment]
    return steps


def test_steps_run_one_after_another(api: Api) -> None:
    echo = definition(api, "builtin.echo", defaultPayload={"a": 1, "b": 1, "c": 1})
    made = workflow(api, "two steps", {
        "definitionId": echo, "name": "second", "ord": 2, "payload": {"b": 2}}, {
        "definitionId": echo, "name": "first", "ord": 1, "timeoutSec": 9, "maxRetries": 1})
    assert [step["name"] for step in steps_of(made)] == ["first", "second"]
    assert api.get(f"/v1/workflows/{made['workflowId']}") == made
    done = run(api, made, {"payload": {"c": 3}})
    assert done["state"] == "Succeeded"
    assert (done["workflowId"], done["workflowVersion"], done["name"], done["payload"]) == (
        made["workflowId"], 1, "two steps", {"c": 3})
    first, second = (api.get(f"/v1/tasks/{step['taskId']}") for step in steps_of(done))
    assert first["payload"] == {"a": 1, "b": 1, "c": 3}
    assert second["payload"] == {"a": 1, "b": 2, "c": 3}
    assert (first["timeoutSec"], first["maxRetries"]) == (9, 1)
    assert (first["runId"], first["stepId"], second["stepId"]) == (done["runId"], "0", "1")
    assert first["finishedAt"] <= second["createdAt"]  # type: ignore[operator]
    ids = {task["taskId"] for task in api.items(f"/v1/tasks?runId={done['runId']}")}
    assert ids == {first["taskId"], second["taskId"]}
    assert api.get(f"/v1/workflow-runs/{done['runId']}") == done


def test_a_step_is_called_by_its_name_its_id_or_what_it_runs(api: Api) -> None:
    kept = definition(api, "builtin.echo", name="called")
    made = api.made("/v1/workflows", {"name": "called", "steps": [
        {"definitionId": kept}, {"id": "own", "definitionId": kept},
        {"id": "inner", "task": {"name": "builtin.echo"}},
        {"id": "named", "name": "Named", "definitionId": kept}]})
    run = api.made(f"/v1/workflows/{made['workflowId']}?action=run", {}, prefer="wait=30")
    assert [step["name"] for step in steps_of(run)] == ["called", "own", "inner", "Named"]


def test_the_first_failure_ends_the_run(api: Api) -> None:
    made = workflow(api, "fails", definition(api, "builtin.echo"), definition(api, "builtin.fail"),
                    definition(api, "builtin.echo"))
    done = run(api, made)
    assert done["state"] == "Failed"
    assert [step["state"] for step in steps_of(done)] == ["Succeeded", "Failed", "Skipped"]
    assert steps_of(done)[2]["taskId"] is None
    refused(api.ask("POST", f"/v1/workflow-runs/{done['runId']}?action=cancel"), 409,
            "wrong_state")


def test_a_workflow_without_nodes_in_the_old_form_succeeds_at_once(api: Api) -> None:
    made = api.made("/v1/dag/workflows", {"name": "empty", "nodes": {}})
    assert run(api, made)["state"] == "Succeeded"


def test_cancel_stops_the_live_step_and_what_follows(api: Api) -> None:
    made = workflow(api, "slow", definition(api, "builtin.delay", defaultPayload=3600),
                    definition(api, "builtin.echo"))
    live = api.made(f"/v1/workflows/{made['workflowId']}?action=run")
    assert [step["state"] for step in steps_of(live)][1] == "Waiting"
    path = f"/v1/workflow-runs/{live['runId']}"
    task_id = steps_of(api.get(path))[0]["taskId"]
    refused(api.ask("DELETE", path), 409, "wrong_state")
    refused(api.ask("DELETE", f"/v1/workflows/{made['workflowId']}"), 409, "wrong_state")
    refused(api.ask("DELETE", f"/v1/tasks/{task_id}"), 409, "wrong_state")
    whole(api.ask("POST", f"{path}?action=cancel"), 200)
    done = whole(api.ask("GET", path, headers=WAIT), 200)
    assert done["state"] == "Canceled"
    assert done["cancelRequestedAt"]
    assert [step["state"] for step in steps_of(done)] == ["Canceled", "Skipped"]
    assert api.get(f"/v1/tasks/{task_id}")["state"] == "Canceled"
    assert whole(api.ask("POST", f"{path}?action=cancel"), 200) == done
    api.gone(path)
    refused(api.ask("GET", path), 404, "not_found")
    refused(api.ask("DELETE", path), 404, "not_found")
    refused(api.ask("POST", f"{path}?action=cancel"), 404, "not_found")
    refused(api.ask("GET", f"/v1/tasks/{task_id}"), 404, "not_found")


def test_a_run_keeps_its_versions(api: Api) -> None:
    delay = definition(api, "builtin.delay", defaultPayload=0.4)
    echo = definition(api, "builtin.echo", defaultPayload="old")
    made = workflow(api, "pinned", delay, echo)
    path = f"/v1/workflows/{made['workflowId']}"
    live = api.made(f"{path}?action=run")
    old = api.get(f"/v1/task-defs/{echo}")
    api.done("PUT", f"/v1/task-defs/{echo}", {
        "name": old["name"], "targetKind": "builtin", "targetRef": "builtin.fail"})
    said: Json = {"name": "pinned", "steps": [{"type": "parallel"}]}
    answer = api.ask("PUT", path, said, headers={"if-match": '"1"'})
    assert whole(answer, 200)["version"] == 2
    assert answer.headers["etag"] == '"2"'
    refused(api.ask("PUT", path, said, headers={"if-match": '"1"'}), 412, "version_mismatch")
    done = whole(api.ask("GET", f"/v1/workflow-runs/{live['runId']}", headers=WAIT), 200)
    assert (done["state"], done["workflowVersion"]) == ("Succeeded", 1)
    assert [step["definitionVersion"] for step in steps_of(done)] == [1, 1]
    assert api.get(f"/v1/tasks/{steps_of(done)[1]['taskId']}")["result"] == {"echo": "old"}
    assert run(api, made)["workflowVersion"] == 2


def test_deleting_a_workflow_takes_its_history_along(api: Api) -> None:
    made = workflow(api, "forgotten", definition(api, "builtin.echo"))
    runs = [run(api, made) for _ in range(3)]
    api.gone(f"/v1/workflows/{made['workflowId']}")
    path = f"/v1/workflows/{made['workflowId']}"
    for method, tail, body in (("GET", "", None), ("DELETE", "", None), ("POST", "?action=run", {}),
                               ("PUT", "", {"name": "x", "steps": [{"type": "parallel"}]})):
        refused(api.ask(method, path + tail, body), 404, "not_found")
    assert api.items("/v1/workflows?name=forgotten") == []
    until = time.monotonic() + WAIT_S
    while api.items(f"/v1/workflow-runs?workflowId={made['workflowId']}"):
        assert time.monotonic() < until, "the history stays"
    for each in runs:
        refused(api.ask("GET", f"/v1/workflow-runs/{each['runId']}"), 404, "not_found")
        assert api.items(f"/v1/tasks?runId={each['runId']}") == []
        refused(api.ask("GET", f"/v1/tasks/{steps_of(each)[0]['taskId']}"), 404, "not_found")
    assert workflow(api, "forgotten", {"type": "parallel"})["workflowId"] != made["workflowId"]


def test_one_key_makes_one_workflow_and_one_run(api: Api) -> None:
    key = {"idempotency-key": "flow"}
    before = api.count()
    body = {"name": "keyed", "steps": [{"definitionId": definition(api, "builtin.echo")}]}
    ids = {whole(api.ask("POST", "/v1/workflows", body, headers=key), 201)["workflowId"]
           for _ in range(3)}
    assert len(ids) == 1
    path = f"/v1/workflows/{ids.pop()}?action=run"
    first = whole(api.ask("POST", path, {"payload": 1}, headers=key), 201)
    again = whole(api.ask("POST", path, {"payload": 1}, headers={**key, **WAIT}), 201)
    assert again["runId"] == first["runId"]
    assert again["state"] == "Succeeded", "a repetition waits too"
    refused(api.ask("POST", path, {"payload": 2}, headers=key), 422, "idempotency_key_reused",
            "Idempotency-Key")
    after = api.count()
    assert (after[2] - before[2], after[3] - before[3]) == (1, 1)


@pytest.mark.parametrize("limit", [1, 2, 1000])
def test_pages_and_filters_of_runs(api: Api, limit: int) -> None:
    good = workflow(api, f"good {limit}", definition(api, "builtin.echo"))
    bad = workflow(api, f"bad {limit}", definition(api, "builtin.fail"))
    ids = [run(api, good)["runId"] for _ in range(3)]
    failed = run(api, bad)["runId"]
    seen: list[object] = []
    for each in api.walk(f"/v1/workflow-runs?workflowId={good['workflowId']}&limit={limit}"):
        if not seen:
            run(api, good)
        assert each["steps"] is None
        seen.append(each["runId"])
    assert seen == ids[::-1]
    query = f"/v1/workflow-runs?workflowId={bad['workflowId']}&limit={limit}&state="
    assert [each["runId"] for each in api.walk(query + "failed")] == [failed]
    assert list(api.walk(query + "Succeeded")) == []
    names = [each["name"] for each in api.walk(f"/v1/workflows?limit={limit}")]
    assert names[:2] == [f"bad {limit}", f"good {limit}"]
    assert len(set(names)) == len(names)
    for query, field in (("workflowId=x", "workflowId"), ("state=x", "state"),
                         ("limit=0", "limit"), ("cursor=x", "cursor")):
        refused(api.ask("GET", f"/v1/workflow-runs?{query}"), 422, "invalid", field)


def test_bad_workflows_are_refused_whole(api: Api) -> None:
    echo = definition(api, "builtin.echo")
    before = api.count()
    for steps, field in (
            ([{"definitionId": "0"}], "steps[0].definitionId"),
            ([{"definitionId": echo}, {"definitionId": "x"}], "steps[1].definitionId"),
            ([{"definitionId": echo, "executor": "service"}], "steps[0].executor"),
            ([{"definitionId": echo, "timeoutSec": -1}], "steps[0].timeoutSec"),
            ([{"definitionId": echo, "maxRetries": 1001}], "steps[0].maxRetries"),
            ([{"definitionId": echo, "more": 1}], "steps[0].more"),
            ([{}], "steps[0].definitionId"), ([1], "steps[0]"), ({}, "steps"), ([], "steps"),
            ([{"definitionId": echo}] * 5001, "steps")):
        refused(api.ask("POST", "/v1/workflows", {"name": "bad", "steps": steps}), 422, "invalid",
                field)
    refused(api.ask("POST", "/v1/workflows", {"name": "bad"}), 422, "invalid", "steps")
    made = workflow(api, "good", echo)
    path = f"/v1/workflows/{made['workflowId']}?action=run"
    refused(api.ask("POST", path, {"payload": "x" * 70_000}), 413, "too_large", "payload")
    refused(api.ask("POST", path, {"payloads": 1}), 422, "invalid", "payloads")
    refused(api.ask("POST", "/v1/workflows", {"name": "good", "steps": [{"type": "parallel"}]}),
            409, "exists", "name")
    after = api.count()
    assert (after[2], after[3]) == (before[2] + 1, before[3])
