"""Data between steps: references in payloads, what is kept of results, what a payload becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from plumd.errors import Invalid
from plumd.expressions import (
    Expr,
    Failure,
    Look,
    Path,
    Value,
    Wrong,
    item_of,
    parse_reference,
    text_of,
    walk,
)
from plumd.flow.graph import Fixed, ListOf, MapOf, Template, Text, Whole
from plumd.values import nests_deeper

DEPTH_MAX: Final = 32
NESTING_MAX: Final = 64
"""So deep a value from outside, or one that grew round by round, may nest: what bears it here also
bears it wherever it is read again."""
FILLED_BYTES_MAX: Final = 1 << 20
DECODE: Final[Callable[[bytes], Value]] = msgspec.json.Decoder().decode
ENCODE: Final = msgspec.json.Encoder().encode


class WrongAt(ValueError):
    """A template that cannot be. where: the place inside it."""

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.where = where


def template_of(value: Value, where: str, depth: int = 0) -> Template:
    """A value in which strings may hold `${...}`; `$${` stands for `${` itself.

    Raises: WrongAt.
    """
    if depth > DEPTH_MAX:
        raise WrongAt(f"it nests deeper than {DEPTH_MAX} levels", where)
    if isinstance(value, str):
        return text_template(value, where)
    if isinstance(value, list):
        items = tuple(template_of(item, f"{where}[{index}]", depth + 1)
                      for index, item in enumerate(value))
        if all(isinstance(item, Fixed) for item in items):
            return Fixed([item.value for item in items if isinstance(item, Fixed)])
        return ListOf(items)
    if isinstance(value, dict):
        pairs = tuple((key, template_of(item, f"{where}.{key}", depth + 1))
                      for key, item in value.items())
        if all(isinstance(item, Fixed) for _, item in pairs):
            return Fixed({key: item.value for key, item in pairs if isinstance(item, Fixed)})
        return MapOf(pairs)
    return Fixed(value)


def text_template(text: str, where: str) -> Template:
    """A string's template. Raises: WrongAt."""
    if "${" not in text:
        return Fixed(text)
    parts: list[str | Expr] = []
    kept, at = "", 0
    while (found := text.find("${", at)) >= 0:
        if found > at and text[found - 1] == "$":
            kept += text[at:found - 1] + "${"
            at = found + 2
            continue
        kept += text[at:found]
        if kept:
            parts.append(kept)
            kept = ""
        try:
            expr, at = parse_reference(text, found + 2)
        except Wrong as error:
            raise WrongAt(str(error), where) from None
        parts.append(expr)
    kept += text[at:]
    if kept:
        parts.append(kept)
    if len(parts) == 1:
        only = parts[0]
        return Fixed(only) if isinstance(only, str) else Whole(only)
    return Text(tuple(parts))


def expressions_of(template: Template | None) -> list[Expr]:
    """Every expression in a template."""
    if isinstance(template, Whole):
        return [template.expr]
    if isinstance(template, Text):
        return [part for part in template.parts if not isinstance(part, str)]
    if isinstance(template, ListOf):
        return [expr for item in template.items for expr in expressions_of(item)]
    if isinstance(template, MapOf):
        return [expr for _, item in template.items for expr in expressions_of(item)]
    return []


def fill(template: Template, look: Look) -> Value:
    """The value that a template becomes. Raises: Failure."""
    if isinstance(template, Fixed):
        return template.value
    if isinstance(template, Whole):
        return template.expr.eval(look)
    if isinstance(template, Text):
        return "".join(part if isinstance(part, str) else text_of(part.eval(look))
                       for part in template.parts)
    if isinstance(template, ListOf):
        return [fill(item, look) for item in template.items]
    return {key: fill(item, look) for key, item in template.items}


def fill_bytes(template: Template, look: Look, what: str = "payload") -> bytes:
    """The same as JSON. Raises: Failure, also when it is too large."""
    try:
        filled = ENCODE(fill(template, look))
    except RecursionError:
        raise Failure(f"the {what} nests too deep") from None
    if len(filled) > FILLED_BYTES_MAX:
        raise Failure(f"a {what} made of references takes at most {FILLED_BYTES_MAX} bytes")
    return filled


def bearable(value: Value) -> Value:
    """The value. Raises: Failure when it nests deeper than NESTING_MAX."""
    if not isinstance(value, list | dict):
        return value
    layer: list[Value] = [value]
    for _ in range(NESTING_MAX):
        layer = [inner for one in layer if isinstance(one, list | dict)
                 for inner in (one.values() if isinstance(one, dict) else one)
                 if isinstance(inner, list | dict)]
        if not layer:
            return value
    raise Failure(f"it nests deeper than {NESTING_MAX} levels")


def decoded(data: bytes) -> Value:
    """JSON from outside. Raises: Failure when it is none, or nests too deep."""
    if nests_deeper(data, NESTING_MAX):
        raise Failure(f"it nests deeper than {NESTING_MAX} levels")
    try:
        return DECODE(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Failure(f"it is no JSON: {error}") from None


def read(data: bytes, where: str) -> Value:
    """JSON that came as a part of something. Raises: Invalid: what is well-formed may still mean
    nothing, as a number beyond all doubles or half of a character."""
    try:
        return DECODE(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(f"{error}", field=where) from None


def extract(result: bytes | None, keep: Sequence[Path]) -> dict[Path, Value]:
    """What stands in a result at the paths that somebody refers to; each begins with "result".

    A result whose `stdout` is a JSON object offers its keys too, as processes print them.
    """
    if result is None:
        return {path: None for path in keep if path == ("result",)}
    try:
        whole = decoded(result)
    except Failure:
        return {}
    found: dict[Path, Value] = {}
    printed: Value = None
    for path in keep:
        if path[0] != "result":
            continue
        try:
            found[path] = walk(whole, path[1:])
        except Failure:
            if printed is None:
                printed = printed_of(whole)
            try:
                found[path] = walk(printed, path[1:])
            except Failure:
                continue
    return found


def printed_of(result: Value) -> Value:
    """The JSON object that a process printed, or an empty one."""
    try:
        text = item_of(result, "stdout")
        printed = decoded(text.encode()) if isinstance(text, str) else None
    except (Failure, UnicodeEncodeError):
        return {}
    return printed if isinstance(printed, dict) else {}
