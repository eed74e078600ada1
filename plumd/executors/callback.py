"""Workers that are called: an attempt is a POST to the worker's URL, or an ExecuteTask by gRPC, and
the answer is the result.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec
from google.protobuf.message import DecodeError

from plumd.executors import Attempt, Outcome, Stop
from plumd.executors.answers import (
    CallDetail,
    failed,
    lost_with_daemon,
    outcome_of,
    result_of,
    status_detail,
    unanswered,
    unless_stopped,
)
from plumd.executors.grpc_client import SCHEME, GrpcClient
from plumd.executors.outgoing import Client
from plumd.executors.targets import CallFailed
from plumd.model import VALUE_BYTES_MAX, Ending, attempt_text
from plumd.stream.grpc_frames import GrpcError, Status
from plumd.stream.task_service_pb2 import TaskRequest, TaskResponse

ENCODE: Final = msgspec.json.Encoder().encode
EXECUTE_TASK: Final = "/plum.task.TaskService/ExecuteTask"


class Called(msgspec.Struct, frozen=True, rename="camel"):
    """What a worker that is called back gets; it has no epoch, the attempt's id is the fence."""

    name: str
    payload: msgspec.Raw
    task_id: str


class GrpcDetail(msgspec.Struct, frozen=True):
    """A gRPC answer that was no success, as error.detail. status: its name."""

    url: str
    status: str


class Callback:
    """The executor of attempts that went to workers with an address."""

    name: ClassVar[str] = "callback"

    def __init__(self, client: Client, grpc: GrpcClient | None = None) -> None:
        self.client = client
        self.grpc = grpc or GrpcClient(client)

    async def run(self, attempt: Attempt, stop: Stop) -> Outcome:
        """Call the worker and wait for its answer; see Executor.run.

        Cancel: the call is given up; after the daemon's next start the attempt is lost.
        """
        if attempt.resumed:
            return lost_with_daemon()
        call = self._execute if attempt.url.startswith(SCHEME) else self._call
        return await unless_stopped(stop, lambda: call(attempt), lambda: CallDetail(attempt.url))

    async def _call(self, attempt: Attempt) -> Outcome:
        body = ENCODE(Called(attempt.name, msgspec.Raw(attempt.payload),
                             attempt_text(attempt.task_id, attempt.number)))
        who = f"worker {attempt.worker_id}"
        try:
            answer = await self.client.post(attempt.url, body)
        except CallFailed as failure:
            return without_answer(attempt, failure)
        return outcome_of(answer, who, status_detail(attempt.url, answer), retryable=True)

    async def _execute(self, attempt: Attempt) -> Outcome:
        who = f"worker {attempt.worker_id}"
        try:
            data = await self.grpc.call(attempt.url, EXECUTE_TASK, task_request(attempt),
                                        attempt.timeout_ms)
        except CallFailed as failure:
            return without_answer(attempt, failure)
        except GrpcError as error:
            return failed("grpc_status", f"{who} answered {error.status.name}: {error.message}",
                          GrpcDetail(attempt.url, error.status.name),
                          retryable=error.status is not Status.UNIMPLEMENTED)
        return task_result(data, who)


def task_request(attempt: Attempt) -> bytes:
    """An attempt as ExecuteTask takes it."""
    message: bytes = TaskRequest(
        task_id=attempt_text(attempt.task_id, attempt.number), name=attempt.name,
        payload=attempt.payload.decode()).SerializeToString()
    return message


def task_result(data: bytes, who: str) -> Outcome:
    """What ExecuteTask's answer means; who: the far side in words."""
    try:
        response = TaskResponse.FromString(data)
    except DecodeError:
        return failed("bad_answer", f"{who} answered what is no TaskResponse")
    if response.error:
        return failed("failed", response.error)
    result = result_of(response.result.encode())
    if len(result) > VALUE_BYTES_MAX:
        return failed("answer_too_large", f"the answer of {who} is larger than "
                      f"{VALUE_BYTES_MAX} bytes as JSON", retryable=False)
    return Outcome(Ending.SUCCEEDED, result)


def without_answer(attempt: Attempt, failure: CallFailed) -> Outcome:
    """A call that got no answer; if it never came to its worker, another one may be called."""
    outcome = unanswered(failure, f"worker {attempt.worker_id}", CallDetail(attempt.url))
    return msgspec.structs.replace(outcome, reached=failure.reached)
