"""Triggers of the real program through kill -9: every event starts one run, none starts two."""

from __future__ import annotations

import httpx
import pytest

from tests.api.live import Api
from tests.daemon.plant import wait_for
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon


def test_one_run_an_event_through_kill_9(daemon: Running) -> None:
    with Api(daemon) as api:
        first, second = (str(api.made("/v1/workflows", {"name": name, "steps": [
            {"id": "a", "task": {"name": "builtin.echo"}}]})["workflowId"])
            for name in ("first", "second"))
        hook = api.made("/v1/triggers", {"name": "hook", "kind": "webhook", "signature": "none",
                                         "workflowId": first})
        after = api.made("/v1/triggers", {
            "name": "after", "kind": "after", "workflowId": second,
            "after": {"workflowId": first}, "payload": {"from": "${event.data.runId}"}})
    sent = 0
    for round_ in range(4):
        with Api(daemon) as api:
            for _ in range(40):     # the last ones of a round are under way when it is killed
                sent += 1
                try:
                    api.http.post(str(hook["path"]), json={"n": sent}, timeout=20,
                                  headers={"webhook-id": f"e{sent}"})
                except httpx.TransportError:
                    break
                if sent % 40 == 7 * round_:
                    daemon.kill()
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
        daemon.start()
    with Api(daemon) as api:
        for number in range(1, sent + 1):       # whoever is not sure sends it again
            api.http.post(str(hook["path"]), json={"n": number},
                          headers={"webhook-id": f"e{number}"}).raise_for_status()

        def runs(workflow: str) -> list[dict[str, object]]:
            return list(api.walk(f"/v1/workflow-runs?limit=1000&workflowId={workflow}"))

        wait_for(lambda: len(runs(second)) >= sent, "everything has followed")
        wait_for(lambda: all(run["state"] == "Succeeded" for run in runs(second)), "all ended")
        numbers = [run["payload"]["n"] for run in runs(first)]  # type: ignore[index]
        assert sorted(map(int, numbers)) == list(range(1, sent + 1))
        origins = [run["payload"]["from"] for run in runs(second)]  # type: ignore[index]
        assert sorted(map(str, origins)) == sorted(str(run["runId"]) for run in runs(first))
        taken = list(api.walk(f"/v1/triggers/{after['triggerId']}/events?limit=1000"))
        assert len(taken) == sent
