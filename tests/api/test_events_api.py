"""/v1/events and the two older streams against the real program."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import apsw
import pytest

from tests.api.live import WAIT_S, Api, Json, no_defects, refused, serving
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


class Reader:
    """An event stream, read frame by frame as the bytes stand on the wire."""

    def __init__(self, daemon: Running, path: str, *headers: str) -> None:
        self.line = socket.create_connection(("127.0.0.1", daemon.port), timeout=WAIT_S)
        self.line.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "",
                                       ""]).encode())
        self.file = self.line.makefile("rb")
        assert self.file.readline() == b"HTTP/1.1 200 \r\n"
        self.headers = {}
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            self.headers[name] = value
        assert self.headers["content-type"] == "text/event-stream"
        self.rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.file.close()
        self.line.close()

    def frame(self) -> bytes:
        """The next frame, without its empty line."""
        while b"\n\n" not in self.rest:
            size = int(self.file.readline(), 16)
            assert size > 0, "the stream ended"
            self.rest += self.file.read(size)
            assert self.file.readline() == b"\r\n"
        frame, _, self.rest = self.rest.partition(b"\n\n")
        return frame

    def event(self) -> tuple[int, str, Json]:
        """The next event: (id, name, data); comments are passed over."""
        while True:
            fields = dict(line.split(b": ", 1) for line in self.frame().split(b"\n")
                          if not line.startswith(b":"))
            if b"event" in fields:
                return (int(fields[b"id"]), fields[b"event"].decode(),
                        json.loads(fields[b"data"]))


def states_of(reader: Reader, task_id: object) -> Iterator[tuple[int, object]]:
    """(id, state) of one task, up to its end."""
    while True:
        number, name, data = reader.event()
        if name == "task" and data["taskId"] == task_id:
            yield number, data["state"]
            if data["state"] in ("Succeeded", "Failed", "Canceled"):
                return


def test_a_reader_sees_what_happens_from_now_on(api: Api) -> None:
    api.ended(api.task()["taskId"])
    with Reader(api.daemon, "/v1/events") as reader:
        assert reader.frame() == b"retry: 1000\n: plum events"
        task = api.task("builtin.delay", payload=0.05)
        seen = list(states_of(reader, task["taskId"]))
        assert [state for _, state in seen][-1] == "Succeeded"
        assert [state for _, state in seen][:-1] in (["Running"], ["Pending", "Running"])
        numbers = [number for number, _ in seen]
        assert numbers == sorted(set(numbers))


def test_resume_without_loss_or_doubles(api: Api) -> None:
    with Reader(api.daemon, "/v1/events") as reader:
        first = api.task()
        whole = list(states_of(reader, first["taskId"]))
        ids = [api.task()["taskId"] for _ in range(20)]
        later: list[tuple[int, str, Json]] = []
        while len(ids) > len({data["taskId"] for _, _, data in later
                              if data["state"] == "Succeeded"}):
            later.append(reader.event())
    last = whole[-1][0]
    for source in (("/v1/events", f"Last-Event-ID: {last}"), (f"/v1/events?lastEventId={last}",)):
        with Reader(api.daemon, *source) as again:
            assert [again.event() for _ in later] == later
    with Reader(api.daemon, "/v1/events", f"Last-Event-ID: {later[3][0]}") as again:
        assert [again.event() for _ in later[4:]] == later[4:]


def test_topics(api: Api) -> None:
    start = api.get("/v1/status")["nextEvent"]
    assert isinstance(start, int)
    made = api.made("/v1/task-defs", {"name": "news"})
    api.ended(api.task()["taskId"])
    flow = api.made("/v1/workflows", {"name": "news", "steps": [{"type": "parallel"}]})
    run = api.made(f"/v1/workflows/{flow['workflowId']}?action=run")
    api.gone(f"/v1/workflow-runs/{run['runId']}")
    api.done("POST", "/v1/workers/register", {"workerId": "news", "url": "http://127.0.0.1:1/"})
    api.gone("/v1/workers/news")

    def told(topics: str, count: int) -> list[tuple[str, Json]]:
        with Reader(api.daemon, f"/v1/events?topics={topics}",
                    f"Last-Event-ID: {start - 1}") as reader:
            return [reader.event()[1:] for _ in range(count)]

    [(name, data)] = told("taskDefs", 1)
    assert (name, data["id"], data["what"]) == ("taskDef", made["defId"], "created")
    [(name, data)] = told("workflows", 1)
    assert (name, data["id"], data["what"]) == ("workflow", flow["workflowId"], "created")
    runs = told("runs", 4)
    assert sorted(str(data.get("state", data.get("what"))) for _, data in runs) == [
        "Running", "Succeeded", "Succeeded", "deleted"], "its step's end is told, too"
    assert [data.get("runId", data.get("id")) for _, data in runs] == [run["runId"]] * 4
    workers = told("workers", 2)
    assert [(data["id"], data["what"]) for _, data in workers] == [
        ("news", "online"), ("news", "left")]
    both = told("workers,taskDefs", 3)
    assert [name for name, _ in both] == ["taskDef", "worker", "worker"]


def test_bad_requests_for_events(api: Api) -> None:
    refused(api.ask("GET", "/v1/events?topics=tasks,weather"), 422, "invalid", "topics")
    for last in ("x", "-1", "1.5", "9" * 30):
        refused(api.ask("GET", "/v1/events", headers={"last-event-id": last}), 422, "invalid",
                "Last-Event-ID")


def test_a_number_from_the_future_is_a_gap(api: Api) -> None:
    start = api.get("/v1/status")["nextEvent"]
    with Reader(api.daemon, "/v1/events", "Last-Event-ID: 9007199254740991") as reader:
        number, name, data = reader.event()
        assert (number, name, data) == (int(str(start)) - 1, "gap", {})
        task = api.task()
        assert list(states_of(reader, task["taskId"]))[-1][1] == "Succeeded"


def test_events_go_on_across_a_kill(tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon, Api(daemon) as api:
        with Reader(daemon, "/v1/events") as reader:
            first = api.task()
            before = list(states_of(reader, first["taskId"]))
        missed = api.task("builtin.delay", payload=3600)
        daemon.kill()
        daemon.start()
        api.done("POST", f"/v1/tasks/{missed['taskId']}?action=cancel")
        fresh = api.task()
        with Reader(daemon, "/v1/events", f"Last-Event-ID: {before[-1][0]}") as reader:
            seen: list[tuple[int, str, Json]] = []
            while not seen or seen[-1][2].get("taskId") != fresh["taskId"] or (
                    seen[-1][2]["state"] != "Succeeded"):
                seen.append(reader.event())
        numbers = [number for number, _, _ in seen]
        assert numbers == sorted(set(numbers))
        assert numbers[0] > before[-1][0]
        of_missed = [data["state"] for _, name, data in seen
                     if name == "task" and data["taskId"] == missed["taskId"]]
        assert of_missed[0] in ("Running", "Pending")
        assert of_missed[-1] == "Canceled"
        assert "gap" not in [name for _, name, _ in seen]
        with Reader(daemon, "/v1/events", f"Last-Event-ID: {numbers[2]}") as reader:
            assert [reader.event() for _ in seen[3:]] == seen[3:]


def test_past_retention_there_is_a_gap(tmp_path: Path) -> None:
    daemon = Running(tmp_path / "data")
    with daemon, Api(daemon) as api:
        for _ in range(5):
            api.ended(api.task()["taskId"])
    with apsw.Connection(str(tmp_path / "data" / "plum.db")) as db:
        found = db.execute("SELECT first_seq FROM events ORDER BY first_seq DESC LIMIT 3")
        kept = [int(row[0]) for row in found][-1]
        db.execute("DELETE FROM events WHERE first_seq < ?", (kept,))
    daemon.start()
    try:
        with no_defects(daemon), Reader(daemon, "/v1/events", "Last-Event-ID: 1") as reader:
            number, name, data = reader.event()
            assert (number, name, data) == (kept - 1, "gap", {})
            assert reader.event()[0] >= kept
    finally:
        daemon.stop()


@pytest.mark.parametrize(("path", "wakes"), [
    ("/v1/tasks/stream", b"tasks"), ("/v1/stream?nodeId=n", None)])
def test_the_older_streams_to_the_byte(api: Api, path: str, wakes: bytes | None) -> None:
    with Reader(api.daemon, path) as reader:
        assert reader.frame() == b"event: ping\ndata: init"
        api.task(autoStart=False)
        if wakes is not None:
            assert reader.frame() == b"event: update\ndata: " + wakes
            api.task(autoStart=False)
            assert reader.frame() == b"event: update\ndata: " + wakes


def test_head_of_a_stream_ends_at_once(api: Api) -> None:
    for path in ("/v1/events", "/v1/tasks/stream", "/v1/stream?nodeId=n"):
        answer = api.ask("HEAD", path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.content == b""


def test_streams_that_are_cut_off_leave_nothing_behind(api: Api) -> None:
    for _ in range(50):
        with Reader(api.daemon, "/v1/events") as reader:
            reader.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with Reader(api.daemon, "/v1/events") as reader:
        task = api.task()
        assert list(states_of(reader, task["taskId"]))


def test_the_history_is_the_log_backwards(api: Api) -> None:
    start = int(str(api.get("/v1/status")["nextEvent"]))
    for _ in range(5):
        api.ended(api.task()["taskId"])
    api.made("/v1/task-defs", {"name": "history"})
    end = int(str(api.get("/v1/status")["nextEvent"]))
    with Reader(api.daemon, "/v1/events", f"Last-Event-ID: {start - 1}") as reader:
        told: list[tuple[int, str, Json]] = []
        while not told or told[-1][1] != "taskDef":
            told.append(reader.event())
    backwards = [item for item in api.walk("/v1/events/history?limit=3")
                 if int(str(item["seq"])) >= start]
    assert [(item["seq"], item["event"], item["data"]) for item in backwards] == told[::-1]
    assert {item["topic"] for item in backwards} == {"tasks", "taskDefs"}
    assert all(item["at"] >= backwards[-1]["at"] for item in backwards)     # type: ignore[operator]
    tasks = api.items(f"/v1/events/history?before={end}&topics=tasks&limit=1")
    assert [item["seq"] for item in tasks] == [max(
        number for number, name, _ in told if name == "task")]
    assert api.items("/v1/events/history?before=1") == []
    for query, field in (("before=x", "before"), ("before=0", "before"), ("limit=0", "limit"),
                         ("topics=weather", "topics"), ("topics=stats", "topics")):
        refused(api.ask("GET", f"/v1/events/history?{query}"), 422, "invalid", field)
