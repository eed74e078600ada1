"""The thin front against Hypercorn and Quart: the same bytes must get the same answers."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from plumd.api.admission import Policy
from plumd.api.app import build_app
from plumd.api.front import address_of, bind, bind_beside, serve
from plumd.api.gate import Gate
from plumd.api.hot import HotTable
from plumd.api.routes import Handler, Request, Response, Route
from plumd.errors import Invalid, StaleAttempt
from tests.api.serving import (
    LIMITS,
    Answer,
    Client,
    Served,
    cold,
    no_stream,
    reset_on_close,
    running,
)


class Body(msgspec.Struct):
    """What the test routes read."""

    name: str = ""


async def echo(request: Request) -> Response:
    """All that a handler can see of its request."""
    seen = {
        "method": request.method, "path": request.path, "params": request.params,
        "query": request.query, "body": request.body.decode("latin-1"), "peer": request.peer,
        "host": request.headers.get("host"), "extra": request.headers.get("x-extra"),
    }
    return Response(201, msgspec.json.encode(seen), headers=(("location", "/v1/x"),))


async def refuse(_request: Request) -> Response:
    raise StaleAttempt("attempt 1 is over")


async def refuse_in_group(_request: Request) -> Response:
    raise ExceptionGroup("a nursery's", [Invalid("no", field="steps[0].name")])


async def fail(_request: Request) -> Response:
    raise RuntimeError("secret of the handler")


async def split(_request: Request) -> Response:
    return Response(headers=(("location", "/a\r\nx-evil: 1"),))


async def nothing(_request: Request) -> Response:
    return Response(204)


def post(path: str, handler: Handler = echo, *, hot: bool = True, lenient: bool = False,
         body_bytes_max: int = 200_000) -> Route:
    """A test route."""
    return Route("POST", path, handler, "x", "t", "p", body=Body, hot=hot, lenient=lenient,
                 body_bytes_max=body_bytes_max)


ROUTES = [
    post("/v1/tasks"),
    post("/v1/tasks/bulk"),
    post("/v1/task-defs/{id}"),
    post("/v1/embedded-workers/{id}/exchange"),
    post("/v1/workers/heartbeat", lenient=True),
    post("/v1/small", body_bytes_max=10),
    post("/v1/refuse", refuse),
    post("/v1/group", refuse_in_group),
    post("/v1/fail", fail),
    post("/v1/split", split),
    post("/v1/nothing", nothing),
    post("/v1/task-defs/import", hot=False),
    post("/v1/kv/{ns}/{key...}", hot=False),
    Route("GET", "/v1/find", echo, "x", "t", "p", hot=True),
    Route("GET", "/v1/find/{id}", echo, "x", "t", "p", hot=True),
]


def request(path: str = "/v1/tasks", body: bytes = b'{"name":"a"}', *, method: str = "POST",
            version: str = "1.1", headers: tuple[str, ...] = (), length: bool = True,
            host: bool = True, json: bool = True, close: bool = False) -> bytes:
    """A request's bytes, odd ones too."""
    lines = [f"{method} {path} HTTP/{version}"]
    lines += ["Host: 127.0.0.1:8080"] * host
    lines += ["Content-Type: application/json"] * json
    lines += [f"Content-Length: {len(body)}"] * length
    lines += ["Connection: close"] * close
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"


def look(rest: str = "", *, headers: tuple[str, ...] = (), host: bool = True,
         version: str = "1.1") -> bytes:
    """A GET of what is hot."""
    return request("/v1/find" + rest, b"", method="GET", length=False, json=False, host=host,
                   version=version, headers=headers)


CHUNKED = ("Transfer-Encoding: chunked",)
BODY = b'{"name":"a"}'

# name -> (bytes or segments, how many answers, the first one's status)
CASES: dict[str, tuple[bytes | list[bytes], int, int]] = {
    "plain": (request(), 1, 201),
    "no body but a length": (request(body=b""), 1, 201),
    "query": (request("/v1/task-defs/x?action=run&a=1&a=2&b=%C3%A9+z&c"), 1, 201),
    "encoded placeholder": (request("/v1/task-defs/a%2Fb%20c"), 1, 201),
    "placeholder inside": (request("/v1/embedded-workers/w-1/exchange"), 1, 201),
    "placeholder empty": (request("/v1/embedded-workers//exchange"), 1, 404),
    "static before placeholder": (request("/v1/task-defs/import"), 1, 201),
    "rest of the path": (request("/v1/kv/ns/a/b%2fc/d"), 1, 201),
    "path not UTF-8": (request("/v1/task-defs/%ff"), 1, 400),
    "query not UTF-8": (request("/v1/tasks?a=%ff"), 1, 400),
    "trailing slash": (request("/v1/tasks/"), 1, 404),
    "fragment": (request("/v1/tasks#x"), 1, 404),
    "unknown path": (request("/v1/none"), 1, 404),
    "three pipelined": (request() + request(body=b"{}") + request("/v1/tasks/bulk"), 3, 201),
    "refused, then good": (request(json=False) + request(), 2, 415),
    "hot, then cold": (request() + request("/v1/task-defs/import") + request(), 3, 201),
    "byte by byte": ([bytes([each]) for each in request(close=True)], 1, 201),
    "head and body apart": ([request()[:-12], request()[-12:]], 1, 201),
    "large body": (request(body=b'"' + b"x" * 150_000 + b'"'), 1, 201),
    "body over the limit": (request("/v1/small", b'"0123456789"'), 1, 413),
    "chunked": (request(body=chunked(b'{"na', b'me":1}'), length=False, headers=CHUNKED), 1, 201),
    "chunked over the limit": (
        request("/v1/small", chunked(b"0" * 8, b"1" * 8), length=False, headers=CHUNKED), 1, 413),
    "chunked badly": (request(body=b"zz\r\n", length=False, headers=CHUNKED), 1, 400),
    "length and chunked": (request(body=chunked(BODY), headers=CHUNKED), 1, 400),
    "te twice": (request(body=chunked(BODY), length=False, headers=CHUNKED * 2), 1, 501),
    "te unknown": (request(length=False, headers=("Transfer-Encoding: x",)), 1, 501),
    "te with a space": (request(headers=("Transfer-Encoding : chunked",)), 1, 400),
    "te by tab": (request(headers=("Transfer-Encoding:\tchunked",)), 1, 400),
    "length twice the same": (request(headers=("Content-Length: 12",)), 1, 201),
    "length twice": (request(headers=("Content-Length: 5",)), 1, 400),
    "length as a list": (request(length=False, headers=("Content-Length: 12, 12",)), 1, 201),
    "length signed": (request(length=False, headers=("Content-Length: +12",)), 1, 400),
    "length negative": (request(length=False, headers=("Content-Length: -1",)), 1, 400),
    "length hex": (request(length=False, headers=("Content-Length: 0xc",)), 1, 400),
    "length empty": (request(length=False, headers=("Content-Length:",)), 1, 400),
    "length superscript": (request(length=False, headers=("Content-Length: \xb2",)), 1, 400),
    "length huge": (request(length=False, headers=("Content-Length: " + "9" * 15,)), 1, 413),
    "length absurd": (request(length=False, headers=("Content-Length: " + "9" * 60,)), 1, 400),
    "no length": (request(body=b"", length=False), 1, 201),
    "expect continue": (request(headers=("Expect: 100-continue",)), 1, 201),
    "obs-fold": (request(headers=("X-Extra: a", " b")), 1, 201),
    "obs-fold hides te": (request(headers=("X-Extra: a", "\tTransfer-Encoding: chunked")), 1, 201),
    "bare line feeds": (request().replace(b"\r\n", b"\n"), 1, 201),
    "one bare line feed": (request(headers=("X-Extra: a\nX-B: c",)), 1, 201),
    "bare carriage return": (request(headers=("X-Extra: a\rb",)), 1, 400),
    "nul in a value": (request(headers=("X-Extra: a\0b",)), 1, 400),
    "latin-1 in a value": (request(headers=("X-Extra: \xe9",)), 1, 201),
    "spaces around a value": (request(headers=("X-Extra:  \t a \t ",)), 1, 201),
    "header without a name": (request(headers=(": a",)), 1, 400),
    "header without a colon": (request(headers=("X-Extra",)), 1, 400),
    "HTTP/1.0": (request(version="1.0"), 1, 201),
    "HTTP/1.0 keep-alive": (request(version="1.0", headers=("Connection: keep-alive",)), 1, 201),
    "HTTP/3.7": (request(version="3.7"), 1, 201),
    "HTTP/11": (request(version="11"), 1, 400),
    "connection close": (request(close=True), 1, 201),
    "connection list": (request(headers=("Connection: foo, close",)), 1, 201),
    "upgrade to h2c": (
        request(headers=("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
                         "HTTP2-Settings: AAMAAABkAAQAAP__")), 1, 201),
    "lower-case method": (request(method="post"), 1, 201),
    "two spaces": (request(method="POST "), 1, 400),
    "absolute target": (request("http://127.0.0.1:8080/v1/tasks"), 1, 201),
    "absolute target, other host": (request("http://evil.example/v1/tasks"), 1, 403),
    "absolute target, no address": (request("http://[x/v1/tasks"), 1, 403),
    "absolute target, no path": (request("http://127.0.0.1:8080"), 1, 404),
    "asterisk": (request("*", method="OPTIONS"), 1, 404),
    "options": (request(method="OPTIONS", body=b""), 1, 405),
    "get of what is posted": (request(method="GET", body=b"", length=False), 1, 405),
    "target not ASCII": (request("/v1/task-defs/\xe9"), 1, 400),
    "no host": (request(host=False), 1, 400),
    "empty host": (request(host=False, headers=("Host:",)), 1, 400),
    "two hosts": (request(headers=("Host: 127.0.0.1",)), 1, 400),
    "foreign host": (request(host=False, headers=("Host: evil.example",)), 1, 403),
    "localhost": (request(host=False, headers=("Host: LocalHost:1",)), 1, 201),
    "own origin": (request(headers=("Origin: http://127.0.0.1:8080",)), 1, 201),
    "foreign origin": (request(headers=("Origin: http://evil.example",)), 1, 403),
    "origin null": (request(headers=("Origin: null",)), 1, 403),
    "two origins": (request(headers=("Origin: http://127.0.0.1:8080",) * 2), 1, 403),
    "cross-site": (request(headers=("Sec-Fetch-Site: cross-site",)), 1, 403),
    "own request": (request(headers=("X-Plum-Origin: plumd",)), 1, 403),
    "forwarded": (request(headers=("X-Forwarded-For: 10.0.0.1",)), 1, 403),
    "no content type": (request(json=False), 1, 415),
    "form": (request(json=False, headers=("Content-Type: text/plain",)), 1, 415),
    "json with a charset": (
        request(json=False, headers=("Content-Type: application/json; charset=utf-8",)), 1, 201),
    "lenient route": (request("/v1/workers/heartbeat", json=False), 1, 201),
    "handler refuses": (request("/v1/refuse"), 1, 409),
    "handler refuses in a group": (request("/v1/group"), 1, 422),
    "handler fails": (request("/v1/fail"), 1, 500),
    "handler splits": (request("/v1/split"), 1, 500),
    "no content": (request("/v1/nothing") + request(), 2, 204),
    "huge head": (request(headers=("X-Extra: " + "a" * 20_000,)), 1, 431),
    "huge target": (request("/v1/tasks?" + "a" * 20_000), 1, 431),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 1, 400),
    "garbage after POST": (b"POST \x00\x01\x02\r\n\r\n", 1, 400),
    "empty lines first": (b"\r\n" + request(), 1, 400),
    "get": (look(), 1, 201),
    "get with a query": (look("?service=a&b=%C3%A9+z&c"), 1, 201),
    "get by its placeholder": (look("/x"), 1, 201),
    "get with a slash": (look("/"), 1, 404),
    "get with a length of none": (request("/v1/find", b"", method="GET"), 1, 201),
    "get with a body": (request("/v1/find", method="GET"), 1, 201),
    "get chunked": (look(headers=CHUNKED) + chunked(b"a"), 1, 201),
    "gets and posts": (look() + request() + look("?a=1") + request("/v1/none"), 4, 201),
    "get byte by byte": ([bytes([each]) for each in look(headers=("Connection: close",))], 1, 201),
    "get from elsewhere": (look(headers=("Sec-Fetch-Site: cross-site",)), 1, 403),
    "get of a foreign host": (look(host=False, headers=("Host: evil.example",)), 1, 403),
    "get without a host": (look(host=False), 1, 400),
    "get of HTTP/1.0": (look(version="1.0"), 1, 201),
    "get that expects": (look(headers=("Expect: 100-continue",)), 1, 201),
    "get of another path": (request("/v1/fin", b"", method="GET", length=False), 1, 404),
    "get with If-None-Match": (look(headers=('If-None-Match: "x"',)), 1, 201),
    "prefer": (request(headers=("Prefer: wait=1",)) + request(), 2, 201),
}


async def answers(served: Served, sent: bytes | list[bytes], count: int) -> list[Answer]:
    client = await served.connect()
    async with client.stream:
        for segment in [sent] if isinstance(sent, bytes) else sent:
            await client.send(segment)
        found: list[Answer] = []
        while len(found) < count:
            found.append(await client.answer())
            if found[-1].headers.get("connection") == "close":
                break       # it said so: whoever wants more asks again on another connection
        return found


def told(answer: Answer) -> tuple[int, bytes, dict[str, str]]:
    """What must be equal at both doors: all but the connection's own headers."""
    apart = ("connection", "date", "server")
    return answer.status, answer.body, {
        name: value for name, value in answer.headers.items() if name not in apart}


async def test_both_doors_answer_alike(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "plumd.api")
    wrong: list[str] = []

    async def compare(name: str) -> None:
        sent, count, status = CASES[name]
        with trio.move_on_after(10) as patience:
            by_front = [told(each) for each in await answers(front, sent, count)]
            by_quart = [told(each) for each in await answers(quart, sent, count)]
            # Quart's door may end the connection with an early answer, and says so in it.
            if not by_quart or by_front[:len(by_quart)] != by_quart:
                wrong.append(f"{name}: front {by_front!s:.900} quart {by_quart!s:.900}")
            elif by_front[0][0] != status:
                wrong.append(f"{name}: {by_front[0]!s:.900} instead of {status}")
        if patience.cancelled_caught:
            wrong.append(f"{name}: no answer")

    async with running(ROUTES) as front, running(cold(ROUTES)) as quart:
        async with trio.open_nursery() as nursery:
            for name in CASES:
                nursery.start_soon(compare, name)
    assert not wrong, "\n".join(wrong)


async def test_an_early_answer_is_not_cut_by_what_follows_it() -> None:
    """Whether it was cut depended on who ran first, so it is asked again and again."""
    sent, _, status = CASES["refused, then good"]
    async with running(cold(ROUTES)) as quart:
        for _ in range(100):
            assert [each.status for each in await answers(quart, sent, 1)] == [status]


async def test_what_is_hot_is_not_hypercorns(caplog: pytest.LogCaptureFixture) -> None:
    """The comparison above compares two things: hot answers have the front's reason phrase."""
    async with running(ROUTES) as front, running(cold(ROUTES)) as quart:
        for served, phrase in ((front, b"HTTP/1.1 201 Created\r\n"), (quart, b"HTTP/1.1 201 \r\n")):
            client = await served.connect()
            async with client.stream:
                for sent in (request("/v1/task-defs/x?action=run"), look("?service=a")):
                    await client.send(sent)
                    await client.more()
                    assert client.buffer.startswith(phrase)
                    await client.answer()
    assert not caplog.records


def test_hot_table_leaves_doubt_to_quart() -> None:
    table = HotTable([post("/v1/a/{id}"), post("/v1/a/b", hot=False), post("/v1/c/{x}/d"),
                      post("/v1/c/e/{y}", hot=False), post("/v1/two/{a}/{b}"),
                      post("/v1/rest/{key...}"), post("/v1/f")])
    hot = [b"/v1/a/x", b"/v1/f"]
    not_hot = [b"/v1/a/b", b"/v1/a/", b"/v1/a/x/y", b"/v1/c/e/d", b"/v1/c/z/d", b"/v1/two/1/2",
               b"/v1/rest/k", b"/v1/", b"", b"/", b"x/v1/f"]
    assert [table.find(b"POST ", path) is not None for path in hot] == [True, True]
    assert [path for path in not_hot if table.find(b"POST ", path) is not None] == []
    assert [path for path in hot if table.find(b"GET ", path) is not None] == []


async def test_same_head_twice_with_other_bodies() -> None:
    """Heads are remembered; bodies must not be."""
    async with running(ROUTES) as served:
        client = await served.connect()
        async with client.stream:
            for number in range(50):
                body = b'{"name":"%d"}' % (number % 10)
                await client.send(request("/v1/task-defs/a", body))
                answer = msgspec.json.decode((await client.answer()).body, type=dict[str, object])
                assert answer["body"] == body.decode()
                await client.send(request(f"/v1/task-defs/{number}", body))
                answer = msgspec.json.decode((await client.answer()).body, type=dict[str, object])
                assert answer["params"] == {"id": str(number)}


async def test_new_policy_counts_at_once() -> None:
    """Heads are remembered with the policy that judged them."""
    async with running(ROUTES) as served:
        client = await served.connect()
        async with client.stream:
            sent = request(host=False, headers=("Host: plum.example",))
            for names, status in ((frozenset[str](), 403), (frozenset({"plum.example"}), 201),
                                  (frozenset({"other.example"}), 403)):
                served.gate.policy = Policy(host_names=names)
                for _ in range(2):
                    await client.send(sent)
                    assert (await client.answer()).status == status


async def test_refusal_keeps_or_ends_the_connection() -> None:
    """A refused body that is not here yet must never be read as a request."""
    smuggled = request("/v1/tasks")
    async with running(ROUTES) as served:
        client = await served.connect()
        async with client.stream:
            await client.send(request(body=smuggled, json=False)[:-len(smuggled)])
            assert (await client.answer()).status == 415
            await client.send(smuggled)
            assert await client.at_end()


async def test_slow_body_is_told_and_ended() -> None:
    limits = msgspec.structs.replace(LIMITS, body_s=0.1)
    async with running(ROUTES, limits=limits) as front, running(cold(ROUTES),
                                                               limits=limits) as quart:
        answers = []
        for served in (front, quart):
            client = await served.connect()
            async with client.stream:
                await client.send(request()[:-3])
                answers.append(await client.answer())
                assert await client.at_end()
        assert told(answers[0]) == told(answers[1])
        assert answers[0].status == 408


async def test_idle_and_slow_heads_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    limits = msgspec.structs.replace(LIMITS, idle_s=0.2, head_s=0.1)
    async with running(ROUTES, limits=limits) as served:
        for start in (b"", b"POST /v1/tasks HTTP/1.1\r\nHos", request(),
                      request("/v1/task-defs/import"), b"GET / HTTP/1.1\r\nHos"):
            client = await served.connect()
            async with client.stream:
                await client.send(start)
                with trio.fail_after(10):
                    while await client.more():
                        pass
    assert not caplog.records


async def test_clients_that_leave_anywhere_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    """Cut inside the head, the body and the answer, by FIN and by RST, at both doors."""
    large = Response(body=b"x" * 4_000_000)

    async def much(_request: Request) -> Response:
        return large

    routes = [*ROUTES, post("/v1/much", much)]
    async with running(routes) as front, running(cold(routes)) as quart:
        for served in (front, quart):
            for sent in (b"", b"PO", request()[:40], request()[:-5], request("/v1/much"),
                         request("/v1/much") * 3):
                for reset in (False, True):
                    client = await served.connect()
                    await client.send(sent)
                    if reset:
                        reset_on_close(client.stream)
                    await client.stream.aclose()
            assert (await served.ask(request())).status == 201
    assert not caplog.records


async def test_waiting_request_ends_with_its_client() -> None:
    cancelled = trio.Event()
    started = trio.Event()

    async def wait(_request: Request) -> Response:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    routes = [post("/v1/embedded-workers/{id}/exchange", wait)]
    async with running(routes) as served:
        client = await served.connect()
        await client.send(request("/v1/embedded-workers/w/exchange",
                                  headers=("Prefer: wait=30",)))
        await started.wait()
        await client.stream.aclose()
        with trio.fail_after(10):
            await cancelled.wait()


async def test_waiting_request_keeps_what_is_sent_meanwhile() -> None:
    release = trio.Event()
    started = trio.Event()

    async def wait(_request: Request) -> Response:
        started.set()
        await release.wait()
        return Response(200, b'"late"')

    routes = [*ROUTES, post("/v1/wait", wait)]
    async with running(routes) as served:
        client = await served.connect()
        async with client.stream:
            await client.send(request("/v1/wait", headers=("Prefer: wait=30",)))
            await started.wait()
            await client.send(request("/v1/task-defs/kept")[:30])
            await trio.testing.wait_all_tasks_blocked()
            release.set()
            assert (await client.answer()).body == b'"late"'
            await client.send(request("/v1/task-defs/kept")[30:])
            assert b'"id":"kept"' in (await client.answer()).body


async def test_too_many_connections_are_turned_away() -> None:
    limits = msgspec.structs.replace(LIMITS, connections_max=2)
    async with running(ROUTES, limits=limits) as served:
        first, second = await served.connect(), await served.connect()
        await second.send(request())
        assert (await second.answer()).status == 201
        third = await served.connect()
        async with third.stream:
            answer = await third.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert await third.at_end()
        async with first.stream, second.stream:
            await first.send(request())
            assert (await first.answer()).status == 201


async def test_large_bodies_share_a_budget() -> None:
    gate = Gate(Policy(), body_bytes_max=250_000)
    body = b'"' + b"x" * 150_000 + b'"'
    async with running(ROUTES, gate=gate) as served:
        one, two = await served.connect(), await served.connect()
        async with one.stream, two.stream:
            await one.send(request(body=body)[:-1])
            await trio.testing.wait_all_tasks_blocked()
            await two.send(request(body=body))
            answer = await two.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            await one.send(body[-1:])
            assert (await one.answer()).status == 201
        for path in ("/v1/tasks", "/v1/task-defs/import"):
            assert (await served.ask(request(path, body))).status == 201    # all was given back


async def test_unix_socket_is_local(tmp_path: Path) -> None:
    path = str(tmp_path / "plumd.sock")
    stale = bind([f"unix:{path}"])
    with pytest.raises(OSError, match="somebody listens"):
        bind([f"unix:{path}"])
    stale[0].close()
    shutdown = trio.Event()
    gate = Gate(Policy())
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(partial(
            serve, build_app(ROUTES, gate), routes=ROUTES, gate=gate,
            sockets=bind([f"unix:{path}"]), stream_handler=no_stream, shutdown=shutdown))
        assert addresses == [f"unix:{path}"]
        for sent in (request(), request("/v1/task-defs/import")):
            client = Client(await trio.open_unix_socket(path))
            async with client.stream:
                await client.send(sent)
                answer = await client.answer()
                assert answer.status == 201
                assert b'"peer":""' in answer.body
        shutdown.set()


def test_bind_refuses_nonsense(tmp_path: Path) -> None:
    for spec in ("", "127.0.0.1", "127.0.0.1:x"):
        with pytest.raises(ValueError, match="no host:port"):
            bind([spec])
    plain = tmp_path / "file"
    plain.write_text("mine")
    with pytest.raises(OSError, match="no socket"):
        bind(["127.0.0.1:0", f"unix:{plain}"])
    assert plain.read_text() == "mine"
def test_what_is_held_is_not_bound_again(tmp_path: Path) -> None:
    path = tmp_path / "door"
    anywhere, unix = bind(["0.0.0.0:0", f"unix:{path}"])
    port = anywhere.getsockname()[1]
    specs = [f"127.0.0.1:{port}", f"0.0.0.0:{port}", f"unix:{path}", f"unix:{tmp_path}/./door"]
    with anywhere, unix:
        assert bind_beside([anywhere, unix], specs) == [anywhere, unix]
        held, other = bind_beside([anywhere], [f"unix:{path}2"])
        with other:
            assert (held, other.getsockname()) == (anywhere, f"{path}2")
        with pytest.raises(OSError, match="listens there"):
            bind_beside([anywhere], specs)


def test_a_name_with_two_addresses_has_one_port() -> None:
    both = bind(["localhost:0"])
    assert len({each.getsockname()[1] for each in both}) == 1
    assert all(address_of(each).startswith("http://") for each in both)
    for each in both:
        each.close()
