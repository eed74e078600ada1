"""The blocking client: what it sends, what it makes of answers, and how it outlives an outage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

import httpx
import pytest

from plumd.sdk import Client, ProblemError, UnreachableError, WaitTimeoutError
from plumd.sdk.client import Event, Json, parse_events
from tests.daemon.running import Running

BASE = "http://plum.test"


class Server:
    """Answers by a script, and remembers what was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self) -> Client:
        return Client(BASE, transport=httpx.MockTransport(self))


def problem(status: int, code: str, **more: Json) -> httpx.Response:
    return httpx.Response(status, json={"type": f"/docs/errors#{code}", "title": "No",
                                        "status": status, "code": code, "detail": "no", **more})


# ---------------------------------------------------------------- requests

def test_a_submit_sends_only_what_was_given() -> None:
    server = Server(httpx.Response(201, json={"taskId": "1"}), httpx.Response(201, json={}))
    with server.client() as plum:
        assert plum.submit("build") == {"taskId": "1"}
        plum.submit("build", None, key="k", labels={"a": "b"}, maxRetries=2)
    assert json.loads(server.asked[0].content) == {"name": "build"}
    assert "idempotency-key" not in server.asked[0].headers
    assert json.loads(server.asked[1].content) == {
        "name": "build", "payload": None, "labels": {"a": "b"}, "maxRetries": 2}
    assert server.asked[1].headers["content-type"] == "application/json"


def test_an_empty_object_is_a_payload() -> None:
    server = Server(httpx.Response(201, json={}))
    with server.client() as plum:
        plum.submit("build", {})
    assert json.loads(server.asked[0].content)["payload"] == {}


def test_ids_are_quoted_in_paths() -> None:
    server = Server(httpx.Response(200, json={}))
    with server.client() as plum:
        plum.task("../nodes?x=1")
    assert server.asked[0].url.raw_path == b"/v1/tasks/..%2Fnodes%3Fx%3D1"


def test_a_refusal_tells_its_code_field_and_pause() -> None:
    server = Server(httpx.Response(429, json={"code": "too_many", "detail": "later",
                                              "field": "tasks[3]"}, headers={"retry-after": "5"}))
    with server.client() as plum, pytest.raises(ProblemError) as caught:
        plum.submit("build")
    error = caught.value
    assert (error.status, error.code, error.detail, error.field, error.retry_after_s) == (
        429, "too_many", "later", "tasks[3]", 5.0)
    assert str(error) == "tasks[3]: later (too_many)"


def test_an_error_that_is_no_problem_document_is_one_all_the_same() -> None:
    server = Server(httpx.Response(502, text="<h1>Bad Gateway</h1>"))
    with server.client() as plum, pytest.raises(ProblemError) as caught:
        plum.task("1")
    assert (caught.value.status, caught.value.code) == (502, "http_error")


def test_who_does_not_answer_is_unreachable() -> None:
    server = Server(httpx.ConnectError("refused"), httpx.Response(200, text="<html>"))
    with server.client() as plum:
        with pytest.raises(UnreachableError, match="refused"):
            plum.task("1")
        with pytest.raises(UnreachableError, match="not JSON"):
            plum.task("1")


def test_a_url_that_is_none_is_refused() -> None:
    for url in ("plum.test:8080", "http://[::1", "ftp://plum.test"):
        with pytest.raises(ValueError, match="is no URL"):
            Client(url)


def test_the_server_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROLLER_BASE", "http://old:1/")
    assert Client().url == "http://old:1"
    monkeypatch.setenv("PLUM_SERVER", "http://new:2")
    assert Client().url == "http://new:2"
    assert Client("http://said:3").url == "http://said:3"


# ---------------------------------------------------------------- lists

def page(ids: range, following: str = "") -> httpx.Response:
    headers = {"link": f'<{following}>; rel="next"'} if following else {}
    return httpx.Response(200, json=[{"taskId": str(one)} for one in ids], headers=headers)


def test_pages_follow_each_other() -> None:
    server = Server(page(range(3), "/v1/tasks?cursor=a&state=Failed"), page(range(3, 5)))
    with server.client() as plum:
        assert [one["taskId"] for one in plum.tasks(state="Failed", name=None)] == list("01234")
    assert server.asked[0].url.query == b"state=Failed"
    assert server.asked[1].url.query == b"cursor=a&state=Failed"


def test_a_limit_ends_a_list_between_and_within_pages() -> None:
    server = Server(page(range(3), "/next"), page(range(3, 6), "/more"))
    with server.client() as plum:
        assert len(list(plum.tasks(limit=4))) == 4
    server = Server(page(range(3), "/next"))
    with server.client() as plum:
        assert len(list(plum.tasks(limit=3))) == 3
    assert len(server.asked) == 1


# ---------------------------------------------------------------- waiting

def test_waiting_outlives_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("plumd.sdk.client.time.sleep", slept.append)
    server = Server(
        httpx.Response(200, json={"state": "Running"}), httpx.ConnectError("down"),
        problem(503, "overloaded"), httpx.RemoteProtocolError("cut"),
        httpx.Response(200, json={"state": "Failed"}))
    seen: list[Json] = []
    with server.client() as plum:
        assert plum.wait_task("1", seen=lambda task: seen.append(task["state"])) == {
            "state": "Failed"}
    assert seen == ["Running", "Failed"]
    assert server.asked[0].headers["prefer"] == "wait=1"
    assert slept == [0.1, 0.2, 0.4, 0.8]    # the first: an answer that came too soon


def test_waiting_ends_at_a_refusal() -> None:
    server = Server(problem(404, "not_found"))
    with server.client() as plum, pytest.raises(ProblemError, match="not_found"):
        plum.wait_task("1")


def test_waiting_gives_up_when_nobody_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("plumd.sdk.client.time.sleep", sleep)
    monkeypatch.setattr("plumd.sdk.client.time.monotonic", lambda: now[0])
    server = Server(*[httpx.ConnectError("down")] * 100)
    with server.client() as plum, pytest.raises(UnreachableError):
        plum.wait_run("1")
    assert 55 < now[0] <= 60


def test_waiting_no_longer_than_asked() -> None:
    server = Server(httpx.Response(200, json={"state": "Pending"}))
    with server.client() as plum, pytest.raises(WaitTimeoutError) as caught:
        plum.wait_task("1", timeout_s=0)
    assert caught.value.last == {"state": "Pending"}
    assert "prefer" not in server.asked[0].headers


# ---------------------------------------------------------------- events

STREAM = (b'retry: 1000\n: plum events\n\nid: 7\nevent: task\ndata: {"taskId":"\xc3\xa4"}\n\n'
          b': still here\n\nid: 8\nevent: gap\ndata: {}\n\nid: 9\nevent: run\r\ndata: {"a":\n'
          b'data: 1}\r\n\nid: 10\nevent: cut\ndata: {"off"')


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_are_read_however_they_are_cut(size: int) -> None:
    chunks = (STREAM[start:start + size] for start in range(0, len(STREAM), size))
    assert list(parse_events(chunks)) == [
        Event(7, "task", {"taskId": "ä"}), Event(8, "gap", {}), Event(9, "run", {"a": 1})]


def frame(number: int) -> bytes:
    return b'id: %d\nevent: task\ndata: {"n":%d}\n\n' % (number, number)


def test_events_resume_where_the_line_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plumd.sdk.client.time.sleep", lambda _: None)

    def cut() -> Iterator[bytes]:
        yield frame(5)
        raise httpx.ReadError("cut")

    server = Server(
        httpx.Response(200, json={"nextEvent": 5}), httpx.Response(200, content=cut()),
        httpx.ConnectError("down"), httpx.Response(200, content=frame(6) + frame(7)))
    with server.client() as plum:
        stream = plum.events("tasks")
        assert [next(stream).id for _ in range(3)] == [5, 6, 7]
    assert [one.headers.get("last-event-id") for one in server.asked] == [None, "4", "5", "5"]
    assert server.asked[1].url.query == b"topics=tasks"


def test_events_that_are_refused_are_an_error() -> None:
    server = Server(problem(422, "invalid", field="topics"))
    with server.client() as plum, pytest.raises(ProblemError, match="topics: no"):
        next(plum.events("nonsense", after=0))


# ---------------------------------------------------------------- against the real daemon

@pytest.mark.daemon
def test_the_real_daemon_from_submit_to_events(shared_daemon: Running) -> None:
    with Client(shared_daemon.url) as plum:
        first = plum.submit("builtin.echo", {"n": 1}, key="once", labels={"part": "sdk"})
        again = plum.submit("builtin.echo", {"n": 1}, key="once", labels={"part": "sdk"})
        assert again["taskId"] == first["taskId"]
        over = plum.wait_task(str(first["taskId"]), 20)
        assert over["result"] == {"echo": {"n": 1}}
        assert [one["taskId"] for one in plum.tasks(label="part=sdk")] == [first["taskId"]]
        with pytest.raises(ProblemError) as caught:
            plum.submit("builtin.echo", {"n": 2}, key="once")
        assert caught.value.code == "idempotency_key_reused"
        states = []
        for event in plum.events("tasks", after=0):
            if event.data["taskId"] == first["taskId"]:
                states.append(event.data["state"])
            if states and states[-1] == "Succeeded":
                break
        assert states == ["Pending", "Running", "Succeeded"]


@pytest.mark.daemon
def test_a_list_longer_than_a_page_is_whole(shared_daemon: Running) -> None:
    with Client(shared_daemon.url) as plum:
        tasks: Json = [{"name": "nobody", "labels": {"bulk": "yes"}} for _ in range(1_205)]
        made = plum.request("POST", "/v1/tasks/bulk", {"tasks": tasks}).json()
        wanted = [one["taskId"] for one in made["results"]]
        assert [one["taskId"] for one in plum.tasks(label="bulk=yes")] == wanted[::-1]


@pytest.mark.daemon
def test_logs_of_a_process_whole_and_followed(shared_daemon: Running) -> None:
    with Client(shared_daemon.url) as plum:
        script = "printf 'a\\033b'; sleep 0.3; printf 'c\\377'"
        task = plum.submit("noise", {"command": "sh", "args": ["-c", script]},
                           executor="os_process")
        task_id = str(task["taskId"])
        assert b"".join(plum.logs(task_id, follow=True)) == b"a\x1bbc\xff"
        assert b"".join(plum.logs(task_id)) == b"a\x1bbc\xff"
        assert b"".join(plum.logs(task_id, tail_bytes=2)) == b"c\xff"
        assert b"".join(plum.logs(task_id, tail_bytes=3, follow=True)) == b"bc\xff"
        assert b"".join(plum.logs(task_id, tail_bytes=1 << 30)) == b"a\x1bbc\xff"


@pytest.mark.daemon
def test_waiting_and_events_go_on_through_kill_9(daemon: Running) -> None:
    with Client(daemon.url) as plum:
        task = plum.submit("builtin.delay", {"seconds": 2})
        stream = plum.events("tasks", after=0)
        assert next(stream).data["state"] == "Pending"
        daemon.kill()
        daemon.start()
        assert plum.wait_task(str(task["taskId"]), 20)["state"] == "Succeeded"
        states = [event.data["state"] for event in islice(stream, 2)]
        assert states == ["Running", "Succeeded"]
