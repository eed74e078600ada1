"""Old clients' routes to the byte: how their bodies are read, whatever they are declared as."""

from __future__ import annotations

import json

import pytest

from tests.api.live import Api, Json, raw_exchange, refused, serving

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

DECLARED = ("", "Content-Type: text/plain\r\n", "Content-Type: application/octet-stream\r\n",
            "Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type: ;;;\r\n",
            "Content-Type: application/json; charset=latin-1\r\n")
REGISTER = "/v1/workers/register"


def post(api: Api, path: str, body: bytes, *, declared: str = "", method: str = "POST",
         ) -> tuple[int, bytes]:
    """What plain HTTP/1.1 gets: (status, body)."""
    answer = raw_exchange(api.daemon, (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{api.daemon.port}\r\n{declared}"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body)
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), rest


def worker(api: Api, worker_id: str) -> Json:
    return api.get(f"/v1/workers/{worker_id}")


@pytest.mark.parametrize("declared", DECLARED)
def test_the_declared_type_of_a_body_does_not_count(api: Api, declared: str) -> None:
    body = b'{"workerId":"declared","url":"http://127.0.0.1:1/","capacity":3}'
    assert post(api, REGISTER, body, declared=declared) == (
        200, b'{"workerId":"declared","ttlSec":15.0}')
    assert post(api, "/v1/workers/heartbeat", b'{"workerId":"declared","capacity":3}',
                declared=declared)[0] == 200
    assert post(api, "/v1/services/register", b'{"instanceId":"i","serviceName":"s","port":1,'
                b'"ip":"127.0.0.1","protocol":"http"}', declared=declared) == (204, b"")


@pytest.mark.parametrize("body", [
    b'{"workerid":"keys","URL":"http://127.0.0.1:1/","NODEID":"n","Tasks":["t"]}',
    b'{"WorkerId":"keys","Url":"http://127.0.0.1:1/","NodeId":"n","TASKS":["t"]}',
    b'\r\n\t {"workerId":"keys","url":"http://127.0.0.1:1/","nodeId":"n","tasks":["t"]}\x00\x00',
    b'{"workerId":"keys","url":"http://127.0.0.1:1/","nodeId":"n","tasks":["t"]}{"workerId":"x"}',
    b'{"workerId":"keys","url":"http://127.0.0.1:1/","nodeId":"n","tasks":["t"]}garbage \xff\xfe',
    (b'{"workerId":"keys","url":"http://127.0.0.1:1/","nodeId":"n","tasks":["t"],"labels":null,'
     b'"capacity":null,"more":{"a":[1,{"b":null}]},"":1,"WORKER":2}'),
    (b'{"workerId":"wrong","workerId":"keys","url":"http://127.0.0.1:1/","nodeId":"n",'
     b'"tasks":["t"]}'),
    (b'{"workerId":"keys","WORKERID":"wrong","url":"http://127.0.0.1:1/","nodeId":"n",'
     b'"tasks":["t"]}'),
])
def test_how_bodies_are_read(api: Api, body: bytes) -> None:
    assert post(api, REGISTER, body)[0] == 200
    found = worker(api, "keys")
    assert (found["nodeId"], found["tasks"], found["capacity"], found["labels"]) == (
        "n", ["t"], 4, {})
    assert api.ask("GET", "/v1/workers/wrong").status_code == 404
    api.gone("/v1/workers/keys")


def test_keys_of_labels_and_values_are_left_as_they_are(api: Api) -> None:
    body = ('{"workerId":"as-is","url":"http://127.0.0.1:1/","LABELS":{"WorkerId":"Ü","url":"x",'
            '"null":"null"}}').encode()
    assert post(api, REGISTER, body)[0] == 200
    assert worker(api, "as-is")["labels"] == {"WorkerId": "Ü", "url": "x", "null": "null"}


@pytest.mark.parametrize(("body", "status", "code", "field"), [
    (b"", 400, "malformed", None), (b"{", 400, "malformed", None),
    (b"\xff", 400, "malformed", None),
    (b"nul", 400, "malformed", None), (b"null", 422, "invalid", "workerId"),
    (b"[]", 422, "invalid", None), (b"{}", 422, "invalid", "workerId"),
    (b'{"workerId":null,"url":"http://h/"}', 422, "invalid", "workerId"),
    (b'{"WORKERID":7,"url":"http://h/"}', 422, "invalid", "workerId"),
    (b'{"workerId":"w","url":"http://h/","tasks":{}}', 422, "invalid", "tasks"),
    (b'{"workerId":"w","url":"http://h/","capacity":"4"}', 422, "invalid", "capacity"),
])
def test_what_is_still_refused(api: Api, body: bytes, status: int, code: str,
                               field: str | None) -> None:
    before = api.count()
    found, text = post(api, REGISTER, body)
    problem = json.loads(text)
    assert (found, problem["code"], problem.get("field")) == (status, code, field)
    assert api.count() == before


def test_the_old_path_of_cancel_takes_any_body(api: Api) -> None:
    for body in (b"", b"{}", b"garbage", b"\xff" * 100):
        task = api.task("builtin.delay", payload=3600)
        status, text = post(api, f"/v1/tasks/cancel/{task['taskId']}", body)
        assert status == 200, text
        assert json.loads(text)["taskId"] == task["taskId"]
        assert api.ended(task["taskId"])["state"] == "Canceled"


def test_head_works_wherever_get_does(api: Api) -> None:
    document = api.get("/openapi.json")
    paths: dict[str, Json] = document["paths"]  # type: ignore[assignment]
    asked = 0
    for path, methods in paths.items():
        if "get" not in methods or path.endswith("/stream") or path == "/v1/events":
            continue
        plain = path.replace("{id}", "none")
        get, head = api.ask("GET", plain), api.ask("HEAD", plain)
        assert head.content == b""
        assert head.status_code == get.status_code, plain
        assert head.headers["content-type"] == get.headers["content-type"]
        asked += 1
    assert asked > 15


def test_keep_alive_and_pipelining_of_plain_clients(api: Api) -> None:
    body = b'{"workerId":"piped","url":"http://127.0.0.1:1/"}'
    one = (f"POST {REGISTER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
           ).encode() + body
    last = one.replace(b"Host: localhost", b"Host: localhost\r\nConnection: close")
    answer = raw_exchange(api.daemon, one, more=[one[:30], one[30:] + one, last])
    assert answer.count(b"HTTP/1.1 200") == 4
    # The same with a heartbeat, which the thin front answers itself.
    beat = one.replace(b"register", b"heartbeat")
    answer = raw_exchange(api.daemon, beat, more=[beat[:-5], beat[-5:] + beat,
                                                  last.replace(b"register", b"heartbeat")])
    assert answer.count(b"HTTP/1.1 200") == 4


def test_strict_routes_are_not_lenient(api: Api) -> None:
    before = api.count()
    refused(api.ask("POST", "/v1/tasks", b'{"NAME":"builtin.echo"}'), 422, "invalid", "NAME")
    refused(api.ask("POST", "/v1/tasks", b'{"name":"builtin.echo","x":1}'), 422, "invalid", "x")
    refused(api.ask("POST", "/v1/tasks", b'{"name":"builtin.echo"}x'), 400, "malformed")
    assert post(api, "/v1/tasks", b'{"name":"builtin.echo"}')[0] == 415
    assert api.count() == before
