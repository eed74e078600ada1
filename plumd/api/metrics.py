"""/metrics: what is counted, in Prometheus' text.

Nothing is counted here but HTTP answers; the rest is read from those who count as they work. A
"run" in a metric's name is any unit of work (here a task), as in other orchestrators' metrics.

Source: Prometheus, "Metric and label naming"; exposition format 0.0.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

import plumd
from plumd.alarms import Alarms
from plumd.api.routes import Request, Response, Route
from plumd.devices import Devices
from plumd.executors.hour_logs import HourLogs
from plumd.leases import Leases
from plumd.nodes import Nodes
from plumd.services import Registry
from plumd.stats import Monitor
from plumd.store.store import Spent
from plumd.webhooks import Webhooks

US_LOW, US_HIGH = 6, 26
"""Times are told in buckets from 2**6 us to 2**26 us, 67 s."""
STATES: Final = ("queued", "pending", "running", "retrying")


Bound = Callable[[int], str]


class Answers:
    """How long HTTP answers took, by route, method and status."""

    def __init__(self) -> None:
        self.spent: dict[tuple[str, str, int], Spent] = {}

    def observe(self, route: Route, method: str, status: int, seconds: float) -> None:
        """One answer was made (of a stream, its head)."""
        key = (route.path, method, status)
        spent = self.spent.get(key)
        if spent is None:
            spent = self.spent[key] = Spent()
        spent.count(int(seconds * 1e9))


class Fabric(NamedTuple):
    """The rooms of nodes, services, devices, leases and webhooks, and the logs of what has ended.
    """

    nodes: Nodes
    registry: Registry
    devices: Devices
    alarms: Alarms
    leases: Leases
    webhooks: Webhooks
    logs: HourLogs


class Metrics(Collector):
    """The handler, and what its registry collects from."""

    def __init__(self, monitor: Monitor, answers: Answers, fabric: Fabric) -> None:
        self.fabric = fabric
        self.monitor = monitor
        self.engine = monitor.engine
        self.answers = answers
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    async def show(self, request: Request) -> Response:
        """A scrape."""
        del request
        return Response(body=generate_latest(self.registry),
                        content_type=CONTENT_TYPE_PLAIN_0_0_4)

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        yield from self._tasks()
        yield from self._workers()
        yield from self._fabric()
        yield from self._database()
        yield from self._http()

    def _tasks(self) -> Iterator[Metric]:
        met = self.engine.core.meters()
        info = GaugeMetricFamily("plum_build_info", "Which version answers", labels=["version"])
        info.add_metric([plumd.__version__], 1)
        yield info
        results = CounterMetricFamily("plum_runs", "Tasks that ended", labels=["result"])
        for result, count in (("success", met.succeeded), ("failure", met.failed),
                              ("timeout", met.timeout), ("cancellation", met.canceled)):
            results.add_metric([result], count)
        yield results
        active = GaugeMetricFamily("plum_runs_active", "Tasks that are not over",
                                   labels=["state"])
        for state, count in zip(STATES, self.engine.core.counts_by_state(), strict=True):
            active.add_metric([state], count)
        yield active
        yield CounterMetricFamily("plum_runs_submitted", "Tasks that were accepted",
                                  value=met.submitted)
        yield CounterMetricFamily("plum_attempts_started", "Attempts that were given out",
                                  value=met.started)
        yield CounterMetricFamily("plum_attempts_lost", "Attempts that ended with their worker",
                                  value=met.lost)
        yield CounterMetricFamily("plum_stale_reports", "Reports of attempts that were no longer "
                                  "the current one, refused", value=met.stale)
        yield histogram("plum_run_queue_wait_seconds", "From when a task could start to its start",
                        met.wait, met.wait_us / 1e6)
        yield histogram("plum_run_duration_seconds", "How long attempts ran", met.run,
                        met.run_us / 1e6)

    def _workers(self) -> Iterator[Metric]:
        core = self.engine.core
        workers = GaugeMetricFamily("plum_workers", "Workers, without the daemon's own executors",
                                    labels=["state"])
        workers.add_metric(["online"], core.statistics()["workers"] - self.engine.own_workers)
        yield workers
        total, busy = core.slots()
        slots = GaugeMetricFamily("plum_worker_slots", "Their slots", labels=["state"])
        slots.add_metric(["busy"], busy)
        slots.add_metric(["free"], total - busy)
        yield slots

    def _fabric(self) -> Iterator[Metric]:
        fabric = self.fabric
        yield counted("plum_nodes", "Nodes", "health", Counter(
            seen.health.lower() for seen in fabric.nodes.every()))
        endpoints = fabric.registry.every()
        yield counted("plum_service_endpoints", "Endpoints of services", "health", Counter(
            "healthy" if seen.healthy else "unhealthy" for seen in endpoints))
        breakers = GaugeMetricFamily(
            "plum_service_breakers", "Endpoints by their breaker", labels=["service", "state"])
        states = Counter((seen.endpoint.service,
                          fabric.registry.calls.seen(seen.endpoint.key).state)
                         for seen in endpoints)
        for (service, state), count in sorted(states.items()):
            breakers.add_metric([service, state], count)
        yield breakers
        retries = GaugeMetricFamily("plum_service_retries_left", "Calls that may be tried again "
                                    "now", labels=["service"])
        for service in fabric.registry.names():
            retries.add_metric([service], fabric.registry.calls.retries_left(service))
        yield retries
        yield counted("plum_devices", "Devices", "health", Counter(
            "healthy" if seen.healthy else "unhealthy" for seen in fabric.devices.every()))
        yield counted("plum_alarms_active", "Alarms that are active", "severity",
                      fabric.alarms.statistics())
        yield GaugeMetricFamily("plum_leases", "Locks and devices that somebody has",
                                value=fabric.leases.count)
        told = CounterMetricFamily("plum_webhook_deliveries", "Events that were to be told to "
                                   "webhooks, by what became of them", labels=["result"])
        for result, count in fabric.webhooks.ended.items():
            told.add_metric([result], count)
        yield told
        yield GaugeMetricFamily("plum_logs_bytes", "What ended tasks printed, as far as it is kept",
                                value=fabric.logs.size_bytes)

    def _database(self) -> Iterator[Metric]:
        store = self.engine.store
        yield histogram("plum_db_commit_seconds", "How long COMMIT takes, with its sync",
                        store.committing.buckets, store.committing.total_ns / 1e9)
        batch = HistogramMetricFamily("plum_db_commit_batch_size", "Commands decided together")
        batch.add_metric([], [*cumulated(self.engine.batches, lambda i: str(2 ** i - 1)),
                              ("+Inf", sum(self.engine.batches))], self.engine.commands)
        yield batch
        database, log = store.sizes()
        size = GaugeMetricFamily("plum_db_size_bytes", "Files of the database", labels=["file"])
        size.add_metric(["database"], database)
        size.add_metric(["log"], log)
        yield size
        yield GaugeMetricFamily("plum_db_writable", "1 while the disk takes writes",
                                value=0 if self.engine.down else 1)
        yield GaugeMetricFamily("plum_writer_queue", "Commands that wait for their turn",
                                value=self.engine.waiting)

    def _http(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("plum_sse_clients", "Open event streams",
                                value=self.monitor.readers)
        took = HistogramMetricFamily(
            "plum_http_request_duration_seconds", "Time until an answer was made",
            labels=["route", "method", "code"])
        for (route, method, status), spent in self.answers.spent.items():
            took.add_metric([route, method, str(status)], in_seconds(spent.buckets),
                            spent.total_ns / 1e9)
        yield took


def counted(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    """How many there are of each kind."""
    made = GaugeMetricFamily(name, text, labels=[label])
    for word, count in sorted(counts.items()):
        made.add_metric([word], count)
    return made


def histogram(name: str, text: str, counts: Sequence[int], total_s: float) -> Metric:
    """A histogram of times; item i of counts counts those below 2**i us."""
    made = HistogramMetricFamily(name, text)
    made.add_metric([], in_seconds(counts), total_s)
    return made


def in_seconds(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Prometheus' cumulative buckets of such counts."""
    return [*((le, seen) for i, (le, seen) in enumerate(
        cumulated(counts, lambda i: f"{2 ** i / 1e6:.6g}")) if US_LOW <= i <= US_HIGH),
        ("+Inf", sum(counts))]


def cumulated(counts: Sequence[int], bound: Bound) -> Iterator[tuple[str, float]]:
    """(upper bound, how many are not above it) of each count in turn."""
    seen = 0
    for i, count in enumerate(counts):
        seen += count
        yield bound(i), seen


def routes(handlers: Metrics) -> list[Route]:
    """The table's part about metrics."""
    return [Route("GET", "/metrics", handlers.show, "Metrics for Prometheus", "system",
                  "system:read", answers={200: str})]
