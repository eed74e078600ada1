"""The table of builtins says what the code takes."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from plumd.errors import Invalid
from plumd.executors.builtin import NAMES, TABLE, Builtin, carry_out, check
from plumd.executors.builtin_payloads import TYPES
from plumd.model import Ending, Finish, Nap

PAYLOADS: tuple[object, ...] = (
    None, 5, 0, -1, 1e12, "5", {}, {"seconds": 3}, {"seconds": -3}, {"seconds": "3"}, [],
    {"message": "m", "code": "c", "retryable": False}, {"message": 5}, {"retryable": "no"}, True)


def fits(value: object, schema: Mapping[str, object]) -> bool:
    """The little of JSON Schema that the table uses."""
    if "anyOf" in schema:
        options = schema["anyOf"]
        assert isinstance(options, list)
        return any(fits(value, one) for one in options)
    if "not" in schema:
        inner = schema["not"]
        assert isinstance(inner, dict)
        return not fits(value, inner)
    kinds: dict[str, type | tuple[type, ...]] = {
        "number": (int, float), "string": str, "boolean": bool, "object": dict,
        "null": type(None)}
    if "type" in schema:
        if not isinstance(value, kinds[str(schema["type"])]) or (
                isinstance(value, bool) and schema["type"] == "number"):
            return False
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(str(schema.get("minimum", value))) <= value <= float(
                str(schema.get("maximum", value)))
    if isinstance(value, dict):
        parts = schema.get("properties", {})
        assert isinstance(parts, dict)
        return all(fits(value[name], part) for name, part in parts.items() if name in value)
    return True


PLAIN = [each for each in TABLE if each.name not in TYPES]


@pytest.mark.parametrize("builtin", PLAIN, ids=lambda each: each.name)
@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
def test_the_schema_is_what_is_checked(builtin: Builtin, payload: object) -> None:
    text = msgspec.json.encode(payload)
    if fits(payload, msgspec.json.decode(builtin.payload_schema)):
        check(builtin.name, text)
    else:
        with pytest.raises(Invalid):
            check(builtin.name, text)


@pytest.mark.parametrize("name", TYPES)
def test_what_has_a_type_is_checked_key_by_key(name: str) -> None:
    one = next(each for each in TABLE if each.name == name)
    schema, example = msgspec.json.decode(one.payload_schema), msgspec.json.decode(one.example)
    check(name, bytes(one.example))
    assert set(example) <= set(schema["properties"])
    for key in schema.get("required", ()):
        part = {other: value for other, value in example.items() if other != key}
        with pytest.raises(Invalid):
            check(name, msgspec.json.encode(part))
        check(name, msgspec.json.encode(part), whole=False)     # it may come with the run
    for payload in PAYLOADS:
        with pytest.raises(Invalid):
            check(name, msgspec.json.encode(payload))
        with pytest.raises(Invalid):
            check(name, msgspec.json.encode(example | {"more": payload}), whole=False)


@pytest.mark.parametrize("builtin", PLAIN, ids=lambda each: each.name)
def test_the_example_does_what_is_told(builtin: Builtin) -> None:
    assert fits(msgspec.json.decode(builtin.example),
                msgspec.json.decode(builtin.payload_schema))
    done = carry_out(builtin.name, 1, 1, "w", bytes(builtin.example), 0)
    assert isinstance(done, Finish | Nap)
    if isinstance(done, Finish):
        assert (done.ending == Ending.FAILED) is (builtin.name == "builtin.fail")
        assert done.error is None or done.error.code != "invalid_payload"


def test_names_are_those_of_the_table() -> None:
    assert len(set(NAMES)) == len(TABLE)
    with pytest.raises(Invalid):
        check("builtin.none", None)
