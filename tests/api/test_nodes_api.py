"""Nodes over real sockets: what old agents send and are sent, and what people do."""

from __future__ import annotations

import pytest

from tests.api.live import Api, refused, serving
from tests.api.test_lenient import post

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
BASE = "/v1/nodes"


def test_an_old_agent_to_the_byte(api: Api) -> None:
    status, text = post(api, f"{BASE}/heartbeat", (
        b'{"NodeID":"rig 1","ip":"10.1.2.3","labels":{"rack":"7"},"x":null}garbage'))
    assert (status, text) == (200, b'{"ttlSec":15,"beatSec":5,"draining":false}')
    assert post(api, f"{BASE}/heartbeat", b'{"nodeId":"rig 2","ip":"","labels":null}')[0] == 200
    found = {node["nodeId"]: node for node in api.items(BASE)}
    assert list(found) == ["rig 1", "rig 2"]
    assert {"health", "ip", "labels", "lastSeen", "nodeId"} <= set(found["rig 1"])
    assert (found["rig 1"]["health"], found["rig 1"]["ip"], found["rig 1"]["labels"]) == (
        "Healthy", "10.1.2.3", {"rack": "7"})
    assert found["rig 2"]["ip"] == "127.0.0.1", "an ip that it does not know is the caller's"
    head = api.ask("HEAD", BASE)
    assert (head.status_code, head.content) == (200, b"")
    assert api.ask("HEAD", f"{BASE}/rig%201").status_code == 200


def test_facts_and_filters(api: Api) -> None:
    facts = {"cpus": 8, "cpuPercent": 12.5, "memTotal": 1 << 34, "memAvailable": 1 << 33,
             "diskTotal": 10, "diskFree": 5, "load1": 0.25, "os": "Linux", "arch": "x86_64",
             "bootId": "b"}
    for index in range(3):
        api.done("POST", f"{BASE}/heartbeat", {
            "nodeId": f"page {index}", "labels": {"set": "page"}, "facts": facts,
            "agentVersion": "1.0", "bootId": "b", "key": "k"})
    found = list(api.walk(f"{BASE}?label=set=page&limit=2"))
    assert [node["nodeId"] for node in found] == ["page 0", "page 1", "page 2"]
    assert found[0]["facts"] == facts
    assert api.items(f"{BASE}?label=set=page&health=Draining") == []
    refused(api.ask("GET", f"{BASE}?health=x"), 422, "invalid", "health")
    refused(api.ask("GET", f"{BASE}?label=x"), 422, "invalid", "label")
    refused(api.ask("POST", f"{BASE}/heartbeat", {"nodeId": "page 0", "key": "other"}),
            409, "node_taken", "nodeId")
    for body, field in (({"nodeId": ""}, "nodeId"), ({"nodeId": "a\nb"}, "nodeId"), ({}, "nodeId"),
                        ({"nodeId": "x", "ip": "a b"}, "ip"),
                        ({"nodeId": "x", "facts": {"cpus": -1}}, "facts.cpus")):
        refused(api.ask("POST", f"{BASE}/heartbeat", body), 422, "invalid", field)


def test_drain_change_and_delete(api: Api) -> None:
    api.done("POST", f"{BASE}/heartbeat", {"nodeId": "d", "labels": {"a": "1"}})
    assert api.done("POST", f"{BASE}/d?action=drain")["health"] == "Draining"
    assert api.done("POST", f"{BASE}/heartbeat", {
        "nodeId": "d", "labels": {"a": "1"}})["draining"] is True
    assert api.done("POST", f"{BASE}/d?action=undrain")["health"] == "Healthy"
    changed = api.done("PATCH", f"{BASE}/d", {"labels": {"a": "2"}, "instancesMax": 4})
    assert (changed["labels"], changed["ownLabels"], changed["instancesMax"]) == (
        {"a": "2"}, {"a": "2"}, 4)
    refused(api.ask("POST", f"{BASE}/d?action=x"), 422, "invalid", "action")
    refused(api.ask("PATCH", f"{BASE}/d", {"instancesMax": -1}), 422, "invalid", "instancesMax")
    api.gone(f"{BASE}/d")
    for method, path in (("GET", "d"), ("DELETE", "d"), ("POST", "d?action=drain")):
        refused(api.ask(method, f"{BASE}/{path}"), 404, "not_found")
