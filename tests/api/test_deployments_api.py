"""Deployments over real sockets: an old agent's life to the byte, and what people do."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests import zips
from tests.api.live import WAIT_S, Api, Json, listed, refused, serving
from tests.api.test_apps_api import upload
from tests.api.test_lenient import post
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
BASE = "/v1/deployments"


def app(api: Api, name: str, version: str = "1", port: int = 0) -> str:
    """An uploaded app's url."""
    services = f"service={name}:http:{port}\n" if port else ""
    answer = upload(api, zips.app(name, version, services=services))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["url"])


def beat(api: Api, *nodes: str, **labels: str) -> None:
    for node in nodes:
        api.done("POST", "/v1/nodes/heartbeat", {"nodeId": node, "ip": "10.9.8.7",
                                                 "labels": labels})


def assigned(api: Api, node: str) -> list[Json]:
    return listed(api.get(f"/v1/assignments?nodeId={node}")["items"])


def eventually(true: Callable[[], bool]) -> None:
    """Wait for what the daemon does by itself."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)        # the daemon's own time, which nothing here is told of


def report(api: Api, instance: object, phase: str = "Running", **more: object) -> httpx.Response:
    return api.ask("POST", "/v1/instances/status", {
        "instanceId": instance, "phase": phase, "healthy": phase == "Running", "exitCode": 0,
        "tsUnix": 1_700_000_000, **more})


def test_an_old_agent_to_the_byte(api: Api) -> None:
    url = app(api, "old", port=8081)
    beat(api, "old-1")
    status, text = post(api, BASE, (
        b'{"Name":"old","artifactUrl":"' + url.encode() + b'","startCmd":"./run.sh -x",'
        b'"replicas":{"old-1":1},"labels":null}trash'))
    assert status == 200
    made = json.loads(text)
    assert set(made) == {"deploymentId", "instances"}
    instance, = made["instances"]
    number = made["deploymentId"]
    assert assigned(api, "old-1") == [], "it does not run"
    with api.http.stream("GET", "/v1/stream?nodeId=old-1") as stream:
        lines = stream.iter_lines()
        assert [next(lines) for _ in range(3)] == ["event: ping", "data: init", ""]
        status, _ = post(api, f"{BASE}/{number}?action=start", b"")
        assert status == 200
        assert [next(lines) for _ in range(3)] == ["event: update", "data: assignments", ""]
    one, = assigned(api, "old-1")
    assert {name: one[name] for name in (
        "instanceId", "deploymentId", "desired", "artifactUrl", "startCmd", "appName",
        "appVersion", "phase", "healthy")} == {
            "instanceId": instance, "deploymentId": number, "desired": "Running",
            "artifactUrl": url, "startCmd": "./run.sh -x", "appName": "old", "appVersion": "1",
            "phase": "Pending", "healthy": False}
    assert one["fence"] is None
    body = (f'{{"instanceId":"{instance}","phase":"Running","exitCode":0,"healthy":true,'
            '"tsUnix":1700000000}').encode()
    assert post(api, "/v1/instances/status", body) == (204, b"")
    one, = assigned(api, "old-1")
    assert (one["phase"], one["healthy"]) == ("Running", True)
    assert int(str(one["lastReportAt"])) > 1_700_000_000_000
    found = api.items("/v1/discovery?service=old")
    assert [(each["ip"], each["port"], each["instanceId"], each["nodeId"], each["version"])
            for each in found] == [("10.9.8.7", 8081, instance, "old-1", "1")]
    assert api.ask("PATCH", f"/v1/assignments/{instance}",
                   {"desired": "Stopped"}).status_code == 204
    assert [each["desired"] for each in assigned(api, "old-1")] == ["Stopped"]
    assert api.items("/v1/discovery?service=old") == []
    assert report(api, instance, "Failed", exitCode=143).status_code == 204
    assert api.get(f"/v1/instances/{instance}")["state"] == "Stopped"
    assert api.ask("PATCH", f"/v1/assignments/{instance}",
                   {"desired": "Running"}).status_code == 204
    refused(api.ask("DELETE", "/v1/nodes/old-1"), 409, "wrong_state")
    assert post(api, f"{BASE}/{number}?action=stop", b"")[0] == 200
    assert assigned(api, "old-1") == []
    artifact, = api.items("/v1/apps?name=old")
    refused(api.ask("DELETE", f"/v1/apps/{artifact['artifactId']}"), 409, "wrong_state")
    api.gone(f"/v1/assignments/{instance}")
    assert api.get(f"{BASE}/{number}")["wanted"] == 0
    api.gone(f"{BASE}/{number}")
    refused(report(api, instance), 404, "not_found", "instanceId")
    api.gone(f"/v1/apps/{artifact['artifactId']}")


def test_a_report_of_a_copy_that_cannot_be_there_changes_nothing(api: Api) -> None:
    beat(api, "there-1")
    found = api.done("POST", BASE, {"name": "there", "entries": [
        {"artifactUrl": app(api, "there"), "replicas": 1, "selector": {"hall": "none"}},
        {"artifactUrl": app(api, "there", "2"), "replicas": {"there-1": 1}}]})["deploymentId"]
    api.done("POST", f"{BASE}/{found}?action=start")
    nowhere, there = sorted(api.items(f"{BASE}/{found}/instances"),
                            key=lambda one: str(one["nodeId"] or ""))
    assert nowhere["nodeId"] is None
    waits, = listed(api.get(f"{BASE}/{found}")["waits"])
    assert "the label hall=none is missing" in str(waits["why"])
    assert (nowhere["why"], nowhere["reason"]) == (waits["why"], waits["reason"])
    assert listed([waits["reason"]])[0]["code"] == "no_node_fits"
    refused(report(api, nowhere["instanceId"]), 404, "not_found", "instanceId")
    refused(report(api, nowhere["instanceId"], nodeId="there-1"), 404, "not_found", "instanceId")
    refused(report(api, there["instanceId"], nodeId="there-2"), 404, "not_found", "nodeId")
    assert api.ask("POST", "/v1/instances/status", {"items": [
        {"instanceId": nowhere["instanceId"], "phase": "Running", "healthy": True},
        {"instanceId": there["instanceId"], "phase": "Running", "healthy": True,
         "nodeId": "there-1"}]}).status_code == 204
    states = {one["nodeId"]: one["state"] for one in api.items(f"{BASE}/{found}/instances")}
    assert states == {None: "Pending", "there-1": "Running"}
    assert api.get(f"{BASE}/{found}")["ready"] == 1
    here = {one["instanceId"] for one in (nowhere, there)}
    for query in ("?limit=1", "?limit=1&state=Pending", "?limit=1&state=Running&nodeId=there-1"):
        pages, url = [], f"/v1/instances{query}"
        while url:
            page = api.ask("GET", url)
            pages.append(page.json())
            url = page.links.get("next", {}).get("url", "")
        assert all(len(page) == 1 for page in pages), "a page that shows less is the last one"
        shown = {one["instanceId"] for page in pages for one in page}
        assert shown & here == {"?limit=1": here}.get(query, {
            (nowhere if "Pending" in query else there)["instanceId"]})


def test_a_beat_says_whether_the_assignments_changed(api: Api) -> None:
    def told() -> object:
        return api.done("POST", "/v1/nodes/heartbeat", {"nodeId": "rev"}).get("assignments")

    def revision() -> object:
        return api.get("/v1/assignments?nodeId=rev")["revision"]

    assert told() is None, "the first beat: look in any case"
    before = told()
    assert before == revision() == told()
    found = api.done("POST", BASE, {"name": "rev", "entries": [
        {"artifactUrl": app(api, "rev"), "replicas": {"rev": 1}}]})["deploymentId"]
    api.done("POST", f"{BASE}/{found}?action=start")
    eventually(lambda: told() != before)
    started = revision()
    instance = assigned(api, "rev")[0]["instanceId"]
    report(api, instance)
    eventually(lambda: told() == revision())
    api.done("POST", f"{BASE}/{found}?action=stop")
    eventually(lambda: told() not in (before, started))
    assert told() == revision()
    api.gone(f"{BASE}/{found}")


def test_what_an_instance_uses_is_shown(api: Api) -> None:
    beat(api, "use")
    found = api.done("POST", BASE, {"name": "use", "entries": [
        {"artifactUrl": app(api, "use"), "replicas": {"use": 1}}]})["deploymentId"]
    api.done("POST", f"{BASE}/{found}?action=start")
    instance = assigned(api, "use")[0]["instanceId"]
    assert api.get(f"/v1/instances/{instance}")["stats"] is None
    commits = api.get("/v1/status")["commits"]
    for cpu_s in (1.0, 1.5):
        stats = {"cpuSec": cpu_s, "memoryBytes": 5 << 20, "peakMemoryBytes": 6 << 20,
                 "processes": 2, "readBytes": 3, "writtenBytes": 4}
        assert report(api, instance, stats=stats, nodeId="use", generation=1).status_code == 204
    shown = api.get(f"/v1/instances/{instance}")["stats"]
    assert isinstance(shown, dict)
    assert {name: shown[name] for name in ("cpuSec", "memoryBytes", "processes")} == {
        "cpuSec": 1.5, "memoryBytes": 5 << 20, "processes": 2}
    assert float(str(shown["cpuPercent"])) > 0
    assert int(str(api.get("/v1/status")["commits"])) - int(str(commits)) <= 1, "kept in memory"
    refused(report(api, instance, stats={"cpuSec": -1}), 422, "invalid", "stats.cpuSec")
    api.gone(f"{BASE}/{found}")


def test_scale_edit_plan_and_versions(api: Api) -> None:
    url = app(api, "web")
    beat(api, "w1", "w2", rack="1")
    entry: Json = {"artifactUrl": url, "replicas": 2, "selector": {"rack": "1"}}
    body: Json = {"name": "web", "entries": [entry]}
    plan = api.done("POST", f"{BASE}/plan", body)
    assert (plan["placed"], plan["unplaced"]) == (2, 0)
    assert [one["nodeId"] for one in listed(plan["instances"])] == ["w1", "w2"]
    none = api.done("POST", f"{BASE}/plan", {"name": "x", "entries": [
        {**entry, "selector": {"rack": "9"}}]})
    assert none["placed"] == 0
    nowhere = listed(none["instances"])[0]
    assert str(nowhere["why"]).startswith("no node fits: the label rack=9 is missing (")
    reason, = listed([nowhere["reason"]])
    assert reason["code"] == "no_node_fits"
    missing = listed(reason["because"])[0]
    assert missing["code"] == "label_missing"
    assert missing["values"] == {"label": "rack", "value": "9"}
    answer = api.ask("POST", BASE, body, headers={"idempotency-key": "web"})
    again = api.ask("POST", BASE, body, headers={"idempotency-key": "web"})
    assert answer.json() == again.json()
    number = answer.json()["deploymentId"]
    shown = api.get(f"{BASE}/{number}")
    assert (shown["state"], shown["wanted"], shown["ready"]) == ("Stopped", 2, 0)
    started = api.done("POST", f"{BASE}/{number}?action=start")
    assert started["state"] == "Running"
    ids = {str(one) for one in answer.json()["instances"]}
    for node in ("w1", "w2"):
        one, = assigned(api, node)
        assert one["instanceId"] in ids
        assert report(api, one["instanceId"]).status_code == 204
    assert api.get(f"{BASE}/{number}")["ready"] == 2
    scaled = api.done("POST", f"{BASE}/{number}?action=scale", {"replicas": 3})
    assert (scaled["wanted"], scaled["version"]) == (3, 2)
    assert len(api.items(f"{BASE}/{number}/instances")) == 3
    stale = api.ask("PUT", f"{BASE}/{number}", body, headers={"if-match": '"1"'})
    refused(stale, 412, "version_mismatch")
    api.done("PUT", f"{BASE}/{number}", {**body, "entries": [{**entry, "replicas": 1}]})
    assert [one["version"] for one in api.walk(f"{BASE}/{number}/versions?limit=1")] == [3, 2, 1]
    assert api.done("POST", f"{BASE}/{number}?action=rollback", {"version": 1})["wanted"] == 2
    assert {str(one["instanceId"]) for one in api.walk("/v1/instances?limit=2")} >= ids
    assert all(one["nodeId"] == "w1" for one in api.items("/v1/instances?nodeId=w1"))
    assert [one["name"] for one in api.items(f"{BASE}?name=web")] == ["web"]
    api.gone(f"{BASE}/{number}")
    refused(api.ask("GET", f"{BASE}/{number}"), 404, "not_found")


def test_who_scales_at_once_undoes_nothing(api: Api) -> None:
    entries = [{"name": name, "artifactUrl": app(api, name), "replicas": 0} for name in "ab"]
    made = api.done("POST", BASE, {"name": "two", "entries": entries})
    path = f"{BASE}/{made['deploymentId']}"

    def scale(name: str, count: int) -> None:
        api.done("POST", f"{path}?action=scale", {"entry": name, "replicas": count})

    with ThreadPoolExecutor(2) as pool:
        for count in range(1, 16):
            for done in [pool.submit(scale, name, count) for name in "ab"]:
                done.result()
            found = [one["replicas"] for one in listed(api.get(path)["entries"])]
            assert found == [count, count]


def test_no_way_back_to_an_app_that_is_gone(api: Api) -> None:
    first, second = app(api, "back", "1"), app(api, "back", "2")
    made = api.done("POST", BASE, {"name": "back", "entries": [{"artifactUrl": first}]})
    path = f"{BASE}/{made['deploymentId']}"
    api.done("PUT", path, {"name": "back", "entries": [{"artifactUrl": second}]})
    old, = (one for one in api.items("/v1/apps?name=back") if one["version"] == "1")
    api.gone(f"/v1/apps/{old['artifactId']}")
    answer = api.ask("POST", f"{path}?action=rollback")
    refused(answer, 409, "wrong_state", "version")
    assert first in answer.text
    assert api.get(path)["version"] == 2
    gone = api.ask("PUT", path, {"name": "back", "entries": [{"artifactUrl": first}]})
    refused(gone, 422, "invalid", "entries[0].artifactUrl")


def test_bad_bodies(api: Api) -> None:
    url = app(api, "bad")
    count = len(api.items(BASE))
    entry: Json = {"artifactUrl": url}
    for body, field in (
            ({"name": "x"}, "entries"), ({"name": "", "entries": [entry]}, "name"),
            ({"name": "x", "entries": [{"artifactUrl": "/artifacts/none.zip"}]},
             "entries[0].artifactUrl"),
            ({"name": "x", "entries": [{"artifactUrl": "http://far/x.zip"}]},
             "entries[0].artifactUrl"),
            ({"name": "x", "entries": [{"artifactUrl": "file:///etc/passwd"}]},
             "entries[0].artifactUrl"),
            ({"name": "x", "entries": [{"artifactUrl": "http://[x"}]}, "entries[0].artifactUrl"),
            ({"name": "x", "entries": [{"artifactUrl": "http://h:port/x.zip"}]},
             "entries[0].artifactUrl"),
            ({"name": "x", "entries": [{**entry, "replicas": -1}]}, "entries[0].replicas"),
            ({"name": "x", "entries": [{**entry, "replicas": {"": 1}}]}, "entries[0].replicas"),
            ({"name": "x", "entries": [{**entry, "env": {"A B": "1"}}]}, "entries[0].env"),
            ({"name": "x", "entries": [{**entry, "sha256": "0" * 64}]}, "entries[0].sha256"),
            ({"name": "x", "entries": [{**entry, "name": "a"}, {**entry, "name": "a"}]},
             "entries[1].name"),
            ({"name": "x", "onPartition": "maybe", "entries": [entry]}, "onPartition")):
        answer = api.ask("POST", BASE, body)
        assert answer.status_code == 422, (body, answer.text)
        assert str(answer.json().get("field", "")).startswith(field), (body, answer.text)
    assert len(api.items(BASE)) == count
    made = api.done("POST", BASE, {"name": "odd", "entries": [entry]})
    refused(api.ask("POST", f"{BASE}/{made['deploymentId']}?action=rollback", {"version": 1 << 63}),
            422, "invalid", "version")
    refused(api.ask("PATCH", "/v1/assignments/1", {"desired": "Running"}), 404, "not_found")
    refused(api.ask("GET", "/v1/assignments"), 422, "invalid", "nodeId")


def test_a_kill_amid_failover_and_rollout(tmp_path: Path) -> None:
    """kill -9 while a node is being lost and copies are renewed: all goes on where it was."""
    with Running(tmp_path / "data", "--node-ttl-sec", "1.5") as daemon, Api(daemon) as api:
        old, new = app(api, "k", "1"), app(api, "k", "2")
        entry: Json = {"name": "e", "artifactUrl": old, "replicas": 6}
        update = {"minHealthySec": 0, "drainSec": 0, "maxParallel": 2}
        beat(api, "k1", "k2", "k3")
        made = api.done("POST", BASE, {"name": "k", "entries": [entry], "update": update})
        number = made["deploymentId"]
        api.done("POST", f"{BASE}/{number}?action=start")

        def work(*nodes: str) -> None:
            beat(api, *nodes)
            for node in nodes:
                for one in assigned(api, node):
                    phase = "Running" if one["desired"] == "Running" else "Stopped"
                    assert report(api, one["instanceId"], phase).status_code == 204

        def settled(version: str, *nodes: str) -> bool:
            work(*nodes)
            found = api.items(f"{BASE}/{number}/instances")
            live = [one for one in found if one["retired"] is None]
            return (len(live) == 6 and all(
                one["state"] == "Running" and one["appVersion"] == version
                and one["nodeId"] in nodes for one in live))

        eventually(lambda: settled("1", "k1", "k2", "k3"))
        api.done("PUT", f"{BASE}/{number}", {"name": "k", "update": update, "entries": [
            {**entry, "artifactUrl": new}]})
        for _ in range(3):
            work("k1", "k2")            # k3 is silent from here on
            os.kill(daemon.pid, signal.SIGKILL)
            daemon.kill()
            daemon.start()
        eventually(lambda: settled("2", "k1", "k2"))
        rollout = api.get(f"{BASE}/{number}")["rollout"]
        assert isinstance(rollout, dict)
        assert rollout["state"] == "done"
        assert api.get("/v1/nodes/k3")["health"] == "Unhealthy"
        left = [one for one in api.items(f"{BASE}/{number}/instances") if one["retired"]]
        eventually(lambda: settled("2", "k1", "k2"))
        assert all(one["nodeId"] == "k3" for one in left if one["state"] == "Lost")
        eventually(lambda: settled("2", "k1", "k2", "k3"))
        eventually(lambda: len(api.items(f"{BASE}/{number}/instances")) == 6)
