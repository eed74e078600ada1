"""Who is let in: tables of good and bad heads, and properties over any of them."""

from __future__ import annotations

from ipaddress import ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumd.api.admission import Policy, admit, peer_kind, split_host
from plumd.api.routes import Request, Response, Route
from plumd.errors import Forbidden, Malformed, PlumError, UnsupportedMedia


class Body(msgspec.Struct):
    """What the test routes read."""


async def nothing(_request: Request) -> Response:
    return Response(204)


ROUTE = Route("POST", "/v1/tasks", nothing, "x", "t", "p", body=Body)
OLD = msgspec.structs.replace(ROUTE, lenient=True, trusted=True)
RAW = msgspec.structs.replace(ROUTE, body=bytes)
BODILESS = msgspec.structs.replace(ROUTE, body=None)
HOME = Route("GET", "/", nothing, "x", "t", "p", navigable=True)
DOCS = Route("GET", "/docs", nothing, "x", "t", "p", navigable=True)
PLAIN = Policy()
NETS = (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
TRUSTING = Policy(trusted_networks=NETS)
NAMED = Policy(host_names=frozenset({"plum.example"}))
PROXIED = Policy(behind_proxy=True, host_names=frozenset({"plum.example"}))


def outcome(headers: dict[str, str], *, route: Route | None = ROUTE, method: str = "POST",
            peer: str = "127.0.0.1", policy: Policy = PLAIN, scheme: str = "http",
            ) -> type[PlumError] | None:
    try:
        admit(route, method, {"host": "127.0.0.1:8080", **headers}, peer, policy, scheme=scheme)
    except PlumError as error:
        return type(error)
    return None


@pytest.mark.parametrize(("host", "expected"), [
    ("127.0.0.1", None), ("127.0.0.1:8080", None), ("[::1]", None), ("[::1]:80", None),
    ("192.168.1.7:8080", None), ("[fe80::1%eth0]:80", None), ("localhost", None),
    ("LOCALHOST:65535", None),
    ("", Malformed), ("evil.example", Forbidden), ("a.localhost", Forbidden),
    ("localhost.", Forbidden), ("localhost.evil.example", Forbidden), ("plum.example", Forbidden),
    ("127.1", Forbidden), ("0x7f000001", Forbidden), ("2130706433", Forbidden),
    ("127.0.0.1:", Forbidden), ("127.0.0.1:x", Forbidden), ("127.0.0.1:99999", Forbidden),
    ("user@127.0.0.1", Forbidden), ("127.0.0.1/x", Forbidden), ("::1", Forbidden),
    ("[::1", Forbidden), ("[::1]x", Forbidden), ("[127.0.0.1]", Forbidden), (":80", Forbidden),
    ("127.0.0.1, evil.example", Forbidden), (" localhost", Forbidden),
])
def test_host(host: str, expected: type[PlumError] | None) -> None:
    assert outcome({"host": host}) is expected


def test_host_names_of_the_operator() -> None:
    for host in ("plum.example", "PLUM.example:8080"):
        assert outcome({"host": host}, policy=NAMED) is None
    for host in ("x.plum.example", "plum.example.", "plum.example.evil"):
        assert outcome({"host": host}, policy=NAMED) is Forbidden


@pytest.mark.parametrize(("origin", "host", "scheme", "expected"), [
    ("http://127.0.0.1:8080", "127.0.0.1:8080", "http", None),
    ("http://localhost", "localhost", "http", None),
    ("http://localhost:80", "localhost", "http", None),
    ("http://localhost", "localhost:80", "http", None),
    ("https://localhost", "localhost:443", "https", None),
    ("http://[::1]:1", "[::1]:1", "http", None),
    ("http://LOCALHOST", "localhost", "http", None),
    ("null", "localhost", "http", Forbidden),
    ("", "localhost", "http", Forbidden),
    ("http://", "localhost", "http", Forbidden),
    ("localhost", "localhost", "http", Forbidden),
    ("https://localhost", "localhost", "http", Forbidden),
    ("http://localhost", "localhost", "https", Forbidden),
    ("http://localhost:81", "localhost", "http", Forbidden),
    ("http://127.0.0.1", "localhost", "http", Forbidden),
    ("http://localhost/", "localhost", "http", Forbidden),
    ("http://localhost.evil.example", "localhost", "http", Forbidden),
    ("http://evil.example", "localhost", "http", Forbidden),
    ("http://localhost, http://localhost", "localhost", "http", Forbidden),
    ("file://", "localhost", "http", Forbidden),
    ("chrome-extension://localhost", "localhost", "http", Forbidden),
])
def test_origin(origin: str, host: str, scheme: str, expected: type[PlumError] | None) -> None:
    assert outcome({"host": host, "origin": origin}, scheme=scheme) is expected


def test_origin_behind_a_proxy_that_ends_tls() -> None:
    same = {"host": "plum.example", "origin": "https://plum.example"}
    assert outcome(same, policy=PROXIED) is None
    assert outcome({**same, "origin": "ftp://plum.example"}, policy=PROXIED) is Forbidden
    assert outcome({**same, "origin": "https://other.example"}, policy=PROXIED) is Forbidden


NAVIGATION = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
              "sec-fetch-dest": "document"}


@pytest.mark.parametrize(("headers", "route", "method", "expected"), [
    ({"sec-fetch-site": "same-origin"}, ROUTE, "POST", None),
    ({"sec-fetch-site": "none"}, ROUTE, "POST", None),
    ({"sec-fetch-site": "same-site"}, ROUTE, "POST", Forbidden),
    ({"sec-fetch-site": "cross-site"}, ROUTE, "POST", Forbidden),
    ({"sec-fetch-site": "cross-site"}, OLD, "POST", Forbidden),
    ({"sec-fetch-site": ""}, ROUTE, "POST", Forbidden),
    ({"sec-fetch-site": "same-origin, cross-site"}, ROUTE, "POST", Forbidden),
    ({"sec-fetch-site": "same-origin", "origin": "http://evil.example"}, ROUTE, "POST", Forbidden),
    (NAVIGATION, HOME, "GET", None),
    (NAVIGATION, DOCS, "GET", None),
    (NAVIGATION, DOCS, "HEAD", None),
    (NAVIGATION, HOME, "POST", Forbidden),
    (NAVIGATION, ROUTE, "GET", Forbidden),
    (NAVIGATION, None, "GET", Forbidden),
    ({**NAVIGATION, "sec-fetch-dest": "iframe"}, HOME, "GET", Forbidden),
    ({**NAVIGATION, "sec-fetch-mode": "no-cors"}, HOME, "GET", Forbidden),
    ({**NAVIGATION, "origin": "null"}, HOME, "GET", Forbidden),
])
def test_fetch_site(headers: dict[str, str], route: Route | None, method: str,
                    expected: type[PlumError] | None) -> None:
    assert outcome(headers, route=route, method=method) is expected


@pytest.mark.parametrize(("route", "headers", "expected"), [
    (ROUTE, {"content-length": "2"}, UnsupportedMedia),
    (ROUTE, {"content-length": "2", "content-type": "application/json"}, None),
    (ROUTE, {"content-length": "2", "content-type": "Application/JSON ; charset=utf-8"}, None),
    (ROUTE, {"content-length": "2", "content-type": "application/jsonx"}, UnsupportedMedia),
    (ROUTE, {"content-length": "2", "content-type": "text/plain"}, UnsupportedMedia),
    (ROUTE, {"content-length": "2", "content-type": "text/plain; application/json"},
     UnsupportedMedia),
    (ROUTE, {"content-length": "2", "content-type": "application/json, text/plain"},
     UnsupportedMedia),
    (ROUTE, {"content-length": "0"}, None),
    (ROUTE, {}, None),
    (ROUTE, {"transfer-encoding": "chunked"}, UnsupportedMedia),
    (OLD, {"content-length": "2", "content-type": "text/plain"}, None),
    (RAW, {"content-length": "2", "content-type": "application/zip"}, None),
    (BODILESS, {"content-length": "2"}, None),
    (None, {"content-length": "2"}, None),
])
def test_media(route: Route | None, headers: dict[str, str],
               expected: type[PlumError] | None) -> None:
    assert outcome(headers, route=route) is expected


@pytest.mark.parametrize(("peer", "kind"), [
    ("", "local"), ("127.0.0.1", "local"), ("127.9.9.9", "local"), ("::1", "local"),
    ("::ffff:127.0.0.1", "local"), ("10.1.2.3", "trusted"), ("::ffff:10.1.2.3", "trusted"),
    ("fd00::7", "trusted"), ("10.2.0.1", "stranger"), ("8.8.8.8", "stranger"),
    ("fe80::1%eth0", "stranger"), ("nonsense", "stranger"),
])
def test_peers(peer: str, kind: str) -> None:
    assert peer_kind(peer, NETS).value == kind


def test_trusted_networks_open_trusted_routes_only() -> None:
    assert outcome({}, route=OLD, peer="10.1.2.3", policy=TRUSTING) is None
    assert outcome({}, route=None, peer="10.1.2.3", policy=TRUSTING) is None
    assert outcome({}, route=ROUTE, peer="10.1.2.3", policy=TRUSTING) is Forbidden
    assert outcome({}, route=OLD, peer="10.2.2.3", policy=TRUSTING) is Forbidden
    assert outcome({}, route=OLD, peer="10.1.2.3", policy=PLAIN) is Forbidden
    assert outcome({"origin": "http://evil.example"}, route=OLD, peer="10.1.2.3",
                   policy=TRUSTING) is Forbidden


@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-host"])
def test_behind_a_proxy_loopback_is_not_local(name: str) -> None:
    for peer in ("127.0.0.1", ""):
        assert outcome({name: "8.8.8.8"}, peer=peer) is Forbidden
        assert outcome({name: "8.8.8.8"}, peer=peer, policy=PROXIED) is None
    # And it makes nobody local.
    assert outcome({name: "127.0.0.1"}, peer="8.8.8.8", policy=PROXIED) is Forbidden


def test_own_requests_are_refused() -> None:
    assert outcome({"x-plum-origin": "plumd"}) is Forbidden
    assert outcome({"x-plum-origin": ""}, route=OLD) is Forbidden


HEADER = st.sampled_from([
    "origin", "host", "sec-fetch-site", "sec-fetch-mode", "content-type", "content-length",
    "forwarded", "x-plum-origin", "transfer-encoding"])
VALUE = st.text(max_size=30) | st.sampled_from([
    "http://127.0.0.1:8080", "127.0.0.1:8080", "null", "same-origin", "application/json", "[::1]",
    "localhost", "http://localhost"])


@given(st.dictionaries(HEADER, VALUE), st.sampled_from([ROUTE, OLD, HOME, None]),
       st.sampled_from(["", "127.0.0.1", "8.8.8.8", "10.1.1.1"]))
def test_any_head_is_judged(headers: dict[str, str], route: Route | None, peer: str) -> None:
    """Nothing but our errors comes out, and what passes names no other origin or site."""
    result = outcome(headers, route=route, peer=peer, policy=TRUSTING)
    if result is None:
        assert peer != "8.8.8.8"
        host = headers.get("host", "127.0.0.1:8080")
        if "origin" in headers:
            assert headers["origin"].lower().partition("://")[2].split(":")[0] == (
                host.lower().split(":")[0])
        assert headers.get("sec-fetch-site", "none") in ("none", "same-origin") or route is HOME


@given(st.text(max_size=40))
def test_split_host_takes_only_hosts(text: str) -> None:
    parts = split_host(text)
    if parts is not None:
        name, port = parts
        bracketed = f"[{name}]" if text.startswith("[") else name
        assert text.lower() in (bracketed, f"{bracketed}:{port}")
