"""The list of tasks: what can be done to many, and what they are searched by on a phone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api, serving
from tests.ui.screen import screen

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def test_what_is_offered_for_many_tasks_is_what_their_states_allow(
        api: Api, browser: Browser) -> None:
    api.ended(api.task("builtin.fail")["taskId"])
    api.task("nobody")
    with screen(browser, api.daemon.url) as at:
        for state, offered in (("Failed", {"rerun", "delete"}), ("Pending", {"cancel", "rerun"})):
            at.go(f"/tasks?state={state}")
            expect(at.part("count")).to_have_text(at.t("task.count", count=1))
            expect(at.part("bulk-rerun")).to_be_visible()
            assert {name for name in ("cancel", "rerun", "delete")
                    if at.part(f"bulk-{name}").count()} == offered
        at.go("/tasks")
        expect(at.page.locator("[data-row]")).to_have_count(2)
        at.page.locator("[data-row]").filter(has=at.page.locator("[data-state=Failed]")) \
            .get_by_role("checkbox").check()
        expect(at.part("bulk-delete")).to_be_visible()
        expect(at.part("bulk-cancel")).to_have_count(0)
        at.part("bulk-rerun").click()
        expect(at.part("preview")).to_have_text(at.t("bulk.rerun.text", count=1))
        at.calm()


def test_on_a_phone_the_rarer_fields_come_when_wanted(api: Api, browser: Browser) -> None:
    with screen(browser, api.daemon.url, "zh", "phone") as at:
        at.go("/tasks")
        field = at.page.get_by_role("textbox", name=at.t("filter.errorCode"))
        expect(at.page.get_by_role("textbox", name=at.t("filter.name"))).to_be_visible()
        expect(field).to_be_hidden()
        at.part("filter-more").click()
        field.fill("failed")
        expect(at.page).to_have_url(at.base + "/tasks?errorCode=failed")
        at.page.reload()
        expect(field).to_have_value("failed")       # what is asked for stands there at once
        at.page.get_by_role("button", name=at.t("filter.clear")).first.click()
        expect(at.page).to_have_url(at.base + "/tasks")
        at.calm()
