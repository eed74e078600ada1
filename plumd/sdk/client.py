"""A small client of the HTTP API, for scripts and for the program `plum`.

    from plumd.sdk import Client

    with Client("http://127.0.0.1:8080") as plum:
        task = plum.submit("word-count", {"text": "one two"})
        task = plum.wait_task(task["taskId"])
        print(task["state"], task["result"])

It blocks, needs no event loop, and gives answers as the API does: JSON objects as dicts, with the
names of the API's reference. Text in them may come from anywhere: escape it where it is shown.
AsyncClient of aio.py is the same for Trio.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Self, TypeVar, cast

import httpx

from plumd.sdk import calls
from plumd.sdk.calls import OVER, Feed, Pages, Seen
from plumd.sdk.headers import token_header
from plumd.sdk.wire import (
    ANSWER_S,
    NOTHING,
    PATIENCE_S,
    SILENCE_S,
    Ask,
    ClientError,
    Event,
    Frames,
    Json,
    JsonObject,
    Parameters,
    Pause,
    ProblemError,
    Steps,
    UnreachableError,
    WaitTimeoutError,
    event_of,
    json_of,
    object_of,
    parse_events,
    part,
    problem_of,
    request_of,
    server_url,
    stream_of,
    trusted,
    unreachable,
)

if TYPE_CHECKING:
    from plumd.sdk.kv import KV

__all__ = [
    "NOTHING", "OVER", "Client", "ClientError", "Event", "Json", "JsonObject", "ProblemError",
    "UnreachableError", "WaitTimeoutError", "object_of", "parse_events", "part",
]

T = TypeVar("T")


class Client:
    """One daemon's API. Ended by `close` or as a context manager.

    url: default the environment's PLUM_SERVER, CONTROLLER_BASE, else http://127.0.0.1:8080.
    timeout_s: how long an answer may take.  token: for a daemon that asks for one.
    Every method raises ProblemError and UnreachableError; a url that is none is a ValueError.
    """

    def __init__(self, url: str | None = None, *, timeout_s: float = ANSWER_S,
                 token: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self.url = server_url(url)
        self.timeout_s = timeout_s
        self.token = token
        self._transport = transport
        self._own, self._pid = self._opened(), os.getpid()

    def _opened(self) -> httpx.Client:
        try:
            return httpx.Client(
                base_url=self.url, timeout=self.timeout_s, transport=self._transport,
                trust_env=False, headers=token_header(self.token), verify=trusted(self.url))
        except httpx.InvalidURL as error:
            raise ValueError(f"{self.url!r} is no URL: {error}") from None

    @property
    def _http(self) -> httpx.Client:
        """This process's connections. Behind a fork the parent goes on with its own, and on one
        that both had each would read the other's answers."""
        if self._pid != os.getpid():
            self._own, self._pid = self._opened(), os.getpid()
        return self._own

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def kv(self, namespace: str) -> KV:
        """A namespace of the key-value store, over this client."""
        from plumd.sdk.kv import KV  # it brings Trio along, which other scripts do without

        return KV(namespace, self)

    # ------------------------------------------------------------ requests

    def send(self, ask: Ask) -> httpx.Response:
        """Any request; its answer, if 2xx."""
        try:
            answer = self._http.send(request_of(self._http, ask, self.timeout_s))
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise unreachable(self.url, error) from error
        if not answer.is_success:
            raise problem_of(answer)
        return answer

    def follow(self, steps: Steps[T]) -> T:
        """Carry out the steps of a call; see wire.py."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    answer = self.send(step)
                except ClientError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return cast("T", end.value)

    def chunks(self, ask: Ask, silence_s: float | None) -> Iterator[bytes]:
        """The body of an answer as it comes."""
        asked = stream_of(self._http, ask, self.timeout_s, silence_s)
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
            raise unreachable(self.url, error) from error

    def request(self, method: str, path: str, body: Json = NOTHING, *,
                query: Parameters | None = None, headers: Mapping[str, str] | None = None,
                timeout_s: float | None = None) -> httpx.Response:
        """Any request of the API, with a JSON body unless it is NOTHING; its answer, if 2xx."""
        return self.send(Ask(method, path, body, query, headers, timeout_s))

    def get(self, path: str, query: Parameters | None = None) -> Json:
        """The JSON behind a path."""
        return json_of(self.send(Ask("GET", path, query=query)))

    def get_object(self, path: str, query: Parameters | None = None) -> JsonObject:
        """The JSON object behind a path."""
        return object_of(self.send(Ask("GET", path, query=query)))

    def items(self, path: str, query: Parameters | None = None, *,
              limit: int | None = None) -> Iterator[JsonObject]:
        """A list's items, page after page as they are asked for; limit: at most so many."""
        pages = Pages(path, query, limit)
        while pages.ask is not None:
            yield from pages.take(self.send(pages.ask))

    def upload(self, path: str, content: Iterator[bytes], size_bytes: int) -> JsonObject:
        """POST bytes, piece by piece, to a route that takes a file; what it answers."""
        try:
            answer = self._http.post(
                path, content=content, timeout=httpx.Timeout(self.timeout_s, read=None),
                headers={"Content-Type": "application/octet-stream",
                         "Content-Length": str(size_bytes)})
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise unreachable(self.url, error) from error
        if not answer.is_success:
            raise problem_of(answer)
        return object_of(answer)

    # ------------------------------------------------------------ tasks and workflows

    def submit(self, name: str, payload: Json = NOTHING, *, key: str | None = None,
               **fields: Json) -> JsonObject:
        """A new task; it is on disk when this returns.

        name: of a definition, of a worker's task, or builtin.*.  fields: whatever else
        POST /v1/tasks takes, by the API's names: labels={"rig": "7"}, maxRetries=3, delaySec=60.
        key: an Idempotency-Key; with the same one the same task comes back, however often it is
        asked for.
        """
        return self.follow(calls.submit(name, payload, key, fields))

    def run_definition(self, def_id: str, payload: Json = NOTHING, *, key: str | None = None,
                       **fields: Json) -> JsonObject:
        """A new task of a definition; fields: timeoutSec, maxRetries, labels, priority."""
        return self.follow(calls.run(f"/v1/task-defs/{part(def_id)}", payload, key, fields))

    def run_workflow(self, workflow_id: str, payload: Json = NOTHING, *,
                     key: str | None = None, version: int | None = None,
                     up_to: str | None = None) -> JsonObject:
        """A new run of a workflow; the payload lies over every step's. version: None = the current
        one; up_to: the outer step that is the last one wanted, None = all."""
        fields = calls.given(version=version, upTo=up_to)
        return self.follow(calls.run(f"/v1/workflows/{part(workflow_id)}", payload, key, fields))

    def task(self, task_id: str) -> JsonObject:
        """A task as it is now."""
        return self.get_object(calls.task_path(task_id))

    def run(self, run_id: str) -> JsonObject:
        """A workflow run as it is now, with its steps."""
        return self.get_object(calls.run_path(run_id))

    def tasks(self, *, limit: int | None = None, **query: str | int | None) -> Iterator[JsonObject]:
        """Tasks, newest first; query: state, name, defId, runId, label="key=value"."""
        return self.items("/v1/tasks", query, limit=limit)

    def act(self, path: str, action: str) -> JsonObject:
        """POST ?action=... on a thing, like start, cancel or rerun on a task."""
        return self.follow(calls.act(path, action))

    def cancel_task(self, task_id: str) -> JsonObject:
        """End a task; a running one is stopped first."""
        return self.act(calls.task_path(task_id), "cancel")

    def wait_task(self, task_id: str, timeout_s: float | None = None,
                  seen: Seen | None = None) -> JsonObject:
        """The task once it is over. Goes on through a restart of the daemon.

        seen: told how the task is whenever that was asked.  Raises: WaitTimeoutError.
        """
        return self._wait(calls.task_path(task_id), timeout_s, seen)

    def wait_run(self, run_id: str, timeout_s: float | None = None,
                 seen: Callable[[JsonObject], None] | None = None) -> JsonObject:
        """The workflow run once it is over; else as `wait_task`."""
        return self._wait(calls.run_path(run_id), timeout_s, seen)

    def _wait(self, path: str, timeout_s: float | None, seen: Seen | None) -> JsonObject:
        return self.follow(calls.wait(path, timeout_s, self.timeout_s, seen, time.monotonic))

    # ------------------------------------------------------------ services and devices

    def discover(self, service: str, *, version: str = "", protocol: str = "") -> list[JsonObject]:
        """A service's healthy endpoints."""
        return self.follow(calls.get_objects("/v1/discovery", {
            "service": service, "version": version or None, "protocol": protocol or None}))

    def endpoint(self, service: str, *, strategy: str = "", version: str = "",
                 protocol: str = "") -> JsonObject:
        """One healthy endpoint by a strategy; ProblemError not_found when there is none."""
        return self.follow(calls.endpoint(service, strategy, version, protocol))

    def operate(self, device_id: str, operations: Mapping[str, str], *,
                token: int | None = None) -> None:
        """Have a device carry out operations, name by name; returns when it says that it has.

        token: of a lease on the device.
        """
        self.follow(calls.operate(device_id, operations, token))

    # ------------------------------------------------------------ streams

    def logs(self, task_id: str, *, attempt: int | None = None, follow: bool = False,
             tail_bytes: int = 0) -> Iterator[bytes]:
        """What a task's process or worker said, as bytes; follow: until its end.

        tail_bytes: begin so far before the end of what is there; 0 = at the beginning.
        """
        return self._said(calls.task_logs(task_id, attempt), follow, -tail_bytes)

    def instance_logs(self, instance_id: str, *, run: int | None = None, follow: bool = False,
                      tail_bytes: int = 0) -> Iterator[bytes]:
        """What one start of an instance printed, as bytes; follow: and what comes, also of the
        starts behind it. run: which start, from 1; None: the latest.  tail_bytes: as of `logs`."""
        return self._said(calls.instance_logs(instance_id, run), follow, -tail_bytes)

    def _said(self, log: calls.Log, follow: bool, offset: int) -> Iterator[bytes]:
        while not follow and not log.finished:
            answer = self.send(log.page(offset))
            yield answer.content
            offset = log.took(answer)
        if follow:
            yield from self.chunks(log.rest(offset), None)

    def events(self, topics: str = "", *, after: int | None = None,
               patience_s: float = PATIENCE_S) -> Iterator[Event]:
        """The event log without end: dials again when the line is lost, and misses nothing.

        topics: some of tasks, workflows, runs, workers, taskDefs, services, resources, kv, alerts,
        with commas; "" = all.  after: begin behind the event of that number; 0 = from the oldest
        that is kept; None = from now.  An event named `gap` says that some are kept no longer.
        patience_s: how long to dial while nobody answers.
        """
        feed = Feed(topics, after, patience_s)
        while True:
            try:
                frames = Frames()
                for chunk in self.chunks(self.follow(feed.ask()), SILENCE_S):
                    for event in map(event_of, frames.feed(chunk)):
                        feed.heard(event.id)
                        yield event
                raise feed.ended(self.url)
            except ClientError as error:
                time.sleep(feed.pause_s(error, time.monotonic()))
