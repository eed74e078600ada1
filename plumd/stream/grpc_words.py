"""Pure: the messages of `plum.task` in the session's words, and errors as gRPC statuses."""

from __future__ import annotations

from typing import Final, TypeAlias, TypeVar

import msgspec
from google.protobuf.message import DecodeError

from plumd.api.routes import Response
from plumd.errors import PlumError
from plumd.executors.answers import result_of
from plumd.model import VALUE_BYTES_MAX, Join, attempt_text, parse_attempt
from plumd.sdk.protocol import CAPACITY_MAX, ERROR_CHARS_MAX, Failure, Register, Result
from plumd.stream.grpc_frames import GrpcError, Status
from plumd.stream.session import check_names, join_of
from plumd.stream.task_service_pb2 import HealthRequest, TaskAck, TaskResponse, WorkerRegister

NONCE: Final = "grpc"
"""The session of every worker of this kind."""
BEAT_S: Final = 30.0
CAPACITY_DEFAULT: Final = 4

Received = TypeVar("Received", TaskAck, HealthRequest)
End: TypeAlias = tuple[Status, str]
"""How a call ends: its status, and why."""


def join_of_register(register: WorkerRegister) -> Join:
    """The command behind a register. Raises: GrpcError, Invalid."""
    check_names(register.worker_id, register.tasks, "worker_id", "tasks")
    labels = dict(register.labels)
    try:
        said = msgspec.convert({
            "session": NONCE, "tasks": list(register.tasks), "nodeId": register.node_id,
            "instanceId": register.instance_id, "appName": register.app_name,
            "appVersion": register.app_version, "labels": labels, "beatSec": BEAT_S,
            "capacity": capacity_of(labels)}, Register)
    except msgspec.ValidationError as error:
        raise GrpcError(Status.INVALID_ARGUMENT, f"register: {error}") from None
    return join_of(register.worker_id, said, ())


def capacity_of(labels: dict[str, str]) -> int:
    """How many attempts at once: the label `capacity`, if it is a number."""
    text = labels.get("capacity", "").strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    return min(number, CAPACITY_MAX) or CAPACITY_DEFAULT


def result_of_response(response: TaskResponse) -> Result:
    """How an attempt ended, in the session's words. Raises: GrpcError."""
    pair = parse_attempt(response.task_id)
    if pair is None:
        raise GrpcError(Status.INVALID_ARGUMENT,
                        f"{response.task_id[:100]!r} is no id of an attempt")
    name = attempt_text(*pair)
    if response.error:
        return Result(name, error=Failure("failed", response.error[:ERROR_CHARS_MAX]))
    value = result_of(response.result.encode())
    if len(value) > VALUE_BYTES_MAX:
        return Result(name, retry=False, error=Failure(
            "result_too_large", f"the result has {len(value)} bytes, over {VALUE_BYTES_MAX}"))
    return Result(name, msgspec.Raw(value))


def parsed(kind: type[Received], data: bytes) -> Received:
    """A message of this kind. Raises: GrpcError."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise GrpcError(Status.INVALID_ARGUMENT, f"this is no {kind.__name__}") from None


OF_ERROR: Final = {
    400: Status.INVALID_ARGUMENT, 401: Status.UNAUTHENTICATED, 403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND, 409: Status.ABORTED, 413: Status.RESOURCE_EXHAUSTED,
    422: Status.INVALID_ARGUMENT, 429: Status.RESOURCE_EXHAUSTED, 503: Status.UNAVAILABLE,
}


def end_of(error: BaseException) -> End:
    """The status of an error, or of the first one in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, GrpcError):
        return error.status, error.message
    assert isinstance(error, PlumError)
    where = f"{error.field}: " if error.field else ""
    return OF_ERROR.get(error.status, Status.INTERNAL), f"{error.code}: {where}{error.detail}"


def end_of_response(refusal: Response) -> End:
    """The status of a refused head."""
    detail = msgspec.json.decode(refusal.body, type=dict[str, msgspec.Raw]).get("detail")
    text = msgspec.json.decode(detail, type=str) if detail else ""
    return OF_ERROR.get(refusal.status, Status.INTERNAL), text
