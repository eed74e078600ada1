"""What cannot be started says why in the pages, in the agent's words and as plain text."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests import zips
from tests.agent.program import Agent
from tests.api.live import Api
from tests.daemon.running import Running
from tests.ui.screen import screen

pytestmark = pytest.mark.daemon


def test_a_start_that_fails_says_why(browser: Browser, tmp_path: Path) -> None:
    with Running(tmp_path / "data", "--no-agent") as daemon, Api(daemon) as api, \
            Agent(tmp_path / "rig-1", daemon.url, "rig-1"), screen(browser, daemon.url) as at:
        app = api.http.post("/v1/apps/upload", content=zips.app("pump", "1.0")).json()
        stored, = (daemon.data_dir / "artifacts").rglob("*.zip")
        stored.write_bytes(stored.read_bytes()[::-1])
        made = api.done("POST", "/v1/deployments", {"name": "pump", "entries": [
            {"artifactUrl": app["url"], "replicas": {"rig-1": 1}}]})
        one = f"/v1/deployments/{made['deploymentId']}"
        api.done("POST", f"{one}?action=start")
        at.go(f"/deployments/{made['deploymentId']}")
        told = at.page.locator("[data-row]").filter(has_text="wrong sha256")
        expect(told).to_have_count(1, timeout=20_000)
        told.first.locator("a.link").first.click()
        expect(at.page.get_by_text("wrong sha256").first).to_be_visible()
        at.calm()
