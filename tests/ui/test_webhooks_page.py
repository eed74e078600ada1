"""A webhook that goes out and a broker, by clicks: made, seen at work, changed, removed."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api, Json, serving
from tests.ui.screen import Language, screen

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
NOBODY = "http://127.0.0.1:9/hook"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_webhook_by_clicks(api: Api, browser: Browser, language: Language) -> None:
    name = f"tell-{language}"
    with screen(browser, api.daemon.url, language) as at:
        at.go("/")
        at.visit("webhooks")
        at.part("new").click()
        at.write(at.part("webhook-url"), NOBODY)
        at.part("webhook-save").click()     # without a name
        expect(at.page.locator(".el-form-item__error")).to_be_visible()
        at.write(at.part("webhook-name"), name)
        at.part("webhook-save").click()
        at.state("Active")
        expect(at.page.get_by_text(at.t("webhook.secretOnce"))).to_be_visible()
        flow = api.made("/v1/workflows", {"name": name, "steps": [
            {"id": "a", "task": {"name": "builtin.echo"}}]})["workflowId"]
        api.made(f"/v1/workflows/{flow}?action=run", prefer="wait=30")
        expect(at.page.locator("[data-row] [data-state=Pending]").first).to_be_visible()
        at.part("pause").click()
        at.state("Paused")
        at.part("edit").click()
        at.write(at.part("webhook-name"), f"{name}-2")
        at.part("webhook-save").click()
        expect(at.page.locator("main h1")).to_have_text(f"{name}-2")
        at.state("Paused")
        at.calm()
    [saved] = api.items(f"/v1/webhooks?name={name}-2")
    assert (saved["url"], saved["topics"], saved["enabled"]) == (NOBODY, ["runs"], False)
    api.gone(f"/v1/webhooks/{saved['webhookId']}")


def test_whoever_was_slower_is_told(api: Api, browser: Browser) -> None:
    body: Json = {"name": "faster", "url": NOBODY, "topics": ["kv"], "enabled": False}
    path = f"/v1/webhooks/{api.made('/v1/webhooks', body)['webhookId']}"
    with screen(browser, api.daemon.url) as at:
        at.go(path.removeprefix("/v1"))
        at.part("edit").click()
        at.write(at.part("webhook-name"), "slower")
        api.done("PUT", path, {**body, "name": "first"})
        expect(at.page.locator("main h1")).to_have_text("first")
        at.part("webhook-save").click()
        expect(at.page.get_by_text(at.t("problem.version_mismatch"))).to_be_visible()
        expect(at.page.get_by_text(at.t("common.openAgain"))).to_be_visible()
        expect(at.page.get_by_role("button", name=at.t("common.tryAgain"))).to_have_count(0)
    assert api.get(path)["name"] == "first"
    api.gone(path)


def test_a_broker_by_clicks(api: Api, browser: Browser) -> None:
    with screen(browser, api.daemon.url) as at:
        at.go("/brokers")
        at.part("new").click()
        at.write(at.part("broker-name"), "plant-9")
        at.part("broker-save").click()      # mqtt:// is no address
        expect(at.page.locator(".el-form-item__error")).to_be_visible()
        at.write(at.part("broker-url"), "mqtt://127.0.0.1:9")
        at.part("broker-save").click()
        row = at.page.locator("[data-row]").filter(has_text="plant-9")
        expect(row).to_contain_text("cannot be reached")
        row.get_by_role("button", name=at.t("rule.delete", name="plant-9")).click()
        at.page.locator(".el-message-box").get_by_role(
            "button", name=at.t("action.delete")).click()
        expect(row).to_have_count(0)
        at.calm()


def test_deliveries_are_read_page_by_page(api: Api, browser: Browser) -> None:
    made = api.made("/v1/webhooks", {"name": "all keys", "topics": ["kv"], "url": NOBODY,
                                     "maxAttempts": 1})["webhookId"]
    for n in range(60):
        api.done("PUT", f"/v1/kv/pages/{n}", {"value": "1"})
    with screen(browser, api.daemon.url) as at:
        at.go(f"/webhooks/{made}")
        rows = at.page.locator("[data-row]")
        expect(rows).to_have_count(50)
        at.part("more-sent").click()
        expect(rows).to_have_count(60)
        expect(at.part("more-sent")).to_have_count(0)
        api.done("PUT", "/v1/kv/pages/last", {"value": "1"})
        expect(rows).to_have_count(61)      # and it stays true while one looks
        at.calm()
    api.gone(f"/v1/webhooks/{made}")
