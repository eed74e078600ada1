"""If-Match and If-None-Match: whatever has a version is changed and deleted only as it was seen."""

from __future__ import annotations

import itertools

import pytest

from tests.api.live import Api, Json, listed, refused, serving, whole
from tests.api.test_deployments_api import app

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

NUMBERS = itertools.count()
MADE: dict[str, Json] = {
    "/v1/task-defs/{id}": {"name": "guarded"},
    "/v1/workflows/{id}": {"name": "guarded", "steps": [{"type": "parallel"}]},
    "/v1/schedules/{id}": {"name": "guarded", "everySec": 3600},
    "/v1/triggers/{id}": {"name": "guarded", "kind": "event", "topics": ["nodes"]},
    "/v1/webhooks/{id}": {"name": "guarded", "url": "http://127.0.0.1:9/", "topics": ["nodes"]},
    "/v1/deployments/{id}": {"name": "guarded"},
    "/v1/alarm-rules/{id}": {"name": "guarded", "state": "x", "op": ">", "value": 1},
}
"""What is made by POST, with a body that PUT takes too."""
WRITTEN: dict[str, Json] = {
    "/v1/calendars/{name}": {"days": ["2030-01-01"]},
    "/v1/brokers/{name}": {"url": "mqtt://127.0.0.1:9"},
    "/v1/limits/{key}": {"concurrency": 2},
    "/v1/services/policies/{name}": {"retryPercent": 7},
}
"""What PUT makes."""


def body_of(api: Api, path: str) -> Json:
    """A body for POST; what it needs is there."""
    if path == "/v1/deployments/{id}":
        url = app(api, f"guarded-{next(NUMBERS)}")
        return {**MADE[path], "entries": [{"artifactUrl": url, "replicas": 0}]}
    if path not in ("/v1/schedules/{id}", "/v1/triggers/{id}"):
        return MADE[path]
    started = api.ask("POST", "/v1/task-defs", {"name": "started"})
    found = api.items("/v1/task-defs?name=started")[0] if started.status_code == 409 else (
        whole(started, 201))
    return {**MADE[path], "defId": found["defId"]}


def test_the_table_is_whole(api: Api) -> None:
    paths = api.get("/openapi.json")["paths"]
    assert isinstance(paths, dict)
    guarded: dict[str, set[str]] = {}
    for path, methods in paths.items():
        for method, operation in methods.items():
            if any(one["name"] == "If-Match" for one in operation["parameters"]):
                guarded.setdefault(path, set()).add(method)
    assert set(guarded) == {*MADE, *WRITTEN, "/v1/kv/{ns}/{key}"}
    for path, methods in guarded.items():
        assert methods >= {"put", "delete"}, path


@pytest.mark.parametrize("path", MADE)
def test_what_was_made_is_changed_and_deleted_as_it_was_seen(api: Api, path: str) -> None:
    body = body_of(api, path)
    answer = api.ask("POST", path.removesuffix("/{id}"), body)
    where = answer.headers["location"]
    if path == "/v1/deployments/{id}":     # old clients test for its 200
        body = {**body, "entries": [{**listed(body["entries"])[0], "replicas": 1}]}
    else:
        assert whole(answer, 201)["version"] == 1
        assert answer.headers["etag"] == '"1"'
    changed_and_deleted(api, where, body)


@pytest.mark.parametrize("path", WRITTEN)
def test_what_was_written_is_changed_and_deleted_as_it_was_seen(api: Api, path: str) -> None:
    where, body = path.partition("{")[0] + "guarded", WRITTEN[path]
    problem = refused(api.ask("PUT", where, body, headers={"if-match": "*"}), 412,
                      "version_mismatch")
    assert problem["detail"] == "it is not there"
    made = api.ask("PUT", where, body, headers={"if-none-match": "*"})
    assert whole(made, 200)["version"] == 1
    assert made.headers["etag"] == '"1"'
    refused(api.ask("PUT", where, body, headers={"if-none-match": "*"}), 412, "version_mismatch")
    changed_and_deleted(api, where, body)


@pytest.mark.parametrize(("where", "body"), [
    ("/v1/task-defs", {"name": "fresh"}),
    ("/v1/workflows", {"name": "fresh", "steps": [{"type": "parallel"}]}),
    ("/v1/kv/guarded/fresh/key", {"value": "1"})])
def test_what_somebody_has_already_is_not_sent_again(api: Api, where: str, body: Json) -> None:
    if where.startswith("/v1/kv/"):
        api.done("PUT", where, body)
    else:
        where = api.ask("POST", where, body).headers["location"]

    def ask(tag: str, tail: str = "") -> int:
        answer = api.ask("GET", where + tail, headers={"if-none-match": tag})
        if answer.status_code == 304:
            assert answer.content == b""
            assert "content-type" not in answer.headers
        assert answer.headers["etag"]
        return answer.status_code

    now = api.ask("GET", where).headers["etag"]
    for tag in (now, f"W/{now}", f'"x", {now}', "*"):
        assert ask(tag) == 304
    assert api.http.head(where, headers={"if-none-match": now}).status_code == 304
    for tag in ('"x"', "", now.strip('"')):
        assert ask(tag) == 200
    whole(api.ask("PUT", where, {**body, "value": "2"} if "value" in body else body), 200)
    assert ask(now) == 200
    if where.startswith("/v1/workflows/"):
        assert ask(now, "/versions/1") == 304
        assert ask(now, "/versions/2") == 200
    api.gone(where)
    assert api.ask("GET", where, headers={"if-none-match": now}).status_code == 404


def test_what_changes_by_itself_is_always_told(api: Api) -> None:
    """Of a webhook the version says nothing of what waits."""
    made = api.ask("POST", "/v1/webhooks", body_of(api, "/v1/webhooks/{id}"))
    path = made.headers["location"]
    assert api.ask("GET", path, headers={"if-none-match": made.headers["etag"]}).status_code == 200
    api.gone(path)


def changed_and_deleted(api: Api, where: str, body: Json) -> None:
    """From version 1 to its end, with somebody else in between."""
    def ask(method: str, tag: str, tail: str = "") -> tuple[int, object]:
        answer = api.ask(method, where + tail, body if method == "PUT" else None,
                         headers={"if-match": tag})
        if answer.status_code == 412:
            return 412, refused(answer, 412, "version_mismatch")["detail"]
        assert answer.status_code == 204 or answer.headers["etag"] == (
            f'"{answer.json()["version"]}"')
        return answer.status_code, None

    assert ask("PUT", '"1"') == (200, None)
    stale = (412, "the current version is 2, not 1")
    assert ask("PUT", '"1"') == stale
    assert ask("DELETE", '"1"') == stale
    for method in ("PUT", "DELETE"):
        refused(api.ask(method, where, body if method == "PUT" else None,
                        headers={"if-match": "one"}), 422, "invalid", "If-Match")
    shown = api.ask("GET", where)
    assert whole(shown, 200)["version"] == 2
    assert shown.headers["etag"] == '"2"'
    for action in actions_of(where):        # also those that would change nothing
        assert ask("POST", '"1"', f"?action={action}") == stale
        assert ask("POST", '"2"', f"?action={action}") == (200, None)
    assert ask("DELETE", '"2"') == (204, None)
    if where.startswith("/v1/services/"):       # then it is as every other's
        assert api.get(where)["version"] == 0
    else:
        refused(api.ask("GET", where), 404, "not_found")
    refused(api.ask("DELETE", where, headers={"if-match": '"2"'}), 404, "not_found")


def actions_of(where: str) -> tuple[str, ...]:
    """Actions that leave a new thing as it is."""
    if where.startswith(("/v1/schedules/", "/v1/triggers/", "/v1/webhooks/")):
        return ("resume",)
    return ("stop", "start") if where.startswith("/v1/deployments/") else ()
