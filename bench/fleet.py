"""5,000 connected workers that beat every 10 s and do nothing; and a daemon with nothing at all."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from bench import harness
from bench.harness import Figures
from bench.load import Connection


def beats(seconds: float, workers: int = 5_000) -> Figures:
    """Their cost in the daemon, in processor time and write transactions."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, workers * 2 + 1_000), hard))
    with harness.daemon() as daemon, Connection(daemon.port) as line:
        fleet = subprocess.Popen(
            [sys.executable, "-m", "bench.fleet_worker", str(daemon.port), str(workers)],
            stdout=subprocess.PIPE)
        assert fleet.stdout is not None
        try:
            fleet.stdout.readline()
            time.sleep(2)          # the connections settle; then a window is measured
            cpu_s, commits, begun = daemon.cpu_s(), daemon.commits(), time.monotonic()
            time.sleep(seconds)
            took_s = time.monotonic() - begun
            known = bytes(line.json("GET", "/v1/status")["workers"]).decode()
            return Figures("fleet", {
                "workers": workers, "core_percent": (daemon.cpu_s() - cpu_s) / took_s * 100,
                "commits_per_s": (daemon.commits() - commits) / took_s,
                "rss_mb": daemon.status("VmRSS") / 1024,
            }, harness.digest_of(known))
        finally:
            fleet.kill()
            fleet.wait()
            fleet.stdout.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def idle(seconds: float) -> Figures:
    """Memory and wake-ups of a daemon that nobody asks anything."""
    with harness.daemon() as daemon:
        time.sleep(3)       # start-up settles; then a window is measured
        switches, cpu_s = daemon.status("voluntary_ctxt_switches"), daemon.cpu_s()
        time.sleep(seconds)
        return Figures("idle", {
            "rss_mb": daemon.status("VmRSS") / 1024,
            "wakeups": daemon.status("voluntary_ctxt_switches") - switches,
            "cpu_ms": (daemon.cpu_s() - cpu_s) * 1000,
        }, harness.digest_of("idle"))
