"""What cannot be started says why in the pages, in the agent's words and as plain text."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests import zips
from tests.agent.program import Agent
from tests.api.live import Api
from tests.daemon.running import Running
from tests.ui.screen import Language, screen

pytestmark = pytest.mark.daemon
TOLD = (
    "the artifact cannot be fetched: the connection was cut after 500000 of 1048576 bytes",
    "the node's disk is full (the artifact cannot be kept: No space left on device)",
    "the artifact has no start.sh, and the deployment no startCmd",
    "exit code 127 (<b>./none.sh</b>: not found)",
)
"""What an agent says of what it cannot start; tests of the agent and of machines bring it about."""


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


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_the_agent_says_is_shown(browser: Browser, tmp_path: Path,
                                      language: Language) -> None:
    with Running(tmp_path / "data", "--no-agent", "--node-ttl-sec", "600") as daemon, \
            Api(daemon) as api, screen(browser, daemon.url, language) as at:
        app = api.http.post("/v1/apps/upload", content=zips.app("pump", "1.0")).json()
        api.done("POST", "/v1/nodes/heartbeat", {"nodeId": "rig-1", "ip": "10.0.0.1"})
        made = api.done("POST", "/v1/deployments", {"name": "pump", "entries": [
            {"artifactUrl": app["url"], "replicas": len(TOLD)}]})
        one = f"/v1/deployments/{made['deploymentId']}"
        api.done("POST", f"{one}?action=start")
        told = dict(zip((str(copy["instanceId"]) for copy in api.items(f"{one}/instances")), TOLD,
                        strict=True))
        for instance, message in told.items():
            answer = api.ask("POST", "/v1/instances/status", {
                "instanceId": instance, "phase": "Failed", "healthy": False, "message": message})
            assert answer.status_code == 204, answer.text
        at.go(f"/deployments/{made['deploymentId']}")
        for message in TOLD:
            row = at.page.locator("[data-row]").filter(has_text=message)
            expect(row).to_have_count(1)
            expect(row.locator("[data-state]")).to_have_attribute("data-state", "Failed")
        for instance, message in told.items():
            at.hop(f"/instances/{instance}")
            at.state("Failed")
            expect(at.page.get_by_text(message, exact=True)).to_be_visible()
        at.calm()
