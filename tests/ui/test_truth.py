"""What the page does when plumd goes away: it says so, comes back by itself, and shows what is
true then. And what it does with hostile text.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.api.live import Api
from tests.daemon.running import Running
from tests.ui.screen import WAIT_MS, screen

pytestmark = pytest.mark.daemon


def test_a_killed_daemon_is_told_and_what_changed_meanwhile_is_shown(
        browser: Browser, tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon, screen(browser, daemon.url) as at:
        with Api(daemon) as api:
            waiting = api.task("nobody")["taskId"]
        at.go("/tasks")
        expect(at.page.locator("[data-row] [data-state=Pending]")).to_have_count(1)
        expect(at.page.locator(".chip")).to_have_attribute("data-link", "live")
        daemon.kill()
        expect(at.part("lost")).to_be_visible()
        expect(at.page.locator(".chip")).to_have_attribute("data-link", "lost")
        daemon.start()
        with Api(daemon) as api:        # before the page is back
            api.done("POST", f"/v1/tasks/{waiting}?action=cancel")
            api.task("after")
        expect(at.page.locator(".chip")).to_have_attribute("data-link", "live")
        expect(at.part("lost")).to_be_hidden()
        expect(at.page.locator("[data-row] [data-state=Canceled]")).to_have_count(1)
        expect(at.page.get_by_role("link", name="after")).to_be_visible()
        at.calm()


def test_a_laptop_that_slept_catches_up(browser: Browser, shared_daemon: Running) -> None:
    """No packet comes or goes, and nobody tells the browser."""
    with Api(shared_daemon) as api, screen(browser, shared_daemon.url) as at:
        task = api.task("sleeper")["taskId"]
        at.go(f"/tasks/{task}")
        at.state("Pending")
        expect(at.page.locator(".chip")).to_have_attribute("data-link", "live")
        at.page.context.set_offline(True)
        api.done("POST", f"/v1/tasks/{task}?action=cancel")
        at.page.context.set_offline(False)
        at.state("Canceled")


SEEN = """
let seen = 'visible';
Object.defineProperty(document, 'visibilityState', {get: () => seen});
window.look = state => { seen = state; document.dispatchEvent(new Event('visibilitychange')); };
"""
"""A browser without windows takes all its tabs for seen."""


def test_many_tabs_are_all_alive(browser: Browser, shared_daemon: Running) -> None:
    """They share the six lines that a browser holds to one server."""
    with Api(shared_daemon) as api, screen(browser, shared_daemon.url) as at:
        task = api.task("of-many-tabs")["taskId"]
        context = at.page.context
        context.add_init_script(SEEN)
        tabs = [at.page, *(context.new_page() for _ in range(8))]
        for tab in tabs:
            tab.goto(f"{at.base}/tasks/{task}", timeout=WAIT_MS)
            expect(tab.locator("[data-test=state]")).to_have_attribute("data-state", "Pending")
            tab.evaluate("look('hidden')")
        api.done("POST", f"/v1/tasks/{task}?action=cancel")
        for tab in tabs[:2]:
            tab.evaluate("look('visible')")
            expect(tab.locator("[data-test=state]")).to_have_attribute("data-state", "Canceled")
            expect(tab.locator(".chip")).to_have_attribute("data-link", "live")
        at.calm()


def test_news_that_overtake_an_answer_are_not_lost(
        browser: Browser, shared_daemon: Running) -> None:
    """An answer says how things were when it was made; on its way it may be overtaken."""
    with Api(shared_daemon) as api, screen(browser, shared_daemon.url) as at:
        flow = api.made("/v1/workflows", {"name": "two-words", "steps": [
            {"id": "first", "type": "approval"}, {"id": "second", "type": "approval"}]})
        run = api.made(f"/v1/workflows/{flow['workflowId']}?action=run")["runId"]
        path = f"/v1/workflow-runs/{run}"
        at.go("/tasks")
        expect(at.page.locator(".chip")).to_have_attribute("data-link", "live")

        def late(route: Route) -> None:
            answer = route.fetch()
            api.done("POST", f"{path}/steps/first?action=approve")
            # Four digests long: by then the news of it have come, of which the page, that has
            # nothing to show yet, gives no sign that could be waited for.
            time.sleep(1.0)
            route.fulfill(response=answer)

        at.page.route(f"**{path}", late, times=1)
        at.hop(f"/runs/{run}")
        expect(at.page.locator("[data-step=first]")).to_have_attribute("data-state", "Succeeded")


def test_a_daemon_with_another_past_is_believed(browser: Browser, tmp_path: Path) -> None:
    """Its data directory was replaced, so the event numbers that the page knows mean nothing."""
    first = Running(tmp_path / "first")
    with screen(browser, "") as at:
        with first, Api(first) as api:
            for _ in range(5):
                api.task("old")
            at.base = first.url
            at.go("/tasks")
            expect(at.page.get_by_role("link", name="old").first).to_be_visible()
        second = Running(tmp_path / "second")
        second.port = first.port
        with second, Api(second) as api:
            api.task("new")
            expect(at.page.locator("[data-row]")).to_have_count(1)
            expect(at.page.get_by_role("link", name="new")).to_be_visible()


def test_a_page_opened_without_a_daemon_fills_when_it_comes(
        browser: Browser, tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon, screen(browser, daemon.url) as at:
        at.go("/workers")
        daemon.kill()       # the other pages are not fetched yet, nor is what they show
        at.page.get_by_role("link", name=at.t("place.services")).click()
        expect(at.part("lost")).to_be_visible()
        daemon.start()
        expect(at.page.get_by_text(at.t("service.none"))).to_be_visible()


def test_pages_open_while_the_daemon_is_away(browser: Browser, tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon, screen(browser, daemon.url) as at:
        with at.page.expect_request("**/NotFound-*.js"):    # the last of what is fetched ahead
            at.go("/workers")
        at.page.wait_for_load_state("networkidle")
        daemon.kill()
        at.visit("services")
        expect(at.page.get_by_text(at.t("problem.unreachable"))).to_be_visible()
        daemon.start()
        expect(at.page.get_by_text(at.t("service.none"))).to_be_visible()


HOSTILE = "<img src=x onerror='document.title=1'><script>document.title=2</script>\x1b]0;3\x07"


def test_hostile_text_is_text_everywhere(browser: Browser, shared_daemon: Running) -> None:
    with Api(shared_daemon) as api, screen(browser, shared_daemon.url) as at:
        name = "<script>document.title='pwned'</script>"
        echo = api.made("/v1/tasks", {"name": "builtin.echo", "payload": {"a": HOSTILE},
                                      "labels": {"<b>k</b>": HOSTILE[:60]}})["taskId"]
        fail = api.made("/v1/tasks", {"name": "builtin.fail",
                                      "payload": {"message": HOSTILE}})["taskId"]
        shell = api.made("/v1/tasks", {
            "name": name, "executor": "os_process",
            "payload": {"command": "printf", "args": ["%s\n", HOSTILE]}})["taskId"]
        api.made("/v1/task-defs", {"name": name, "description": HOSTILE.replace("\x1b", "")
                                   .replace("\x07", ""), "executor": "embedded"})
        for one in (echo, fail, shell):
            api.ended(one)
        for path in ("/", "/tasks", "/task-defs", "/events", f"/tasks/{echo}", f"/tasks/{fail}",
                     f"/tasks/{shell}"):
            at.go(path)
            expect(at.page.locator("main")).to_contain_text("script")
            assert at.page.locator("main script, main img[src=x], main b").count() == 0
            assert "pwned" not in at.page.title() or "<script>" in at.page.title()
        expect(at.page.get_by_role("log")).to_contain_text("<script>document.title=2</script>")
        at.calm()


def test_an_address_is_a_page_and_back_goes_back(browser: Browser, shared_daemon: Running) -> None:
    with Api(shared_daemon) as api, screen(browser, shared_daemon.url) as at:
        task = api.task()["taskId"]
        at.go(f"/tasks/{task}")
        at.state("Succeeded")
        at.visit("tasks")
        at.page.get_by_role("link", name="builtin.echo").first.click()
        at.page.go_back()
        expect(at.page.locator("main h1")).to_have_text(at.t("place.tasks"))
        at.page.go_back()
        at.state("Succeeded")
        at.go("/no/such/page")
        expect(at.page.locator("main h1")).to_have_text(at.t("lost.title"))


def test_the_palette_goes_anywhere_by_keys(browser: Browser, shared_daemon: Running) -> None:
    with Api(shared_daemon) as api, screen(browser, shared_daemon.url) as at:
        api.made("/v1/task-defs", {"name": "find-me"})
        at.go("/")
        at.page.keyboard.press("Control+k")
        expect(at.page.get_by_role("combobox")).to_be_focused()
        at.page.keyboard.type("find-me")
        expect(at.page.get_by_role("option")).to_have_count(1)
        at.page.keyboard.press("Enter")
        expect(at.page.locator("main h1")).to_have_text("find-me")
        at.page.keyboard.press("Control+k")
        at.page.keyboard.type("worker")
        at.page.keyboard.press("Enter")
        expect(at.page.locator("main h1")).to_have_text(at.t("place.workers"))
        at.calm()


def test_language_theme_and_zone_are_kept(browser: Browser, shared_daemon: Running) -> None:
    with Api(shared_daemon) as api, screen(browser, shared_daemon.url) as at:
        task = api.ended(api.task()["taskId"])["taskId"]
        at.go(f"/tasks/{task}")
        at.part("language").click()
        at.page.get_by_role("menuitem", name="中文").click()
        expect(at.page.locator("html")).to_have_attribute("lang", "zh-CN")
        expect(at.page.locator("nav.side")).to_contain_text("任务定义")
        at.part("theme").click()
        at.page.get_by_role("menuitem", name="深色").click()
        expect(at.page.locator("html")).to_have_class("dark")
        at.page.reload()
        expect(at.page.locator("html")).to_have_attribute("lang", "zh-CN")
        expect(at.page.locator("html")).to_have_class("dark")
        expect(at.page.locator("nav.side")).to_contain_text("任务定义")
        local = at.page.locator("time").first.get_attribute("title")
        at.page.get_by_role("button", name="时区：").or_(
            at.page.get_by_role("button", name="时区")).first.click()
        at.page.get_by_role("menuitem", name="UTC").click()
        expect(at.page.locator("time").first).not_to_have_attribute("title", local or "")
