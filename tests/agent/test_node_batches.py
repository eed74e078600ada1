"""Batches of commands on a node, by the real programs, through kill -9 of daemon and agent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.agent.test_node_tasks import logs, node
from tests.daemon.plant import Api, crash, wait_for
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon


def batch(api: Api, *codes: str, **more: object) -> str:
    payload = {"commands": [{"command": "sh", "args": ["-c", code]} for code in codes],
               "killGraceSec": 0.5, **more}
    return api.submit("a.job", executor="os_process", targetKind="node", targetRef="n1",
                      payload=payload).task_id


def states(api: Api, task_id: str) -> list[str]:
    """Of its commands, at its end."""
    api.ended(task_id)
    result = json.loads(api.get(f"/v1/tasks/{task_id}"))["result"]
    return [one["state"] for one in result["commands"]]


def test_a_batch_on_a_node_outlives_daemon_and_agent(daemon: Running, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with Api(daemon) as api, node(daemon, "n1") as agent:
        assert states(api, batch(api, "echo a", "exit 3", "echo c")) == [
            "succeeded", "failed", "notRun"]
        assert states(api, batch(api, "exit 3", "echo c", stopOnError=False)) == [
            "failed", "succeeded"]
        task = batch(api, "echo one", f"echo two; until test -e {gate}; do sleep 0.05; done",
                     "echo three")
        wait_for(lambda: "two" in logs(api, task), "it runs")
        agent.kill()
        crash(daemon, api)
        gate.touch()
        agent.start()
        assert states(api, task) == ["succeeded"] * 3
        ended = json.loads(api.get(f"/v1/tasks/{task}"))
        assert (ended["state"], ended["attempt"]) == ("Succeeded", 1)
        assert ended["result"]["stdout"] == "one\ntwo\nthree\n"
