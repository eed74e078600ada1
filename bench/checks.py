"""Endpoints that the daemon looks at by itself: does dispatch wait for them?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import msgspec

from bench import harness
from bench.browsers import measure
from bench.harness import Figures
from bench.load import Connection

DOORS: Final = 20
KINDS: Final = ("http", "tcp")
ROUNDS: Final = 4


@contextmanager
def answerers() -> Iterator[list[int]]:
    """The ports of programs that are well."""
    process = subprocess.Popen([sys.executable, "-m", "bench.answerers", str(DOORS)],
                               stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield [int(port) for port in process.stdout.readline().split()]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def register(line: Connection, ports: list[int], count: int) -> list[str]:
    """So many endpoints, half of them asked by HTTP and half by a connection; their instances."""
    names = [f"checked-{number}" for number in range(count // DOORS)]
    for number, name in enumerate(names):
        line.call("POST", "/v1/services/register", msgspec.json.encode({
            "instanceId": name, "ip": "127.0.0.1", "endpoints": [
                {"serviceName": name, "port": port, "protocol": "http",
                 "labels": {"healthCheck": KINDS[number % len(KINDS)], "healthPath": "/health"}}
                for port in ports]}))
    return names


def all_healthy(line: Connection, names: list[str]) -> bool:
    """Whether all of their endpoints are found."""
    return all(len(msgspec.json.decode(
        line.call("GET", f"/v1/discovery?service={name}"), type=list[msgspec.Raw])) == DOORS
        for name in names)


def run(seconds: float, count: int = 2_000) -> Figures:
    """In turns without and with endpoints, so that the machine's moods fall on both."""
    starts: dict[bool, list[float]] = {False: [], True: []}
    cpu: dict[bool, list[float]] = {False: [], True: []}
    with answerers() as ports, harness.daemon() as daemon, \
            harness.worker(daemon.url, 1, mode="stamp"), Connection(daemon.port) as line:
        measure(daemon, seconds / 8, 0, "")
        for _ in range(ROUNDS):
            for checked in (False, True):
                names = register(line, ports, count) if checked else []
                harness.wait_for(partial(all_healthy, line, names), "they are all healthy")
                found, cpu_s, _ = measure(daemon, seconds / ROUNDS / 2, 0, "")
                starts[checked] += found
                cpu[checked].append(cpu_s)
                assert all_healthy(line, names), "one was lost"
                for name in names:
                    line.call("DELETE", f"/v1/services?instanceId={name}")
    return Figures("health checks", {
        "endpoints": count // DOORS * DOORS,
        "dispatch_p50_ms_without": harness.median(starts[False]),
        "dispatch_p50_ms_with": harness.median(starts[True]),
        "dispatch_p99_ms_without": harness.percentile(starts[False], 0.99),
        "dispatch_p99_ms_with": harness.percentile(starts[True], 0.99),
        "core_percent_without": harness.median(cpu[False]) * 100,
        "core_percent_with": harness.median(cpu[True]) * 100,
    }, harness.digest_of(count))
