"""/v1/task-defs against the real program."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.api.live import WAIT_S, Api, Json, refused, serving, whole

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

WHOLE: Json = {
    "name": "whole", "executor": "embedded", "targetKind": "labels", "targetRef": "a=b,c=d",
    "labels": {"team": "x"}, "defaultPayload": {"a": 1, "b": [2]}, "timeoutSec": 1.5,
    "queueTimeoutSec": 60, "maxRetries": 3, "priority": 8, "onLost": "fail",
    "overridable": ["args"], "concurrencyKey": "k", "concurrencyLimit": 2, "onConflict": "skip",
    "description": "All of it"}
KEYS = {*WHOLE, "defId", "version", "createdAt", "updatedAt"}


def make(api: Api, name: str, **body: object) -> Json:
    return api.made("/v1/task-defs", {"name": name, **body})


def test_from_create_to_delete(api: Api) -> None:
    answer = api.ask("POST", "/v1/task-defs", WHOLE)
    made = whole(answer, 201)
    path = f"/v1/task-defs/{made['defId']}"
    assert answer.headers["location"] == path
    assert answer.headers["etag"] == '"1"'
    assert set(made) == KEYS
    assert {key: made[key] for key in WHOLE} == WHOLE
    assert made["version"] == 1
    shown = api.ask("GET", path)
    assert whole(shown, 200) == made
    assert shown.headers["etag"] == '"1"'
    assert api.items("/v1/task-defs?name=whole") == [made]
    assert api.items("/v1/task-defs?name=other") == []
    changed = whole(api.ask("PUT", path, {"name": "whole", "priority": 1}), 200)
    assert (changed["version"], changed["priority"], changed["labels"]) == (2, 1, {})
    assert changed["createdAt"] == made["createdAt"]
    assert api.get(f"{path}?version=1")["labels"] == {"team": "x"}
    assert [one["version"] for one in api.items(f"{path}/versions")] == [2, 1]
    assert [one["version"] for one in api.walk(f"{path}/versions?limit=1")] == [2, 1]
    refused(api.ask("GET", f"{path}?version=3"), 404, "not_found")
    refused(api.ask("GET", f"{path}?version=0"), 422, "invalid", "version")
    api.gone(path)
    for method, tail, body in (("GET", "", None), ("PUT", "", {"name": "x"}), ("DELETE", "", None),
                               ("POST", "?action=run", {}), ("GET", "/versions", None)):
        refused(api.ask(method, path + tail, body), 404, "not_found")
    assert make(api, "whole")["defId"] != made["defId"], "the name is free again"


def test_a_name_is_given_once(api: Api) -> None:
    first, second = make(api, "taken"), make(api, "free")
    refused(api.ask("POST", "/v1/task-defs", {"name": "taken"}), 409, "exists", "name")
    refused(api.ask("PUT", f"/v1/task-defs/{second['defId']}", {"name": "taken"}), 409, "exists",
            "name")
    assert api.get(f"/v1/task-defs/{second['defId']}")["version"] == 1
    whole(api.ask("PUT", f"/v1/task-defs/{first['defId']}", {"name": "taken"}), 200)


def test_if_match_lets_one_of_many_through(api: Api) -> None:
    made = make(api, "contested")
    path = f"/v1/task-defs/{made['defId']}"

    def put(tag: str) -> httpx.Response:
        return httpx.put(api.daemon.url + path, json={"name": "contested"}, trust_env=False,
                         headers={"if-match": tag}, timeout=WAIT_S)

    gate = threading.Barrier(10)

    def race(_: int) -> httpx.Response:
        gate.wait()
        return put('"1"')

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(race, range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 9
    for answer in answers:
        if answer.status_code == 412:
            refused(answer, 412, "version_mismatch")
    assert api.get(path)["version"] == 2
    assert put("*").status_code == put('"3"').status_code == 200
    refused(put('"1", "2"'), 422, "invalid", "If-Match")
    refused(put('W/"4"'), 422, "invalid", "If-Match")
    assert api.get(path)["version"] == 4


def test_a_run_takes_the_definition_and_what_lies_over_it(api: Api) -> None:
    made = make(api, "layered", defaultPayload={"a": 1, "b": 1}, labels={"x": "1", "y": "1"},
                priority=2, maxRetries=4, timeoutSec=7)
    path = f"/v1/task-defs/{made['defId']}?action=run"
    plain = api.made(path)
    assert (plain["payload"], plain["labels"], plain["priority"], plain["maxRetries"],
            plain["timeoutSec"]) == ({"a": 1, "b": 1}, {"x": "1", "y": "1"}, 2, 4, 7)
    assert (plain["defId"], plain["defVersion"], plain["name"]) == (made["defId"], 1, "layered")
    run = api.made(path, {"payload": {"b": 2, "c": None}, "labels": {"y": "2"}, "priority": 9,
                          "maxRetries": 0, "timeoutSec": 0})
    assert (run["payload"], run["labels"], run["priority"], run["maxRetries"],
            run["timeoutSec"]) == ({"a": 1, "b": 2, "c": None}, {"x": "1", "y": "2"}, 9, 0, 0)
    assert api.made(path, {"payload": [1]})["payload"] == [1]
    assert api.made(path, {"payload": None})["payload"] == {"a": 1, "b": 1}
    by_name = api.task("layered", payload={"d": 4})
    assert (by_name["defId"], by_name["payload"]) == (made["defId"], {"a": 1, "b": 1, "d": 4})
    refused(api.ask("POST", path, {"executor": "service"}), 422, "invalid", "executor")
    refused(api.ask("POST", path.replace("run", "walk"), {}), 422, "invalid", "action")
    refused(api.ask("POST", path.partition("?")[0], {}), 422, "invalid", "action")


def test_a_task_keeps_the_version_that_it_began_with(api: Api) -> None:
    made = make(api, "moving", defaultPayload=1)
    path = f"/v1/task-defs/{made['defId']}"
    first = api.made(f"{path}?action=run")
    whole(api.ask("PUT", path, {"name": "moved", "defaultPayload": 2}), 200)
    second = api.made(f"{path}?action=run")
    assert (second["defVersion"], second["name"], second["payload"]) == (2, "moved", 2)
    kept = api.get(f"/v1/tasks/{first['taskId']}")
    assert (kept["defVersion"], kept["name"], kept["payload"]) == (1, "moving", 1)
    again = api.made(f"/v1/tasks/{first['taskId']}?action=rerun")
    assert (again["defVersion"], again["payload"]) == (1, 1)
    assert api.task("moving")["defId"] is None, "the old name means no definition any more"
    api.gone(path)
    assert api.get(f"/v1/tasks/{first['taskId']}")["defId"] == made["defId"]


def test_an_os_process_lets_a_run_change_what_its_definition_names(api: Api) -> None:
    made = make(api, "process", executor="os_process", overridable=["args"],
                defaultPayload={"command": "echo", "args": ["a"]})
    path = f"/v1/task-defs/{made['defId']}?action=run"
    refused(api.ask("POST", path, {"payload": {"command": "rm"}}), 422, "invalid",
            "payload.command")
    refused(api.ask("POST", path, {"payload": {"env": {}}}), 422, "invalid", "payload.env")
    refused(api.ask("POST", path, {"payload": "x"}), 422, "invalid", "payload")
    refused(api.ask("POST", "/v1/tasks", {"name": "process", "payload": {"command": "rm"}}), 422,
            "invalid", "payload.command")
    task = api.ended(api.made(path, {"payload": {"args": ["b"]}})["taskId"])
    assert task["state"] == "Succeeded", task
    assert task["result"]["stdout"] == "b\n"  # type: ignore[index]
    assert api.ask("GET", f"/v1/tasks/{task['taskId']}/logs").text == "b\n"


def test_what_a_workflow_uses_stays(api: Api) -> None:
    made = make(api, "used")
    workflow = api.made("/v1/workflows", {"name": "user", "steps": [
        {"definitionId": made["defId"]}]})
    refused(api.ask("DELETE", f"/v1/task-defs/{made['defId']}"), 409, "wrong_state")
    api.gone(f"/v1/workflows/{workflow['workflowId']}")
    api.gone(f"/v1/task-defs/{made['defId']}")


@pytest.mark.parametrize("limit", [1, 2, 1000])
def test_pages(api: Api, limit: int) -> None:
    made = [make(api, f"page-{limit}-{index}")["defId"] for index in range(3)]
    seen: list[object] = []
    for one in api.walk(f"/v1/task-defs?limit={limit}"):
        if not seen:
            make(api, f"page-{limit}-new")
        seen.append(one["defId"])
    assert len(set(seen)) == len(seen)
    assert seen[:3] == made[::-1]
    assert seen == sorted(seen, key=str, reverse=True)


def test_one_key_makes_one_definition(api: Api) -> None:
    key = {"idempotency-key": "definition"}
    before = api.count()
    made = whole(api.ask("POST", "/v1/task-defs", {"name": "keyed"}, headers=key), 201)
    api.done("PUT", f"/v1/task-defs/{made['defId']}", {"name": "keyed", "priority": 1})
    again = whole(api.ask("POST", "/v1/task-defs", {"name": "keyed"}, headers=key), 201)
    assert (again["defId"], again["version"]) == (made["defId"], 2)
    refused(api.ask("POST", "/v1/task-defs", {"name": "keyed2"}, headers=key), 422,
            "idempotency_key_reused", "Idempotency-Key")
    run = [whole(api.ask("POST", f"/v1/task-defs/{made['defId']}?action=run", {}, headers=key),
                 201)["taskId"] for _ in range(3)]
    assert len(set(run)) == 1
    after = api.count()
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)


def test_a_large_default_payload(api: Api) -> None:
    made = make(api, "heavy", defaultPayload="x" * 200_000)
    assert api.get(f"/v1/task-defs/{made['defId']}")["defaultPayload"] == "x" * 200_000
    run = api.made(f"/v1/task-defs/{made['defId']}?action=run")
    assert run["omitted"] == ["payload"]
    assert api.get(f"/v1/tasks/{run['taskId']}")["payload"] == "x" * 200_000
