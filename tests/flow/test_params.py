"""plumd.flow.params: schemas that are taken, and values that fit."""

from __future__ import annotations

import pytest

from plumd.errors import Invalid
from plumd.expressions import Value
from plumd.flow.params import complete, is_multiple, schema_of

SCHEMA: Value = {
    "type": "object", "required": ["site"], "additionalProperties": False, "properties": {
        "site": {"type": "string", "enum": ["north", "south"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 2, "default": 4},
        "ratio": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "name": {"type": ["string", "null"], "minLength": 2, "maxLength": 3},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2,
                 "uniqueItems": True},
        "deep": {"type": "object", "properties": {"on": {"type": "boolean", "default": True}}}}}


def test_defaults_are_filled_in() -> None:
    schema = schema_of(SCHEMA)
    assert complete(schema, {"site": "north"}) == {"site": "north", "count": 4,
                                                   "deep": {"on": True}}
    assert complete(schema, {"site": "south", "count": 2.0, "name": None, "tags": ["a"]}) == {
        "site": "south", "count": 2.0, "name": None, "tags": ["a"], "deep": {"on": True}}


@pytest.mark.parametrize(("more", "field"), [
    ({"site": "west"}, "site"), ({"site": None}, "site"), ({"count": 0}, "count"),
    ({"count": 10}, "count"), ({"count": 3}, "count"), ({"count": True}, "count"),
    ({"count": 1.5}, "count"), ({"ratio": 0}, "ratio"), ({"ratio": 1}, "ratio"),
    ({"name": "x"}, "name"), ({"name": "long"}, "name"), ({"tags": []}, "tags"),
    ({"tags": ["a", "a"]}, "tags[1]"), ({"tags": ["a", "b", "c"]}, "tags"),
    ({"tags": [1]}, "tags[0]"), ({"deep": {"on": 1}}, "deep.on"), ({"other": 1}, "other")])
def test_what_does_not_fit_is_named(more: dict[str, Value], field: str) -> None:
    given: Value = {"site": "north", **more}
    with pytest.raises(Invalid) as caught:
        complete(schema_of(SCHEMA), given)
    assert caught.value.field == f"payload.{field}"


def test_what_is_missing_is_named() -> None:
    none: tuple[Value, ...] = (None, {})
    for given in none:
        with pytest.raises(Invalid) as caught:
            complete(schema_of(SCHEMA), given)
        assert caught.value.field == "payload.site"


@pytest.mark.parametrize(("value", "step", "fits"), [
    (0.3, 0.1, True), (0.35, 0.1, False), (1e308, 1e-10, False), (10**400, 0.5, False),
    (10**400, 10, True), (10**400 + 1, 10, False), (7.0, 7, True), (5e-324, 1e308, True)])
def test_multiples(value: float, step: float, fits: bool) -> None:
    assert is_multiple(value, step) is fits


@pytest.mark.parametrize(("schema", "field"), [
    (1, "params"), ({"type": "array"}, "params.type"), ({"type": "song"}, "params.type"),
    ({"pattern": "(a+)+$"}, "params.pattern"), ({"$ref": "#"}, "params.$ref"),
    ({"properties": {"x": 1}}, "params.properties.x"),
    ({"properties": {"x": {"minimum": "1"}}}, "params.properties.x.minimum"),
    ({"properties": {"x": {"type": "string", "default": 1}}}, "params.properties.x.default"),
    ({"properties": {"x": {"multipleOf": 0}}}, "params.properties.x.multipleOf"),
    ({"properties": {"x": {"minLength": -1}}}, "params.properties.x.minLength"),
    ({"required": "x"}, "params.required"), ({"required": [1]}, "params.required"),
    ({"enum": 1}, "params.enum")])
def test_schemas_that_would_not_be_held_are_refused(schema: Value, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        schema_of(schema)
    assert caught.value.field == field


def test_a_schema_that_nests_too_deep_is_refused() -> None:
    schema: Value = {"type": "object"}
    for _ in range(50):
        schema = {"properties": {"x": schema}}
    with pytest.raises(Invalid):
        schema_of(schema)
