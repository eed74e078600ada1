"""/v1/schedules and /v1/calendars against the real program."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from tests.api.live import Api, Json, refused, serving, whole
from tests.daemon.plant import wait_for

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def unique(name: str) -> str:
    return f"{name}/{time.monotonic_ns()}"


def definition(api: Api, builtin: str = "builtin.echo", **body: object) -> object:
    return api.made("/v1/task-defs", {
        "name": unique(builtin.removeprefix("builtin.")), "targetKind": "builtin",
        "targetRef": builtin, **body})["defId"]


def schedule(api: Api, **body: object) -> Json:
    given: Json = {"name": unique("s"), **body}
    if "workflowId" not in given and "defId" not in given:
        given["defId"] = definition(api)
    if not {"cron", "everySec", "at"} & set(given):
        given["cron"] = "0 0 1 1 *"
    return api.made("/v1/schedules", given)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def path(made: Json, *more: str) -> str:
    return "/".join(("/v1/schedules", str(made["scheduleId"]), *more))


def test_one_is_made_shown_changed_and_deleted(api: Api) -> None:
    body: Json = {"name": unique("nightly"), "defId": definition(api), "cron": "30 2 * * *",
                  "timeZone": "Europe/Berlin", "payload": {"a": 1}}
    answer = api.ask("POST", "/v1/schedules", body)
    made = whole(answer, 201)
    assert answer.headers["location"] == path(made)
    assert answer.headers["etag"] == '"1"'
    assert (made["dstGap"], made["dstOverlap"], made["overlapPolicy"], made["missedPolicy"]) == (
        "shift", "first", "skip", "last")
    assert made["payload"] == {"a": 1}
    assert api.get(path(made)) == made
    assert api.items(f"/v1/schedules?name={body['name']}") == [made]
    assert made in api.items("/v1/schedules?limit=1000")
    stale = api.ask("PUT", path(made), {**body, "cron": "0 * * * *"}, headers={"if-match": '"9"'})
    refused(stale, 412, "version_mismatch")
    changed = whole(api.ask("PUT", path(made), {**body, "cron": "0 * * * *"},
                            headers={"if-match": '"1"'}), 200)
    assert (changed["version"], changed["cron"], changed["dstOverlap"]) == (2, "0 * * * *", "both")
    assert changed["nextAt"] != made["nextAt"]
    refused(api.ask("POST", "/v1/schedules", body), 409, "exists", "name")
    api.gone(path(made))
    refused(api.ask("GET", path(made)), 404, "not_found")


def test_the_same_key_makes_one(api: Api) -> None:
    body = {"name": unique("keyed"), "defId": definition(api), "everySec": 3600}
    key = {"idempotency-key": unique("key")}
    first, again = (api.ask("POST", "/v1/schedules", body, headers=key) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    made = first.json()
    triggered, once_more = (api.ask("POST", path(made) + "?action=trigger", {}, headers={
        "idempotency-key": str(made["scheduleId"])}) for _ in range(2))
    assert triggered.json()["taskId"] == once_more.json()["taskId"]
    assert once_more.headers["idempotency-replayed"] == "true"
    assert len(api.items(path(made, "fires"))) == 1


@pytest.mark.parametrize(("change", "field"), [
    ({"cron": "61 * * * *"}, "cron"), ({"cron": "@never"}, "cron"),
    ({"cron": "0 0 30 2 *"}, "cron"),
    ({"cron": None}, "cron"), ({"everySec": 5}, "cron"), ({"timeZone": "Mars/Base"}, "timeZone"),
    ({"timeZone": "../../etc/passwd"}, "timeZone"), ({"defId": "ffff"}, "defId"),
    ({"defId": None}, "workflowId"), ({"workflowId": "1"}, "workflowId"),
    ({"defId": None, "workflowId": "ffff"}, "workflowId"), ({"name": ""}, "name"),
    ({"dstGap": "jump"}, "dstGap"), ({"dstOverlap": "third"}, "dstOverlap"),
    ({"overlapPolicy": "x"}, "overlapPolicy"), ({"missedPolicy": "x"}, "missedPolicy"),
    ({"missedWindowSec": -1}, "missedWindowSec"), ({"jitterSec": 1e9}, "jitterSec"),
    ({"cron": None, "everySec": 0.1}, "everySec"), ({"startAt": 5, "endAt": 4}, "endAt"),
    ({"endAt": 5}, "endAt"), ({"cron": None, "at": 5}, "at"), ({"calendars": ["none"]},
                                                                "calendars[0]"),
    ({"calendars": ["a", "a"]}, "calendars"), ({"colour": "red"}, "colour")])
def test_what_is_wrong_is_named_and_nothing_is_made(api: Api, change: Json, field: str) -> None:
    name = unique("bad")
    body = {"name": name, "defId": definition(api), "cron": "0 0 1 1 *", **change}
    answer = api.ask("POST", "/v1/schedules", {
        key: value for key, value in body.items() if value is not None})
    assert answer.status_code in (404, 422), answer.text
    assert answer.json()["field"] == field, answer.text
    assert api.items(f"/v1/schedules?name={name}") == []


def test_a_payload_that_the_task_would_refuse_is_refused_at_once(api: Api) -> None:
    fixed = api.made("/v1/task-defs", {"name": unique("p"), "executor": "os_process",
                                       "defaultPayload": {"command": "true"}})["defId"]
    answer = api.ask("POST", "/v1/schedules", {
        "name": unique("x"), "cron": "* * * * *", "defId": fixed,
        "payload": {"command": "rm"}})
    refused(answer, 422, "invalid", "payload.command")


def test_the_preview_marks_what_daylight_saving_does(api: Api) -> None:
    begin = int(datetime(2026, 10, 24, tzinfo=UTC).timestamp() * 1000)
    body = {"name": "draft", "defId": definition(api), "cron": "30 2 * * *",
            "timeZone": "Europe/Berlin", "dstOverlap": "both", "jitterSec": 60}
    answer = api.ask("POST", f"/v1/schedules/preview?count=3&from={begin}", body)
    slots = answer.json()
    assert [(one["local"], one["offsetSec"], one["dst"]) for one in slots] == [
        ("2026-10-24T02:30:00+02:00", 7200, None), ("2026-10-25T02:30:00+02:00", 7200, "first"),
        ("2026-10-25T02:30:00+01:00", 3600, "second")]
    assert all(0 <= one["startsAt"] - one["at"] <= 60_000 for one in slots)
    spring = int(datetime(2026, 3, 29, tzinfo=UTC).timestamp() * 1000)
    made = schedule(api, **{**body, "name": unique("saved")})
    [gap] = api.items(path(made, f"preview?count=1&from={spring}"))
    assert (gap["local"], gap["dst"]) == ("2026-03-29T03:30:00+02:00", "gap-shifted")
    assert len(api.items(path(made, "preview"))) == 50
    refused(api.ask("GET", path(made, "preview?count=0")), 422, "invalid", "count")


def test_it_fires_and_tells_what_it_did(api: Api) -> None:
    made = schedule(api, everySec=1, overlapPolicy="allow", payload={"hello": "there"})
    fires = path(made, "fires")
    wait_for(lambda: len(api.items(fires)) >= 2, "two slots")
    whole(api.ask("POST", path(made) + "?action=pause"), 200)
    history = api.items(fires)
    assert {one["state"] for one in history} == {"started"}
    for one in history:
        task = api.ended(one["taskId"])
        assert task["scheduledOn"] == one["slot"]
        assert task["result"] == {"echo": {"hello": "there"}}
    page = api.ask("GET", fires + "?limit=1")
    assert page.json() == api.items(fires)[:1]
    assert 'rel="next"' in page.headers["link"]
    assert api.items(fires + "?state=missed") == []
    paused = api.get(path(made))
    assert (paused["enabled"], paused["nextAt"]) == (False, None)
    assert paused["lastFire"] == history[0]
    resumed = whole(api.ask("POST", path(made) + "?action=resume"), 200)
    assert resumed["nextAt"]
    api.gone(path(made))


def test_trigger_and_backfill(api: Api) -> None:
    made = schedule(api, cron="0 * * * *", enabled=False)
    fired = whole(api.ask("POST", path(made) + "?action=trigger", {"payload": {"x": 1}}), 201)
    assert (fired["kind"], fired["state"]) == ("manual", "started")
    assert api.ended(fired["taskId"])["payload"] == {"x": 1}
    assert made["lastFire"] is None
    for shown in (api.get(path(made)), api.items(f"/v1/schedules?name={made['name']}")[0],
                  api.items("/v1/schedules?limit=1")[0]):
        assert shown["lastFire"] == {**fired, "outcome": "Succeeded"}
        assert shown["lastAt"] is None
    now = now_ms() // 3_600_000 * 3_600_000
    wanted = {"from": now - 5 * 3_600_000, "to": now}
    done = whole(api.ask("POST", path(made) + "?action=backfill", wanted), 202)
    assert done == {"slots": 6, "queued": 6}
    wait_for(lambda: len(api.items(path(made, "fires?state=started"))) == 7, "all slots")
    again = whole(api.ask("POST", path(made) + "?action=backfill", wanted), 202)
    assert again == {"slots": 6, "queued": 0}
    for bad, field in (({}, "from"), ({"from": 1}, "to"), ({"from": 5, "to": 4}, "to"),
                       ({"from": 1, "to": now_ms() + 10**9}, "to"),
                       ({"from": 0, "to": now}, "to")):
        refused(api.ask("POST", path(made) + "?action=backfill", bad), 422, "invalid", field)
    refused(api.ask("POST", path(made) + "?action=dance"), 422, "invalid", "action")
    refused(api.ask("POST", "/v1/schedules/ff?action=trigger"), 404, "not_found")


def test_what_waits_says_for_what(api: Api) -> None:
    slow = definition(api, "builtin.delay", defaultPayload={"seconds": 600})
    made = schedule(api, everySec=1, defId=slow, overlapPolicy="queue")
    queued = path(made, "fires?state=queued")
    wait_for(lambda: len(api.items(queued)) >= 1, "a slot waits")
    running = api.get(path(made))["running"]
    assert api.items(queued)[0]["waitsFor"] == running
    whole(api.ask("POST", path(made) + "?action=pause"), 200)
    assert api.items(queued) == []
    [task_id] = list(running) if isinstance(running, list) else []
    whole(api.ask("POST", f"/v1/tasks/{task_id}?action=cancel"), 200)


def test_calendars(api: Api) -> None:
    name = unique("holidays").replace("/", "-")
    where = f"/v1/calendars/{name}"
    today = datetime.now(UTC).date().isoformat()
    made = whole(api.ask("PUT", where, {"days": [today, "--12-25"]}), 200)
    assert made["version"] == 1
    assert api.get(where) == made
    assert made in api.items("/v1/calendars?limit=1000")
    blocked = schedule(api, everySec=1, calendars=[name])
    wait_for(lambda: len(api.items(path(blocked, "fires"))) >= 1, "a slot")
    assert {(one["state"], one["reason"], one["detail"]) for one in api.items(
        path(blocked, "fires"))} == {("skipped", "blackout", name)}
    assert api.items(path(blocked, "preview?count=1"))[0]["blackout"] == name
    refused(api.ask("DELETE", where), 409, "wrong_state")
    refused(api.ask("PUT", where, {"days": []}, headers={"if-match": '"7"'}), 412,
            "version_mismatch")
    whole(api.ask("PUT", where, {"days": []}), 200)
    wait_for(lambda: bool(api.items(path(blocked, "fires?state=started"))), "it starts again")
    refused(api.ask("PUT", where, {"days": ["2026-02-30"]}), 422, "invalid", "days[0]")
    api.gone(path(blocked))
    api.gone(where)
    refused(api.ask("DELETE", where), 404, "not_found")
