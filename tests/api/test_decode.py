"""Bodies and parameters: what is read, and which field an error names."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Raw, UnsetType

from plumd.api.decode import DEPTH_MAX, lenient, strict
from plumd.api.paging import cursor_key, next_link, page_limit
from plumd.api.params import (
    idempotency_key,
    if_version,
    parse_query,
    prefer_wait_s,
    query_bool,
    query_choice,
    query_int,
    query_text,
    unquote,
)
from plumd.api.routes import Request
from plumd.errors import Invalid, Malformed
from plumd.store.precondition import ABSENT, ANY


class Step(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """One step."""

    name: str
    max_retries: Annotated[int, Meta(ge=0)] = 0
    payload: Raw | UnsetType = UNSET


class Flow(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A body with everything in it."""

    name: str
    steps: list[Step] = []
    labels: dict[str, int] = {}
    first_step: Step | None = None
    by_key: dict[str, Step] = {}
    timeout_sec: float = 300.0
    note: int | str | None = 7
    anything: Raw | UnsetType = UNSET


@pytest.mark.parametrize(("body", "field", "words"), [
    (b'{"name":1}', "name", "Expected `str`, got `int`"),
    (b'{"name":null}', "name", "Expected `str`, got `null`"),
    (b"{}", "name", "missing required"),
    (b"[]", None, "Expected `object`"),
    (b'{"name":"a","nope":1}', "nope", "unknown field"),
    (b'{"name":"a","Name":"b"}', "Name", "unknown field `Name`; did you mean `name`?"),
    (b'{"name":"a","timeout":9}', "timeout", "unknown field `timeout`; did you mean `timeoutSec`?"),
    (b'{"name":"a","' + b"x" * 100_000 + b'":1}', "x" * 100_000, "unknown field"),
    (b'{"name":"a","steps":[{"name":"b"},{"name":"c"},{"name":3}]}', "steps[2].name", "`str`"),
    (b'{"name":"a","steps":[{}]}', "steps[0].name", "missing required"),
    (b'{"name":"a","steps":[{"name":"x","max_retries":1}]}', "steps[0].max_retries", "unknown"),
    (b'{"name":"a","steps":[{"name":"x","maxRetries":-1}]}', "steps[0].maxRetries", ">= 0"),
    (b'{"name":"a","labels":{"x":"y"}}', "labels[...]", "`int`"),
    (b'{"name":"a","firstStep":{"name":2}}', "firstStep.name", "`str`"),
    (b'{"name":"a","timeoutSec":"5"}', "timeoutSec", "`float`, got `str`"),
])
def test_strict_names_the_field(body: bytes, field: str | None, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        strict(body, Flow)
    assert caught.value.field == field
    assert words in caught.value.detail
    assert "$" not in caught.value.detail


@pytest.mark.parametrize("body", [
    b"", b" ", b"{", b'{"name":', b'{"name":"a"} x', b'{"name":"a"}{}', b"nul", b"{'name':1}",
    b'\xef\xbb\xbf{"name":"a"}', b'{"name":"\xff"}', b'{"name":"a","anything":"\xff"}',
    b'{"name":"\\ud800"}', b'{"name":"a\x01"}', b"NaN", b'{"name":"a","anything":[1,]}',
    b"[" * 100_000, b'{"name":"a","anything":' + b"[" * 65 + b"]" * 65 + b"}",
    b'{"a":' * 70 + b"1" + b"}" * 70,
])
def test_malformed_bodies(body: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        strict(body, Flow)
    assert caught.value.status == 400
    assert len(caught.value.detail) < 300
    if body not in (b'{"name":"a"} x', b'{"name":"a"}{}'):
        with pytest.raises(Malformed):
            lenient(body, Flow)


def test_strict_keeps_raw_bytes_and_the_last_of_doubled_keys() -> None:
    raw = b'{"b": 1.50, "a":[1e2,"\\u00e9 [["] }'
    flow = strict(b'{"name":"x","name":"y","anything":' + raw + b"}", Flow)
    assert flow.name == "y"
    assert isinstance(flow.anything, Raw)
    assert bytes(flow.anything) == raw


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_depth_is_bounded_exactly_and_strings_do_not_count() -> None:
    """Width does not matter, brackets inside strings do not, levels do."""
    def holding(value: bytes) -> bytes:
        return b'{"name":"x","anything":' + value + b"}"

    strict(holding(nested(DEPTH_MAX - 1)), Flow)
    with pytest.raises(Malformed, match="nested deeper"):
        strict(holding(nested(DEPTH_MAX)), Flow)
    wide = b"[" + b",".join([nested(10)] * 500) + b"]"
    strict(holding(wide), Flow)
    quoted = json.dumps("[{\\\"" * 200).encode()
    strict(holding(quoted), Flow)
    tricky = b'["\\\\", "\\"[[[", "]\\\\\\"[", ' + nested(20) + b"]"
    strict(holding(b"[" + b",".join([tricky] * 50) + b"]"), Flow)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30)


def depth_of(value: object) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 0


@given(JSON_VALUES, st.integers(0, 70), st.booleans())
def test_depth_agrees_with_counting(value: object, extra: int, ascii_only: bool) -> None:
    for _ in range(extra):
        value = [value, "]}[{"]
    try:
        body = json.dumps(value, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    if depth_of(value) <= DEPTH_MAX:
        assert bytes(strict(body, Raw)) == body
    else:
        with pytest.raises(Malformed):
            strict(body, Raw)


PIECES = st.text(alphabet='{}[]":,\\ntrue0-9e.', max_size=40).map(str.encode)


@given(st.binary(max_size=60) | PIECES)
def test_decoding_raises_nothing_else(body: bytes) -> None:
    for read in (strict, lenient):
        for kind in (Flow, Step, Raw, list[Step], dict[str, Step]):
            with suppress(Malformed, Invalid):
                read(body, kind)


# Lenient bodies.

@pytest.mark.parametrize(("body", "expected"), [
    (b'{"NAME":"a"}', Flow("a")),
    (b' {"name":"a"}\n', Flow("a")),
    (b'{"name":"a"} trailing {', Flow("a")),
    (b'{"name":"a"}\xff\xfe', Flow("a")),
    (b'{"name":"a","timeoutSec":null,"steps":null,"note":null}', Flow("a")),
    (b'{"name":"a","unknown":{"deep":[1]},"x":null}', Flow("a")),
    (b'{"name":"a","TIMEOUTSEC":5}', Flow("a", timeout_sec=5.0)),
    (b'{"name":"a","Name":"b"}', Flow("a")),
    (b'{"Name":"b","name":"a"}', Flow("a")),
    (b'{"Name":"b","NAME":"c"}', Flow("c")),
    (b'{"name":"a","name":"b"}', Flow("b")),
    (b'{"name":"a","STEPS":[{"NAME":"s","maxretries":2,"other":1}]}',
     Flow("a", steps=[Step("s", 2)])),
    (b'{"name":"a","firststep":{"Name":"s"}}', Flow("a", first_step=Step("s"))),
    (b'{"name":"a","byKey":{"K":{"NAME":"s"},"k":{"name":"t"}}}',
     Flow("a", by_key={"K": Step("s"), "k": Step("t")})),
    (b'{"name":"a","labels":{"A":1,"a":2}}', Flow("a", labels={"A": 1, "a": 2})),
    (b'{"name":"a","note":"text"}', Flow("a", note="text")),
    (b'{"name":"a","anything":{"Name": 1.0, "x":null}}',
     Flow("a", anything=Raw(b'{"Name": 1.0, "x":null}'))),
])
def test_lenient(body: bytes, expected: Flow) -> None:
    assert lenient(body, Flow) == expected


@pytest.mark.parametrize(("body", "field"), [
    (b"null", "name"), (b'{"name":null}', "name"), (b'{"name":5}', "name"),
    (b'{"NAME":"a","TimeoutSec":"5"}', "timeoutSec"),
    (b'{"name":"a","steps":[{"Name":"x"},{"NAME":1}]}', "steps[1].name"),
    (b'{"name":"a","steps":{}}', "steps"), (b"[]", None), (b"5", None), (b'"x" y', None),
])
def test_lenient_still_checks_types(body: bytes, field: str | None) -> None:
    with pytest.raises(Invalid) as caught:
        lenient(body, Flow)
    assert caught.value.field == field


@pytest.mark.parametrize("body", [b"x", b"{} "[:1], b'{"a":tru} {}', b'{"a":1e} x', b"NaN", b"-",
                                  b'{"a":"\xff"} x', b"Infinity {}", b'{"a":NaN} x'])
def test_lenient_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        lenient(body, Flow)


@given(st.fixed_dictionaries(
    {"name": st.text()},
    optional={"steps": st.lists(st.fixed_dictionaries(
        {"name": st.text()}, optional={"maxRetries": st.integers(0, 9), "payload": JSON_VALUES})),
        "labels": st.dictionaries(st.text(), st.integers(-9, 9)), "anything": JSON_VALUES}),
    st.sampled_from([str.upper, str.lower, str.title, str.swapcase]), st.binary(max_size=5))
def test_lenient_reads_what_strict_reads(body: dict[str, object], spell: Callable[[str], str],
                                         rest: bytes) -> None:
    """Whatever the case of the keys and whatever follows the value."""
    def respell(value: dict[str, object]) -> dict[str, object]:
        made: dict[str, object] = {}
        for key, inner in value.items():
            if key == "steps" and isinstance(inner, list):
                made[spell(key)] = [respell(step) for step in inner]
            else:
                made[spell(key)] = inner
        return made

    try:
        plain = json.dumps(body).encode()
        expected = strict(plain, Flow)
    except Malformed:
        return      # a lone surrogate
    shouted = json.dumps(respell(body)).encode()
    found = lenient(shouted + b" " + rest, Flow)
    if isinstance(expected.anything, Raw) and bytes(expected.anything) == b"null":
        expected.anything = UNSET
    for step in expected.steps:
        if isinstance(step.payload, Raw) and bytes(step.payload) == b"null":
            step.payload = UNSET
    assert found == expected


# Parameters.

def test_query_parsing() -> None:
    assert parse_query("a=1&a=2&b=%C3%A9+x%2B&c&=d&&e==f") == {
        "a": "1", "b": "é x+", "c": "", "": "d", "e": "=f"}
    assert parse_query("") == {}
    assert unquote("a%2Fb%zz+") == "a/b%zz+"
    for raw in ("a=%ff", "%c3=1", "a=%ed%a0%80"):
        with pytest.raises(Malformed):
            parse_query(raw)


@pytest.mark.parametrize(("text", "expected"), [
    (None, 7), ("", 7), ("1", 1), ("0010", 10), ("10", 10), ("0", None), ("11", None), ("-1", None),
    ("1.0", None), ("x", None), ("٣", None), ("1e1", None), (" 1", None), ("9" * 400, None)])
def test_query_int(text: str | None, expected: int | None) -> None:
    query = {} if text is None else {"limit": text}
    if expected is None:
        with pytest.raises(Invalid) as caught:
            query_int(query, "limit", 7, low=1, high=10)
        assert caught.value.field == "limit"
    else:
        assert query_int(query, "limit", 7, low=1, high=10) == expected


def test_query_words() -> None:
    assert query_bool({"all": "TRUE"}, "all")
    assert query_bool({"all": ""}, "all")
    assert not query_bool({"all": "0"}, "all", default=True)
    assert query_bool({}, "all", default=True)
    assert query_choice({"state": "running"}, "state", ("Queued", "Running")) == "Running"
    assert query_choice({}, "state", ("Queued",), "Queued") == "Queued"
    assert query_text({"service": "a"}, "service") == "a"
    for call in (lambda: query_bool({"all": "maybe"}, "all"),
                 lambda: query_choice({"all": "x"}, "all", ("a", "b")),
                 lambda: query_text({}, "all"),
                 lambda: query_text({"all": "x" * 2000}, "all")):
        with pytest.raises(Invalid) as caught:
            call()
        assert caught.value.field == "all"


@pytest.mark.parametrize(("text", "expected"), [
    (None, None), ("*", ANY), ('"3"', 3), ("3", 3), (' "12" ', 12), ("0", ABSENT)])
def test_if_match(text: str | None, expected: int | None) -> None:
    assert if_version({} if text is None else {"if-match": text}) == expected


@pytest.mark.parametrize("text", [
    "", '"x"', 'W/"3"', '"3", "4"', "-1", "-3", '"' + "9" * 30 + '"', '"*"'])
def test_an_if_match_that_is_none(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        if_version({"if-match": text})
    assert caught.value.field == "If-Match"


def test_if_none_match_is_for_those_who_only_create() -> None:
    assert if_version({"if-none-match": " * "}) == ABSENT
    for headers in ({"if-none-match": '"3"'}, {"if-none-match": "*", "if-match": '"3"'}):
        with pytest.raises(Invalid) as caught:
            if_version(headers)
        assert caught.value.field == "If-None-Match"


@pytest.mark.parametrize(("text", "expected"), [
    (None, 0), ("wait=30", 30), ("wait=100", 60), ("respond-async, wait=10", 10),
    ('Wait = "5"', 5), ("wait=5; x=y", 5), ("wait", 0), ("wait=x", 0), ("nowait=5", 0),
    ("wait=-5", 0), ("wait=" + "9" * 30, 0)])
def test_prefer(text: str | None, expected: int) -> None:
    assert prefer_wait_s({} if text is None else {"prefer": text}) == expected


def test_idempotency_key() -> None:
    assert idempotency_key({}) is None
    for good in ("a", "x" * 255, '"quoted"', "!~"):
        assert idempotency_key({"idempotency-key": good}) == good
    for bad in ("", " ", "a b", "é", "x" * 256, "a\x7f"):
        with pytest.raises(Invalid) as caught:
            idempotency_key({"idempotency-key": bad})
        assert caught.value.field == "Idempotency-Key"


def listing(**query: str) -> Request:
    return Request("GET", "/v1/kv/n é", {}, query, {}, b"")


@given(st.text())
def test_cursor_comes_back(key: str) -> None:
    if not key or any("\ud800" <= each <= "\udfff" for each in key):
        return
    name, link = next_link(listing(limit="5", state="Running"), key)
    target = link[1:link.index(">")]
    path, _, raw = target.partition("?")
    assert (name, unquote(path), link[link.index(">"):]) == (
        "link", "/v1/kv/n é", '>; rel="next"')
    assert target.isascii()
    query = parse_query(raw)
    assert (query["limit"], query["state"]) == ("5", "Running")
    assert cursor_key(listing(**query)) == key


def test_page_limits() -> None:
    assert page_limit(listing()) == 100
    assert page_limit(listing(limit="1000")) == 1000
    for bad in ("0", "1001", "x"):
        with pytest.raises(Invalid, match="limit"):
            page_limit(listing(limit=bad))
    assert cursor_key(listing()) is None
    for bad in ("%%", "é", "A", "x" * 5000, "____"):
        with pytest.raises(Invalid) as caught:
            cursor_key(listing(cursor=bad))
        assert caught.value.field == "cursor"
