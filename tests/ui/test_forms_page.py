"""What all forms have in common: a fault is brought into sight, and fields stand in line."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Locator, expect

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
