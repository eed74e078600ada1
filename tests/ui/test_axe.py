"""axe-core looks at every page, in both languages and themes, at a desk and on a phone; and the
browser keeps to the Content-Security-Policy without a complaint.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.api.live import Api, serving
from tests.ui.screen import ROOT, Language, Screen, Size, Theme, screen
from tests.ui.world import world

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
AXE = (ROOT / "ui/node_modules/axe-core/axe.min.js").read_text()
RUN = """
async rules => {
  const only = rules.length ? {runOnly: {type: 'rule', values: rules}} : {};
  return (await axe.run(document, {resultTypes: ['violations'], ...only})).violations
    .filter(one => ['serious', 'critical'].includes(one.impact))
    .map(one => one.id + ': ' + one.nodes.map(node => node.html.slice(0, 200)
      + ' ' + (node.any[0]?.message ?? '')).join(' | '));
}
"""
STILL = """
async () => {
  const frame = () => new Promise(requestAnimationFrame);
  const moves = one => one.playState === 'running'
    && one.effect.getComputedTiming().iterations !== Infinity;
  do { await frame(); await frame(); } while (document.getAnimations().some(moves));
}
"""
"""What changes begins to move a frame later."""
OF_COLOUR = ("color-contrast", "link-in-text-block")
"""The rules of axe to which it matters how bright a page is. The others ask for names, roles and
order, which are the same at night."""


@pytest.fixture(scope="module")
def pages(api: Api) -> Iterator[dict[str, str]]:
    """All pages by name."""
    with world(api) as pages:
        yield pages


def settled(at: Screen) -> None:
    """Nothing is on its way any more: no grey bars, no fading, and it is live."""
    expect(at.page.locator(".bars")).to_have_count(0)
    expect(at.page.locator(".chip")).to_have_attribute("data-link", "live")
    at.page.evaluate(STILL)


def turn(at: Screen, theme: Theme) -> None:
    """It gets day or night where one sits."""
    at.page.emulate_media(color_scheme=theme)
    expect(at.page.locator("html.dark")).to_have_count(int(theme == "dark"))


def violations(at: Screen, *rules: str) -> list[str]:
    """What is seriously wrong with the page by these rules, or by all."""
    settled(at)
    found: list[str] = at.page.evaluate(RUN, rules)
    return found


@pytest.mark.parametrize(("language", "size"), [("en", "desktop"), ("zh", "phone")])
def test_no_page_has_a_serious_violation(api: Api, browser: Browser, pages: dict[str, str],
                                         language: Language, size: Size) -> None:
    """Every page by all rules in one theme, turn about, and by those of colour in the other."""
    found = {}
    here: Theme = "light"
    there: Theme = "dark"
    with screen(browser, api.daemon.url, language, size, here) as at:
        at.go(pages["overview"])
        at.page.evaluate(AXE)
        for name, path in pages.items():
            at.hop(path)
            found[name, here] = violations(at)
            here, there = there, here
            turn(at, here)
            found[name, here] = violations(at, *OF_COLOUR)
        at.calm()
    wrong = {where: what for where, what in found.items() if what}
    assert not wrong, wrong
