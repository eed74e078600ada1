"""What an idle C worker weighs, and what 1,000 connected ones weigh in the daemon."""

from __future__ import annotations

import resource
import time

from bench import harness
from bench.harness import Figures
from bench.load import Connection


def idle(seconds: float) -> Figures:
    """One worker that nobody gives anything: its memory, and how often it wakes up."""
    with harness.daemon() as daemon, harness.worker(daemon.url, 16, kind="c") as worker:
        time.sleep(0.5)     # the connection settles; then a window is measured
        switches, cpu_s = worker.status("voluntary_ctxt_switches"), worker.cpu_s()
        time.sleep(seconds)     # the window: nothing is waited for
        return Figures("c_idle", {
            "rss_mb": worker.status("VmRSS") / 1024,
            "wakeups_per_beat": (worker.status("voluntary_ctxt_switches") - switches)
            / seconds * 10,
            "cpu_ms": (worker.cpu_s() - cpu_s) * 1000,
        }, harness.digest_of("idle"))


def fleet(seconds: float, workers: int = 1_000) -> Figures:
    """Many idle workers, each on a line of its own: the daemon's memory for each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, workers * 8 + 1_000), hard))
    try:
        with harness.daemon() as daemon, Connection(daemon.port) as line:
            time.sleep(0.5)     # memory of the start is given back before it is read
            before_kb = daemon.status("VmRSS")
            ids = tuple(f"c-{number}" for number in range(workers))
            with harness.worker(daemon.url, 4, kind="c", ids=ids) as fleet_process:
                time.sleep(min(seconds, 12.0))      # a beat of each
                known = bytes(line.json("GET", "/v1/status")["workers"]).decode()
                return Figures("c_fleet", {
                    "workers": workers,
                    "daemon_kb_per_worker": (daemon.status("VmRSS") - before_kb) / workers,
                    "worker_kb": fleet_process.status("VmRSS") / workers,
                }, harness.digest_of(known))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
