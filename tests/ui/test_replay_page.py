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
        {"id": "rest", "task": {"name": "builtin.delay"}, "payload": {"seconds": 0.1},
         "compensate": {"task": {"name": "builtin.echo"}}},
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
        at.page.locator("[data-row=tell]").click()
        expect(at.part("skip-reason")).to_have_text(at.t("run.skipped.upstream_failed"))
        at.page.locator("[data-row='rest/undo']").click()
        expect(at.part("compensates")).to_contain_text("rest")
        at.calm()


def test_versions_differ_and_an_older_one_comes_back(api: Api, browser: Browser) -> None:
    echo = {"name": "builtin.echo"}
    flow = api.made("/v1/workflows", {"name": "versioned", "steps": [
        {"id": "a", "task": echo, "payload": {"n": 1}}, {"id": "old", "task": echo}]})
    one = f"/v1/workflows/{flow['workflowId']}"
    api.done("PUT", one, {"name": "versioned", "steps": [
        {"id": "a", "task": echo, "payload": {"n": 2}}, {"id": "new", "task": echo}]})
    with screen(browser, api.daemon.url) as at:
        at.go(f"/workflows/{flow['workflowId']}?tab=versions")
        marked = {step: at.page.locator(f"[data-step={step}][data-mark]") for step in
                  ("a", "old", "new")}
        for step, mark in (("a", "changed"), ("old", "removed"), ("new", "added")):
            expect(marked[step]).to_have_attribute("data-mark", mark)
        change = at.part("diff").locator("[data-mark=changed]").first
        expect(change.locator(".change code")).to_have_text("payload.n")
        expect(change.locator("del")).to_have_text("1")
        expect(change.locator("ins")).to_have_text("2")
        at.part("rollback").click()
        at.page.locator(".el-message-box").get_by_role(
            "button", name=at.t("diff.rollback", version=1)).click()
        expect(at.page.get_by_text(at.t("def.versionNumber", version=3)).first).to_be_visible()
        at.part("version-from").locator(".el-select__wrapper").click()
        at.page.get_by_role("option", name=at.t("def.versionNumber", version=1)).click()
        expect(at.page.get_by_text(at.t("diff.none"))).to_be_visible()      # 1 and 3
        # An older version is run, and no further than to its first step.
        at.part("run").click()
        for field, words in (("run-version", at.t("def.versionNumber", version=2)),
                             ("run-up-to", "a")):
            at.part(field).locator(".el-select__wrapper").click()
            at.page.locator(".el-select-dropdown__item:visible").filter(
                has_text=re.compile(rf"(^|\()\s*{words}\s*(\)|$)")).click()
        at.part("run-go").click()
        step_is(at, "a", "Succeeded")
        step_is(at, "new", "Skipped")
        at.page.locator("[data-row=new]").click()
        expect(at.part("skip-reason")).to_have_text(at.t("run.skipped.not_asked"))
        at.calm()
    steps = api.get(one)["steps"]
    assert isinstance(steps, list)
    assert [step["id"] for step in steps] == ["a", "old"]


def test_what_a_workflow_would_do(api: Api, browser: Browser) -> None:
    flow = api.made("/v1/workflows", {"name": "foretold", "steps": [
        {"id": "fetch", "task": {"name": "fetch"}},
        {"id": "each", "type": "map", "items": 8, "concurrency": 8,
         "body": [{"id": "solve", "task": {"name": "solve"}}]},
        {"id": "tell", "task": {"name": "tell"}}]})
    with screen(browser, api.daemon.url) as at:
        at.go(f"/workflows/{flow['workflowId']}")
        at.part("simulate").click()
        expect(at.part("simulated")).to_be_visible()        # with what is known, at once
        at.write(at.part("duration-solve"), "later")
        at.part("simulate-go").click()
        expect(at.page.get_by_text(at.t("simulate.durationFault")).first).to_be_visible()
        at.write(at.part("duration-solve"), "60")
        at.part("simulate-go").click()
        # 4 slots: 1 s, twice 60 s, 1 s; with 8 slots once 60 s.
        figures = at.part("what-if").locator("tbody tr")
        expect(figures.filter(has=at.page.get_by_role("rowheader", name="4", exact=True))
               ).to_contain_text("2 m 02 s")
        expect(figures.filter(has=at.page.get_by_role("rowheader", name="8", exact=True))
               ).to_contain_text("1 m 02 s")
        expect(at.part("critical")).to_contain_text("fetch → each → tell")
        expect(at.page.locator("[data-row$='.solve'] .bar.wait")).to_have_count(4)
        at.calm()


def test_a_graph_of_very_many_steps_is_painted(api: Api, browser: Browser) -> None:
    steps = [{"id": f"s{n}", "task": {"name": "builtin.echo" if n else "builtin.fail"},
              "needs": [f"s{(n - 1) // 3}"] if n else []} for n in range(400)]
    flow = api.made("/v1/workflows", {"name": "crowd", "steps": steps})["workflowId"]
    run = api.made(f"/v1/workflows/{flow}?action=run", prefer="wait=30")
    with screen(browser, api.daemon.url) as at:
        at.go(f"/runs/{run['runId']}")
        graph = at.part("big-graph")
        expect(graph).to_have_attribute("aria-label", re.compile("400"))
        assert at.page.locator("[data-step]").count() == 0
        counts = at.page.locator(".counts button")
        first = counts.filter(has_text=at.t("state.Failed"))
        expect(first).to_contain_text("1")
        counts.filter(has_text=at.t("state.Skipped")).click()       # goes to the first
        expect(at.page.locator("[data-row=s1]")).to_have_attribute("aria-pressed", "true")
        first.click()
        expect(at.page.locator("[data-row=s0]")).to_have_attribute("aria-pressed", "true")
        # What is painted in the middle is the chosen step; a click beside it chooses nothing else.
        box = graph.bounding_box()
        assert box is not None
        at.page.locator("[data-row=s2]").click()
        graph.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
        expect(at.page.locator("[data-row=s0]")).to_have_attribute("aria-pressed", "true")
        at.calm()


def test_two_runs_beside_each_other(api: Api, browser: Browser) -> None:
    flow = api.made("/v1/workflows", {"name": "twice", "steps": [
        {"id": "rest", "task": {"name": "builtin.delay"}}]})["workflowId"]
    ids = [api.made(f"/v1/workflows/{flow}?action=run", {"payload": {"seconds": seconds}},
                    prefer="wait=30")["runId"] for seconds in (1.2, 0.1)]
    with screen(browser, api.daemon.url) as at:
        at.go(f"/runs/{ids[0]}")
        at.part("compare").click()
        change = at.part("input")
        expect(change.locator("code")).to_have_text("seconds")
        expect(change).to_contain_text("1.2")
        expect(change).to_contain_text("0.1")
        row = at.page.locator("[data-row=rest]")
        expect(row.locator(".bar.upper")).to_have_count(1)
        expect(row.locator(".bar.lower")).to_have_count(1)
        whole = at.part("durations").locator("tbody tr").first
        expect(whole).to_contain_text(re.compile(r"−\d"))        # the other one was shorter
        at.calm()
