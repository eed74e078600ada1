"""/v1/workers and /v1/embedded-workers against the real program."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from plumd.stream.task_service_pb2 import TaskResponse
from tests.api.live import WAIT_S, Api, Json, listed, refused, serving, whole
from tests.daemon.running import free_port
from tests.executors.test_grpc_client import serving as execute_task
from tests.stream.grpcio import StreamWorker, channel

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

KEYS = {
    "workerId", "kind", "health", "nodeId", "url", "instanceId", "appName", "appVersion", "tasks",
    "labels", "capacity", "running", "attempts", "registeredAt", "lastSeen", "offlineSince",
    "transport", "address", "state", "taskNames", "lastSeenAt"}


class Called:
    """A worker that is called back: keeps what it was told, answers when it may."""

    def __init__(self) -> None:
        self.told: list[Json] = []
        self.may_answer = threading.Event()
        called = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                called.told.append(json.loads(body))
                called.may_answer.wait(WAIT_S)
                self.send_response(200)
                self.send_header("content-length", "7")
                self.end_headers()
                self.wfile.write(b"not, js")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                """Nothing to tell."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/run"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def register(self, api: Api, worker_id: str, **more: object) -> Json:
        return api.done("POST", "/v1/workers/register", {
            "workerId": worker_id, "nodeId": "n1", "url": self.url, "tasks": [worker_id], **more})


@pytest.fixture
def called() -> Iterator[Called]:
    """A worker at the far side, ended at the end."""
    one = Called()
    one.thread.start()
    yield one
    one.may_answer.set()
    one.server.shutdown()
    one.thread.join()
    one.server.server_close()


def test_a_worker_that_is_called_back(api: Api, called: Called) -> None:
    assert called.register(api, "caller", labels={"zone": "a"}, capacity=2) == {
        "workerId": "caller", "ttlSec": 15}
    shown = api.get("/v1/workers/caller")
    assert set(shown) == KEYS
    assert (shown["kind"], shown["health"], shown["nodeId"], shown["tasks"], shown["labels"],
            shown["capacity"], shown["running"], shown["attempts"], shown["offlineSince"]) == (
        "http", "Healthy", "n1", ["caller"], {"zone": "a"}, 2, 0, [], None)
    refused(api.ask("GET", "/v1/embedded-workers/caller"), 404, "not_found")
    task = api.task("caller", payload={"x": 1})
    api.task("caller")
    until_told(called, 2)
    assert {"name": "caller", "payload": {"x": 1}, "taskId": task["taskId"]} in called.told
    held = api.get("/v1/workers/caller")
    assert held["running"] == 2
    assert task["taskId"] in held["attempts"]  # type: ignore[operator]
    # A sign of life with another capacity changes that and nothing else: nobody is called again.
    assert api.done("POST", "/v1/workers/heartbeat", {"workerId": "caller", "capacity": 3}) == {
        "workerId": "caller", "ttlSec": 15}
    assert called.register(api, "caller", labels={"zone": "b"}, capacity=3)
    assert api.get("/v1/workers/caller")["running"] == 2
    called.may_answer.set()
    done = api.ended(task["taskId"])
    assert (done["state"], done["result"], done["worker"]) == ("Succeeded", "not, js", "caller")
    assert len(called.told) == 2
    api.gone("/v1/workers/caller")
    refused(api.ask("GET", "/v1/workers/caller"), 404, "not_found")
    refused(api.ask("DELETE", "/v1/workers/caller"), 404, "not_found")
    refused(api.ask("POST", "/v1/workers/heartbeat", {"workerId": "caller"}), 404, "not_found",
            "workerId")


def until_told(called: Called, count: int) -> None:
    """Wait until so many calls came."""
    until = threading.Event()
    for _ in range(WAIT_S * 100):
        if len(called.told) >= count:
            return
        until.wait(0.01)
    raise AssertionError(f"{len(called.told)} calls came, not {count}")


def test_drain_and_resume(api: Api, called: Called) -> None:
    called.may_answer.set()
    called.register(api, "drained")
    shown = api.done("POST", "/v1/workers/drained?action=drain")
    assert shown["health"] == "Draining"
    task = api.task("drained")
    assert api.get(f"/v1/tasks/{task['taskId']}")["state"] == "Pending"
    [cause, *_] = listed(api.get(f"/v1/tasks/{task['taskId']}/why")["causes"])
    assert cause["code"]
    assert not called.told
    assert api.done("POST", "/v1/workers/drained?action=resume")["health"] == "Healthy"
    assert api.ended(task["taskId"])["state"] == "Succeeded"
    for query in ("", "?action=x"):
        refused(api.ask("POST", f"/v1/workers/drained{query}"), 422, "invalid", "action")
    refused(api.ask("POST", "/v1/workers/none?action=drain"), 404, "not_found")


def test_deleting_a_worker_loses_what_it_held(api: Api, called: Called) -> None:
    called.register(api, "deleted")
    task = api.task("deleted", onLost="fail")
    until_told(called, 1)
    api.gone("/v1/workers/deleted")
    done = api.ended(task["taskId"])
    assert done["state"] == "Failed"
    assert done["error"]["code"] == "lost"  # type: ignore[index]
    assert done["error"]["worker"] == "deleted"  # type: ignore[index]
    [attempt] = api.items(f"/v1/tasks/{task['taskId']}/attempts")
    assert attempt["ending"] == "lost"


def test_nobody_takes_the_place_of_the_daemons_own_executors(api: Api, called: Called) -> None:
    called.may_answer.set()
    before = api.count()
    for worker_id in ("local:builtin", "local:os_process", "local:service", "local:x", "",
                      "x" * 201):
        for path in ("/v1/workers/register", "/v1/embedded-workers/register"):
            refused(api.ask("POST", path, {"workerId": worker_id, "url": called.url}), 422,
                    "invalid", "workerId")
    for name in ("!os_process", "!builtin", "!service", "!"):
        for path in ("/v1/workers/register", "/v1/embedded-workers/register"):
            refused(api.ask("POST", path, {"workerId": "thief", "url": called.url,
                                           "tasks": ["fine", name]}), 422, "invalid", "tasks[1]")
    assert api.count() == before
    refused(api.ask("POST", "/v1/workers/heartbeat", {"workerId": "local:builtin"}), 404,
            "not_found", "workerId")
    assert api.ended(api.task()["taskId"])["worker"] == "local:builtin"


def test_an_embedded_worker_is_away_until_its_line_is_there(api: Api) -> None:
    answer = api.ask("POST", "/v1/embedded-workers/register", {
        "workerId": "streams", "nodeId": "n2", "instanceId": "i", "appName": "a",
        "appVersion": "1", "tasks": ["t"], "labels": {"capacity": "7"}})
    assert whole(answer, 201) == {"workerId": "streams", "ttlSec": 90}
    shown = api.get("/v1/embedded-workers/streams")
    assert set(shown) == KEYS
    assert (shown["kind"], shown["health"], shown["capacity"], shown["instanceId"],
            shown["appName"], shown["appVersion"]) == ("embedded", "Away", 7, "i", "a", "1")
    assert (shown["state"], shown["transport"], shown["address"]) == ("away", None, None)
    assert shown["taskNames"] == shown["tasks"] == ["t"]
    assert shown["lastSeenAt"] == shown["lastSeen"]
    beat = api.ask("POST", "/v1/embedded-workers/heartbeat", {"workerId": "streams"})
    assert (beat.status_code, beat.content) == (204, b"")
    refused(api.ask("POST", "/v1/workers/heartbeat", {"workerId": "streams", "capacity": 9}), 404,
            "not_found", "workerId")
    assert api.get("/v1/embedded-workers/streams")["capacity"] == 7
    refused(api.ask("GET", "/v1/workers/streams"), 404, "not_found")
    api.gone("/v1/embedded-workers/streams")
    refused(api.ask("POST", "/v1/embedded-workers/heartbeat", {"workerId": "streams"}), 404,
            "not_found", "workerId")


def test_lists_are_whole_unless_a_limit_is_given(api: Api, called: Called) -> None:
    names = sorted(f"listed/{index} ü" for index in range(5))
    for name in names:
        called.register(api, name)

    def mine(path: str) -> list[object]:
        return [one["workerId"] for one in api.walk(path)
                if str(one["workerId"]).startswith("listed")]

    assert mine("/v1/workers") == names
    assert mine("/v1/workers?limit=1") == names
    assert mine("/v1/workers?limit=2") == names
    assert "link" not in api.ask("GET", "/v1/workers").headers
    assert mine("/v1/embedded-workers") == []
    refused(api.ask("GET", "/v1/workers?limit=0"), 422, "invalid", "limit")
    refused(api.ask("GET", "/v1/workers?cursor=!"), 422, "invalid", "cursor")
    for name in names:
        api.gone(f"/v1/workers/{name.replace('/', '%2F').replace('ü', '%C3%BC')}")


def test_bad_registrations(api: Api) -> None:
    before = api.count()
    good = {"workerId": "w", "url": "http://127.0.0.1:1/"}
    for change, field in (
            ({"workerId": 1}, "workerId"), ({"url": "ftp://x"}, "url"), ({"url": ""}, "url"),
            ({"tasks": "x"}, "tasks"), ({"tasks": [""]}, "tasks[0]"), ({"labels": []}, "labels"),
            ({"labels": {"a": 1}}, "labels[...]"), ({"capacity": 0}, "capacity"),
            ({"capacity": 1.5}, "capacity"), ({"nodeId": {}}, "nodeId")):
        refused(api.ask("POST", "/v1/workers/register", {**good, **change}), 422, "invalid", field)
    refused(api.ask("POST", "/v1/workers/register", {"url": good["url"]}), 422, "invalid",
            "workerId")
    refused(api.ask("POST", "/v1/workers/register", b"{"), 400, "malformed")
    assert api.count() == before


def test_a_worker_that_cannot_be_reached_is_away_until_it_is_heard_of(
        api: Api, called: Called) -> None:
    called.may_answer.set()
    good = called.url
    called.url = f"http://127.0.0.1:{free_port()}/"
    called.register(api, "unreached")
    task = api.task("unreached")
    error = api.ended(task["taskId"])["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["worker"]) == ("unreachable", "unreached")
    assert api.get("/v1/workers/unreached")["health"] == "Away"
    again = api.task("unreached")
    why = api.get(f"/v1/tasks/{again['taskId']}/why")
    assert "workers_away" in str(why)
    called.url = good
    called.register(api, "unreached")
    assert api.ended(again["taskId"])["state"] == "Succeeded"
    assert api.get("/v1/workers/unreached")["health"] == "Healthy"
    api.gone("/v1/workers/unreached")


def test_a_heartbeat_takes_an_unreached_worker_back(api: Api, called: Called) -> None:
    called.url = f"http://127.0.0.1:{free_port()}/"
    called.register(api, "beats")
    api.ended(api.task("beats")["taskId"])
    assert api.get("/v1/workers/beats")["health"] == "Away"
    api.done("POST", "/v1/workers/heartbeat", {"workerId": "beats"})
    assert api.get("/v1/workers/beats")["health"] == "Healthy"
    api.gone("/v1/workers/beats")


def test_a_worker_that_serves_execute_task_is_called_there(api: Api) -> None:
    with execute_task() as server:
        whole(api.ask("POST", "/v1/embedded-workers/register", {
            "workerId": "exec", "nodeId": "n", "grpcAddress": f":{server.port}",
            "tasks": ["exec.one"], "labels": {"capacity": "2", "zone": "a"}}), 201)
        shown = api.get("/v1/embedded-workers/exec")
        assert {key: shown[key] for key in ("kind", "health", "url", "capacity")} == {
            "kind": "embedded", "health": "Healthy", "url": f"grpc://127.0.0.1:{server.port}",
            "capacity": 2}
        assert "exec" in [one["workerId"] for one in api.items("/v1/embedded-workers")]
        assert "exec" not in [one["workerId"] for one in api.items("/v1/workers")]
        assert api.ask("GET", "/v1/workers/exec").status_code == 404
        task = api.task("exec.one", payload={"x": "ü"}, targetKind="labels", targetRef="zone=a")
        done = api.ended(task["taskId"])
        assert (done["state"], done["result"], done["worker"]) == (
            "Succeeded", {"x": "ü"}, "exec")
        assert api.ask("POST", "/v1/embedded-workers/heartbeat",
                       {"workerId": "exec"}).status_code == 204
        server.answer = lambda *_: TaskResponse(error="no luck")
        error = api.ended(api.task("exec.one")["taskId"])["error"]
        assert isinstance(error, dict)
        assert (error["code"], error["message"]) == ("failed", "no luck")
        assert len(server.peers) == 1
    task = api.task("exec.one")
    error = api.ended(task["taskId"])["error"]
    assert isinstance(error, dict)
    assert error["code"] == "unreachable"
    assert api.get("/v1/embedded-workers/exec")["health"] == "Away"
    assert api.ask("POST", "/v1/embedded-workers/heartbeat",
                   {"workerId": "exec"}).status_code == 204
    assert api.get("/v1/embedded-workers/exec")["health"] == "Healthy"
    whole(api.ask("POST", "/v1/embedded-workers/register", {
        "workerId": "exec", "grpcAddress": "127.0.0.1:1", "tasks": ["exec.two"]}), 201)
    shown = api.get("/v1/embedded-workers/exec")
    assert (shown["url"], shown["tasks"], shown["capacity"]) == (
        "grpc://127.0.0.1:1", ["exec.two"], 4)
    api.gone("/v1/embedded-workers/exec")


@pytest.mark.parametrize("address", ["nowhere", "h:", "h:x", "http://h:1", "h:1/x", "h:99999"])
def test_an_address_that_is_none_is_refused(api: Api, address: str) -> None:
    refused(api.ask("POST", "/v1/embedded-workers/register", {
        "workerId": "bad", "grpcAddress": address, "tasks": []}), 422, "invalid", "grpcAddress")
    assert api.ask("GET", "/v1/embedded-workers/bad").status_code == 404


def test_a_worker_on_a_stream_is_not_called_though_it_names_an_address(api: Api) -> None:
    with channel(api.daemon.port) as opened:
        one = StreamWorker(opened, "both")
        one.register("both.t")
        task = api.task("both.t")
        attempt = one.attempt()
        whole(api.ask("POST", "/v1/embedded-workers/register", {
            "workerId": "both", "grpcAddress": "127.0.0.1:1", "tasks": ["both.t"]}), 201)
        one.answer(attempt.task_id, "1")
        assert api.ended(task["taskId"])["result"] == 1
        one.leave()
        one.end()
