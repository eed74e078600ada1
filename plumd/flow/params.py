"""The parameters of a run: a bounded part of JSON Schema, with defaults filled in.

Known are type, enum, const, properties, required, additionalProperties, items, minimum, maximum,
exclusiveMinimum, exclusiveMaximum, multipleOf, minLength, maxLength, minItems, maxItems,
uniqueItems and default; title, description, format, examples and $schema are for people and forms.
Anything else is refused when the workflow is saved, for it would be promised and not held.
"""

from __future__ import annotations

from typing import Final

import msgspec

from plumd.errors import Invalid
from plumd.expressions import Value
from plumd.expressions.values import same

DEPTH_MAX: Final = 16
KEYWORDS: Final = frozenset({
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "minimum",
    "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
    "minItems", "maxItems", "uniqueItems", "default", "title", "description", "format", "examples",
    "$schema", "$id", "$comment", "deprecated", "readOnly", "writeOnly"})
TYPES: Final = ("string", "number", "integer", "boolean", "object", "array", "null")
NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
COUNTS: Final = ("minLength", "maxLength", "minItems", "maxItems")

Schema = dict[str, Value]


def schema_of(value: Value) -> Schema:
    """A schema of an object that says only what is held here. Raises: Invalid."""
    schema = checked(value, "params", 0)
    if schema.get("type", "object") != "object":
        raise Invalid("parameters are an object", field="params.type")
    return schema


def checked(value: Value, where: str, depth: int) -> Schema:
    """Raises: Invalid."""
    if not isinstance(value, dict):
        raise Invalid("a schema is an object", field=where)
    if depth > DEPTH_MAX:
        raise Invalid(f"a schema nests deeper than {DEPTH_MAX} levels", field=where)
    for key, said in value.items():
        place = f"{where}.{key}"
        if key not in KEYWORDS:
            raise Invalid(f"the keyword {key!r} is not known", field=place)
        if key == "type" and not set(texts(said)) <= set(TYPES):
            raise Invalid(f"type is one of {', '.join(TYPES)}", field=place)
        if key in NUMBERS and not is_number(said):
            raise Invalid("this is a number", field=place)
        if key == "multipleOf" and isinstance(said, int | float) and not said > 0:
            raise Invalid("this is greater than 0", field=place)
        if key in COUNTS and not (is_number(said) and isinstance(said, int) and said >= 0):
            raise Invalid("this is a whole number", field=place)
        if key in ("enum", "required") and not isinstance(said, list):
            raise Invalid("this is a list", field=place)
        if key == "required" and "" in texts(said):
            raise Invalid("these are names", field=place)
        if key == "properties":
            if not isinstance(said, dict):
                raise Invalid("this is an object of schemas", field=place)
            for name, inner in said.items():
                checked(inner, f"{place}.{name}", depth + 1)
        if key == "items" or (key == "additionalProperties" and not isinstance(said, bool)):
            checked(said, place, depth + 1)
        if key == "uniqueItems" and not isinstance(said, bool):
            raise Invalid("this is true or false", field=place)
    if "default" in value:
        fit(value["default"], value, f"{where}.default")
    return value


def texts(value: Value) -> list[str]:
    """A string, or a list of them, as a list; anything else is none of the known words."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [one if isinstance(one, str) else "" for one in value]
    return [""]


def check_name(schema: Schema, name: str) -> None:
    """Raises: LookupError when there is no such parameter."""
    properties = schema.get("properties")
    if isinstance(properties, dict) and name not in properties \
            and schema.get("additionalProperties") in (None, False):
        raise LookupError("there is no such parameter")


def complete(schema: Schema, payload: Value) -> Value:
    """The parameters of a run with defaults filled in. Raises: Invalid, naming `payload.x`."""
    return fit({} if payload is None else payload, schema, "payload")


def fit(value: Value, schema: Schema, where: str) -> Value:
    """The value with defaults, if it is what the schema asks for. Raises: Invalid."""
    said = schema.get("type")
    if said is not None and not any(is_of(value, word) for word in texts(said)):
        raise Invalid(f"this is of type {' or '.join(texts(said))}", field=where)
    if "const" in schema and not same(value, schema["const"]):
        raise Invalid(f"this is {shown(schema['const'])}", field=where)
    choices = schema.get("enum")
    if isinstance(choices, list) and not any(same(value, one) for one in choices):
        raise Invalid(f"this is one of {', '.join(map(shown, choices))}", field=where)
    if isinstance(value, str):
        bounds(len(value), schema, ("minLength", "maxLength"), "characters", where)
    elif isinstance(value, list):
        bounds(len(value), schema, ("minItems", "maxItems"), "items", where)
        return fit_list(value, schema, where)
    elif isinstance(value, dict):
        return fit_object(value, schema, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        fit_number(value, schema, where)
    return value


def fit_number(value: float, schema: Schema, where: str) -> None:
    """Raises: Invalid."""
    low, high = schema.get("minimum"), schema.get("maximum")
    over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    step = schema.get("multipleOf")
    if isinstance(low, int | float) and value < low:
        raise Invalid(f"this is at least {low}", field=where)
    if isinstance(high, int | float) and value > high:
        raise Invalid(f"this is at most {high}", field=where)
    if isinstance(over, int | float) and value <= over:
        raise Invalid(f"this is greater than {over}", field=where)
    if isinstance(under, int | float) and value >= under:
        raise Invalid(f"this is less than {under}", field=where)
    if isinstance(step, int | float) and not is_multiple(value, step):
        raise Invalid(f"this is a multiple of {step}", field=where)


def is_multiple(value: float, step: float) -> bool:
    """Whether it is so many steps, give or take what doubles cannot tell apart."""
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    try:
        times = value / step
        return abs(times - round(times)) <= 1e-9
    except OverflowError:
        return False        # more than anything can count


def fit_list(value: list[Value], schema: Schema, where: str) -> Value:
    """Raises: Invalid."""
    if schema.get("uniqueItems") is True:
        seen: set[bytes] = set()
        for index, item in enumerate(value):
            key = msgspec.json.encode(item, order="sorted")
            if key in seen:
                raise Invalid("this is there twice", field=f"{where}[{index}]")
            seen.add(key)
    inner = schema.get("items")
    if not isinstance(inner, dict):
        return value
    return [fit(item, inner, f"{where}[{index}]") for index, item in enumerate(value)]


def fit_object(value: dict[str, Value], schema: Schema, where: str) -> Value:
    """Raises: Invalid."""
    known = schema.get("properties")
    known = known if isinstance(known, dict) else {}
    rest = schema.get("additionalProperties")
    found: dict[str, Value] = {}
    for name, item in value.items():
        inner = known.get(name, rest)
        if inner is False:
            raise Invalid("there is no such parameter", field=f"{where}.{name}")
        found[name] = fit(item, inner, f"{where}.{name}") if isinstance(inner, dict) else item
    for name, inner in known.items():
        if name not in found and isinstance(inner, dict):
            if "default" in inner:
                found[name] = inner["default"]
            elif inner.get("type") == "object" and has_defaults(inner):
                found[name] = fit({}, inner, f"{where}.{name}")
    for name in texts(schema.get("required", [])):
        if name not in found:
            raise Invalid("this is missing", field=f"{where}.{name}")
    return found


def has_defaults(schema: Schema) -> bool:
    """Whether an object that is left out can be made of defaults alone."""
    inner = schema.get("properties")
    return isinstance(inner, dict) and not texts(schema.get("required", [])) and any(
        isinstance(one, dict) and "default" in one for one in inner.values())


def bounds(size: int, schema: Schema, names: tuple[str, str], what: str, where: str) -> None:
    """Raises: Invalid."""
    low, high = schema.get(names[0]), schema.get(names[1])
    if isinstance(low, int) and size < low:
        raise Invalid(f"this has at least {low} {what}", field=where)
    if isinstance(high, int) and size > high:
        raise Invalid(f"this has at most {high} {what}", field=where)


def is_number(value: Value) -> bool:
    """A number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_of(value: Value, word: str) -> bool:
    """Whether a value is of a type of JSON Schema; 1.0 is an integer there."""
    if word == "integer":
        return is_number(value) and (isinstance(value, int) or
                                     (isinstance(value, float) and value.is_integer()))
    if word == "number":
        return is_number(value)
    kinds: dict[str, type] = {"string": str, "boolean": bool, "object": dict, "array": list}
    return value is None if word == "null" else isinstance(value, kinds[word])


def shown(value: Value) -> str:
    """A value in a message."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
