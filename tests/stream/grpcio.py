"""Workers and servers by grpcio, as programs of earlier Plum generations have them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import grpc

from plumd.stream.task_service_pb2 import (
    HealthRequest,
    HealthResponse,
    TaskAck,
    TaskRequest,
    TaskResponse,
    WorkerRegister,
)
from tests.api.live import WAIT_S

SERVICE = "/plum.task.TaskService/"
RECEIVE_BYTES = 40 << 20


class StreamCall(Protocol):
    """The part of grpcio's call that is used here."""

    def __iter__(self) -> Iterator[TaskRequest]: ...
    def initial_metadata(self) -> object: ...
    def code(self) -> object: ...
    def details(self) -> str: ...
    def cancel(self) -> bool: ...


class StreamWorker:
    """A worker on a stream of its own, played by hand; a thread reads what comes."""

    def __init__(self, channel: grpc.Channel, worker_id: str = "") -> None:
        self.worker_id = worker_id
        self._said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._got: queue.SimpleQueue[TaskRequest | None] = queue.SimpleQueue()
        self.call: StreamCall = channel.stream_stream(
            SERVICE + "TaskStream", response_deserializer=TaskRequest.FromString)(
                iter(self._said.get, None))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            for request in self.call:
                self._got.put(request)
        except grpc.RpcError:
            pass            # `end` tells
        self._got.put(None)

    def say_bytes(self, message: bytes) -> None:
        """Any message."""
        self._said.put(message)

    def say(self, ack: TaskAck) -> None:
        """A message."""
        self.say_bytes(ack.SerializeToString())

    def register(self, *tasks: str, capacity: int = 4, **more: str) -> None:
        """Say who it is, and wait until the daemon has taken it."""
        self.say(TaskAck(register=WorkerRegister(
            worker_id=self.worker_id, tasks=tasks, labels={"capacity": str(capacity)}, **more)))
        self.call.initial_metadata()

    def attempt(self) -> TaskRequest:
        """The attempt that comes next."""
        found = self._got.get(timeout=WAIT_S)
        assert found is not None, (self.call.code(), self.call.details())
        return found

    def none_waits(self) -> bool:
        """Whether nothing has come that was not looked at."""
        return self._got.empty()

    def answer(self, task_id: str, result: str = "", error: str = "") -> None:
        """Say how an attempt ended."""
        self.say(TaskAck(result=TaskResponse(task_id=task_id, result=result, error=error)))

    def leave(self) -> None:
        """Say that no more will come."""
        self._said.put(None)

    def end(self) -> tuple[object, str]:
        """(status, details) once the stream is over."""
        self._reader.join(WAIT_S)
        assert not self._reader.is_alive(), "the stream goes on"
        return self.call.code(), self.call.details()


@contextmanager
def channel(port: int, credentials: grpc.ChannelCredentials | None = None, *,
            host: str = "127.0.0.1") -> Iterator[grpc.Channel]:
    """A connection to a daemon, shared with no other."""
    options = [("grpc.max_receive_message_length", RECEIVE_BYTES),
               ("grpc.max_send_message_length", RECEIVE_BYTES),
               ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    where = f"{host}:{port}"
    opened = (grpc.insecure_channel(where, options) if credentials is None
              else grpc.secure_channel(where, credentials, options))
    try:
        yield opened
    finally:
        opened.close()


def health(opened: grpc.Channel, worker_id: str = "") -> HealthResponse:
    """What HealthCheck answers."""
    answer: HealthResponse = opened.unary_unary(
        SERVICE + "HealthCheck", request_serializer=HealthRequest.SerializeToString,
        response_deserializer=HealthResponse.FromString)(
            HealthRequest(worker_id=worker_id), timeout=WAIT_S)
    return answer
