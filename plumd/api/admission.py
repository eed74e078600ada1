"""Who may ask for what: one pure function that every door calls before anything else happens.

A daemon that runs commands must not be steered by a web page that the user happens to look at.
Browsers tell on themselves: by Host (a DNS-rebound name), by Origin and by Sec-Fetch-Site. Programs
send neither of the last two, so nothing is lost by refusing what looks cross-site. Bodies of our
own routes must be declared as JSON, which an HTML form cannot do.

Source: Fetch Metadata Request Headers (W3C); RFC 6454 (Origin); RFC 9110 section 7.2 (Host).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Final

import msgspec

from plumd.api.routes import JSON, Route
from plumd.errors import Forbidden, Malformed, UnsupportedMedia

PLUM_ORIGIN: Final = "x-plum-origin"
"""Header that plumd's own outgoing requests carry; its API refuses them, so no request can loop."""

FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


class Policy(msgspec.Struct, frozen=True):
    """What the operator allows beside loopback.

    host_names: names that clients may use for this daemon, lower case, without a port.
    trusted_networks: their members may use the routes marked trusted, without a token.
    behind_proxy: forwarded headers on a local connection are expected; the proxy guards the door.
    """

    host_names: frozenset[str] = frozenset()
    trusted_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    behind_proxy: bool = False


class PeerKind(Enum):
    """Where a client is, as far as admission cares."""

    LOCAL = "local"
    TRUSTED = "trusted"
    STRANGER = "stranger"


def admit(route: Route | None, method: str, headers: Mapping[str, str], peer: str,
          policy: Policy, *, scheme: str = "http") -> None:
    """Let a request pass, or say why not.

    route: None when no route matches; the answer will be 404 or 405.  headers: lower-case names.
    peer: the client's address, "" for a unix socket.  scheme: of the connection.
    Raises Forbidden, Malformed (no Host) or UnsupportedMedia.
    """
    _check_peer(route, headers, peer, policy)
    host = headers.get("host", "")
    if not _host_allowed(host, policy.host_names):
        if not host:
            raise Malformed("the Host header is missing", field="Host")
        raise Forbidden("the Host header names neither an address, nor localhost, nor a name that "
                        "this daemon was given", field="Host")
    if "origin" in headers:
        _check_origin(headers["origin"], host, policy, scheme)
    if "sec-fetch-site" in headers:
        _check_fetch_site(route, method, headers)
    if PLUM_ORIGIN in headers:
        raise Forbidden("the daemon does not answer its own requests", field="X-Plum-Origin")
    if route is not None and announces_body(headers):
        check_media(route, headers)


def announces_body(headers: Mapping[str, str]) -> bool:
    """Whether a request's head says that a body follows."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def check_media(route: Route, headers: Mapping[str, str]) -> None:
    """Raises UnsupportedMedia when a JSON body is not declared as one.

    Old clients' routes parse whatever comes; routes of raw bytes or without a body do not care.
    """
    if route.lenient or route.body is None or route.body is bytes:
        return
    declared = headers.get("content-type", "")
    if declared != JSON and declared.partition(";")[0].strip().lower() != JSON:
        raise UnsupportedMedia("this route demands Content-Type: application/json",
                               field="Content-Type")


def _check_peer(route: Route | None, headers: Mapping[str, str], peer: str,
                policy: Policy) -> None:
    kind = peer_kind(peer, policy.trusted_networks)
    if kind is PeerKind.LOCAL:
        if not policy.behind_proxy:
            for name in FORWARDED:
                if name in headers:
                    raise Forbidden("this looks like a proxy in front of the daemon, so the client "
                                    "is not local; configure the proxy to let it in", field=name)
    elif kind is PeerKind.STRANGER:
        raise Forbidden("clients of this address are not let in")
    elif route is not None and not route.trusted:
        raise Forbidden("this route is not open to the trusted network")


@lru_cache(maxsize=4096)
def peer_kind(peer: str, trusted: tuple[IPv4Network | IPv6Network, ...]) -> PeerKind:
    """Where a peer's address lies; "" is a unix socket."""
    if not peer:
        return PeerKind.LOCAL
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return PeerKind.STRANGER
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return PeerKind.LOCAL
    inside = any(address.version == net.version and address in net for net in trusted)
    return PeerKind.TRUSTED if inside else PeerKind.STRANGER


@lru_cache(maxsize=1024)
def _host_allowed(host: str, names: frozenset[str]) -> bool:
    parts = split_host(host)
    if parts is None:
        return False
    name = parts[0]
    if name == "localhost" or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def split_host(host: str) -> tuple[str, str] | None:
    """(name in lower case, port or "") of a Host header; None when it is none.

    An IPv6 address comes back without its brackets.
    """
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        if not bracket or ":" not in name or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
    else:
        name, colon, port = host.partition(":")
        if colon and not port:
            return None
    if not name or (port and not _is_port(port)):
        return None
    return name.lower(), port


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535


def _check_origin(origin: str, host: str, policy: Policy, scheme: str) -> None:
    origin_scheme, separator, authority = origin.partition("://")
    same = (
        bool(separator)
        # A proxy that ends TLS speaks plain HTTP to us, so behind one either scheme is ours.
        and (origin_scheme == scheme
             or (policy.behind_proxy and origin_scheme in ("http", "https")))
        and _with_port(authority, origin_scheme) == _with_port(host, origin_scheme)
        and split_host(authority) is not None
    )
    if not same:
        raise Forbidden("requests from pages of another origin are refused", field="Origin")


def _with_port(authority: str, scheme: str) -> tuple[str, str] | None:
    parts = split_host(authority)
    if parts is None:
        return None
    default = "443" if scheme == "https" else "80"
    return parts[0], parts[1].lstrip("0") or default


def _check_fetch_site(route: Route | None, method: str, headers: Mapping[str, str]) -> None:
    if headers["sec-fetch-site"] in ("same-origin", "none"):
        return
    opens_page = (
        method in ("GET", "HEAD")
        and route is not None and route.navigable
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest", "document") == "document"
        and "origin" not in headers
    )
    if not opens_page:
        raise Forbidden("requests from pages of another site are refused", field="Sec-Fetch-Site")
