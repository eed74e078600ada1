"""A schedule across a change of the clocks, by clicks: its next slots are right while one writes,
daylight saving is marked, and what it starts is in its history.
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api
from tests.daemon.running import Running
from tests.ui.screen import Language, screen

pytestmark = pytest.mark.daemon


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_schedule_by_clicks(browser: Browser, shared_daemon: Running,
                              language: Language) -> None:
    name = f"nightly-{language}"
    with Api(shared_daemon) as api, screen(browser, shared_daemon.url, language) as at:
        echo = api.made("/v1/task-defs", {"name": f"echo-{language}", "targetKind": "builtin",
                                          "targetRef": "builtin.echo"})["defId"]
        api.made("/v1/workflows", {"name": f"flow-{language}", "steps": [{"definitionId": echo}]})
        at.go("/")
        at.visit("schedules")
        at.part("new").click()
        at.write(at.part("name"), name)
        at.choose(at.part("workflow"), f"flow-{language}")
        at.choose(at.part("zone"), "Europe/Berlin")
        # Both Sundays on which the clocks change in Berlin, 2:30 in the morning.
        at.write(at.part("cron"), "30 2 * 3,10 SUN#L")
        expect(at.page.locator(".el-form-item__error")).to_be_visible()     # no such field
        at.write(at.part("cron"), "30 2 * 3,10 0L")
        marks = at.page.locator("[data-test=side] [data-dst]")
        expect(marks.filter(has_text=at.t("schedule.dst.gap-shifted")).first).to_be_visible()
        expect(marks.filter(has_text=at.t("schedule.dst.first")).first).to_be_visible()
        shifted = at.page.locator("[data-test=side] li", has=at.page.locator(
            "[data-dst=gap-shifted]")).first.inner_text()
        assert re.search(r"(Mar \d{4}, |/03/).*03:30", shifted), shifted
        assert "+02:00" in shifted
        at.part("save").click()
        expect(at.page.locator("main h1")).to_have_text(name)
        at.part("trigger").click()
        expect(at.page.locator("[data-row] [data-state=Succeeded]")).to_be_visible()
        at.part("pause").click()
        at.state("Paused")
        at.part("resume").click()
        at.state("Active")
        at.calm()
