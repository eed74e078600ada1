"""A branching workflow drawn by drag and drop, then run: watched live, approved, failed, retried
from the failed step. The same graph as YAML, both ways; by the keyboard alone; bodies of loops.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.api.live import Api, serving
from tests.ui.screen import Language, Screen, screen

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
SPOTS = {"task1": (120, 60), "branch1": (120, 180), "task2": (400, 100), "task3": (400, 230),
         "approval1": (120, 330), "task4": (400, 380)}
"""Two columns that are whole on the canvas, handles and all, with the fields beside it."""


def box(at: Screen, step: str) -> Locator:
    """A step on the canvas."""
    return at.page.locator(f"[data-box={step}]")


def put(at: Screen, step: str) -> None:
    """Drag a type of step from the palette to its place."""
    x, y = SPOTS[step]
    at.part(f"add-{step[:-1]}").drag_to(at.part("canvas"), target_position={"x": x, "y": y})
    expect(box(at, step)).to_be_visible()


def join(at: Screen, source: str, target: str, end: str = "out") -> None:
    """Drag an edge from one step to another."""
    edges = at.page.locator(".vue-flow__edge")
    before = edges.count()
    box(at, source).locator(f".source[data-handleid={end}]").drag_to(
        box(at, target).locator(".target"))
    expect(edges).to_have_count(before + 1)


def step_is(at: Screen, step: str, state: str) -> None:
    """Wait until a step of the graph has this state."""
    expect(at.page.locator(f"[data-step='{step}']")).to_have_attribute("data-state", state)


def edit(at: Screen, step: str) -> None:
    """Choose a step, so that its fields are beside the canvas."""
    box(at, step).click()
    expect(at.part("step-id")).to_have_value(step)


def draw(at: Screen, name: str, pump: str) -> None:
    """A measure decides which way is taken, somebody is asked, then a process runs."""
    at.write(at.part("name"), name)
    for step in SPOTS:
        put(at, step)
    at.part("step-fields").get_by_role("button", name=at.t("common.close")).click()
    join(at, "task1", "branch1")
    join(at, "branch1", "task2", "true")
    join(at, "branch1", "task3", "false")
    join(at, "task2", "approval1")
    join(at, "task3", "approval1")
    join(at, "approval1", "task4")
    edit(at, "task1")
    at.choose(at.part("step-runs"), "builtin.echo")
    at.write(at.part("payload"), '{"n": ')
    at.part("save").click()         # nothing is sent while something is missing
    expect(at.part("faults")).to_contain_text(at.t("fault.json"))
    at.write(at.part("payload"), '{"n": 12}')
    edit(at, "branch1")
    at.write(at.part("condition"), "steps.task1.result.echo.n >")
    for step in ("task2", "task3"):
        edit(at, step)
        at.choose(at.part("step-runs"), "builtin.echo")
    edit(at, "task4")
    at.choose(at.part("step-runs"), pump)
    # plumd checks while one writes; the fault is at its step, and at its field.
    expect(box(at, "branch1").locator("[data-test=flaw]")).to_be_visible()
    edit(at, "branch1")
    expect(at.part("step-fields")).to_contain_text("an expression ends too early")
    at.write(at.part("condition"), "steps.task1.result.echo.n > 10")
    edit(at, "approval1")
    at.part("trigger-rule").locator(".el-select__wrapper").click()
    at.page.get_by_role("option", name=at.t("editor.rule.none_failed")).click()
    expect(at.part("valid")).to_be_visible()
    edit(at, "task1")
    at.write(at.part("step-id"), "measure")
    at.part("step-id").press("Enter")
    expect(box(at, "measure")).to_be_visible()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_graph_by_drag_and_drop_runs(api: Api, browser: Browser, tmp_path: Path,
                                       language: Language) -> None:
    name, pump, ready = f"drawn-{language}", f"pump-{language}", tmp_path / "ready"
    api.made("/v1/task-defs", {"name": pump, "executor": "os_process",
                               "defaultPayload": {"command": "test", "args": ["-e", str(ready)]}})
    with screen(browser, api.daemon.url, language) as at:
        at.go("/workflows/new")
        draw(at, name, pump)
        at.part("save").click()
        expect(at.page.locator("main h1")).to_have_text(name)
        expect(at.page.locator("[data-step]")).to_have_count(6)
        at.part("run").click()
        at.part("run-go").click()
        at.state("Running")
        step_is(at, "task2", "Succeeded")
        step_is(at, "task3", "Skipped")
        at.page.locator("[data-step=approval1]").click()
        at.part("approve").click()
        step_is(at, "task4", "Failed")
        at.state("Failed")
        failed = at.page.url
        ready.touch()
        at.part("retry").click()
        expect(at.page).not_to_have_url(failed)
        at.state("Succeeded")
        step_is(at, "task2", "Succeeded")       # taken over
        step_is(at, "approval1", "Succeeded")
        step_is(at, "task4", "Succeeded")
        at.calm()
    [saved] = api.items(f"/v1/workflows?name={name}")
    steps = saved["steps"]
    assert isinstance(steps, list)
    assert steps[1]["condition"] == "steps.measure.result.echo.n > 10"      # renamed with it
    assert steps[2]["needs"] == [{"step": "branch1", "on": "true"}]
    assert all(set(step["position"]) == {"x", "y"} for step in steps)


def test_yaml_and_graph_say_the_same(api: Api, browser: Browser) -> None:
    with screen(browser, api.daemon.url) as at:
        at.go("/workflows/new")
        at.write(at.part("name"), "two-ways")
        at.part("add-task").click()
        at.choose(at.part("step-runs"), "builtin.echo")
        at.part("undo-kind").locator(".el-select__wrapper").click()
        at.page.locator(".el-select-dropdown__item:visible").filter(
            has_text=at.t("editor.type.task")).click()
        at.choose(at.part("undo-runs"), "builtin.delay")
        at.write(at.part("undo-payload"), '{"seconds": 0}')
        tab = {name: at.page.get_by_role("tab", name=at.t(name))
               for name in ("workflow.graph", "editor.yaml")}
        tab["editor.yaml"].click()
        text = at.part("yaml")
        expect(text).to_have_value(re.compile(r"^name: two-ways\nsteps:\n  - id: task1\n"))
        text.fill(text.input_value() + "  - id: rest\n    type: wait\n    needs: [task1]\n"
                                       "    seconds: 1\n")
        expect(at.part("yaml-ok")).to_have_text(at.t("editor.yamlSame"))
        tab["workflow.graph"].click()
        expect(box(at, "rest")).to_be_visible()
        expect(at.page.locator(".vue-flow__edge")).to_have_count(1)
        # A fault names its line, and what was typed stays.
        tab["editor.yaml"].click()
        wrong = text.input_value().replace("seconds: 1", "seconds: [1")
        text.fill(wrong)
        expect(at.part("yaml-fault")).to_contain_text(re.compile(r"line \d+, column \d+"))
        tab["workflow.graph"].click()
        expect(at.part("torn")).to_be_visible()
        at.part("save").click()             # leads back to what is wrong
        expect(text).to_have_value(wrong)
        text.fill(wrong.replace("[1", "2"))
        expect(at.part("yaml-ok")).to_have_text(at.t("editor.yamlSame"))
        at.part("save").click()
        expect(at.page.locator("main h1")).to_have_text("two-ways")
        at.calm()
    [saved] = api.items("/v1/workflows?name=two-ways")
    steps = saved["steps"]
    assert isinstance(steps, list)
    assert [step.get("seconds") for step in steps] == [None, 2]
    undo = steps[0]["compensate"]
    assert (undo["task"]["name"], undo["payload"]) == ("builtin.delay", {"seconds": 0})


def test_by_the_keyboard_with_a_body_and_undo(api: Api, browser: Browser) -> None:
    with screen(browser, api.daemon.url) as at:
        at.go("/workflows/new")
        at.write(at.part("name"), "by-keys")
        at.part("add-map").press("Enter")
        at.write(at.part("loop-value"), "[1, 2, 3]")
        at.part("enter-body").press("Enter")
        expect(at.part("scope")).to_have_text("map1")
        at.part("add-task").press("Enter")
        at.choose(at.part("step-runs"), "builtin.echo")
        at.write(at.part("payload"), '{"site": "${item}"}')
        at.page.get_by_label(at.t("editor.where")).get_by_role(
            "button", name=at.t("editor.root.steps")).click()
        expect(at.part("enter-map1")).to_have_text("1")
        at.part("add-approval").press("Enter")          # after the chosen one
        expect(at.page.locator(".vue-flow__edge")).to_have_count(1)
        box(at, "approval1").locator("xpath=..").press("Delete")
        expect(box(at, "approval1")).to_have_count(0)
        at.page.keyboard.press("Control+z")
        expect(box(at, "approval1")).to_be_visible()
        expect(at.page.locator(".vue-flow__edge")).to_have_count(1)
        at.part("undo").click()
        expect(box(at, "approval1")).to_have_count(0)
        at.part("redo").click()
        expect(box(at, "approval1")).to_be_visible()
        expect(at.part("valid")).to_be_visible()
        at.part("save").click()
        expect(at.page.locator("main h1")).to_have_text("by-keys")
        at.calm()
    [saved] = api.items("/v1/workflows?name=by-keys")
    steps = saved["steps"]
    assert isinstance(steps, list)
    assert [step["id"] for step in steps] == ["map1", "approval1"]
    assert steps[0]["body"][0]["payload"] == {"site": "${item}"}


def test_a_chain_of_four_can_be_read_at_a_desk(api: Api, browser: Browser) -> None:
    """Whole and large, for fields take room only once a step is chosen, and then it is in view."""
    names = ["fetch", "count", "check", "report"]
    made = api.made("/v1/workflows", {"name": "chain", "steps": [
        {"id": name, "task": {"name": "builtin.echo"}} for name in names]})
    with screen(browser, api.daemon.url) as at:
        at.page.set_viewport_size({"width": 1440, "height": 900})
        at.go(f"/workflows/{made['workflowId']}/edit")
        for name in names:
            expect(box(at, name)).to_be_in_viewport(ratio=0.99)
        whole = box(at, "report").bounding_box()
        assert whole is not None
        assert whole["width"] >= 0.9 * 210
        edit(at, "report")
        expect(box(at, "report")).to_be_in_viewport(ratio=0.99)
        beside = box(at, "report").bounding_box()
        assert beside is not None
        assert beside["width"] == pytest.approx(whole["width"], abs=1)
        at.calm()


def test_on_a_phone_the_fields_of_a_chosen_step_come_into_view(api: Api,
                                                               browser: Browser) -> None:
    made = api.made("/v1/workflows", {"name": "by-thumb", "steps": [
        {"id": name, "task": {"name": "builtin.echo"}} for name in ("fetch", "count")]})
    with screen(browser, api.daemon.url, size="phone") as at:
        at.go(f"/workflows/{made['workflowId']}/edit")
        box(at, "count").tap()
        expect(at.part("step-runs")).to_be_in_viewport()
        expect(box(at, "count")).to_be_in_viewport()
        at.calm()
