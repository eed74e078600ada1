"""The builtins that reach out: requests, keys, devices and waiting, through kill -9 too."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.api.live import Api, Json, listed, refused, serving, whole
from tests.daemon.running import Running, free_port

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


class Far(ThreadingHTTPServer):
    """What was asked, and a status that it answers by the path."""

    asked: list[tuple[str, str, dict[str, str], bytes]]


class Handler(BaseHTTPRequestHandler):
    """Answers /<status> with what it was sent."""

    server: Far

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, headers, body))
        answer = body or b'{"hello": 1}'
        self.send_response(int(self.path.rpartition("/")[2]))
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing to say."""


for method in ("GET", "POST", "PUT"):
    setattr(Handler, f"do_{method}", Handler.answer)


@contextmanager
def far_side() -> Iterator[Far]:
    server = Far(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ran(api: Api, name: str, payload: object, **more: object) -> Json:
    """A task at its end."""
    return api.ended(api.task(name, payload=payload, **more)["taskId"])


def failure(task: Json) -> tuple[object, object]:
    """(state, error code)."""
    error = task["error"]
    assert isinstance(error, dict), task
    return task["state"], error["code"]


# ---------------------------------------------------------------- http

def test_a_request_and_its_answer(api: Api) -> None:
    with far_side() as far:
        url = f"http://127.0.0.1:{far.server_port}"
        task = ran(api, "builtin.http", {"url": f"{url}/200"})
        assert task["state"] == "Succeeded", task
        result = task["result"]
        assert isinstance(result, dict)
        assert (result["status"], result["body"]) == (200, {"hello": 1})
        task = ran(api, "builtin.http", {"url": f"{url}/201", "method": "POST",
                                         "headers": {"X-Mine": "a b"}, "body": {"x": [1]}})
        method, path, headers, body = far.asked[-1]
        assert (method, path, json.loads(body)) == ("POST", "/201", {"x": [1]})
        assert headers["x-mine"] == "a b"
        assert headers["content-type"] == "application/json"
        assert headers["idempotency-key"]
        ran(api, "builtin.http", {"url": f"{url}/200", "method": "PUT", "body": "plain"})
        assert far.asked[-1][3] == b"plain"
        assert failure(ran(api, "builtin.http", {"url": f"{url}/404"})) == ("Failed", "http_status")
        assert ran(api, "builtin.http", {"url": f"{url}/404", "expectStatus": [404]})[
            "state"] == "Succeeded"
        assert failure(ran(api, "builtin.http", {"url": f"{url}/200", "expectStatus": [204]})) == (
            "Failed", "http_status")


def test_it_calls_neither_us_nor_metadata(api: Api) -> None:
    for url in (api.daemon.url + "/v1/tasks", "http://169.254.169.254/latest"):
        assert failure(ran(api, "builtin.http", {"url": url})) == ("Failed", "refused_address")


@pytest.mark.parametrize(("name", "payload", "field"), [
    ("builtin.http", {}, "payload.url"), ("builtin.http", None, "payload"),
    ("builtin.http", {"url": "ftp://x/"}, "payload.url"),
    ("builtin.http", {"url": "http://x/", "method": "STEAL"}, "payload.method"),
    ("builtin.http", {"url": "http://x/", "more": 1}, "payload.more"),
    ("builtin.http", {"url": "http://x/", "headers": {"Host": "y"}}, "payload.headers.Host"),
    ("builtin.http", {"url": "http://x/", "timeoutSec": 0}, "payload.timeoutSec"),
    ("builtin.kv", {"op": "get", "namespace": "a/b", "key": "k"}, "payload.namespace"),
    ("builtin.kv", {"op": "put", "namespace": "a", "key": "k"}, "payload.value"),
    ("builtin.kv", {"op": "put", "namespace": "a", "key": "k", "value": "x", "type": "int"},
     "payload.value"),
    ("builtin.kv", {"op": "cas", "namespace": "a", "key": "k", "value": 1}, "payload.ifVersion"),
    ("builtin.kv", {"op": "get", "namespace": "a", "key": "k", "value": 1}, "payload.value"),
    ("builtin.kv", {"op": "put", "namespace": "a", "key": "k", "value": 1, "lock": "l"},
     "payload.lock"),
    ("builtin.device", {"resourceId": "d", "operations": []}, "payload.operations"),
    ("builtin.wait", {}, "payload"),
    ("builtin.wait", {"until": 1, "kv": {"namespace": "a", "key": "k"}}, "payload"),
    ("builtin.wait", {"device": {"resourceId": "d", "state": "s"}}, "payload.device.value"),
])
def test_what_is_wrong_is_named_at_submit(api: Api, name: str, payload: object,
                                          field: str) -> None:
    refused(api.ask("POST", "/v1/tasks", {"name": name, "payload": payload}), 422, "invalid", field)


def test_hosts_can_be_bounded(tmp_path: Path) -> None:
    with far_side() as far, Running(
            tmp_path / "data", environment={"PLUMD_BUILTIN_HTTP_HOSTS": ".example.org"}
            ) as daemon, Api(daemon) as api:
        task = ran(api, "builtin.http", {"url": f"http://127.0.0.1:{far.server_port}/200"})
        assert failure(task) == ("Failed", "refused_host")
        assert far.asked == []


# ---------------------------------------------------------------- kv

def test_keys(api: Api) -> None:
    def did(op: str, **more: object) -> object:
        task = ran(api, "builtin.kv", {"op": op, "namespace": "b", "key": "k", **more})
        return task["result"] if task["state"] == "Succeeded" else failure(task)[1]

    assert did("get") == {"found": False, "key": "k"}
    assert did("put", value=5) == {
        "found": True, "key": "k", "version": 1, "type": "int", "value": 5}
    assert api.get("/v1/kv/b/k")["type"] == "int"
    assert did("increment", by=-7) == {
        "found": True, "key": "k", "version": 2, "type": "int", "value": -2}
    assert did("increment", by=0.5) == {
        "found": True, "key": "k", "version": 3, "type": "double", "value": -1.5}
    assert did("cas", value=True, ifVersion=2) == "precondition_failed"
    assert did("cas", value=True, ifVersion=3) == {
        "found": True, "key": "k", "version": 4, "type": "bool", "value": True}
    assert did("increment") == "invalid"
    assert did("delete") == {"found": False, "key": "k", "version": 5}
    lock = whole(api.ask("POST", "/v1/locks/b/l?action=acquire", {"owner": "a"}), 200)
    token = lock["token"]
    assert did("put", value="x", lock="l", token=token) == {
        "found": True, "key": "k", "version": 6, "type": "string", "value": "x"}
    api.gone("/v1/locks/b/l")
    assert did("put", value="y", lock="l", token=token) == "lease_lost"


def test_increments_count_exactly_once_through_kill_9(tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon:
        ids: list[object] = []
        for _ in range(3):
            with Api(daemon) as api:
                found = whole(api.ask("POST", "/v1/tasks/bulk", {"tasks": [
                    {"name": "builtin.kv", "payload": {
                        "op": "increment", "namespace": "c", "key": "n"}}] * 200}), 200)
                ids += [item["taskId"] for item in listed(found["results"])]
            daemon.kill()
            daemon.start()
        with Api(daemon) as api:
            for task_id in ids:
                assert api.ended(task_id)["state"] == "Succeeded"
            assert api.get("/v1/kv/c/n")["value"] == str(len(ids))


# ---------------------------------------------------------------- waiting

def test_waiting_for_keys(api: Api) -> None:
    def wait(**condition: object) -> object:
        return api.task("builtin.wait", payload={"kv": {"namespace": "w", **condition}})["taskId"]

    there = wait(key="a")
    above = wait(key="n", op=">=", value=10)
    gone = wait(key="a", exists=False)
    assert api.ended(gone)["result"] == {"message": "the key is not there"}
    for value in ("3", "9.5", "10"):
        assert api.get(f"/v1/tasks/{above}")["state"] == "Running"
        api.done("PUT", "/v1/kv/w/n", {"value": value, "type": "double"})
    assert api.ended(above)["result"] == {"message": "the key is as it was waited for",
                                          "value": 10}
    assert api.get(f"/v1/tasks/{there}")["state"] == "Running"
    api.done("PUT", "/v1/kv/w/a", {"value": "x"})
    assert api.ended(there)["result"] == {"message": "the key is there", "value": "x"}
    gone = wait(key="a", exists=False)
    api.gone("/v1/kv/w/a")
    assert api.ended(gone)["state"] == "Succeeded"


def test_a_wait_ends_by_cancel_and_by_its_time(api: Api) -> None:
    payload = {"kv": {"namespace": "w", "key": "never"}}
    task = api.task("builtin.wait", payload=payload)["taskId"]
    assert api.get(f"/v1/tasks/{task}")["timeoutSec"] == 0
    api.ask("POST", f"/v1/tasks/{task}?action=cancel")
    assert api.ended(task)["state"] == "Canceled"
    assert ran(api, "builtin.wait", payload, timeoutSec=0.3)["state"] == "Timeout"
    assert ran(api, "builtin.wait", {"until": 1})["result"] == {"message": "the time has come"}


def test_waits_survive_kill_9(tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon:
        with Api(daemon) as api:
            task = api.task("builtin.wait", payload={"kv": {
                "namespace": "w", "key": "k", "value": "go"}})["taskId"]
            other = api.task("builtin.wait", payload={"kv": {
                "namespace": "w", "key": "other"}})["taskId"]
            assert api.get(f"/v1/tasks/{task}")["state"] == "Running"
        daemon.kill()
        daemon.start()
        with Api(daemon) as api:
            api.done("PUT", "/v1/kv/w/k", {"value": "stay"})
            api.done("PUT", "/v1/kv/w/other", {"value": ""})
            assert api.ended(other)["state"] == "Succeeded"
            assert api.get(f"/v1/tasks/{task}")["state"] == "Running"
            api.done("PUT", "/v1/kv/w/k", {"value": "go"})
            ended = api.ended(task)
            assert (ended["state"], ended["attempt"]) == ("Succeeded", 1)


# ---------------------------------------------------------------- devices

def test_devices(api: Api) -> None:
    with far_side() as far:
        url = f"http://127.0.0.1:{far.server_port}/200"
        whole(api.ask("POST", "/v1/resources/register", {
            "resourceId": "r", "url": url, "opDesc": [{"name": "set", "type": "int"}]}), 200)
        payload = {"resourceId": "r", "operations": [{"name": "set", "value": 7}]}
        task = ran(api, "builtin.device", payload)
        assert task["result"] == {"resourceId": "r", "answer": {
            "operations": [{"name": "set", "value": "7"}]}}
        payload = {"resourceId": "r", "operations": [{"name": "set", "value": "much"}]}
        assert failure(ran(api, "builtin.device", payload)) == ("Failed", "invalid")
        waiting = api.task("builtin.wait", payload={"device": {
            "resourceId": "r", "state": "temp", "op": ">", "value": 80}})["taskId"]
        for value in ("20", "80", "80.5"):
            api.ask("POST", "/v1/resources/state", {"resourceId": "r", "states": {"temp": value}})
        assert api.ended(waiting)["result"] == {
            "message": "the state is as it was waited for", "value": "80.5"}
    dead = f"http://127.0.0.1:{free_port()}/"
    whole(api.ask("POST", "/v1/resources/register", {"resourceId": "dead", "url": dead}), 200)
    task = ran(api, "builtin.device", {"resourceId": "dead", "operations": [{"name": "x"}]},
               onLost="fail")
    assert failure(task)[0] == "Failed"
    assert failure(ran(api, "builtin.device", {
        "resourceId": "nobody", "operations": [{"name": "x"}]})) == ("Failed", "not_found")


def test_the_list_of_builtins_has_their_schemas(api: Api) -> None:
    found = {one["name"]: one for one in api.items("/v1/builtins")}
    for name in ("builtin.http", "builtin.kv", "builtin.device", "builtin.wait"):
        schema = found[name]["payloadSchema"]
        assert isinstance(schema, dict)
        assert schema["type"] == "object"
        task = api.ask("POST", "/v1/tasks", {"name": name, "payload": found[name]["example"],
                                             "autoStart": False})
        assert task.status_code == 201, "its example is one"
