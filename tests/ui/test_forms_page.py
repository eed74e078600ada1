"""What all forms have in common: a fault is brought into sight, and fields stand in line."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests import zips
from tests.api.live import Api, serving
from tests.ui.screen import screen

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def test_a_fault_above_is_brought_into_sight(browser: Browser, api: Api) -> None:
    with screen(browser, api.daemon.url, size="phone") as at:
        at.go("/schedules/new")
        name = at.page.get_by_role("textbox", name=at.t("def.name"))
        at.part("save").scroll_into_view_if_needed()
        expect(name).not_to_be_in_viewport()
        at.part("save").click()
        expect(name).to_be_focused()
        expect(name).to_be_in_viewport()
        expect(at.page.get_by_text(at.t("fault.required")).first).to_be_in_viewport()
        # What plumd finds is brought into sight as well.
        workflow = api.made("/v1/workflows", {"name": "flow", "steps": [
            {"id": "one", "task": {"name": "builtin.echo"}}]})["workflowId"]
        api.made("/v1/schedules", {"name": "taken", "workflowId": workflow, "everySec": 3600})
        at.go(f"/schedules/new?workflow={workflow}")
        name.fill("taken")
        at.part("save").click()
        expect(name).to_be_focused()
        expect(name).to_be_in_viewport()
        at.calm()


def test_the_fields_of_a_step_stand_in_line(browser: Browser, api: Api) -> None:
    def edges(field: Locator) -> tuple[float, float]:
        box = field.locator("xpath=ancestor-or-self::*[contains(@class, 'el-form-item')][1]")
        found = box.bounding_box()
        assert found is not None
        return round(found["x"]), round(found["x"] + found["width"])

    with screen(browser, api.daemon.url) as at:
        at.go("/workflows/new")
        for kind in ("task", "loop", "map", "branch", "wait", "approval"):
            at.part(f"add-{kind}").click()
            expect(at.part("step-fields")).to_contain_text(at.t(f"editor.typeText.{kind}"))
            left, right = edges(at.part("trigger-rule")) if kind != "task" else edges(
                at.part("payload"))
            start, middle = edges(at.part("step-id"))
            follows, end = edges(at.part("step-name"))
            assert (start, end) == (left, right), kind
            assert middle < follows, "beside each other"
        at.calm()


def test_the_way_back_leads_to_the_list_for_whoever_came_by_a_link(
        browser: Browser, api: Api) -> None:
    with screen(browser, api.daemon.url) as at:
        back = at.part("leave")
        at.go("/triggers/new")
        back.click()
        expect(at.page.locator("main h1")).to_have_text(at.t("place.triggers"))
        at.go("/schedules")
        at.part("new").first.click()
        back.click()
        expect(at.page.locator("main h1")).to_have_text(at.t("place.schedules"))
        at.calm()


def test_where_one_changes_a_thing_the_way_back_has_its_name(browser: Browser, api: Api) -> None:
    made = api.made("/v1/task-defs", {"name": "sweeper", "executor": "os_process",
                                      "defaultPayload": {"command": "true"}})["defId"]
    with screen(browser, api.daemon.url) as at:
        at.go(f"/task-defs/{made}/edit")
        at.page.locator("main").get_by_role("link", name="sweeper").click()
        expect(at.part("edit")).to_be_visible()
        expect(at.page.locator("main h1")).to_have_text("sweeper")
        at.calm()


def test_what_is_said_beside_a_deployment_is_of_what_was_chosen(
        browser: Browser, api: Api) -> None:
    app = api.http.post("/v1/apps/upload", content=zips.app("sleeper", "1.0")).json()
    with screen(browser, api.daemon.url) as at:
        at.go("/deployments/new")
        side = at.part("side")
        expect(side).to_contain_text(at.t("deployment.planNone"))
        at.go(f"/deployments/new?app={app['url']}")
        expect(side).not_to_contain_text(at.t("deployment.planNone"), timeout=1)
        expect(side).to_contain_text(at.t("deployment.planSum", placed=0, unplaced=1))
        at.calm()


def test_a_schedule_in_the_list_says_what_it_starts(browser: Browser, api: Api) -> None:
    flow = api.made("/v1/workflows", {"name": "sweep", "steps": [
        {"id": "one", "task": {"name": "builtin.echo"}}]})["workflowId"]
    api.made("/v1/schedules", {"name": "hourly", "workflowId": flow, "everySec": 3600})
    with screen(browser, api.daemon.url) as at:
        at.go("/schedules")
        row = at.page.locator("[data-row]").filter(has_text="hourly")
        row.get_by_role("link", name="sweep").click()
        expect(at.page.locator("main h1")).to_have_text("sweep")
        at.calm()


def test_an_empty_list_says_how_to_fill_it(browser: Browser, api: Api) -> None:
    with screen(browser, api.daemon.url) as at:
        at.go("/workers")
        expect(at.page.locator("main")).to_contain_text(f"examples/worker.py {api.daemon.url}")
        at.go("/devices")
        expect(at.page.locator("main")).to_contain_text(f"examples/radar.py {api.daemon.url}")
        at.go("/runs")
        at.page.get_by_role("link", name=at.t("run.toWorkflows")).click()
        expect(at.page.locator("main h1")).to_have_text(at.t("place.workflows"))
        at.calm()
