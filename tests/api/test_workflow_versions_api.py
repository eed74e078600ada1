"""The versions of a workflow, against the real program."""

from __future__ import annotations

import pytest

from tests.api.live import Api, refused, serving

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def test_every_version_as_it_was(api: Api) -> None:
    step = api.made("/v1/task-defs", {"name": "versions.step"})
    made = api.made("/v1/workflows", {"name": "versions", "steps": [{"type": "parallel"}] * 2})
    path = f"/v1/workflows/{made['workflowId']}"
    second = api.done("PUT", path, {"name": "versions 2", "description": "more", "steps": [
        {"definitionId": step["defId"], "name": "only"}]})
    versions = api.items(f"{path}/versions")
    assert [(one["version"], one["name"], one["description"], len(list(one["steps"])))  # type: ignore[call-overload]
            for one in versions] == [(2, "versions 2", "more", 1), (1, "versions", "", 2)]
    assert versions[0]["createdAt"] == second["updatedAt"]
    assert versions[1]["createdAt"] == made["createdAt"]
    assert list(api.walk(f"{path}/versions?limit=1")) == versions


def test_of_nothing(api: Api) -> None:
    for number in ("abc", "no-id"):
        refused(api.ask("GET", f"/v1/workflows/{number}/versions"), 404, "not_found")
    made = api.made("/v1/workflows", {"name": "versions gone", "steps": [{"type": "parallel"}]})
    refused(api.ask("GET", f"/v1/workflows/{made['workflowId']}/versions?limit=0"), 422, "invalid",
            "limit")
    api.gone(f"/v1/workflows/{made['workflowId']}")
    refused(api.ask("GET", f"/v1/workflows/{made['workflowId']}/versions"), 404, "not_found")
