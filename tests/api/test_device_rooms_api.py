"""Devices over the API: leases, alarms, history, states as they change, and the metrics."""

from __future__ import annotations

import json
import threading
import time

import pytest

from tests.api.live import Api, Json, listed, refused, serving, whole
from tests.daemon.plant import wait_for
from tests.daemon.running import free_port

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def register(api: Api, name: str, **more: object) -> None:
    whole(api.ask("POST", "/v1/resources/register", {"resourceId": name, **more}), 200)


def report(api: Api, name: str, **states: str) -> None:
    answer = api.ask("POST", "/v1/resources/state", {"resourceId": name, "states": states})
    assert answer.status_code == 204, answer.text


def until(api: Api, path: str, count: int) -> list[Json]:
    """A list once it has so many items."""
    wait_for(lambda: len(api.items(path)) == count, f"{path} has {count}")
    return api.items(path)


# ---------------------------------------------------------------- leases

def test_one_has_a_device_for_himself(api: Api) -> None:
    register(api, "mine", url=f"http://127.0.0.1:{free_port()}/")
    base = "/v1/resources/mine/lease"
    lease = whole(api.ask("POST", f"{base}?action=acquire", {"owner": "rig", "ttlSec": 60}), 200)
    assert (lease["resourceId"], lease["owner"]) == ("mine", "rig")
    assert api.get("/v1/resources/mine")["leasedBy"] == "rig"
    operation = {"operations": [{"name": "x", "value": "1"}]}
    path = "/v1/resources/operation?resourceId=mine"
    problem = refused(api.ask("POST", path, operation), 409, "lease_held", "resourceId", "owner",
                      "reason")
    assert problem["owner"] == "rig"
    assert "rig" in str(problem["detail"])
    assert api.ask("POST", f"{path}&token={lease['token']}", operation).status_code == 502
    refused(api.ask("POST", f"{path}&token=99999", operation), 409, "lease_lost", "token")
    refused(api.ask("POST", f"{base}?action=acquire", {"owner": "b"}), 409, "lease_held", None,
            "owner", "reason")
    whole(api.ask("POST", f"{base}?action=renew", {"token": lease["token"]}), 200)
    api.gone(base)
    assert api.ask("POST", path, operation).status_code == 502, "it is anybody's again"
    refused(api.ask("GET", base), 404, "not_found")
    refused(api.ask("POST", "/v1/resources/none/lease?action=acquire", {"owner": "b"}), 404,
            "not_found")
    plum = api.daemon.plum
    token = plum("device", "acquire", "mine", "--owner", "me").stdout.strip()
    assert plum("device", "acquire", "mine", "--owner", "you").returncode == 5
    assert plum("device", "op", "mine", "x=1").returncode == 5
    assert plum("device", "op", "mine", "x=1", "--token", token).returncode == 6
    assert plum("device", "renew", "mine", token).returncode == 0
    assert plum("device", "release", "mine", token).returncode == 0
    assert plum("device", "take-away", "mine").returncode == 3
    whole(api.ask("POST", f"{base}?action=acquire", {"owner": "rig"}), 200)
    api.gone("/v1/resources/mine")
    register(api, "mine")
    assert api.get("/v1/resources/mine")["leasedBy"] == ""


# ---------------------------------------------------------------- alarms

def test_an_alarm_from_rule_to_end(api: Api) -> None:
    register(api, "oven", type="oven")
    answer = api.ask("POST", "/v1/alarm-rules", {
        "name": "too hot", "state": "temp", "op": ">", "value": 80, "hysteresis": 5,
        "type": "oven", "severity": "critical"})
    rule = whole(answer, 201)
    assert answer.headers["location"] == f"/v1/alarm-rules/{rule['ruleId']}"
    report(api, "oven", temp="81.5")
    [alarm] = until(api, "/v1/alarms", 1)
    assert (alarm["name"], alarm["severity"], alarm["resourceId"], alarm["state"],
            alarm["value"], alarm["clearedAt"], alarm["acknowledgedAt"]) == (
        "too hot", "critical", "oven", "temp", "81.5", None, None)
    known = whole(api.ask("POST", f"/v1/alarms/{alarm['alarmId']}?action=acknowledge",
                          {"by": "me", "note": "looking"}), 200)
    assert known["acknowledgedAt"]
    assert (known["acknowledgedBy"], known["note"]) == ("me", "looking")
    assert api.get(f"/v1/alarm-rules/{rule['ruleId']}")["active"] == 1
    metrics = api.ask("GET", "/metrics").text
    assert 'plum_alarms_active{severity="critical"} 1.0' in metrics
    assert 'plum_devices{health="healthy"}' in metrics
    assert "plum_leases" in metrics
    plum = api.daemon.plum
    assert "too hot" in plum("alarm", "list").stdout
    assert "temp > 80 of oven" in plum("alarm", "rules").stdout
    report(api, "oven", temp="75")
    until(api, "/v1/alarms", 0)
    [over] = api.items("/v1/alarms?state=all&resourceId=oven")
    assert over["clearedAt"]
    assert over["clearedBy"] == "75"
    assert api.items("/v1/alarms?state=all&resourceId=other") == []
    events = plum("events", "--topics", "alerts", "--from", "1", "--count", "4").stdout
    assert "raised" in events
    assert "cleared" in events
    assert plum("alarm", "get", str(alarm["alarmId"])).returncode == 0
    assert plum("alarm", "ack", str(alarm["alarmId"]), "--by", "you").returncode == 0
    assert plum("alarm", "delete-rule", str(rule["ruleId"])).returncode == 0
    assert plum("alarm", "delete-rule", str(rule["ruleId"])).returncode == 3
    made = plum("alarm", "create-rule", "-f", "-", "-o", "name",
                given='{"name": "n", "state": "s", "op": "==", "value": "x"}')
    assert plum("alarm", "delete-rule", made.stdout.strip()).returncode == 0


@pytest.mark.parametrize(("change", "field"), [
    ({"op": "~"}, "op"), ({"value": "hot"}, "value"), ({"hysteresis": -1}, "hysteresis"),
    ({"op": "==", "hysteresis": 1}, "hysteresis"), ({"forSec": -1}, "forSec"),
    ({"severity": "fatal"}, "severity"), ({"name": ""}, "name"), ({"more": 1}, "more"),
    ({"resourceId": "a", "type": "b"}, "type"),
])
def test_what_is_wrong_with_a_rule_is_named(api: Api, change: dict[str, object],
                                            field: str) -> None:
    body = {"name": "n", "state": "s", "op": ">", "value": 1} | change
    refused(api.ask("POST", "/v1/alarm-rules", body), 422, "invalid", field)


# ---------------------------------------------------------------- over time

def test_history(api: Api) -> None:
    register(api, "hist")
    now_ms = time.time_ns() // 1_000_000 // 60_000 * 60_000
    for number in range(20):
        answer = api.ask("POST", "/v1/resources/state", {
            "resourceId": "hist", "timestamp": now_ms - 600_000 + number * 30_000,
            "states": {"x": str(number), "word": "on"}})
        assert answer.status_code == 204
    found = api.get(f"/v1/resources/history?resourceId=hist&state=x&bucketSec=120&to={now_ms}")
    points = listed(found["points"])
    assert found["bucketSec"] == 120
    assert sum(int(str(one["count"])) for one in points) == 20
    assert (points[0]["min"], points[-1]["max"]) == (0, 19)
    for one in points:
        low, mean, high = (float(str(one[name])) for name in ("min", "mean", "max"))
        assert low <= mean <= high
    assert api.get("/v1/resources/history?resourceId=hist&state=word")["points"] == []
    refused(api.ask("GET", "/v1/resources/history?resourceId=hist"), 422, "invalid", "state")
    refused(api.ask("GET", "/v1/resources/history?resourceId=hist&state=x&from=5&to=5"), 422,
            "invalid", "from")
    refused(api.ask("GET", "/v1/resources/history?resourceId=hist&state=x&from=0&bucketSec=1"),
            422, "invalid", "bucketSec")
    kept = whole(api.ask("PUT", "/v1/resources/hist/retention", {
        "states": {"x": {"minutesDays": 1}}}), 200)
    assert kept["states"] == {"x": {"minutesDays": 1, "hoursDays": 365}}
    refused(api.ask("PUT", "/v1/resources/hist/retention", {"states": {"x": {"hours": 1}}}), 422,
            "invalid", "states[...].hours")
    plum = api.daemon.plum
    assert "19" in plum("device", "history", "hist", "x", "--last", "1h").stdout
    assert plum("device", "history", "hist", "x", "--last", "soon").returncode == 2
    assert "1" in plum("device", "retention", "hist", "x=1,30").stdout
    assert plum("device", "retention", "hist", "x=1").returncode == 2


def test_states_as_they_change(api: Api) -> None:
    register(api, "live")
    report(api, "live", a="1", b="2")
    found: list[dict[str, object]] = []
    ready = threading.Event()

    def follow() -> None:
        with api.http.stream("GET", "/v1/resources/live/stream") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                if line.startswith("data: ") and name == "states":
                    found.append({key: value["value"] for key, value in
                                  json.loads(line[6:])["states"].items()})
                    ready.set()
                if name == "gone":
                    return

    thread = threading.Thread(target=follow)
    thread.start()
    assert ready.wait(30)
    assert found == [{"a": "1", "b": "2"}]
    with Api(api.daemon) as other:
        report(other, "live", b="3")
        wait_for(lambda: len(found) == 2, "the change is told")
        assert found[1] == {"b": "3"}
        assert "a 1" in other.daemon.plum("device", "watch", "live", "--count", "2").stdout
        other.gone("/v1/resources/live")
    thread.join(30)
    assert not thread.is_alive()
