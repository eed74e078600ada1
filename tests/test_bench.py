"""Every measurement runs, tiny; its figures are looked at by people, not here."""

from __future__ import annotations

import os

import pytest

from bench import (
    browsers,
    c_sdk,
    checks,
    discovery,
    fleet,
    floor,
    graphs,
    grpc_streams,
    latency,
    lists,
    nodes,
    output,
    scale,
    schedules,
    throughput,
    workflows,
)
from bench.harness import Daemon, Figures
from tests.daemon import warm


@pytest.fixture(autouse=True)
def begun_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measures daemons of its own; here not how they start."""
    def begin(_daemon: Daemon, words: list[str]) -> warm.Fork:
        return warm.begin(words, os.environ, 2)

    monkeypatch.setattr(Daemon, "begin", begin)


def look(figures: Figures, count: str) -> None:
    assert figures.values[count] > 0
    assert all(value >= 0 for value in figures.values.values())
    assert len(figures.digest) == 12


def test_floor() -> None:
    look(floor.run(0.3), "round_trips")


def test_nodes() -> None:
    look(nodes.failover(0, 40, 4), "moved")
    look(nodes.steady(0.3, 3, 0), "instances")


def test_discovery() -> None:
    look(discovery.inside(0.2), "lookups")
    look(discovery.over_http(0.5), "lookups_per_s")


def test_checks() -> None:
    look(checks.run(0.8, 40), "endpoints")


def test_output() -> None:
    look(output.run(0, 100 << 20), "disk_mb")


def test_latency() -> None:
    figures = latency.run(0.5)
    look(figures, "tasks")
    assert figures.values["fsyncs_per_task"] <= 2.01, "a lone task has two commits"


def test_bulk() -> None:
    figures = throughput.bulk(0.2, 2_000)
    look(figures, "rounds")
    assert figures.values["fsyncs_per_task"] < 0.2, "commits are shared"


def test_c_worker() -> None:
    figures = throughput.bulk(0.2, 2_000, "c")
    look(figures, "rounds")
    assert figures.values["fsyncs_per_task"] < 0.2, "commits are shared"
    look(throughput.bulk(0.2, 1_000, "c-poll"), "rounds")
    look(latency.run(0.3, "c"), "tasks")
    look(c_sdk.idle(0.5), "rss_mb")
    look(c_sdk.fleet(0.5, 20), "workers")


def test_singles() -> None:
    look(throughput.singles(0.5, 16), "tasks")


def test_grpc() -> None:
    figures = grpc_streams.run(0.6, 2_000)
    look(figures, "rounds")
    look(figures, "tasks")


def test_workflows() -> None:
    look(workflows.many(0.5, 4), "runs")
    look(workflows.long(0.5, 10), "runs")


def test_graphs() -> None:
    look(graphs.whole(0.1, 60), "runs")
    look(graphs.mapped(0, 300), "items_per_s")
    look(graphs.fibs(0.1, 12, 2), "runs")
    look(graphs.sleeps(0, 40, 10), "share_of_ideal")


def test_browsers() -> None:
    look(browsers.run(2), "events_per_s")
    look(browsers.run(1, 0), "events_per_s")


def test_lists() -> None:
    look(lists.run(0.1, 3_000, 100), "tasks")


def test_scale() -> None:
    figures = scale.run(0.6, 100, 5_000)
    look(figures, "queued")


@pytest.mark.parametrize("kind", ["workflow", "task"])
def test_schedules(kind: str) -> None:
    figures = schedules.storm(1.0, 200, kind)
    assert figures.values["schedules"] == 200
    look(figures, "all_started_s")


def test_idle_schedules() -> None:
    look(schedules.idle(0.3, 500), "schedules")


@pytest.mark.parametrize("workers", [30])
def test_fleet(workers: int) -> None:
    figures = fleet.beats(1.0, workers)
    look(figures, "workers")
    assert figures.values["commits_per_s"] <= 1


def test_idle() -> None:
    figures = fleet.idle(1.0)
    look(figures, "rss_mb")
    assert figures.values["wakeups"] <= 3, "an idle daemon wakes for due timers only"
