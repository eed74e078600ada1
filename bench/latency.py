"""One no-op task at a time on an idle daemon: how long until it starts, and until its result?"""

from __future__ import annotations

import time

import msgspec

from bench import harness
from bench.harness import Figures
from bench.load import Connection


def run(seconds: float, kind: str = "python") -> Figures:
    """Submit over HTTP with `Prefer: wait`, an embedded worker of that kind."""
    body = b'{"name":"noop","payload":{"n":1}}'
    starts, ends, states = [], [], set()
    with harness.daemon() as daemon, harness.worker(daemon.url, 1, mode="stamp", kind=kind), \
            Connection(daemon.port) as line:
        for _ in range(20):
            line.call("POST", "/v1/tasks", body, "Prefer: wait=10\r\n")
        commits, cpu_s = daemon.commits(), daemon.cpu_s()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            begun = time.monotonic_ns()
            task = line.json("POST", "/v1/tasks", body, "Prefer: wait=10\r\n")
            ended = time.monotonic_ns()
            starts.append((msgspec.json.decode(task["result"], type=int) - begun) / 1e6)
            ends.append((ended - begun) / 1e6)
            states.add(line.text(task["state"]))
        count = len(ends)
        return Figures("latency" if kind == "python" else f"latency_{kind}", {
            "tasks": count,
            "submit_to_start_p50_ms": harness.median(starts),
            "submit_to_result_p50_ms": harness.median(ends),
            "submit_to_result_p99_ms": harness.percentile(ends, 0.99),
            "fsyncs_per_task": (daemon.commits() - commits) / count,
            "cpu_us_per_task": (daemon.cpu_s() - cpu_s) / count * 1e6,
        }, harness.digest_of(sorted(states)))
