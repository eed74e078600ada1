"""A trigger by clicks: what one workflow's end starts, with what became of each event; and a
webhook whose secret is told once.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api
from tests.daemon.running import Running
from tests.ui.screen import Language, screen

pytestmark = pytest.mark.daemon


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_trigger_by_clicks(browser: Browser, shared_daemon: Running,
                             language: Language) -> None:
    first, then = f"import-{language}", f"report-{language}"
    with Api(shared_daemon) as api, screen(browser, shared_daemon.url, language) as at:
        echo = api.made("/v1/task-defs", {"name": f"echo-{language}", "targetKind": "builtin",
                                          "targetRef": "builtin.echo"})["defId"]
        flows = {name: str(api.made("/v1/workflows", {
            "name": name, "steps": [{"definitionId": echo}]})["workflowId"])
            for name in (first, then)}
        at.go("/")
        at.visit("triggers")
        at.part("new").first.click()
        at.part("save").click()         # nothing is filled in: said at the fields, nothing is sent
        expect(at.page.locator(".el-form-item__error")).to_have_count(2)
        at.write(at.part("name"), f"after-{language}")
        at.part("kind").locator(".el-select__wrapper").click()
        at.page.locator(".el-select-dropdown__item:visible").filter(
            has_text=at.t("trigger.kinds.after")).click()
        at.choose(at.part("after"), first)
        at.choose(at.part("workflow"), then)
        at.write(at.part("filter"), "event.data.state ==")
        at.part("save").click()
        expect(at.page.locator(".el-form-item__error")).to_have_count(1)
        at.write(at.part("filter"), "")
        at.part("save").click()
        at.state("Active")

        api.made(f"/v1/workflows/{flows[first]}?action=run", {})
        row = at.page.locator("[data-row]").filter(has_text=at.t("trigger.became.started"))
        expect(row.locator("[data-state=Succeeded]")).to_be_visible()
        at.part("pause").click()
        at.state("Paused")

        at.visit("triggers")
        at.part("new").first.click()
        at.write(at.part("name"), f"push-{language}")
        at.choose(at.part("workflow"), then)
        at.part("save").click()
        expect(at.page.locator(".secret code")).to_contain_text("whsec_")
        at.part("go-on").click()
        at.state("Active")
        expect(at.page.locator("main")).to_contain_text("/v1/hooks/")
        at.calm()
