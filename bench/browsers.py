"""Screens that watch a busy daemon: what does each cost, and does dispatch wait for them?"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bench import harness
from bench.harness import Daemon, Figures
from bench.load import Connection

BROWSERS = 20
DIGEST_MS = 250
TASKS_PER_S = 400
"""Each changes its state two or three times: about 1,000 changes a second."""
BEAT_S = 0.05


@contextmanager
def readers(port: int, count: int, path: str) -> Iterator[None]:
    """So many event streams, read by a process of their own."""
    if not count:
        yield
        return
    process = subprocess.Popen([sys.executable, "-m", "bench.readers", str(port), str(count), path],
                               stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
        assert process.poll() is None, "the readers ended early"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def busy(port: int) -> Iterator[None]:
    """Small bulks at an even pace, from a thread."""
    size = round(TASKS_PER_S * BEAT_S)
    body = b'{"tasks":[' + b",".join([b'{"name":"load"}'] * size) + b"]}"
    over = threading.Event()

    def submit() -> None:
        with Connection(port) as line:
            due = time.monotonic()
            while not over.is_set():
                line.call("POST", "/v1/tasks/bulk", body)
                due += BEAT_S
                over.wait(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure(daemon: Daemon, seconds: float, count: int, path: str,
            ) -> tuple[list[float], float, float]:
    """(ms from submit to start of single tasks, daemon's CPU s a second, events a second)."""
    body = b'{"name":"noop","payload":1}'
    starts = []
    with readers(daemon.port, count, path), Connection(daemon.port) as line:
        first = int(line.json("GET", "/v1/status")["nextEvent"])
        cpu_s, begun_s = daemon.cpu_s(), time.monotonic()
        while time.monotonic() < begun_s + seconds:
            begun = time.monotonic_ns()
            task = line.json("POST", "/v1/tasks", body, "Prefer: wait=10\r\n")
            starts.append((msgspec.json.decode(task["result"], type=int) - begun) / 1e6)
            time.sleep(0.005)   # single tasks at an even pace: the load is `busy`, not this
        took_s = time.monotonic() - begun_s
        events = int(line.json("GET", "/v1/status")["nextEvent"]) - first
        return starts, (daemon.cpu_s() - cpu_s) / took_s, events / took_s


def run(seconds: float, digest_ms: int = DIGEST_MS) -> Figures:
    """In turns without and with browsers, so that the machine's moods fall on both."""
    path = f"/v1/events?digest={digest_ms}" if digest_ms else "/v1/events"
    starts: dict[int, list[float]] = {0: [], BROWSERS: []}
    cpu: dict[int, list[float]] = {0: [], BROWSERS: []}
    rates = []
    with harness.daemon() as daemon, harness.worker(daemon.url, 1, mode="stamp"), \
            harness.worker(daemon.url, 64, "load"), busy(daemon.port):
        measure(daemon, 1, 0, path)
        for _ in range(4):
            for count in (0, BROWSERS):
                found, cpu_s, rate = measure(daemon, seconds / 8, count, path)
                starts[count] += found
                cpu[count].append(cpu_s)
                rates.append(rate)
    extra_s = harness.median(cpu[BROWSERS]) - harness.median(cpu[0])
    return Figures("browsers" if digest_ms else "readers", {
        "events_per_s": harness.median(rates),
        "dispatch_p50_ms_with_0": harness.median(starts[0]),
        f"dispatch_p50_ms_with_{BROWSERS}": harness.median(starts[BROWSERS]),
        "dispatch_p99_ms_with_0": harness.percentile(starts[0], 0.99),
        f"dispatch_p99_ms_with_{BROWSERS}": harness.percentile(starts[BROWSERS], 0.99),
        "daemon_cpu_ratio_with_0": harness.median(cpu[0]),
        "cpu_ms_per_s_and_browser": max(0.0, extra_s) / BROWSERS * 1000,
    }, harness.digest_of(sorted(starts)))
