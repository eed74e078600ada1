"""What becomes of an answer's bytes and status."""

from __future__ import annotations

import json
import time
from email.utils import formatdate

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumd.executors.answers import (
    CallDetail,
    asked_wait_ms,
    outcome_of,
    result_of,
    retry_after_ms,
    status_detail,
    unanswered,
)
from plumd.executors.outgoing import Answer
from plumd.executors.targets import CallFailed
from plumd.model import VALUE_BYTES_MAX, Ending


@pytest.mark.parametrize("body", [
    b"{}", b' {"a" : 1.50}\r\n', b"null", b"12345678901234567890123", b'"text"', b"[1,\n2]",
    '{"ä":"ö"}'.encode(),
])
def test_json_is_kept_byte_for_byte(body: bytes) -> None:
    assert result_of(body) == body


@pytest.mark.parametrize(("body", "text"), [
    (b"", ""), (b"done", "done"), (b"{a:1}", "{a:1}"), (b"NaN", "NaN"), (b"1 2", "1 2"),
    (b'{"a":1', '{"a":1'), ("größe".encode(), "größe"), (b"\xff\x00\x80", "\xff\x00\x80"),
    (b'"\\ud800"', '"\\ud800"'), (b'"\xff"', '"\xff"'), (b"\xef\xbb\xbf{}", "\ufeff{}"),
    (b"[" * 100_000, "[" * 100_000),
    (b"[" * 5_000 + b"]" * 5_000, "[" * 5_000 + "]" * 5_000),
])
def test_anything_else_is_a_json_string(body: bytes, text: str) -> None:
    assert json.loads(result_of(body)) == text


@given(st.binary(max_size=60))
def test_every_body_becomes_json_that_holds_its_bytes(body: bytes) -> None:
    result = result_of(body)
    if result == body:
        msgspec.json.decode(body)
        return
    text = json.loads(result)
    try:
        assert text == body.decode()
    except UnicodeDecodeError:
        assert text.encode("latin-1") == body


def answered(status: int, body: bytes = b"", **headers: str) -> Answer:
    """An answer; header names with _ for -."""
    return Answer(status, "", {name.replace("_", "-"): value for name, value in headers.items()},
                  body)


def test_an_error_status_is_told_with_the_beginning_of_its_body() -> None:
    said = b"bad\x1b[31m\nthing " + b"x" * 10_000
    answer = answered(500, said)
    outcome = outcome_of(answer, "worker w", status_detail("http://h/", answer), retryable=True)
    assert outcome.ending == Ending.FAILED
    assert outcome.error is not None
    assert outcome.error.code == "http_status"
    assert outcome.error.message.startswith(
        "worker w answered 500 Internal Server Error: bad [31m thing xxx")
    assert len(outcome.error.message) < 300
    assert isinstance(outcome.error.detail, msgspec.Raw)
    detail = json.loads(bytes(outcome.error.detail))
    assert detail["status"] == 500
    assert detail["body"] == said[:4096].decode()


@pytest.mark.parametrize(("status", "header", "ms"), [
    (503, "7", 7_000), (429, "1", 1_000), (429, "999999999999", 3_600_000), (503, "", 0),
    (503, "soon", 0), (503, "-1", 0), (500, "7", 0), (503, "Wed, 21 Oct 2015 07:28:00 GMT", 0),
    (503, "Tue, 99 Foo 2015", 0), (503, "Mon, 01 Jan 99999 00:00:00 GMT", 0),
    (503, "Fri, 31 Dec 9999 23:59:59 GMT", 3_600_000),
])
def test_retry_after(status: int, header: str, ms: int) -> None:
    assert retry_after_ms(answered(status, retry_after=header)) == ms


@pytest.mark.parametrize("date", [
    "Wed, 21 Oct 2015 07:28:09 GMT", "Wednesday, 21-Oct-15 07:28:09 GMT",
    "Wed Oct 21 07:28:09 2015"])
def test_a_date_to_retry_after_counts_by_the_clock_of_who_says_it(date: str) -> None:
    headers = {"retry-after": date, "date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert asked_wait_ms(headers, 60) == 9_000
    assert asked_wait_ms(headers, 5) == 5_000
    soon = formatdate(time.time() + 30, usegmt=True)
    assert 25_000 < asked_wait_ms({"retry-after": soon}, 60) <= 30_000


def test_a_result_that_grows_over_the_limit_as_json_fails_for_good() -> None:
    answer = answered(200, b"\x01" * (VALUE_BYTES_MAX // 4))
    outcome = outcome_of(answer, "w", status_detail("http://h/", answer), retryable=True)
    assert (outcome.ending, outcome.retryable) == (Ending.FAILED, False)
    assert outcome.error is not None
    assert outcome.error.code == "answer_too_large"


@pytest.mark.parametrize(("code", "ending", "retryable"), [
    ("unreachable", Ending.FAILED, True), ("refused_address", Ending.FAILED, False),
    ("bad_url", Ending.FAILED, False), ("bad_answer", Ending.FAILED, True),
    ("answer_too_large", Ending.FAILED, False), ("connection_lost", Ending.LOST, True),
])
def test_calls_without_an_answer(code: str, ending: Ending, retryable: bool) -> None:
    outcome = unanswered(CallFailed(code, "why"), "worker w", CallDetail("http://h/"))
    assert (outcome.ending, outcome.retryable) == (ending, retryable)
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.message) == (code, "worker w: why")
