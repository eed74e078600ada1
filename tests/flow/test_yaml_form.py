"""plumd.flow.yaml_form: what is written is read back; hostile texts are refused with the place."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from plumd.errors import Invalid, Malformed
from plumd.expressions import Value
from plumd.flow.yaml_form import located, read, write
from plumd.flow.yaml_reader import VALUES_MAX

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from((
    "yes", "no", "on", "off", "null", "~", "true", "1", "0x1f", "0o7", "1e3", "1_000", "12:30:00",
    ".5", "-1", "---", "...", "- a", "a: b", "a #b", "#", "key:", " x", "x ", "a\nb", "a\nb\n",
    "\n", "a\n\n", " a\nb", "a\n b", "a\n  \nb", "a\n ", "a\r\nb", "\t", "${params.x}", "<<", "=",
    "!x", "&a", "*a", "|", ">", "%", "@", "`", "{", "[", "'", '"', "2026-11-25", "\ufeff", "\x85",
    "\u2028", "\U0001f600", "\\", "", "测量", "站点: 北", "二、三", "٣", "x²", "ª", "नमस्ते"))
SCALARS = (st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1)
           | st.floats(allow_nan=False, allow_infinity=False) | TEXTS)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4)
                      | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=30)


def same(left: Value, right: Value) -> bool:
    """Equal with the types: 1 is not 1.0, nor true."""
    return json.dumps(left) == json.dumps(right)


@given(VALUES)
@settings(max_examples=500, deadline=None)
def test_what_is_written_is_read_back(value: Value) -> None:
    text = write({"value": value})
    [document] = read(text)
    assert same(document.value, {"value": value}), text
    # Where other programs read YAML 1.1, texts are texts all the same.
    assert words(yaml.safe_load(text)["value"]) == words(value), text


def words(value: object) -> list[str]:
    """All texts in a value, in order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [word for item in value for word in words(item)]
    if isinstance(value, dict):
        return [word for key, item in value.items() for word in (str(key), *words(item))]
    return []


def test_it_looks_as_people_write_it() -> None:
    value: Value = {"name": "nightly", "steps": [
        {"id": "fetch", "needs": ["a", "b"], "task": {"name": "builtin.echo"},
         "payload": {"n": "${params.value}", "text": "one\ntwo\n", "none": None, "list": []}},
        {"id": "on", "needs": [{"step": "high", "on": "true"}], "when": "params.x > 1"}]}
    assert write(value) == """\
name: nightly
steps:
  - id: fetch
    needs: [a, b]
    task:
      name: builtin.echo
    payload:
      n: ${params.value}
      text: |
        one
        two
      none: null
      list: []
  - id: "on"
    needs:
      - step: high
        "on": "true"
    when: params.x > 1
"""
    assert read(write(value))[0].value == value


def test_names_of_any_script_need_no_quotes() -> None:
    assert write({"站点": "北京", "needs": ["测量", "b-1"]}) == "站点: 北京\nneeds: [测量, b-1]\n"


def test_words_of_the_newer_yaml() -> None:
    [document] = read("{on: true, off: no, yes: Yes, n: 0o17, h: 0x1F, f: 1e3, e: , t: 12:30}")
    assert document.value == {"on": True, "off": "no", "yes": "Yes", "n": 15, "h": 31, "f": 1000.0,
                              "e": None, "t": "12:30"}


def test_anchors_are_copies() -> None:
    [document] = read("a: &x {n: 1}\nb: [*x, *x]\n")
    assert document.value == {"a": {"n": 1}, "b": [{"n": 1}, {"n": 1}]}


def test_places() -> None:
    [first, second] = read("name: a\n---\nname: b\nsteps:\n  - id: x\n    when: 1 >\n")
    assert first.place("name") == (1, 1)
    assert second.place("steps[0].when") == (6, 5)
    assert second.place("steps[0].when.deeper[3]") == (6, 5)
    assert second.place("steps[7]") == (4, 1)
    assert second.place(None) == (3, 1)
    error = located(second, Invalid("it is wrong", field="steps[0].when"))
    assert (error.detail, error.field) == ("line 6, column 5: it is wrong", "steps[0].when")


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(("text", "words"), [
    (LAUGHS, "line 6, column 10: there are more than"),
    ("a: &a " + "x" * 400_000 + "\nb: [" + "*a, " * 1_000 + "]", "there are more than"),
    ("a: &a [*a]", "line 1, column 8: there is no anchor 'a'"),
    ("[" * 500, "line 1, column 50: it nests deeper"), ("[" * 100_000, "line 1, column "),
    ("- " * 100_000 + "x", "it nests deeper"),
    ("? " * 100_000 + "x", "a key is a plain text"),
    ("{a: " * 10_000, "it nests deeper"),
    ("x: [" + "1, " * (VALUES_MAX + 10) + "]", "there are more than"),
    ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' comes twice"),
    ("a: !!python/object/apply:os.system [id]", "line 1, column 4: tags are not taken"),
    ("a: !!binary aGVsbG8=", "tags are not taken"),
    ("<<: {a: 1}", "merge keys"),
    ("? [a, b]\n: 1", "a key is a plain text"),
    ("a: .inf", "JSON has no such number"),
    ("a: 1e999", "too large"),
    ("a: " + "9" * 30, "64 bits"),
    ("a: b: c", "line 1, column 5: it is no YAML"),
    ("a:\n\t- b", "it is no YAML"),
    ("a: \x07", "it is no YAML"),
    ("'unfinished", "it is no YAML"),
    ("x" * (5 << 20), "at most"),
    ("a: 1\n---\n" * 600, "documents"),
])
def test_hostile_texts_are_refused_with_the_place(text: str, words: str) -> None:
    with pytest.raises(Malformed) as error:
        read(text)
    assert words in error.value.detail


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
@settings(max_examples=500, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        documents = read(text)
    except Malformed:
        return
    for document in documents:
        assert same(read(write(document.value))[0].value, document.value)
