"""The executor interface: how an attempt is carried out, and how it tells of its end.

`plumd.daemon` registers the executors with the outbox; each attempt that the core starts on one
of them becomes one call of `run` in a nursery. An executor knows nothing of engine, store or HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

import msgspec
import trio

from plumd.model import Ending, TaskError


class Attempt(msgspec.Struct, frozen=True):
    """One try of a task, with all that an executor may need to know.

    payload: JSON bytes, b"null" when there is none.  timeout_ms: 0 = none; the core watches it
    and asks for a stop, executors pass it on only where the far side can use it.
    resumed: this attempt was claimed before the daemon's last start, so it may be running already.
    """

    task_id: int
    number: int
    name: str
    payload: bytes
    target_kind: str = ""
    target_ref: str = ""
    labels: Mapping[str, str] = {}
    timeout_ms: int = 0
    started_ms: int = 0
    resumed: bool = False
    worker_id: str = ""
    url: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt ended. retryable=False: another try would end the same way.

    reached=False: a call that never came to its worker; another worker may be called at once.
    """

    ending: Ending
    result: bytes | None = None
    error: TaskError | None = None
    retryable: bool = True
    retry_after_ms: int = 0
    reached: bool = True


class Stop:
    """The wish that an attempt ends, set once by the outbox: `await stop.wanted.wait()`."""

    def __init__(self) -> None:
        self.wanted = trio.Event()
        self.reason = ""

    def ask(self, reason: str) -> None:
        """reason: "canceled" or "timeout"."""
        if not self.wanted.is_set():
            self.reason = reason
            self.wanted.set()


class Executor(Protocol):
    """One way of carrying out attempts."""

    name: ClassVar[str]

    async def run(self, attempt: Attempt, stop: Stop) -> Outcome:
        """Carry the attempt out and say how it ended; never raises for the attempt's own failure.

        When `stop.wanted` fires it ends the work (the whole tree, with its grace period), and
        answers with ending CANCELED or TIMEOUT (by stop.reason) and the record of what was done.
        With `attempt.resumed` it takes up what is running, starts what never started (only if it
        can be sure), or answers LOST.

        Cancel: the daemon is leaving. Work that can outlive it is left running, untouched.
        """
