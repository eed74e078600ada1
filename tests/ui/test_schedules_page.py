"""A schedule across a change of the clocks, by clicks: its next slots are right while one writes,
daylight saving is marked, and what it starts is in its history.
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api
from tests.daemon.running import Running
from tests.ui.screen import Language, Screen, screen

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
        at.visit("schedules")       # what was started by hand is the last, and how it ended
        last = at.page.locator("[data-row]", has_text=name).locator("[data-state=Succeeded]")
        expect(last).to_be_visible()
        last.click()
        at.state("Succeeded")
        expect(at.page.locator("main h1")).to_have_text(f"flow-{language}")
        at.calm()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_days_off_bounds_and_a_backfill(browser: Browser, shared_daemon: Running,
                                        language: Language) -> None:
    name, holidays = f"daily-{language}", f"holidays-{language}"
    with Api(shared_daemon) as api, screen(browser, shared_daemon.url, language) as at:
        flow = api.made("/v1/workflows", {
            "name": f"greet-{language}",
            "params": {"required": ["site"], "properties": {"site": {"type": "string"}}},
            "steps": [{"id": "say", "task": {"name": "builtin.echo"}}]})["workflowId"]
        at.go(f"/workflows/{flow}")
        at.part("schedule").click()
        at.write(at.part("name"), name)
        at.part("save").click()
        expect(at.part("payload-field").get_by_text(at.t("fault.required"))).to_be_visible()
        at.write(at.part("param-site"), "north")
        at.choose(at.part("zone"), "UTC")
        at.write(at.part("cron"), "0 12 * * *")
        at.part("calendar-new").click()
        at.write(at.part("calendar-name"), holidays)
        at.write(at.part("calendar-days"), "--13-45")
        at.part("calendar-save").click()
        expect(at.page.get_by_role("dialog").locator(".el-form-item__error")).to_be_visible()
        at.write(at.part("calendar-days"), "--01-01\n2028-02-27/2028-03-02")
        at.part("calendar-save").click()
        expect(at.part("calendars")).to_contain_text(holidays)
        moment(at, "startAt", "2020-01-01 00:00:00")
        at.part("save").click()
        expect(at.page.locator("main h1")).to_have_text(name)
        # By days: today's or tomorrow's slot is ahead, New Year's Day is off.
        at.part("as-month").click()
        month = at.part("month")
        expect(month.locator(".ahead").first).to_have_text("1")
        off = month.locator("li.off:not(.outside)", has_text=holidays)
        for _ in range(12):
            if off.count():
                break
            month.get_by_role("button", name=at.t("schedule.monthAfter")).click()
        expect(off).to_have_attribute("data-day", re.compile(r"-01-01$"))
        at.part("backfill").click()
        moment(at, "range.from", "2026-01-30 00:00:00")
        moment(at, "range.to", "2026-02-02 23:00:00")
        at.part("backfill-go").click()
        expect(at.page.get_by_text(at.t("schedule.backfilled", slots=4, queued=4))).to_be_visible()
        expect(at.page.locator("[data-row] [data-state=Succeeded]")).to_have_count(4)
        at.calm()
    [kept] = api_schedules(shared_daemon, name)
    assert (kept["calendars"], kept["payload"], kept["startAt"]) == (
        [holidays], {"site": "north"}, 1_577_833_200_000)


def moment(at: Screen, field: str, text: str) -> None:
    """Write a date and time into a field."""
    box = at.page.get_by_role("combobox", name=at.t(f"schedule.{field}"), exact=True)
    box.fill(text)
    box.press("Enter")


def api_schedules(daemon: Running, name: str) -> list[dict[str, object]]:
    """The schedules of a name."""
    with Api(daemon) as api:
        return [one for one in api.items("/v1/schedules") if one["name"] == name]
