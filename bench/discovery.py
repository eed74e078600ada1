"""How fast endpoints are found: inside the daemon, and over HTTP at 500/s while tasks run."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from bench import harness
from bench.harness import Figures
from bench.load import Connection
from plumd.balance import ROUND_ROBIN, Endpoint
from plumd.clock import SystemClock
from plumd.services import Registry
from plumd.store import services
from plumd.store.store import Change, Store, Tx, Written

T = TypeVar("T")

SERVICES: Final = 200
ENDPOINTS_OF_EACH: Final = 10
RATE: Final = 500
LINES: Final = 4


def endpoints(number: int) -> list[Endpoint]:
    """Those of a service."""
    return [Endpoint(f"service-{number}", f"i-{number}-{index}", "10.0.0.1", 9000 + index, "http",
                     "", "1", {}) for index in range(ENDPOINTS_OF_EACH)]


def inside(seconds: float) -> Figures:
    """One processor that does nothing else: picks by round-robin among 2,000 endpoints."""
    with tempfile.TemporaryDirectory(prefix="plum-bench-") as folder:
        store = Store(Path(folder) / "plum.db")

        def fill(tx: Tx) -> None:
            for number in range(SERVICES):
                for one in endpoints(number):
                    services.register(tx, one.instance_id, [one], replace=False)

        store.commit_now(Change(0, events=[], calls=[fill]))
        registry = Registry(store, SystemClock(), never)
        registry.load()
        for number in range(SERVICES):
            for one in endpoints(number):
                registry.beat(one.instance_id, None)
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            for number in range(SERVICES):
                assert registry.pick(f"service-{number}", ROUND_ROBIN) is not None
            count += SERVICES
        took_s = time.perf_counter() - begun
        store.close()
        return Figures("lookups inside the daemon", {
            "endpoints": SERVICES * ENDPOINTS_OF_EACH, "lookups": count,
            "lookups_per_s": count / took_s}, harness.digest_of(SERVICES))


async def never(fn: Callable[[Tx], T], /,
                then: Callable[[Written], None] | None = None) -> T:
    """Nothing here is written."""
    raise AssertionError((fn, then))


def over_http(seconds: float) -> Figures:
    """GET /v1/discovery/one at 500/s, while echo tasks run one after the other."""
    with harness.daemon() as daemon:
        with Connection(daemon.port) as line:
            for number in range(SERVICES):
                line.call("POST", "/v1/services/register", msgspec.json.encode({
                    "instanceId": f"i-{number}", "ip": "127.0.0.1", "endpoints": [
                        {"serviceName": f"service-{number}", "port": 9000 + index,
                         "protocol": "http"} for index in range(ENDPOINTS_OF_EACH)]}))
        over, tasks = threading.Event(), 0
        found_s: list[float] = []
        askers = [threading.Thread(target=ask, args=(daemon.port, turn, over, found_s))
                  for turn in range(LINES)]
        for one in askers:
            one.start()
        with Connection(daemon.port) as line:
            begun, cpu_s = time.monotonic(), daemon.cpu_s()
            while time.monotonic() - begun < seconds:
                line.call("POST", "/v1/tasks", b'{"name":"builtin.echo","payload":1}',
                          "Prefer: wait=5\r\n")
                tasks += 1
            took_s, cpu_s = time.monotonic() - begun, daemon.cpu_s() - cpu_s
        over.set()
        for one in askers:
            one.join()
        found_s.sort()
        return Figures("lookups over HTTP", {
            "lookups_per_s": len(found_s) / took_s, "tasks_per_s": tasks / took_s,
            "p50_ms": found_s[len(found_s) // 2] * 1000,
            "p99_ms": found_s[len(found_s) * 99 // 100] * 1000,
            "core_percent": cpu_s / took_s * 100}, harness.digest_of(RATE))


def ask(port: int, turn: int, over: threading.Event, found_s: list[float]) -> None:
    """A share of the questions, at their times; how long each took."""
    with Connection(port) as line:
        due, number = time.monotonic() + turn / RATE, turn
        while not over.is_set():
            due += LINES / RATE
            time.sleep(max(0.0, due - time.monotonic()))    # so many a second is the question
            begun = time.perf_counter()
            line.call("GET", f"/v1/discovery/one?service=service-{number % SERVICES}"
                             "&strategy=round-robin")
            found_s.append(time.perf_counter() - begun)
            number += LINES
