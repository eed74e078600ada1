"""The daemon's figures, its metrics and digests, against the real program."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.live import WAIT_S, Api, Json, refused, serving

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def inner(value: Json, name: str) -> Json:
    """A part that is an object."""
    part = value[name]
    assert isinstance(part, dict)
    return part


def test_the_newest_sample(api: Api) -> None:
    status = api.get("/v1/status")
    for _ in range(3):
        api.ended(api.task()["taskId"])
    api.task(autoStart=False)
    stats = sampled(api, lambda found: inner(found, "states")["queued"] == 1)
    assert set(stats) == {
        "at", "version", "nodeId", "uptimeSec", "writes", "states", "workers", "slots",
        "liveRuns", "perSec", "queueWaitMs", "runMs", "commit", "writerQueue", "dbBytes",
        "walBytes", "rssBytes", "cpuRatio", "sseReaders", "eventSeq"}
    assert stats["version"] == status["version"]
    assert stats["nodeId"] == status["nodeId"]
    assert stats["writes"] == "ok"
    assert set(inner(stats, "perSec")) == {
        "submitted", "started", "succeeded", "failed", "timeout", "canceled", "lost"}
    assert int(str(stats["dbBytes"])) > 0
    assert int(str(stats["rssBytes"])) > 1 << 24
    assert int(str(stats["eventSeq"])) >= int(str(status["nextEvent"]))


def sampled(api: Api, true: Callable[[Json], bool]) -> Json:
    """The first sample of which something is true; there is one each second."""
    until = time.monotonic() + WAIT_S
    while True:
        stats = api.get("/v1/stats")
        if true(stats):
            return stats
        assert time.monotonic() < until, stats
        time.sleep(0.05)


def test_the_history(api: Api) -> None:
    sampled(api, lambda stats: float(str(stats["uptimeSec"])) > 2)
    for query, step, count in (("", 1, 900), ("?window=15m", 1, 900), ("?window=24H", 60, 1440)):
        history = api.get(f"/v1/stats/history{query}")
        at, series = history["at"], history["series"]
        assert isinstance(at, list)
        assert isinstance(series, dict)
        assert (history["stepSec"], len(at)) == (step, count)
        assert at[1] - at[0] == step * 1000
        assert {len(column) for column in series.values()} == {count}
        assert set(series) >= {
            "submitted", "started", "succeeded", "failed", "timeout", "canceled", "pending",
            "running", "queueWaitP50Ms", "queueWaitP99Ms", "commitMs", "writerQueue", "dbBytes"}
    second = api.get("/v1/stats/history")
    assert isinstance(second["series"], dict)
    assert second["series"]["running"][-1] is not None
    refused(api.ask("GET", "/v1/stats/history?window=1y"), 422, "invalid", "window")


def test_metrics_can_be_scraped(api: Api) -> None:
    before = scraped(api)
    api.ended(api.task()["taskId"])
    api.ended(api.task("builtin.fail")["taskId"])
    answer = api.ask("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    after = scraped(api)

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0)

    assert grown("plum_runs_total", result="success") == 1
    assert grown("plum_runs_total", result="failure") == 1
    assert grown("plum_attempts_started_total") == 2
    assert grown("plum_run_queue_wait_seconds_count") == 2
    assert grown("plum_run_duration_seconds_bucket", le="+Inf") == 2
    assert grown("plum_db_commit_seconds_count") >= 2
    assert grown("plum_db_commit_batch_size_count") >= 2
    assert grown("plum_http_request_duration_seconds_count", route="/v1/tasks", method="POST",
                 code="201") == 2
    for name in ("plum_build_info", "plum_runs_active", "plum_workers", "plum_worker_slots",
                 "plum_db_size_bytes", "plum_logs_bytes", "plum_sse_clients",
                 "plum_stale_reports_total", "plum_attempts_lost_total",
                 "process_resident_memory_bytes"):
        assert any(key[0] == name for key in after), name
    for (name, labels), value in after.items():
        assert value >= before.get((name, labels), 0) or not name.endswith(("_total", "_bucket"))


def scraped(api: Api) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, read by Prometheus' own parser."""
    found = {}
    for family in text_string_to_metric_families(api.ask("GET", "/metrics").text):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, "a sample came twice"
            found[key] = sample.value
    return found


def frames(api: Api, path: str, *headers: str) -> Iterator[tuple[str | None, str, Json]]:
    """(id, event, data) of an event stream, without end."""
    with socket.create_connection(("127.0.0.1", api.daemon.port), timeout=WAIT_S) as line:
        line.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "",
                                  ""]).encode())
        file = line.makefile("rb")
        while file.readline().strip():
            pass
        text = ""
        while True:
            text += file.read(int(file.readline(), 16)).decode()
            file.readline()
            while "\n\n" in text:
                part, _, text = text.partition("\n\n")
                fields = dict(row.split(": ", 1) for row in part.split("\n")
                              if not row.startswith(":"))
                if "event" in fields:
                    yield fields.get("id"), fields["event"], json.loads(fields["data"])


def test_a_screen_follows(api: Api) -> None:
    start = api.get("/v1/status")["nextEvent"]
    ids = [api.task()["taskId"] for _ in range(20)]
    for task_id in ids:
        api.ended(task_id)
    last: dict[object, object] = {}
    path = "/v1/events?digest=100&topics=tasks"
    for number, name, data in frames(api, path, f"Last-Event-ID: {int(str(start)) - 1}"):
        assert name == "task"
        assert number is not None
        last[data["taskId"]] = data["state"]
        if len(last) == len(ids):
            break
    assert last == dict.fromkeys(ids, "Succeeded")


def test_the_figures_come_with_it(api: Api) -> None:
    seen = []
    for number, name, data in frames(api, "/v1/events?digest=250&topics=stats,runs"):
        assert name == "stats"
        assert number is None
        seen.append(data)
        if len(seen) == 3:
            break
    assert len({data["at"] for data in seen}) == 3
    assert set(seen[0]) == set(api.get("/v1/stats"))
    assert int(str(seen[-1]["sseReaders"])) >= 1


def test_bad_digests(api: Api) -> None:
    for digest in ("0", "49", "5001", "x", "1.5"):
        refused(api.ask("GET", f"/v1/events?digest={digest}"), 422, "invalid", "digest")
    refused(api.ask("GET", "/v1/events?topics=stats"), 422, "invalid", "topics")
    refused(api.ask("GET", "/v1/events?digest=100&topics=weather"), 422, "invalid", "topics")
