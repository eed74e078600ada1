"""Pure: what the record says of an attempt that ended, in words and codes."""

from __future__ import annotations

from typing import Final

import msgspec

from plumd.model import Ended, Ending, TaskError, TaskState

MESSAGES: Final = {
    "lease_expired": "no word from the worker within its lease",
    "worker_restarted": "the worker's process was replaced by a new one",
    "worker_left": "the worker left while it held the attempt",
    "worker_unknown": "the worker that held the attempt is not known any more",
    "unreached": "the call did not reach the worker",
    "returned": "the worker gave it back before it began",
    "queue_timeout": "no worker took the task within its queue timeout",
    "canceled": "canceled on request",
    "concurrency_skipped": "it was not started, for its concurrency key was full",
    "concurrency_replaced": "a newer task with its concurrency key took its place",
    "timeout": "the attempt did not end within its timeout",
}


def error_of(ended: Ended) -> TaskError | None:
    """The TaskError of an ending, None for a success; it names the attempt and its worker."""
    if ended.ending == Ending.SUCCEEDED:
        return None
    report = ended.report
    said = report.error if report is not None else None
    code, message = default_words(ended)
    detail: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    if said is not None:
        detail = said.detail
        if ended.ending == Ending.FAILED or said.code in ("start_failed", "oom"):
            code, message = said.code or code, said.message or message
        elif said.message:
            message = f"{message}: {said.message}"
    elif report is not None and report.ending == Ending.SUCCEEDED:
        message += "; the worker had finished all the same, and its result was discarded"
    return TaskError(
        code=code, message=message, attempt=ended.attempt, worker=ended.worker_id or None,
        node=ended.node_id or None, exit_code=None if said is None else said.exit_code,
        signal=None if said is None else said.signal, detail=detail)


def default_words(ended: Ended) -> tuple[str, str]:
    """(code, message) of an ending by itself."""
    if ended.ending == Ending.LOST:
        why = MESSAGES.get(ended.code, "the work was interrupted")
        return "lost", f"attempt {ended.attempt} was lost: {why}"
    if ended.ending == Ending.CANCELED:
        code = ended.code if ended.code.startswith("concurrency_") else "canceled"
        return code, MESSAGES[code]
    if ended.ending == Ending.TIMEOUT:
        code = ended.code or "timeout"
        return code, MESSAGES.get(code, MESSAGES["timeout"])
    return "failed", "the task failed"


def result_of(ended: Ended) -> tuple[bytes | None, str]:
    """(inline result, blob) that is kept with the task: a canceled one keeps none."""
    if ended.report is None or ended.state == TaskState.CANCELED:
        return None, ""
    return ended.report.result, ended.report.blob


ENCODE_ERROR: Final = msgspec.json.Encoder().encode
