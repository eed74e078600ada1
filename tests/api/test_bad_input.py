"""Bad requests for every operation of the OpenAPI document: refused with the right status, code
and field, and nothing is half done. A new route is covered by itself."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests import zips
from tests.api.live import Api, Json, listed, raw_exchange, refused, serving
from tests.daemon.plant import wait_for

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

NO_IDS = ("0", "zz", "000000000000abc", "f" * 16, "f" * 17, "-1", "1e5", "../x", "é", "%", "\x00",
          "0.1", "'; DROP TABLE tasks; --", "x" * 3000)
WRONG: dict[str, tuple[object, ...]] = {
    "string": (1, True, [], {}), "integer": ("1", 1.5, True, [], {}, 10 ** 30),
    "number": ("1", True, [], {}), "boolean": ("true", 1, [], {}),
    "array": ("x", 1, {}, True), "object": ("x", 1, [], True)}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SESSIONS = ("/v1/embedded-workers/{id}/exchange", "/v1/embedded-workers/{id}/stream",
            "/v1/resources/{id}/exchange")
LOOKED_AT = "/v1/workflows/validate"
"""What is wrong with a workflow that is only looked at is no refusal but the answer."""


class Operation:
    """One operation of the document."""

    def __init__(self, path: str, method: str, node: Json, components: Json) -> None:
        self.path = path
        self.method = method
        self.lenient = "x-plum-lenient" in node
        self.node = node
        self.components = components

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def parameters(self, place: str) -> list[Json]:
        found: list[Json] = self.node["parameters"]  # type: ignore[assignment]
        return [each for each in found if each["in"] == place]

    @property
    def body(self) -> Json | None:
        """The schema of its JSON body."""
        request = self.node.get("requestBody")
        if request is None:
            return None
        content: dict[str, Json] = request["content"]  # type: ignore[index]
        if "application/json" not in content:
            return None         # bytes, of which nothing is wrong before they are looked at
        schema: Json = content["application/json"]["schema"]  # type: ignore[assignment]
        return self.resolved(schema)

    @property
    def body_required(self) -> bool:
        return bool(self.node["requestBody"]["required"])  # type: ignore[index]

    def resolved(self, schema: Json) -> Json:
        name = schema.get("$ref")
        if name is None:
            return schema
        found: Json = self.components[str(name).rpartition("/")[2]]  # type: ignore[assignment]
        return found

    def kinds(self, schema: Json) -> set[str]:
        """The JSON types that fit a schema; none = all."""
        schema = self.resolved(schema)
        if "anyOf" in schema:
            parts = [self.kinds(each) for each in schema["anyOf"]]  # type: ignore[attr-defined]
            return set().union(*parts)
        return {str(schema["type"])} if "type" in schema else set()

    def url(self, ids: dict[str, str], **query: str) -> str:
        """Its path with ids in it, and whatever the query must have."""
        path = self.path
        for each in self.parameters("path"):
            text = ids.get(str(each["name"])) or ids.get(self.path.split("/")[2], "000000000000abc")
            path = path.replace(f"{{{each['name']}}}", text)
        for each in self.parameters("query"):
            if each["required"]:
                schema: Json = each["schema"]  # type: ignore[assignment]
                words: list[str] = schema.get("enum", ["x"])  # type: ignore[assignment]
                query.setdefault(str(each["name"]), words[0])
        text = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        return f"{path}?{text}" if text else path


def operations(api: Api) -> Iterator[Operation]:
    """All of the document."""
    document = api.get("/openapi.json")
    components: Json = document["components"]["schemas"]  # type: ignore[index]
    paths: dict[str, dict[str, Json]] = document["paths"]  # type: ignore[assignment]
    for path, methods in paths.items():
        for method, node in methods.items():
            yield Operation(path, method.upper(), node, components)


def with_body(api: Api) -> list[Operation]:
    found = [each for each in operations(api) if each.body is not None]
    assert len(found) > 12
    return found


def refusing(api: Api) -> list[Operation]:
    """Those that refuse a body with something wrong in it."""
    return [each for each in with_body(api) if each.path != LOOKED_AT]


@pytest.fixture(scope="module")
def ids(api: Api) -> dict[str, str]:
    """Things that are there, so that a request gets past its path. Path's first word -> id."""
    definition = api.made("/v1/task-defs", {"name": "there"})
    flow = api.made("/v1/workflows", {"name": "there", "steps": [{"type": "parallel"}]})
    run = api.made(f"/v1/workflows/{flow['workflowId']}?action=run")
    [step] = api.items(f"/v1/workflow-runs/{run['runId']}/steps")
    task = api.task(autoStart=False)
    plan = api.made("/v1/schedules", {"name": "there", "cron": "0 0 1 1 *",
                                      "defId": definition["defId"]})
    api.done("POST", "/v1/workers/register", {"workerId": "there", "url": "http://127.0.0.1:1/"})
    api.done("POST", "/v1/resources/register", {"resourceId": "there"})
    trigger = api.made("/v1/triggers", {"name": "there", "kind": "webhook", "enabled": False,
                                        "workflowId": flow["workflowId"]})
    heard = api.made("/v1/triggers", {"name": "heard", "kind": "webhook", "filter": "false",
                                      "signature": "none", "workflowId": flow["workflowId"]})
    hook = api.made("/v1/webhooks", {"name": "there", "url": "http://127.0.0.1:1/",
                                     "topics": ["kv"], "enabled": False})
    api.done("POST", "/v1/nodes/heartbeat", {"nodeId": "there"})
    app = api.http.post("/v1/apps/upload", content=zips.app("there")).json()
    made = api.done("POST", "/v1/deployments", {"name": "there", "artifactUrl": app["url"],
                                                "replicas": {"there": 1}})
    rule = api.made("/v1/alarm-rules", {"name": "there", "state": "x", "op": ">", "value": 1})
    api.ask("POST", "/v1/resources/state", {"resourceId": "there", "states": {"x": "2"}})
    wait_for(lambda: len(api.items("/v1/alarms")) == 1, "it raises an alarm")
    [alarm] = api.items("/v1/alarms")
    return {"nodes": "there", "alarm-rules": str(rule["ruleId"]), "apps": str(app["artifactId"]),
            "deployments": str(made["deploymentId"]),
            "assignments": str(listed_ids(made)[0]), "instances": str(listed_ids(made)[0]),
            "resources": "there", "schedules": str(plan["scheduleId"]),
            "triggers": str(trigger["triggerId"]), "webhooks": str(hook["webhookId"]),
            "tasks": str(task["taskId"]), "task-defs": str(definition["defId"]),
            "workflows": str(flow["workflowId"]), "workflow-runs": str(run["runId"]),
            "hooks": str(heard["path"]).rpartition("/")[2],
            "alarms": str(alarm["alarmId"]), "dag": str(flow["workflowId"]),
            "step": str(step["stepId"]), "workers": "there", "embedded-workers": "away"}


def listed_ids(made: Json) -> list[str]:
    """The instances of a new deployment."""
    found: list[str] = made["instances"]  # type: ignore[assignment]
    return found


def test_bodies_that_are_not_json(api: Api, ids: dict[str, str]) -> None:
    before = api.count()
    for each in with_body(api):
        url = each.url(ids)
        for body in (b"{", b'{"', b"nul", b"{,}", b"{'a': 1}", b"NaN", b'{"a": "\xff"}',
                     b"[" * 100_000, b'{"a":' * 5_000 + b"1" + b"}" * 5_000):
            refused(api.ask(each.method, url, body), 400, "malformed")
        if each.body_required:
            assert api.ask(each.method, url, b"").status_code == 400, str(each)
        for body in (b"1", b"[]", b'"x"', b"true") if each.path != LOOKED_AT else ():
            refused(api.ask(each.method, url, body), 422, "invalid")
    assert api.count() == before


def test_what_follows_a_body_is_not_ignored(api: Api) -> None:
    before = api.count()
    for tail in (b" {}", b"}", b" 1", b"\x00", b"//"):
        for path, body in (("/v1/tasks", b'{"name": "builtin.echo"}'),
                           ("/v1/tasks/bulk", b'{"tasks": []}'),
                           ("/v1/task-defs", b'{"name": "tail"}'),
                           ("/v1/workflows", b'{"name": "tail", "steps": [{"type": "parallel"}]}')):
            refused(api.ask("POST", path, body + tail), 400, "malformed")
    assert api.count() == before


def test_wrong_types_name_their_field(api: Api, ids: dict[str, str]) -> None:
    before = api.count()
    asked = 0
    for each in refusing(api):
        schema = each.body
        assert schema is not None
        properties: dict[str, Json] = schema.get("properties", {})  # type: ignore[assignment]
        for name, inner in properties.items():
            fitting = each.kinds(inner)
            if not fitting:
                continue        # any JSON
            for value in {json.dumps(value): value for kind in fitting - {"null"}
                          for value in WRONG[kind]}.values():
                if kind_of(value) in fitting or (value == 1 and "number" in fitting):
                    continue
                answer = api.ask(each.method, each.url(ids), {name: value})
                assert answer.status_code == 422, (str(each), name, value, answer.text)
                problem = answer.json()
                assert problem["code"] == "invalid"
                assert problem["field"] == name, (str(each), name, value, problem)
                asked += 1
    assert asked > 300
    assert api.count() == before


def kind_of(value: object) -> str:
    names = {bool: "boolean", str: "string", int: "integer", float: "number", list: "array",
             dict: "object"}
    return names[type(value)]


def test_numbers_and_texts_out_of_bounds_name_their_field(api: Api, ids: dict[str, str]) -> None:
    before = api.count()
    asked = 0
    for each in refusing(api):
        schema = each.body
        assert schema is not None
        properties: dict[str, Json] = schema.get("properties", {})  # type: ignore[assignment]
        for name, inner in properties.items():
            parts: list[Json] = inner.get("anyOf", [inner])  # type: ignore[assignment]
            for part in map(each.resolved, parts):
                values: list[object] = []
                if "minimum" in part:
                    values.append(int(float(str(part["minimum"]))) - 1)
                if "maximum" in part:
                    high = int(float(str(part["maximum"])))
                    values.append(high + max(1, high >> 40))     # beyond it as a double, too
                if "maxLength" in part:
                    values.append("x" * (int(str(part["maxLength"])) + 1))
                if part.get("minLength"):
                    values.append("")
                if "maxItems" in part:
                    values.append([1] * (int(str(part["maxItems"])) + 1))
                if "maxProperties" in part:
                    values.append({f"k{i}": "" for i in range(int(str(part["maxProperties"])) + 1)})
                for value in values:
                    problem = refused_somehow(api, each, ids, {name: value})
                    assert str(problem["field"]).partition("[")[0] == name, (str(each), problem)
                    asked += 1
    assert asked > 60
    assert api.count() == before


def refused_somehow(api: Api, each: Operation, ids: dict[str, str], body: object) -> Json:
    answer = api.ask(each.method, each.url(ids), body)
    assert answer.status_code == 422, (str(each), answer.status_code, answer.text[:300])
    problem: Json = answer.json()
    assert problem["code"] == "invalid"
    return problem


def test_unknown_and_missing_fields(api: Api, ids: dict[str, str]) -> None:
    before = api.count()
    for each in refusing(api):
        schema = each.body
        assert schema is not None
        if schema.get("additionalProperties") is False:
            refused(api.ask(each.method, each.url(ids), {"zzz": 1}), 422, "invalid", "zzz")
        else:
            assert each.lenient or each.path in SESSIONS, str(each)
        required: list[str] = schema.get("required", [])  # type: ignore[assignment]
        if required:
            refused(api.ask(each.method, each.url(ids), {}), 422, "invalid", required[0])
    assert api.count() == before


def test_bodies_must_be_declared_as_json(api: Api) -> None:
    before = api.count()
    for each in with_body(api):
        for declared in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
                         "", "application/jsonx", "text/json"):
            answer = api.ask(each.method, each.url({}), b"{}", headers={"content-type": declared})
            if each.lenient:
                assert answer.status_code != 415, str(each)
            else:
                refused(answer, 415, "unsupported_media_type", "Content-Type")
    assert api.count()[:4] == before[:4]


def test_ids_that_name_nothing(api: Api) -> None:
    before = api.count()
    for each in operations(api):
        if not each.parameters("path") or each.path in SESSIONS or each.path.startswith(
                ("/v1/kv/", "/v1/calendars/", "/v1/limits/", "/v1/brokers/", "/v1/locks/",
                 "/v1/services/policies/")):
            continue        # a namespace, key or name is no id; their own tests ask for odd ones
        body: Json | None = {} if each.body is not None else None
        if each.path.startswith("/v1/workflows") and each.method == "PUT":
            body = {"name": "x", "steps": [{"type": "parallel"}]}
        if each.path == "/v1/assignments/{id}" and each.method == "PATCH":
            body = {"desired": "Running"}
        if each.path == "/v1/deployments/{id}" and each.method == "PUT":
            body = {"name": "x"}
        if each.path == "/v1/triggers/{id}/test":
            body = {"event": {}}
        if each.path == "/v1/schedules/{id}" and each.method == "PUT":
            body = {"name": "x", "cron": "@daily", "workflowId": "1"}
        for bad in NO_IDS:
            path = each.url({each.path.split("/")[2]: quote(bad, safe="")})
            refused(api.ask(each.method, path, body), 404, "not_found")
    assert api.count() == before


NAMING: tuple[tuple[str, str], ...] = (
    ("PUT", "/v1/calendars/{name}"), ("PUT", "/v1/brokers/{name}"), ("PUT", "/v1/limits/{key}"),
    ("PUT", "/v1/services/policies/{name}"), ("POST", "/v1/embedded-workers/{id}/exchange"))
"""What a path names need not be there; nor need a key, a namespace or a lock."""


def test_whether_a_path_names_something_is_said_before_what_is_wrong_besides(api: Api) -> None:
    asked = 0
    for each in operations(api):
        if not each.parameters("path") or (each.method, each.path) in NAMING \
                or each.path.startswith(("/v1/kv/", "/v1/locks/")):
            continue
        url = each.url({})              # with the action that it must have
        mark = "&" if "?" in url else "?"
        wrong: list[tuple[str, object, dict[str, str]]] = []
        if each.body is not None:
            wrong = [(url, body, {}) for body in ({"nonsense": 1}, [1], b"{")]
        if any(one["name"] == "If-Match" for one in each.parameters("header")):
            wrong.append((url, None if each.body is None else {}, {"if-match": "x"}))
        wrong += [(f"{url}{mark}{parameter['name']}=nonsense", None if each.body is None else {},
                   {}) for parameter in each.parameters("query") if not parameter["required"]]
        for where, body, headers in wrong:
            answer = api.ask(each.method, where, body, headers=headers)
            assert answer.status_code == 404, (str(each), where, body, headers, answer.text)
            asked += 1
    assert asked > 80


def test_query_parameters_of_a_wrong_type(api: Api, ids: dict[str, str]) -> None:
    before = api.count()
    asked = 0
    for each in operations(api):
        for parameter in each.parameters("query"):
            name, schema = str(parameter["name"]), parameter["schema"]
            assert isinstance(schema, dict)
            if "enum" in schema:
                values: tuple[str, ...] = ("nonsense", "\x00")
            elif schema.get("type") == "integer":
                values = ("x", "1.5", "9" * 30, "٣", "0x1", "1 ")
                if not (each.path.endswith("/logs") and name == "offset"):
                    values += ("-1",)       # there it counts from the end
            elif schema.get("type") == "boolean":
                values = ("maybe", "2")
            else:
                continue
            for value in values:
                answer = api.ask(each.method, each.url(ids, service="x", **{name: value}),
                                 None if each.body is None else {})
                # A lenient body that lacks something may be what is said first.
                refused(answer, 422, "invalid", answer.json().get("field") if each.lenient
                        and each.body is not None else name)
                asked += 1
            if parameter["required"] and "enum" in schema:
                refused(api.ask(each.method, each.url(ids, **{name: ""})), 422, "invalid", name)
    assert asked > 60
    assert api.count() == before


def test_queries_that_are_not_utf8(api: Api) -> None:
    for each in operations(api):
        if each.method == "GET" and "/stream" not in each.path and each.path != "/v1/events":
            url = each.url({}, limit="5").replace("limit=5", "name=%ff")
            answer = api.ask("GET", url)
            assert answer.status_code in (400, 404), (str(each), answer.status_code)


def test_methods_that_a_path_does_not_take(api: Api) -> None:
    before = api.count()
    taken: dict[str, set[str]] = {}
    for each in operations(api):
        taken.setdefault(each.path, set()).add(each.method)
    # Other methods of these mean an id or a key.
    shadowed = ("/v1/tasks/bulk", "/v1/tasks/bulk-cancel", "/v1/tasks/stream", "/register",
                "/heartbeat", "/keys", "/batch", "/v1/resources/state", "/v1/resources/states",
                "/v1/resources/operation", "/v1/resources/delete", "/v1/schedules/preview",
                "/v1/tasks/count", "/v1/tasks/failures", "/v1/tasks/bulk-actions",
                "/v1/workflows/apply", "/v1/workflows/parse", "/v1/workflows/render",
                "/v1/workflows/validate", "/v1/workflows/simulate", "/v1/apps/upload",
                "/v1/resources/history", "/v1/deployments/plan", "/v1/nodes/heartbeat",
                "/v1/instances/status")
    for path, methods in taken.items():
        if path.endswith(shadowed):
            continue
        for method in set(METHODS) - methods:
            answer = api.ask(method, path.replace("{id}", "0"))
            refused(answer, 405, "method_not_allowed")
            assert set(answer.headers["allow"].split(", ")) >= methods, path
    assert api.count() == before


def test_what_looks_like_another_site_is_refused_everywhere(api: Api, ids: dict[str, str]) -> None:
    before = api.count()
    for each in operations(api):
        for headers, field in (({"origin": "https://evil.example"}, "Origin"),
                               ({"origin": "null"}, "Origin"),
                               ({"sec-fetch-site": "cross-site"}, "Sec-Fetch-Site"),
                               ({"sec-fetch-site": "same-site"}, "Sec-Fetch-Site"),
                               ({"host": "evil.example"}, "Host"),
                               ({"x-plum-origin": "plumd"}, "X-Plum-Origin"),
                               ({"x-forwarded-for": "127.0.0.1"}, "x-forwarded-for")):
            answer = api.ask(each.method, each.url(ids), headers=headers)
            refused(answer, 403, "forbidden", field)
    assert api.count() == before


def test_bodies_over_their_bound_are_refused_before_they_are_read(
        api: Api, ids: dict[str, str]) -> None:
    before = api.count()
    for each in with_body(api):
        head = (f"{each.method} {each.url(ids)} HTTP/1.1\r\nHost: localhost\r\n"
                "Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n")
        answer = raw_exchange(api.daemon, head.encode())
        assert answer.startswith(b"HTTP/1.1 413 "), (str(each), answer[:300])
        assert b'"code":"too_large"' in answer
        assert b"problem+json" in answer
    assert api.count() == before


def test_a_head_over_its_bound(api: Api) -> None:
    for head in ("GET /v1/tasks?name=" + "x" * 20_000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
                 "GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\nX-Long: " + "x" * 20_000
                 + "\r\n\r\n"):
        answer = raw_exchange(api.daemon, head.encode())
        assert answer.startswith(b"HTTP/1.1 4"), answer[:200]


def test_bodies_that_break_off_do_nothing(api: Api, ids: dict[str, str]) -> None:
    before = api.count()
    whole = json.dumps({"name": "cut"}).encode()
    for each in with_body(api):
        for framing, body in (
                (f"Content-Length: {len(whole) + 1}", whole),
                ("Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (len(whole), whole)),
                ("Transfer-Encoding: chunked", b"zz\r\n")):
            head = (f"{each.method} {each.url(ids)} HTTP/1.1\r\nHost: localhost\r\n"
                    f"Content-Type: application/json\r\n{framing}\r\n\r\n")
            cut_off(api, head.encode() + body)
    assert api.count() == before


@pytest.mark.parametrize(("request_line", "headers"), [
    ("POST /v1/task-defs", "Content-Type: text/plain\r\n"),
    ("POST /v1/tasks", "Content-Type: text/plain\r\n"),
    ("POST /v1/task-defs", "Content-Type: application/json\r\nOrigin: http://evil.example\r\n"),
    ("POST /v1/nothing", "Content-Type: application/json\r\n"),
    ("PUT /v1/tasks", "Content-Type: application/json\r\n"),
])
def test_an_answer_before_the_body_says_that_the_connection_ends(
        api: Api, request_line: str, headers: str) -> None:
    """Else the client's next request would go into a connection that is closed."""
    head = f"{request_line} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: 2\r\n\r\n"
    answer = raw_exchange(api.daemon, head.encode())
    assert answer.startswith(b"HTTP/1.1 4"), answer[:300]
    assert b"\r\nconnection: close\r\n" in answer.lower(), answer[:500]


def cut_off(api: Api, data: bytes) -> None:
    """Send this and hang up; whatever comes back is no success."""
    with socket.create_connection(("127.0.0.1", api.daemon.port), timeout=30) as line:
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := line.recv(65536):
            answer += chunk
    assert not answer.startswith(b"HTTP/1.1 2"), answer[:300]


@pytest.mark.parametrize("value", ["", "x" * 256, "ü", "a b", "\x7f"])
def test_idempotency_keys_that_are_none(api: Api, ids: dict[str, str], value: str) -> None:
    before = api.count()
    asked = 0
    for each in operations(api):
        if all(one["name"] != "Idempotency-Key" for one in each.parameters("header")):
            continue
        more = {"action": "rerun"} if each.path == "/v1/tasks/{id}" else {}
        answer = api.http.request(
            each.method, each.url(ids, **more), content=b"{}" if each.body is not None else None,
            headers={b"idempotency-key": value.encode(), b"content-type": b"application/json"})
        if each.lenient:
            continue
        if answer.status_code != 400:       # h11 refuses control characters by itself
            refused(answer, 422, "invalid", "Idempotency-Key")
        asked += 1
    assert asked >= 5
    assert api.count()[:4] == before[:4]


def test_strange_but_good_values_come_back_as_they_went(api: Api) -> None:
    for payload in (b"1e400", b"-0", b"0.1000000000000000055", b"12345678901234567890123",
                    b'"\\u0000\\ud83d\\ude00"', b'{"a":1,"a":2}', b"[[[]]]", b'""', b"false"):
        answer = api.ask("POST", "/v1/tasks", b'{"name":"builtin.echo","autoStart":false,'
                         b'"payload":' + payload + b"}")
        assert answer.status_code == 201, answer.text
        shown = api.ask("GET", answer.headers["location"])
        assert b'"payload":' + payload + b"," in shown.content
    name = "名前 <b>&\"'\u202e"
    task = api.task(name, labels={name: name}, autoStart=False)
    assert (task["name"], task["labels"]) == (name, {name: name})
    assert api.items(f"/v1/tasks?name={quote(name)}")[0]["taskId"] == task["taskId"]


@pytest.mark.parametrize(("body", "field"), [
    ({"name": "a", "targetKind": "moon"}, "targetKind"),
    ({"name": "a", "targetKind": "node"}, "targetRef"),
    ({"name": "a", "targetKind": "labels", "targetRef": "a"}, "targetRef"),
    ({"name": "a", "executor": "moon"}, "executor"),
    ({"name": "a", "executor": "service", "targetKind": "node", "targetRef": "x"}, "targetKind"),
    ({"name": "a", "executor": "service"}, "targetRef"),
    ({"name": "a", "executor": "os_process", "targetKind": "app", "targetRef": "x"}, "targetKind"),
    ({"name": "a", "executor": "os_process"}, "payload"),
    ({"name": "a", "executor": "os_process", "payload": {"command": 1}}, "payload.command"),
    ({"name": "a", "onLost": "cry"}, "onLost"), ({"name": "!a"}, "name"), ({"name": "a\n"}, "name"),
    ({"name": "builtin.nothing"}, "name"), ({"name": "builtin.delay", "payload": -1},
                                            "payload.seconds"),
    ({"name": "builtin.delay", "payload": {"seconds": "x"}}, "payload.seconds"),
    ({"name": "a", "targetKind": "builtin", "targetRef": "builtin.nothing"}, "targetRef"),
    ({"name": "builtin.echo", "targetKind": "builtin", "targetRef": "builtin.fail"}, "targetRef"),
    ({"defId": "0"}, "defId"), ({"defId": "x y"}, "defId"), ({}, "name"),
    ({"name": "a", "priority": 10}, "priority"), ({"name": "a", "delaySec": -1}, "delaySec"),
    ({"name": "a", "labels": {"": "x"}}, "labels"), ({"name": "a", "labels": {"k": 1}},
                                                     "labels[...]"),
])
def test_tasks_that_could_only_fail_are_refused(api: Api, body: Json, field: str) -> None:
    before = api.count()
    refused(api.ask("POST", "/v1/tasks", body), 422, "invalid", field)
    [item] = listed(api.done("POST", "/v1/tasks/bulk", {"tasks": [body]})["results"])
    error = item["error"]
    assert isinstance(error, dict)
    assert (error["field"], error["status"]) == (f"tasks[0].{field}", 422)
    if "defId" not in body and body:
        definition = {key: value for key, value in body.items() if key != "payload"}
        if "payload" in body:
            definition["defaultPayload"] = body["payload"]
        if "delaySec" not in body and (body.get("executor") != "os_process" or "payload" in body
                                       or "targetRef" in body):
            field = field.replace("payload", "defaultPayload", 1)
            refused(api.ask("POST", "/v1/task-defs", definition), 422, "invalid", field)
    assert api.count() == before
