"""/v1/limits and concurrency keys against the real program."""

from __future__ import annotations

import time

import pytest

from tests.api.live import Api, Json, listed, refused, serving, whole

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def key() -> str:
    return f"k/{time.monotonic_ns()}"


def slow(api: Api, **more: object) -> Json:
    return api.task("builtin.delay", payload={"seconds": 600}, **more)


def why(api: Api, task: Json) -> list[Json]:
    return listed(api.get(f"/v1/tasks/{task['taskId']}/why")["causes"])


def test_a_limit_is_written_shown_and_deleted(api: Api) -> None:
    name = key()
    path = f"/v1/limits/{name}"
    made = whole(api.ask("PUT", path, {"concurrency": 2, "rate": {"count": 5, "perSec": 0.5}}), 200)
    assert (made["key"], made["version"], made["concurrency"], made["rate"]) == (
        name, 1, 2, {"count": 5, "perSec": 0.5})
    assert api.get(path) == made
    assert made in api.items("/v1/limits?limit=1000")
    refused(api.ask("PUT", path, {"concurrency": 3}, headers={"if-match": '"4"'}), 412,
            "version_mismatch")
    changed = whole(api.ask("PUT", path, {"concurrency": 3}, headers={"if-match": '"1"'}), 200)
    assert (changed["version"], changed["rate"]) == (2, None)
    api.gone(path)
    refused(api.ask("GET", path), 404, "not_found")
    refused(api.ask("DELETE", path), 404, "not_found")


@pytest.mark.parametrize(("body", "field"), [
    ({}, "concurrency"), ({"concurrency": 0}, "concurrency"), ({"concurrency": "x"}, "concurrency"),
    ({"rate": {"count": 0, "perSec": 1}}, "rate.count"),
    ({"rate": {"count": 1, "perSec": 0}}, "rate.perSec"), ({"speed": 1}, "speed")])
def test_what_is_no_limit_is_refused(api: Api, body: Json, field: str) -> None:
    refused(api.ask("PUT", f"/v1/limits/{key()}", body), 422, "invalid", field)


def test_tasks_keep_to_their_keys_limit_through_a_change(api: Api) -> None:
    name = key()
    whole(api.ask("PUT", f"/v1/limits/{name}", {"concurrency": 1}), 200)
    first, second, third = (slow(api, concurrencyKey=name) for _ in range(3))
    shown = api.get(f"/v1/tasks/{second['taskId']}")
    assert (shown["state"], shown["concurrencyKey"]) == ("Pending", name)
    assert shown in api.items("/v1/tasks?state=Pending&limit=1000"), "a list tells the same"
    assert [cause["code"] for cause in why(api, second)] == ["concurrency_limit"]
    whole(api.ask("PUT", f"/v1/limits/{name}", {"concurrency": 2}), 200)
    api.http.get("/v1/status")
    assert api.get(f"/v1/tasks/{second['taskId']}")["state"] == "Running"
    whole(api.ask("POST", f"/v1/tasks/{first['taskId']}?action=cancel"), 200)
    assert api.get(f"/v1/tasks/{third['taskId']}")["state"] == "Running"
    for one in (second, third):
        whole(api.ask("POST", f"/v1/tasks/{one['taskId']}?action=cancel"), 200)


def test_skip_and_cancel(api: Api) -> None:
    name = key()
    first = slow(api, concurrencyKey=name, concurrencyLimit=1)
    skipped = slow(api, concurrencyKey=name, concurrencyLimit=1, onConflict="skip")
    gone = api.ended(skipped["taskId"])
    error = gone["error"]
    assert isinstance(error, dict)
    assert (gone["state"], error["code"]) == ("Canceled", "concurrency_skipped")
    newer = slow(api, concurrencyKey=name, concurrencyLimit=1, onConflict="cancel")
    assert api.ended(first["taskId"])["state"] == "Canceled"
    assert api.get(f"/v1/tasks/{newer['taskId']}")["state"] == "Running"
    whole(api.ask("POST", f"/v1/tasks/{newer['taskId']}?action=cancel"), 200)


def test_a_definition_names_a_key_and_a_run_another(api: Api) -> None:
    name = key()
    made = api.made("/v1/task-defs", {
        "name": name, "targetKind": "builtin", "targetRef": "builtin.delay",
        "defaultPayload": {"seconds": 600}, "concurrencyKey": name, "concurrencyLimit": 1})
    run = f"/v1/task-defs/{made['defId']}?action=run"
    tasks = [api.made(run), api.made(run), api.made(run, {"concurrencyKey": name + "x"})]
    assert [api.get(f"/v1/tasks/{one['taskId']}")["state"] for one in tasks] == [
        "Running", "Pending", "Running"]
    for one in reversed(tasks):
        whole(api.ask("POST", f"/v1/tasks/{one['taskId']}?action=cancel"), 200)


def test_a_task_that_may_not_begin_any_more(api: Api) -> None:
    def soon() -> int:
        return time.time_ns() // 1_000_000 + 1_500

    refused(api.ask("POST", "/v1/tasks", {"name": "nobody", "expireAt": soon() - 1_501}), 422,
            "invalid", "expireAt")
    held = api.task("nobody.does", expireAt=soon(), autoStart=False)
    over = api.ended(api.task("nobody.does", expireAt=soon())["taskId"])
    assert over["state"] == "Timeout"
    api.done("POST", f"/v1/tasks/{held['taskId']}?action=start")
    late = api.ended(held["taskId"])
    assert late["state"] == "Timeout", "it was started by hand, after its time"
