"""Stream workers by grpcio against the real program."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import pytest

from plumd.stream.task_service_pb2 import Heartbeat, TaskAck, TaskResponse, WorkerRegister
from tests.api.live import WAIT_S, Api, raw_exchange, serving
from tests.daemon.running import Running, free_port
from tests.stream.grpcio import SERVICE, StreamWorker, channel, health

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
STATUS = grpc.StatusCode


@pytest.fixture(name="line")
def line_(api: Api) -> Iterator[grpc.Channel]:
    """A connection to the daemon of the test."""
    with channel(api.daemon.port) as opened:
        yield opened


def worker(line: grpc.Channel, worker_id: str, *tasks: str, capacity: int = 4) -> StreamWorker:
    """A worker that is registered."""
    made = StreamWorker(line, worker_id)
    made.register(*tasks, capacity=capacity)
    return made


def test_an_attempt_there_and_its_result_back(api: Api, line: grpc.Channel) -> None:
    one = StreamWorker(line, "g-one")
    one.say(TaskAck(register=WorkerRegister(
        worker_id="g-one", node_id="n", instance_id="i", app_name="p", app_version="2",
        tasks=["g.one", "g.one", "g.else"], labels={"capacity": "7", "zone": "ü"})))
    one.call.initial_metadata()
    task = api.task("g.one", payload={"x": "ü", "n": [1, None]})
    attempt = one.attempt()
    assert (attempt.task_id, attempt.name) == (task["taskId"], "g.one")
    assert json.loads(attempt.payload) == {"x": "ü", "n": [1, None]}
    shown = api.get("/v1/embedded-workers/g-one")
    assert {key: shown[key] for key in ("kind", "health", "nodeId", "instanceId", "appName",
                                        "appVersion", "capacity", "running")} == {
        "kind": "embedded", "health": "Healthy", "nodeId": "n", "instanceId": "i", "appName": "p",
        "appVersion": "2", "capacity": 7, "running": 1}
    assert (shown["tasks"], shown["labels"]) == (
        ["g.else", "g.one"], {"capacity": "7", "zone": "ü"})
    one.say(TaskAck(heartbeat=Heartbeat(worker_id="g-one")))
    one.answer(attempt.task_id, '{"y": 1.50}')
    done = api.ended(task["taskId"])
    assert (done["state"], done["result"], done["worker"]) == ("Succeeded", {"y": 1.5}, "g-one")
    assert health(line, "g-one").healthy
    one.leave()
    assert one.end() == (STATUS.OK, "")
    assert api.ask("GET", "/v1/embedded-workers/g-one").status_code == 404
    assert not health(line, "g-one").healthy
    assert health(line).healthy


@pytest.mark.parametrize(("said", "kept"), [
    ("plain text", "plain text"), ("", ""), ("null", None), ("7", 7), ('{"a":', '{"a":'),
    ("ü \x00 \U0001f600", "ü \x00 \U0001f600"), ("[1] ", [1]), ("NaN", "NaN")])
def test_a_result_is_kept_as_it_is(api: Api, line: grpc.Channel, said: str, kept: object) -> None:
    one = worker(line, "g-kept", "g.kept")
    task = api.task("g.kept")
    one.answer(one.attempt().task_id, said)
    assert api.ended(task["taskId"])["result"] == kept
    one.leave()
    one.end()


def test_a_payload_of_a_megabyte_goes_there_and_back(api: Api, line: grpc.Channel) -> None:
    one = worker(line, "g-large", "g.large")
    text = "ü" * 700_000
    task = api.task("g.large", payload=text)
    attempt = one.attempt()
    assert json.loads(attempt.payload) == text
    one.answer(attempt.task_id, attempt.payload)
    assert api.ended(task["taskId"])["state"] == "Succeeded"
    assert api.get(f"/v1/tasks/{task['taskId']}")["result"] == text
    one.leave()
    one.end()


def test_an_error_is_a_failure_and_the_next_attempt_has_another_id(
        api: Api, line: grpc.Channel) -> None:
    one = worker(line, "g-fail", "g.fail")
    task = api.task("g.fail", maxRetries=1)
    one.answer(one.attempt().task_id, "half", "no luck\n" * 3)
    again = one.attempt()
    assert again.task_id == f"{task['taskId']}.2"
    one.answer(str(task["taskId"]), '"of the first attempt"')      # stale: it changes nothing
    one.answer(again.task_id, '"late luck"')
    done = api.ended(task["taskId"])
    assert (done["result"], done["attempt"]) == ("late luck", 2)
    [first, _] = api.items(f"/v1/tasks/{task['taskId']}/attempts")
    assert first["error"]["message"] == "no luck\n" * 3  # type: ignore[index]
    one.leave()
    one.end()


def test_capacity_is_the_label_else_four(api: Api, line: grpc.Channel) -> None:
    for label, capacity in (("", 4), ("x", 4), ("0", 4), ("-3", 4), ("2", 2), ("9" * 30, 4)):
        one = StreamWorker(line, "g-cap")
        one.say(TaskAck(register=WorkerRegister(
            worker_id="g-cap", tasks=["g.cap"], labels={"capacity": label} if label else {})))
        one.call.initial_metadata()
        assert api.get("/v1/embedded-workers/g-cap")["capacity"] == capacity, label
        one.leave()
        one.end()


def test_no_more_attempts_than_slots(api: Api, line: grpc.Channel) -> None:
    one = worker(line, "g-slots", "g.slots", capacity=2)
    tasks = [api.task("g.slots") for _ in range(3)]
    first, second = one.attempt(), one.attempt()
    assert api.get(f"/v1/tasks/{tasks[2]['taskId']}")["state"] == "Pending"
    assert one.none_waits()
    one.answer(first.task_id)
    third = one.attempt()
    for attempt in (second, third):
        one.answer(attempt.task_id)
    assert {api.ended(task["taskId"])["state"] for task in tasks} == {"Succeeded"}
    one.leave()
    one.end()


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_worker_that_cannot_be_told_to_stop(api: Api, line: grpc.Channel, how: str) -> None:
    one = worker(line, "g-stop", "g.stop")
    task = api.task("g.stop", timeoutSec=0 if how == "cancel" else 0.2)
    attempt = one.attempt()
    if how == "cancel":
        api.done("POST", f"/v1/tasks/{task['taskId']}?action=cancel")
    done = api.ended(task["taskId"])
    error = done["error"]
    assert isinstance(error, dict)
    assert (done["state"], error["code"]) == (
        ("Canceled", "canceled") if how == "cancel" else ("Timeout", "timeout"))
    assert "discarded" in error["message"]
    assert error["detail"] == {"workerTold": False, "resultDiscarded": True}
    one.answer(attempt.task_id, '"too late"')
    one.leave()
    assert one.end() == (STATUS.OK, "")
    again = api.get(f"/v1/tasks/{task['taskId']}")
    assert (again["state"], again["result"]) == (done["state"], None)


def test_a_worker_that_comes_back_takes_the_place_of_its_old_stream(
        api: Api, line: grpc.Channel) -> None:
    old = worker(line, "g-back", "g.back")
    task = api.task("g.back")
    attempt = old.attempt()
    with channel(api.daemon.port) as other:
        new = worker(other, "g-back", "g.back")
        code, details = old.end()
        assert (code, "session_replaced" in details) == (STATUS.ABORTED, True)
        shown = api.get("/v1/embedded-workers/g-back")
        assert (shown["health"], shown["attempts"]) == ("Healthy", [task["taskId"]])
        assert new.none_waits(), "it may run already, so it is not sent again"
        new.answer(attempt.task_id, '"from the new stream"')
        assert api.ended(task["taskId"])["result"] == "from the new stream"
        other_task = api.task("g.back")
        new.answer(new.attempt().task_id)
        assert api.ended(other_task["taskId"])["state"] == "Succeeded"
        new.leave()
        new.end()


def test_a_stream_that_is_cut_leaves_its_attempts_to_the_lease(
        api: Api, line: grpc.Channel) -> None:
    one = worker(line, "g-cut", "g.cut")
    task = api.task("g.cut")
    attempt = one.attempt()
    one.call.cancel()
    code, _ = one.end()
    assert code == STATUS.CANCELLED
    shown = api.get("/v1/embedded-workers/g-cut")
    while shown["health"] == "Healthy":
        shown = api.get("/v1/embedded-workers/g-cut")
    assert (shown["health"], shown["attempts"]) == ("Away", [task["taskId"]])
    back = worker(line, "g-cut", "g.cut")
    back.answer(attempt.task_id)
    assert api.ended(task["taskId"])["attempt"] == 1
    back.leave()
    back.end()


def test_two_workers_share_a_connection(api: Api, line: grpc.Channel) -> None:
    pair = [worker(line, f"g-pair-{n}", "g.pair", capacity=1) for n in range(2)]
    tasks = [api.task("g.pair") for _ in range(2)]
    for one in pair:
        one.answer(one.attempt().task_id)
    assert {api.ended(task["taskId"])["worker"] for task in tasks} == {"g-pair-0", "g-pair-1"}
    for one in pair:
        one.leave()
        one.end()


def register(**more: object) -> bytes:
    return TaskAck(register=WorkerRegister(worker_id="g-bad", **more)).SerializeToString()  # type: ignore[arg-type]  # as it comes


@pytest.mark.parametrize(("said", "words"), [
    ([b"\xff\xfe\xfd"], "no TaskAck"),
    ([TaskAck(heartbeat=Heartbeat(worker_id="g-bad")).SerializeToString()], "must register"),
    ([TaskAck(result=TaskResponse(task_id="1")).SerializeToString()], "must register"),
    ([b""], "must register"),
    ([b"\x7a\x03abc"], "must register"),
    ([register(), register()], "registered twice"),
    ([register(), b"\xff"], "no TaskAck"),
    ([register(), TaskAck(result=TaskResponse(task_id="../x")).SerializeToString()], "no id"),
    ([TaskAck(register=WorkerRegister()).SerializeToString()], "worker_id"),
    ([TaskAck(register=WorkerRegister(worker_id="local:builtin")).SerializeToString()], "local:"),
    ([register(tasks=["!builtin"])], "tasks[0]"),
    ([register(tasks=[""])], "$.tasks[0]"),
    ([register(node_id="x" * 300)], "$.nodeId"),
    ([register(labels={f"k{n}": "" for n in range(200)})], "$.labels"),
])
def test_a_malformed_peer_ends_its_own_session_with_a_reason(
        api: Api, line: grpc.Channel, said: list[bytes], words: str) -> None:
    good = worker(line, "g-good", "g.good")
    bad = StreamWorker(line)
    for message in said:
        bad.say_bytes(message)
    code, details = bad.end()
    assert (code, words in details) == (STATUS.INVALID_ARGUMENT, True), details
    task = api.task("g.good")
    good.answer(good.attempt().task_id)
    assert api.ended(task["taskId"])["state"] == "Succeeded"
    good.leave()
    assert good.end() == (STATUS.OK, "")


def test_a_message_that_is_too_large_is_refused(line: grpc.Channel) -> None:
    bad = worker(line, "g-huge", "g.huge")
    bad.answer("1", "x" * (17 << 20))
    code, details = bad.end()
    assert (code, "larger" in details) == (STATUS.RESOURCE_EXHAUSTED, True), details


def test_what_a_refused_client_still_says_resets_nothing(api: Api) -> None:
    """A reset can overtake the status on its way to whoever made the call."""
    state = h2.connection.H2Connection(config=h2.config.H2Configuration())
    seen: list[h2.events.Event] = []
    with socket.create_connection(("127.0.0.1", api.daemon.port), timeout=WAIT_S) as wire:

        def until(kind: type[h2.events.Event], count: int = 1) -> None:
            while sum(isinstance(event, kind) for event in seen) < count:
                wire.sendall(state.data_to_send())
                data = wire.recv(65_536)
                assert data, seen
                seen.extend(state.receive_data(data))

        state.initiate_connection()
        state.send_headers(1, [
            (":method", "POST"), (":scheme", "http"), (":authority", "127.0.0.1"),
            (":path", SERVICE + "TaskStream"), ("content-type", "application/grpc"),
            ("te", "trailers")])
        state.send_data(1, b"\x00" + (17 << 20).to_bytes(4, "big"))
        until(h2.events.StreamEnded)
        [trailers] = [event for event in seen if isinstance(event, h2.events.TrailersReceived)]
        assert (b"grpc-status", b"8") in trailers.headers
        for count in range(1, 4):
            state.send_data(1, b"more of it")
            state.ping(b"and then")
            until(h2.events.PingAckReceived, count)
    assert not [event for event in seen if isinstance(event, h2.events.StreamReset)]


def test_a_result_that_grows_too_large_as_a_string_fails(api: Api, line: grpc.Channel) -> None:
    one = worker(line, "g-grow", "g.grow")
    task = api.task("g.grow")
    one.answer(one.attempt().task_id, "\x01" * (8 << 20))
    error = api.ended(task["taskId"])["error"]
    assert isinstance(error, dict)
    assert error["code"] == "result_too_large"
    one.leave()
    one.end()


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes.fromhex("000000040000000000")


@pytest.mark.parametrize("data", [
    b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",           # a frame of 16 MiB
    b"\xff\xff\xff\x01\x04\x00\x00\x00\x01",           # a head as long
    b"\x00\x00\x04\x00\x00\x00\x00\x00\x07abcd",       # data of a stream that never was
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    bytes(range(256)) * 8,
])
def test_frames_that_are_none_end_their_connection_at_once(
        api: Api, line: grpc.Channel, data: bytes) -> None:
    good = worker(line, "g-beside", "g.beside")
    answer = raw_exchange(api.daemon, PREFACE + SETTINGS + data)
    assert b"\x07\x00\x00\x00\x00\x00" in answer, "GOAWAY says that it was understood so far"
    task = api.task("g.beside")
    good.answer(good.attempt().task_id)
    assert api.ended(task["taskId"])["state"] == "Succeeded"
    good.leave()
    assert good.end() == (STATUS.OK, "")


@pytest.mark.parametrize("path", [
    SERVICE + "ExecuteTask", SERVICE + "Nothing", "/grpc.health.v1.Health/Check", "/v1/tasks"])
def test_methods_that_are_not_served(line: grpc.Channel, path: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        line.unary_unary(path)(b"", timeout=WAIT_S)
    assert raised.value.code() == STATUS.UNIMPLEMENTED


def test_compressed_messages_are_refused_in_words(line: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        line.unary_unary(SERVICE + "HealthCheck")(
            b"\n\x09" + b"x" * 9, compression=grpc.Compression.Gzip, timeout=WAIT_S)
    assert raised.value.code() == STATUS.UNIMPLEMENTED
    assert "compressed" in raised.value.details()


def test_admission_is_the_same_as_elsewhere(line: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        line.unary_unary(SERVICE + "HealthCheck")(
            b"", metadata=[("origin", "http://evil.example")], timeout=WAIT_S)
    assert raised.value.code() == STATUS.PERMISSION_DENIED
    assert "another origin" in raised.value.details()


def test_the_daemon_leaves_and_comes_back(tmp_path: Path) -> None:
    grpc_port = free_port()
    options = ("--grpc-listen", f"127.0.0.1:{grpc_port}")
    with Running(tmp_path / "data", *options) as daemon, Api(daemon) as api, \
            channel(grpc_port) as line:
        one = worker(line, "g-stay", "g.stay", capacity=2)
        task = api.task("g.stay")
        attempt = one.attempt()
        assert daemon.stop() == 0
        code, details = one.end()
        assert (code, "shutting down" in details) == (STATUS.UNAVAILABLE, True), details
        daemon.start()
        with channel(grpc_port) as again:
            back = StreamWorker(again, "g-stay")
            back.register("g.stay")
            back.answer(attempt.task_id, '"of before"')
            done = api.ended(task["taskId"])
            assert (done["result"], done["attempt"]) == ("of before", 1)
            back.leave()
            back.end()


def test_a_killed_daemon_loses_no_result(tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon, Api(daemon) as api:
        with channel(daemon.port) as line:
            one = worker(line, "g-kill", "g.kill")
            task = api.task("g.kill")
            attempt = one.attempt()
            daemon.kill()
            assert one.end()[0] == STATUS.UNAVAILABLE
        daemon.start()
        with channel(daemon.port) as line:
            back = worker(line, "g-kill", "g.kill")
            back.answer(attempt.task_id)
            assert api.ended(task["taskId"])["attempt"] == 1


def test_a_thousand_tasks_in_a_burst(api: Api, line: grpc.Channel) -> None:
    one = worker(line, "g-burst", "g.burst", capacity=16)
    answer = api.done("POST", "/v1/tasks/bulk", {
        "tasks": [{"name": "g.burst", "payload": n} for n in range(1_000)]})
    results = answer["results"]
    assert isinstance(results, list)
    for _ in range(1_000):
        attempt = one.attempt()
        one.answer(attempt.task_id, attempt.payload)
    for number in (0, 500, 999):
        assert api.ended(results[number]["taskId"])["result"] == number
    one.leave()
    assert one.end() == (STATUS.OK, "")
    assert api.get("/v1/status")["running"] == 0
