"""Schedules that all fire in one second, what that does to others, and what idle ones cost."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import msgspec

from bench import harness
from bench.harness import Daemon, Figures
from bench.load import Connection


def fill(daemon: Daemon, count: int, body: dict[str, object], next_ms: int) -> None:
    """So many schedules, written while the daemon is away: making them is not the question."""
    with sqlite3.connect(daemon.data / "plum.db") as db:
        first = db.execute("SELECT coalesce(max(id), 0) + 1 FROM schedules").fetchone()[0]
        now = time.time_ns() // 1_000_000
        ids = range(first, first + count)
        db.executemany("INSERT INTO schedules (id, name, version, body, created_ms, updated_ms) "
                       "VALUES (?,?,1,?,?,?)", [
            (one, f"s{one}", msgspec.json.encode({**body, "name": f"s{one}"}), now, now)
            for one in ids])
        zones = db.execute("SELECT zones FROM schedule_plans LIMIT 1").fetchone()[0]
        db.executemany("INSERT INTO schedule_plans VALUES (?,1,0,0,?,?,?)", [
            (one, next_ms, next_ms, zones) for one in ids])
    db.close()


def wait_until(moment_ms: int) -> None:
    """Sleep until a time of the wall."""
    time.sleep(max(0.0, moment_ms / 1000 - time.time()))   # the moment of the storm itself


def storm(seconds: float, count: int = 20_000, kind: str = "workflow") -> Figures:
    """All fire at the same second; meanwhile another client submits and looks."""
    with harness.daemon() as daemon:
        with Connection(daemon.port) as line:
            step = line.text(line.json("POST", "/v1/task-defs", msgspec.json.encode(
                {"name": "storm-step", "executor": "embedded"}))["defId"])
            flow = line.text(line.json("POST", "/v1/workflows", msgspec.json.encode(
                {"name": "storm", "steps": [{"definitionId": step}]}))["workflowId"])
            what = {"workflowId": flow} if kind == "workflow" else {"defId": step}
            line.call("POST", "/v1/schedules", msgspec.json.encode(
                {"name": "first", "cron": "0 0 1 1 *", **what}))
        daemon.stop()
        wait_s = 6 + count / 10_000
        moment = (int(time.time() + wait_s)) * 1000
        at = time.gmtime(moment / 1000)
        fill(daemon, count, {"cron": f"{at.tm_sec} {at.tm_min} {at.tm_hour} * * *", **what},
             moment)
        daemon.start()
        times = []
        wait_until(moment - 200)
        with Connection(daemon.port) as line:
            begun, made_s, deadline = moment / 1000, 0.0, time.time() + max(seconds, 30)
            while time.time() < deadline:
                asked = time.perf_counter()
                line.call("POST", "/v1/tasks", b'{"name": "other"}')
                times.append((time.perf_counter() - asked) * 1000)
                if started(daemon.data) >= count:
                    made_s = time.time() - begun
                    break
                time.sleep(0.01)    # looking itself must not be the load that is measured
        rows = started(daemon.data)
        return Figures("schedules_storm", {
            "schedules": rows, "all_started_s": made_s, "other_p50_ms": harness.median(times),
            "other_p99_ms": harness.percentile(times, 0.99), "other_max_ms": max(times),
            "rss_mb": daemon.status("VmRSS") / 1024,
        }, harness.digest_of([rows, made_s > 0]))


def started(data: Path) -> int:
    """How many slots have their run, as another reader of the database sees it."""
    with sqlite3.connect(f"file:{data / 'plum.db'}?mode=ro", uri=True) as db:
        found = db.execute("SELECT count(*), count(DISTINCT schedule_id) FROM fires "
                           "WHERE state = 1").fetchone()
    db.close()
    assert found[0] == found[1], "a schedule fired twice"
    return int(found[0])


def idle(seconds: float, count: int = 100_000) -> Figures:
    """So many schedules that have nothing to do for long."""
    with harness.daemon() as daemon:
        with Connection(daemon.port) as line:
            step = line.text(line.json("POST", "/v1/task-defs", msgspec.json.encode(
                {"name": "idle-step", "executor": "embedded"}))["defId"])
            line.call("POST", "/v1/schedules", msgspec.json.encode(
                {"name": "first", "cron": "0 0 1 1 *", "defId": step}))
        before_kb = daemon.status("VmRSS")
        daemon.stop()
        far = time.time_ns() // 1_000_000 + 86_400_000
        fill(daemon, count, {"cron": "0 0 1 1 *", "defId": step}, far)
        begun = time.monotonic()
        daemon.start()
        start_s = time.monotonic() - begun
        cpu_s, switches = daemon.cpu_s(), daemon.status("voluntary_ctxt_switches")
        time.sleep(seconds)     # the window: nothing is waited for
        return Figures("schedules_idle", {
            "schedules": count, "start_s": start_s,
            "cpu_ms_per_s": (daemon.cpu_s() - cpu_s) / seconds * 1000,
            "wakeups_per_s": (daemon.status("voluntary_ctxt_switches") - switches) / seconds,
            "rss_mb": daemon.status("VmRSS") / 1024, "rss_mb_without": before_kb / 1024,
        }, harness.digest_of(count))
