"""The API reference as HTML, from the OpenAPI document: what an operation takes and gives.

Only reads plain JSON values, so it shows what the document says and nothing else.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

Node = Mapping[str, object]

_SAMPLE_DEPTH_MAX: Final = 4


def operations_html(made: Node) -> str:
    """A table of contents, every operation by tag, and every schema."""
    paths = _node(made.get("paths"))
    schemas = _node(_node(made.get("components")).get("schemas"))
    by_tag: dict[str, list[tuple[str, str, Node]]] = {}
    for path, methods in paths.items():
        for method, each in _node(methods).items():
            operation = _node(each)
            tag = str(_list(operation.get("tags"))[0])
            by_tag.setdefault(tag, []).append((method.upper(), path, operation))
    parts = ["<nav><ul>"]
    parts += [f'<li><a href="#tag-{escape(tag)}">{escape(tag)}</a> '
              f'<span class="note">{len(found)}</span></li>' for tag, found in by_tag.items()]
    parts.append('<li><a href="#schemas">Schemas</a></li></ul></nav>')
    for tag, found in by_tag.items():
        parts.append(f'<h2 id="tag-{escape(tag)}">{escape(tag)}</h2>')
        parts += [_operation(method, path, operation, schemas)
                  for method, path, operation in found]
    parts.append('<h2 id="schemas">Schemas</h2>')
    parts += [_schema_section(name, _node(schema)) for name, schema in schemas.items()]
    return "\n".join(parts)


def _operation(method: str, path: str, operation: Node, schemas: Node) -> str:
    parts = [f'<section id="{escape(str(operation.get("operationId")))}">',
             f'<h3><span class="method">{method}</span> <code>{escape(path)}</code></h3>',
             f"<p>{escape(str(operation.get('summary')))}</p>"]
    notes = []
    if operation.get("x-plum-lenient"):
        notes.append("Lenient: unknown keys are ignored, keys match in any case, null leaves the "
                     "default.")
    if operation.get("x-plum-trusted"):
        notes.append("Open to the trusted network.")
    if notes:
        parts.append(f'<p class="note">{" ".join(notes)}</p>')
    parameters = [_node(each) for each in _list(operation.get("parameters"))]
    if parameters:
        parts.append(_parameter_table(parameters))
    body = _node(operation.get("requestBody"))
    if body:
        optional = "" if body.get("required") else " (optional)"
        parts.append(f"<p>Body{optional}: {_content_text(body)}</p>")
    parts.append("<table>" + "".join(_answer_rows(_node(operation.get("responses")))) + "</table>")
    parts.append(f"<pre>{escape(_curl(method, path, parameters, body, schemas))}</pre></section>")
    return "\n".join(parts)


def _parameter_table(parameters: Sequence[Node]) -> str:
    rows = []
    for each in parameters:
        schema = _node(each.get("schema"))
        required = ", required" if each.get("required") else ""
        rows.append(f"<tr><td><code>{escape(str(each.get('name')))}</code></td>"
                    f"<td>{escape(str(each.get('in')))}{required}</td><td>{type_html(schema)}</td>"
                    f"<td>{escape(str(each.get('description') or ''))}</td></tr>")
    return "<table>" + "".join(rows) + "</table>"


def _answer_rows(responses: Node) -> list[str]:
    rows = []
    errors = []
    for status, each in responses.items():
        answer = _node(each)
        if "$ref" in answer:
            errors.append(escape(status))
            continue
        rows.append(f"<tr><td><code>{escape(status)}</code></td><td>"
                    f"{escape(str(answer.get('description')))} {_content_text(answer)}</td></tr>")
    rows.append('<tr><td class="note">errors</td><td class="note"><a href="/docs/errors">'
                f"{', '.join(errors)}</a></td></tr>")
    return rows


def _content_text(holder: Node) -> str:
    parts = []
    for media, each in _node(holder.get("content")).items():
        schema = _node(each).get("schema")
        shown = type_html(_node(schema)) if schema is not None else ""
        parts.append(f'<span class="note">{escape(media)}</span> {shown}')
    return ", ".join(parts)


def _schema_section(name: str, schema: Node) -> str:
    parts = [f'<section id="schema-{escape(name)}"><h3>{escape(name)}</h3>']
    if schema.get("description"):
        parts.append(f"<p>{escape(str(schema['description']))}</p>")
    required = _list(schema.get("required"))
    rows = []
    for field, each in _node(schema.get("properties")).items():
        inner = _node(each)
        notes = ["required"] if field in required else []
        if "default" in inner:
            notes.append(f"default {json.dumps(inner['default'])}")
        notes += [f"{word} {inner[key]}" for key, word in _BOUNDS if key in inner]
        described = escape(str(inner.get("description") or ""))
        rows.append(f"<tr><td><code>{escape(field)}</code></td><td>{type_html(inner)}</td>"
                    f'<td>{described} <span class="note">{escape(", ".join(notes))}</span></td>'
                    "</tr>")
    if rows:
        parts.append("<table>" + "".join(rows) + "</table>")
    else:
        parts.append(f"<p>{type_html(schema)}</p>")
    return "".join(parts) + "</section>"


_BOUNDS: Final = (("minimum", "at least"), ("maximum", "at most"), ("minLength", "chars at least"),
                  ("maxLength", "chars at most"), ("minItems", "items at least"),
                  ("maxItems", "items at most"), ("pattern", "matches"))


def type_html(schema: Node) -> str:
    """A schema in a few words; named ones as links."""
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    if "enum" in schema:
        return " | ".join(f"<code>{escape(json.dumps(value))}</code>"
                          for value in _list(schema["enum"]))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(type_html(_node(each)) for each in _list(schema[key]))
    kind = schema.get("type")
    if kind == "array":
        return f"array of {type_html(_node(schema.get('items')))}"
    if kind == "object" and "additionalProperties" in schema:
        values = schema["additionalProperties"]
        return f"object of {type_html(_node(values))}" if isinstance(values, dict) else "object"
    return escape(str(kind)) if kind is not None else "any JSON"


def _curl(method: str, path: str, parameters: Sequence[Node], body: Node, schemas: Node) -> str:
    query = "&".join(f"{each.get('name')}=..." for each in parameters
                     if each.get("in") == "query" and each.get("required"))
    words = ["curl"]
    if method != "GET":
        words += ["-X", method]
    content = _node(body.get("content"))
    if "application/json" in content:
        schema = _node(_node(content["application/json"]).get("schema"))
        sample = json.dumps(_sample(schema, schemas, _SAMPLE_DEPTH_MAX))
        words += ["-H", "Content-Type: application/json", "-d", sample]
    elif content:
        words += ["--data-binary", "@file"]
    words.append(f"http://127.0.0.1:8080{path}" + (f"?{query}" if query else ""))
    return " ".join(shlex.quote(word) for word in words)


def _sample(schema: Node, schemas: Node, depth: int) -> object:
    """A value that the schema would take, as small as can be."""
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _sample(_node(schemas.get(reference.rpartition("/")[2])), schemas, depth)
    if "enum" in schema:
        return _list(schema["enum"])[0]
    if "anyOf" in schema:
        return _sample(_node(_list(schema["anyOf"])[0]), schemas, depth)
    kind = schema.get("type")
    if kind == "object":
        if depth <= 0:
            return {}
        properties = _node(schema.get("properties"))
        return {str(name): _sample(_node(properties.get(str(name))), schemas, depth - 1)
                for name in _list(schema.get("required"))}
    if kind == "array":
        items = _node(schema.get("items"))
        return [_sample(items, schemas, depth - 1)] if depth > 0 and items else []
    low = schema.get("minimum", 0)
    samples: dict[object, object] = {"string": "...", "integer": low, "number": low,
                                     "boolean": False, "null": None}
    return samples.get(kind, {})


def _node(value: object) -> Node:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
