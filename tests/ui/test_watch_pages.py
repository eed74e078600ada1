"""The pages that only show: the events by the names of things, the health of a fresh daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api
from tests.daemon.running import Running
from tests.ui.screen import screen

pytestmark = pytest.mark.daemon


def test_a_fresh_daemon_and_its_first_events(browser: Browser, tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon, Api(daemon) as api, \
            screen(browser, daemon.url) as at:
        at.go("/health")
        database = at.page.locator(".panel").filter(has_text=at.t("health.last24"))
        expect(database.get_by_text(at.t("chart.none"))).to_be_visible()

        flow = api.made("/v1/workflows", {"name": "nightly-import", "steps": [
            {"id": "one", "task": {"name": "builtin.echo"}}]})["workflowId"]
        schedule = str(api.made("/v1/schedules", {
            "name": "at two", "workflowId": flow, "cron": "30 2 * * *"})["scheduleId"])
        api.made(f"/v1/schedules/{schedule}?action=trigger", {})
        at.go("/events")
        rows = at.page.locator("[data-row]")
        ended = rows.filter(has_text="nightly-import").filter(
            has=at.page.locator("[data-state=Succeeded]")).filter(has_text=at.t("topic.runs"))
        expect(ended.get_by_role("link", name="nightly-import", exact=True)).to_be_visible()
        fired = rows.filter(has_text=at.t("happened.started")).filter(
            has_text=at.t("topic.schedules"))
        expect(fired.get_by_role("link", name="at two", exact=True)).to_be_visible()
        at.calm()
