"""A hostile web page in a real browser, on the machine of somebody who runs plumd: it can start
nothing, change nothing and read nothing. Every attack is aimed at a naive server too, which shows
that the browser really sends it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import pytest
from playwright.sync_api import Browser, Page

from tests.api.live import WAIT_S, Api, Json, serving

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)

ATTACK = """
async ([base, ws, taskId]) => {
  const read = [];
  const body = JSON.stringify({name: 'builtin.echo', labels: {by: 'evil'}});
  const worker = JSON.stringify({workerId: 'evil', url: 'http://127.0.0.1:1/', tasks: ['x']});
  const attempt = async (name, attack) => {
    try { const got = await attack(); if (got) read.push([name, String(got)]); } catch (error) { }
  };
  const text = async (path, options) => {
    const answer = await fetch(base + path, options);
    return answer.type === 'opaque' ? '' : answer.status + await answer.text();
  };
  const post = {method: 'POST', mode: 'no-cors', body};
  await attempt('no-cors', () => text('/v1/tasks', {...post, headers: {
    'content-type': 'text/plain'}}));
  await attempt('no-cors form', () => text('/v1/tasks', {
    ...post, body: new URLSearchParams({body})}));
  await attempt('no-cors with credentials', () => text('/v1/tasks', {
    ...post, credentials: 'include', keepalive: true}));
  await attempt('no body', () => text(`/v1/tasks/${taskId}?action=start`, {
    method: 'POST', mode: 'no-cors'}));
  await attempt('old path', () => text(`/v1/tasks/cancel/${taskId}`, {
    method: 'POST', mode: 'no-cors'}));
  await attempt('lenient', () => text('/v1/workers/register', {...post, body: worker}));
  await attempt('cors', () => text('/v1/tasks', {method: 'POST', body, headers: {
    'content-type': 'application/json'}}));
  await attempt('cors simple', () => text('/v1/tasks', {method: 'POST', body}));
  await attempt('delete', () => text(`/v1/tasks/${taskId}`, {method: 'DELETE'}));
  for (const path of ['/', '/v1/tasks', '/v1/status', '/healthz', '/openapi.json', '/version']) {
    await attempt('get ' + path, () => text(path, {}));
  }
  await attempt('beacon', () => {
    navigator.sendBeacon(base + '/v1/tasks', new Blob([body], {type: 'text/plain'})); });
  const element = (kind, path) => new Promise((done) => {
    const made = document.createElement(kind);
    made.onload = () => done(kind === 'img' || kind === 'script' ? 'loaded' : '');
    made.onerror = () => done('');
    made[kind === 'link' ? 'href' : 'src'] = base + path;
    if (kind === 'link') { made.rel = 'stylesheet'; }
    document.body.append(made);
  });
  await attempt('img', () => element('img', '/v1/tasks?img'));
  await attempt('script', () => element('script', '/v1/tasks?script'));
  await attempt('stylesheet', () => element('link', '/v1/tasks?link'));
  await attempt('events', () => new Promise((done) => {
    const source = new EventSource(base + '/v1/events');
    source.onopen = () => { source.close(); done('open'); };
    source.onerror = () => { source.close(); done(''); };
  }));
  await attempt('websocket', () => new Promise((done) => {
    const line = new WebSocket(ws + '/v1/embedded-workers/evil/stream');
    line.onopen = () => { line.send(JSON.stringify({register: {session: 's', tasks: ['x']},
                                                    holding: []})); };
    line.onmessage = (message) => { line.close(); done(message.data); };
    line.onerror = () => done('');
    line.onclose = () => done('');
  }));
  const frame = (prepare) => new Promise((done) => {
    const inner = document.createElement('iframe');
    inner.name = 'f' + Math.random();
    document.body.append(inner);
    inner.onload = () => {
      let seen = '';
      try { seen = inner.contentDocument.body.innerText; } catch (error) { }
      done(seen);
    };
    prepare(inner);
  });
  await attempt('iframe', () => frame((inner) => { inner.src = base + '/'; }));
  for (const enctype of ['application/x-www-form-urlencoded', 'text/plain',
                         'multipart/form-data']) {
    await attempt('form ' + enctype, () => frame((inner) => {
      const form = document.createElement('form');
      const input = document.createElement('input');
      Object.assign(form, {action: base + '/v1/tasks', method: 'POST', enctype,
                           target: inner.name});
      Object.assign(input, {name: body.slice(0, -1) + ',"x":"', value: '"}'});
      form.append(input);
      document.body.append(form);
      form.submit();
    }));
  }
  return read;
}
"""


class Naive:
    """A server that takes what comes; also serves the hostile page."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        naive = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                declared = self.headers.get("content-type", "").partition(";")[0]
                naive.seen.append(f"{self.command} {self.path} {declared}".strip())
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.end_headers()
                self.wfile.write(b"<!doctype html><title>evil</title><body>evil</body>")

            def __getattr__(self, name: str) -> Callable[[], None]:
                """do_GET and the like: all methods are answered alike."""
                if not name.startswith("do_"):
                    raise AttributeError(name)
                return self.answer

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                """Nothing to tell."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a profile of its own."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(WAIT_S * 1000)
    yield page
    context.close()


@pytest.fixture(scope="module")
def naive() -> Iterator[Naive]:
    """Where the hostile page comes from."""
    with Naive() as naive:
        yield naive


def attack(page: Page, host: str, port: int, task_id: object) -> list[list[str]]:
    """Everything that a page can try against a server; what it could read."""
    read: list[list[str]] = page.evaluate(
        ATTACK, [f"http://{host}:{port}", f"ws://{host}:{port}", task_id])
    return read


@pytest.mark.parametrize("origin", ["127.0.0.1", "evil.example"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin_can_do_nothing(
        api: Api, page: Page, naive: Naive, origin: str, host: str) -> None:
    task: Json = api.task(autoStart=False)
    before = api.count()
    page.goto(f"http://{origin}:{naive.port}/")
    assert attack(page, host, api.daemon.port, task["taskId"]) == []
    # The same attacks at somebody who does not look: so they were really sent.
    naive.seen.clear()
    attack(page, host, naive.port, task["taskId"])
    sent = set(naive.seen)
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
        assert f"POST /v1/tasks {kind}" in sent, sent
    assert sent >= {f"POST /v1/tasks/{task['taskId']}?action=start", "GET /v1/tasks?img",
                    "GET /v1/tasks?script", "GET /v1/tasks?link", "GET /v1/events",
                    "GET /v1/embedded-workers/evil/stream", "GET /"}, sent
    assert naive.seen.count("POST /v1/tasks text/plain") >= 4, "fetch, beacon and form"
    assert api.count() == before
    assert api.get(f"/v1/tasks/{task['taskId']}")["state"] == "Queued"
    assert api.items("/v1/tasks?label=by=evil") == []


def test_a_rebound_name_is_of_no_use(api: Api, page: Page) -> None:
    """The page's own name points at the daemon by now, so for the browser it is the same origin."""
    task = api.task(autoStart=False)
    before = api.count()
    answer = page.goto(f"http://evil.example:{api.daemon.port}/")
    assert answer is not None
    assert answer.status == 403
    read = attack(page, "evil.example", api.daemon.port, task["taskId"])
    assert read, "the browser lets a page read its own origin: the daemon must refuse"
    for name, text in read:
        if not name.startswith(("iframe", "form")):
            assert text.startswith("403"), (name, text)
        assert "forbidden" in text, (name, text)
    assert api.count() == before
    assert api.get(f"/v1/tasks/{task['taskId']}")["state"] == "Queued"


def test_a_link_may_open_the_pages_but_not_the_api(api: Api, page: Page, naive: Naive) -> None:
    for path, status in (("/", 200), ("/docs", 200), ("/docs/errors", 200), ("/v1/tasks", 403),
                         ("/v1/status", 403), ("/openapi.json", 403)):
        page.goto(f"http://evil.example:{naive.port}/")
        url = f"http://127.0.0.1:{api.daemon.port}{path}"
        page.evaluate("""(url) => { const link = document.createElement('a');
            link.href = url; link.textContent = 'open'; document.body.append(link); }""", url)
        with page.expect_response(url) as answer:
            page.click("a")
        assert answer.value.status == status, path


def test_the_daemons_own_page_can(api: Api, browser: Browser) -> None:
    # Its policy forbids scripts altogether, so the browser is told to overlook that.
    context = browser.new_context(bypass_csp=True)
    try:
        page = context.new_page()
        page.goto(f"{api.daemon.url}/")
        made = page.evaluate("""async () => (await fetch('/v1/tasks', {method: 'POST',
            headers: {'content-type': 'application/json'},
            body: JSON.stringify({name: 'builtin.echo', payload: 'own'})})).json()""")
        assert api.ended(made["taskId"])["result"] == {"echo": "own"}
        listed = page.evaluate("async () => (await fetch('/v1/tasks?limit=1')).json()")
        assert listed[0]["taskId"] == made["taskId"]
        opened = page.evaluate("""() => new Promise((done) => {
            const source = new EventSource('/v1/events');
            source.onopen = () => { source.close(); done('open'); };
            source.onerror = () => done('error'); })""")
        assert opened == "open"
    finally:
        context.close()


def test_the_pages_run_no_script_and_show_no_error(api: Api, page: Page) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    for path, title in (("/docs", "Plum: API reference"), ("/docs/errors", "Plum: error codes")):
        page.goto(f"{api.daemon.url}{path}")
        assert page.title() == title
        assert page.evaluate("document.scripts.length") == 0
        wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        assert not wide, f"{path} scrolls sideways"
    assert [text for text in said if "favicon" not in text] == []
