"""One seed: a daemon that is killed and whose disk fails, workers that come and go, clients that
are told the truth or nothing. Then the faults stop, and everything must come to its end."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import cast

import msgspec
import trio
import trio.testing

from plumd.api.routes import Request
from plumd.bodies import StepBody, TaskDefBody, WorkflowBody
from plumd.carrier import BuiltinCarrier
from plumd.clock import Instant
from plumd.engine import Ask, Engine
from plumd.errors import PlumError
from plumd.flow import BeginRun, CancelRun, RunPlan
from plumd.model import BUILTIN_POOL, Cancel, Join, Limits, Submit, TaskState, WorkerKind, id_text
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.sdk.messages import MessageSocket
from plumd.store import definitions, flows, tasks
from plumd.store.blobs import Blobs
from plumd.store.definitions import TASK_DEFS, WORKFLOWS, Catalog
from plumd.store.flows import RunRow
from plumd.store.store import Change
from plumd.stream.websocket import Streams
from tests.sim.disk import FaultyStore, Killed, Truth
from tests.sim.fleet import SimWorker, Starts

EPOCH_NS = 1_700_000_000 * 10**9
LIMITS = Limits(backoff_base_ms=200, backoff_cap_ms=2_000, stop_grace_ms=1_000)
NAMES = ("a", "b", "builtin.echo", "builtin.delay")
SHM = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


class SimClock:
    """Trio's virtual time, on both clocks; that of the wall can be set."""

    def __init__(self) -> None:
        self.set_ns = 0

    def now(self) -> Instant:
        now_ns = round(trio.current_time() * 1e9)
        return Instant(now_ns, EPOCH_NS + now_ns + self.set_ns)


GRAPH = b"""{"name": "graph", "steps": [
    {"id": "first", "definitionId": "STEP"},
    {"id": "either", "type": "branch", "condition": "true", "needs": ["first"]},
    {"id": "each", "type": "map", "items": [1, 2, 3], "concurrency": 2,
     "needs": [{"step": "either", "on": "true"}],
     "body": [{"id": "work", "definitionId": "STEP"}, {"id": "meet", "type": "parallel"}]},
    {"id": "rest", "type": "wait", "seconds": 0.4},
    {"id": "last", "type": "parallel", "needs": ["each", "rest"], "triggerRule": "all_done"}]}"""
"""A definition, decided, repeated side by side, while time passes, and brought together."""


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = Random(seed)
        self.clock = SimClock()
        self.folder = folder
        self.truth = Truth()
        self.starts = Starts()
        self.workers = [SimWorker(f"w{n}", names, self.rng, self.starts) for n, names in
                        enumerate((["a"], ["a", "b"], ["b", "step"]))]
        self.asks: list[tuple[Ask, list[int], list[int]]] = []
        self.accepted: set[int] = set()
        self.accepted_runs: set[int] = set()
        self.known_ids: list[int] = []
        self.known_runs: list[int] = []
        self.plan_steps: tuple[Submit, ...] = ()
        self.workflow_id = 0
        self.graph_id = 0
        self.lives = 0
        self.trace: list[str] = []
        self.engine: Engine
        self.store: FaultyStore
        self.streams: Streams
        self.lines: trio.Nursery
        self.dead = False

    # ------------------------------------------------------------ the daemon's lives

    async def live(self, steps: int) -> None:
        """Lives of the daemon, one after another, until so many steps were taken."""
        done = 0
        while done < steps or self.dead:
            done = await self.one_life(done, steps)

    async def one_life(self, done: int, steps: int) -> int:
        self.dead = False
        self.lives += 1
        self.build()
        try:
            async with trio.open_nursery() as nursery:
                self.lines = nursery
                nursery.start_soon(self.run_engine, nursery.cancel_scope)
                while done < steps and not self.dead:
                    await self.step()
                    done += 1
                if done >= steps and not self.dead:
                    await self.come_to_rest()
                nursery.cancel_scope.cancel()
        finally:
            self.store.close()
            for worker in self.workers:
                worker.hang_up()
        return done

    def build(self) -> None:
        """A fresh process on the same disk; who asked the old one never learns."""
        self.asks = []
        clock = self.clock
        self.store = FaultyStore(self.folder / "plum.db", clock, self.truth)
        catalog = Catalog(self.store)
        planner = Planner(catalog)
        outbox = Outbox(self.store)
        local = Join("local:builtin", WorkerKind.LOCAL, "", (BUILTIN_POOL,), capacity=1_000)
        self.engine = Engine(self.store, clock, outbox, planner, LIMITS,
                             self.rng.getrandbits(64), [local])
        blobs = Blobs(self.folder / "blobs")
        outbox.register("local:builtin", BuiltinCarrier(self.engine, blobs))
        self.streams = Streams(self.engine, blobs)
        self.planner = planner
        if not self.workflow_id:
            self.define()

    def define(self) -> None:
        """A workflow of three steps, written before anything fails."""
        body = TaskDefBody("step", max_retries=1)
        number, self.workflow_id = self.engine.new_id(), self.engine.new_id()
        flow = WorkflowBody("flow", (StepBody(id_text(number)),) * 3)
        graph = msgspec.json.decode(GRAPH.replace(b"STEP", id_text(number).encode()),
                                    type=WorkflowBody)
        self.graph_id = self.engine.new_id()
        self.store.commit_now(Change(0, calls=[
            lambda tx: definitions.create(tx, TASK_DEFS, number, body),
            lambda tx: definitions.create(tx, WORKFLOWS, self.workflow_id, flow),
            lambda tx: definitions.create(tx, WORKFLOWS, self.graph_id, graph)]))
        self.engine.journal.next_seq = self.store.next_seq

    async def run_engine(self, life: trio.CancelScope) -> None:
        try:
            await self.engine.run()
        except Killed:
            self.dead = True
            life.cancel()

    # ------------------------------------------------------------ one step

    async def step(self) -> None:
        """Something happens, and a little time passes."""
        deeds = (
            (30, self.submit), (6, self.cancel), (30, self.work), (8, self.begin_run),
            (2, self.cancel_run), (5, self.break_line), (2, self.restart_worker),
            (3, self.disk_fault), (2, self.kill), (4, self.pause),
            (1, self.set_clock))
        deed = self.rng.choices([one for _, one in deeds], [weight for weight, _ in deeds])[0]
        self.trace.append(deed.__name__)
        deed()
        await self.pass_time(self.rng.choice((0.0, 0.01, 0.05, 0.3)))
        if self.rng.random() < 0.1 and not self.engine.down and not self.dead:
            self.engine.core.check(at_rest=True)

    async def pass_time(self, seconds: float) -> None:
        """Let everybody talk."""
        await trio.sleep(seconds)
        await trio.testing.wait_all_tasks_blocked()
        now = trio.current_time()
        for worker in self.workers:
            worker.listen(now)
            if worker.line is None:
                if self.rng.random() < 0.5 and not self.dead:
                    line = worker.dial(now)
                    self.lines.start_soon(self.serve, line, worker.name)
            elif now - worker.last_word >= 1.0:
                worker.beat(now)
        self.settle_asks()

    async def serve(self, line: object, name: str) -> None:
        request = Request("GET", "/", {"id": name}, {}, {}, b"")
        await self.streams.serve(cast("MessageSocket", line), name, request)

    def settle_asks(self) -> None:
        """What the daemon has acknowledged by now."""
        open_asks = []
        for ask, ids, run_ids in self.asks:
            if not ask.done.is_set():
                open_asks.append((ask, ids, run_ids))
            elif ask.error is None:
                assert all(reply.ok for reply in ask.replies)
                self.accepted.update(ids)
                self.accepted_runs.update(run_ids)
        self.asks = open_asks

    def post(self, commands: list[Submit] | list[BeginRun], ids: list[int],
             run_ids: list[int]) -> None:
        try:
            self.asks.append((self.engine.post(commands), ids, run_ids))
        except PlumError:
            return
        self.known_ids.extend(ids)
        self.known_runs.extend(run_ids)

    def submit(self) -> None:
        commands = []
        for _ in range(self.rng.randint(1, 3)):
            name = self.rng.choice(NAMES)
            commands.append(Submit(
                self.engine.new_id(), name, max_retries=self.rng.randint(0, 2),
                priority=self.rng.randint(0, 9), on_lost=int(self.rng.random() < 0.1),
                timeout_ms=self.rng.choice((0, 0, 2_000)),
                queue_timeout_ms=self.rng.choice((0, 0, 0, 3_000)),
                payload=b'{"seconds":0.5}' if name == "builtin.delay" else b"1"))
        self.post(commands, [one.task_id for one in commands], [])

    def begin_run(self) -> None:
        run_id = self.engine.new_id()
        workflow_id = self.rng.choice((self.workflow_id, self.graph_id))
        plan: RunPlan = self.planner.plan(run_id, workflow_id, None)
        self.post([BeginRun(plan)], [], [run_id])

    def cancel(self) -> None:
        if self.known_ids:
            self.command(Cancel(self.rng.choice(self.known_ids)))

    def cancel_run(self) -> None:
        if self.known_runs:
            self.command(CancelRun(self.rng.choice(self.known_runs)))

    def command(self, command: Cancel | CancelRun) -> None:
        try:
            self.engine.post([command])
        except PlumError:
            return

    def work(self) -> None:
        self.rng.choice(self.workers).work(trio.current_time())

    def break_line(self) -> None:
        self.rng.choice(self.workers).hang_up()

    def restart_worker(self) -> None:
        self.rng.choice(self.workers).restart()

    def set_clock(self) -> None:
        """By a person or by NTP."""
        self.clock.set_ns += self.rng.choice((-3_600_000, -500, 200, 3_600_000)) * 1_000_000

    def pause(self) -> None:
        """A worker is silent past its lease."""
        worker = self.rng.choice(self.workers)
        worker.last_word = trio.current_time() + 5

    def disk_fault(self) -> None:
        self.store.fault = self.rng.choice(
            ("error_before", "error_after", "die_before", "die_after"))

    def kill(self) -> None:
        self.dead = True

    # ------------------------------------------------------------ and then all is well

    async def come_to_rest(self) -> None:
        """No faults any more: every task and run must reach its end."""
        self.store.fault = ""
        for _ in range(4_000):
            for worker in self.workers:
                worker.work(trio.current_time(), well=True)
            await self.pass_time(0.25)
            if self.dead:
                raise AssertionError("the daemon died without a fault")
            if not (self.engine.down or self.asks or sum(self.engine.core.counts_by_state())
                    or self.engine.runs.live):
                break
        else:
            waiting = self.engine.core.counts_by_state()
            for name in ("local:builtin", "w0", "w1", "w2"):
                held = self.engine.core.held_by(name)
                if held:
                    self.trace.append(f"{name} holds {[(hex(one), n) for one, n in held]}")
                    print(name, held, self.engine.core.worker_view(name), trio.current_time())
            raise AssertionError(f"not everything ended: {waiting} {self.engine.down!r} "
                                 f"{len(self.asks)} {list(self.engine.runs.live)}")
        self.engine.core.check(at_rest=True)
        self.audit()

    def audit(self) -> None:
        """Nothing acknowledged is lost, and the disk tells what was told."""
        store = self.store
        for task_id in self.accepted:
            row = store.peek(tasks.get, task_id)
            assert row is not None, f"the acknowledged task {task_id:x} is lost"
            assert row.state >= TaskState.SUCCEEDED
            assert self.truth.over[task_id] == row.state, "the disk says otherwise"
        for run_id in self.accepted_runs:
            run = store.peek(flows.get, run_id)
            assert run is not None, f"the acknowledged run {run_id:x} is lost"
            assert run.state >= TaskState.SUCCEEDED
            assert run.steps is not None
            assert self.truth.runs[run_id] == run.state
            if run.workflow_id == self.graph_id:
                self.audit_graph(run)
            elif run.state == TaskState.SUCCEEDED:
                assert [end.state for end in run.steps] == [TaskState.SUCCEEDED] * 3

    def audit_graph(self, run: RunRow) -> None:
        """Every step of a graph has an end, and every round of its map is there once."""
        assert run.steps is not None
        assert len(run.steps) == 5
        if run.cancel_ms:
            return
        assert all(end.state >= TaskState.SUCCEEDED for end in run.steps)
        first, either, each, rest, last = (end.state for end in run.steps)
        assert (either == TaskState.SUCCEEDED) == (first == TaskState.SUCCEEDED)
        rounds = [step for step in self.store.peek(flows.seeds, run.id).values() if step.step >= 5]
        if each == TaskState.SUCCEEDED:
            assert len(rounds) == 6
            assert {step.state for step in rounds} == {TaskState.SUCCEEDED}
        assert rest == TaskState.SUCCEEDED
        assert last == TaskState.SUCCEEDED, "all_done runs whatever happened"

    def fingerprint(self) -> tuple[int, int, int]:
        """(tasks made, over, attempts begun): equal for equal seeds."""
        return len(self.truth.created), len(self.truth.over), len(self.starts.count)


async def play(seed: int, steps: int) -> World:
    """Run one seed. Raises AssertionError when a promise is broken."""
    folder = Path(tempfile.mkdtemp(prefix="plum-sim-", dir=SHM))
    world = World(seed, folder)
    try:
        await world.live(steps)
    except AssertionError as error:
        error.add_note(f"replay with: python -m tests.sim {seed} --steps {steps}")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return world


def run_seed(seed: int, steps: int = 500) -> World:
    """One seed in virtual time, with Trio's scheduler made to follow the seed too."""
    vars(trio._core._run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    trio._core._run._r.seed(seed)
    clock = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(play, seed, steps, clock=clock)

