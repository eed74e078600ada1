"""The agent's HTTP/1.1 client: one kept connection for its calls, one of its own for each stream.

Small on purpose: an agent is to weigh little beside what it runs.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, final
from urllib.parse import urljoin, urlsplit

import httptools
import msgspec
import trio

from plumd.sdk.line import Address, LineClosed, Unreachable, connect

CALL_S: Final = 10.0
STALL_S: Final = 30.0
"""A download that gets nothing for so long is broken off."""
BODY_BYTES_MAX: Final = 32 << 20
RECEIVE_BYTES: Final = 64 << 10
ERROR_CHARS: Final = 500


class CallFailed(Exception):
    """No answer came. refused: the machine is there, and nobody listens on it."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Answer(msgspec.Struct, frozen=True):
    """What came back. headers: lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return 200 <= self.status < 300

    @property
    def problem(self) -> str:
        """What an answer that is no success says, for people."""
        with contextlib.suppress(msgspec.MsgspecError):
            said = msgspec.json.decode(self.body, type=_Problem)
            if said.code or said.detail:
                return f"{self.status} {said.code}: {said.detail}"[:ERROR_CHARS]
        return f"{self.status} {self.body[:200].decode(errors='replace')}".strip()


class _Problem(msgspec.Struct):
    code: str = ""
    detail: str = ""


class _Wire:
    """One connection and the answer that is read on it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.used = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self.headed = False
        self.done = False
        self.keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.headed = True

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.done = True
        self.keeps = self._parser.should_keep_alive()

    async def ask(self, head: bytes, body: bytes) -> int:
        """Send a request and read the head of its answer: its status. Raises CallFailed."""
        self._begin()
        try:
            await self.stream.send_all(head + body)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise CallFailed(f"the connection broke: {error.__cause__ or error}") from None
        while not self.headed:
            await self.more()
        self.used = True
        return int(self._parser.get_status_code())

    async def more(self) -> None:
        """Read on. Raises CallFailed when nothing more can come."""
        try:
            data = await self.stream.receive_some(RECEIVE_BYTES)
            if not data:
                until_end = (self.headed and "content-length" not in self.headers
                             and "transfer-encoding" not in self.headers)
                if until_end:
                    self.done = True
                    return
                raise CallFailed("the connection ended before the answer did")
            self._parser.feed_data(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise CallFailed(f"the connection broke: {error.__cause__ or error}") from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise CallFailed(f"what answers does not speak HTTP: {error}") from None


class Stream:
    """An answer that is read as it comes."""

    def __init__(self, status: int, wire: _Wire) -> None:
        self.status = status
        self.headers = wire.headers
        self._wire = wire

    async def chunks(self, stall_s: float = STALL_S) -> AsyncGenerator[bytes, None]:
        """Its body, piece by piece. Raises CallFailed."""
        wire = self._wire
        while True:
            pieces, wire.pieces = wire.pieces, []
            for piece in pieces:
                yield piece
            if wire.done:
                return
            try:
                with trio.fail_after(stall_s):
                    await wire.more()
            except trio.TooSlowError:
                raise CallFailed(f"nothing came for {stall_s:.0f} s") from None

    async def text(self, bytes_max: int = 4096) -> bytes:
        """The beginning of its body."""
        found = b""
        async for piece in self.chunks():
            found += piece
            if len(found) >= bytes_max:
                break
        return found[:bytes_max]


@final
class Http:
    """Calls to the controller at base, and to what absolute URLs name.

    token: sent to the controller alone.
    """

    def __init__(self, base: str, token: str = "") -> None:
        self.base = base.rstrip("/") + "/"
        self._token = token
        self._kept: _Wire | None = None
        self._lock = trio.Lock()
        self._calling: trio.CancelScope | None = None
        self._stale = False
        _address(self.base, "")

    async def call(self, method: str, path: str, value: object = None,
                   within_s: float = CALL_S) -> Answer:
        """One call to the controller; value: its body, as JSON. Raises CallFailed.

        Cancel: it may have been carried out.
        """
        body = b"" if value is None else msgspec.json.encode(value)
        async with self._lock:
            try:
                with trio.move_on_after(within_s) as self._calling:
                    return await self._call(method, urljoin(self.base, path), body)
            except BaseException:
                await self.close()
                raise
            finally:
                self._calling = None
            await self.close()
            raise CallFailed(f"no answer within {within_s:.0f} s")

    def hang_up(self) -> None:
        """The kept connection is of no use any more: a call that waits on it fails now, the next
        one dials. The network was away, and its own next try may lie many seconds ahead."""
        self._stale = True
        if self._calling is not None:
            self._calling.cancel()

    async def _call(self, method: str, url: str, body: bytes) -> Answer:
        head = self._head(method, url, len(body), ())
        if self._stale:
            self._stale = False
            await self.close()
        while True:
            wire, again = self._kept, self._kept is not None
            if wire is None:
                wire = self._kept = await self._open(url)
            try:
                status = await wire.ask(head, body)
            except CallFailed:
                if not again or wire.headed:
                    raise
                await self.close()          # it had been idle, and the far side closed it
                continue
            while not wire.done:
                await wire.more()
                if len(wire.pieces) * RECEIVE_BYTES > 2 * BODY_BYTES_MAX:
                    raise CallFailed("the answer is too long")
            answer = Answer(status, wire.headers, b"".join(wire.pieces))
            if not wire.keeps:
                await self.close()
            return answer

    @asynccontextmanager
    async def stream(self, url: str, headers: Sequence[tuple[str, str]] = ()
                     ) -> AsyncIterator[Stream]:
        """A GET whose answer is read as it comes, on a connection of its own. Raises CallFailed."""
        url = urljoin(self.base, url)
        with trio.move_on_after(CALL_S) as opening:
            wire = await self._open(url)
        if opening.cancelled_caught:
            raise CallFailed(f"no answer within {CALL_S:.0f} s")
        try:
            with trio.move_on_after(CALL_S) as asking:
                status = await wire.ask(self._head("GET", url, 0, headers), b"")
            if asking.cancelled_caught:
                raise CallFailed(f"no answer within {CALL_S:.0f} s")
            yield Stream(status, wire)
        finally:
            await trio.aclose_forcefully(wire.stream)

    async def _open(self, url: str) -> _Wire:
        try:
            stream = await connect(_address(url, ""), None)
        except ValueError as error:
            raise CallFailed(str(error)) from None
        except Unreachable as error:
            refused = isinstance(error.__cause__, ConnectionRefusedError)
            raise CallFailed(str(error), refused=refused or _all_refused(error)) from None
        except LineClosed as error:
            raise CallFailed(str(error)) from None
        return _Wire(stream)

    def _head(self, method: str, url: str, size: int,
              headers: Sequence[tuple[str, str]]) -> bytes:
        where = _address(url, "")
        lines = [f"{method} {where.path} HTTP/1.1", f"Host: {where.authority}",
                 "Accept-Encoding: identity", f"Content-Length: {size}",
                 *(f"{name}: {value}" for name, value in headers)]
        if size:
            lines.append("Content-Type: application/json")
        if self._token and url.startswith(self.base):
            lines.append(f"Authorization: Bearer {self._token}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def close(self) -> None:
        """Close the kept connection."""
        wire, self._kept = self._kept, None
        if wire is not None:
            await trio.aclose_forcefully(wire.stream)

    def own_address(self) -> str:
        """The address of this machine that the controller sees; "" when it cannot be told.

        It may have to ask for a name: call it in a thread.
        """
        where = _address(self.base, "")
        with contextlib.suppress(OSError):
            found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(found[0], socket.SOCK_DGRAM) as probe:
                probe.connect(found[4])
                return str(probe.getsockname()[0])
        return ""


def _all_refused(error: Unreachable) -> bool:
    """Whether each address that was tried refused the connection."""
    cause = error.__cause__
    inner = getattr(cause, "__cause__", None)
    return isinstance(inner, BaseExceptionGroup) and all(
        isinstance(one, ConnectionRefusedError) for one in inner.exceptions)


def _address(url: str, last: str) -> Address:
    """Where a URL leads. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http or https URL")
    secure = parts.scheme == "https"
    path = (parts.path or "/") + last + (f"?{parts.query}" if parts.query else "")
    return Address(parts.hostname, parts.port or (443 if secure else 80), secure,
                   parts.netloc.rpartition("@")[2], path, [])
