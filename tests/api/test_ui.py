"""The files of the web UI: what is served, to whom, in which form, and what is not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from plumd.api.pages import page_routes
from plumd.api.params import has
from plumd.api.routes import Request, Response, Route
from plumd.api.ui import CSP, Ui, is_page, takes_gzip
from tests.api.serving import Answer, Served, running

INDEX = b"<!doctype html><title>Plum</title><script src=/assets/app-1a2b.js></script>" * 8
SCRIPT = b"export const plum = 'plum';\n" * 100
FONT = bytes(range(256)) * 4
ICON = b"<svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A UI as Vite builds it."""
    static = tmp_path / "static"
    (static / "assets").mkdir(parents=True)
    for name, body in (("index.html", INDEX), ("assets/app-1a2b.js", SCRIPT)):
        (static / name).write_bytes(body)
        (static / f"{name}.gz").write_bytes(gzip.compress(body))
    (static / "assets/sans-3c4d.woff2").write_bytes(FONT)
    (static / "icon.svg").write_bytes(ICON)
    (static / "assets/app-1a2b.js.map").write_bytes(b"{}")
    (tmp_path / "secret.txt").write_text("secret")
    return static


async def seen(_request: Request) -> Response:
    return Response(body=b"{}")


OWN = [Route("GET", "/v1/things", seen, "x", "t", "p"),
       Route("POST", "/v1/things/{id}/stop", seen, "x", "t", "p")]


async def ask(served: Served, path: str, *headers: str, method: str = "GET") -> Answer:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "Connection: close", "", ""]
    client = await served.connect()
    async with client.stream:
        await client.send("\r\n".join(lines).encode())
        return await client.answer(method)


HTML = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
GZIP = "Accept-Encoding: gzip, deflate, br"


async def test_every_file_in_the_form_that_the_client_takes(folder: Path) -> None:
    ui = Ui(folder)
    async with running([*OWN, *ui.routes()], deep=ui.deep()) as served:
        for path, body, kind in (("/", INDEX, "text/html; charset=utf-8"),
                                 ("/assets/app-1a2b.js", SCRIPT, "text/javascript; charset=utf-8"),
                                 ("/assets/sans-3c4d.woff2", FONT, "font/woff2"),
                                 ("/icon.svg", ICON, "image/svg+xml")):
            plain = await ask(served, path)
            assert (plain.status, plain.body) == (200, body)
            assert "content-encoding" not in plain.headers
            small = await ask(served, path, GZIP)
            packed = body in (INDEX, SCRIPT)
            assert small.headers.get("content-encoding") == ("gzip" if packed else None)
            assert (gzip.decompress(small.body) if packed else small.body) == body
            assert (small.headers.get("vary") == "accept-encoding") is packed
            for answer in (plain, small):
                assert answer.headers["content-type"] == kind
                assert answer.headers["content-security-policy"] == CSP
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["referrer-policy"] == "no-referrer"
                assert answer.headers["cache-control"] == (
                    "public, max-age=31536000, immutable" if "/assets/" in path else "no-cache")
            head = await ask(served, path, GZIP, method="HEAD")
            assert head.headers["content-length"] == str(len(small.body))


async def test_a_copy_that_is_the_same_is_not_sent_again(folder: Path) -> None:
    ui = Ui(folder)
    async with running(ui.routes(), deep=ui.deep()) as served:
        tags = {(await ask(served, "/", *more)).headers["etag"] for more in ((), (GZIP,))}
        assert len(tags) == 2, "two forms, two tags"
        small = (await ask(served, "/", GZIP)).headers["etag"]
        for condition in (small, f'"x", W/{small}', "*"):
            again = await ask(served, "/tasks/1", HTML, GZIP, f"If-None-Match: {condition}")
            assert (again.status, again.body) == (304, b"")
            assert again.headers["etag"] == small
            assert again.headers["content-security-policy"] == CSP
        assert (await ask(served, "/", f"If-None-Match: {small}")).status == 200
        (folder / "index.html").write_bytes(b"new")
        assert Ui(folder).files["index.html"].tag not in small
        assert Ui(folder).files["index.html"].body == b"new", "a stale .gz is not believed"


async def test_deep_links_are_pages_for_browsers_alone(folder: Path) -> None:
    ui = Ui(folder)
    async with running([*OWN, *ui.routes()], deep=ui.deep()) as served:
        for path in ("/tasks", "/tasks/0abc/log?tab=2", "/workflow-runs/1/", "/v1x", "/a%2Fb//c",
                     "/../secret.txt", "/index.html"):
            page = await ask(served, path, HTML)
            assert (page.status, page.body) == (200, INDEX), path
            assert (await ask(served, path, "Accept: application/json")).status == 404, path
            assert (await ask(served, path)).status == 404, path
        for path in ("/v1", "/v1/", "/v1/nothing", "/docs/nothing", "/assets/", "/assets/none.js",
                     "/metrics/x", "/healthz/x"):
            refused = await ask(served, path, HTML)
            assert refused.status == 404, path
            assert refused.headers["content-type"] == "application/problem+json", path
        assert (await ask(served, "/tasks", HTML, method="POST")).status == 404
        assert (await ask(served, "/v1/things/1/stop", HTML)).status == 405


async def test_nothing_outside_the_folder(folder: Path) -> None:
    ui = Ui(folder)
    async with running(ui.routes(), deep=ui.deep()) as served:
        for path in ("/assets/../../secret.txt", "/assets/..%2f..%2fsecret.txt",
                     "/assets/%2e%2e/%2e%2e/secret.txt", "/assets//etc/passwd",
                     "/assets/app-1a2b.js.gz", "/assets/app-1a2b.js.map",
                     "/assets/app-1a2b.js%00", "/assets/./app-1a2b.js"):
            answer = await ask(served, path, HTML)
            assert answer.status == 404, path
            assert b"secret" not in answer.body.replace(b"secret.txt", b"")


async def test_links_of_other_sites_open_pages_only(folder: Path) -> None:
    ui = Ui(folder)
    follow = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
    async with running([*OWN, *ui.routes()], deep=ui.deep()) as served:
        assert (await ask(served, "/", HTML, *follow)).status == 200
        assert (await ask(served, "/tasks/1", HTML, *follow)).status == 200
        for path in ("/assets/app-1a2b.js", "/v1/things", "/v1/nothing", "/icon.svg"):
            assert (await ask(served, path, HTML, *follow)).status == 403, path
        framed = (*follow[:2], "Sec-Fetch-Dest: iframe")
        assert (await ask(served, "/tasks/1", HTML, *framed)).status == 403
        script = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors")
        assert (await ask(served, "/tasks/1", HTML, *script)).status == 403
        evil = await ask(served, "/tasks/1", HTML, "Origin: http://evil.example")
        assert evil.status == 403


async def test_without_a_built_ui_the_state_is_shown(tmp_path: Path) -> None:
    ui = Ui(tmp_path / "absent")
    assert (ui.routes(), ui.deep()) == ([], None)
    pages = page_routes(OWN, version="1", status=lambda: {"tasks": 7})
    async with running([*OWN, *ui.routes(), *pages], deep=ui.deep()) as served:
        shown = await ask(served, "/", HTML)
        assert (shown.status, b">7<" in shown.body) == (200, True)
        assert (await ask(served, "/tasks", HTML)).status == 404


async def test_with_one_the_reference_stays(folder: Path) -> None:
    ui = Ui(folder)
    table = [*OWN, *ui.routes()]
    pages = page_routes(table, version="1", status=dict)
    async with running([*table, *pages], deep=ui.deep()) as served:
        assert (await ask(served, "/", HTML)).body == INDEX
        for path in ("/docs", "/docs/errors"):
            assert b"<style>" in (await ask(served, path, HTML)).body
        made = await ask(served, "/openapi.json")
        assert b"/assets" not in made.body


@pytest.mark.parametrize(("header", "expected"), [
    ("gzip", True), ("br, GZIP;q=0.5", True), ("*", True), ("x-gzip", True),
    ("", False), ("identity", False), ("gzip;q=0", False), ("gzip; q=0.000, br", False),
])
def test_accept_encoding(header: str, expected: bool) -> None:
    assert takes_gzip(header) is expected


def test_words() -> None:
    assert has('W/"a"', '"a"')
    assert not has('"ab"', '"a"')
    assert not has("", '"a"')
    assert is_page("GET", "/", {"accept": "text/html;q=0.9"})
    assert not is_page("GET", "/", {"accept": "text/htmlx, */*"})
    assert not is_page("DELETE", "/x", {"accept": "text/html"})
