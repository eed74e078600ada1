"""A past run is played again: graph and time axis show how it was; two versions beside each other,
and back to the older one; what a workflow would do; two runs compared.
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api, serving
from tests.ui.screen import Screen, screen

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def step_is(at: Screen, step: str, state: str) -> None:
    """Wait until a step of the graph has this state."""
    expect(at.page.locator(f"[data-step='{step}']")).to_have_attribute("data-state", state)


def kinds(at: Screen, step: str) -> list[str]:
    """What a row of the time axis is made of."""
    found: list[str] = at.page.locator(f"[data-row='{step}'] .bar").evaluate_all(
        "bars => bars.map(bar => bar.dataset.kind)")
    return found


def flaky(api: Api, name: str) -> str:
    """A workflow whose second step fails, pauses and fails again; its id."""
    return str(api.made("/v1/workflows", {"name": name, "steps": [
        {"id": "rest", "task": {"name": "builtin.delay"}, "payload": {"seconds": 0.1}},
        {"id": "pump", "task": {"name": "builtin.fail", "maxRetries": 1},
         "payload": {"message": "dry"}},
        {"id": "tell", "task": {"name": "builtin.echo"}}]})["workflowId"])


def test_a_past_run_is_played_again(api: Api, browser: Browser) -> None:
    flow = flaky(api, "played")
    run = api.made(f"/v1/workflows/{flow}?action=run", prefer="wait=30")
    assert run["state"] == "Failed"
    with screen(browser, api.daemon.url) as at:
        at.go(f"/runs/{run['runId']}")
        step_is(at, "pump", "Failed")
        expect(at.page.locator("[data-row=pump] .bar.retry")).to_have_count(1)
        assert [kind for kind in kinds(at, "pump") if kind != "wait"] == ["run", "retry", "run"]
        slider = at.part("replay-slider")
        slider.fill(str(run["createdAt"]))
        step_is(at, "pump", "Waiting")
        step_is(at, "tell", "Waiting")
        for _ in range(30):             # from change to change, until the pause
            if at.page.locator("[data-step=pump][data-state=Retrying]").count():
                break
            at.part("replay-on").click()
        step_is(at, "pump", "Retrying")
        step_is(at, "rest", "Succeeded")
        assert [kind for kind in kinds(at, "pump") if kind != "wait"] == ["run", "retry"]
        # The moment is in the address, for whoever it is sent to.
        expect(at.page).to_have_url(re.compile(r"[?&]at=\d+"))
        at.page.reload()
        step_is(at, "pump", "Retrying")
        at.part("replay-play").click()  # plays on to the end
        step_is(at, "pump", "Failed")
        step_is(at, "tell", "Skipped")
        at.part("replay-now").click()
        expect(at.page).not_to_have_url(re.compile(r"[?&]at="))
        at.calm()
