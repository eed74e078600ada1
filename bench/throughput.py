"""Many no-op tasks: in bulk through one worker with 16 slots, and one by one from 64 clients."""

from __future__ import annotations

import time

from bench import harness
from bench.harness import Figures
from bench.load import Connection, flood, head

BULK = 1_000
ROUND = 10_000


def bulk(seconds: float, round_tasks: int = ROUND, kind: str = "python") -> Figures:
    """10,000 tasks by bulk submit, end to end, again and again, by a worker of that kind."""
    size = min(BULK, round_tasks)
    body = b'{"tasks":[' + b",".join([b'{"name":"noop"}'] * size) + b"]}"
    rates = []
    with harness.daemon() as daemon, harness.worker(daemon.url, 16, kind=kind) as worker, \
            Connection(daemon.port) as line, Connection(daemon.port) as watch:
        cpu_s, commits, tasks = daemon.cpu_s(), daemon.commits(), 0
        worker_cpu_s = worker.cpu_s()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            begun = time.monotonic()
            for _ in range(round_tasks // size):
                last = line.call("POST", "/v1/tasks/bulk", body)
            wait_idle(watch, last)
            rates.append(round_tasks / (time.monotonic() - begun))
            tasks += round_tasks
        page = watch.call("GET", "/v1/tasks?state=Succeeded&limit=1000")
        question = "throughput_bulk" if kind == "python" else f"throughput_bulk_{kind}"
        return Figures(question, {
            "rounds": len(rates), "tasks_per_s_p50": harness.median(rates),
            "fsyncs_per_task": (daemon.commits() - commits) / tasks,
            "cpu_us_per_task": (daemon.cpu_s() - cpu_s) / tasks * 1e6,
            "worker_cpu_us_per_task": (worker.cpu_s() - worker_cpu_s) / tasks * 1e6,
        }, harness.digest_of(page.count(b'"Succeeded"')))


def wait_idle(line: Connection, bulk_answer: bytes) -> None:
    """Until the last task of a bulk is over, and with it every one before it."""
    at = bulk_answer.rindex(b'"taskId":"') + 10
    task_id = bulk_answer[at:bulk_answer.index(b'"', at)].decode()
    line.call("GET", f"/v1/tasks/{task_id}", more="Prefer: wait=60\r\n")
    wait_all(line)


def singles(seconds: float, clients: int = 64) -> Figures:
    """64 connections, each submits its next task when the last one was acknowledged."""
    body = b'{"name":"noop"}'
    request = head("POST", "/v1/tasks", len(body)) + body
    with harness.daemon() as daemon, harness.worker(daemon.url, 64), \
            Connection(daemon.port) as line:
        cpu_s, commits = daemon.cpu_s(), daemon.commits()
        begun = time.monotonic()
        deadline = begun + seconds
        count = flood(daemon.port, clients, request, lambda _: time.monotonic() > deadline)
        wait_all(line)
        took_s = time.monotonic() - begun
        page = line.call("GET", "/v1/tasks?state=Succeeded&limit=1000")
        return Figures("throughput_singles", {
            "tasks": count, "tasks_per_s": count / took_s,
            "fsyncs_per_task": (daemon.commits() - commits) / count,
            "cpu_us_per_task": (daemon.cpu_s() - cpu_s) / count * 1e6,
        }, harness.digest_of(page.count(b'"Succeeded"') > 0))


def wait_all(line: Connection) -> None:
    """Until nothing waits or runs."""
    while True:
        if idle(line):
            return
        time.sleep(0.002)       # so that asking does not load what is measured


def idle(line: Connection) -> bool:
    """Whether nothing waits or runs."""
    state = line.json("GET", "/v1/status")
    return bytes(state["pending"]) == bytes(state["running"]) == b"0"
