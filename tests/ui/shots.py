"""Pictures of every page, in both languages and themes, and on a phone: `make ui-shots`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.api.live import Api
from tests.daemon.running import Running
from tests.ui.screen import ARGS, CHROMIUM, ROOT, SIZES, Language, Screen, Size, Theme, screen
from tests.ui.test_axe import settled
from tests.ui.world import world

OUT = ROOT / "build" / "shots"
Kind = tuple[Language, Theme, Size]
HIDDEN = "main => main.scrollHeight - main.clientHeight"
"""How much of a page is below the edge of the screen, in pixels."""
KINDS: list[Kind] = [
    ("en", "light", "desktop"), ("zh", "light", "desktop"), ("en", "dark", "desktop"),
    ("zh", "dark", "desktop"), ("en", "light", "phone"), ("zh", "light", "phone")]


def whole(at: Screen) -> None:
    """The screen becomes so tall that all of the page is on it. Twice, for what is seen anew may
    be tall itself; what is always taller than the screen ends there."""
    width, height = SIZES[at.size]
    for _ in range(2):
        height += at.page.locator("main").evaluate(HIDDEN)
        at.page.set_viewport_size({"width": width, "height": height})
        settled(at)


def shoot(browser: Browser, base: str, pages: dict[str, str], kind: Kind) -> None:
    """All pages in one language, theme and size."""
    language, theme, size = kind
    folder = OUT / "-".join(kind)
    folder.mkdir(parents=True, exist_ok=True)
    with screen(browser, base, language, size, theme) as at:
        for name, path in pages.items():
            at.go(path)
            settled(at)
            whole(at)
            at.page.screenshot(path=folder / f"{name}.png")
            at.page.set_viewport_size({"width": SIZES[size][0], "height": SIZES[size][1]})


def main() -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory() as folder, Running(Path(folder) / "data") as daemon, \
            Api(daemon) as api, world(api) as pages, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        for kind in KINDS:
            shoot(browser, daemon.url, pages, kind)
        browser.close()
    print(f"{len(KINDS)} x {len(pages)} pictures in {OUT}")


if __name__ == "__main__":
    main()
