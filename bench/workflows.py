"""Sequential workflows: many of 3 steps side by side, and one of 40."""

from __future__ import annotations

import time

import msgspec

from bench import harness
from bench.harness import Figures
from bench.load import Connection, flood, head


def make(line: Connection, name: str, steps: int) -> str:
    """A workflow of so many no-op steps; answers its id."""
    made = line.json("POST", "/v1/task-defs", msgspec.json.encode({"name": f"{name}-step",
                     "executor": "embedded"}))
    step = {"definitionId": line.text(made["defId"])}
    flow = line.json("POST", "/v1/workflows",
                     msgspec.json.encode({"name": name, "steps": [step] * steps}))
    return line.text(flow["workflowId"])


def many(seconds: float, clients: int = 16) -> Figures:
    """Runs of 3 steps, 16 at once, each waited for by its client."""
    with harness.daemon() as daemon, \
            harness.worker(daemon.url, 16, name="many-step"), Connection(daemon.port) as line:
        workflow_id = make(line, "many", 3)
        request = head("POST", f"/v1/workflows/{workflow_id}?action=run", 0,
                       "Prefer: wait=30\r\n")
        flood(daemon.port, clients, request, lambda done: done >= 100)
        cpu_s, commits, begun = daemon.cpu_s(), daemon.commits(), time.monotonic()
        deadline = begun + seconds
        count = flood(daemon.port, clients, request, lambda _: time.monotonic() > deadline)
        took_s = time.monotonic() - begun
        page = line.call("GET", "/v1/workflow-runs?state=Succeeded&limit=1000")
        return Figures("workflows_of_3", {
            "runs": count, "workflows_per_s": count / took_s,
            "fsyncs_per_workflow": (daemon.commits() - commits) / count,
            "cpu_us_per_workflow": (daemon.cpu_s() - cpu_s) / count * 1e6,
        }, harness.digest_of(page.count(b'"Succeeded"') > 0))


def long(seconds: float, steps: int = 40) -> Figures:
    """One run of 40 steps at a time."""
    with harness.daemon() as daemon, \
            harness.worker(daemon.url, 4, name="long-step"), Connection(daemon.port) as line:
        workflow_id = make(line, "long", steps)
        path, wait = f"/v1/workflows/{workflow_id}?action=run", "Prefer: wait=30\r\n"
        line.call("POST", path, more=wait)
        times, deadline = [], time.monotonic() + seconds
        cpu_s, commits = daemon.cpu_s(), daemon.commits()
        last: dict[str, msgspec.Raw] = {}
        while time.monotonic() < deadline:
            begun = time.monotonic()
            last = line.json("POST", path, more=wait)
            times.append((time.monotonic() - begun) * 1000)
        return Figures("workflow_of_40", {
            "runs": len(times), "p50_ms": harness.median(times),
            "p99_ms": harness.percentile(times, 0.99),
            "fsyncs_per_step": (daemon.commits() - commits) / len(times) / steps,
            "cpu_us_per_step": (daemon.cpu_s() - cpu_s) / len(times) / steps * 1e6,
        }, harness.digest_of([line.text(last["state"]), bytes(last["steps"]).count(b"stepId")]))
