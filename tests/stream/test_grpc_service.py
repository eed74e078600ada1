"""The gRPC door in virtual time: leases, silent peers, a disk that fails, a daemon that leaves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    ConnectionState,
    HTTPScope,
    Scope,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from plumd.api.admission import Policy
from plumd.api.gate import Gate
from plumd.engine import Engine
from plumd.model import Cancel, Limits, OnLost, Submit, TaskState, attempt_text
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.store import tasks
from plumd.store.blobs import Blobs
from plumd.store.definitions import Catalog
from plumd.store.tasks import TaskRow
from plumd.stream.grpc import ROUTES, SERVICE, TaskService
from plumd.stream.grpc_call import SEND_S_MAX
from plumd.stream.grpc_frames import Frames, Status, frame
from plumd.stream.task_service_pb2 import (
    HealthRequest,
    HealthResponse,
    TaskAck,
    TaskRequest,
    TaskResponse,
    WorkerRegister,
)
from tests.sim.disk import FaultyStore, Truth
from tests.sim.world import SimClock


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Virtual time."""
    return autojump_clock


class Peer:
    """A client's end of one call, at the ASGI interface."""

    def __init__(self, method: str = "TaskStream", *, deaf: bool = False) -> None:
        self.scope: HTTPScope = {
            "type": "http", "http_version": "2", "method": "POST", "scheme": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"}, "path": SERVICE + method,
            "raw_path": b"", "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
            "server": None, "state": ConnectionState({}), "extensions": {},
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/grpc"),
                        (b"te", b"trailers")]}
        self.deaf = deaf
        self.over = trio.Event()
        self.heard: list[ASGISendEvent] = []
        self.requests: list[TaskRequest] = []
        self._frames = Frames()
        self._say, self._said = trio.open_memory_channel[ASGIReceiveEvent](10)

    async def receive(self) -> ASGIReceiveEvent:
        return await self._said.receive()

    async def send(self, event: ASGISendEvent) -> None:
        if self.deaf:
            await trio.sleep_forever()
        self.heard.append(event)
        if event["type"] == "http.response.body":
            self.requests += map(TaskRequest.FromString, self._frames.feed(event["body"]))

    async def body(self, data: bytes, *, more: bool = True) -> None:
        """Some bytes of the body."""
        with trio.fail_after(300):
            await self._say.send({"type": "http.request", "body": data, "more_body": more})

    async def say(self, ack: TaskAck) -> None:
        await self.body(frame(ack.SerializeToString()))

    async def hang_up(self) -> None:
        await self._say.send({"type": "http.disconnect"})

    async def register(self, *names: str, capacity: int = 4) -> None:
        await self.say(TaskAck(register=WorkerRegister(
            worker_id="w", tasks=names, labels={"capacity": str(capacity)})))
        await wait_all_tasks_blocked()

    async def answer(self, name: str, result: str = "1") -> None:
        await self.say(TaskAck(result=TaskResponse(task_id=name, result=result)))

    async def ended(self) -> tuple[Status | None, str]:
        """(status, message) of the trailers, (None, "") when there were none."""
        with trio.fail_after(1_000):
            await self.over.wait()
        last = self.heard[-1] if self.heard else None
        if last is None or last["type"] != "http.response.trailers":
            return None, ""
        said = dict(last["headers"])
        return Status(int(said[b"grpc-status"])), said.get(b"grpc-message", b"").decode()


class Rig:
    """An engine with the gRPC door, and calls to it."""

    def __init__(self, engine: Engine, store: FaultyStore, gate: Gate, door: TaskService,
                 nursery: trio.Nursery) -> None:
        self.engine, self.store, self.gate, self.door = engine, store, gate, door
        self.nursery = nursery

    def call(self, method: str = "TaskStream", *, deaf: bool = False) -> Peer:
        """A call under way."""
        peer = Peer(method, deaf=deaf)

        async def run() -> None:
            await self.door(peer.scope, peer.receive, peer.send)
            peer.over.set()

        self.nursery.start_soon(run)
        return peer

    async def submit(self, on_lost: int = OnLost.RETRY, name: str = "t") -> int:
        """A new task."""
        task_id = self.engine.new_id()
        await self.engine.call(Submit(task_id, name, on_lost=on_lost, timeout_ms=0))
        await wait_all_tasks_blocked()
        return task_id

    def row(self, task_id: int) -> TaskRow:
        found = self.engine.store.peek(tasks.get, task_id)
        assert found is not None
        return found


async def nothing(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """The application behind."""
    del scope, receive
    await send({"type": "http.response.start", "status": 204, "headers": []})


@asynccontextmanager
async def rigged(path: Path, clock: MockClock) -> AsyncIterator[Rig]:
    assert clock.autojump_threshold == 0
    store = FaultyStore(path / "plum.db", SimClock(), Truth())
    engine = Engine(store, SimClock(), Outbox(store), Planner(Catalog(store)), Limits(), 1)
    gate = Gate(Policy())
    door = TaskService(nothing, engine, Blobs(path / "blobs"), gate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        yield Rig(engine, store, gate, door, nursery)
        nursery.cancel_scope.cancel()
    store.close()


async def test_what_a_lost_stream_held_is_lost_after_the_lease_when_nobody_comes_back(
        tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        peer = rig.call()
        await peer.register("t")
        task_id = await rig.submit(OnLost.FAIL)
        assert [request.task_id for request in peer.requests] == [attempt_text(task_id, 1)]
        await trio.sleep(60)
        await peer.hang_up()
        assert await peer.ended() == (None, "")
        await trio.sleep(29)
        assert rig.row(task_id).state == TaskState.RUNNING, "the lease is 90 s from its last word"
        await trio.sleep(2)
        assert rig.row(task_id).state == TaskState.FAILED


async def test_what_a_lost_stream_held_is_lost_after_the_lease_when_the_worker_came_back(
        tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        first = rig.call()
        await first.register("t")
        task_id = await rig.submit()
        answered = await rig.submit()
        await first.hang_up()
        await first.ended()
        await trio.sleep(50)
        second = rig.call()
        await second.register("t")
        assert second.requests == [], "they may run still"
        await second.answer(attempt_text(answered, 1))
        await trio.sleep(30)
        await second.say(TaskAck())     # unknown things are signs of life too
        await second.hang_up()          # the stream is lost once more: the deadline stays
        third = rig.call()
        await third.register("t")
        assert rig.row(task_id).attempt == 1
        assert rig.row(answered).state == TaskState.SUCCEEDED
        await trio.sleep(15)
        row = rig.row(task_id)
        assert (row.state, row.attempt) == (TaskState.RUNNING, 2)
        assert [request.task_id for request in third.requests] == [attempt_text(task_id, 2)]
        await third.answer(attempt_text(task_id, 1))
        await wait_all_tasks_blocked()
        assert rig.row(task_id).state == TaskState.RUNNING, "a stale answer changes nothing"


async def test_what_never_went_out_goes_out_on_the_next_stream(
        tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        first = rig.call()
        await first.register("t")
        first.deaf = True       # it reads no more: what is sent now may arrive or not
        maybe = await rig.submit()
        never = await rig.submit()
        second = rig.call()
        await second.register("t")
        assert [request.task_id for request in second.requests] == [attempt_text(never, 1)]
        status, words = await first.ended()
        assert status is None, words
        assert rig.row(maybe).attempt == 1
        await trio.sleep(60)
        await second.say(TaskAck())
        await trio.sleep(11)
        assert rig.row(maybe).attempt == 2
        assert rig.row(never).attempt == 1


async def test_a_worker_without_a_word_loses_its_stream_with_its_lease(
        tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        peer = rig.call()
        await peer.register("t")
        half = frame(TaskAck(result=TaskResponse(task_id="1", result="x" * 99))
                     .SerializeToString())
        for index in range(len(half) - 1):      # byte by byte is no message either
            if not peer.over.is_set():
                await peer.body(half[index:index + 1])
            await trio.sleep(2)
        status, words = await peer.ended()
        assert (status, "lease_lost" in words) == (Status.UNAVAILABLE, True)
        assert rig.engine.core.worker_view("w") is None


@pytest.mark.parametrize("method", ["TaskStream", "HealthCheck"])
async def test_a_call_without_a_message_is_over_soon(
        tmp_path: Path, clock: MockClock, method: str) -> None:
    async with rigged(tmp_path, clock) as rig:
        silent = rig.call(method)
        before = trio.current_time()
        assert (await silent.ended())[0] == Status.DEADLINE_EXCEEDED
        assert trio.current_time() - before == pytest.approx(10)
        half = rig.call(method)
        await half.body(b"\0\0", more=False)
        assert (await half.ended())[0] == Status.INVALID_ARGUMENT
        none = rig.call(method)
        await none.body(b"", more=False)
        assert (await none.ended())[0] == Status.INVALID_ARGUMENT


async def test_a_client_that_takes_nothing_is_given_up(tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        peer = rig.call()
        await peer.register("t")
        peer.deaf = True
        await rig.submit()
        before = trio.current_time()
        assert await peer.ended() == (None, "")
        assert trio.current_time() - before == pytest.approx(SEND_S_MAX)
        assert not rig.engine.outbox.serves("w", rig.door)  # type: ignore[arg-type]  # nobody
        assert len(rig.gate.streams) == 0


async def test_a_large_message_takes_of_the_common_budget(tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        rig.gate._body_bytes_max = 1 << 20
        peer = rig.call()
        await peer.register("t")
        task_id = await rig.submit()
        large = frame(TaskAck(result=TaskResponse(
            task_id=attempt_text(task_id, 1), error="x" * 700_000)).SerializeToString())
        await peer.body(large[:400_000])
        await wait_all_tasks_blocked()
        other = rig.call()
        await other.body(large[:400_000])
        assert (await other.ended())[0] == Status.RESOURCE_EXHAUSTED
        await peer.body(large[400_000:])
        await trio.sleep(1)
        assert rig.row(task_id).state == TaskState.FAILED
        assert rig.gate._body_bytes == 0


@pytest.mark.parametrize("fault", ["error_before", "error_after"])
async def test_a_result_survives_a_commit_that_fails(
        tmp_path: Path, clock: MockClock, fault: str) -> None:
    async with rigged(tmp_path, clock) as rig:
        peer = rig.call()
        await peer.register("t")
        task_id = await rig.submit()
        rig.store.fault = fault
        await peer.answer(attempt_text(task_id, 1), '"once said"')
        status, words = await peer.ended()
        assert (status, bool(words)) == (Status.UNAVAILABLE, True)
        await trio.sleep(5)
        row = rig.row(task_id)
        assert (row.state, row.attempt, row.result) == (TaskState.SUCCEEDED, 1, b'"once said"')


async def test_a_result_waits_while_the_disk_is_away(tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        peer = rig.call()
        await peer.register("t")
        task_id = await rig.submit()
        rig.engine.down = "the test says so"
        await peer.answer(attempt_text(task_id, 1), '"kept"')
        await trio.sleep(40)
        assert rig.row(task_id).state == TaskState.RUNNING
        health = rig.call("HealthCheck")
        await health.body(frame(b""), more=False)
        assert (await health.ended())[0] == Status.OK
        sent = b"".join(e["body"] for e in health.heard if e["type"] == "http.response.body")
        assert not HealthResponse.FromString(sent[5:]).healthy
        rig.engine.down = ""
        await trio.sleep(1)
        assert rig.row(task_id).result == b'"kept"'


async def test_a_cancel_ends_the_attempt_though_the_stream_is_lost(
        tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        first = rig.call()
        await first.register("t")
        task_id = await rig.submit()
        await first.hang_up()
        await first.ended()
        await rig.engine.call(Cancel(task_id))
        assert rig.row(task_id).state == TaskState.RUNNING
        second = rig.call()
        await second.register("t")
        row = rig.row(task_id)
        assert row.state == TaskState.CANCELED
        assert row.error is not None
        error = json.loads(row.error)
        assert error["detail"] == {"workerTold": False, "resultDiscarded": True}


async def test_the_daemon_gives_nothing_more_and_ends_streams_when_it_leaves(
        tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        peer = rig.call()
        await peer.register("t")
        held, last = await rig.submit(), await rig.submit()
        rig.door.drain()
        await wait_all_tasks_blocked()
        waiting = await rig.submit()
        assert rig.row(waiting).state == TaskState.PENDING
        await peer.answer(attempt_text(held, 1))
        await peer.answer(attempt_text(last, 1))
        await wait_all_tasks_blocked()
        rig.gate.streams.close()
        status, words = await peer.ended()
        assert (status, "shutting%20down" in words or "shutting down" in words) == (
            Status.UNAVAILABLE, True)
        assert [rig.row(one).state for one in (held, last)] == [TaskState.SUCCEEDED] * 2
        late = rig.call()
        assert (await late.ended())[0] == Status.UNAVAILABLE


async def test_results_in_quick_succession_share_commits(tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        peer = rig.call()
        await peer.register("t", capacity=100)
        held = [await rig.submit() for _ in range(100)]
        before = rig.store.commits
        for task_id in held:
            await peer.answer(attempt_text(task_id, 1))
        await trio.sleep(1)
        assert rig.store.commits - before <= 10
        assert {rig.row(task_id).state for task_id in held} == {TaskState.SUCCEEDED}


async def test_the_result_of_the_only_attempt_waits_for_no_other(
        tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        peer = rig.call()
        await peer.register("t", capacity=100)
        begun_s = trio.current_time()
        for _ in range(5):
            task_id = await rig.submit()
            await peer.answer(attempt_text(task_id, 1))
            await wait_all_tasks_blocked()
            assert rig.row(task_id).state == TaskState.SUCCEEDED
        assert trio.current_time() == begun_s


async def test_everything_else_is_the_other_applications(tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        for change in ({"http_version": "1.1"}, {"headers": [(b"content-type", b"application/j")]},
                       {"headers": [(b"content-type", b"application/grpc-web")]}):
            peer = rig.call()
            peer.scope.update(change)  # type: ignore[typeddict-item]  # before it is looked at
            await peer.over.wait()
            assert [event["type"] for event in peer.heard] == ["http.response.start"]


async def test_a_defect_is_a_status_and_not_a_silence(tmp_path: Path, clock: MockClock) -> None:
    async with rigged(tmp_path, clock) as rig:
        del rig.door.engine
        peer = rig.call("HealthCheck")
        await peer.body(frame(HealthRequest().SerializeToString()), more=False)
        status, words = await peer.ended()
        assert (status, "log" in words) == (Status.INTERNAL, True)


async def test_the_routes_are_a_workers() -> None:
    for route in ROUTES.values():
        assert (route.trusted, route.permission) == (True, "workers:session")
        assert msgspec.structs.asdict(route)["lenient"]
        with pytest.raises(AssertionError):
            await route.handler(None)  # type: ignore[arg-type]  # nobody calls it
