"""axe-core looks at every page, in both themes, at a desk and on a phone; and the browser keeps
to the Content-Security-Policy without a complaint.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api, serving
from tests.ui.screen import ROOT, Screen, Size, Theme, screen
from tests.ui.world import world

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
AXE = (ROOT / "ui/node_modules/axe-core/axe.min.js").read_text()
RUN = """
async () => (await axe.run(document, {resultTypes: ['violations']})).violations
  .filter(one => ['serious', 'critical'].includes(one.impact))
  .map(one => one.id + ': ' + one.nodes.map(node => node.html.slice(0, 200)
    + ' ' + (node.any[0]?.message ?? '')).join(' | '))
"""


@pytest.fixture(scope="module")
def pages(api: Api) -> Iterator[dict[str, str]]:
    """All pages by name."""
    with world(api) as pages:
        yield pages


def settled(at: Screen) -> None:
    """Nothing is on its way any more: no grey bars, no fading, and it is live."""
    expect(at.page.locator(".bars")).to_have_count(0)
    expect(at.page.locator(".chip")).to_have_attribute("data-link", "live")
    at.page.wait_for_function(
        "() => document.getAnimations().every(one => one.playState !== 'running' ||"
        " one.effect.getComputedTiming().iterations === Infinity)")


@pytest.mark.parametrize(("theme", "size"), [
    ("light", "desktop"), ("dark", "desktop"), ("light", "phone")])
def test_no_page_has_a_serious_violation(api: Api, browser: Browser, pages: dict[str, str],
                                         theme: Theme, size: Size) -> None:
    found = {}
    with screen(browser, api.daemon.url, "en", size, theme) as at:
        for name, path in pages.items():
            at.go(path)
            settled(at)
            at.page.evaluate(AXE)
            if violations := at.page.evaluate(RUN):
                found[name] = violations
        at.calm()
    assert found == {}
