"""Lists of tasks, counts, groups of failures and actions on many, against the real program."""

from __future__ import annotations

import time

import pytest

from tests.api.live import WAIT_S, Api, Json, listed, refused, serving

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

ACT = "/v1/tasks/bulk-actions"


def ids(items: list[Json]) -> list[object]:
    return [item["taskId"] for item in items]


def held(api: Api, count: int, **body: object) -> list[object]:
    """Tasks that wait to be started."""
    answer = api.done("POST", "/v1/tasks/bulk", {
        "tasks": [{"name": "builtin.echo", "autoStart": False, **body}] * count})
    return ids(listed(answer["results"]))


def test_filters_and_order(api: Api) -> None:
    labels = {"test": "filters"}
    done = [api.ended(api.task(labels=labels)["taskId"]) for _ in range(3)]
    bad = api.ended(api.task("builtin.fail", labels=labels)["taskId"])
    waiting = held(api, 2, labels=labels)
    everything = [*waiting[::-1], bad["taskId"], *ids(done)[::-1]]
    error = bad["error"]
    assert isinstance(error, dict)
    base = "/v1/tasks?label=test=filters"
    for query, expected in (
            ("", everything), ("&order=newest", everything), ("&order=oldest", everything[::-1]),
            ("&state=queued", waiting[::-1]), ("&state=Failed,Queued", everything[:3]),
            ("&state=Succeeded", ids(done)[::-1]), ("&name=builtin.fail", [bad["taskId"]]),
            ("&workerId=local:builtin", everything[2:]), ("&workerId=other", []),
            ("&executor=embedded", everything), ("&executor=service", []),
            (f"&errorCode={error['code']}", [bad["taskId"]]), ("&errorCode=none", []),
            (f"&createdFrom={bad['createdAt']}", everything[:3]),
            (f"&createdTo={done[0]['createdAt']}", [done[0]["taskId"]]),
            ("&runId=1", []), ("&defId=1", [])):
        assert ids(api.items(base + query)) == expected, query
        assert list(ids(list(api.walk(f"{base}{query}&limit=1")))) == expected, query
        assert api.get(f"/v1/tasks/count?label=test=filters{query}") == {
            "count": len(expected), "exact": True}, query


@pytest.mark.parametrize(("query", "field"), [
    ("state=Failed,Broken", "state"), ("label=x", "label"), ("label=", "label"),
    ("label==x", "label"), ("defId=xyz!", "defId"), ("runId=0", "runId"),
    ("createdFrom=-1", "createdFrom"), ("createdTo=x", "createdTo"),
    ("executor=shell", "executor"), ("name=" + "x" * 1001, "name"),
])
def test_bad_filters(api: Api, query: str, field: str) -> None:
    refused(api.ask("GET", f"/v1/tasks?{query}"), 422, "invalid", field)
    refused(api.ask("GET", f"/v1/tasks/count?{query}"), 422, "invalid", field)


def test_bad_order_and_cursor(api: Api) -> None:
    refused(api.ask("GET", "/v1/tasks?order=random"), 422, "invalid", "order")
    refused(api.ask("GET", "/v1/tasks?cursor=!"), 422, "invalid", "cursor")


def test_failures_are_grouped(api: Api) -> None:
    before = {group["fingerprint"]: group for group in api.items("/v1/tasks/failures")}
    for number in (17, 4711):
        api.ended(api.task("builtin.fail", payload={"message": f"disk {number} is full"})["taskId"])
    last = api.ended(api.task("builtin.fail", payload={"message": "disk 9 is full"})["taskId"])
    new = [group for group in api.items("/v1/tasks/failures")
           if group != before.get(group["fingerprint"])]
    assert len(new) == 1
    assert set(new[0]) == {"fingerprint", "name", "code", "message", "count", "firstAt", "lastAt",
                           "lastTaskId", "exitCode", "signal"}
    assert (new[0]["count"], new[0]["lastTaskId"]) == (3, last["taskId"])
    assert "disk 9" in str(new[0]["message"])
    assert len(api.items("/v1/tasks/failures?limit=1")) == 1
    refused(api.ask("GET", "/v1/tasks/failures?limit=0"), 422, "invalid", "limit")


def test_cancel_what_a_filter_finds(api: Api) -> None:
    waiting = held(api, 450, labels={"test": "cancel"})
    over = api.ended(api.task(labels={"test": "cancel"})["taskId"])
    ask = {"action": "cancel", "filter": {"label": "test=cancel"}}
    told = {"exact": True, "failed": 0, "results": []}
    assert api.done("POST", ACT, {**ask, "preview": True}) == {
        **told, "matched": 450, "done": 0}, "a preview counts and changes nothing"
    assert api.get("/v1/tasks/count?label=test=cancel&state=Queued")["count"] == 450
    assert api.done("POST", ACT, ask) == {**told, "matched": 450, "done": 450}
    assert api.get("/v1/tasks/count?label=test=cancel&state=Canceled")["count"] == 450
    assert api.get(f"/v1/tasks/{over['taskId']}")["state"] == "Succeeded"
    assert api.done("POST", ACT, ask) == {**told, "matched": 0, "done": 0}
    again = api.done("POST", ACT, {"action": "cancel", "taskIds": [waiting[0], waiting[0]]})
    assert again == {**told, "matched": 1, "done": 1}, "canceling twice is no mistake"


def test_each_failure_is_told(api: Api) -> None:
    over = api.ended(api.task()["taskId"])["taskId"]
    [waiting] = held(api, 1)
    acted = api.done("POST", ACT, {"action": "cancel", "taskIds": [over, waiting, "abc"]})
    assert (acted["matched"], acted["done"], acted["failed"]) == (3, 1, 2)
    assert [(item["taskId"], item["error"]["code"]) for item in listed(acted["results"])    # type: ignore[index]
            ] == [(over, "wrong_state"), ("000000000000abc", "not_found")]
    [waiting] = held(api, 1)
    acted = api.done("POST", ACT, {"action": "delete", "taskIds": [waiting, over]})
    assert (acted["done"], acted["failed"]) == (1, 1)
    refused(api.ask("GET", f"/v1/tasks/{over}"), 404, "not_found")
    many = [f"{number:x}" for number in range(1, 251)]
    acted = api.done("POST", ACT, {"action": "rerun", "taskIds": many})
    assert (acted["failed"], len(listed(acted["results"]))) == (250, 100)


def test_rerun_once_per_key(api: Api) -> None:
    for _ in range(3):
        api.ended(api.task("builtin.echo", payload={"n": 1}, labels={"test": "rerun"})["taskId"])
    body = {"action": "rerun", "filter": {"label": "test=rerun", "state": ["Succeeded"]}}
    first = api.ask("POST", ACT, body, headers={"idempotency-key": "rerun-1"})
    assert first.json() == {"matched": 3, "exact": True, "done": 3, "failed": 0, "results": []}
    again = api.ask("POST", ACT, body, headers={"idempotency-key": "rerun-1"})
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    items = api.items("/v1/tasks?label=test=rerun")
    assert len(items) == 6
    for item in items[:3]:
        assert api.ended(item["taskId"])["result"] == {"echo": {"n": 1}}
    assert {item["originTaskId"] for item in items[:3]} == set(ids(items[3:]))


def test_delete_what_a_filter_finds(api: Api) -> None:
    for number in range(90):
        api.task(labels={"test": "delete"}, payload=number)
    held(api, 5, labels={"test": "delete"})
    until = time.monotonic() + WAIT_S
    while api.get("/v1/tasks/count?label=test=delete&state=Succeeded")["count"] != 90:
        assert time.monotonic() < until
    body = {"action": "delete", "filter": {"label": "test=delete"}}
    first = api.ask("POST", ACT, body, headers={"idempotency-key": "delete-1"})
    assert first.json() == {"matched": 90, "exact": True, "done": 90, "failed": 0, "results": []}
    again = api.ask("POST", ACT, body, headers={"idempotency-key": "delete-1"})
    assert again.json() == first.json()
    assert api.get("/v1/tasks/count?label=test=delete") == {"count": 5, "exact": True}
    other = {**body, "action": "cancel"}
    refused(api.ask("POST", ACT, other, headers={"idempotency-key": "delete-1"}), 422,
            "idempotency_key_reused", "Idempotency-Key")


@pytest.mark.parametrize(("body", "field"), [
    ({"action": "cancel"}, "taskIds"),
    ({"action": "cancel", "taskIds": [], "filter": {}}, "taskIds"),
    ({"action": "explode", "filter": {}}, "action"),
    ({"action": "cancel", "taskIds": ["1", "no id"]}, "taskIds[1]"),
    ({"action": "cancel", "filter": {"state": ["Broken"]}}, "filter.state[0]"),
    ({"action": "cancel", "filter": {"label": "x"}}, "filter.label"),
    ({"action": "cancel", "filter": {"runId": "?"}}, "filter.runId"),
    ({"action": "cancel", "filter": {"weather": "fine"}}, "filter.weather"),
    ({"action": "cancel", "taskIds": ["1"] * 10_001}, "taskIds"),
    ({"filter": {}}, "action"),
])
def test_bad_actions(api: Api, body: Json, field: str) -> None:
    before = api.get("/v1/tasks/count")
    refused(api.ask("POST", ACT, body), 422, "invalid", field)
    assert api.get("/v1/tasks/count") == before
