"""What an HTTP answer, or its absence, makes of an attempt; and how a stop ends the waiting."""

from __future__ import annotations

import datetime
import http
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec
import trio

from plumd.executors import Attempt, Outcome, Stop
from plumd.executors.outgoing import Answer
from plumd.executors.targets import CallFailed
from plumd.model import VALUE_BYTES_MAX, Ending, TaskError, attempt_text

DETAIL_CHARS_MAX: Final = 4096
MESSAGE_CHARS_MAX: Final = 200
RETRY_AFTER_S_MAX: Final = 3600
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

ENCODE: Final = msgspec.json.Encoder().encode


class StatusDetail(msgspec.Struct, frozen=True):
    """An answer that was no success, as error.detail. body: its beginning."""

    url: str
    status: int
    body: str
    instance: str | None = None


class CallDetail(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A call without an answer, as error.detail.

    worker_told: False when the far side was not told to stop, for its protocol has no word for
    it; result_discarded: what it may answer later is not kept.
    """

    url: str
    instance: str | None = None
    worker_told: bool | None = None
    result_discarded: bool | None = None


def text_of(body: bytes) -> str:
    """Any bytes as text: UTF-8, else latin-1, in which each character's number is its byte."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("latin-1")


def result_of(body: bytes) -> bytes:
    """An answer's body as a JSON value: kept byte for byte if it is JSON, else as a string.

    An empty body is the empty string. A body that is not UTF-8 either is read as latin-1, so its
    bytes can be had back by encoding the string as latin-1.
    """
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
        body.decode()               # a Raw's strings are not looked into
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ENCODE(text_of(body))
    return body


def outcome_of(answer: Answer, who: str, detail: StatusDetail, *, retryable: bool) -> Outcome:
    """2xx: the body is the result. Anything else failed; who: the far side in words."""
    if 200 <= answer.status < 300:
        result = result_of(answer.body)
        if len(result) > VALUE_BYTES_MAX:
            return failed("answer_too_large", f"the answer of {who} is larger than "
                          f"{VALUE_BYTES_MAX} bytes as JSON", detail, retryable=False)
        return Outcome(Ending.SUCCEEDED, result)
    message = f"{who} answered {answer.status} {reason_of(answer)}".rstrip()
    if said := brief(answer.body):
        message += f": {said}"
    return failed("http_status", message, detail, retryable=retryable,
                  retry_after_ms=retry_after_ms(answer))


def status_detail(url: str, answer: Answer, instance: str | None = None) -> StatusDetail:
    """What the record keeps of an answer that was no success."""
    return StatusDetail(url, answer.status, text_of(answer.body[:DETAIL_CHARS_MAX]), instance)


def brief(body: bytes) -> str:
    """A body's beginning in one printable line."""
    text = _UNPRINTABLE.sub(" ", text_of(body[:DETAIL_CHARS_MAX])).strip()
    return text if len(text) <= MESSAGE_CHARS_MAX else text[:MESSAGE_CHARS_MAX] + "..."


def reason_of(answer: Answer) -> str:
    """The status in words, the far side's or the standard's."""
    if answer.reason:
        return brief(answer.reason.encode("latin-1"))
    try:
        return http.HTTPStatus(answer.status).phrase
    except ValueError:
        return ""


def retry_after_ms(answer: Answer) -> int:
    """What a 429 or 503 asks for, at most an hour."""
    if answer.status not in (429, 503):
        return 0
    return asked_wait_ms(answer.headers, RETRY_AFTER_S_MAX)


def asked_wait_ms(headers: Mapping[str, str], most_s: int) -> int:
    """How long Retry-After asks to wait, in seconds or until a date, which counts by the clock of
    whoever answered where it tells one; at most so long. 0: nothing that can be understood.

    Source: RFC 9110 section 10.2.3.
    """
    text = headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return min(int(text[:9]), most_s) * 1000
    until_s = date_s(text)
    if until_s is None:
        return 0
    now_s = date_s(headers.get("date", ""))
    left_s = until_s - (time.time() if now_s is None else now_s)
    return round(min(max(0.0, left_s), most_s) * 1000)


def date_s(text: str) -> float | None:
    """A header's date in Unix seconds, in any of HTTP's three forms; None when it is none."""
    try:
        return parsedate_to_datetime(text).replace(tzinfo=datetime.UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def failed(code: str, message: str, detail: msgspec.Struct | None = None, *,
           retryable: bool = True, retry_after_ms: int = 0) -> Outcome:
    """An attempt that failed."""
    raw = msgspec.UNSET if detail is None else msgspec.Raw(ENCODE(detail))
    return Outcome(Ending.FAILED, error=TaskError(code, message, detail=raw),
                   retryable=retryable, retry_after_ms=retry_after_ms)


def unanswered(failure: CallFailed, who: str, detail: CallDetail) -> Outcome:
    """A call that got no answer. If the far side had all of it, the attempt is lost: it may have
    been carried out, so onLost decides whether there is another try.
    """
    message = f"{who}: {failure.message}"
    if failure.code == "connection_lost":
        return Outcome(Ending.LOST, error=TaskError(
            "connection_lost", message, detail=msgspec.Raw(ENCODE(detail))))
    return failed(failure.code, message, detail, retryable=failure.retryable)


def lost_with_daemon() -> Outcome:
    """A call that was under way when the daemon ended; its answer went with it."""
    return Outcome(Ending.LOST, error=TaskError(
        "daemon_restarted", "the call's answer was lost when the daemon restarted"))


async def unless_stopped(stop: Stop, call: Callable[[], Awaitable[Outcome]],
                         where: Callable[[], CallDetail]) -> Outcome:
    """The call's outcome, or that of a stop that came first; then the connection is closed.

    where: whom the call went to, asked at the stop.  call: never raises.
    Cancel: the call is given up.
    """
    found: list[Outcome] = []

    async with trio.open_nursery() as nursery:
        async def until_stop() -> None:
            await stop.wanted.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(until_stop)
        found.append(await call())
        nursery.cancel_scope.cancel()
    if found:
        return found[0]
    detail = msgspec.structs.replace(where(), worker_told=False, result_discarded=True)
    timeout = stop.reason == "timeout"
    return Outcome(Ending.TIMEOUT if timeout else Ending.CANCELED, error=TaskError(
        "timeout" if timeout else "canceled",
        "the connection was closed; the far side cannot be told to stop, and what it answers is "
        "discarded", detail=msgspec.Raw(ENCODE(detail))))


def attempt_headers(attempt: Attempt) -> Mapping[str, str]:
    """Headers by which a service knows the attempt and can refuse to do it twice."""
    name = attempt_text(attempt.task_id, attempt.number)
    return {"x-plum-task-id": attempt_text(attempt.task_id, 1),
            "x-plum-attempt": str(attempt.number), "idempotency-key": name}
