"""Service tasks over gRPC: ExecuteTask, any unary method by reflection, and health checks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumd.executors.checks import Checks
from plumd.executors.grpc_calls import field, fields
from plumd.model import Ending
from plumd.stream import task_service_pb2
from plumd.stream.task_service_pb2 import (
    HealthRequest,
    HealthResponse,
    TaskRequest,
    TaskResponse,
)
from tests.executors.farside import far_side, replying
from tests.executors.test_service import Rig, code_of

FILE = task_service_pb2.DESCRIPTOR
TASKS = "plum.task.TaskService"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """An executor with an empty registry."""
    made = Rig(tmp_path)
    yield made
    made.service.grpc.client.close()
    made.service.client.close()
    made.store.close()


def reflect(questions: Iterator[bytes], _context: object) -> Iterator[bytes]:
    """What a reflection service says: here of one file."""
    for question in questions:
        [(number, name)] = fields(question)
        known = (number == 4 and name.decode() == TASKS) or name.decode() == FILE.name
        yield field(4, field(1, FILE.serialized_pb)) if known else field(7, b"")


@contextmanager
def serving(*, reflection: str = "v1", serving_status: int = 1) -> Iterator[int]:
    """The port of a server with the methods ExecuteTask, HealthCheck and a stream."""
    def bytes_of(value: bytes) -> bytes:
        return value

    def execute(request: TaskRequest, _: object) -> TaskResponse:
        return TaskResponse(task_id=request.task_id, result=request.payload,
                            error="no" if request.payload == '"fail"' else "")

    def look(request: HealthRequest, _: object) -> HealthResponse:
        return HealthResponse(healthy=True, message=f"hello {request.worker_id}")

    unary = grpc.unary_unary_rpc_method_handler
    handlers = {
        TASKS: {"ExecuteTask": unary(execute, TaskRequest.FromString,
                                     TaskResponse.SerializeToString),
                "HealthCheck": unary(look, HealthRequest.FromString,
                                     HealthResponse.SerializeToString)},
        "grpc.health.v1.Health": {"Check": unary(
            lambda _request, _context: bytes((8, serving_status)), bytes_of, bytes_of)},
    }
    if reflection:
        handlers[f"grpc.reflection.{reflection}.ServerReflection"] = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                reflect, bytes_of, bytes_of)}
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(tuple(
        grpc.method_handlers_generic_handler(name, methods)
        for name, methods in handlers.items()))
    port: int = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def labels(path: str = "") -> dict[str, str]:
    return {"serviceProtocol": "grpc"} | ({"servicePath": path} if path else {})


async def test_without_a_path_it_is_execute_task(rig: Rig) -> None:
    with serving() as port:
        await rig.add("a", port, "grpc")
        outcome = await rig.run(labels())
        assert (outcome.ending, outcome.result) == (Ending.SUCCEEDED, b'{"x": 1}')


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_any_unary_method_by_reflection(rig: Rig, version: str) -> None:
    with serving(reflection=version) as port:
        await rig.add("a", port, "grpc")
        attempt = labels(f"/{TASKS}/HealthCheck")
        outcome = await rig.run(attempt)        # {"x": 1} is no HealthRequest
        assert (code_of(outcome), outcome.retryable) == ("invalid_payload", False)
        assert outcome.error is not None
        assert "plum.task.HealthRequest" in outcome.error.message
        for _ in range(2):
            answer = await rig.service.grpc.call(
                f"grpc://127.0.0.1:{port}", f"/{TASKS}/HealthCheck", b'{"workerId": "me"}', 0)
            assert json.loads(answer) == {"healthy": True, "message": "hello me"}


@pytest.mark.parametrize(("path", "reflection", "code"), [
    (f"/{TASKS}/Nothing", "v1", "bad_method"),
    ("/no.such.Service/Method", "v1", "bad_method"),
    (f"/{TASKS}/TaskStream", "v1", "bad_method"),
    ("/onlyone", "v1", "bad_method"),
    (f"/{TASKS}/HealthCheck", "", "no_reflection"),
])
async def test_what_cannot_be_called_says_why_and_is_not_tried_again(
        rig: Rig, path: str, reflection: str, code: str) -> None:
    with serving(reflection=reflection) as port:
        await rig.add("a", port, "grpc")
        outcome = await rig.run(labels(path))
    assert (outcome.ending, code_of(outcome), outcome.retryable) == (Ending.FAILED, code, False)


async def test_health_by_grpc(rig: Rig) -> None:
    checks = Checks(rig.service.client, rig.service.grpc.client)
    with serving() as port:
        one = await rig.add("a", port, "grpc", healthCheck="grpc")
        assert await checks.check(one) == ""
    with serving(serving_status=2) as port:
        one = await rig.add("b", port, "grpc", healthCheck="grpc")
        assert "SERVING" in await checks.check(one)
    assert await checks.check(one) != "", "nobody is there"
    async with far_side(replying(200)) as side:
        assert await checks.check(await rig.add("c", side.port, healthCheck="grpc")) != ""


@given(st.binary(max_size=200))
def test_any_bytes_are_read_to_an_end(data: bytes) -> None:
    assert len(list(fields(data))) <= len(data)


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.binary(max_size=300)), max_size=8))
def test_what_is_written_is_read(items: list[tuple[int, bytes]]) -> None:
    assert list(fields(b"".join(field(*item) for item in items))) == items
