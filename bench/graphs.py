"""Large graphs: one of 2,000 steps, and a map over 100,000 items while others ask; and the flows of
fib(n) that other engines publish."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bench import harness
from bench.harness import Daemon, Figures
from bench.load import Connection, Json
from bench.throughput import wait_all
from bench.worker import fib
from plumd.bodies import StepBody, WorkflowBody
from plumd.flow.compile import compile_graph
from plumd.flow.graph import Graph
from plumd.flow.machine import Machine
from plumd.flow.rules import StepState
from plumd.flow.state import Moves
from plumd.model import Submit

WAIT = "Prefer: wait=600\r\n"


class Inline:
    """Resolves nothing: all tasks are written in their steps."""

    def task(self, step: StepBody, pin: int, where: str) -> Submit:
        """A task by its step's name."""
        del pin, where
        return Submit(0, step.name)

    def workflow(self, reference: str, where: str) -> int:
        """No step of these is a workflow."""
        raise AssertionError(reference, where)


def drawn(count: int, name: str) -> dict[str, object]:
    """A workflow whose steps need up to three of the fifty before them."""
    rng = random.Random(count)
    steps: list[dict[str, object]] = []
    for at in range(count):
        near = range(max(0, at - 50), at)
        needs = rng.sample(near, min(len(near), rng.randint(1, 3)))
        steps.append({"id": f"s{at}", "task": {"name": name},
                      "needs": [f"s{one}" for one in needs]})
    return {"name": f"graph-{count}", "steps": steps}


def begin(line: Connection, body: dict[str, object]) -> str:
    """Where runs of a workflow begin, which is made."""
    made = line.json("POST", "/v1/workflows", msgspec.json.encode(body))
    return f"/v1/workflows/{line.text(made['workflowId'])}?action=run"


def whole(seconds: float, count: int = 2_000) -> Figures:
    """A graph of so many steps, run after run: how long a run takes to be accepted, the whole of it
    on one worker, and what one completion costs the machine."""
    with harness.daemon() as daemon, harness.worker(daemon.url, 64, name="step"), \
            Connection(daemon.port) as line:
        path = begin(line, drawn(count, "step"))
        accepted: list[float] = []
        ran: list[float] = []
        deadline = time.monotonic() + seconds
        over: Json = {}
        while not ran or time.monotonic() < deadline:
            begun = time.monotonic()
            run_id = line.text(line.json("POST", path)["runId"])
            accepted.append((time.monotonic() - begun) * 1000)
            over = line.json("GET", f"/v1/workflow-runs/{run_id}", more=WAIT)
            ran.append((time.monotonic() - begun) * 1000)
        compiled, ends = completions(count)
        return Figures(f"graph_of_{count}", {
            "runs": len(ran), "accepted_p50_ms": harness.median(accepted),
            "accepted_max_ms": max(accepted), "run_p50_ms": harness.median(ran),
            "compile_ms": compiled, "completion_p50_ms": harness.median(ends),
            "completion_p99_ms": harness.percentile(ends, 0.99), "completion_max_ms": max(ends),
        }, harness.digest_of([line.text(over["state"]), bytes(over["steps"]).count(b"Succeeded")]))


def completions(count: int) -> tuple[float, list[float]]:
    """(milliseconds to compile the graph, to decide on each end), in this process."""
    body = msgspec.json.decode(msgspec.json.encode(drawn(count, "step")), type=WorkflowBody)
    begun = time.perf_counter()
    graph = compile_graph(body, Inline())
    compiled = (time.perf_counter() - begun) * 1000
    return compiled, played(graph)


def played(graph: Graph) -> list[float]:
    """The milliseconds of each end of one run."""
    machine, took = Machine(graph, {}, {}), []
    machine.begin(1)
    while not machine.over:
        machine.moves = Moves()
        step = next(iter(machine.live))
        begun = time.perf_counter()
        machine.ended(step, StepState.SUCCEEDED, None, None, 2)
        took.append((time.perf_counter() - begun) * 1000)
    return took


# ---------------------------------------------------------------- a large map

class Asking:
    """Somebody who asks for a page of tasks and adds one, all the time. took_ms: each request."""

    def __init__(self, port: int) -> None:
        self.took_ms: list[float] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.ask, args=(port,))

    def ask(self, port: int) -> None:
        """Until it is over, once at least."""
        body = msgspec.json.encode({"name": "nobody-does-this"})
        with Connection(port) as line:
            while not self.took_ms or not self.over.wait(0.02):
                for method, path, sent in (("GET", "/v1/tasks?limit=20", b""),
                                           ("POST", "/v1/tasks", body)):
                    begun = time.monotonic()
                    line.call(method, path, sent)
                    self.took_ms.append((time.monotonic() - begun) * 1000)


@contextmanager
def asking(port: int) -> Iterator[Asking]:
    """Asks while the block runs."""
    one = Asking(port)
    one.thread.start()
    try:
        yield one
    finally:
        one.over.set()
        one.thread.join()


def peak_mb(daemon: Daemon) -> float:
    """The most memory that it has had."""
    return daemon.status("VmHWM") / 1024


def mapped(seconds: float, count: int = 100_000) -> Figures:
    """One run over so many items, 100 at once: memory, and what others wait meanwhile."""
    del seconds
    with harness.daemon() as daemon, harness.worker(daemon.url, 100, name="item"), \
            Connection(daemon.port) as line:
        path = begin(line, {"name": "map", "steps": [
            {"id": "each", "type": "map", "items": count, "concurrency": 100,
             "body": [{"id": "one", "task": {"name": "item"}, "payload": "${item}"}]}]})
        line.call("POST", begin(line, {"name": "warm", "steps": [{"task": {"name": "item"}}]}),
                  more=WAIT)
        before, begun = peak_mb(daemon), time.monotonic()
        with asking(daemon.port) as others:
            over = line.json("POST", path, more=WAIT)
        took_s = time.monotonic() - begun
        return Figures(f"map_of_{count}", {
            "took_s": took_s, "items_per_s": count / took_s,
            "memory_more_mb": peak_mb(daemon) - before,
            "others_p50_ms": harness.median(others.took_ms),
            "others_p99_ms": harness.percentile(others.took_ms, 0.99),
            "others_max_ms": max(others.took_ms),
        }, harness.digest_of([line.text(over["state"])]))


# ---------------------------------------------------------------- what others publish

def ran_ms(line: Connection, path: str) -> float:
    """Milliseconds of one run; it must succeed."""
    begun = time.monotonic()
    over = line.json("POST", path, more=WAIT)
    if line.text(over["state"]) != "Succeeded":
        raise OSError(f"the run is {line.text(over['state'])}")
    return (time.monotonic() - begun) * 1000


class Chain:
    """Runs of one workflow on one worker: how long each took, and how much of that was work, which
    the worker's own clock says: a core is not equally fast at all times, nor is each.
    """

    def __init__(self, line: Connection, path: str) -> None:
        self._line = line
        self._path = path
        self._spent_ms = 0.0
        self.took_ms: list[float] = []
        self.worked_ms: list[float] = []

    def run(self) -> None:
        """One more."""
        begun = time.monotonic()
        over = self._line.json("POST", self._path, more=WAIT)
        self.took_ms.append((time.monotonic() - begun) * 1000)
        steps = msgspec.json.decode(over["steps"], type=list[Json])
        last = self._line.json("GET", "/v1/tasks/" + self._line.text(steps[-1]["taskId"]))
        spent_ms = msgspec.json.decode(last["result"], type=float)
        self.worked_ms.append(spent_ms - self._spent_ms)
        self._spent_ms = spent_ms

    def begin(self) -> None:
        """A first run, which counts for nothing."""
        self.run()
        self.took_ms.clear()
        self.worked_ms.clear()

    @property
    def overhead_ms(self) -> float:
        """What is not the work itself: the median."""
        return harness.median([took - worked for took, worked in zip(
            self.took_ms, self.worked_ms, strict=True)])


def fibs(seconds: float, large: int = 33, workers: int = 10) -> Figures:
    """40 of fib(10) and 10 of fib(large) in a row on one worker; 400 of fib(10) side by side over
    so many. overhead: what is not the work itself."""
    with harness.daemon() as daemon, Connection(daemon.port) as line:
        step = {"task": {"name": "fib"}}
        chain = {count: [step | {"payload": n}] * count for count, n in ((40, 10), (10, large))}
        paths = {count: begin(line, {"name": f"chain-{count}", "steps": steps})
                 for count, steps in chain.items()}
        fan = begin(line, {"name": "fan", "steps": [
            {"id": "each", "type": "map", "items": 400, "concurrency": 400,
             "body": [{"id": "one", "task": {"name": "fib"}, "payload": 10}]}]})
        with harness.worker(daemon.url, 1, name="fib", mode="fib"):
            short = Chain(line, paths[40])
            short.begin()
            deadline = time.monotonic() + seconds / 2
            while not short.took_ms or time.monotonic() < deadline:
                short.run()
            long = Chain(line, paths[10])
            long.begin()
            for _ in range(3):
                long.run()
        with many_workers(daemon, workers, "fib"):
            ran_ms(line, fan)
            fans = [ran_ms(line, fan) for _ in range(5)]
        return Figures("fib", {
            "runs": len(short.took_ms), "chain_of_40_p50_ms": harness.median(short.took_ms),
            "chain_of_40_overhead_ms": short.overhead_ms,
            f"10_of_fib_{large}_s": harness.median(long.took_ms) / 1000,
            "overhead_ratio": long.overhead_ms / harness.median(long.worked_ms),
            f"400_over_{workers}_workers_ms": harness.median(fans),
        }, harness.digest_of(fib(10)))


@contextmanager
def many_workers(daemon: Daemon, count: int, mode: str) -> Iterator[None]:
    """So many worker processes of one slot."""
    if count == 0:
        yield
        return
    with harness.worker(daemon.url, 1, name="fib", mode=mode), \
            many_workers(daemon, count - 1, mode):
        yield


def sleeps(seconds: float, count: int = 10_000, slots: int = 100) -> Figures:
    """So many tasks that sleep 0.1 s on so many slots: how near that is to the ideal."""
    del seconds
    with harness.daemon() as daemon, Connection(daemon.port) as line, \
            harness.worker(daemon.url, slots, name="sleep", mode="sleep"):
        body = b'{"tasks":[' + b",".join([b'{"name":"sleep"}'] * count) + b"]}"
        begun = time.monotonic()
        line.call("POST", "/v1/tasks/bulk", body)
        wait_all(line)
        took_ms = (time.monotonic() - begun) * 1000
        return Figures("sleeps", {"tasks": count, "took_s": took_ms / 1000,
                                  "share_of_ideal": count / slots * 100 / took_ms},
                       harness.digest_of(count))
