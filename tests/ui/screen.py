"""What a person does at a screen: words of a language, clicks, choices, looks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

ROOT: Final = Path(__file__).parents[2]
CHROMIUM: Final = Path("/usr/bin/chromium-headless-shell")
ARGS: Final = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--no-proxy-server",
    "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP *.evil.example 127.0.0.1"]
WAIT_MS: Final = 30_000
"""How long one is willing to wait for what should come at once."""
expect.set_options(timeout=WAIT_MS)
Language = Literal["en", "zh"]
Theme = Literal["light", "dark"]
Size = Literal["desktop", "phone"]
SIZES: Final = {"desktop": (1360, 860), "phone": (390, 844)}
LOCALES: Final = {"en": "en-GB", "zh": "zh-CN"}
Words = dict[str, "str | Words"]
NOWHERE: Final = "/no/such"
PUSH: Final = """path => {
  history.pushState(null, '', path);
  dispatchEvent(new PopStateEvent('popstate', {state: null}));
}"""
"""Goes to an address as the browser's own buttons do."""


class Screen:
    """One page of the UI, in a language. complaints: what the browser's console said."""

    def __init__(self, page: Page, base: str, language: Language, size: Size) -> None:
        self.page = page
        self.base = base
        self.size = size
        self.words: Words = json.loads(
            (ROOT / "ui/src/locales" / f"{language}.json").read_text())
        self.complaints: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _said(self, message: ConsoleMessage) -> None:
        # That a thing is not there, or plumd is away, is what some tests are about.
        if message.type == "error" and "Failed to load resource" not in message.text \
                and "net::ERR" not in message.text:
            self.complaints.append(message.text)

    def t(self, key: str, /, **named: object) -> str:
        """A message of the catalogue; of one thing, or of several."""
        found: str | Words = self.words
        for part in key.split("."):
            assert isinstance(found, dict), key
            found = found[part]
        assert isinstance(found, str), key
        one, *several = found.split(" | ")
        found = one if 1 in named.values() or not several else several[0]
        return re.sub(r"\{(\w+)\}", lambda slot: str(named[slot[1]]), found)

    def go(self, path: str) -> None:
        """Open an address, and wait until the page is there."""
        self.page.goto(self.base + path)
        expect(self.page.locator("main h1")).to_be_visible()

    def hop(self, path: str) -> None:
        """Go to an address without loading the UI anew, as links do. By way of a page that is
        none, so that whatever is there then has been made for this address."""
        title = self.page.locator("main h1")
        nowhere = self.t("lost.title")
        self.page.evaluate(PUSH, NOWHERE)
        expect(title).to_have_text(nowhere)
        self.page.evaluate(PUSH, path)
        if path != NOWHERE:
            expect(title).not_to_have_text(nowhere)
        expect(title).to_be_visible()

    def visit(self, place: str) -> None:
        """Go to a place by the menu, or on a phone by the bar below and what is behind More."""
        words = self.t(f"place.{place}")
        if self.size == "desktop":
            self.page.locator("nav.side a").filter(
                has_text=re.compile(rf"^{re.escape(words)}\d*$")).click()
        else:
            shown = self.page.locator("nav.bar > a").filter(has_text=words)
            if shown.count() == 0:
                self.page.locator("[data-test=more]").click()
                shown = self.page.locator(".el-drawer .group a").filter(has_text=words)
            shown.first.click()
        expect(self.page.locator("main h1")).to_have_text(words)

    def part(self, name: str) -> Locator:
        """What carries this data-test."""
        return self.page.locator(f"[data-test={name}]")

    def press(self, words: str) -> None:
        """Click the button that says so."""
        self.page.get_by_role("button", name=words, exact=True).click()

    def choose(self, field: Locator, text: str) -> None:
        """Choose in a list by typing: what is offered, or what is written."""
        field.locator(".el-select__wrapper").click()
        field.locator("input").fill(text)
        offered = self.page.locator(".el-select-dropdown__item:visible").filter(
            has_text=re.compile(rf"^\s*{re.escape(text)}")).first
        offered.click()
        expect(field).to_contain_text(text)

    def write(self, field: Locator, text: str) -> None:
        """Write into a field: an input, or a box with one in it."""
        field.locator("input, textarea").or_(field).locator("visible=true").last.fill(text)

    def state(self, state: str) -> None:
        """Wait until the page's thing has this state, in colour and in words."""
        badge = self.part("state")
        expect(badge).to_have_attribute("data-state", state, timeout=WAIT_MS)
        expect(badge).to_have_text(self.t(f"state.{state}"))

    def calm(self) -> None:
        """The browser found nothing to complain about: no script error, no breach of policy."""
        assert self.complaints == []


@contextmanager
def screen(browser: Browser, base: str, language: Language = "en", size: Size = "desktop",
           theme: Theme = "light") -> Iterator[Screen]:
    """A browser of somebody's own at plumd."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, locale=LOCALES[language],
        color_scheme=theme, has_touch=size == "phone", timezone_id="Europe/Berlin",
        permissions=["clipboard-read", "clipboard-write"])
    try:
        yield Screen(context.new_page(), base, language, size)
    finally:
        context.close()


@contextmanager
def working(url: str, *names: str) -> Iterator[None]:
    """A worker program that offers these tasks; each waits for the file that its payload names."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ui.worker", url, *names], cwd=ROOT,
        stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
