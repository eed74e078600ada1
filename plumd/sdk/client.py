"""A small client of the HTTP API, for scripts and for the program `plum`.

    from plumd.sdk import Client

    with Client("http://127.0.0.1:8080") as plum:
        task = plum.submit("word-count", {"text": "one two"})
        task = plum.wait_task(task["taskId"])
        print(task["state"], task["result"])

It blocks, needs no event loop, and gives answers as the API does: JSON objects as dicts, with the
names of the API's reference. Text in them may come from anywhere: escape it where it is shown.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple, Self, TypeAlias
from urllib.parse import quote

import httpx

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]
Parameters: TypeAlias = Mapping[str, str | int | None]

URL_DEFAULT: Final = "http://127.0.0.1:8080"
OVER: Final = frozenset({"Succeeded", "Failed", "Timeout", "Canceled"})
"""The states that never change again, of tasks and of workflow runs."""
NOTHING: Final[JsonObject] = {}
"""No payload. It is left out of requests, because it is this very object."""

ANSWER_S: Final = 30.0
POLL_S: Final = 20
LOOK_S: Final = 0.1
"""Between looks when the daemon does not wait with its answer."""
PAGE_MAX: Final = 1000
RETRY_S_FIRST: Final = 0.2
RETRY_S_MAX: Final = 2.0
PATIENCE_S: Final = 60.0
"""How long waiting goes on while nobody answers; a restart of the daemon is shorter."""
SILENCE_S: Final = 40.0
"""An event stream is never that long without a word; the daemon says something every 15 s."""


class ClientError(Exception):
    """Why a request did not do what it was for."""


class ProblemError(ClientError):
    """The daemon refused. code: stable, see docs/errors.md.  field: what the trouble is about."""

    def __init__(self, status: int, code: str, detail: str, field: str | None = None,
                 retry_after_s: float | None = None) -> None:
        super().__init__(f"{detail} ({code})" if field is None else f"{field}: {detail} ({code})")
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s


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


class Client:
    """One daemon's API. Ended by `close` or as a context manager.

    url: default the environment's PLUM_SERVER, CONTROLLER_BASE, else http://127.0.0.1:8080.
    timeout_s: how long an answer may take.  token: for a daemon that asks for one.
    Every method raises ProblemError and UnreachableError; a url that is none is a ValueError.
    """

    def __init__(self, url: str | None = None, *, timeout_s: float = ANSWER_S,
                 token: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        environ = os.environ
        self.url = (url or environ.get("PLUM_SERVER") or environ.get("CONTROLLER_BASE")
                    or URL_DEFAULT).rstrip("/")
        self._timeout_s = timeout_s
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.url!r} is no URL: it begins with http:// or https://")
        try:
            self._http = httpx.Client(
                base_url=self.url, timeout=timeout_s, transport=transport, trust_env=False,
                headers={} if token is None else {"Authorization": f"Bearer {token}"})
        except httpx.InvalidURL as error:
            raise ValueError(f"{self.url!r} is no URL: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    # ------------------------------------------------------------ requests

    def request(self, method: str, path: str, body: Json = NOTHING, *,
                query: Parameters | None = None, headers: Mapping[str, str] | None = None,
                timeout_s: float | None = None) -> httpx.Response:
        """Any request of the API, with a JSON body unless it is NOTHING; its answer, if 2xx."""
        asked = self._build(method, path, body, query=query, headers=headers, timeout_s=timeout_s)
        try:
            answer = self._http.send(asked)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise self._unreachable(error) from error
        if not answer.is_success:
            raise problem_of(answer)
        return answer

    def _build(self, method: str, path: str, body: Json = NOTHING, *,
               query: Parameters | None = None, headers: Mapping[str, str] | None = None,
               timeout_s: float | None = None) -> httpx.Request:
        given = dict(headers or {})
        content = None
        if body is not NOTHING:
            content = json.dumps(body, allow_nan=False).encode()
            given["Content-Type"] = "application/json"
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        # A daemon that is there takes a connection at once, whatever its answer takes.
        timeout = httpx.Timeout(timeout_s, connect=min(10.0, timeout_s))
        params = {name: value for name, value in (query or {}).items() if value is not None}
        return self._http.build_request(method, path, params=params or None, content=content,
                                        headers=given, timeout=timeout)

    def _unreachable(self, error: Exception) -> UnreachableError:
        words = str(error) or type(error).__name__
        return UnreachableError(f"{self.url} does not answer: {words}")

    def get(self, path: str, query: Parameters | None = None) -> Json:
        """The JSON behind a path."""
        return json_of(self.request("GET", path, query=query))

    def get_object(self, path: str, query: Parameters | None = None) -> JsonObject:
        """The JSON object behind a path."""
        return object_of(self.request("GET", path, query=query))

    def items(self, path: str, query: Parameters | None = None, *,
              limit: int | None = None) -> Iterator[JsonObject]:
        """A list's items, page after page as they are asked for; limit: at most so many."""
        left = limit
        page = min(PAGE_MAX, left) if left is not None else None
        answer = self.request("GET", path, query={**(query or {}), "limit": page})
        while True:
            found = json_of(answer)
            for item in found if isinstance(found, list) else []:
                if left is not None and left <= 0:
                    return
                left = None if left is None else left - 1
                yield item if isinstance(item, dict) else {}
            following = answer.links.get("next", {}).get("url")
            if not following or (left is not None and left <= 0):
                return
            answer = self.request("GET", following)

    # ------------------------------------------------------------ tasks and workflows

    def submit(self, name: str, payload: Json = NOTHING, *, key: str | None = None,
               **fields: Json) -> JsonObject:
        """A new task; it is on disk when this returns.

        name: of a definition, of a worker's task, or builtin.*.  fields: whatever else
        POST /v1/tasks takes, by the API's names: labels={"rig": "7"}, maxRetries=3, delaySec=60.
        key: an Idempotency-Key; with the same one the same task comes back, however often it is
        asked for.
        """
        body: JsonObject = {"name": name, **fields}
        if payload is not NOTHING:
            body["payload"] = payload
        return object_of(self.request("POST", "/v1/tasks", body, headers=key_header(key)))

    def run_definition(self, def_id: str, payload: Json = NOTHING, *, key: str | None = None,
                       **fields: Json) -> JsonObject:
        """A new task of a definition; fields: timeoutSec, maxRetries, labels, priority."""
        return self._run(f"/v1/task-defs/{part(def_id)}", payload, key, fields)

    def run_workflow(self, workflow_id: str, payload: Json = NOTHING, *,
                     key: str | None = None) -> JsonObject:
        """A new run of a workflow; the payload lies over every step's."""
        return self._run(f"/v1/workflows/{part(workflow_id)}", payload, key, {})

    def _run(self, path: str, payload: Json, key: str | None,
             fields: Mapping[str, Json]) -> JsonObject:
        body: JsonObject = dict(fields)
        if payload is not NOTHING:
            body["payload"] = payload
        return object_of(self.request("POST", path, body, query={"action": "run"},
                                      headers=key_header(key)))

    def task(self, task_id: str) -> JsonObject:
        """A task as it is now."""
        return self.get_object(f"/v1/tasks/{part(task_id)}")

    def run(self, run_id: str) -> JsonObject:
        """A workflow run as it is now, with its steps."""
        return self.get_object(f"/v1/workflow-runs/{part(run_id)}")

    def tasks(self, *, limit: int | None = None, **query: str | int | None) -> Iterator[JsonObject]:
        """Tasks, newest first; query: state, name, defId, runId, label="key=value"."""
        return self.items("/v1/tasks", query, limit=limit)

    def act(self, path: str, action: str) -> JsonObject:
        """POST ?action=... on a thing, like start, cancel or rerun on a task."""
        return object_of(self.request("POST", path, query={"action": action}))

    def cancel_task(self, task_id: str) -> JsonObject:
        """End a task; a running one is stopped first."""
        return self.act(f"/v1/tasks/{part(task_id)}", "cancel")

    def wait_task(self, task_id: str, timeout_s: float | None = None,
                  seen: Callable[[JsonObject], None] | None = None) -> JsonObject:
        """The task once it is over. Goes on through a restart of the daemon.

        seen: told how the task is whenever that was asked.  Raises: WaitTimeoutError.
        """
        return self._wait(f"/v1/tasks/{part(task_id)}", timeout_s, seen)

    def wait_run(self, run_id: str, timeout_s: float | None = None,
                 seen: Callable[[JsonObject], None] | None = None) -> JsonObject:
        """The workflow run once it is over; else as `wait_task`."""
        return self._wait(f"/v1/workflow-runs/{part(run_id)}", timeout_s, seen)

    def _wait(self, path: str, timeout_s: float | None,
              seen: Callable[[JsonObject], None] | None) -> JsonObject:
        began = time.monotonic()
        patience = Patience()
        last: JsonObject = {}
        poll_s = 1      # the first look comes soon, so that `seen` has something to show
        while True:
            left_s = None if timeout_s is None else timeout_s - (time.monotonic() - began)
            if left_s is not None and left_s <= 0 and last:
                raise WaitTimeoutError(f"not over after {timeout_s:g} s", last)
            wait_s = poll_s if left_s is None else max(0, min(poll_s, int(left_s)))
            headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
            asked = time.monotonic()
            try:
                last = object_of(self.request("GET", path, headers=headers,
                                              timeout_s=self._timeout_s + wait_s))
            except ClientError as error:
                if left_s is not None and left_s <= 0:
                    raise
                patience.endure(error)
                continue
            patience = Patience()
            poll_s = POLL_S if seen is None else 1
            if seen is not None:
                seen(last)
            if last.get("state") in OVER:
                return last
            if time.monotonic() - asked < LOOK_S:
                time.sleep(LOOK_S if left_s is None else max(0.0, min(LOOK_S, left_s)))

    # ------------------------------------------------------------ streams

    def logs(self, task_id: str, *, attempt: int | None = None,
             follow: bool = False) -> Iterator[bytes]:
        """What a task's process printed, as bytes; with follow also what comes until its end."""
        path = f"/v1/tasks/{part(task_id)}/logs"
        offset, finished = 0, False
        while not finished and not follow:
            answer = self.request("GET", path, query={"attempt": attempt, "offset": offset})
            yield answer.content
            finished = not answer.content
            offset = int(answer.headers.get("plum-next-offset", "0"))
        if follow:
            asked = self._build("GET", path, query={"attempt": attempt, "follow": "true"})
            asked.extensions["timeout"] = httpx.Timeout(self._timeout_s, read=None).as_dict()
            yield from self._chunks(asked)

    def _chunks(self, asked: httpx.Request) -> Iterator[bytes]:
        """The body of an answer as it comes."""
        try:
            answer = self._http.send(asked, stream=True)
            try:
                if not answer.is_success:
                    answer.read()
                    raise problem_of(answer)
                yield from answer.iter_bytes()
            finally:
                answer.close()
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise self._unreachable(error) from error

    def events(self, topics: str = "", *, after: int | None = None,
               patience_s: float = PATIENCE_S) -> Iterator[Event]:
        """The event log without end: dials again when the line is lost, and misses nothing.

        topics: some of tasks, workflows, runs, workers, taskDefs, services, alerts, with commas;
        "" = all.  after: begin behind the event of that number; 0 = from the oldest that is kept;
        None = from now.  An event named `gap` says that some are kept no longer.
        patience_s: how long to dial while nobody answers.
        """
        patience = Patience(patience_s)
        while True:
            try:
                if after is None:
                    after = _number(self.get_object("/v1/status").get("nextEvent")) - 1
                asked = self._build("GET", "/v1/events", query={"topics": topics or None},
                                    headers={"Last-Event-ID": str(after),
                                             "Accept": "text/event-stream"})
                asked.extensions["timeout"] = httpx.Timeout(SILENCE_S, connect=10.0).as_dict()
                for event in parse_events(self._chunks(asked)):
                    patience = Patience(patience_s)
                    after = event.id
                    yield event
            except ClientError as error:
                patience.endure(error)
            else:
                patience.endure(UnreachableError(f"{self.url} closes the event stream at once"))


class Patience:
    """Pauses between tries while a daemon cannot be reached, until it was too long."""

    def __init__(self, seconds: float = PATIENCE_S) -> None:
        self._seconds = seconds
        self._since: float | None = None
        self._pause_s = RETRY_S_FIRST

    def endure(self, error: ClientError) -> None:
        """Pause if the trouble may pass, else raise it."""
        passing = isinstance(error, UnreachableError) or (
            isinstance(error, ProblemError) and error.status in (429, 502, 503, 504))
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if not passing or now - self._since + self._pause_s > self._seconds:
            raise error
        time.sleep(self._pause_s)
        self._pause_s = min(RETRY_S_MAX, self._pause_s * 2)


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
        float(pause) if pause.isascii() and pause.isdigit() else None)


def parse_events(chunks: Iterator[bytes]) -> Iterator[Event]:
    """The events of an SSE stream that carries our ids; comments are left out.

    Source: WHATWG HTML, section 9.2.6 (Interpreting an event stream).
    """
    number, name, data = 0, "message", ""
    for line in _lines(chunks):
        if line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "id" and value.isascii() and value.isdigit():
                number = int(value)
            elif field == "event":
                name = value
            elif field == "data":
                data += ("\n" if data else "") + value
        elif data:
            found: Json = json.loads(data)
            yield Event(number, name, found if isinstance(found, dict) else {})
            name, data = "message", ""


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Whole lines; what is behind the last newline is no line yet."""
    kept = b""
    for chunk in chunks:
        *lines, kept = (kept + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")


def _number(value: Json) -> int:
    return value if isinstance(value, int) else 1
