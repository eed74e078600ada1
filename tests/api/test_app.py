"""The Quart side: routing, HEAD, pages, streams, the log, and what the gate counts."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator

import msgspec
import pytest
import trio

from plumd.api.admission import Policy
from plumd.api.app import build_app, rule_of
from plumd.api.gate import Gate, Streams, wire_headers
from plumd.api.pages import page_routes, status_page
from plumd.api.problem import problem, problem_of
from plumd.api.routes import Handler, Request, Response, Route
from plumd.errors import (
    CODES,
    Invalid,
    NotFound,
    Overloaded,
    PlumError,
    StorageDown,
    TooMany,
    VersionMismatch,
)
from tests.api.serving import Client, Served, running


async def seen(request: Request) -> Response:
    """What reached the handler."""
    return Response(body=msgspec.json.encode({
        "method": request.method, "path": request.path, "params": request.params,
        "query": request.query}))


def route(method: str, path: str, handler: Handler = seen) -> Route:
    return Route(method, path, handler, "x", "t", "p")


ROUTES = [
    route("GET", "/v1/tasks"), route("GET", "/v1/tasks/{id}"), route("DELETE", "/v1/tasks/{id}"),
    route("GET", "/v1/tasks/stream"), route("POST", "/v1/tasks/cancel/{id}"),
    route("GET", "/v1/kv/{ns}/keys"), route("PUT", "/v1/kv/{ns}/{key...}"),
    route("GET", "/v1/kv/{ns}/{key...}"), route("GET", "/v1/kv/{ns}"),
]


async def ask(served: Served, method: str, path: str, *headers: str) -> tuple[int, object]:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "Connection: close", "", ""]
    client = await served.connect()
    async with client.stream:
        await client.send("\r\n".join(lines).encode())
        answer = await client.answer(method)
    return answer.status, json.loads(answer.body) if answer.body else answer.headers


@pytest.mark.parametrize(("method", "path", "params"), [
    ("GET", "/v1/tasks", {}),
    ("GET", "/v1/tasks/stream", {}),
    ("GET", "/v1/tasks/streams", {"id": "streams"}),
    ("GET", "/v1/tasks/a%2Fb", {"id": "a/b"}),
    ("GET", "/v1/tasks/%C3%A9%20+", {"id": "é +"}),
    ("GET", "/v1/tasks/a;b=1,c@d:e", {"id": "a;b=1,c@d:e"}),
    ("DELETE", "/v1/tasks/1", {"id": "1"}),
    ("POST", "/v1/tasks/cancel/1", {"id": "1"}),
    ("GET", "/v1/kv/n/keys", {"ns": "n"}),
    ("PUT", "/v1/kv/n/keys", {"ns": "n", "key": "keys"}),
    ("GET", "/v1/kv/n/keys/x", {"ns": "n", "key": "keys/x"}),
    ("GET", "/v1/kv/n/a/b//c/", {"ns": "n", "key": "a/b//c/"}),
    ("GET", "/v1/kv/n//a", {"ns": "n", "key": "/a"}),
    ("GET", "/v1/kv/n%2Fm/a%2Fb/c", {"ns": "n/m", "key": "a/b/c"}),
    ("GET", "/v1/kv/n", {"ns": "n"}),
])
async def test_paths(method: str, path: str, params: dict[str, str]) -> None:
    async with running(ROUTES) as served:
        status, body = await ask(served, method, path)
        assert status == 200
        assert isinstance(body, dict)
        assert body["params"] == params


@pytest.mark.parametrize(("method", "path", "status", "code"), [
    ("GET", "/v1/none", 404, "not_found"),
    ("GET", "/v1/tasks/", 404, "not_found"),
    ("GET", "/v1/tasks/a/b", 404, "not_found"),
    ("GET", "/v1/kv/n/", 404, "not_found"),
    ("GET", "/v1/tasks/%ff", 400, "malformed"),
    ("GET", "/v1/tasks?a=%ff", 400, "malformed"),
    ("PATCH", "/v1/tasks/1", 405, "method_not_allowed"),
    ("OPTIONS", "/v1/tasks", 405, "method_not_allowed"),
    ("TRACE", "/v1/tasks", 405, "method_not_allowed"),
    ("BREW", "/v1/tasks", 405, "method_not_allowed"),
])
async def test_problems_of_routing(method: str, path: str, status: int, code: str) -> None:
    async with running(ROUTES) as served:
        got, body = await ask(served, method, path)
        assert isinstance(body, dict)
        assert (got, body["status"], body["code"]) == (status, status, code)
        assert body["type"] == f"/docs/errors#{code}"


async def test_405_says_what_is_allowed() -> None:
    async with running(ROUTES) as served:
        answer = await served.ask(b"PATCH /v1/tasks/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.headers["allow"] == "DELETE, GET, HEAD"
        assert answer.headers["content-type"] == "application/problem+json"


async def test_unknown_paths_are_guarded_too() -> None:
    async with running(ROUTES) as served:
        for path in ("/v1/none", "/v1/tasks"):
            assert (await ask(served, "GET", path, "Origin: http://evil.example"))[0] == 403


async def test_head_is_get_without_the_body() -> None:
    async with running(ROUTES) as served:
        got = await served.ask(b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client = await served.connect()
        async with client.stream:
            for _ in range(2):
                await client.send(b"HEAD /v1/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n")
                head = await client.answer("HEAD")
                # One byte more, for the handler says which method it saw.
                assert int(head.headers["content-length"]) == len(got.body) + 1
                assert head.headers["content-type"] == "application/json"
        assert (await ask(served, "HEAD", "/v1/none"))[0] == 404
        assert (await ask(served, "HEAD", "/v1/tasks/cancel/1"))[0] == 405


def test_routes_must_make_sense() -> None:
    with pytest.raises(ValueError, match="two routes"):
        build_app([route("GET", "/a/{id}"), route("GET", "/a/{name}")], Gate(Policy()))
    for path in ("a", "/a/{", "/a/{b c}", "/{x-y}"):
        with pytest.raises(ValueError, match="no path"):
            rule_of(path)
    assert rule_of("/v1/{a}/{b...}") == "/v1/<a>/<rest:b>"


async def test_defects_are_logged_once_and_told_without_details(
        caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_request: Request) -> Response:
        raise RuntimeError("secret")

    async with running([route("GET", "/v1/x", fail)]) as served:
        status, body = await ask(served, "GET", "/v1/x")
    assert status == 500
    assert isinstance(body, dict)
    assert body["code"] == "internal"
    assert "secret" not in json.dumps(body)
    [record] = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "plumd.api")
    assert record.exc_info is not None


async def test_answers_are_observed() -> None:
    told: list[tuple[str, str, int]] = []
    gate = Gate(Policy(), observe=lambda route, method, status, seconds: told.append(
        (route.path, method, status + (0 if 0 <= seconds < 5 else 1000))))

    async def missing(_request: Request) -> Response:
        raise NotFound("no task")

    hot = msgspec.structs.replace(route("POST", "/v1/hot"), hot=True)
    async with running([*ROUTES, hot, route("GET", "/v1/gone", missing)], gate=gate) as served:
        await ask(served, "GET", "/v1/tasks/7")
        await ask(served, "HEAD", "/v1/gone")
        await served.ask(b"POST /v1/hot HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    assert told == [("/v1/tasks/{id}", "GET", 200), ("/v1/gone", "HEAD", 404),
                    ("/v1/hot", "POST", 200)]


async def test_files_stream_to_their_end() -> None:
    async def file(_request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(50):
                await trio.lowlevel.checkpoint()
                yield bytes([number]) * 30_000

        return Response(content_type="application/zip", stream=chunks(),
                        headers=(("content-length", "1500000"), ("etag", '"1"')))

    async with running([route("GET", "/artifacts/{name...}", file)]) as served:
        client = await served.connect()
        async with client.stream:
            for _ in range(2):
                await client.send(b"GET /artifacts/a/b.zip HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = await client.answer("GET")
                assert answer.body == b"".join(bytes([n]) * 30_000 for n in range(50))
                assert answer.headers["etag"] == '"1"'
        assert len(served.gate.streams) == 0


async def test_stream_that_failed_before_its_first_chunk_frees_its_place() -> None:
    async def empty(_request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in ():
                yield b""

        return Response(content_type="text/event-stream", stream=chunks())

    async with running([route("GET", "/v1/x", empty)], streams_max=1) as served:
        for _ in range(3):
            client = await served.connect()
            async with client.stream:
                await client.send(b"GET /v1/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await client.answer("GET")).body == b""


def test_streams_count_and_close() -> None:
    streams = Streams(2)
    one, two = streams.enter(), streams.enter()
    with pytest.raises(TooMany):
        streams.enter()
    streams.leave(one)
    streams.leave(one)
    assert len(streams) == 1
    streams.close()
    assert two.ended
    with pytest.raises(Overloaded):
        streams.enter()


# Problems.

def test_every_error_becomes_a_problem() -> None:
    for code, kind in CODES.items():
        response = problem(kind("what happened", field="a.b"))
        body = msgspec.json.decode(response.body, type=dict[str, object])
        assert (response.status, body["status"], body["code"]) == (kind.status, kind.status, code)
        assert (body["detail"], body["field"]) == ("what happened", "a.b")
        assert body["type"] == f"/docs/errors#{code}"
        assert response.content_type == "application/problem+json"
        waits = dict(response.headers).get("retry-after")
        assert waits == ("1" if kind.status in (429, 503) else None)


@pytest.mark.parametrize(("error", "expected"), [
    (TooMany("x", retry_after_s=2.2), "3"), (Overloaded("x", retry_after_s=0), "1"),
    (StorageDown("x"), "1"), (VersionMismatch("x", retry_after_s=9), "9"), (Invalid("x"), None)])
def test_retry_after(error: PlumError, expected: str | None) -> None:
    assert dict(problem(error).headers).get("retry-after") == expected


def test_problem_of_unknown_status_and_no_field() -> None:
    body = msgspec.json.decode(problem_of("x", 599, "y").body, type=dict[str, object])
    assert body["title"] == "Error"
    assert "field" not in body


def test_wire_headers() -> None:
    assert dict(wire_headers(Response(204))) == {
        "x-content-type-options": "nosniff", "cache-control": "no-store"}
    cached = wire_headers(Response(body=b"ab", headers=(("cache-control", "max-age=5"),)))
    assert [value for name, value in cached if name == "cache-control"] == ["max-age=5"]
    assert dict(cached)["content-length"] == "2"


# Pages.

async def test_pages_are_safe_and_link_to_each_other() -> None:
    evil = "<script>alert(1)</script>&\"'"
    pages = page_routes(ROUTES, version=evil, status=lambda: {evil: evil, "tasks": 3})
    async with running([*ROUTES, *pages]) as served:
        for path in ("/", "/docs", "/docs/errors"):
            answer = await served.ask(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            text = answer.body.decode()
            assert answer.status == 200
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            csp = answer.headers["content-security-policy"]
            assert "default-src 'none'" in csp
            assert "frame-ancestors 'none'" in csp
            assert "unsafe" not in csp
            assert not re.search(r"<script|<img|src=|http-equiv| style=| on\w+=", text)
            assert "prefers-color-scheme: dark" in text
        home = await served.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b'href="/docs"' in home.body
        assert b"<th>tasks</th><td>3</td>" in home.body
        document = await served.ask(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert json.loads(document.body)["info"]["version"] == evil


async def test_a_web_interface_takes_the_place_of_the_status_page() -> None:
    own = [route("GET", "/")]
    pages = page_routes(own, version="1", status=dict)
    assert [page.path for page in pages] == ["/docs", "/docs/errors", "/openapi.json"]
    async with running([*own, *pages]) as served:
        assert (await ask(served, "GET", "/"))[0] == 200


def test_status_page_escapes() -> None:
    page = status_page("1", {"a<b": "<i>"}).body.decode()
    assert "a&lt;b" in page
    assert "<i>" not in page


async def test_every_error_code_is_on_its_page() -> None:
    [errors] = [page for page in page_routes([], version="1", status=dict)
                if page.path == "/docs/errors"]
    text = (await errors.handler(Request("GET", "/docs/errors", {}, {}, {}, b""))).body.decode()
    for code in [*CODES, "internal"]:
        assert f'id="{code}"' in text


async def test_clients_close_first_without_harm(caplog: pytest.LogCaptureFixture) -> None:
    started = trio.Event()
    ended = trio.Event()

    async def slow(_request: Request) -> Response:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    async with running([route("GET", "/v1/slow", slow)]) as served:
        client: Client = await served.connect()
        await client.send(b"GET /v1/slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await started.wait()
        await client.stream.aclose()
        with trio.fail_after(10):
            await ended.wait()
    assert not caplog.records
