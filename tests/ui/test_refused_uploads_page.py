"""Every kind of upload that is refused, by the page of the apps: it says of which file and what is
wrong with it, and nothing is left of it.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests import zips
from tests.api.live import Api, serving
from tests.ui.screen import Language, Screen, screen

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

WRONG: dict[str, tuple[str, dict[str, str | int]]] = {
    "no zip": ("no_zip", {"why": "File is not a zip file"}),
    "nothing": ("no_zip", {"why": "File is not a zip file"}),
    "cut off": ("no_zip", {"why": "File is not a zip file"}),
    "no start.sh": ("file_missing", {"name": "start.sh"}),
    "no meta.ini": ("file_missing", {"name": "meta.ini"}),
    "start.sh below": ("file_below", {"name": "start.sh", "found": "'x/start.sh'"}),
    "start.sh is a folder": ("file_missing", {"name": "start.sh"}),
    "no name": ("meta_key", {"key": "name"}),
    "no version": ("meta_key", {"key": "version"}),
    "a bad name": ("meta_key", {"key": "name"}),
    "no key": ("meta_line", {"line": 3}),
    "a bad port": ("meta_service", {"line": 3}),
    "a bad service": ("meta_service", {"line": 3}),
    "no utf-8": ("meta_encoding", {}),
    "a large meta.ini": ("meta_large", {"max": 65536}),
    "a bomb": ("zip_bomb", {"max": 200}),
    "wrong checksum": ("no_zip", {"why": "Bad CRC-32 for file 'start.sh'"}),
    "encrypted": ("entry_encrypted", {"name": "'start.sh'"}),
    "larger than said": ("no_zip", {"why": "Bad CRC-32 for file 'large'"}),
    "overlap": ("entry_overlaps", {"name": "'two'"}),
    "the name '/etc/passwd'": ("path_leaves", {"name": "'/etc/passwd'"}),
    "the name '../x'": ("path_leaves", {"name": "'../x'"}),
    "the name 'a/../../x'": ("path_leaves", {"name": "'a/../../x'"}),
    "the name 'a//b'": ("path_odd", {"name": "'a//b'"}),
    "the name './x'": ("path_odd", {"name": "'./x'"}),
    "the name 'C:/x'": ("path_leaves", {"name": "'C:/x'"}),
    r"the name 'a\\..\\b'": ("name_bad", {"name": r"'a\\..\\b'"}),
    "the name 'a/./b'": ("path_odd", {"name": "'a/./b'"}),
    r"the name 'bell\x07'": ("name_bad", {"name": r"'bell\x07'"}),
    "the name 'd/d/d/d/d/d/d/d/d/d/'": ("path_odd", {"name": f"'{'d/' * 50}'"}),
    "the name 'nnnnnnnnnnnnnnnnnnnn'": ("name_bad", {"name": f"'{'n' * 100}'"}),
    "NUL": ("name_bad", {"name": r"'a\x00b'"}),
    "a name twice": ("entry_twice", {"name": "'aQ'"}),
    "a file and folder": ("entry_file_and_folder", {"name": "'a'"}),
    "a link": ("entry_link", {"name": "'x'"}),
    "a device": ("entry_link", {"name": "'x'"}),
    "a fifo": ("entry_link", {"name": "'x'"}),
}
"""What it is -> the reason that one reads, and what that names."""


def upload(at: Screen, name: str, content: bytes) -> Locator:
    """Choose a file, and wait for what becomes of it: the complaint about it."""
    at.page.locator("input[type=file]").set_input_files(
        {"name": name, "mimeType": "application/zip", "buffer": content})
    alert = at.page.get_by_role("alert")
    expect(alert).to_contain_text(at.t("app.refused", name=name))
    return alert


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_refused_upload_says_why(browser: Browser, api: Api, language: Language) -> None:
    hostile = zips.hostile()
    assert hostile.keys() == WRONG.keys()
    with screen(browser, api.daemon.url, language) as at:
        at.go("/apps")
        for number, (what, content) in enumerate(hostile.items()):
            code, values = WRONG[what]
            alert = upload(at, f"{number}.zip", content)
            expect(alert.locator("p"), what).to_have_text(at.t(f"reason.{code}", **values))
        expect(at.page.locator("[data-row]")).to_have_count(0)
        expect(at.page.get_by_text(at.t("app.none"), exact=True)).to_be_visible()
        at.page.locator("input[type=file]").set_input_files(
            {"name": "good.zip", "mimeType": "application/zip", "buffer": zips.app(language)})
        expect(at.page.locator("[data-row]").filter(has_text=language)).to_be_visible()
        expect(at.page.get_by_role("alert")).to_have_count(0)
        twice = upload(at, "again.zip", zips.app(language))
        expect(twice.locator("p")).to_have_text(
            at.t("reason.app_exists", name=language, version="1.0"))
        at.calm()
    app, = api.items("/v1/apps")
    api.gone(f"/v1/apps/{app['artifactId']}")
    assert list((api.daemon.data_dir / "artifacts").iterdir()) == []
