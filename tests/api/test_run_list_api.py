"""The list of runs by several states, against the real program."""

from __future__ import annotations

import pytest

from tests.api.live import WAIT_S, Api, refused, serving

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def test_several_states(api: Api) -> None:
    runs = {}
    for name in ("echo", "fail"):
        step = api.made("/v1/task-defs", {"name": f"list.{name}", "targetKind": "builtin",
                                          "targetRef": f"builtin.{name}"})
        flow = api.made("/v1/workflows", {"name": f"list {name}", "steps": [
            {"definitionId": step["defId"]}]})
        runs[name] = api.made(f"/v1/workflows/{flow['workflowId']}?action=run",
                              prefer=f"wait={WAIT_S}")["runId"]
    for states, expected in (("Failed", ["fail"]), ("succeeded,failed", ["fail", "echo"]),
                             ("Running,Pending", []), ("Succeeded", ["echo"])):
        for more in ("", "&limit=1"):
            path = f"/v1/workflow-runs?state={states}{more}"
            assert [run["runId"] for run in api.walk(path)] == [runs[name] for name in expected]
    refused(api.ask("GET", "/v1/workflow-runs?state=Failed,Broken"), 422, "invalid", "state")
