"""plumd.mapping: which events are wanted, and what they become."""

from __future__ import annotations

import json

import pytest
from msgspec import UNSET, Raw

from plumd.errors import Invalid
from plumd.expressions import Failure, Value
from plumd.mapping import (
    ID_CHARS_MAX,
    Happening,
    id_of,
    payload_of,
    rules_of,
    short_id,
    wanted,
)

EVENT: dict[str, Value] = {
    "id": "7", "topic": "tasks", "event": "task", "at": 5,
    "data": {"state": "Failed", "attempt": 2, "taskId": "a"}, "headers": {"x-kind": "push"}}


def of(**data: Value) -> Happening:
    return Happening(EVENT, lambda: data)


@pytest.mark.parametrize(("source", "answer"), [
    ("", True), ('event.data.state == "Failed"', True), ("event.data.attempt > 2", False),
    ('event.headers["x-kind"] == "push"', True), ("event.data.nothing == 1", False),
    ("event.data.state", False), ("has(event.data.nothing)", False),
    ("!has(event.data.nothing) && event.data.attempt == 2", True)])
def test_filters(source: str, answer: bool) -> None:
    assert wanted(rules_of(source, UNSET), of()) is answer


@pytest.mark.parametrize(("payload", "expected"), [
    (None, {"state": "Failed", "attempt": 2, "taskId": "a", "result": [1]}),
    ("${event.data.attempt}", 2), ({"a": "no ${event.id}", "b": 1}, {"a": "no 7", "b": 1}),
    ("${event.data.result[0]}", 1)])
def test_payloads(payload: Value, expected: Value) -> None:
    rules = rules_of("", UNSET if payload is None else Raw(json.dumps(payload)))
    happening = Happening(dict(EVENT), lambda: {"result": [1]})
    assert wanted(rules, happening)
    assert json.loads(payload_of(rules, happening) or b"null") == expected


def test_rows_are_looked_up_only_when_they_are_asked_for() -> None:
    asked: list[int] = []

    def more() -> dict[str, Value]:
        asked.append(1)
        return {"result": 1}

    plain = rules_of('event.data.state == "Failed"', Raw(b'"${event.data.taskId}"'))
    assert wanted(plain, Happening(dict(EVENT), more))
    assert not asked
    for deep in (rules_of("event.data.result == 1", Raw(b"1")), rules_of("", UNSET),
                 rules_of("", Raw(b'"${event}"'))):
        assert wanted(deep, Happening(dict(EVENT), more))
    assert len(asked) == 3


def test_ids() -> None:
    assert id_of(rules_of("", UNSET), of()) == ""
    assert id_of(rules_of("", UNSET, "event.data.taskId + string(event.data.attempt)"), of()) \
        == "a2"
    assert id_of(rules_of("", UNSET, "event.at"), of()) == "5"
    for source in ("event.data.none", "true", "event.data", '""'):
        with pytest.raises(Failure):
            id_of(rules_of("", UNSET, source), of())
    long = [short_id("x" * 300 + end) for end in ("a", "b", "a")]
    assert (len(long[0]), long[0] == long[2], long[0] == long[1]) == (ID_CHARS_MAX, True, False)


@pytest.mark.parametrize(("filter_", "payload", "event_id", "field"), [
    ("event.", b"1", "", "filter"), ("steps.a.result", b"1", "", "filter"),
    ("event.body == 1", b"1", "", "filter"), ("", b'{"a": ["${x}"]}', "", "payload"),
    ("", b'{"a": ["${event.}"]}', "", "payload.a[0]"), ("", b"1", "1 +", "eventId")])
def test_what_could_mean_nothing_is_refused(filter_: str, payload: bytes, event_id: str,
                                            field: str) -> None:
    with pytest.raises(Invalid) as error:
        rules_of(filter_, Raw(payload), event_id)
    assert error.value.field == field


def test_a_payload_has_a_bound() -> None:
    with pytest.raises(Failure, match="65536"):
        payload_of(rules_of("", Raw(json.dumps("x" * 66_000))), of())
