"""A million tasks and ten thousand runs on disk: how long does each list take?"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import msgspec

from bench import harness
from bench.harness import Daemon, Figures
from bench.load import Connection
from plumd.flow.graph import Graph, RunPlan, Scope
from plumd.model import Ended, Ending, Finish, Submit, TaskError, TaskState
from plumd.store import flows, migrate, tasks

NO_STEPS = Graph("", Scope((), (), {}))
TASKS = 1_000_000
RUNS = 10_000
STEPS = 3
SLICE = 20_000
NAMES = tuple(f"job.{i}" for i in range(50))
WORKERS = tuple(f"worker-{i}" for i in range(40))
STATES = (TaskState.SUCCEEDED,) * 9_000 + (TaskState.FAILED,) * 600 + (TaskState.TIMEOUT,) * 200 + (
    TaskState.CANCELED,) * 199 + (TaskState.QUEUED,)


def fill(path: Path, count: int, runs: int) -> int:
    """By the store's own statements; answers the id of one run."""
    draw = random.Random(1)
    db = migrate.open_writer(path, log_bytes=0)
    db.execute("PRAGMA synchronous=OFF").fetchall()
    now_ms = time.time_ns() // 1_000_000
    workflow, number = 1 << 40, 0
    for begin in range(0, count, SLICE):
        with db:
            created, ended = [], []
            for i in range(begin, min(begin + SLICE, count)):
                at_ms = now_ms - (count - i) * 500
                number = at_ms << 18
                state = draw.choice(STATES)
                run = i // STEPS if i < runs * STEPS else -1
                rare = i == count // 2
                submit = Submit(
                    number, "rare" if rare else draw.choice(NAMES), draw.randrange(3),
                    def_id=1 + draw.randrange(20), run_id=run_id(now_ms, count, run),
                    step=i % STEPS if run >= 0 else -1, payload=b'{"n":1}',
                    labels=(("team", f"t{i % 100}"),) if i % 10 == 0 else ())
                worker = draw.choice(WORKERS) if state > TaskState.QUEUED else None
                created.append((submit, at_ms, int(state), 1, worker, 0, at_ms, at_ms + 900, 0))
                if state >= TaskState.SUCCEEDED:
                    error = None if state == TaskState.SUCCEEDED else TaskError(
                        draw.choice(("exit_status", "lost", "timeout")), f"exit status {i % 7}")
                    ended.append(Ended(
                        number, 1, Ending.FAILED if error else Ending.SUCCEEDED, int(state),
                        worker or "", "n", at_ms, at_ms + 900, "",
                        Finish(number, 1, worker or "", result=b"1", error=error), submit.name,
                        submit.run_id, submit.step, 0))
            tasks.write(db, created, [], ended)
    with db:
        plans = [(RunPlan(run_id(now_ms, count, i), workflow, 1, (), NO_STEPS), now_ms)
                 for i in range(runs)]
        flows.write(db, flows.RunChange(plans, ended=[flows.RunEnd(
            plan.run_id, int(draw.choice(STATES[:-1])), now_ms, ()) for plan, _ in plans]))
    db.close()
    return run_id(now_ms, count, runs // 2)


def run_id(now_ms: int, count: int, number: int) -> int:
    """The id of a run; 0 = none."""
    return 0 if number < 0 else (now_ms - count * 1_000 + number) << 18


def questions(run: int) -> dict[str, str]:
    """What is asked, by the name of its figure."""
    tasks_ = "/v1/tasks?limit=100"
    return {
        "newest": tasks_, "oldest": f"{tasks_}&order=oldest",
        "succeeded": f"{tasks_}&state=Succeeded", "failed": f"{tasks_}&state=Failed",
        "failed_or_timeout": f"{tasks_}&state=Failed,Timeout", "queued": f"{tasks_}&state=Queued",
        "name": f"{tasks_}&name=job.7", "rare_name": f"{tasks_}&name=rare",
        "rare_name_and_state": f"{tasks_}&name=rare&state=Succeeded",
        "name_and_failed": f"{tasks_}&name=job.7&state=Failed",
        "name_and_worker": f"{tasks_}&name=job.7&workerId=worker-3",
        "def": f"{tasks_}&defId=7", "run": f"{tasks_}&runId={run:015x}",
        "label": f"{tasks_}&label=team=t10", "label_and_failed":
            f"{tasks_}&label=team=t10&state=Failed",
        "worker": f"{tasks_}&workerId=worker-3", "no_such_worker": f"{tasks_}&workerId=nobody",
        "executor": f"{tasks_}&executor=service", "error": f"{tasks_}&errorCode=lost",
        "no_such_error": f"{tasks_}&errorCode=none",
        "name_executor_error": f"{tasks_}&name=job.7&executor=service&errorCode=lost",
        "count": "/v1/tasks/count", "count_failed": "/v1/tasks/count?state=Failed",
        "count_worker": "/v1/tasks/count?workerId=worker-3",
        "failures": "/v1/tasks/failures", "runs": "/v1/workflow-runs",
        "runs_failed": "/v1/workflow-runs?state=Failed", "events": "/v1/events/history",
    }


def run(seconds: float, count: int = TASKS, runs: int = RUNS) -> Figures:
    """Each list again and again for its share of the time, on an otherwise idle daemon."""
    with tempfile.TemporaryDirectory(prefix="plum-bench-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        begun = time.monotonic()
        one = fill(data / "plum.db", count, runs)
        values = {"tasks": float(count), "fill_s": time.monotonic() - begun}
        begun = time.monotonic()
        daemon = Daemon(data, harness.free_port())
        values["start_s"] = time.monotonic() - begun
        found = {}
        try:
            asked = questions(one)
            with Connection(daemon.port) as line:
                for name, path in asked.items():
                    times: list[float] = []
                    until = time.monotonic() + seconds / len(asked)
                    while time.monotonic() < until or len(times) < 5:
                        begun = time.monotonic()
                        answer = line.call("GET", path)
                        times.append((time.monotonic() - begun) * 1000)
                    values[f"{name}_p50_ms"] = harness.median(times)
                    values[f"{name}_p99_ms"] = harness.percentile(times, 0.99)
                    decoded = msgspec.json.decode(answer)
                    found[name] = len(decoded) if isinstance(decoded, list) else decoded
        finally:
            daemon.stop()
        return Figures("lists", values, harness.digest_of(
            [found[name] for name in asked if name not in ("events", "failures")]))
