"""A run is begun by a form, answered, looked into and repeated with other parameters."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api, serving
from tests.ui.screen import Language, Screen, Size, screen

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
ECHO = {"name": "builtin.echo"}
PARAMS = {"required": ["site", "count"], "properties": {
    "site": {"enum": ["north", "south"], "title": "Site"},
    "count": {"type": "integer", "minimum": 1, "maximum": 9, "description": "How many."},
    "ratio": {"type": "number", "default": 0.5}, "dry": {"type": "boolean"},
    "note": {"type": "string"}, "tags": {"type": "array"}}}


@pytest.fixture(scope="module", params=["en", "zh"], ids=["en", "zh"])
def flow(api: Api, request: pytest.FixtureRequest) -> tuple[Language, str]:
    """A workflow that asks, has rounds, waits for an event and for a worker that is not there."""
    language: Language = request.param
    made = api.made("/v1/workflows", {"name": f"ship-{language}", "params": PARAMS, "steps": [
        {"id": "each", "type": "map", "items": "${params.count}", "needs": [], "body": [
            {"id": "visit", "task": ECHO, "payload": "${loop.index}"}]},
        {"id": "ask", "name": "Ask the shift", "type": "approval", "needs": ["each"],
         "timeoutSec": 3600},
        {"id": "go", "type": "wait", "event": "green", "needs": ["ask"]},
        {"id": "late", "task": {"name": f"nobody-{language}"}, "needs": ["go"]}],
        "result": {"by": "${steps.ask.result.payload.by}"}})
    return language, str(made["workflowId"])


def begin(at: Screen) -> None:
    """Fill in the form; what is missing or refused is said at its field."""
    at.part("run").click()
    field = at.part("payload-field")
    at.part("run-go").click()
    expect(field.get_by_text(at.t("fault.required"))).to_have_count(2)
    at.part("param-site").locator(".el-select__wrapper").click()
    at.page.get_by_role("option", name="north").click()
    at.write(at.part("param-count"), "12")
    at.part("param-count").locator("input").press("Tab")
    at.write(at.part("param-tags"), '["a"]')
    at.part("run-go").click()
    expect(field).to_contain_text("this is at most 9")
    at.write(at.part("param-count"), "3")
    at.part("param-count").locator("input").press("Tab")
    at.part("as-json").click()
    expect(at.part("run-payload").locator("textarea")).to_have_value(
        '{\n  "site": "north",\n  "count": 3,\n  "tags": [\n    "a"\n  ]\n}')
    at.part("as-json").click()
    at.part("run-go").click()
    at.state("Running")


def answer(at: Screen) -> None:
    """Somebody approves with a payload, and says that the event has come."""
    waiting = at.part("waiting")
    expect(waiting).to_contain_text(at.t("run.waitsFor", name="Ask the shift"))
    expect(at.page.locator("[data-step=ask]")).to_have_attribute("data-state", "Asking")
    expect(at.part("step-panel").locator("[data-state=Asking]")).to_be_visible()
    at.part("with-payload").click()
    at.write(at.part("answer"), '{"by": ')
    at.part("approve-with").click()
    expect(at.page.get_by_text(at.t("fault.json"))).to_be_visible()
    at.write(at.part("answer"), '{"by": "Ada"}')
    at.part("approve-with").click()
    expect(at.page.locator("[data-waiting=go]")).to_contain_text("green")
    at.part("complete").click()
    expect(waiting).to_have_count(0)


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_a_run_is_begun_answered_looked_into_and_repeated(
        api: Api, browser: Browser, flow: tuple[Language, str], size: Size) -> None:
    language, workflow = flow
    with screen(browser, api.daemon.url, language, size) as at:
        at.go(f"/workflows/{workflow}")
        begin(at)
        answer(at)
        # What waits for a worker says so here too; the address leads to any step.
        expect(at.part("why")).to_contain_text(at.t("why.no_worker", name=f"nobody-{language}"))
        at.page.locator("[data-step=each]").click()
        rounds = at.part("rounds")
        expect(rounds.locator("[data-row]")).to_have_count(3)
        rounds.get_by_role("link", name="each[2].visit").click()
        panel = at.part("step-panel")
        expect(panel).to_contain_text("each[2].visit")
        expect(panel.get_by_role("region", name=at.t("task.payload"))).to_have_text("2")
        at.page.reload()
        expect(panel.get_by_role("region", name=at.t("task.payload"))).to_have_text("2")
        at.press(at.t("run.insideBack", name="each"))
        expect(rounds).to_be_visible()
        at.part("cancel").click()
        at.page.get_by_role("dialog").get_by_role("button", name=at.t("action.cancel")).click()
        at.state("Canceled")
        first = at.page.url
        at.part("rerun").click()
        expect(at.part("param-count").locator("input")).to_have_value("3")
        at.write(at.part("param-count"), "2")
        at.part("param-count").locator("input").press("Tab")
        at.part("run-go").click()
        expect(at.page).not_to_have_url(first)
        expect(at.page.get_by_text(at.t("run.origin"))).to_be_visible()
        expect(at.part("waiting")).to_be_visible()
        at.part("reject").click()
        at.state("Failed")
        at.calm()
    [again, *_] = api.items(f"/v1/workflow-runs?workflowId={workflow}&limit=2")
    assert again["payload"] == {"site": "north", "count": 2, "tags": ["a"], "ratio": 0.5}
    assert again["originRunId"] is not None


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_no_words_lie_over_a_short_bar(api: Api, browser: Browser, size: Size) -> None:
    nap = {"name": "builtin.sleep"}
    flow = api.made("/v1/workflows", {"name": f"naps-{size}", "steps": [
        {"id": "early", "task": ECHO}, {"id": "middle", "task": nap, "payload": {"seconds": 1}},
        {"id": "late", "task": ECHO}]})["workflowId"]
    run = api.made(f"/v1/workflows/{flow}?action=run", prefer="wait=30")["runId"]
    with screen(browser, api.daemon.url, size=size) as at:
        at.go(f"/runs/{run}")
        for step in ("early", "late"):
            row = at.page.locator(f"button[data-row={step}]")
            words = row.locator(".small").bounding_box()
            assert words is not None
            for bar in row.locator(".bar").all():
                box = bar.bounding_box()
                assert box is not None
                left, right = round(words["x"]), round(words["x"] + words["width"])
                assert round(box["x"] + box["width"]) <= left or right <= round(box["x"]) \
                    or words["y"] + words["height"] <= box["y"], (step, words, box)
        at.calm()
