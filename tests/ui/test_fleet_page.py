"""Nodes, apps and deployments by clicks: upload, deploy, scale, watch a node die and its instances
move, read what one prints.
"""

from __future__ import annotations

import io
import os
import signal
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.agent.program import Agent
from tests.daemon.running import Running
from tests.ui.screen import Language, Screen, screen

pytestmark = pytest.mark.daemon
TTL_S = "3"
FAILOVER_MS = 60_000
START = "echo here is $PLUM_APP_NAME $PLUM_APP_VERSION; exec sleep 1000\n"


def zipped(version: str) -> bytes:
    """An app that says its name and then sleeps."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("start.sh", START)
        archive.writestr("meta.ini", f"name=sleeper\nversion={version}\n")
    return file.getvalue()


def upload(at: Screen, name: str, content: bytes) -> None:
    """Choose a file, as the chooser of the browser does."""
    at.page.locator("input[type=file]").set_input_files(
        {"name": name, "mimeType": "application/zip", "buffer": content})


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_deployment_by_clicks(browser: Browser, tmp_path: Path, language: Language) -> None:
    with ExitStack() as stack:
        daemon = stack.enter_context(
            Running(tmp_path / "data", "--node-ttl-sec", TTL_S, "--no-agent"))
        agents = [stack.enter_context(Agent(tmp_path / f"agent-{n}", daemon.url, f"rig-{n}"))
                  for n in (1, 2)]
        at = stack.enter_context(screen(browser, daemon.url, language))
        at.go("/")
        at.visit("nodes")
        expect(at.page.locator("[data-row] [data-state=Healthy]")).to_have_count(2)

        # Their agents are workers of their own kind, which offer no names.
        at.visit("workers")
        agent = at.page.locator("[data-row]").filter(has_text="node:rig-1")
        expect(agent).to_contain_text(at.t("workerKind.agent"))
        expect(agent).to_contain_text(at.t("worker.processes"))
        agent.locator("a.link").click()
        expect(at.page.get_by_text(at.t("worker.processesText"))).to_be_visible()
        at.page.get_by_role("link", name="rig-1", exact=True).click()
        expect(at.page.locator("main h1")).to_have_text("rig-1")
        at.go("/task-defs/new")
        at.part("name").locator(".el-select__wrapper, input").first.click()
        expect(at.page.get_by_role("option", name="builtin.echo").first).to_be_visible()
        expect(at.page.get_by_text("!os_process")).to_have_count(0)
        at.go("/")

        at.visit("apps")
        upload(at, "broken.zip", b"this is no zip")
        expect(at.page.locator("[role=alert]")).to_be_visible()
        upload(at, "sleeper.zip", zipped("1.0"))
        row = at.page.locator("[data-row]").filter(has_text="sleeper")
        expect(row).to_contain_text("1.0")
        row.get_by_role("button", name=at.t("app.deploy")).click()

        at.write(at.part("name"), "naps")
        at.write(at.part("replicas"), "2")
        expect(at.part("plan")).to_have_text(at.t("deployment.planSum", placed=2, unplaced=0))
        at.part("save").click()
        at.state("Stopped")
        at.part("start").click()
        at.state("Running")
        running = at.page.locator("[data-row] [data-state=Running]")
        expect(running).to_have_count(2, timeout=FAILOVER_MS)
        expect(at.part("ready")).to_contain_text("2/2")

        at.part("scale").click()
        at.write(at.part("replicas"), "3")
        at.part("scale-go").click()
        expect(running).to_have_count(3, timeout=FAILOVER_MS)

        # One machine goes, all at once: what ran there runs on the other.
        for pid in (agents[0].pid, *agents[0].leftovers()):
            os.kill(pid, signal.SIGKILL)
        left = at.page.locator("[data-row]", has=at.page.locator("[data-state=Running]"))
        expect(left.filter(has_text="rig-2")).to_have_count(3, timeout=FAILOVER_MS)

        left.first.locator("a.link").click()
        at.state("Running")
        expect(at.page.get_by_role("log")).to_contain_text("here is sleeper 1.0")
        at.visit("nodes")
        gone = at.page.locator("[data-row]").filter(has_text="rig-1")
        expect(gone.locator("[data-state]")).to_have_attribute("data-state", "Unhealthy")
        at.calm()
