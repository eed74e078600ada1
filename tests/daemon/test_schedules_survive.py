"""Schedules of the real program through kill -9: no slot is lost, none runs twice."""

from __future__ import annotations

import pytest

from tests.api.live import Api, whole
from tests.daemon.plant import wait_for
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon


def both_go_on(api: Api, paths: list[str]) -> None:
    """Each of the schedules has two more slots."""
    seen = [len(api.items(f"{path}/fires")) for path in paths]
    wait_for(lambda: all(len(api.items(f"{path}/fires")) > before + 1
                         for path, before in zip(paths, seen, strict=True)), "both go on")


def test_every_slot_has_one_run_through_kill_9(daemon: Running) -> None:
    with Api(daemon) as api:
        echo = api.made("/v1/task-defs", {"name": "echo", "targetKind": "builtin",
                                          "targetRef": "builtin.echo"})["defId"]
        flow = api.made("/v1/workflows", {"name": "f", "steps": [{"definitionId": echo}] * 2})
        paths = [f"/v1/schedules/{made['scheduleId']}" for made in (
            api.made("/v1/schedules", {"name": name, "everySec": 1, "overlapPolicy": policy,
                                       "missedPolicy": "all", **what})
            for name, policy, what in (("task", "allow", {"defId": echo}),
                                       ("flow", "queue", {"workflowId": flow["workflowId"]})))]
    for _ in range(3):
        with Api(daemon) as api:
            both_go_on(api, paths)
        daemon.kill()
        daemon.start()
    with Api(daemon) as api:
        for path in paths:
            whole(api.ask("POST", path + "?action=pause"), 200)
            history = api.items(f"{path}/fires?limit=1000")
            slots = sorted(int(str(one["slot"])) for one in history)
            assert slots == list(range(slots[0], slots[0] + 1000 * len(slots), 1000)), "a gap"
            made = [one["runId"] or one["taskId"] for one in history if one["state"] == "started"]
            assert len(set(made)) == len(made) >= len(slots) - 1
        started = {one["taskId"] for one in api.items(f"{paths[0]}/fires?limit=1000")}
        tasks = {task["taskId"] for task in api.walk("/v1/tasks?limit=1000")
                 if task["runId"] is None}
        assert tasks == started, "a task without a slot, or a slot without its task"
        runs = {one["runId"] for one in api.walk("/v1/workflow-runs?limit=1000")}
        assert runs == {one["runId"] for one in api.items(f"{paths[1]}/fires?limit=1000")
                        if one["runId"]}
