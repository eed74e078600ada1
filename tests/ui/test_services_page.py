"""A service's policy by clicks, its breaker as it opens, and a lock that is taken away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api
from tests.daemon.running import Running
from tests.ui.screen import Language, screen

pytestmark = pytest.mark.daemon


class Broken(BaseHTTPRequestHandler):
    """Answers that it cannot."""

    def do_GET(self) -> None:
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *words: object, **more: object) -> None:
        """Nothing: the test says what goes wrong."""


@contextmanager
def broken_service() -> Iterator[int]:
    """Its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_policy_and_a_breaker_by_clicks(browser: Browser, shared_daemon: Running,
                                          language: Language) -> None:
    name = f"prices-{language}"
    with Api(shared_daemon) as api, broken_service() as port, \
            screen(browser, shared_daemon.url, language) as at:
        answer = api.ask("POST", "/v1/services/register", {"instanceId": name, "endpoints": [
            {"serviceName": name, "ip": "127.0.0.1", "port": port}]})
        assert answer.status_code == 204
        at.go("/")
        at.visit("services")
        panel = at.page.locator("section").filter(has_text=name)
        expect(panel.locator("[data-state=closed]")).to_have_text(at.t("state.closed"))
        panel.locator("[data-test=policy]").click()
        at.write(at.page.get_by_label(at.t("policy.failures"), exact=True), "1")
        at.part("fallback").locator(".el-select__wrapper").click()
        at.page.locator(".el-select-dropdown__item:visible").filter(
            has_text=at.t("policy.fallbackResult")).click()
        at.write(at.page.get_by_label(at.t("policy.fallbackResult"), exact=True), "{")
        at.part("policy-save").click()
        expect(at.page.locator(".el-form-item__error")).to_be_visible()
        at.write(at.page.get_by_label(at.t("policy.fallbackResult"), exact=True), '{"from": "us"}')
        at.part("policy-save").click()
        expect(at.page.locator(".el-dialog:visible")).to_have_count(0)
        policy = api.get(f"/v1/services/policies/{name}")["policy"]
        assert isinstance(policy, dict)
        assert policy["fallback"] == {"result": {"from": "us"}}
        done = api.ended(api.task("ask", executor="service", targetKind="service",
                                  targetRef=name)["taskId"])
        assert done["result"] == {"from": "us"}
        expect(panel.locator("[data-state=open]")).to_have_text(at.t("state.open"))
        at.calm()
        panel.locator("[data-test=policy]").click()
        api.done("PUT", f"/v1/services/policies/{name}", {"retryPercent": 3})
        at.part("policy-save").click()
        expect(at.page.get_by_text(at.t("problem.version_mismatch"))).to_be_visible()
        expect(at.page.get_by_text(at.t("common.openAgain"))).to_be_visible()
        expect(at.page.get_by_role("button", name=at.t("common.tryAgain"))).to_have_count(0)
        assert api.get(f"/v1/services/policies/{name}")["version"] == 2


def test_what_is_wrong_with_an_endpoint_is_seen_on_a_phone(browser: Browser,
                                                           shared_daemon: Running) -> None:
    with Api(shared_daemon) as api, screen(browser, shared_daemon.url, size="phone") as at, \
            socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        answer = api.ask("POST", "/v1/services/register", {"instanceId": "dead-1", "endpoints": [
            {"serviceName": "dead", "ip": "127.0.0.1", "port": nobody.getsockname()[1],
             "labels": {"healthCheck": "tcp"}}]})
        assert answer.status_code == 204
        at.go("/services")
        panel = at.page.locator("section").filter(has_text="dead")
        expect(panel.get_by_text("Connection refused")).to_be_visible()
        at.calm()


def test_a_lock_is_taken_away(browser: Browser, shared_daemon: Running) -> None:
    with Api(shared_daemon) as api, screen(browser, shared_daemon.url, "zh") as at:
        at.go("/")
        at.visit("locks")
        expect(at.page.locator("main")).to_contain_text(at.t("lock.none"))
        answer = api.ask("POST", "/v1/locks/plant/line-1?action=acquire", {"owner": "rig-7"})
        assert answer.status_code == 200
        expect(at.page.locator("main")).to_contain_text("rig-7")
        at.part("take").click()
        at.page.locator(".el-message-box .el-button--danger").click()
        expect(at.page.locator("main")).to_contain_text(at.t("lock.none"))
        assert api.items("/v1/locks") == []
        at.calm()
