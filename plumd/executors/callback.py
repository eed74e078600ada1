"""HTTP workers: an attempt is a POST to the worker's URL, and the answer is the result."""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from plumd.executors import Attempt, Outcome, Stop
from plumd.executors.answers import (
    CallDetail,
    lost_with_daemon,
    outcome_of,
    status_detail,
    unanswered,
    unless_stopped,
)
from plumd.executors.outgoing import Client
from plumd.executors.targets import CallFailed
from plumd.model import attempt_text

ENCODE: Final = msgspec.json.Encoder().encode


class Called(msgspec.Struct, frozen=True, rename="camel"):
    """What a worker that is called back gets; it has no epoch, the attempt's id is the fence."""

    name: str
    payload: msgspec.Raw
    task_id: str


class Callback:
    """The executor of attempts that went to HTTP workers."""

    name: ClassVar[str] = "callback"

    def __init__(self, client: Client) -> None:
        self.client = client

    async def run(self, attempt: Attempt, stop: Stop) -> Outcome:
        """Call the worker and wait for its answer; see Executor.run.

        Cancel: the call is given up; after the daemon's next start the attempt is lost.
        """
        if attempt.resumed:
            return lost_with_daemon()
        return await unless_stopped(stop, lambda: self._call(attempt),
                                    lambda: CallDetail(attempt.url))

    async def _call(self, attempt: Attempt) -> Outcome:
        body = ENCODE(Called(attempt.name, msgspec.Raw(attempt.payload),
                             attempt_text(attempt.task_id, attempt.number)))
        who = f"worker {attempt.worker_id}"
        try:
            answer = await self.client.post(attempt.url, body)
        except CallFailed as failure:
            return unanswered(failure, who, CallDetail(attempt.url))
        return outcome_of(answer, who, status_detail(attempt.url, answer), retryable=True)
