"""Bytes from outside become typed values here, or an error that names the field.

Strict bodies are our own routes': unknown keys are refused (the Structs say so themselves).
Lenient bodies are those of programs written long ago: the first JSON value counts, keys match
whatever their case, null leaves the default, unknown keys are dropped. Values are never coerced.
Payloads typed `msgspec.Raw` pass through byte for byte in both.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Final, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from plumd.errors import Invalid, Malformed
from plumd.values import nests_deeper

DEPTH_MAX: Final = 64
NAME_MAX: Final = 100
"""So much of a field's name is compared with those that there are."""
T = TypeVar("T")

_PATH = re.compile(r" - at (?P<key>`?key`? in )?`?\$(?P<path>[^`]*)`$")
_NAMED = re.compile(r"^Object (?:missing required|contains unknown) field `(?P<name>[^`]*)`")
_SPACE: Final = b" \t\r\n"


def strict(body: bytes, kind: type[T]) -> T:
    """The JSON body as a value of this type.

    Raises Malformed (not JSON, not UTF-8, nested too deep) or Invalid (a field is wrong).
    """
    _check_utf8(body)
    _check_depth(body)
    return _decode(body, kind)


def lenient(body: bytes, kind: type[T]) -> T:
    """The first JSON value of the body as a value of this type, by old clients' rules.

    A key spelled exactly like the field beats its other spellings; else the last one wins.
    Raises Malformed or Invalid.
    """
    first = _first_value(body)
    _check_depth(first)
    if first == b"null" and _is_struct(kind):
        first = b"{}"
    return _decode(_rebuild(first, kind), kind)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise invalid_of(str(error), _names(kind)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from None


def _malformed(error: Exception) -> Malformed:
    if isinstance(error, RecursionError):
        return Malformed(f"the JSON is nested deeper than {DEPTH_MAX} levels")
    if isinstance(error, UnicodeDecodeError):
        return Malformed("the body is not UTF-8")
    return Malformed(f"the body is not JSON: {error}")


def _names(kind: object) -> Sequence[str]:
    """The fields that a body of this type has."""
    return [*_fields(kind)[0]] if _is_struct(kind) else []


def invalid_of(message: str, names: Sequence[str] = ()) -> Invalid:
    """msgspec's message as our error: the path at its end becomes `field`.

    names: the fields of the outermost object, for one that was misspelled.
    """
    path = ""
    key_is_wrong = False
    found = _PATH.search(message)
    if found is not None:
        path = found["path"].lstrip(".")
        key_is_wrong = found["key"] is not None
        message = message[:found.start()]
    named = _NAMED.match(message)
    if named is not None:
        if not path and "unknown" in message:
            meant = difflib.get_close_matches(named["name"][:NAME_MAX], names, n=1)
            message += f"; did you mean `{meant[0]}`?" if meant else ""
        path = f"{path}.{named['name']}" if path else named["name"]
    if key_is_wrong:
        message = f"in a key: {message}"
    return Invalid(message, field=path or None)


def _check_utf8(body: bytes) -> None:
    # msgspec does not look into the strings of a Raw value, so it is done for the whole body.
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"the body is not UTF-8 (byte {error.start})") from None


def _check_depth(body: bytes) -> None:
    """Raises Malformed when brackets nest deeper than DEPTH_MAX."""
    if nests_deeper(body, DEPTH_MAX):
        raise Malformed(f"the JSON is nested deeper than {DEPTH_MAX} levels")


def _first_value(body: bytes) -> bytes:
    """The bytes of the first JSON value; what follows it may be anything."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
        _check_utf8(body)
        return body.strip(_SPACE)
    except (msgspec.DecodeError, RecursionError, Malformed):
        pass
    start = len(body) - len(body.lstrip(_SPACE))
    try:
        text = body[start:].decode()
    except UnicodeDecodeError as error:
        # The bad byte may lie behind the value; if it lies inside, the scan below fails.
        text = body[start:start + error.start].decode()
    try:
        _, end = _SCANNER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from None
    first = text[:end].encode()
    try:
        msgspec.json.decode(first, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _malformed(error) from None
    return first


_NULL: Final = msgspec.Raw(b"null")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


_SCANNER = json.JSONDecoder(parse_constant=_no_constant, parse_int=str, parse_float=str)


# Lenient keys. The value is taken apart only where Structs are; everything else stays bytes.

def _rebuild(raw: bytes, kind: object) -> bytes:
    """The same JSON with the keys of Structs spelled right, nulls and unknown keys dropped."""
    kind = _match(kind, raw)
    origin = get_origin(kind)
    if _is_struct(kind):
        return _rebuild_struct(raw, kind)
    arguments = get_args(kind)
    if origin in (list, set, frozenset) or (origin is tuple and arguments[1:] == (...,)):
        if raw[:1] != b"[" or not _holds_struct(arguments[0]):
            return raw
        items = _parts(raw, list[msgspec.Raw])
        return b"[" + b",".join(_rebuild(bytes(item), arguments[0]) for item in items) + b"]"
    if origin in (dict, Mapping):
        if raw[:1] != b"{" or not _holds_struct(arguments[1]):
            return raw
        return _join({key: _rebuild(bytes(value), arguments[1])
                      for key, value in _parts(raw, dict[str, msgspec.Raw]).items()})
    return raw


def _rebuild_struct(raw: bytes, kind: object) -> bytes:
    if raw[:1] != b"{":
        return raw
    exact, folded, plain = _fields(kind)
    parts = _parts(raw, dict[str, msgspec.Raw])
    if parts.keys() <= plain and _NULL not in parts.values():
        return raw              # it is as right as it can be, as nearly always
    chosen: dict[str, bytes] = {}
    is_exact: set[str] = set()
    for key, value in parts.items():
        name = key if key in exact else folded.get(key.lower())
        if name is None or (name in is_exact and name != key):
            continue
        if name == key:
            is_exact.add(name)
        if value == _NULL:
            continue
        chosen[name] = bytes(value) if name in plain else _rebuild(bytes(value), exact[name])
    return _join(chosen)


def _parts(raw: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from None


def _join(parts: Mapping[str, bytes]) -> bytes:
    encode = msgspec.json.encode
    return b"{" + b",".join(encode(key) + b":" + value for key, value in parts.items()) + b"}"


def _match(kind: object, raw: bytes) -> object:
    """The member of a union that this JSON value can be, as far as its first byte tells."""
    kind = _bare(kind)
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    first = raw[:1]
    for each in get_args(kind):
        member = _bare(each)
        origin = get_origin(member)
        if first == b"{" and (_is_struct(member) or origin in (dict, Mapping)):
            return member
        if first == b"[" and origin in (list, tuple, set, frozenset):
            return member
    return None


def _bare(kind: object) -> object:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


@lru_cache(maxsize=512)
def _holds_struct(kind: object) -> bool:
    return _is_struct(kind) or any(_holds_struct(inner) for inner in get_args(kind))


@lru_cache(maxsize=512)
def _fields(kind: object) -> tuple[Mapping[str, object], Mapping[str, str], frozenset[str]]:
    """(wire name -> type, lower-case wire name -> wire name, names without Structs) of a Struct."""
    assert isinstance(kind, type)
    assert issubclass(kind, msgspec.Struct)
    hints = get_type_hints(kind, include_extras=True)
    exact = dict(zip(kind.__struct_encode_fields__,
                     (hints[name] for name in kind.__struct_fields__), strict=True))
    return exact, {name.lower(): name for name in exact}, frozenset(
        name for name, inner in exact.items() if not _holds_struct(inner))
