"""Endpoints that are looked at, by a program beside the daemon: does dispatch wait for them?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
SETTLE_S: Final = 6.0
"""After so long all have been looked at once, by a lookout that had to be started."""


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
    """What was seen in one turn: ms from submit to start, and the share of a core that the daemon
    and who looks took."""

    starts_ms: list[float]
    core: float
    looking: float


def look(daemon: Daemon, seconds: float) -> Window:
    """One turn."""
    def looking_s() -> float:
        return sum(map(harness.cpu_s, lookouts(daemon)))

    before_s = looking_s()
    found, cpu_ratio, _ = measure(daemon, seconds, 0, "")
    return Window(found, cpu_ratio, (looking_s() - before_s) / seconds)


def run(seconds: float, count: int = 2_000) -> Figures:
    """In turns: without endpoints, with them, and without again, so that the machine's moods fall
    on both, and show themselves in what differs between two turns without."""
    turns: list[tuple[Window, Window, Window]] = []
    with answerers() as ports, harness.daemon() as daemon, \
            harness.worker(daemon.url, 1, mode="stamp"), Connection(daemon.port) as line:
        look(daemon, seconds / 8)
        for _ in range(ROUNDS):
            before = look(daemon, seconds / ROUNDS / 4)
            names = register(line, ports, count)
            harness.wait_for(lambda: bool(lookouts(daemon)), "somebody looks")
            # Nobody tells when the first looks are over; a short run has no need of that.
            time.sleep(min(SETTLE_S, seconds / ROUNDS))
            checked = look(daemon, seconds / ROUNDS / 2)
            assert all_healthy(line, names), "one was lost"
            for name in names:
                line.call("DELETE", f"/v1/services?instanceId={name}")
            turns.append((before, checked, look(daemon, seconds / ROUNDS / 4)))
        resident_mb = harness.status(lookouts(daemon)[0], "VmRSS") / 1024

    bare = [Window(before.starts_ms + after.starts_ms, (before.core + after.core) / 2, 0.0)
            for before, _, after in turns]
    watched = [checked for _, checked, _ in turns]
    return Figures("health checks", {
        "endpoints": count // DOORS * DOORS,
        "dispatch_p50_ms_without": of_all(bare, harness.median),
        "dispatch_p50_ms_with": of_all(watched, harness.median),
        "dispatch_p99_ms_without": of_all(bare, p99),
        "dispatch_p99_ms_with": of_all(watched, p99),
        "dispatch_p99_ratio_of_turns": harness.median(
            [p99(one.starts_ms) / p99(other.starts_ms)
             for one, other in zip(watched, bare, strict=True)]),
        "dispatch_p99_ratio_of_two_without": harness.median(
            [max(pair) / min(pair) for pair in
             ((p99(before.starts_ms), p99(after.starts_ms)) for before, _, after in turns)]),
        "core_percent_without": harness.median([one.core for one in bare]) * 100,
        "core_percent_with": harness.median([one.core for one in watched]) * 100,
        "lookout_core_percent": harness.median([one.looking for one in watched]) * 100,
        "lookout_memory_mb": resident_mb,
    }, harness.digest_of(count))


def p99(found: list[float]) -> float:
    """What 99 of 100 are below."""
    return harness.percentile(found, 0.99)


def of_all(windows: list[Window], figure: Callable[[list[float]], float]) -> float:
    """The median of a figure of all turns."""
    return harness.median([figure(window.starts_ms) for window in windows])
