"""The OpenAPI document, made from the table of routes and the types that decode requests.

Source: OpenAPI 3.1.0; JSON Schema 2020-12; RFC 9457.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Raw, UnsetType

from plumd.api.paging import CURSOR, LIMIT
from plumd.api.problem import PROBLEM_JSON, Problem
from plumd.api.routes import JSON, Query, Route

Node = dict[str, object]

HEADER_PARAMETERS: Final = frozenset({
    "If-Match", "If-None-Match", "Prefer", "Last-Event-ID", "Idempotency-Key"})
"""A Query of one of these names is documented as a header."""

PAGE_TAG: Final = "pages"
"""Routes for people, left out of the document."""

IDEMPOTENCY_KEY: Final = Query(
    "Idempotency-Key", str, "Sent again with the same body within 24 h, the same answer comes "
    "back and nothing is made twice; with another body the answer is 422.")

PREFER: Final = Query(
    "Prefer", str, "wait=N: the answer comes at the end, or after N seconds (at most 60).")
IF_MATCH: Final = Query(
    "If-Match", str, 'Only if this is still the version, like "3", or * for any; else 412.')
IF_NONE_MATCH: Final = Query(
    "If-None-Match", str, "*: only if it is not there yet; else 412.")
IF_CHANGED: Final = Query(
    "If-None-Match", str, 'Like "3": while this is still the version, the answer is 304.')
LAST_EVENT_ID: Final = Query(
    "Last-Event-ID", str, "The number of the last event that was read; the next ones follow.")


class EventStream:
    """The type of an answer that is a stream of server-sent events."""


class YamlText:
    """The type of an answer that is a YAML document."""


class ZipFile:
    """The type of an answer that is a zip file, or a range of one."""


_REFS: Final = "#/components/schemas/{name}"
_PLACEHOLDER = re.compile(r"\{([^}.]+)(\.\.\.)?\}")

_ERRORS: Final[Mapping[int, str]] = {
    400: "The request cannot be read: not JSON, not UTF-8, no Host.",
    403: "Refused by the rules for Host, Origin, Sec-Fetch-Site or the trusted network.",
    404: "No such thing.",
    405: "The path exists, the method does not.",
    408: "The body did not arrive in time.",
    409: "The state does not allow it, the name is taken, or the report is stale.",
    412: "If-Match or If-None-Match asked for another version than there is.",
    413: "A body, payload or list is over its limit.",
    415: "The body is not declared as application/json.",
    416: "The file has no such bytes.",
    422: "A field or parameter has a wrong type or value; `field` names it.",
    429: "A limit on how many is reached; see Retry-After.",
    431: "The request's head is over its limit.",
    500: "A defect of the daemon.",
    502: "The far side said no, or did not answer.",
    503: "Overloaded, shutting down, or the disk refuses writes; see Retry-After.",
    504: "The far side did not answer in time.",
}
_RARE: Final = frozenset({416, 502, 504})
"""Errors that only those routes have that say so."""


def document(routes: Sequence[Route], *, version: str) -> Node:
    """The document as plain JSON values.

    A field that holds any JSON is `Raw | UnsetType = UNSET`, or Raw with a default (`Raw | None`
    would read nothing but null). Raises TypeError when a type has no schema.
    """
    shown = [route for route in routes if route.tag != PAGE_TAG]
    kinds = _types_of(shown)
    made_before: dict[object, object] = {}
    schemas, components = msgspec.json.schema_components(
        [*(_with_schema(kind, made_before) for kind in kinds), Problem], ref_template=_REFS)
    by_type = {_key(kind): schema for kind, schema in zip(kinds, schemas, strict=False)}
    paths: dict[str, Node] = {}
    for route in shown:
        path = _PLACEHOLDER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, by_type)
    made: Node = {
        "openapi": "3.1.0",
        "info": {
            "title": "Plum", "version": version,
            "description": "Tasks, workflows, schedules, nodes, workers and more. Errors are "
                           "problem documents (RFC 9457) with a stable `code`.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in shown)],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {str(status): _error(status) for status in _ERRORS},
        },
    }
    return msgspec.json.decode(msgspec.json.encode(made), type=Node)


def _types_of(routes: Sequence[Route]) -> list[object]:
    found: dict[str, object] = {}
    for route in routes:
        for kind in (route.body, *route.answers.values(), *(q.schema for q in route.query)):
            if kind not in (None, bytes, EventStream, YamlText, ZipFile):
                found.setdefault(_key(kind), kind)
    for query in (IDEMPOTENCY_KEY, LIMIT, CURSOR):
        found.setdefault(_key(query.schema), query.schema)
    return list(found.values())


def _key(kind: object) -> str:
    # list[X] and the like make a new object each time, so they are told apart by their text.
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) and (
        not hasattr(kind, "__origin__")) else repr(kind)


def _with_schema(kind: object, made: dict[object, object]) -> object:
    """The same type, with Structs that have a default of Raw, which has no schema, made anew.

    made: what was made before, so that a type that comes twice stays one.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return Annotated[(_with_schema(arguments[0], made), *arguments[1:])]
    if arguments:
        inner = tuple(_with_schema(each, made) for each in arguments)
        if inner == arguments:
            return kind
        if origin in (Union, types.UnionType):
            return Union[inner]     # noqa: UP007 - made at run time
        return origin[inner]        # type: ignore[index]  # list, tuple, dict
    if not isinstance(kind, type) or not issubclass(kind, msgspec.Struct):
        return kind
    if kind not in made:
        made[kind] = kind           # one that holds itself has no default of Raw inside
        made[kind] = _struct_with_schema(kind, made)
    return made[kind]


def _struct_with_schema(kind: type[msgspec.Struct], made: dict[object, object]) -> object:
    changed = False
    fields: list[tuple[str, object, object]] = []
    for field in msgspec.structs.fields(kind):
        if isinstance(field.default, Raw):
            changed = True
            fields.append((field.name, Raw | UnsetType, UNSET))
            continue
        inner = _with_schema(field.type, made)
        changed = changed or inner != field.type
        default = (msgspec.field(default_factory=field.default_factory)
                   if field.default_factory is not msgspec.NODEFAULT else field.default)
        fields.append((field.name, inner, default))
    if not changed:
        return kind
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    return msgspec.defstruct(
        kind.__name__, fields, rename=names, kw_only=True, namespace={"__doc__": kind.__doc__},
        forbid_unknown_fields=kind.__struct_config__.forbid_unknown_fields)


def _operation(route: Route, by_type: Mapping[str, object]) -> Node:
    operation: Node = {
        "operationId": operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": _parameters(route, by_type),
        "responses": _responses(route, by_type),
        "x-plum-permission": route.permission,
    }
    if route.lenient:
        operation["x-plum-lenient"] = True
    if route.trusted:
        operation["x-plum-trusted"] = True
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": _content(route.body, by_type),
        }
    return operation


def operation_id(route: Route) -> str:
    """A name for the operation that stays the same as long as its path does."""
    words = re.findall(r"[A-Za-z0-9]+", route.path)
    return "_".join([route.method.lower(), *(words[1:] if words[:1] == ["v1"] else words)])


def _parameters(route: Route, by_type: Mapping[str, object]) -> list[Node]:
    found: list[Node] = []
    for name, rest in _PLACEHOLDER.findall(route.path):
        parameter: Node = {"name": name, "in": "path", "required": True,
                           "schema": {"type": "string"}}
        if rest:
            parameter["description"] = "The rest of the path; slashes are sent as they are."
            parameter["x-plum-rest"] = True
        found.append(parameter)
    queries = route.query
    creates = route.method == "POST" and 201 in route.answers and not route.lenient
    if creates and all(query.name != IDEMPOTENCY_KEY.name for query in queries):
        queries = (*queries, IDEMPOTENCY_KEY)
    for query in queries:
        schema = by_type[_key(query.schema)]
        if query.choices:
            schema = {"type": "string", "enum": list(query.choices)}
        found.append({
            "name": query.name, "in": "header" if query.name in HEADER_PARAMETERS else "query",
            "required": query.required, "description": query.help, "schema": schema,
        })
    return found


def _responses(route: Route, by_type: Mapping[str, object]) -> Node:
    responses: Node = {}
    for status, kind in sorted(route.answers.items()):
        answer: Node = {"description": _success_text(status)}
        if kind is not None:
            answer["content"] = _content(kind, by_type)
        responses[str(status)] = answer
    if not route.answers:
        responses["200"] = {"description": "Done."}
    for status in _ERRORS:
        if status in _RARE and status not in route.errors:
            continue
        responses.setdefault(str(status), {"$ref": f"#/components/responses/{status}"})
    return responses


def _content(kind: object, by_type: Mapping[str, object]) -> Node:
    if kind is bytes:
        return {"application/octet-stream": {}}
    if kind is EventStream:
        return {"text/event-stream": {"schema": {"type": "string"}}}
    if kind is YamlText:
        return {"application/yaml": {}}
    if kind is ZipFile:
        return {"application/zip": {}}
    if kind is str:
        return {"text/plain": {"schema": {"type": "string"}}}
    return {JSON: {"schema": by_type[_key(kind)]}}


def _success_text(status: int) -> str:
    return {200: "Done.", 201: "Made.", 202: "Taken on.", 204: "Done; there is nothing to say.",
            304: "Nothing changed."}.get(status, "See the body.")


def _error(status: int) -> Node:
    answer: Node = {
        "description": _ERRORS[status],
        "content": {PROBLEM_JSON: {"schema": {"$ref": _REFS.format(name="Problem")}}},
    }
    if status in (429, 503):
        answer["headers"] = {"Retry-After": {
            "description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return answer
