"""The HTTP/1.1 client of all calls that plumd makes: by h11 over Trio's streams.

Where a call may go is decided on addresses, not on names: a name is resolved once, every address
that it has is checked, and the connection is made to an address that was checked. So a name that
changes between check and connect (DNS rebinding), a redirect (none is followed) or an odd way of
writing an address (0x7f.1, 2130706433, ::ffff:127.0.0.1) leads nowhere else.

A call is never sent twice. The one repetition is that of a call of which not a single byte was
taken by a kept connection; it goes out on a fresh one.

Source: RFC 9112 section 9 (connections), RFC 9110 section 9.2.2 (no retry of unsafe methods).
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias

import h11
import msgspec
import trio

import plumd
from plumd.executors.kept import Kept, Place
from plumd.executors.targets import CallFailed, Policy, Target, is_literal, parse, refusal

Headers: TypeAlias = Sequence[tuple[str, str]]
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""(name, port) -> its addresses as text; raises OSError."""

ORIGIN_HEADER: Final = "x-plum-origin"
"""On each of our calls; plumd's own API refuses it, so no call can come back to us."""
ORIGIN_VALUE: Final = "plumd"

BODY_BYTES_MAX: Final = 16 << 20
HEAD_BYTES_MAX: Final = 64 << 10
RECEIVE_BYTES: Final = 64 << 10
CONNECT_S: Final = 5.0
KEEP_S: Final = 4.0
"""Idle connections are closed before common servers do it (5 s), so that calls seldom meet one
that is being closed at the other end."""
CALLS_MAX: Final = 1024
CALLS_PER_ORIGIN_MAX: Final = 256
RESOLVERS: Final = 16


class Answer(msgspec.Struct, frozen=True):
    """What came back. headers: lower-case names; of equal names the first."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class Line:
    """One connection, for one call at a time."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self.socket = (stream if isinstance(stream, trio.SocketStream)
                       else stream.transport_stream).socket
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        self.sent = 0
        """Bytes of the present call that were taken from us."""
        self.whole = False
        """Whether the present call was taken whole."""
        self.expires = 0.0

    def close(self) -> None:
        """Close it, at once."""
        self.socket.close()

    async def exchange(self, request: h11.Request, body: bytes,
                       enough: int | None = None) -> Answer:
        """Send a call and read its answer, or more than `enough` bytes of it. Raises: CallFailed.

        Cancel: anywhere; the connection is then of no more use.
        """
        self.sent, self.whole = 0, False
        data = self.http.send(request) or b""
        if body:
            data += self.http.send(h11.Data(data=body)) or b""
        data += self.http.send(h11.EndOfMessage()) or b""
        try:
            await self._send(data)
        except (OSError, trio.BrokenResourceError) as error:
            if not self.sent:
                raise CallFailed("unreachable", f"the connection broke: {error}") from error
            # A server may refuse a large body by answering early; what it said is still there.
        return await self._receive(enough)

    async def _send(self, data: bytes) -> None:
        if isinstance(self.stream, trio.SocketStream):
            left = memoryview(data)
            while left:
                taken = await self.socket.send(left)
                self.sent += taken
                left = left[taken:]
        else:
            self.sent = len(data)
            await self.stream.send_all(data)
        self.whole = True

    async def _receive(self, enough: int | None) -> Answer:
        head: h11.Response | None = None
        body = bytearray()
        ended = False
        while True:
            try:
                event = self.http.next_event()
            except h11.RemoteProtocolError as error:
                if ended:
                    raise self._lost("it was closed before the answer was whole") from None
                raise CallFailed("bad_answer", f"the answer is no HTTP: {error}") from None
            if event is h11.NEED_DATA:
                try:
                    data = await self.stream.receive_some(RECEIVE_BYTES)
                except (OSError, trio.BrokenResourceError) as error:
                    raise self._lost(str(error.__cause__ or error)) from error
                ended = not data
                self.http.receive_data(bytes(data))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if enough is not None and len(body) > enough:
                    return _answer(head, body)
                if len(body) > BODY_BYTES_MAX:
                    raise CallFailed("answer_too_large",
                                     f"the answer is larger than {BODY_BYTES_MAX} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return _answer(head, body)
            elif not isinstance(event, h11.InformationalResponse):
                raise CallFailed("bad_answer", "the server switched the protocol")

    def _lost(self, why: str) -> CallFailed:
        if self.whole:
            return CallFailed("connection_lost", f"the connection was lost during the call: {why}")
        return CallFailed("unreachable", f"the connection broke before the call was sent: {why}")

    def renew(self) -> bool:
        """Make it ready for the next call; False when it cannot be used again."""
        http = self.http
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            return False
        if http.trailing_data[0] or not self.whole:
            return False
        http.start_next_cycle()
        return True


def _answer(head: h11.Response | None, body: bytearray) -> Answer:
    assert head is not None, "h11 tells of no body whose message has not begun"
    headers: dict[str, str] = {}
    for name, value in head.headers:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return Answer(head.status_code, head.reason.decode("latin-1"), headers, bytes(body))


async def resolve_by_system(limiter: trio.CapacityLimiter, host: str, port: int) -> list[str]:
    """A name's addresses, as the system resolves it. Raises: OSError.

    Cancel: the thread is left behind; limiter bounds how many there can be.
    """
    found = await trio.to_thread.run_sync(
        partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM),
        abandon_on_cancel=True, limiter=limiter)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class Client:
    """Calls out, over kept connections. policy may be replaced at any time."""

    def __init__(self, policy: Policy | None = None, *, resolve: Resolve | None = None,
                 tls: ssl.SSLContext | None = None, connect_s: float = CONNECT_S) -> None:
        self.policy = policy or Policy()
        self.connect_s = connect_s
        self._tls = tls
        self._resolve: Resolve = resolve or partial(
            resolve_by_system, trio.CapacityLimiter(RESOLVERS))
        self._kept: Kept[Line] = Kept(CALLS_PER_ORIGIN_MAX, KEEP_S)
        self._calls = trio.CapacityLimiter(CALLS_MAX)

    async def run(self) -> None:
        """Close connections that nobody used for a while, and all of them at the end."""
        await self._kept.run()

    def close(self) -> None:
        """Close all idle connections."""
        self._kept.close()

    @property
    def idle(self) -> int:
        """How many connections are kept for the next call."""
        return self._kept.count

    async def post(self, url: str, body: bytes, headers: Headers = ()) -> Answer:
        """POST JSON; see `request`."""
        return await self.request("POST", url, body, (("content-type", "application/json"),
                                                      *headers))

    async def request(self, method: str, url: str, body: bytes = b"",
                      headers: Headers = (), *, enough: int | None = None) -> Answer:
        """Make one call; whatever its status, an answer is an answer. Of a body larger than
        `enough` bytes the rest is not read.

        Raises: CallFailed.
        Cancel: anywhere; the connection is closed, and what the far side does is not known.
        """
        target = parse(url)
        origin = (target.scheme, target.host, target.port)
        with self._kept.calling(origin) as place:
            async with place.limiter, self._calls:
                return await self._carry(place, target, request_of(
                    method, target, len(body), headers), body, enough)

    async def _carry(self, place: Place[Line], target: Target, request: h11.Request,
                     body: bytes, enough: int | None) -> Answer:
        while True:
            line = self._take_idle(place)
            fresh = line is None
            if line is None:
                line = await self._connect(target)
            kept = False
            try:
                answer = await line.exchange(request, body, enough)
                kept = line.renew() and self._kept.keep(place, line)
                return answer
            except CallFailed:
                if fresh or line.sent:
                    raise
            finally:
                if not kept:
                    line.close()

    def _take_idle(self, place: Place[Line]) -> Line | None:
        while (line := self._kept.take(place)) is not None:
            # A kept connection on which there is something to read was closed, or is confused.
            if not line.socket.is_readable():
                return line
            line.close()
        return None

    # ------------------------------------------------------------ connecting

    async def probe(self, host: str, port: int) -> None:
        """Connect and hang up: whether somebody listens there. Raises: CallFailed."""
        (await self._connect(Target("http", host, port, "/"))).close()

    async def _connect(self, target: Target) -> Line:
        return await self._secured(await self.open(target), target)

    async def open(self, target: Target) -> trio.SocketStream:
        """A plain connection to an address that was checked. Raises: CallFailed."""
        addresses = await self._checked_addresses(target)
        share_s = max(1.0, self.connect_s / len(addresses))
        at = why = ""
        for address in addresses:
            at = "" if address == target.host else f"{address}: "
            try:
                with trio.fail_after(share_s):
                    stream = await _connected(address, target.port)
            except trio.TooSlowError:
                why = "no answer"
            except OSError as error:
                why = _words(error)
            else:
                return stream
        raise CallFailed("unreachable", f"{target.authority} cannot be reached: {at}{why}")

    async def _checked_addresses(self, target: Target) -> Sequence[str]:
        addresses: Sequence[str] = [target.host]
        if not is_literal(target.host):
            try:
                with trio.fail_after(self.connect_s):
                    addresses = await self._resolve(target.host, target.port)
            except trio.TooSlowError:
                raise CallFailed("unreachable", f"the name {target.host} was not resolved within "
                                 f"{self.connect_s:g} s") from None
            except (OSError, UnicodeError) as error:
                raise CallFailed("unreachable", f"the name {target.host} cannot be resolved: "
                                 f"{error}") from None
        if not addresses:
            raise CallFailed("unreachable", f"the name {target.host} has no address")
        for address in addresses:
            if why := refusal(address, target.port, self.policy):
                raise CallFailed("refused_address",
                                 f"{target.authority} ({address}) is not called: {why}")
        return addresses

    async def _secured(self, stream: trio.SocketStream, target: Target) -> Line:
        if target.scheme == "http":
            return Line(stream)
        if self._tls is None:
            self._tls = ssl.create_default_context()
        secured = trio.SSLStream(stream, self._tls, server_hostname=target.host,
                                 https_compatible=True)
        done = False
        try:
            with trio.fail_after(self.connect_s):
                await secured.do_handshake()
            done = True
        except trio.TooSlowError:
            raise CallFailed("unreachable", f"{target.authority}: no TLS handshake within "
                             f"{self.connect_s:g} s") from None
        except trio.BrokenResourceError as error:
            raise CallFailed("unreachable", f"{target.authority}: no TLS: "
                             f"{error.__cause__ or error}") from None
        finally:
            if not done:
                stream.socket.close()
        return Line(secured)


def request_of(method: str, target: Target, size: int, headers: Headers) -> h11.Request:
    """The request's head. Raises: CallFailed (bad_url) for what no header may say."""
    fields = [("host", target.authority), ("user-agent", f"plumd/{plumd.__version__}"),
              ("accept", "*/*"), ("accept-encoding", "identity"), (ORIGIN_HEADER, ORIGIN_VALUE),
              *headers]
    if size or method not in ("GET", "HEAD"):
        fields.append(("content-length", str(size)))
    try:
        return h11.Request(method=method, target=target.path, headers=[
            (name.encode("ascii"), value.encode("latin-1")) for name, value in fields])
    except (h11.LocalProtocolError, UnicodeError) as error:
        raise CallFailed("bad_url", f"the request cannot be written: {error}") from None


async def _connected(address: str, port: int) -> trio.SocketStream:
    """A connection to one address, without the race of many that Trio's own function prepares."""
    line = trio.socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        await line.connect((address, port))     # Cancel: it closes the socket by itself
    except OSError:
        line.close()
        raise
    return trio.SocketStream(line)


def _words(error: OSError) -> str:
    # What Trio writes beside the number names the address once more.
    return os.strerror(error.errno) if error.errno else str(error)
