"""/v1/tasks against the real program: what it answers, and that it happens once or not at all."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from plumd.api.context import Context, Note, again_as_it_was, once, remember
from plumd.api.routes import Request, Response
from plumd.clock import SystemClock
from plumd.engine import Engine
from plumd.model import Limits, Submit
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.store.blobs import Blobs
from plumd.store.definitions import Catalog
from plumd.store.store import Store
from tests.api.live import WAIT_S, Api, Json, listed, next_page, refused, serving, whole
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

KEYS = {
    "taskId", "name", "defId", "defVersion", "executor", "targetKind", "targetRef", "state",
    "priority", "labels", "payload", "result", "error", "attempt", "worker", "maxRetries",
    "timeoutSec", "queueTimeoutSec", "onLost", "concurrencyKey", "concurrencyLimit",
    "originTaskId", "runId", "stepId", "scheduledOn", "createdAt",
    "dueAt", "startedAt", "finishedAt", "cancelRequestedAt", "progress", "omitted"}
ATTEMPT_KEYS = {"attemptId", "attempt", "ending", "worker", "node", "startedAt", "finishedAt",
                "error"}


def many(function: Callable[[int], httpx.Response], count: int) -> list[httpx.Response]:
    """The same request so many times at once."""
    gate = threading.Barrier(count)

    def run(index: int) -> httpx.Response:
        gate.wait()
        return function(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# ---------------------------------------------------------------- one task


def test_a_task_from_its_submit_to_its_end(api: Api) -> None:
    answer = api.ask("POST", "/v1/tasks", {
        "name": "builtin.echo", "payload": {"a": [1, "ü"]}, "labels": {"k": "v"}, "priority": 7,
        "timeoutSec": 2.5, "queueTimeoutSec": 100, "maxRetries": 2, "onLost": "fail"})
    made = whole(answer, 201)
    assert set(made) == KEYS
    assert answer.headers["location"] == f"/v1/tasks/{made['taskId']}"
    task = api.ended(made["taskId"])
    assert set(task) == KEYS
    assert task["state"] == "Succeeded"
    assert task["result"] == {"echo": {"a": [1, "ü"]}}
    assert (task["name"], task["executor"], task["priority"], task["labels"]) == (
        "builtin.echo", "embedded", 7, {"k": "v"})
    assert (task["timeoutSec"], task["queueTimeoutSec"], task["maxRetries"], task["onLost"]) == (
        2.5, 100, 2, "fail")
    assert isinstance(task["createdAt"], int)
    assert task["createdAt"] <= task["startedAt"] <= task["finishedAt"]  # type: ignore[operator]
    assert task["attempt"] == 1
    assert task["error"] is None
    [attempt] = api.items(f"/v1/tasks/{made['taskId']}/attempts")
    assert set(attempt) == ATTEMPT_KEYS
    assert (attempt["attemptId"], attempt["ending"]) == (made["taskId"], "succeeded")
    assert api.get(f"/v1/tasks/{made['taskId']}/why") == {
        "taskId": made["taskId"], "state": "Succeeded", "causes": []}
    assert api.items("/v1/tasks?limit=1")[0] == task


def test_what_is_left_out_has_its_default(api: Api) -> None:
    task = api.ended(api.task()["taskId"])
    assert (task["priority"], task["maxRetries"], task["onLost"], task["labels"]) == (
        5, 0, "retry", {})
    assert (task["timeoutSec"], task["queueTimeoutSec"], task["payload"]) == (300, 0, None)
    assert api.task("builtin.delay", payload=0)["timeoutSec"] == 0
    assert api.task("builtin.echo", timeoutSec=0)["timeoutSec"] == 0
    assert api.task("builtin.echo", timeoutSec=0.0004)["timeoutSec"] == 0.001


def test_queued_until_it_is_started(api: Api) -> None:
    task = api.task(autoStart=False)
    path = f"/v1/tasks/{task['taskId']}"
    assert task["state"] == "Queued"
    assert api.get(f"{path}/why")["state"] == "Queued"
    assert api.items(f"{path}/attempts") == []
    started = api.done("POST", f"{path}?action=start")
    assert started["state"] != "Queued"
    assert api.ended(task["taskId"])["state"] == "Succeeded"
    refused(api.ask("POST", f"{path}?action=start"), 409, "wrong_state")


def test_a_delayed_start_waits_for_its_time(api: Api) -> None:
    later = api.task(delaySec=3600)
    assert later["state"] == "Pending"
    assert 3_590_000 < later["dueAt"] - later["createdAt"] <= 3_600_000  # type: ignore[operator]
    [cause] = listed(api.get(f"/v1/tasks/{later['taskId']}/why")["causes"])
    assert cause["code"]
    assert cause["untilMs"] == later["dueAt"]
    soon = api.ended(api.task(delaySec=0.2)["taskId"])
    assert soon["startedAt"] - soon["createdAt"] >= 150  # type: ignore[operator]
    assert api.done("POST", f"/v1/tasks/{later['taskId']}?action=cancel")["state"] == "Canceled"


def test_failure_and_retries_are_told_by_attempt(api: Api) -> None:
    task = api.ended(api.task("builtin.fail", maxRetries=1, payload={
        "message": "no", "code": "mine"})["taskId"])
    assert task["state"] == "Failed"
    error = task["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["message"], error["attempt"]) == ("mine", "no", 2)
    attempts = api.items(f"/v1/tasks/{task['taskId']}/attempts")
    assert [(one["attempt"], one["ending"]) for one in attempts] == [(1, "failed"), (2, "failed")]
    assert attempts[1]["attemptId"] == f"{task['taskId']}.2"
    assert api.get(f"/v1/tasks/{task['taskId']}.2")["taskId"] == task["taskId"]
    refused(api.ask("GET", f"/v1/tasks/{task['taskId']}.3"), 404, "not_found")


def test_timeout_and_queue_timeout(api: Api) -> None:
    task = api.ended(api.task("builtin.delay", payload=60, timeoutSec=0.05)["taskId"])
    assert task["state"] == "Timeout"
    waiting = api.ended(api.task("nobody.takes.this", queueTimeoutSec=0.05)["taskId"])
    assert waiting["state"] == "Timeout"
    assert waiting["attempt"] == 0
    assert api.items(f"/v1/tasks/{waiting['taskId']}/attempts") == []


@pytest.mark.parametrize("path", ["/v1/tasks/{}?action=cancel", "/v1/tasks/cancel/{}"])
def test_cancel(api: Api, path: str) -> None:
    running = api.task("builtin.delay", payload=3600)
    answer = whole(api.ask("POST", path.format(running["taskId"]), headers={
        "prefer": f"wait={WAIT_S}"}), 200)
    assert answer["state"] == "Canceled"
    assert answer["cancelRequestedAt"]
    assert answer["finishedAt"]
    again = whole(api.ask("POST", path.format(running["taskId"])), 200)
    assert again == answer
    done = api.ended(api.task()["taskId"])
    refused(api.ask("POST", path.format(done["taskId"])), 409, "wrong_state")
    refused(api.ask("POST", path.format("0" * 15)), 404, "not_found")


def test_cancel_while_waiting_for_a_retry(api: Api) -> None:
    task = api.task("builtin.fail", maxRetries=1000)
    api.done("POST", f"/v1/tasks/{task['taskId']}?action=cancel")
    assert api.ended(task["taskId"])["state"] == "Canceled"


def test_rerun_is_a_new_task_of_the_same_kind(api: Api) -> None:
    first = api.ended(api.task("builtin.fail", payload={"message": "x"}, labels={"a": "b"},
                               priority=3, queueTimeoutSec=9)["taskId"])
    answer = api.ask("POST", f"/v1/tasks/{first['taskId']}?action=rerun")
    again = api.ended(whole(answer, 201)["taskId"])
    assert answer.headers["location"] == f"/v1/tasks/{again['taskId']}"
    assert again["originTaskId"] == first["taskId"] != again["taskId"]
    for key in ("name", "payload", "labels", "priority", "queueTimeoutSec", "state"):
        assert again[key] == first[key]
    running = api.task("builtin.delay", payload=3600)
    other = api.made(f"/v1/tasks/{running['taskId']}?action=rerun")
    for each in (running, other):
        api.done("POST", f"/v1/tasks/{each['taskId']}?action=cancel")


def test_only_what_is_over_can_be_deleted(api: Api) -> None:
    for live in (api.task("builtin.delay", payload=3600), api.task(autoStart=False),
                 api.task("nobody.takes.this"), api.task("builtin.fail", maxRetries=1000)):
        path = f"/v1/tasks/{live['taskId']}"
        refused(api.ask("DELETE", path), 409, "wrong_state")
        api.done("POST", f"{path}?action=cancel")
        api.ended(live["taskId"])
        api.gone(path)
        for method, tail in (("GET", ""), ("GET", "/attempts"), ("GET", "/why"), ("DELETE", ""),
                             ("POST", "?action=rerun"), ("GET", "/logs")):
            refused(api.ask(method, path + tail), 404, "not_found")


def test_the_wait_of_submit_get_and_rerun(api: Api) -> None:
    wait = {"prefer": f"wait={WAIT_S}"}
    made = whole(api.ask("POST", "/v1/tasks", {"name": "builtin.delay", "payload": 0.1},
                         headers=wait), 201)
    assert made["state"] == "Succeeded"
    again = whole(api.ask("POST", f"/v1/tasks/{made['taskId']}?action=rerun", headers=wait), 201)
    assert again["state"] == "Succeeded"
    # Patience that ends first: the answer comes, and the task goes on.
    short = whole(api.ask("POST", "/v1/tasks", {"name": "builtin.delay", "payload": 3600},
                          headers={"prefer": "wait=1"}), 201)
    assert short["state"] == "Running"
    assert api.get(f"/v1/tasks/{short['taskId']}", prefer="wait=1")["state"] == "Running"
    api.done("POST", f"/v1/tasks/{short['taskId']}?action=cancel")
    assert api.get(f"/v1/tasks/{short['taskId']}", prefer="soon, wait=x")["state"] == "Canceled"


def test_the_higher_priority_goes_first(api: Api) -> None:
    """Three processes on a machine with one slot would need a daemon of their own; here a worker
    takes one attempt at a time by long poll."""
    ids = [api.task("one.by.one", priority=priority)["taskId"] for priority in (1, 9, 5)]
    path = "/v1/embedded-workers/single/exchange"
    said: Json = {"session": "s", "register": {
        "session": "s", "tasks": ["one.by.one"], "capacity": 1}, "holding": []}
    api.done("POST", path, said)
    order = []
    for seq in range(1, 4):
        down = api.done("POST", path, {"session": "s", "holding": [], "waitSec": WAIT_S})
        [attempt] = listed(down["attempts"])
        order.append(attempt["id"])
        down = api.done("POST", path, {"session": "s", "holding": [attempt["id"]], "seq": seq,
                                       "results": [{"id": attempt["id"], "result": seq}]})
        assert down["ack"] == seq
    assert order == [ids[1], ids[2], ids[0]]
    assert [api.ended(each)["result"] for each in order] == [1, 2, 3]


def test_the_log_of_a_process(api: Api) -> None:
    task = api.task("talks", executor="os_process", payload={
        "command": "sh", "args": ["-c", "echo one; read line; echo two; exit 3"]})
    path = f"/v1/tasks/{task['taskId']}/logs"
    done = api.ended(task["taskId"])
    assert (done["state"], done["error"]["exitCode"]) == ("Failed", 3)  # type: ignore[index]
    answer = api.ask("GET", path)
    assert (answer.status_code, answer.text) == (200, "one\ntwo\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["plum-finished"] == "true"
    assert api.ask("GET", f"{path}?follow=true").text == "one\ntwo\n"
    end = answer.headers["plum-next-offset"]
    assert api.ask("GET", f"{path}?attempt=1&offset={end}").text == ""
    whole = api.ask("GET", f"{path}?attempt=1").text
    assert api.ask("GET", f"{path}?attempt=1&offset=-3").text == whole[-3:]
    assert api.ask("GET", f"{path}?attempt=1&offset=-3&follow=true").text == whole[-3:]
    refused(api.ask("GET", f"{path}?attempt=2"), 404, "not_found")
    api.gone(f"/v1/tasks/{task['taskId']}")
    refused(api.ask("GET", path), 404, "not_found")


@pytest.mark.parametrize("query", ["", "?follow=true", "?follow=true&attempt=0", "?attempt=7"])
def test_a_task_without_a_log(api: Api, query: str) -> None:
    task = api.ended(api.task()["taskId"])
    refused(api.ask("GET", f"/v1/tasks/{task['taskId']}/logs{query}"), 404, "not_found")


def test_a_log_is_followed_while_it_is_written(api: Api) -> None:
    task = api.task("drips", executor="os_process", payload={
        "command": "sh", "args": ["-c", "echo begun; sleep 3600"]})
    path = f"/v1/tasks/{task['taskId']}"
    while api.ask("GET", f"{path}/logs").status_code == 404:
        assert api.get(path)["state"] in ("Pending", "Running")
    with httpx.stream("GET", f"{api.daemon.url}{path}/logs?follow=true", trust_env=False,
                      timeout=WAIT_S) as answer:
        chunks = answer.iter_text()
        assert next(chunks) == "begun\n"
        api.done("POST", f"{path}?action=cancel")
        assert "".join(chunks) == ""
    assert api.ended(task["taskId"])["state"] == "Canceled"


# ---------------------------------------------------------------- lists


def test_pages_show_each_task_once_while_new_ones_come(api: Api) -> None:
    ids = [api.task("paged", autoStart=False, labels={"page": "yes"})["taskId"] for _ in range(7)]
    for limit in (1, 2, 1000):
        seen = []
        following: str | None = f"/v1/tasks?limit={limit}&label=page%3Dyes&state=queued"
        while following is not None:
            answer = api.ask("GET", following)
            page = answer.json()
            assert len(page) <= limit
            seen += [task["taskId"] for task in page]
            following = next_page(answer)
            api.task("paged", autoStart=False, labels={"page": "yes"})
        newest = [each for each in seen if each not in ids]
        assert [each for each in seen if each in ids] == ids[::-1]
        assert len(set(seen)) == len(seen)
        assert seen == newest + ids[::-1], "newest first"
        ids = [task["taskId"] for task in api.items("/v1/tasks?name=paged&limit=1000")][::-1]


def test_filters(api: Api) -> None:
    definition = api.made("/v1/task-defs", {"name": "filtered", "labels": {"team": "a=b"}})
    run = api.made(f"/v1/task-defs/{definition['defId']}?action=run", {})
    other = api.task("not.filtered", labels={"team": "a"})

    def found(query: str) -> list[object]:
        return [task["taskId"] for task in api.walk(f"/v1/tasks?limit=1000&{query}")]

    assert found(f"defId={definition['defId']}") == [run["taskId"]]
    assert found("name=filtered") == [run["taskId"]]
    assert found("label=team=a%3Db") == [run["taskId"]]
    assert found("label=team=a&state=Pending") == [other["taskId"]]
    assert found("label=team=c") == []
    assert found("runId=0000000000000ff") == []
    assert found("name=filtered&state=Succeeded") == []
    assert run["taskId"] in found("state=PENDING")
    for state in ("Queued", "Running", "Retrying", "Succeeded", "Failed", "Timeout", "Canceled"):
        assert run["taskId"] not in found(f"state={state}")
    assert found("name=%27%20OR%201=1--") == []


@pytest.mark.parametrize(("query", "field"), [
    ("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"), ("limit=-1", "limit"),
    ("limit=1e2", "limit"), ("state=Lost", "state"), ("label=x", "label"), ("label==x", "label"),
    ("defId=!", "defId"), ("runId=zz", "runId"), ("cursor=%00", "cursor"), ("cursor=x", "cursor"),
    ("cursor=YWJj", "cursor"), ("cursor=OTk5OTk5OTk5OTk5OTk5OTk5OQ", "cursor"),
    ("cursor=" + "A" * 2000, "cursor"), ("cursor=4pyT", "cursor"), ("cursor=LTE", "cursor"),
])
def test_bad_queries_of_the_list(api: Api, query: str, field: str) -> None:
    refused(api.ask("GET", f"/v1/tasks?{query}"), 422, "invalid", field)


# ---------------------------------------------------------------- bulk


def test_ten_thousand_in_one_request_and_their_end_in_another(api: Api) -> None:
    items: list[Json] = [{"name": "bulk.of.many", "payload": index} for index in range(10_000)]
    items[5] = {"name": "bulk.of.many", "priority": 10}
    items[9_999] = {}
    answer = whole(api.ask("POST", "/v1/tasks/bulk", {"tasks": items}, headers={
        "idempotency-key": "many"}), 200)
    results = answer["results"]
    assert isinstance(results, list)
    assert len(results) == 10_000
    assert results[5]["error"]["field"] == "tasks[5].priority"
    assert results[9_999]["error"]["field"] == "tasks[9999].name"
    ids = [one["taskId"] for one in results if "taskId" in one]
    assert len(set(ids)) == 9_998
    again = api.ask("POST", "/v1/tasks/bulk", {"tasks": items}, headers={"idempotency-key": "many"})
    assert whole(again, 200) == answer
    found = list(api.walk("/v1/tasks?name=bulk.of.many&limit=1000"))
    assert [task["taskId"] for task in found] == ids[::-1]
    by_index = [index for index in range(10_000) if index not in (5, 9_999)]
    assert [task["payload"] for task in found] == by_index[::-1]
    done = api.done("POST", "/v1/tasks/bulk-cancel", {"taskIds": ids})
    assert done["results"] == [{"taskId": each} for each in ids]
    states = {task["state"] for task in api.walk("/v1/tasks?name=bulk.of.many&limit=1000")}
    assert states == {"Canceled"}


def test_bulk_cancel_answers_by_item(api: Api) -> None:
    over = api.ended(api.task()["taskId"])["taskId"]
    live = api.task("nobody.takes.this")["taskId"]
    asked = [over, live, "000000000000000", "no id", live]
    results = api.done("POST", "/v1/tasks/bulk-cancel", {"taskIds": asked})["results"]
    assert isinstance(results, list)
    assert [one["taskId"] for one in results] == asked
    assert [one.get("error", {}).get("code") for one in results] == [
        "wrong_state", None, "not_found", "not_found", None]


def test_bulks_over_their_bounds_make_nothing(api: Api) -> None:
    before = api.count()
    item = {"name": "builtin.echo"}
    refused(api.ask("POST", "/v1/tasks/bulk", {"tasks": [item] * 10_001}), 422, "invalid", "tasks")
    refused(api.ask("POST", "/v1/tasks/bulk", b'{"tasks": [' + b" " * (32 << 20) + b"]}"), 413,
            "too_large")
    refused(api.ask("POST", "/v1/tasks/bulk-cancel", {"taskIds": ["a"] * 10_001}), 422, "invalid",
            "taskIds")
    refused(api.ask("POST", "/v1/tasks/bulk", {"tasks": item}), 422, "invalid", "tasks")
    assert api.done("POST", "/v1/tasks/bulk", {"tasks": []}) == {"results": []}
    assert api.done("POST", "/v1/tasks/bulk-cancel", {"taskIds": []}) == {"results": []}
    assert api.count() == before


# ---------------------------------------------------------------- once


def test_one_key_makes_one_task(api: Api) -> None:
    body = b'{"name": "builtin.echo", "payload": "once"}'
    before = api.count()[0]
    answers = many(lambda _: httpx.post(
        f"{api.daemon.url}/v1/tasks", content=body, trust_env=False, timeout=WAIT_S,
        headers={"idempotency-key": "twenty", "content-type": "application/json"}), 20)
    assert {answer.status_code for answer in answers} == {201}
    [task_id] = {answer.json()["taskId"] for answer in answers}
    assert {answer.headers["location"] for answer in answers} == {f"/v1/tasks/{task_id}"}
    assert api.count()[0] == before + 1
    key = {"idempotency-key": "twenty"}
    waited = whole(api.ask("POST", "/v1/tasks", body, headers={
        **key, "prefer": f"wait={WAIT_S}"}), 201)
    assert (waited["taskId"], waited["state"]) == (task_id, "Succeeded")
    refused(api.ask("POST", "/v1/tasks", body + b" ", headers=key), 422,
            "idempotency_key_reused", "Idempotency-Key")
    rerun = whole(api.ask("POST", f"/v1/tasks/{task_id}?action=rerun", headers=key), 201)
    same = whole(api.ask("POST", f"/v1/tasks/{task_id}?action=rerun", headers=key), 201)
    assert rerun["taskId"] == same["taskId"] != task_id
    assert api.count()[0] == before + 2


def test_a_key_outlives_what_its_request_named(api: Api) -> None:
    definition = api.made("/v1/task-defs", {"name": "short.lived"})
    path = f"/v1/task-defs/{definition['defId']}"
    key = {"idempotency-key": "short-lived"}
    run = whole(api.ask("POST", f"{path}?action=run", {}, headers=key), 201)
    submit = whole(api.ask("POST", "/v1/tasks", {"defId": definition["defId"]}, headers=key), 201)
    api.gone(path)
    assert whole(api.ask("POST", f"{path}?action=run", {}, headers=key), 201)["taskId"] == (
        run["taskId"])
    assert whole(api.ask("POST", "/v1/tasks", {"defId": definition["defId"]}, headers=key),
                 201)["taskId"] == submit["taskId"]
    refused(api.ask("POST", f"{path}?action=run", {}), 404, "not_found")
    refused(api.ask("POST", "/v1/tasks", {"defId": definition["defId"]}), 422, "invalid", "defId")


def test_a_refused_request_leaves_its_key_free(api: Api) -> None:
    key = {"idempotency-key": "second try"}
    refused(api.ask("POST", "/v1/tasks", {"name": "builtin.echo"}, headers=key), 422, "invalid",
            "Idempotency-Key")
    key = {"idempotency-key": "second-try"}
    refused(api.ask("POST", "/v1/tasks", {"name": 1}, headers=key), 422, "invalid", "name")
    whole(api.ask("POST", "/v1/tasks", {"name": "builtin.echo"}, headers=key), 201)


def test_a_client_that_hangs_up_and_tries_again_gets_its_one_task(api: Api) -> None:
    body = b'{"name": "hung.up"}'
    head = (f"POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nIdempotency-Key: ").encode()
    for index in range(40):
        key = f"hung-up-{index}"
        with socket.create_connection(("127.0.0.1", api.daemon.port)) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            line.sendall(head + key.encode() + b"\r\n\r\n" + body)
        whole(api.ask("POST", "/v1/tasks", body, headers={"idempotency-key": key}), 201)
    assert len(api.items("/v1/tasks?name=hung.up&limit=1000")) == 40


def test_keys_and_tasks_survive_a_kill(tmp_path: Path) -> None:
    body: Json = {"name": "survivor", "labels": {"a": "b"}, "payload": {"x": 1}}
    with Running(tmp_path / "data") as daemon, Api(daemon) as api:
        key = {"idempotency-key": "before-the-end"}
        made = whole(api.ask("POST", "/v1/tasks", body, headers=key), 201)
        bulk = api.ask("POST", "/v1/tasks/bulk", {"tasks": [body, body]}, headers=key)
        definition = whole(api.ask("POST", "/v1/task-defs", {"name": "kept"}, headers=key), 201)
        daemon.kill()
        daemon.start()
        for _ in range(2):
            assert whole(api.ask("POST", "/v1/tasks", body, headers=key), 201)["taskId"] == (
                made["taskId"])
            assert api.ask("POST", "/v1/tasks/bulk", {"tasks": [body, body]}, headers=key,
                           ).json() == bulk.json()
            again = whole(api.ask("POST", "/v1/task-defs", {"name": "kept"}, headers=key), 201)
            assert again == definition
        refused(api.ask("POST", "/v1/tasks", {"name": "survivor"}, headers=key), 422,
                "idempotency_key_reused", "Idempotency-Key")
        assert api.count() == (3, 1, 0, 0, 0, 0, 0)
        assert {json.dumps(task["payload"]) for task in api.items("/v1/tasks")} == {'{"x": 1}'}


# ---------------------------------------------------------------- large values


def test_large_payloads_and_results_are_shown_whole_but_not_in_lists(api: Api) -> None:
    payload = "ü" * 100_000
    task = api.task("builtin.echo", payload=payload, labels={"size": "large"})
    shown = api.ended(task["taskId"])
    assert shown["payload"] == payload
    assert shown["result"] == {"echo": payload}
    assert shown["omitted"] == []
    [short] = api.items("/v1/tasks?label=size=large")
    assert short["payload"] is None
    assert short["result"] is None
    assert short["omitted"] == ["payload", "result"]
    again = api.ended(api.made(f"/v1/tasks/{task['taskId']}?action=rerun")["taskId"])
    assert again["payload"] == payload
    small = api.ended(api.task("builtin.echo", payload="x" * 60_000)["taskId"])
    assert small["omitted"] == []
    assert api.get(f"/v1/tasks/{small['taskId']}") == small
    results = api.done("POST", "/v1/tasks/bulk", {"tasks": [
        {"name": "builtin.echo", "payload": payload + "!"}]})["results"]
    assert isinstance(results, list)
    assert api.ended(results[0]["taskId"])["payload"] == payload + "!"


def test_the_largest_payload_and_one_byte_more(api: Api) -> None:
    limit = 16 << 20
    fits = b'"' + b"x" * (limit - 2) + b'"'
    answer = api.ask("POST", "/v1/tasks", b'{"name":"builtin.echo","autoStart":false,"payload":'
                     + fits + b"}")
    task = whole(answer, 201)
    assert api.ask("GET", f"/v1/tasks/{task['taskId']}").content.count(b"x") >= limit - 2
    api.done("POST", f"/v1/tasks/{task['taskId']}?action=cancel")
    before = api.count()
    answer = api.ask("POST", "/v1/tasks", b'{"name":"builtin.echo","payload":"x' + fits[1:] + b"}")
    problem = refused(answer, 413, "too_large", "payload")
    assert str(limit) in str(problem["detail"])
    answer = api.ask("POST", "/v1/tasks", b'{"payload":"' + b"x" * (limit + (1 << 20)) + b'"}')
    refused(answer, 413, "too_large")
    assert api.count() == before


def test_who_waits_for_an_end_sees_it_whenever_it_asks(api: Api) -> None:
    with ThreadPoolExecutor(4) as pool:
        apis = [Api(api.daemon) for _ in range(4)]

        def race(index: int) -> object:
            own = apis[index % 4]
            return own.ended(own.task(payload=index)["taskId"])["state"]

        try:
            assert set(pool.map(race, range(400))) == {"Succeeded"}
        finally:
            for own in apis:
                own.http.close()


async def test_a_repetition_waits_for_what_its_hung_up_forerunner_began(tmp_path: Path) -> None:
    """The engine stands still meanwhile, so that the first request is canceled in the middle."""
    clock = SystemClock()
    store = Store(tmp_path / "plum.db", clock=clock)
    catalog = Catalog(store)
    planner = Planner(catalog)
    engine = Engine(store, clock, Outbox(store), planner, Limits(), 1)
    context = Context(engine, catalog, planner, Blobs(tmp_path / "blobs"))
    request = Request("POST", "/v1/tasks", {}, {}, {"idempotency-key": "k"}, b"{}")
    said: list[bytes] = []

    async def fresh(note: Note) -> Response:
        command = Submit(engine.new_id(), "never.taken")
        await engine.call_all((command,), remember(note, 201, b"first"))
        return Response(201, b"fresh")

    async def ask() -> None:
        said.append((await once(context, request, fresh, again_as_it_was)).body)

    async def ask_within(scope: trio.CancelScope) -> None:
        with scope:
            await ask()

    async with trio.open_nursery() as nursery:
        hung_up = trio.CancelScope()
        nursery.start_soon(ask_within, hung_up)
        await wait_all_tasks_blocked()
        hung_up.cancel()
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        nursery.start_soon(engine.run)
        while not said:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert said == [b"first"]
    assert engine.core.counts_by_state() == (0, 1, 0, 0)
    store.close()
