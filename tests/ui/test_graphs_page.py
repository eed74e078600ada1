"""A workflow with a branch and an approval, written as JSON: its picture, its run live, the word
that it waits for, and a retry from what failed.
"""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api
from tests.daemon.running import Running
from tests.ui.screen import Language, Screen, screen

pytestmark = pytest.mark.daemon


def step_is(at: Screen, step: str, state: str) -> None:
    """Wait until a step of the graph has this state."""
    expect(at.page.locator(f"[data-step='{step}']")).to_have_attribute("data-state", state)


def body(name: str) -> str:
    """A graph: a measure decides which way is taken, and somebody is asked before the end."""
    return json.dumps({"name": name, "params": {"properties": {"value": {"type": "integer",
                                                                         "default": 12}}},
        "steps": [
            {"id": "measure", "task": {"name": "builtin.echo"},
             "payload": {"n": "${params.value}"}},
            {"id": "high", "type": "branch", "needs": ["measure"],
             "condition": "steps.measure.result.echo.n > 10"},
            {"id": "cool", "task": {"name": "builtin.echo"},
             "needs": [{"step": "high", "on": "true"}]},
            {"id": "heat", "task": {"name": "builtin.echo"},
             "needs": [{"step": "high", "on": "false"}]},
            {"id": "ask", "type": "approval", "needs": ["cool", "heat"],
             "triggerRule": "none_failed"},
            {"id": "tell", "task": {"name": "builtin.echo"}, "needs": ["ask"]}]})


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_graph_with_an_approval_by_clicks(browser: Browser, shared_daemon: Running,
                                            language: Language) -> None:
    name = f"graph-{language}"
    with Api(shared_daemon), screen(browser, shared_daemon.url, language) as at:
        at.go("/workflows/new")
        at.part("as-json").click()
        at.write(at.part("json"), "{")
        at.part("save").click()
        expect(at.page.get_by_text(at.t("fault.json"))).to_be_visible()
        at.write(at.part("json"), body(name))
        at.part("save").click()
        expect(at.page.locator("main h1")).to_have_text(name)
        expect(at.page.locator("[data-step]")).to_have_count(6)
        expect(at.page.locator(".vue-flow__edge")).to_have_count(6)
        at.part("run").click()
        at.part("run-go").click()
        at.state("Running")
        step_is(at, "cool", "Succeeded")
        step_is(at, "heat", "Skipped")
        at.page.locator("[data-step=ask]").click()
        at.part("reject").click()
        at.state("Failed")
        at.part("retry").click()
        at.state("Running")
        step_is(at, "cool", "Succeeded")        # taken over
        at.page.locator("[data-step=ask]").click()
        at.part("approve").click()
        at.state("Succeeded")
        step_is(at, "tell", "Succeeded")
        # A graph is not a chain: the form does not offer to write over what it cannot show.
        at.page.get_by_role("link", name=at.t("run.workflowVersion", name=name, version=1)).click()
        at.part("edit").click()
        expect(at.part("json").locator("textarea")).to_have_value(
            re.compile(rf'"name": "{name}"'))
        at.calm()

