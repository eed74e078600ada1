"""What is sent and what comes back, without a socket: both clients are thin halves around this.

A call of the API is a generator. It yields what is to be sent (Ask) or waited for (Pause), is
given the answer, or has the trouble thrown into it, and returns what the caller wanted. So
building, decoding, waiting and retrying stand here and in calls.py once, for the blocking client
and for the one under Trio.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from plumd.sdk.headers import sendable

T = TypeVar("T")
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]
Parameters: TypeAlias = Mapping[str, str | int | None]

URL_DEFAULT: Final = "http://127.0.0.1:8080"
NOTHING: Final[JsonObject] = {}
"""No payload. It is left out of requests, because it is this very object."""
ANSWER_S: Final = 30.0
CONNECT_S: Final = 10.0
RETRY_S_FIRST: Final = 0.2
RETRY_S_MAX: Final = 2.0
PATIENCE_S: Final = 60.0
"""How long waiting goes on while nobody answers; a restart of the daemon is shorter."""
SILENCE_S: Final = 40.0
"""An event stream is never that long without a word; the daemon says something every 15 s."""


class ClientError(Exception):
    """Why a request did not do what it was for."""


class ProblemError(ClientError):
    """The daemon refused. code: stable, see docs/errors.md.  field: what the trouble is about.

    document: the whole problem document, for the members that only some codes have.
    """

    def __init__(self, status: int, code: str, detail: str, field: str | None = None,
                 retry_after_s: float | None = None,
                 document: Mapping[str, Json] | None = None) -> None:
        super().__init__(f"{detail} ({code})" if field is None else f"{field}: {detail} ({code})")
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s
        self.document = document or {}


class UnreachableError(ClientError):
    """Nobody answered, or the answer broke off: it is not known whether anything was done."""


class WaitTimeoutError(ClientError):
    """It is not over yet. last: how it was seen last."""

    def __init__(self, message: str, last: JsonObject) -> None:
        super().__init__(message)
        self.last = last


class Event(NamedTuple):
    """Something that happened. id: its number in the log; name: `gap` means some are missing."""

    id: int
    name: str
    data: JsonObject


class Ask(NamedTuple):
    """A request. body: left out when it is NOTHING.  timeout_s: None = the client's own."""

    method: str
    path: str
    body: Json = NOTHING
    query: Parameters | None = None
    headers: Mapping[str, str] | None = None
    timeout_s: float | None = None


class Pause(NamedTuple):
    """Wait so long."""

    seconds: float


Steps: TypeAlias = Generator[Ask | Pause, httpx.Response | None, T]


def sent(ask: Ask) -> Steps[httpx.Response]:
    """Send this; its answer, which is 2xx."""
    answer = yield ask
    assert answer is not None, "an Ask is answered or raises"
    return answer


def server_url(url: str | None) -> str:
    """The daemon's address as given, or as the environment has it. Raises: ValueError."""
    environ = os.environ
    found = (url or environ.get("PLUM_SERVER") or environ.get("CONTROLLER_BASE")
             or URL_DEFAULT).rstrip("/")
    if not found.startswith(("http://", "https://")):
        raise ValueError(f"{found!r} is no URL: it begins with http:// or https://")
    try:
        _ = urlsplit(found).port
    except ValueError as error:
        raise ValueError(f"{found!r} is no URL: {error}") from None
    return found


def trusted(url: str) -> ssl.SSLContext | bool:
    """Whose certificates are taken: over plain HTTP nobody's, so that none need be loaded."""
    return url.startswith("https://") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def request_of(http: httpx.Client | httpx.AsyncClient, ask: Ask,
               timeout_s: float) -> httpx.Request:
    """The request as httpx sends it. Raises: ValueError for what no request can say."""
    given = dict(sendable(ask.headers or {}))
    content = None
    if ask.body is not NOTHING:
        content = json.dumps(ask.body, allow_nan=False).encode()
        given["Content-Type"] = "application/json"
    if ask.timeout_s is not None:
        timeout_s = ask.timeout_s
    # A daemon that is there takes a connection at once, whatever its answer takes.
    timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
    params = {name: value for name, value in (ask.query or {}).items() if value is not None}
    return http.build_request(ask.method, ask.path, params=params or None, content=content,
                              headers=given, timeout=timeout)


def stream_of(http: httpx.Client | httpx.AsyncClient, ask: Ask, timeout_s: float,
              silence_s: float | None) -> httpx.Request:
    """The request of a stream; silence_s: how long it may be without a word, None = for ever."""
    asked = request_of(http, ask, timeout_s)
    asked.extensions["timeout"] = httpx.Timeout(
        timeout_s, connect=min(CONNECT_S, timeout_s), read=silence_s).as_dict()
    return asked


def unreachable(url: str, error: Exception) -> UnreachableError:
    """What a broken line means to a caller."""
    why = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    return UnreachableError(f"{url} does not answer: {why}")


class Patience:
    """Pauses between tries while a daemon cannot be reached, until it was too long."""

    def __init__(self, seconds: float = PATIENCE_S) -> None:
        self._seconds = seconds
        self._since: float | None = None
        self._pause_s = RETRY_S_FIRST

    def pause_s(self, error: ClientError, now: float) -> float:
        """How long to pause if the trouble may pass; else it is raised."""
        if self._since is None:
            self._since = now
        if not passing(error) or now - self._since + self._pause_s > self._seconds:
            raise error
        pause_s, self._pause_s = self._pause_s, min(RETRY_S_MAX, self._pause_s * 2)
        return pause_s


def passing(error: ClientError) -> bool:
    """Whether the same request may fare better later."""
    return isinstance(error, UnreachableError) or (
        isinstance(error, ProblemError) and error.status in (429, 502, 503, 504))


def part(text: str) -> str:
    """A text as one part of a path."""
    return quote(text, safe="")


def key_header(key: str | None) -> dict[str, str]:
    """The Idempotency-Key header, if there is a key."""
    return {} if key is None else {"Idempotency-Key": key}


def json_of(answer: httpx.Response) -> Json:
    """An answer's JSON. Raises: UnreachableError when it is none: that is no daemon of ours."""
    try:
        value: Json = json.loads(answer.content)
    except ValueError:
        raise UnreachableError(f"{answer.url} answers something that is not JSON") from None
    return value


def object_of(answer: httpx.Response) -> JsonObject:
    """An answer's JSON object. Raises: UnreachableError."""
    value = json_of(answer)
    if not isinstance(value, dict):
        raise UnreachableError(f"{answer.url} answers something else than an object")
    return value


def objects_of(answer: httpx.Response) -> list[JsonObject]:
    """An answer's JSON array of objects. Raises: UnreachableError."""
    value = json_of(answer)
    if not isinstance(value, list):
        raise UnreachableError(f"{answer.url} answers something else than an array")
    return [item if isinstance(item, dict) else {} for item in value]


def problem_of(answer: httpx.Response) -> ProblemError:
    """What an answer that is not 2xx says; also one that is no problem document."""
    try:
        found = object_of(answer)
    except UnreachableError:
        found = {}
    field = found.get("field")
    pause = answer.headers.get("retry-after", "")
    return ProblemError(
        answer.status_code, str(found.get("code", "http_error")),
        str(found.get("detail", f"{answer.url} answers {answer.status_code}")),
        field if isinstance(field, str) else None,
        float(pause) if pause.isascii() and pause.isdigit() else None, found)


class Frames:
    """Reads an SSE stream chunk by chunk; comments are left out.

    Source: WHATWG HTML, section 9.2.6 (Interpreting an event stream).
    """

    def __init__(self) -> None:
        self._kept = b""
        self._id, self._name, self._data = 0, "message", ""

    def feed(self, chunk: bytes) -> Iterator[tuple[int, str, str]]:
        """The (id, name, data) of every frame that this chunk makes whole."""
        *lines, self._kept = (self._kept + chunk).split(b"\n")
        for raw in lines:
            line = raw.removesuffix(b"\r").decode(errors="replace")
            if line:
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if field == "id" and value.isascii() and value.isdigit():
                    self._id = int(value)
                elif field == "event":
                    self._name = value
                elif field == "data":
                    self._data += ("\n" if self._data else "") + value
            elif self._data:
                name, data = self._name, self._data
                self._name, self._data = "message", ""
                yield self._id, name, data


def event_of(frame: tuple[int, str, str]) -> Event:
    """A frame of the event log."""
    number, name, data = frame
    found: Json = json.loads(data)
    return Event(number, name, found if isinstance(found, dict) else {})


def parse_events(chunks: Iterable[bytes]) -> Iterator[Event]:
    """The events of an SSE stream that carries our ids."""
    frames = Frames()
    for chunk in chunks:
        for frame in frames.feed(chunk):
            yield event_of(frame)
