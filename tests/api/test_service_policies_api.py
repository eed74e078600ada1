"""Policies of services over the API and the command line, and what is seen of breakers."""

from __future__ import annotations

import json

import pytest

from tests.api.live import Api, refused, serving, whole

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
BASE = "/v1/services/policies"


def test_a_policy_is_written_shown_and_forgotten(api: Api) -> None:
    fresh = api.get(f"{BASE}/s")
    assert (fresh["own"], fresh["retriesLeft"]) == (False, 10)
    body = {"strategy": "sticky", "retryPercent": 0, "tryTimeoutSec": 1.5,
            "breaker": {"failures": 2}, "fallback": {"result": {"a": [1]}}}
    done = whole(api.ask("PUT", f"{BASE}/s", body), 200)
    assert done["own"] is True
    assert done["retriesLeft"] == 0
    assert done["policy"] == {**body, "breaker": {
        "failures": 2, "openSec": 5, "maxOpenSec": 60, "probes": 1}}
    assert [one["service"] for one in api.items(BASE)] == ["s"]
    api.gone(f"{BASE}/s")
    refused(api.ask("DELETE", f"{BASE}/s"), 404, "not_found")
    assert api.items(BASE) == []


@pytest.mark.parametrize(("body", "field"), [
    ({"retryPercent": 101}, "retryPercent"), ({"retryPercent": -1}, "retryPercent"),
    ({"strategy": "best"}, "strategy"), ({"breaker": {"failures": -1}}, "breaker.failures"),
    ({"breaker": {"probes": 0}}, "breaker.probes"), ({"fallback": {}}, "fallback"),
    ({"fallback": {"service": "t", "result": 1}}, "fallback"),
    ({"fallback": {"service": "s"}}, "fallback.service"), ({"other": 1}, "other"),
    ({"tryTimeoutSec": "1"}, "tryTimeoutSec"),
])
def test_what_is_wrong_is_named(api: Api, body: object, field: str) -> None:
    refused(api.ask("PUT", f"{BASE}/s", body), 422, "invalid", field)


def test_an_open_breaker_is_seen_everywhere(api: Api) -> None:
    whole(api.ask("PUT", f"{BASE}/down", {
        "breaker": {"failures": 1, "openSec": 600, "maxOpenSec": 600}, "retryPercent": 0}), 200)
    answer = api.ask("POST", "/v1/services/register", {
        "instanceId": "i", "endpoints": [{"serviceName": "down", "ip": "127.0.0.1", "port": 9}]})
    assert answer.status_code == 204
    task = api.made("/v1/tasks", {"name": "t", "executor": "service", "targetRef": "down"})
    assert api.ended(task["taskId"])["state"] == "Failed"
    [endpoint] = api.items("/v1/services?service=down")
    assert endpoint["breaker"] == "open"
    assert int(str(endpoint["breakerUntil"])) > 1_700_000_000_000
    task = api.made("/v1/tasks", {"name": "t", "executor": "service", "targetRef": "down",
                                  "maxRetries": 5})
    why = api.get(f"/v1/tasks/{task['taskId']}/why")
    while why["state"] == "Running":
        why = api.get(f"/v1/tasks/{task['taskId']}/why")
    assert "breaker_open" in json.dumps(why)
    api.ask("POST", f"/v1/tasks/{task['taskId']}?action=cancel")
    shown = api.daemon.plum("service", "get", "down")
    assert shown.returncode == 0
    assert "open" in shown.stdout
    assert "127.0.0.1:9" in shown.stdout
    events = api.daemon.plum("events", "--topics", "services", "--from", "1", "--count", "5")
    assert "breaker open" in events.stdout


def test_the_command_line(api: Api) -> None:
    plum = api.daemon.plum
    assert plum("service", "policy", "cli", "-f", "-",
                given='{"retryPercent": 7}').returncode == 0
    assert "7" in plum("service", "policy", "cli").stdout
    assert plum("service", "policy", "cli", "-f", "-", given='{"nonsense": 1}').returncode == 2
    assert plum("service", "policy", "cli", "--reset").returncode == 0
    assert plum("service", "policy", "cli", "--reset").returncode == 3
