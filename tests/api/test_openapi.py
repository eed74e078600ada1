"""The document against the table it is made from, and the page against the document."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Annotated

import msgspec
import pytest
from jsonschema_rs import validator_for
from msgspec import UNSET, Meta, Raw, UnsetType

from plumd.api.docs_page import operations_html, type_html
from plumd.api.openapi import document, operation_id
from plumd.api.pages import docs_page, page_routes
from plumd.api.routes import Query, Request, Response, Route


class Label(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A label <with> markup & more."""

    key_name: str
    value: str = ""


class Submit(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A task to run."""

    name: Annotated[str, Meta(min_length=1, description="What <to> run.")]
    payload: Raw | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=0, le=9)] = 5
    labels: list[Label] = []
    extra: dict[str, Raw] = {}


class Made(msgspec.Struct, rename="camel"):
    """What was made."""

    task_id: str


async def nothing(_request: Request) -> Response:
    return Response(204)


ROUTES = [
    Route("POST", "/v1/tasks", nothing, "Submit a <task>.", "tasks", "tasks:write", body=Submit,
          answers={201: Made}, hot=True),
    Route("GET", "/v1/tasks", nothing, "List tasks.", "tasks", "tasks:read",
          answers={200: list[Made]},
          query=(Query("limit", int, "How many."), Query("state", str, "", choices=("A", "B")),
                 Query("Prefer", str, "wait=N"), Query("q", str, "", required=True))),
    Route("GET", "/v1/tasks/{id}", nothing, "One task.", "tasks", "tasks:read",
          answers={200: Made}),
    Route("PUT", "/v1/kv/{ns}/{key...}", nothing, "Set.", "kv", "kv:write", body=Raw,
          body_optional=True, lenient=True, trusted=True, answers={200: Raw, 204: None}),
    Route("POST", "/v1/apps/upload", nothing, "Upload.", "apps", "apps:write", body=bytes),
    Route("GET", "/v1/events", nothing, "Events.", "events", "events:read", answers={200: str}),
]
MADE = document(ROUTES, version="1.2")


def at(node: object, *keys: str) -> object:
    for key in keys:
        assert isinstance(node, dict)
        node = node[key]
    return node


def test_every_route_is_there_and_nothing_else() -> None:
    paths = at(MADE, "paths")
    assert isinstance(paths, dict)
    found = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert found == {(route.method, route.path.replace("...", "")) for route in ROUTES}
    identifiers = [operation_id(route) for route in ROUTES]
    assert len(set(identifiers)) == len(ROUTES)
    assert identifiers[0] == "post_tasks"


def test_bodies_and_answers_refer_to_schemas() -> None:
    post = at(MADE, "paths", "/v1/tasks", "post")
    assert at(post, "requestBody") == {"required": True, "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/Submit"}}}}
    assert at(post, "responses", "201", "content", "application/json", "schema") == {
        "$ref": "#/components/schemas/Made"}
    listing = at(MADE, "paths", "/v1/tasks", "get", "responses", "200", "content")
    assert listing == {"application/json": {"schema": {
        "type": "array", "items": {"$ref": "#/components/schemas/Made"}}}}
    put = at(MADE, "paths", "/v1/kv/{ns}/{key}", "put")
    assert at(put, "requestBody") == {"required": False,
                                      "content": {"application/json": {"schema": {}}}}
    assert "content" not in str(at(put, "responses", "204"))
    assert at(put, "x-plum-lenient") is True
    assert at(put, "x-plum-trusted") is True
    upload = at(MADE, "paths", "/v1/apps/upload", "post", "requestBody", "content")
    assert upload == {"application/octet-stream": {}}
    assert "x-plum-lenient" not in str(post)


def test_raw_is_any_json() -> None:
    properties = at(MADE, "components", "schemas", "Submit", "properties")
    assert at(properties, "payload") == {}
    assert at(properties, "extra", "additionalProperties") == {}
    assert at(MADE, "components", "schemas", "Submit", "additionalProperties") is False


def test_parameters() -> None:
    def parameters(path: str, method: str) -> dict[str, tuple[object, object, object]]:
        found = at(MADE, "paths", path, method, "parameters")
        assert isinstance(found, list)
        return {each["name"]: (each["in"], each["required"], each["schema"]) for each in found}

    text = {"type": "string"}
    assert parameters("/v1/tasks", "get") == {
        "limit": ("query", False, {"type": "integer"}),
        "state": ("query", False, {"type": "string", "enum": ["A", "B"]}),
        "Prefer": ("header", False, text), "q": ("query", True, text)}
    assert parameters("/v1/tasks/{id}", "get") == {"id": ("path", True, text)}
    assert parameters("/v1/tasks", "post") == {"Idempotency-Key": ("header", False, text)}
    assert list(parameters("/v1/kv/{ns}/{key}", "put")) == ["ns", "key"]


def test_every_operation_gives_every_error_as_a_problem() -> None:
    for route in ROUTES:
        path = route.path.replace("...", "")
        for status in ("400", "403", "404", "409", "413", "415", "422", "429", "503"):
            answer = at(MADE, "paths", path, route.method.lower(), "responses", status)
            assert answer == {"$ref": f"#/components/responses/{status}"}
    errors = at(MADE, "components", "responses")
    assert isinstance(errors, dict)
    for status, answer in errors.items():
        assert at(answer, "content", "application/problem+json", "schema") == {
            "$ref": "#/components/schemas/Problem"}
        assert ("Retry-After" in str(answer)) == (status in ("429", "503"))


def test_references_resolve_and_schemas_are_schemas() -> None:
    text = json.dumps(MADE)
    for name in set(re.findall(r'"#/components/schemas/([^"]+)"', text)):
        assert at(MADE, "components", "schemas", name)
    for status in set(re.findall(r'"#/components/responses/([^"]+)"', text)):
        assert at(MADE, "components", "responses", status)
    components = json.loads(text)["components"]["schemas"]
    schema = {"$ref": "#/components/schemas/Submit", "components": {"schemas": components}}
    check = validator_for(schema)
    assert check.is_valid({"name": "a", "payload": [1, None], "labels": [{"keyName": "k"}]})
    for bad in ({}, {"name": ""}, {"name": "a", "priority": 10}, {"name": "a", "more": 1},
                {"name": "a", "labels": [{}]}):
        assert not check.is_valid(bad)


def test_types_without_a_schema_fail_early() -> None:
    class Odd:
        pass

    with pytest.raises(TypeError):
        document([msgspec.structs.replace(ROUTES[0], body=Odd)], version="1")


class Balanced(HTMLParser):
    """Fails on elements that do not close, ids that come twice and links into nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.targets: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta",):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and value is not None:
                assert value not in self.ids
                self.ids.add(value)
            if name == "href" and value is not None and value.startswith("#"):
                self.targets.add(value[1:])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_shows_every_operation_and_schema() -> None:
    page = docs_page(MADE, "1.2").body.decode()
    reader = Balanced()
    reader.feed(page)
    assert reader.open == []
    assert reader.targets <= reader.ids
    for route in ROUTES:
        assert operation_id(route) in reader.ids
    for name in ("Submit", "Made", "Label", "Problem"):
        assert f"schema-{name}" in reader.ids
    assert "Submit a &lt;task&gt;." in page
    assert "A label &lt;with&gt; markup &amp; more." in page
    assert "<task>" not in page
    assert "any JSON" in page
    assert "Lenient:" in page
    assert "curl -X POST -H &#x27;Content-Type: application/json&#x27; -d " in page


def test_curl_examples_carry_valid_bodies() -> None:
    page = operations_html(MADE)
    [sample] = re.findall(r"-d &#x27;(\{&quot;name.*?\})&#x27;", page)
    body = json.loads(sample.replace("&quot;", '"'))
    assert msgspec.json.decode(json.dumps(body).encode(), type=Submit).name
    assert "?q=..." in page


@pytest.mark.parametrize(("schema", "text"), [
    ({}, "any JSON"), ({"type": "string"}, "string"),
    ({"type": "array", "items": {"type": "integer"}}, "array of integer"),
    ({"type": "array"}, "array of any JSON"),
    ({"type": "object", "additionalProperties": {"type": "string"}}, "object of string"),
    ({"type": "object", "additionalProperties": False}, "object"),
    ({"anyOf": [{"type": "null"}, {"enum": ["a", 1]}]},
     "null | <code>&quot;a&quot;</code> | <code>1</code>"),
    ({"$ref": "#/components/schemas/X<"}, '<a href="#schema-X&lt;">X&lt;</a>'),
])
def test_types_in_words(schema: dict[str, object], text: str) -> None:
    assert type_html(schema) == text


def test_pages_are_not_in_the_document() -> None:
    pages = page_routes(ROUTES, version="1", status=dict)
    assert document([*ROUTES, *pages], version="1.2") == MADE
