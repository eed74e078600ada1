"""The messages that are checked in are what protoc makes of the .proto, and what is on the wire."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.json_format import MessageToDict

from plumd.stream import task_service_pb2
from plumd.stream.task_service_pb2 import TaskAck, TaskResponse, WorkerRegister

ROOT = Path(__file__).parent.parent.parent
PROTO = "plumd/stream/task_service.proto"


def body(text: str) -> list[str]:
    """A generated file without the lines that only name the compiler's version."""
    lines = [line for line in text.splitlines() if not line.startswith(("#", "    "))]
    return [line for line in lines if "runtime_version" not in line]


def test_it_is_made_from_the_proto(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}",
         f"--pyi_out={tmp_path}", PROTO], cwd=ROOT, check=True)
    for suffix in ("_pb2.py", "_pb2.pyi"):
        name = PROTO.replace(".proto", suffix)
        assert body((tmp_path / name).read_text()) == body((ROOT / name).read_text()), (
            "make it again: python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. " + PROTO)


def test_the_numbers_are_those_of_the_wire() -> None:
    file = FileDescriptorProto()
    task_service_pb2.DESCRIPTOR.CopyToProto(file)
    found = {message.name: {field.name: field.number for field in message.field}
             for message in file.message_type}
    assert file.package == "plum.task"
    assert found == {
        "WorkerRegister": {"worker_id": 1, "node_id": 2, "instance_id": 3, "app_name": 4,
                           "app_version": 5, "tasks": 6, "labels": 7},
        "TaskAck": {"register": 1, "result": 2, "heartbeat": 3}, "Heartbeat": {"worker_id": 1},
        "TaskRequest": {"task_id": 1, "name": 2, "payload": 3},
        "TaskResponse": {"task_id": 1, "result": 2, "error": 3},
        "HealthRequest": {"worker_id": 1}, "HealthResponse": {"healthy": 1, "message": 2}}
    [service] = file.service
    assert {method.name: (method.client_streaming, method.server_streaming)
            for method in service.method} == {
        "TaskStream": (True, True), "ExecuteTask": (False, False), "HealthCheck": (False, False)}


def test_bytes_of_an_earlier_program() -> None:
    register = bytes.fromhex("0a14 0a0277 31 1a0169 3204 6563 686f 3a05 0a01 6b12 00".replace(
        " ", ""))
    ack = TaskAck.FromString(register)
    assert MessageToDict(ack) == {"register": {
        "workerId": "w1", "instanceId": "i", "tasks": ["echo"], "labels": {"k": ""}}}
    assert TaskAck(register=WorkerRegister(
        worker_id="w1", instance_id="i", tasks=["echo"], labels={"k": ""})) == ack
    assert TaskAck(result=TaskResponse(task_id="a.2", error="no")).SerializeToString() == (
        b"\x12\x09\x0a\x03a.2\x1a\x02no")


def test_it_brings_no_second_event_loop() -> None:
    code = ("import sys, plumd.stream.task_service_pb2; "
            "sys.exit('asyncio' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
