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


def test_the_first_error_of_a_log_that_goes_on(browser: Browser, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = ("seq 1 500; while [ ! -e $0 ]; do sleep 0.1; done; "
              "echo 'ERROR: first'; seq 1 500; echo 'ERROR: second'")
    with Running(tmp_path / "data") as daemon, Api(daemon) as api, \
            screen(browser, daemon.url) as at:
        made = api.made("/v1/task-defs", {
            "name": "counts", "executor": "os_process",
            "defaultPayload": {"command": "sh", "args": ["-c", script, str(go)]}})
        task = api.made(f"/v1/task-defs/{made['defId']}?action=run", {})["taskId"]
        at.go(f"/tasks/{task}")
        log = at.page.get_by_role("log")
        expect(log).to_contain_text("500")
        button = at.page.get_by_role("button", name=at.t("log.firstError"))
        expect(button).to_have_count(0)
        go.touch()
        expect(log).to_contain_text("ERROR: second")
        button.click()
        expect(log).to_contain_text("ERROR: first")
        at.calm()
