"""HTTP as a client sees it: an answer that was fully received, or nothing known."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Mapping

import msgspec

TERMINAL = frozenset({"Succeeded", "Failed", "Timeout", "Canceled"})
ANSWER_S = 20.0


class NoAnswerError(Exception):
    """The answer did not come whole: nobody knows whether the request was carried out."""


class Failure(msgspec.Struct, frozen=True, rename="camel"):
    """A task's error."""

    code: str
    message: str = ""
    attempt: int = 0
    worker: str | None = None
    exit_code: int | None = None
    signal: str | None = None


class Task(msgspec.Struct, frozen=True, rename="camel"):
    """A task as the API shows it, as far as the auditor cares."""

    task_id: str
    name: str
    executor: str
    state: str
    attempt: int
    result: msgspec.Raw
    error: Failure | None = None
    worker: str | None = None
    labels: dict[str, str] = {}
    run_id: str | None = None
    step_id: str | None = None
    started_at: int | None = None
    finished_at: int | None = None
    cancel_requested_at: int | None = None

    @property
    def over(self) -> bool:
        """Whether its state is terminal."""
        return self.state in TERMINAL

    @property
    def ending(self) -> bytes:
        """Everything that must never change again, as bytes."""
        return msgspec.json.encode((self.state, self.attempt, self.result, self.error,
                                    self.started_at, self.finished_at))


class Step(msgspec.Struct, frozen=True, rename="camel"):
    """A step of a run."""

    step_id: str
    state: str
    task_id: str | None = None
    attempt: int = 0


class RunPayload(msgspec.Struct, frozen=True):
    """What every run is begun with."""

    ask: str = ""


class Run(msgspec.Struct, frozen=True, rename="camel"):
    """A workflow run."""

    run_id: str
    state: str
    payload: RunPayload | None = None
    finished_at: int | None = None
    steps: tuple[Step, ...] | None = None

    @property
    def over(self) -> bool:
        """Whether its state is terminal."""
        return self.state in TERMINAL


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """/v1/status."""

    queued: int
    pending: int
    running: int
    retrying: int
    workflow_runs: int
    workers: int
    commits: int
    next_event: int

    @property
    def live(self) -> int:
        """Tasks and runs that are not over."""
        return self.queued + self.pending + self.running + self.retrying + self.workflow_runs


class Answer(msgspec.Struct, frozen=True):
    """A whole answer. asked_at: the monotonic time before which it says nothing, in seconds."""

    asked_at: float
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it acknowledges."""
        return 200 <= self.status < 300


class Caller:
    """One keep-alive connection, dialled anew after every trouble. For one thread."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._line: http.client.HTTPConnection | None = None

    def call(self, method: str, path: str, body: object = None,
             headers: Mapping[str, str] | None = None) -> Answer:
        """One request, sent once. Raises: NoAnswerError."""
        given = dict(headers or {})
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            given["Content-Type"] = "application/json"
        if self._line is None:
            self._line = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
        asked_at = time.monotonic()
        try:
            self._line.request(method, path, content, given)
            answer = self._line.getresponse()
            whole = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise NoAnswerError(f"{method} {path}: {error!r}") from None
        found = {name.lower(): value for name, value in answer.getheaders()}
        if answer.will_close:
            self.close()
        return Answer(asked_at, answer.status, found, whole)

    def get(self, path: str) -> bytes:
        """What is there. Raises: NoAnswerError, also for a refusal."""
        answer = self.call("GET", path)
        if not answer.ok:
            raise NoAnswerError(f"GET {path}: {answer.status} {answer.body[:200]!r}")
        return answer.body

    def status(self) -> Status:
        """How much is under way. Raises: NoAnswerError."""
        return msgspec.json.decode(self.get("/v1/status"), type=Status)

    def pages(self, path: str) -> Iterator[bytes]:
        """Every page of a list. Raises: NoAnswerError."""
        while path:
            answer = self.call("GET", path)
            if not answer.ok:
                raise NoAnswerError(f"GET {path}: {answer.status} {answer.body[:200]!r}")
            yield answer.body
            link = answer.headers.get("link", "")
            path = link[link.find("<") + 1:link.find(">")] if 'rel="next"' in link else ""

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()
            self._line = None


class Frame(msgspec.Struct, frozen=True):
    """One server-sent event."""

    id: int
    name: str
    data: bytes


def frames(port: int, last_id: int, silence_s: float) -> Iterator[Frame]:
    """The event log behind last_id until the line breaks or was silent for so long.

    Raises: NoAnswerError when it breaks.
    """
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=silence_s)
    try:
        line.request("GET", "/v1/events", headers={"Last-Event-ID": str(last_id),
                                                   "Accept": "text/event-stream"})
        answer = line.getresponse()
        if answer.status != 200:
            raise NoAnswerError(f"/v1/events: {answer.status} {answer.read(200)!r}")
        number, name, data = 0, "", b""
        while text := answer.readline():
            text = text.rstrip(b"\r\n")
            if text.startswith(b"id: "):
                number = int(text[4:])
            elif text.startswith(b"event: "):
                name = text[7:].decode()
            elif text.startswith(b"data: "):
                data = text[6:]
            elif not text and name:
                yield Frame(number, name, data)
                name, data = "", b""
        raise NoAnswerError("/v1/events ended")
    except TimeoutError:
        return
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswerError(f"/v1/events: {error!r}") from None
    finally:
        line.close()
