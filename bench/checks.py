"""Endpoints that are looked at, by a program beside the daemon: does dispatch wait for them?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple

import msgspec
import psutil

from bench import harness
from bench.browsers import measure
from bench.harness import Daemon, Figures
from bench.load import Connection

DOORS: Final = 20
KINDS: Final = ("http", "tcp")
ROUNDS: Final = 6


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


def lookouts(daemon: Daemon) -> list[int]:
    """The process that looks, once there is one."""
    return [one.pid for one in psutil.Process(daemon.process.pid).children()
            if "plumd.lookout" in one.cmdline()]


class Window(NamedTuple):
    """What was seen in one turn."""

    p50_ms: float
    p99_ms: float
    cpu_ratio: float
    looking_ratio: float
    """The processor time of who looks."""


def look(daemon: Daemon, seconds: float) -> Window:
    """One turn."""
    def looking_s() -> float:
        return sum(map(harness.cpu_s, lookouts(daemon)))

    before_s = looking_s()
    found, cpu_ratio, _ = measure(daemon, seconds, 0, "")
    return Window(harness.median(found), harness.percentile(found, 0.99), cpu_ratio,
                  (looking_s() - before_s) / seconds)


def run(seconds: float, count: int = 2_000) -> Figures:
    """In turns without and with endpoints, so that the machine's moods fall on both."""
    without: list[Window] = []
    checked: list[Window] = []
    with answerers() as ports, harness.daemon() as daemon, \
            harness.worker(daemon.url, 1, mode="stamp"), Connection(daemon.port) as line:
        look(daemon, seconds / 8)
        for number in range(ROUNDS):
            for windows in (without, checked) if number % 2 else (checked, without):
                names = register(line, ports, count) if windows is checked else []
                if names:
                    harness.wait_for(lambda: bool(lookouts(daemon)), "somebody looks")
                harness.wait_for(partial(all_healthy, line, names), "they are all healthy")
                windows.append(look(daemon, seconds / ROUNDS / 2))
                assert all_healthy(line, names), "one was lost"
                for name in names:
                    line.call("DELETE", f"/v1/services?instanceId={name}")
        resident_mb = harness.status(lookouts(daemon)[0], "VmRSS") / 1024

    def middle(windows: list[Window], place: int) -> float:
        return harness.median([window[place] for window in windows])

    return Figures("health checks", {
        "endpoints": count // DOORS * DOORS,
        "dispatch_p50_ms_without": middle(without, 0),
        "dispatch_p50_ms_with": middle(checked, 0),
        "dispatch_p99_ms_without": middle(without, 1),
        "dispatch_p99_ms_with": middle(checked, 1),
        "dispatch_p99_ratio_of_turns": harness.median(
            [one.p99_ms / other.p99_ms for one, other in zip(checked, without, strict=True)]),
        "core_percent_without": middle(without, 2) * 100,
        "core_percent_with": middle(checked, 2) * 100,
        "lookout_core_percent": middle(checked, 3) * 100,
        "lookout_memory_mb": resident_mb,
    }, harness.digest_of(count))
