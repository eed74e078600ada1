"""Devices over real sockets: what old SDKs send and are sent, to the byte, and the long poll."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.api.live import WAIT_S, Api, Json, listed, no_defects, refused, serving, whole
from tests.api.test_events_api import Reader
from tests.api.test_lenient import post
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
BASE = "/v1/resources"


class Far:
    """A device that is called: keeps each request as it came, and answers as it is told to."""

    def __init__(self, answer: bytes) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(WAIT_S)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/operation"
        self.answer = answer
        self.requests: queue.Queue[bytes] = queue.Queue()

    def serve(self) -> None:
        """Until the listener is shut down; one call a connection, as the C++ SDK does."""
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            with line:
                line.settimeout(WAIT_S)
                data = b""
                while b"\r\n\r\n" not in data:
                    data += line.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                while len(body) < size:
                    body += line.recv(65536)
                self.requests.put(head + b"\r\n\r\n" + body)
                half = self.answer.partition(b"\r\n\r\n")
                line.sendall(half[0] + half[1])       # in two segments
                line.sendall(half[2])


@contextmanager
def far(answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        ) -> Iterator[Far]:
    """A device that is called."""
    device = Far(answer)
    thread = threading.Thread(target=device.serve)
    thread.start()
    try:
        yield device
    finally:
        device.listener.shutdown(socket.SHUT_RDWR)
        device.listener.close()
        thread.join()


def register(api: Api, name: str, **more: object) -> Json:
    return api.done("POST", f"{BASE}/register", {"resourceId": name, **more})


def operate(api: Api, name: str, *operations: tuple[str, str]) -> httpx.Response:
    return api.ask("POST", f"{BASE}/operation?resourceId={name}", {
        "operations": [{"name": key, "value": value} for key, value in operations]})


def exchange(api: Api, name: str, **body: object) -> httpx.Response:
    return api.ask("POST", f"{BASE}/{name}/exchange", {"session": "s", **body})


def test_an_old_device_to_the_byte(api: Api) -> None:
    """It registers twice, first with an url without a host; beats; reports; is operated."""
    descs = (b'"stateDesc":[{"type":"double","name":"\xe6\xb8\xa9\xe5\xba\xa6","value":"0",'
             b'"unit":"C"}],"opDesc":[{"type":"int","name":"power","value":"0","unit":"%",'
             b'"min":"0","max":"100"}]')
    with far() as device:
        for url in (b"http://:9001/operation", device.url.encode()):
            status, text = post(api, f"{BASE}/register", (
                b'{"ResourceID":"radar 1","nodeId":"n","type":"radar","url":"' + url + b'",'
                + descs + b'}garbage'))
            assert (status, text) == (200, b'{"resourceId":"radar 1","ttlSec":15.0}')
        assert post(api, f"{BASE}/heartbeat", b'{"resourceId":"radar 1"}')[0] == 200
        assert post(api, f"{BASE}/heartbeat", b'{"resourceId":"radar 1","nodeId":"n"}')[0] == 200
        assert post(api, f"{BASE}/state", (
            '{"resourceId":"radar 1","timestamp":1700000000123,"states":{"温度":"21.5",'
            '"a\\u0000b":""}}').encode()) == (204, b"")
        found = api.get(f"{BASE}/radar%201")
        assert found["url"] == device.url
        assert (found["health"], found["transport"], found["nodeId"], found["type"]) == (
            "Healthy", "callback", "n", "radar")
        assert found["stateDesc"] == [{"name": "温度", "type": "double", "value": "0",
                                       "unit": "C"}]
        assert found["opDesc"] == [{"name": "power", "type": "int", "value": "0", "unit": "%",
                                    "min": "0", "max": "100"}]
        assert found["states"] == {"温度": {"value": "21.5", "timestamp": 1700000000123},
                                   "a\0b": {"value": "", "timestamp": 1700000000123}}
        status, text = post(api, f"{BASE}/operation?resourceId=radar%201",
                            b'{"operations":[{"name":"power","value":"50"}]}')
        assert (status, text) == (204, b"")
        sent = device.requests.get(timeout=WAIT_S)
        head, _, body = sent.partition(b"\r\n\r\n")
        assert body == b'{"operations":[{"name":"power","value":"50"}]}'
        assert head.startswith(b"POST /operation HTTP/1.1\r\n")
        assert b"content-type: application/json" in head.lower()
        device.answer = b"HTTP/1.1 409 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"
        problem = refused(operate(api, "radar%201", ("power", "1")), 502, "device_refused", None,
                          "deviceStatus", "deviceBody", "reason")
        assert (problem["deviceStatus"], problem["deviceBody"]) == (409, "busy")
    problem = refused(operate(api, "radar%201", ("power", "1")), 502, "device_unreachable")
    assert post(api, f"{BASE}/delete", b'{"resourceId":"radar 1"}') == (204, b"")
    refused(api.ask("GET", f"{BASE}/radar%201"), 404, "not_found")
    refused(api.ask("POST", f"{BASE}/heartbeat", {"resourceId": "radar 1"}), 404, "not_found",
            "resourceId")


@pytest.mark.parametrize("url", ["http://:9/op", "nonsense", "ftp://h/", "http://169.254.1.1/"])
def test_an_url_that_cannot_be_called_is_told_when_it_is(api: Api, url: str) -> None:
    register(api, "odd", url=url)
    refused(operate(api, "odd", ("a", "1")), 502, "device_unreachable")
    api.gone(f"{BASE}/odd")


def test_the_daemon_does_not_call_itself(api: Api) -> None:
    register(api, "self", url=f"{api.daemon.url}/v1/tasks")
    refused(operate(api, "self", ("a", "1")), 502, "device_unreachable")
    api.gone(f"{BASE}/self")


def test_operations_are_checked_before_they_go_out(api: Api) -> None:
    register(api, "checked", opDesc=[{"name": "power", "type": "int", "min": "0", "max": "9"}])
    for operations, field in (
            ([("power", "10")], "operations[0].value"), ([("power", "x")], "operations[0].value"),
            ([("power", "1"), ("nothing", "1")], "operations[1].name")):
        refused(operate(api, "checked", *operations), 422, "invalid", field)
    refused(operate(api, "checked"), 422, "invalid", "operations")
    refused(operate(api, "nobody", ("a", "1")), 404, "not_found", "resourceId")
    refused(api.ask("POST", f"{BASE}/operation", {"operations": []}), 422, "invalid", "resourceId")
    bad = api.ask("POST", f"{BASE}/operation?resourceId=checked", {
        "operations": [{"name": "power", "value": 5}]})
    refused(bad, 422, "invalid", "operations[0].value")
    assert whole(exchange(api, "checked"), 200) == {"operations": []}, "nothing went out"
    api.gone(f"{BASE}/checked")


def test_a_device_that_polls(api: Api) -> None:
    """It needs no port: the operation is the answer to its request, its answer the next one."""
    register(api, "poll", beatSec=1)
    ended: queue.Queue[httpx.Response] = queue.Queue()

    def ask() -> None:
        with Api(api.daemon) as mine:
            ended.put(operate(mine, "poll", ("a", "1"), ("b", "")))

    for status, body in ((200, ""), (500, "no power")):
        thread = threading.Thread(target=ask)
        thread.start()
        found = listed(whole(exchange(api, "poll", waitSec=30, states={"n": "1"}), 200)[
            "operations"])
        assert [one["operations"] for one in found] == [
            [{"name": "a", "value": "1"}, {"name": "b", "value": ""}]]
        answers = [{"id": found[0]["id"], "status": status, "body": body}]
        assert whole(exchange(api, "poll", answers=answers), 200) == {"operations": []}
        thread.join()
        answer = ended.get(timeout=WAIT_S)
        if status == 200:
            assert (answer.status_code, answer.content) == (204, b"")
        else:
            problem = refused(answer, 502, "device_refused", None, "deviceStatus", "deviceBody",
                              "reason")
            assert (problem["deviceStatus"], problem["deviceBody"]) == (500, "no power")
    view = api.get(f"{BASE}/poll")
    assert (view["transport"], view["health"], view["beatSec"]) == ("poll", "Healthy", 1.0)
    assert view["states"]["n"]["value"] == "1"  # type: ignore[index]
    api.gone(f"{BASE}/poll")


def test_another_session_replaces_the_one_that_waits(api: Api) -> None:
    register(api, "twice", transport="poll")
    first: queue.Queue[httpx.Response] = queue.Queue()

    def wait() -> None:
        with Api(api.daemon) as mine:
            first.put(exchange(mine, "twice", waitSec=50, states={"first": "1"}))

    thread = threading.Thread(target=wait)
    thread.start()
    while not api.get(f"{BASE}/twice")["states"]:     # it has come in
        pass
    assert whole(exchange(api, "twice", session="other"), 200) == {"operations": []}
    thread.join()
    refused(first.get(timeout=WAIT_S), 409, "session_replaced", "session")
    refused(exchange(api, "twice"), 409, "session_replaced", "session")
    api.gone(f"{BASE}/twice")


@pytest.mark.parametrize(("body", "field"), [
    ({}, "session"), ({"session": ""}, "session"), ({"session": "s", "waitSec": 61}, "waitSec"),
    ({"session": "s", "waitSec": -1}, "waitSec"), ({"session": "s", "states": {"a": 1}},
                                                   "states[...]"),
    ({"session": "s", "answers": [{"id": "x"}]}, "answers[0].status"),
    ({"session": "s", "answers": [{"id": "x", "status": "200"}]}, "answers[0].status"),
    ({"session": "s", "timestamp": 1.5}, "timestamp"),
])
def test_bad_exchanges(api: Api, body: Json, field: str) -> None:
    register(api, "bad")
    refused(api.ask("POST", f"{BASE}/bad/exchange", body), 422, "invalid", field)
    refused(api.ask("POST", f"{BASE}/bad/exchange", b"{"), 400, "malformed")
    refused(api.ask("POST", f"{BASE}/nobody/exchange", {"session": "s"}), 404, "not_found",
            "resourceId")
    assert api.get(f"{BASE}/bad")["states"] == {}
    api.gone(f"{BASE}/bad")


@pytest.mark.parametrize(("path", "body", "field"), [
    ("register", {}, "resourceId"), ("register", {"resourceId": ""}, "resourceId"),
    ("register", {"resourceId": "a\nb"}, "resourceId"),
    ("register", {"resourceId": "x", "transport": "pigeon"}, "transport"),
    ("register", {"resourceId": "x", "transport": "callback"}, "url"),
    ("register", {"resourceId": "x", "beatSec": 0}, "beatSec"),
    ("register", {"resourceId": "x", "opDesc": [{"type": "int"}]}, "opDesc[0].name"),
    ("register", {"resourceId": "x", "stateDesc": [{"name": 1}]}, "stateDesc[0].name"),
    ("state", {"resourceId": "x"}, "states"),
    ("state", {"resourceId": "x", "states": {"a": 1}}, "states[...]"),
    ("state", {"resourceId": "x", "states": [], "timestamp": 1}, "states"),
    ("state", {"resourceId": "x", "states": {}, "timestamp": "now"}, "timestamp"),
    ("heartbeat", {}, "resourceId"), ("delete", {"resourceId": 7}, "resourceId"),
])
def test_bad_bodies(api: Api, path: str, body: Json, field: str) -> None:
    refused(api.ask("POST", f"{BASE}/{path}", body), 422, "invalid", field)
    assert api.ask("GET", f"{BASE}/x").status_code == 404


def test_a_device_has_a_bound_on_its_states(api: Api) -> None:
    register(api, "wide")
    for start in (0, 1000):
        states = {f"s{n}": "" for n in range(start, start + 1000)}
        answer = api.ask("POST", f"{BASE}/state", {"resourceId": "wide", "states": states})
        assert answer.status_code == 204
    refused(api.ask("POST", f"{BASE}/state", {"resourceId": "wide", "states": {"more": ""}}), 422,
            "invalid", "states")
    assert len(api.get(f"{BASE}/wide")["states"]) == 2000  # type: ignore[arg-type]
    assert len(api.items(f"{BASE}/states?resourceId=wide")) == 2
    api.gone(f"{BASE}/wide")


def test_reports_newest_first_by_pages(api: Api) -> None:
    register(api, "logged")
    for number in range(7):
        api.ask("POST", f"{BASE}/state", {"resourceId": "logged", "timestamp": 100 - number,
                                          "states": {"n": str(number), f"s{number}": "x"}})
    path = f"{BASE}/states?resourceId=logged"
    found = api.items(path)
    assert [one["states"]["n"] for one in found] == list("6543210")  # type: ignore[index]
    assert [one["timestamp"] for one in found] == list(range(94, 101))
    assert all(one["resourceId"] == "logged" for one in found)
    assert api.items(path + "&limit=2") == found[:2]
    assert list(api.walk(path + "&limit=2")) == found
    refused(api.ask("GET", path + "&cursor=eA"), 422, "invalid", "cursor")
    refused(api.ask("GET", f"{BASE}/states?resourceId=nobody"), 404, "not_found", "resourceId")
    refused(api.ask("GET", f"{BASE}/states"), 422, "invalid", "resourceId")
    assert api.ask("HEAD", path).status_code == 200
    api.gone(f"{BASE}/logged")
    register(api, "logged")
    assert api.items(path) == [], "a new device of this name has a history of its own"
    api.gone(f"{BASE}/logged")


def test_lists_and_their_filters(api: Api) -> None:
    for number in range(5):
        register(api, f"list{number}", nodeId=f"m{number % 2}", type="lister")
    path = f"{BASE}?type=lister"
    assert [one["resourceId"] for one in api.items(path)] == [f"list{n}" for n in range(5)]
    assert [one["resourceId"] for one in api.items(path + "&nodeId=m1")] == ["list1", "list3"]
    assert len(api.items(path + "&health=healthy")) == 5
    assert api.items(path + "&health=Unhealthy") == []
    assert [one["resourceId"] for one in api.walk(path + "&limit=2")] == [
        f"list{n}" for n in range(5)]
    assert "states" not in api.items(path)[0]
    refused(api.ask("GET", f"{BASE}?health=well"), 422, "invalid", "health")
    for number in range(5):
        api.gone(f"{BASE}/list{number}")
    refused(api.ask("DELETE", f"{BASE}/list0"), 404, "not_found")


def test_events_of_devices(api: Api) -> None:
    start = int(str(api.get("/v1/status")["nextEvent"]))
    register(api, "told", beatSec=0.1)
    api.ask("POST", f"{BASE}/state", {"resourceId": "told", "states": {"a": "1"}})
    with Reader(api.daemon, "/v1/events?topics=resources", f"Last-Event-ID: {start - 1}") as reader:
        seen = [reader.event() for _ in range(3)]
        assert [(name, data["id"], data["what"]) for _, name, data in seen] == [
            ("resource", "told", "registered"), ("resource", "told", "state"),
            ("resource", "told", "offline")]
        assert api.get(f"{BASE}/told")["health"] == "Unhealthy"
        register(api, "told", beatSec=0.1)
        assert reader.event()[2]["what"] == "online"
    api.gone(f"{BASE}/told")


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon, Api(daemon) as api:
        register(api, "kept", url="http://127.0.0.1:9/", type="t",
                 opDesc=[{"name": "o", "max": "3"}])
        before = api.get(f"{BASE}/kept")
        for number in range(20):
            answer = api.ask("POST", f"{BASE}/state", {
                "resourceId": "kept", "timestamp": number, "states": {"n": str(number)}})
            assert answer.status_code == 204
        register(api, "gone")
        api.gone(f"{BASE}/gone")
        daemon.kill()
        daemon.start()
        with no_defects(daemon), Api(daemon) as again:
            assert [one["resourceId"] for one in again.items(BASE)] == ["kept"]
            after = again.get(f"{BASE}/kept")
            assert after["states"] == {"n": {"value": "19", "timestamp": 19}}
            assert after["health"] == "Healthy", "it has its time anew"
            assert after["lastSeen"] == 0
            for name in ("opDesc", "url", "registeredAt", "type"):
                assert after[name] == before[name]
            assert len(again.items(f"{BASE}/states?resourceId=kept")) == 20


def test_a_waiting_device_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon, Api(daemon) as api:
        register(api, "waits")
        body = json.dumps({"session": "s", "waitSec": 60, "states": {"in": "1"}}).encode()
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=WAIT_S) as line:
            line.sendall(b"POST /v1/resources/waits/exchange HTTP/1.1\r\nHost: localhost\r\n"
                         b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                         % (len(body), body))
            while not api.get(f"{BASE}/waits")["states"]:
                pass
            assert daemon.stop() == 0
            answer = b""
            while chunk := line.recv(65536):
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b'{"operations":[]}')
