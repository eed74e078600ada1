"""plumd.expressions: what they mean, and that no source does anything but answer or refuse."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plumd.expressions import Failure, Path, Value, Wrong, parse, parse_reference, references, walk

KNOWN: Value = {"n": 3, "f": 1.5, "s": "north", "t": True, "z": None,
                "l": [1, 2, {"x": "y"}], "m": {"a-b": 7}, "站点": "北", "naïve_2": 1}


def look(root: str, path: Path) -> Value:
    if root != "params":
        raise Failure(f"no {root}")
    return walk(KNOWN, path)


@pytest.mark.parametrize(("source", "value"), [
    ("1 + 2 * 3 - 4", 3), ("7 / 2", 3), ("-7 / 2", -3), ("-7 % 3", -1), ("7.0 / 2", 3.5),
    ("1 == 1.0", True), ("1 == true", False), ("'a' < 'b'", True), ("2 >= 2", True),
    ("[1, [2]] == [1.0, [2]]", True), ("params.n > 2 && params.s == 'north'", True),
    ("params.l[2].x", "y"), ("params.l[params.n - 1].x", "y"), ("params['m']['a-b']", 7),
    ("2 in params.l", True), ("'a-b' in params.m", True), ("has(params.nothing.at.all)", False),
    ("has(params.z)", True), ("params.z == null", True), ("!params.t || 1 / 0 == 1 || true", True),
    ("1 / 0 == 1 && false", False), ("false ? 1 / 0 : 2", 2), ("size(params.s)", 5),
    ("params.站点 == '北' && params.naïve_2 == 1", True),
    ("params.l.size()", 3), ("params.s.startsWith('no') && params.s.endsWith(\"th\")", True),
    ("params.s.contains('x')", False), ("int('12') + int(1.9)", 13), ("double('0.5')", 0.5),
    ("string(params.l)", '[1,2,{"x":"y"}]'), ("'a' + \"b\\n\"", "ab\n"), ("[1] + [2]", [1, 2]),
    ("--1", 1), ("!!true", True), ("-9223372036854775808", -(1 << 63)), ("'' + string(null)", ""),
    ("1 < 2 == true", True), ("true ? false ? 1 : 2 : 3", 2)])
def test_what_they_mean(source: str, value: Value) -> None:
    found = parse(source).eval(look)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("source", [
    "1 / 0", "1 % 0", "1.5 % 1", "params.nothing", "params.l[3]", "params.l[-1]", "params.l['x']",
    "params.s.x", "params.m[1]", "1 + 'a'", "1 < 'a'", "!1", "-true", "1 && true", "steps.a",
    "9223372036854775807 + 1", "1e308 * 10", "size(1)", "int('x')", "double('x')", "1 in 2",
    "1 ? 2 : 3", "int('99999999999999999999')"])
def test_what_has_no_value(source: str) -> None:
    expr = parse(source)
    with pytest.raises(Failure):
        expr.eval(look)


@pytest.mark.parametrize(("source", "at"), [
    ("", 0), ("1 +", 3), ("(1", 2), ("1)", 1), ("a b", 2), ("a.", 2), ("a.1", 2), ("[1,", 3),
    ("'a", 0), ("'\\q'", 1), ("foo(1)", 0), ("a.map(1)", 2), ("size()", 0), ("size(1, 2)", 0),
    ("has(1)", 4), ("1 ? 2", 5), ("9223372036854775808", 19), ("a = 1", 2), ("a; b", 1),
    ("#", 0), ("contains('a', 'b')", 0)])
def test_what_is_no_expression_is_refused_with_its_place(source: str, at: int) -> None:
    with pytest.raises(Wrong) as caught:
        parse(source)
    assert caught.value.at == at


@pytest.mark.parametrize("source", [
    "1" * 2_001, "(" * 900 + ")" * 900, "[" * 900, "!" * 1_000 + "true", "-" * 1_000 + "1",
    "a" + ".b" * 900, "a" + "[0]" * 600, "true ? " * 250, "size(" * 390])
def test_bombs_are_refused(source: str) -> None:
    with pytest.raises(Wrong):
        parse(source)


def test_long_chains_are_no_depth() -> None:
    assert parse("+".join(["1"] * 1_000)).eval(look) == 1_000
    assert parse("&&".join(["true"] * 300)).eval(look) is True


def test_texts_and_lists_stay_bounded() -> None:
    large: dict[str, Value] = {"s": "x" * (1 << 20), "l": [0] * 60_000}
    for source in ("params.s + params.s", "params.l + params.l"):
        with pytest.raises(Failure):
            parse(source).eval(lambda _, path: large[str(path[0])])


@pytest.mark.parametrize("source", [
    "n + 1.5", "n * 1.5", "n / 2.0", "1.5 / n", "n - 1.0", "double(n)", "int(n)", "-n", "n % 7",
    "n < 1.5", "n == 1.5", "[n] == [1.5]", "string(n)", "1.5 in [n]"])
@pytest.mark.parametrize("sign", [1, -1])
def test_whole_numbers_that_no_double_is_near_to(source: str, sign: int) -> None:
    """JSON has them, so a worker's result may."""
    with suppress(Failure):
        parse(source).eval(lambda *_: sign * 10**400)


def test_references_and_where_they_end() -> None:
    expr, end = parse_reference("say ${steps.a.result['x}'][0] + params.n} twice", 6)
    assert end == 41
    assert sorted(map(str, references(expr))) == ["params.n", 'steps.a.result["x}"][0]']
    with pytest.raises(Wrong):
        parse_reference("${a", 2)


PIECES = st.sampled_from([
    "params", ".", "n", "l", "s", "[", "]", "(", ")", "0", "1", "2.5", "'a'", '"', "'", "\\", "+",
    "-", "*", "/", "%", "<", "==", "!=", "&&", "||", "!", "?", ":", ",", " in ", "has", "size",
    "int", "true", "null", " ", "{", "}", "$", "é", "\n", "9" * 30, "1e400"])


@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=40).map("".join)))
@settings(max_examples=600, deadline=None)
@example("1e400")
@example("'\\")
def test_any_source_is_a_value_a_failure_or_wrong(source: str) -> None:
    with suppress(Failure, Wrong):
        parse(source).eval(look)
    with suppress(Wrong):
        parse_reference(f"${{{source}}}", 2)
