"""A browser, and the web UI of a real plumd in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from plumd.api.ui import FOLDER
from tests.ui.screen import ARGS, CHROMIUM


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a window, and without what a window would need."""
    if not CHROMIUM.exists():       # a developer's machine may lack it; in CI a skip is a failure
        pytest.skip(f"THE BROWSER TESTS DID NOT RUN: there is no {CHROMIUM}; "
                    "`make test-deps` installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    """The UI must have been built, or the tests would look at nothing."""
    assert (FOLDER / "index.html").exists(), "`make ui` builds the web UI"
