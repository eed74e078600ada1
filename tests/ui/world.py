"""A daemon with something of everything in it, and the addresses of all pages."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests import zips
from tests.api.live import Api
from tests.ui.screen import ROOT

PRINT = "for i in 1 2 3 4 5; do printf '\\033[32mstep %s\\033[0m <b>done</b>\\n' $i; done"
BREAK = "echo reading orders.csv; echo 'ERROR: line 118: no such customer' >&2; exit 3"


BEAT_S = 3.0
NODE = {"nodeId": "rig-7", "ip": "10.0.0.7", "labels": {"hall": "a", "gpu": "no"},
        "facts": {"cpus": 8, "cpuPercent": 37.5, "memTotal": 16_000_000_000,
                  "memAvailable": 9_000_000_000, "diskTotal": 500_000_000_000,
                  "diskFree": 120_000_000_000, "load1": 2.4, "os": "Linux", "arch": "x86_64"}}
SERVICES = "prices-1"
"""The program that has the services."""


def define(api: Api, **body: object) -> str:
    """A definition; its id."""
    return str(api.made("/v1/task-defs", body)["defId"])


def workflow(api: Api, name: str, *steps: dict[str, object]) -> str:
    """A workflow; its id."""
    return str(api.made("/v1/workflows", {"name": name, "steps": list(steps),
                                          "description": "Cleans up, counts and reports"})
               ["workflowId"])


def started(api: Api, program: str, *words: str) -> subprocess.Popen[bytes]:
    """An example program at this daemon."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / program), api.daemon.url, *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def register_services(api: Api, port: int) -> None:
    """Two services of one instance; on one port of them somebody listens."""
    answer = api.ask("POST", "/v1/services/register", {"instanceId": SERVICES, "endpoints": [
        {"serviceName": "prices", "ip": "127.0.0.1", "port": port, "version": "1.4",
         "labels": {"zone": "a"}},
        {"serviceName": "prices", "ip": "127.0.0.1", "port": 9102, "version": "1.4"},
        {"serviceName": "stock", "ip": "127.0.0.1", "port": 9300, "protocol": "grpc"}]})
    assert answer.status_code == 204, answer.text


def deploy(api: Api) -> dict[str, str]:
    """An app, a node that has said how it is, and a deployment that waits for more nodes."""
    app = api.http.post("/v1/apps/upload", content=zips.app("pump-control", "2.1")).json()
    api.done("POST", "/v1/nodes/heartbeat", NODE)
    made = api.done("POST", "/v1/deployments", {"name": "pump-control", "entries": [
        {"artifactUrl": app["url"], "replicas": 2, "maxPerNode": 1}]})
    deployment = str(made["deploymentId"])
    api.done("POST", f"/v1/deployments/{deployment}?action=start")
    [instance, *_] = api.items(f"/v1/deployments/{deployment}/instances")
    report(api, instance["instanceId"])
    return {"nodes": "/nodes", "node": "/nodes/rig-7", "apps": "/apps",
            "deployments": "/deployments", "deployment": f"/deployments/{deployment}",
            "deployment-new": f"/deployments/new?app={app['url']}",
            "deployment-edit": f"/deployments/{deployment}/edit",
            "instance": f"/instances/{instance['instanceId']}"}


def report(api: Api, instance: object) -> None:
    """A copy runs again after it had run out of memory, and says what it uses."""
    stats = {"cpuSec": 75.5, "memoryBytes": 310_000_000, "peakMemoryBytes": 512_000_000,
             "processes": 3, "readBytes": 4_000_000, "writtenBytes": 91_000}
    answer = api.ask("POST", "/v1/instances/status", {
        "instanceId": instance, "phase": "Running", "healthy": True, "pid": 4711, "restarts": 1,
        "message": "killed by SIGKILL (out of memory)", "stats": stats})
    assert answer.status_code == 204, answer.text


def alarm(api: Api) -> None:
    """A press that is too hot, that somebody has for himself, and rules for it."""
    answer = api.ask("POST", "/v1/resources/register", {
        "resourceId": "press-1", "type": "press", "nodeId": "rig-7", "stateDesc": [
            {"name": "temp", "type": "double", "unit": "°C"}, {"name": "door"}],
        "opDesc": [{"name": "open", "type": "bool", "value": "false"}], "beatSec": 3600})
    assert answer.status_code == 200, answer.text
    for rule in ({"name": "too hot", "state": "temp", "op": ">", "value": 80, "hysteresis": 5,
                  "severity": "critical", "type": "press"},
                 {"name": "door open", "state": "door", "op": "==", "value": "open",
                  "resourceId": "press-1"},
                 {"name": "cold", "state": "temp", "op": "<", "value": 10, "forSec": 600,
                  "severity": "info"}):
        api.made("/v1/alarm-rules", rule)
    for temp, door in ((61, "open"), (70, "closed"), (84.5, "open")):
        answer = api.ask("POST", "/v1/resources/state", {
            "resourceId": "press-1", "states": {"temp": str(temp), "door": door}})
        assert answer.status_code == 204, answer.text
    api.done("POST", "/v1/resources/press-1/lease?action=acquire",
             {"owner": "shift-b", "ttlSec": 3600})
    while len(api.items("/v1/alarms")) < 2:
        pass
    [first, *_] = api.items("/v1/alarms")
    api.done("POST", f"/v1/alarms/{first['alarmId']}?action=acknowledge",
             {"by": "ada", "note": "on my way"})


def fill_keys(api: Api) -> None:
    """A namespace with a few keys."""
    for key, value in {"line/1/speed": "12.5", "line/1/owner": "me", "line/2/speed": "9"}.items():
        answer = api.ask("PUT", f"/v1/kv/plant/{key}", {"value": value})
        assert answer.status_code == 200, answer.text
    answer = api.ask("POST", "/v1/locks/plant/line-1?action=acquire",
                     {"owner": "rig-7", "ttlSec": 86_400})
    assert answer.status_code == 200, answer.text


@contextmanager
def beating(api: Api) -> Iterator[None]:
    """The node and the services are there as long as one looks."""
    over = threading.Event()

    def beat() -> None:
        with Api(api.daemon) as mine:
            while not over.wait(BEAT_S):
                mine.done("POST", "/v1/nodes/heartbeat", NODE)
                mine.ask("POST", "/v1/services/heartbeat", {"instanceId": SERVICES})

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def world(api: Api) -> Iterator[dict[str, str]]:
    """Programs, definitions, workflows, tasks in every state; the pages by name."""
    worker = started(api, "worker.py")
    radar = started(api, "radar.py", "radar-1")
    try:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as service:
            pages = fill(api, service.getsockname()[1])
            with beating(api):
                yield pages
    finally:
        for program in (worker, radar):
            program.terminate()
        for program in (worker, radar):
            program.wait(30)


def fill(api: Api, port: int) -> dict[str, str]:
    """What the programs do not bring. port: on which a service listens."""
    clean = define(api, name="clean-cache", executor="os_process", labels={"team": "ops"},
                   defaultPayload={"command": "sh", "args": ["-c", PRINT]},
                   description="Removes what nobody needs any more")
    orders = define(api, name="import-orders", executor="os_process", maxRetries=1,
                    defaultPayload={"command": "sh", "args": ["-c", BREAK]},
                    labels={"team": "shop"})
    echo = define(api, name="builtin.echo", defaultPayload={"hello": "world"})
    count = define(api, name="word-count", defaultPayload={"text": "the quick brown fox"})
    define(api, name="price-quote", executor="service", targetKind="service", targetRef="prices",
           labels={"servicePath": "/quote"})
    nightly = workflow(api, "nightly-import", {"definitionId": clean}, {"definitionId": count},
                       {"definitionId": orders}, {"definitionId": echo, "name": "report"})
    api.done("PUT", f"/v1/workflows/{nightly}", {"name": "nightly-import", "steps": [
        {"definitionId": clean}, {"definitionId": count}, {"definitionId": orders},
        {"definitionId": echo, "name": "report", "payload": {"hello": "night"}}]})
    hello = workflow(api, "hello", {"definitionId": echo}, {"definitionId": count})
    runs = [str(api.made(f"/v1/workflows/{flow}?action=run")["runId"])
            for flow in (hello, nightly)]
    release = workflow(api, "release", {
        "id": "each", "type": "map", "items": 3,
        "body": [{"id": "try", "task": {"name": "builtin.echo"}}]},
        {"id": "ask", "name": "Ask the shift", "type": "approval", "timeoutSec": 86_400})
    asking = api.made(f"/v1/workflows/{release}?action=run")["runId"]
    register_services(api, port)
    alarm(api)
    fill_keys(api)
    nightly_at_two = api.made("/v1/schedules", {
        "name": "nightly", "workflowId": nightly, "cron": "30 2 * * *",
        "timeZone": "Europe/Berlin", "calendars": [], "jitterSec": 60})["scheduleId"]
    api.made(f"/v1/schedules/{nightly_at_two}?action=trigger", {})
    after = api.made("/v1/triggers", {
        "name": "report after import", "kind": "after", "workflowId": hello,
        "filter": "event.data.state == 'Succeeded'",
        "after": {"workflowId": nightly, "on": "any"}})["triggerId"]
    api.made("/v1/triggers", {"name": "push", "kind": "webhook", "workflowId": hello})
    webhook = api.made("/v1/webhooks", {"name": "tell the shop", "topics": ["runs", "alerts"],
                                        "url": "http://127.0.0.1:9/plum", "maxAttempts": 2,
                                        "headers": {"X-Key": "k"}})["webhookId"]
    api.done("PUT", "/v1/brokers/plant", {"url": "mqtt://127.0.0.1:9"})
    waiting = api.task("nobody-offers-this", priority=3)["taskId"]
    api.task("builtin.echo", delaySec=3600)
    api.task("builtin.echo", autoStart=False)
    api.task("builtin.delay", payload={"seconds": 3600})
    for _ in range(12):
        api.task("word-count", payload={"text": "a b c"})
    failed = api.ended(api.task("builtin.fail", payload={"message": "the tank is empty"})["taskId"])
    for run in runs:
        last = api.items(f"/v1/tasks?runId={run}")[0]
        api.ended(last["taskId"])
    shell = api.ended(api.items("/v1/tasks?name=clean-cache")[0]["taskId"])
    worker = wait_for(api, "/v1/embedded-workers")
    device = wait_for(api, "/v1/resources?type=radar")
    return {
        "overview": "/", "tasks": "/tasks", "tasks-filtered": "/tasks?state=Failed",
        "task-failed": f"/tasks/{failed['taskId']}", "task-log": f"/tasks/{shell['taskId']}",
        "task-waiting": f"/tasks/{waiting}", "definitions": "/task-defs",
        "definition": f"/task-defs/{clean}", "definition-new": "/task-defs/new",
        "definition-edit": f"/task-defs/{orders}/edit", "workflows": "/workflows",
        "workflow": f"/workflows/{nightly}", "workflow-new": "/workflows/new",
        "workflow-edit": f"/workflows/{nightly}/edit",
        "workflow-yaml": f"/workflows/{nightly}/edit?tab=yaml",
        "workflow-versions": f"/workflows/{nightly}?tab=versions",
        "workflow-simulate": f"/workflows/{nightly}/simulate", "runs": "/runs",
        "webhooks": "/webhooks", "webhook": f"/webhooks/{webhook}", "brokers": "/brokers",
        "triggers": "/triggers", "trigger": f"/triggers/{after}",
        "trigger-new": "/triggers/new", "trigger-edit": f"/triggers/{after}/edit",
        "schedules": "/schedules", "schedule": f"/schedules/{nightly_at_two}",
        "schedule-new": "/schedules/new", "schedule-edit": f"/schedules/{nightly_at_two}/edit",
        "run-asks": f"/runs/{asking}", "run-rounds": f"/runs/{asking}?step=each",
        "run": f"/runs/{runs[1]}", "run-compare": f"/runs/{runs[1]}/compare", "workers": "/workers",
        "worker": f"/workers/{worker['workerId']}", "services": "/services",
        "devices": "/devices", "device": f"/devices/{device['resourceId']}",
        "device-alarms": "/devices/press-1", "alarms": "/alarms?state=all",
        "alarm-rules": "/alarms?tab=rules",
        **deploy(api), "keys": "/kv?ns=plant", "locks": "/locks",
        "events": "/events", "health": "/health", "lost": "/no/such"}


def wait_for(api: Api, path: str) -> dict[str, object]:
    """The first item of a list, as soon as there is one."""
    while not (found := api.items(path)):
        pass
    return found[0]
