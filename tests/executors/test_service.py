"""Service tasks: which endpoint is called, with what, and what becomes of its answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import trio
import trio.testing

from plumd.balance import Endpoint
from plumd.carrier import LocalCarrier
from plumd.clock import SystemClock
from plumd.engine import Engine
from plumd.executors import Attempt, Outcome, Stop
from plumd.executors.checks import Checks
from plumd.executors.grpc_client import GrpcClient
from plumd.executors.outgoing import BODY_BYTES_MAX
from plumd.executors.service import Service
from plumd.model import (
    SERVICE_POOL,
    Ending,
    Join,
    Kind,
    Limits,
    Submit,
    TaskState,
    WorkerKind,
    id_text,
)
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.services import Registry, Verdict
from plumd.store import tasks
from plumd.store.blobs import Blobs
from plumd.store.definitions import Catalog
from plumd.store.store import Change, Store, Tx, Written
from tests.executors.farside import Call, Caller, FarSide, far_side, refusing_port, replying, silent

T = TypeVar("T")


class Rig:
    """The executor over a registry, without an engine."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path / "plum.db")
        self.registry = Registry(self.store, SystemClock(), self.write, 3600, draw=lambda: 0)
        self.service = Service(Caller(), self.registry)

    async def write(self, fn: Callable[[Tx], T], /,
                    then: Callable[[Written], None] | None = None) -> T:
        """As the engine does it."""
        assert then is None
        await trio.lowlevel.checkpoint()
        values = self.store.commit_now(Change(1, events=[], calls=[fn])).values
        return values[0]  # type: ignore[return-value]  # fn's own

    async def add(self, instance: str, port: int, protocol: str = "http", version: str = "",
                  **labels: str) -> Endpoint:
        """Register an endpoint of s on loopback."""
        one = Endpoint("s", instance, "127.0.0.1", port, protocol, "", version, labels)
        await self.registry.register(instance, [one])
        return one

    async def run(self, labels: Mapping[str, str] | None = None, stop: Stop | None = None, *,
                  resumed: bool = False) -> Outcome:
        """Carry out the second attempt of a task with these labels."""
        attempt = Attempt(0xABC, 2, "job", b'{"x": 1}', "service", "s", labels or {},
                          resumed=resumed)
        return await self.service.run(attempt, stop or Stop())


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """An executor with an empty registry."""
    made = Rig(tmp_path)
    yield made
    made.store.close()


def code_of(outcome: Outcome) -> str:
    """The error's code."""
    assert outcome.error is not None
    return outcome.error.code


def detail_of(outcome: Outcome) -> dict[str, object]:
    """error.detail."""
    assert outcome.error is not None
    assert isinstance(outcome.error.detail, msgspec.Raw)
    detail: dict[str, object] = json.loads(bytes(outcome.error.detail))
    return detail


async def test_what_a_service_gets_and_what_becomes_of_its_answer(rig: Rig) -> None:
    async with far_side(replying(200, b'{"y": 2}')) as side:
        await rig.add("i", side.port)
        outcome = await rig.run({"servicePath": "/api/execute?mode=fast"})
    assert (outcome.ending, outcome.result) == (Ending.SUCCEEDED, b'{"y": 2}')
    [call] = side.calls
    assert (call.method, call.path, call.body) == ("POST", "/api/execute?mode=fast", b'{"x": 1}')
    assert call.headers["content-type"] == "application/json"
    assert call.headers["x-plum-task-id"] == id_text(0xABC)
    assert call.headers["x-plum-attempt"] == "2"
    assert call.headers["idempotency-key"] == id_text(0xABC) + ".2"


async def test_the_path_has_a_default_and_the_method_a_label(rig: Rig) -> None:
    async with far_side(replying(200, b"text")) as side:
        await rig.add("i", side.port)
        assert (await rig.run()).result == b'"text"'
        await rig.run({"serviceMethod": "get", "servicePath": "state"})
        await rig.run({"serviceMethod": "put"})
    assert [(call.method, call.path, call.body) for call in side.calls] == [
        ("POST", "/", b'{"x": 1}'), ("GET", "/state", b""), ("PUT", "/", b'{"x": 1}')]


@pytest.mark.parametrize(("labels", "code"), [
    ({"serviceProtocol": "ftp"}, "unsupported_protocol"),
    ({"serviceStrategy": "best"}, "unsupported_strategy"),
    ({"serviceMethod": "STEAL"}, "unsupported_method"),
])
async def test_what_is_not_served_fails_for_good(
        rig: Rig, labels: dict[str, str], code: str) -> None:
    outcome = await rig.run(labels)
    assert (outcome.ending, code_of(outcome), outcome.retryable) == (Ending.FAILED, code, False)


@pytest.mark.parametrize(("status", "retryable", "after_ms"), [
    (400, False, 0), (404, False, 0), (409, False, 0), (408, True, 0), (425, True, 0),
    (429, True, 9_000), (500, True, 0), (502, True, 0), (503, True, 9_000), (302, True, 0),
])
async def test_statuses_and_whether_they_are_worth_another_try(
        rig: Rig, status: int, retryable: bool, after_ms: int) -> None:
    async with far_side(replying(status, b"why", "Retry-After: 9")) as side:
        await rig.add("i", side.port)
        outcome = await rig.run()
    assert (code_of(outcome), outcome.retryable, outcome.retry_after_ms) == (
        "http_status", retryable, after_ms)
    assert detail_of(outcome) == {"url": side.url(), "status": status, "body": "why",
                                  "instance": "i"}
    assert outcome.error is not None
    for part in ("i", f"127.0.0.1:{side.port}", str(status), "why"):
        assert part in outcome.error.message
    assert len(side.calls) == 1, "an answer is an answer: nobody else is asked"


async def test_nobody_is_there(rig: Rig) -> None:
    outcome = await rig.run()
    assert (outcome.ending, code_of(outcome), outcome.retryable) == (
        Ending.FAILED, "no_endpoint", True)
    await rig.add("a", 1, version="1")
    await rig.add("b", 2, version="2")
    await rig.add("g", 3, "grpc", version="2")
    rig.registry.beat("b", [Verdict("s", "", 0, "", healthy=False)])
    outcome = await rig.run({"serviceVersion": "2"})
    assert outcome.error is not None
    assert outcome.error.message == (
        "service 's' has no healthy endpoint that fits: 3 registered, 1 with the wanted protocol, "
        "version and port, 1 of these unhealthy")


async def test_labels_choose_the_endpoints(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        old, new = [await stack.enter_async_context(far_side(replying(200))) for _ in range(2)]
        await rig.add("old", old.port, version="1")
        await rig.add("new", new.port, "HTTP", version="2")
        for labels in ({"serviceVersion": "2"}, {"servicePort": str(new.port)},
                       {"serviceVersion": "2", "serviceProtocol": "http"}):
            for _ in range(2):
                assert (await rig.run(labels)).ending == Ending.SUCCEEDED
        assert (len(old.calls), len(new.calls)) == (0, 6)
        assert code_of(await rig.run({"serviceProtocol": "https"})) == "no_endpoint"


async def test_calls_are_spread_by_load(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        sides = [await stack.enter_async_context(far_side(replying(200))) for _ in range(3)]
        for number, side in enumerate(sides):
            await rig.add(f"i{number}", side.port)
        for _ in range(9):
            await rig.run()
        assert [len(side.calls) for side in sides] == [3, 3, 3]


async def test_a_stuck_endpoint_gets_no_more_than_its_share(rig: Rig) -> None:
    async with far_side(silent) as stuck, far_side(replying(200)) as side:
        await rig.add("stuck", stuck.port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.run)
            await stuck.asked.wait()
            await rig.add("well", side.port)
            for _ in range(5):
                assert (await rig.run()).ending == Ending.SUCCEEDED
            nursery.cancel_scope.cancel()
    assert (len(stuck.calls), len(side.calls)) == (1, 5)


async def test_an_unreachable_endpoint_makes_way_for_the_next_one(rig: Rig) -> None:
    async with far_side(replying(200)) as side:
        await rig.add("dead", await refusing_port())
        await rig.add("dead-too", await refusing_port())
        await rig.add("well", side.port)
        for _ in range(4):
            assert (await rig.run()).ending == Ending.SUCCEEDED
    assert len(side.calls) == 4
    dead = rig.registry._live[next(key for key in rig.registry._live if key[1] == "dead")]
    assert dead.load.turn == 1, "a suspect is not asked again at once"


async def test_each_endpoint_is_tried_once_when_all_are_dead(rig: Rig) -> None:
    for number in range(3):
        await rig.add(f"i{number}", await refusing_port())
    outcome = await rig.run()
    assert (outcome.ending, code_of(outcome), outcome.retryable) == (
        Ending.FAILED, "unreachable", True)
    assert [live.load.turn for live in rig.registry._live.values()] == [1, 1, 1]
    assert [live.load.in_flight for live in rig.registry._live.values()] == [0, 0, 0]


async def test_a_call_that_was_received_is_not_given_to_another(rig: Rig) -> None:
    async def die(_stream: trio.SocketStream, _call: Call) -> bool:
        return False

    async with far_side(die) as side, far_side(replying(200)) as other:
        await rig.add("a", side.port)
        with rig.registry.calling(await rig.add("b", other.port)):
            outcome = await rig.run()
    assert outcome.ending == Ending.LOST
    assert code_of(outcome) == "connection_lost"
    assert detail_of(outcome)["instance"] == "a"
    assert (len(side.calls), len(other.calls)) == (1, 0)


async def test_an_endpoint_at_a_forbidden_address_is_not_called(rig: Rig) -> None:
    await rig.registry.register("i", [Endpoint("s", "i", "169.254.169.254", 80, "http")])
    outcome = await rig.run()
    assert (code_of(outcome), outcome.retryable) == ("refused_address", False)


@pytest.mark.parametrize(("reason", "ending"), [
    ("canceled", Ending.CANCELED), ("timeout", Ending.TIMEOUT)])
async def test_a_stop_closes_the_connection(rig: Rig, reason: str, ending: Ending) -> None:
    async def reading(_stream: trio.SocketStream, _call: Call) -> bool:
        return True

    stop, outcomes = Stop(), []

    async def run() -> None:
        outcomes.append(await rig.run(None, stop))

    async with far_side(reading) as side, trio.open_nursery() as nursery:
        await rig.add("i", side.port)
        nursery.start_soon(run)
        await side.asked.wait()
        stop.ask(reason)
        await side.left.wait()
    assert outcomes[0].ending == ending
    assert detail_of(outcomes[0]) == {"url": side.url(), "instance": "i", "workerTold": False,
                                      "resultDiscarded": True}


async def test_an_attempt_from_before_the_restart_is_lost(rig: Rig) -> None:
    outcome = await rig.run(resumed=True)
    assert outcome.ending == Ending.LOST


async def test_health_checks(rig: Rig) -> None:
    client = Caller()
    check = Checks(client, GrpcClient(client)).check
    async with far_side(replying(200)) as well, far_side(replying(503)) as sick:
        assert await check(await rig.add("a", well.port, "tcp")) == ""
        assert await check(await rig.add("b", sick.port)) == "", "it listens"
        assert await check(await rig.add("c", well.port, healthPath="health")) == ""
        assert "503" in await check(await rig.add("d", sick.port, healthPath="/health"))
    assert [call.path for call in well.calls] == ["/health"]
    assert "refused" in (await check(await rig.add("e", await refusing_port()))).lower()
    async with far_side(replying(200, b"x" * (BODY_BYTES_MAX + 1))) as large:
        assert await check(await rig.add("f", large.port, healthPath="/")) == ""


# ---------------------------------------------------------------- through the engine


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[Engine, Registry]]:
    """A running engine that carries out service tasks."""
    store = Store(path / "plum.db")
    outbox, catalog, clock = Outbox(store), Catalog(store), SystemClock()
    join = Join("local:service", WorkerKind.LOCAL, "", (SERVICE_POOL,), capacity=8)
    engine = Engine(store, clock, outbox, Planner(catalog), Limits(backoff_base_ms=1), seed=1,
                    locals_=[join])
    registry = Registry(store, clock, engine.write)
    registry.load()
    carrier = LocalCarrier(engine, Blobs(path / "blobs"), Service(Caller(), registry))
    outbox.register("local:service", carrier)
    async with trio.open_nursery() as nursery:
        await nursery.start(carrier.run)
        nursery.start_soon(engine.run)
        nursery.start_soon(registry.run)
        yield engine, registry
        nursery.cancel_scope.cancel()
    store.close()


async def finished(engine: Engine, side: FarSide, registry: Registry,
                   retries: int) -> tasks.TaskRow:
    """A service task's row at its end; its service comes only after the first attempt."""
    task_id = engine.new_id()
    over = engine.watch(task_id)
    reply = await engine.call(Submit(
        task_id, "job", Kind.SERVICE, "service", "s", max_retries=retries, payload=b"[1]",
        labels=(("servicePath", "/run"),)))
    assert reply.ok
    await registry.register("i", [Endpoint("s", "i", "127.0.0.1", side.port, "http")])
    with trio.fail_after(10):
        await over.wait()
    row = engine.store.peek(tasks.get, task_id)
    assert row is not None
    return row


async def test_a_service_task_from_submit_to_result(tmp_path: Path) -> None:
    async with far_side(replying(200, b"done")) as side, running(tmp_path) as (engine, registry):
        row = await finished(engine, side, registry, retries=50)
        assert (row.state, row.result) == (TaskState.SUCCEEDED, b'"done"')
    assert [(call.path, call.body) for call in side.calls] == [("/run", b"[1]")]
