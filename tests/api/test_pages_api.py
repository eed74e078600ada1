"""Lists: whatever is listed is listed page by page in the same way."""

from __future__ import annotations

import pytest

from tests.api.live import Api, Json, listed, next_page, refused, serving
from tests.api.test_conditions_api import MADE, WRITTEN, body_of

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

RULE: Json = {"name": "hot", "state": "temp", "op": ">", "value": "9"}
LISTS = (*(path.removesuffix("/{id}") for path in MADE),
         *(path.partition("/{")[0] for path in WRITTEN),
         "/v1/alarm-rules", "/v1/services/policies", "/v1/nodes", "/v1/embedded-workers")


def make(api: Api, path: str, name: str) -> None:
    """One more item of a list."""
    if f"{path}/{{id}}" in MADE:
        body = {**body_of(api, f"{path}/{{id}}"), "name": name}
        assert api.ask("POST", path, body).status_code in (200, 201)
    elif path == "/v1/alarm-rules":
        api.made(path, RULE)
    elif path == "/v1/services/policies":
        api.done("PUT", f"{path}/{name}", {})
    elif path == "/v1/nodes":
        api.done("POST", f"{path}/heartbeat", {"nodeId": name})
    elif path == "/v1/embedded-workers":
        api.made(f"{path}/register", {"workerId": name, "tasks": ["nothing"]})
    else:
        one, = (one for one in WRITTEN if one.startswith(path + "/"))
        api.done("PUT", f"{path}/{name}", WRITTEN[one])


def still(item: Json) -> Json:
    """An item without what is reckoned from the clock, to a millisecond more or less."""
    return {key: value for key, value in item.items() if not key.startswith("lastSeen")}


@pytest.mark.parametrize("path", LISTS)
def test_pages_are_as_long_as_asked_and_the_last_one_has_no_next(api: Api, path: str) -> None:
    for name in ("page-2", "page-1", "page-3"):
        make(api, path, name)
    whole = api.items(f"{path}?limit=1000")
    assert len(whole) >= 3
    for limit in (1, 2, len(whole)):
        pages: list[list[Json]] = []
        following: str | None = f"{path}?limit={limit}"
        while following is not None:
            answer = api.ask("GET", following)
            pages.append(listed(answer.json()))
            following = next_page(answer)
        assert [still(one) for page in pages for one in page] == [still(one) for one in whole]
        assert {len(page) for page in pages[:-1]} <= {limit}
        assert pages[-1], "no page is empty"


def test_a_limit_or_cursor_that_is_none_is_refused_by_name(api: Api) -> None:
    paths = api.get("/openapi.json")["paths"]
    assert isinstance(paths, dict)
    for path, methods in paths.items():
        given = {one["name"] for one in methods.get("get", {}).get("parameters", ())}
        if "{" in path or "cursor" not in given:
            continue
        needs = "&resourceId=none" if path == "/v1/resources/states" else ""
        for limit in ("0", "1001", "-1", "1.5", "x"):
            refused(api.ask("GET", f"{path}?limit={limit}{needs}"), 422, "invalid", "limit")
        refused(api.ask("GET", f"{path}?cursor=%21{needs}"), 422, "invalid", "cursor")


def test_lists_take_both_or_say_why_not(api: Api) -> None:
    paths = api.get("/openapi.json")["paths"]
    assert isinstance(paths, dict)
    whole = set()
    for path, methods in paths.items():
        if "get" in methods:
            schema = methods["get"]["responses"].get("200", {}).get("content", {}).get(
                "application/json", {}).get("schema", {})
            given = {one["name"] for one in methods["get"]["parameters"]}
            if schema.get("type") == "array" and not {"limit", "cursor"} <= given:
                whole.add(path)
    assert whole == {
        "/v1/builtins",                     # as many as the program has
        "/v1/tasks/{id}/attempts",          # bounded by the task's retries
        "/v1/tasks/failures",               # the largest groups, not all of them
        "/v1/events/history",               # goes backwards by event numbers
        "/v1/schedules/{id}/preview",       # has no end: takes count and from
        "/v1/services/list", "/v1/discovery",       # old clients read them whole
    }
