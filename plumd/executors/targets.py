"""Pure but for one look at the machine's own addresses: where plumd's calls may go.

Decided on addresses, not on names; see outgoing.py, which connects to nothing else than what was
checked here.

Source: RFC 6890 (special-purpose addresses), RFC 4291, RFC 6052 (IPv4 inside IPv6), RFC 3986.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, TypeAlias
from urllib.parse import quote, urlsplit

import msgspec

Address: TypeAlias = IPv4Address | IPv6Address

MESSAGE_CHARS_MAX: Final = 1_000
METADATA: Final = frozenset(ipaddress.ip_address(text) for text in (
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"))
"""Cloud metadata services that do not lie in 169.254/16."""
THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")
NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
COMPATIBLE: Final = ipaddress.ip_network("::/96")

_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9.])?")
_FORBIDDEN_CHARS: Final = re.compile(r"[\x00-\x20\x7f\\]")


class CallFailed(Exception):
    """A call that got no answer.

    code: bad_url, refused_address, unreachable (the far side cannot have had the whole call),
    connection_lost (it had it, and nobody knows what came of it), bad_answer, answer_too_large.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message[:MESSAGE_CHARS_MAX]      # it may repeat what the far side said
        super().__init__(self.message)

    @property
    def reached(self) -> bool:
        """Whether the far side can have had the call."""
        return self.code not in ("bad_url", "refused_address", "unreachable")

    @property
    def retryable(self) -> bool:
        """Whether the same call may fare better later."""
        return self.code in ("unreachable", "connection_lost", "bad_answer")


class Policy(msgspec.Struct, frozen=True):
    """Where calls may go.

    networks: when not empty, only there.  listeners: (address, port) of plumd's own doors, where
    calls never go; 0.0.0.0 and :: stand for every address of this machine.
    """

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    listeners: frozenset[tuple[str, int]] = frozenset()


def refusal(text: str, port: int, policy: Policy) -> str:
    """Why this address may not be called, "" when it may."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "it is no IP address"
    for each in (address, *_carried_inside(address)):
        if why := _never(each):
            return why
    plain = _plain(address)
    if policy.networks and not any(plain.version == net.version and plain in net
                                   for net in policy.networks):
        return "it lies outside outgoing_networks"
    if any(port == own_port and _is_own(plain, own) for own, own_port in policy.listeners):
        return "it is this daemon's own"
    return ""


def _plain(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _carried_inside(address: Address) -> list[Address]:
    """The IPv4 addresses that an IPv6 address stands for on some way."""
    if isinstance(address, IPv4Address):
        return []
    found: list[Address] = [each for each in (address.ipv4_mapped, address.sixtofour)
                            if each is not None]
    if address.teredo is not None:
        found += address.teredo
    number = int(address)
    # ::1 and its like are no IPv4 addresses in disguise.
    if address in NAT64 or (address in COMPATIBLE and number > 0xFFFF):
        found.append(IPv4Address(number & 0xFFFFFFFF))
    return found


def _never(address: Address) -> str:
    if address in METADATA or address.is_link_local:
        return "it is a link-local or metadata address"
    if address.is_multicast:
        return "it is a multicast address"
    if address.is_unspecified:
        return "it is the unspecified address"
    if isinstance(address, IPv4Address) and (address.is_reserved or address in THIS_NETWORK):
        return "it is a reserved or broadcast address"
    return ""


def _is_own(address: Address, listener: str) -> bool:
    listens = _plain(ipaddress.ip_address(listener))
    if not listens.is_unspecified:
        return address == listens
    if address.is_loopback:
        return True
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))       # only an address of this machine can be bound
        except OSError:
            return False
    return True


class Target(msgspec.Struct, frozen=True):
    """An URL in parts. path: what the request line says, with the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else (
            f"{host}:{self.port}")


def parse(url: str) -> Target:
    """The parts of an http or https URL. Raises: CallFailed (bad_url)."""
    bad = partial(CallFailed, "bad_url")
    if _FORBIDDEN_CHARS.search(url):
        raise bad("the URL has a space, a control character or a backslash in it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise bad(f"the URL cannot be read: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise bad("the URL does not begin with http:// or https://")
    if "@" in parts.netloc:
        raise bad("the URL has a user name in it")
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError:
            raise bad("the URL's host is no name") from None
    if not (_HOST.fullmatch(host) or (is_literal(host) and "%" not in host)):
        raise bad("the URL's host is no name and no address")
    port = (443 if parts.scheme == "https" else 80) if port is None else port
    if not 0 < port < 65536:
        raise bad("the URL's port is not in 1 .. 65535")
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~") or "/"
    if parts.query:
        path += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    return Target(parts.scheme, host, port, path)


def is_literal(host: str) -> bool:
    """Whether a host is an address as it is usually written."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
