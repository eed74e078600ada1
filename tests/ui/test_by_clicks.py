"""A person at the screen does all of it by clicks: definitions of the three kinds, a workflow of
them, a run that fails, its log, why another task waits, again with the fault mended, and a bulk
cancel. In both languages, at a desk and on a phone.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api, serving
from tests.ui.screen import Language, Screen, Size, screen, working

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
BEAT_S = 3.0
KINDS: list[tuple[Language, Size]] = list(product(("en", "zh"), ("desktop", "phone")))


class Quote(BaseHTTPRequestHandler):
    """A service that answers everything."""

    def do_POST(self) -> None:
        """One quote."""
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"price": 12.5}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def quotes(api: Api) -> Iterator[str]:
    """A registered service; its name."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Quote)
    over = threading.Event()

    def beat() -> None:
        with Api(api.daemon) as mine:
            mine.ask("POST", "/v1/services/register", {
                "instanceId": "quotes-1", "endpoints": [
                    {"serviceName": "quotes", "ip": "127.0.0.1", "port": server.server_port}]})
            while not over.wait(BEAT_S):
                mine.ask("POST", "/v1/services/heartbeat", {"instanceId": "quotes-1"})

    threads = [threading.Thread(target=server.serve_forever), threading.Thread(target=beat)]
    for thread in threads:
        thread.start()
    yield "quotes"
    over.set()
    server.shutdown()
    for thread in threads:
        thread.join()
    server.server_close()


def define(at: Screen, kind: str) -> None:
    """Begin a new definition of this kind."""
    at.visit("taskDefs")
    at.part("new").click()
    at.part(f"kind-{kind}").click()


def saved(at: Screen, name: str) -> None:
    """Save a definition, and see it."""
    at.part("save").click()
    expect(at.page.locator("main h1")).to_have_text(name)


def define_all(at: Screen, tag: str, until: Path, quotes: str) -> None:
    """One definition of each kind; the process fails."""
    define(at, "embedded")
    at.choose(at.part("name"), f"hold-{tag}")       # the worker's task is offered
    at.write(at.part("payload"), f'{{"until": "{until}"}}')
    saved(at, f"hold-{tag}")

    define(at, "service")
    at.write(at.part("name"), f"quote-{tag}")
    at.part("save").click()
    expect(at.page.get_by_text(at.t("fault.required"))).to_be_visible()     # no service chosen
    service = at.page.locator(".el-select", has=at.page.get_by_role(
        "combobox", name=at.t("target.service"))).last
    at.choose(service, quotes)
    saved(at, f"quote-{tag}")

    define(at, "os_process")
    at.write(at.part("name"), f"shell-{tag}")
    at.write(at.part("command"), "sh")
    at.write(at.part("args"), "-c\nprintf '\\033[31mbroken <b>pipe</b>\\033[0m\\n'; exit 3")
    saved(at, f"shell-{tag}")


def chain(at: Screen, tag: str) -> None:
    """A workflow of the three."""
    at.visit("workflows")
    at.part("new").click()
    at.write(at.part("name"), f"chain-{tag}")
    for kind in ("hold", "quote", "shell"):
        at.part("add-task").click()         # each follows the one before
        at.choose(at.part("step-runs"), f"{kind}-{tag}")
    saved(at, f"chain-{tag}")


def run(at: Screen) -> None:
    """Run what is on the page."""
    at.part("run").click()
    at.part("run-go").click()


def colour(at: Screen, step: str) -> str:
    """The colour that a step of the graph has at this moment."""
    found: str = at.page.locator(f"[data-step='{step}']").evaluate(
        "node => getComputedStyle(node).borderLeftColor")
    return found


def step_is(at: Screen, step: str, state: str) -> None:
    """Wait until a step of the graph has this state."""
    expect(at.page.locator(f"[data-step='{step}']")).to_have_attribute("data-state", state)


def watch_it_fail(at: Screen, until: Path) -> None:
    """The run's colours change while one looks; its failing step leads to the log."""
    at.state("Running")
    step_is(at, "task1", "Running")
    running = colour(at, "task1")
    until.write_text("go")
    step_is(at, "task1", "Succeeded")
    step_is(at, "task2", "Succeeded")
    step_is(at, "task3", "Failed")
    at.state("Failed")
    expect(at.page.locator(".chip")).to_have_attribute("data-link", "live")
    at.page.wait_for_function(      # the colours move over
        "before => getComputedStyle(document.querySelector(\"[data-step='task1']\"))"
        ".borderLeftColor !== before", arg=running)
    assert len({running, colour(at, "task1"), colour(at, "task3")}) == 3
    expect(at.part("failure")).to_contain_text("exit_status")
    at.part("to-task").click()
    at.state("Failed")
    line = at.page.get_by_role("log")
    expect(line).to_contain_text("broken <b>pipe</b>")
    expect(line.locator(".fg-red")).to_have_text("broken <b>pipe</b>")
    assert line.locator("b").count() == 0


def again_and_mended(at: Screen, tag: str) -> None:
    """The failed task once more; then its definition is mended, and the whole run succeeds."""
    before = at.page.url
    at.part("rerun").click()
    expect(at.page).not_to_have_url(before)
    at.state("Failed")
    expect(at.page.get_by_text(at.t("task.origin"))).to_be_visible()

    at.page.get_by_role("link", name=at.t("task.defVersion", version=1)).click()
    at.part("edit").click()
    at.write(at.part("args"), "-c\necho fine")
    saved(at, f"shell-{tag}")
    at.visit("workflows")
    at.page.get_by_role("link", name=f"chain-{tag}").click()
    run(at)
    at.state("Succeeded")


def why_it_waits(at: Screen, tag: str) -> None:
    """A task that nobody offers says so; canceled, it is over."""
    at.visit("tasks")
    at.page.get_by_role("button", name=at.t("task.submit")).first.click()
    at.choose(at.part("submit-name"), f"nobody-{tag}")
    at.part("submit-go").click()
    at.state("Pending")
    expect(at.part("why")).to_contain_text(at.t("why.no_worker", name=f"nobody-{tag}"))
    at.part("cancel").click()
    at.state("Canceled")


def bulk_cancel(at: Screen, api: Api, tag: str) -> None:
    """Six tasks of one name, counted before and canceled together."""
    name = f"crowd-{tag}"
    ids = [str(api.task(name)["taskId"]) for _ in range(6)]
    other = api.task(f"bystander-{tag}")
    at.visit("tasks")
    at.page.get_by_role("textbox", name=at.t("filter.name")).fill(name)
    expect(at.part("count")).to_have_text(at.t("task.count", count=6))
    at.part("bulk-cancel").click()
    expect(at.part("preview")).to_have_text(at.t("bulk.cancel.text", count=6))
    at.part("bulk-go").click()
    expect(at.page.get_by_text(at.t("bulk.doneText", done=6))).to_be_visible()
    at.press(at.t("common.close"))
    expect(at.page.locator("[data-row] [data-state=Canceled]")).to_have_count(6)
    assert {api.get(f"/v1/tasks/{one}")["state"] for one in ids} == {"Canceled"}
    assert api.get(f"/v1/tasks/{other['taskId']}")["state"] == "Pending"
    # The view is in the address: sent to somebody, it is the same.
    at.page.reload()
    expect(at.part("count")).to_have_text(at.t("task.count", count=6))
    assert re.search(rf"[?&]name={name}", at.page.url)


@pytest.mark.parametrize(("language", "size"), KINDS)
def test_everything_by_clicks(api: Api, browser: Browser, quotes: str, tmp_path: Path,
                              language: Language, size: Size) -> None:
    tag = f"{language}-{size}"
    until = tmp_path / "until"
    with working(api.daemon.url, f"hold-{tag}"), \
            screen(browser, api.daemon.url, language, size) as at:
        at.go("/")
        define_all(at, tag, until, quotes)
        chain(at, tag)
        run(at)
        watch_it_fail(at, until)
        again_and_mended(at, tag)
        why_it_waits(at, tag)
        bulk_cancel(at, api, tag)
        at.calm()
