"""An alarm from its rule to its end, a device that one has for himself, its history; the fleet at
one look, with 3 nodes and with 200.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests import zips
from tests.api.live import Api, serving
from tests.daemon.running import Running
from tests.ui.screen import Language, Screen, screen

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def register(api: Api, device: str) -> None:
    """A device that is called back at a port where nobody listens."""
    answer = api.ask("POST", "/v1/resources/register", {
        "resourceId": device, "type": "press", "beatSec": 3600, "stateDesc": [
            {"name": "temp", "type": "double", "unit": "°C"}]})
    assert answer.status_code == 200, answer.text


def report(api: Api, device: str, **states: str) -> None:
    """What the device measures."""
    answer = api.ask("POST", "/v1/resources/state", {"resourceId": device, "states": states})
    assert answer.status_code == 204, answer.text


def pick(at: Screen, field: str, words: str) -> None:
    """Choose from a list that takes no typing."""
    at.part(field).locator(".el-select__wrapper").click()
    at.page.locator(".el-select-dropdown__item:visible").filter(
        has_text=re.compile(rf"^\s*{re.escape(words)}\s*$")).click()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_alarm_from_its_rule_to_its_end(api: Api, browser: Browser,
                                           language: Language) -> None:
    device, rule = f"press-{language}", f"too hot {language}"
    register(api, device)
    with screen(browser, api.daemon.url, language) as at:
        at.go(f"/devices/{device}")
        at.part("rule-new").click()
        at.part("rule-save").click()        # says what is missing
        expect(at.page.locator(".el-form-item__error")).to_have_count(3)
        at.write(at.part("rule-name"), rule)
        at.choose(at.part("rule-state"), "temp")
        pick(at, "rule-op", ">")
        at.write(at.part("rule-value"), "80")
        at.write(at.part("rule-hysteresis"), "5")
        pick(at, "rule-severity", at.t("state.critical"))
        at.part("rule-save").click()
        expect(at.page.locator(".el-dialog:visible")).to_have_count(0)

        report(api, device, temp="85.5")
        row = at.page.locator("[data-row]").filter(has_text=rule)
        expect(row).to_contain_text("temp = 85.5")
        expect(at.page.locator("[data-tile=temp].raised")).to_be_visible()
        at.visit("devices")
        badge = at.page.locator("[data-row]").filter(has_text=device).locator("[data-test=raised]")
        expect(badge).to_have_text(re.compile(rf"{re.escape(at.t('state.critical'))}\s*1"))

        at.visit("alarms")
        expect(row).to_contain_text(device)
        expect(at.page.locator("nav.side a").filter(has_text=at.t("place.alarms"))).to_have_text(
            re.compile(r"\D1$"))
        row.locator("[data-test=acknowledge]").click()
        at.write(at.part("ack-by"), "ada")
        at.write(at.part("ack-note"), "on my way")
        at.part("ack-go").click()
        expect(row).to_contain_text("ada: on my way")
        report(api, device, temp="77")      # not far enough back
        expect(row).to_contain_text(at.t("alarm.active"))
        report(api, device, temp="74")
        expect(row).to_have_count(0)
        at.part("all").click()
        expect(row.locator("time")).to_have_count(2)

        at.page.get_by_role("tab", name=at.t("rule.several")).click()
        expect(row).to_contain_text("temp > 80")
        row.locator("[data-test=rule-edit]").click()
        at.write(at.part("rule-value"), "90")
        at.part("rule-save").click()
        expect(row).to_contain_text("temp > 90")
        row.locator("[data-test=rule-delete]").click()
        at.page.locator(".el-message-box").get_by_role(
            "button", name=at.t("action.delete")).click()
        expect(row).to_have_count(0)
        at.calm()
    assert rule not in str(api.items("/v1/alarm-rules"))


def test_a_device_for_oneself_and_its_history(api: Api, browser: Browser) -> None:
    register(api, "lathe-1")
    for value in ("10", "20", "60"):
        report(api, "lathe-1", temp=value)
    with screen(browser, api.daemon.url) as at:
        at.go("/devices/lathe-1")
        at.part("range-hour").click()
        expect(at.part("history-summary")).to_contain_text(
            at.t("history.summary", low=10, middle=30, high=60, unit="°C", count=3))
        expect(at.page).to_have_url(re.compile("range=hour"))
        at.part("lease-take").click()
        at.part("lease-go").click()
        expect(at.page.locator(".el-form-item__error")).to_be_visible()     # who?
        at.write(at.part("lease-owner"), "ada")
        at.part("lease-go").click()
        expect(at.part("lease")).to_contain_text(at.t("lease.mine", owner="ada"))
        at.page.reload()                    # the tab keeps its token
        at.part("lease-release").click()
        expect(at.part("lease")).to_contain_text(at.t("lease.free"))
        api.done("POST", "/v1/resources/lathe-1/lease?action=acquire",
                 {"owner": "grace", "ttlSec": 600})
        expect(at.part("lease")).to_contain_text(at.t("lease.held", owner="grace"))
        at.part("lease-away").click()
        at.page.locator(".el-message-box").get_by_role("button", name=at.t("lock.take")).click()
        expect(at.part("lease")).to_contain_text(at.t("lease.free"))
        at.calm()
    assert api.ask("GET", "/v1/resources/lathe-1/lease").status_code == 404


def beat(api: Api, node: str, **facts: float) -> None:
    """A node that says how it is."""
    api.done("POST", "/v1/nodes/heartbeat", {"nodeId": node, "ip": "10.0.0.1", "facts": facts})


def shown(at: Screen, kind: str) -> Locator:
    """Nodes of the topology: as cards (node) or as small tiles (tile)."""
    return at.part("topology").locator(f"[data-{kind}]")


def uses(instance: object, stats: Mapping[str, float]) -> dict[str, object]:
    """A copy's word that it runs again, after the kernel had killed it."""
    return {"instanceId": instance, "phase": "Running", "healthy": True, "restarts": 1,
            "message": "killed by SIGKILL (out of memory)", "stats": stats}


def test_the_fleet_at_one_look(browser: Browser, tmp_path: Path) -> None:
    with Running(tmp_path / "data", "--no-agent", "--node-ttl-sec", "600") as daemon, \
            Api(daemon) as api, screen(browser, daemon.url) as at:
        for number in (1, 2, 3):
            beat(api, f"rig-{number}", cpus=4, cpuPercent=50, memTotal=4_000_000_000,
                 memAvailable=3_000_000_000)
        app = api.http.post("/v1/apps/upload", content=zips.app("pump", "1.0")).json()
        made = api.done("POST", "/v1/deployments", {"name": "pump", "entries": [
            {"artifactUrl": app["url"], "replicas": {"rig-1": 2},
             "limits": {"memoryBytes": 400_000_000}}]})
        one = f"/v1/deployments/{made['deploymentId']}"
        api.done("POST", f"{one}?action=start")
        [copy, other] = api.items(f"{one}/instances")
        stats = {"cpuSec": 3.0, "memoryBytes": 100_000_000, "peakMemoryBytes": 390_000_000}
        assert api.ask("POST", "/v1/instances/status", {"items": [
            uses(copy["instanceId"], stats), uses(other["instanceId"], stats)]}).status_code == 204

        at.go("/")
        expect(shown(at, "node")).to_have_count(3)
        card = at.part("topology").locator("[data-node=rig-1]")
        expect(card).to_contain_text("50 %")
        expect(card).to_contain_text("25 %")
        expect(card.locator("[data-state=Running]")).to_have_count(2)
        card.locator("[data-test=tile-drain]").click()
        expect(card.locator("[data-test=tile-undrain]")).to_be_visible()
        card.locator("a.cell").first.click()
        expect(at.part("oom")).to_have_text(
            at.t("instance.oomLimit", limit="400 MB"))
        expect(at.page.locator("dl")).to_contain_text("100 MB")
        at.go("/nodes/rig-1")
        expect(at.page.locator("[data-row]").filter(has_text="pump/0")).to_contain_text("100 MB")

        for number in range(4, 201):
            beat(api, f"rig-{number}", cpus=4, cpuPercent=5)
        at.go("/")
        expect(shown(at, "tile")).to_have_count(200)
        assert shown(at, "tile").first.get_attribute("data-tile") == "rig-1"     # it drains
        overflow = at.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow == 0
        shown(at, "tile").filter(has_text=re.compile("rig-117")).click()
        expect(shown(at, "node")).to_have_attribute("data-node", "rig-117")
        at.calm()


def test_how_long_a_state_is_kept(api: Api, browser: Browser) -> None:
    register(api, "press-kept")
    report(api, "press-kept", temp="20")
    path = "/v1/resources/press-kept/retention"
    with screen(browser, api.daemon.url) as at:
        at.go("/devices/press-kept")
        at.part("keep").click()
        at.write(at.part("keep-minutesDays"), "30")
        at.part("keep-save").click()
        expect(at.page.locator(".el-dialog:visible")).to_have_count(0)
        at.calm()
    assert api.get(path)["states"] == {"temp": {"minutesDays": 30, "hoursDays": 365}}
