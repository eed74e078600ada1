"""A million tasks behind busy workers: does it slow dispatch, what does it weigh, how long is a
restart?"""

from __future__ import annotations

import time

import msgspec

from bench import harness
from bench.harness import Daemon, Figures
from bench.load import Connection

BULK = 10_000


def queue(line: Connection, count: int, name: str) -> None:
    """So many tasks that nobody takes yet."""
    while count > 0:
        size = min(BULK, count)
        line.call("POST", "/v1/tasks/bulk",
                  b'{"tasks":[' + b",".join([b'{"name":"%s"}' % name.encode()] * size) + b"]}")
        count -= size


def probe(daemon: Daemon, line: Connection, seconds: float) -> list[float]:
    """Milliseconds from submit to start of urgent tasks, with all that queued behind."""
    body = b'{"name":"noop","priority":9,"payload":1}'
    starts = []
    with harness.worker(daemon.url, 1, mode="stamp"):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            begun = time.monotonic_ns()
            task = line.json("POST", "/v1/tasks", body, "Prefer: wait=10\r\n")
            starts.append((msgspec.json.decode(task["result"], type=int) - begun) / 1e6)
    return starts


def run(seconds: float, few: int = 1_000, many: int = 1_000_000) -> Figures:
    """Tasks queue behind the four slots of a worker that never answers; others are probed."""
    with harness.daemon() as daemon, Connection(daemon.port) as line, \
            harness.worker(daemon.url, 4, "waiting", "block"):
        queue(line, few, "waiting")
        small = harness.median(probe(daemon, line, seconds / 2))
        begun = time.monotonic()
        queue(line, many - few, "waiting")
        load_s = time.monotonic() - begun
        large = harness.median(probe(daemon, line, seconds / 2))
        rss_kb = daemon.status("VmRSS")
        daemon.kill()
        begun = time.monotonic()
        daemon.start()
        restart_s = time.monotonic() - begun
        with Connection(daemon.port) as again:
            waiting = bytes(again.json("GET", "/v1/status")["pending"]).decode()
        return Figures("scale", {
            "queued": many, "dispatch_p50_ms_with_few": small, "dispatch_p50_ms_with_all": large,
            "dispatch_ratio": large / small, "rss_mb": rss_kb / 1024,
            "rss_mb_after_restart": daemon.status("VmRSS") / 1024,
            "restart_s": restart_s, "queued_per_s": (many - few) / load_s,
        }, harness.digest_of(waiting))
