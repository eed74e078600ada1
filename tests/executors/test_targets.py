"""Where calls may go: addresses in all their spellings, and URLs."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from plumd.executors.targets import CallFailed, Policy, parse, refusal

NETWORKS = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00:1::/32"))


@pytest.mark.parametrize("address", [
    "127.0.0.1", "127.8.9.10", "10.1.2.3", "192.168.0.9", "172.16.4.4", "8.8.8.8", "::1",
    "fd12:3456::1", "2606:4700::1111", "::ffff:10.0.0.1", "100.64.0.1",
])
def test_loopback_private_and_public_addresses_may_be_called(address: str) -> None:
    assert refusal(address, 80, Policy()) == ""


@pytest.mark.parametrize(("address", "word"), [
    ("169.254.169.254", "metadata"), ("169.254.0.1", "link-local"), ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local"), ("febf::9", "link-local"),
    ("::ffff:169.254.169.254", "link-local"), ("2002:a9fe:a9fe::1", "link-local"),
    ("64:ff9b::a9fe:a9fe", "link-local"), ("::169.254.169.254", "link-local"),
    ("100.100.100.200", "metadata"), ("fd00:ec2::254", "metadata"),
    ("168.63.129.16", "metadata"), ("::ffff:100.100.100.200", "metadata"),
    ("224.0.0.1", "multicast"), ("239.1.2.3", "multicast"), ("ff02::1", "multicast"),
    ("0.0.0.0", "unspecified"), ("::", "unspecified"), ("::ffff:0.0.0.0", "unspecified"),
    ("0.1.2.3", "reserved"), ("255.255.255.255", "broadcast"), ("240.0.0.1", "reserved"),
    ("not an address", "no IP address"),
])
def test_addresses_that_are_never_called(address: str, word: str) -> None:
    assert word in refusal(address, 80, Policy())
    # An operator's list narrows, it does not open.
    everything = Policy((ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")))
    assert word in refusal(address, 80, everything)


@pytest.mark.parametrize(("address", "allowed"), [
    ("10.9.9.9", True), ("::ffff:10.9.9.9", True), ("fd00:1::5", True),
    ("192.168.1.1", False), ("127.0.0.1", False), ("fd00:2::5", False), ("11.0.0.1", False),
])
def test_the_operators_networks_are_the_only_ones(address: str, allowed: bool) -> None:
    why = refusal(address, 80, Policy(NETWORKS))
    assert (why == "") is allowed
    assert allowed or "outgoing_networks" in why


@pytest.mark.parametrize(("address", "port", "own"), [
    ("127.0.0.1", 8080, True), ("::ffff:127.0.0.1", 8080, True), ("127.0.0.1", 8081, False),
    ("127.0.0.2", 8080, False), ("10.0.0.1", 8080, False),
])
def test_the_daemons_own_listener_is_never_called(address: str, port: int, own: bool) -> None:
    policy = Policy(listeners=frozenset({("127.0.0.1", 8080)}))
    assert ("daemon's own" in refusal(address, port, policy)) is own


@pytest.mark.parametrize("listener", ["0.0.0.0", "::"])
def test_a_wildcard_listener_owns_every_address_of_the_machine(listener: str) -> None:
    policy = Policy(listeners=frozenset({(listener, 8080)}))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))     # sends nothing; asks for the way there
        mine = probe.getsockname()[0]
    for address in ("127.0.0.1", "127.5.5.5", "::1", mine):
        assert "daemon's own" in refusal(address, 8080, policy)
        assert refusal(address, 8081, policy) == ""
    assert refusal("192.0.2.77", 8080, policy) == ""


@pytest.mark.parametrize(("url", "host", "port", "path", "authority"), [
    ("http://h/", "h", 80, "/", "h"), ("https://h", "h", 443, "/", "h"),
    ("http://h:8443/a/b?c=d&e=%20", "h", 8443, "/a/b?c=d&e=%20", "h:8443"),
    ("HTTP://Host.Name:80/x#part", "host.name", 80, "/x", "host.name"),
    ("http://[::1]:9/", "::1", 9, "/", "[::1]:9"),
    ("http://10.0.0.1:1/ä", "10.0.0.1", 1, "/%C3%A4", "10.0.0.1:1"),
    ("http://bücher.example/", "xn--bcher-kva.example", 80, "/", "xn--bcher-kva.example"),
    ("http://2130706433/", "2130706433", 80, "/", "2130706433"),
])
def test_urls_in_parts(url: str, host: str, port: int, path: str, authority: str) -> None:
    target = parse(url)
    assert (target.host, target.port, target.path) == (host, port, path)
    assert target.authority == authority


@pytest.mark.parametrize("url", [
    "", "h", "ftp://h/", "file:///etc/passwd", "gopher://h/", "http://", "http:///x",
    "http://user:pw@h/", "http://h@10.0.0.1/", "http://h:0/", "http://h:65536/", "http://h:x/",
    "http://h /", "http://h/\r\nX: y", "http://h\\@evil/", "http://[fe80::1%25eth0]/",
    "http://[::1/", "http://-h/", "http://h,i/", "http://\x7fh/", "http://h/\x00",
])
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(CallFailed) as caught:
        parse(url)
    assert caught.value.code == "bad_url"
    assert not caught.value.retryable
