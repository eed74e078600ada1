"""The calls of the API about tasks, runs, services and the event log, as steps; see wire.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import httpx

from plumd.sdk.wire import (
    NOTHING,
    PATIENCE_S,
    Ask,
    ClientError,
    Json,
    JsonObject,
    Parameters,
    Patience,
    Pause,
    Steps,
    UnreachableError,
    WaitTimeoutError,
    key_header,
    object_of,
    objects_of,
    part,
    sent,
)

OVER: Final = frozenset({"Succeeded", "Failed", "Timeout", "Canceled"})
"""The states that never change again, of tasks and of workflow runs."""
POLL_S: Final = 20
LOOK_S: Final = 0.1
"""Between looks when the daemon does not wait with its answer."""
PAGE_MAX: Final = 1000

Clock = Callable[[], float]
Seen = Callable[[JsonObject], None]


def submit(name: str, payload: Json, key: str | None, fields: Mapping[str, Json],
           ) -> Steps[JsonObject]:
    """A new task."""
    body: JsonObject = {"name": name, **fields}
    if payload is not NOTHING:
        body["payload"] = payload
    return object_of((yield from sent(Ask("POST", "/v1/tasks", body, headers=key_header(key)))))


def given(**fields: Json) -> JsonObject:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def run(path: str, payload: Json, key: str | None, fields: Mapping[str, Json],
        ) -> Steps[JsonObject]:
    """A new task of a definition, or run of a workflow."""
    body: JsonObject = dict(fields)
    if payload is not NOTHING:
        body["payload"] = payload
    return object_of((yield from sent(Ask("POST", path, body, {"action": "run"},
                                          key_header(key)))))


def get_object(path: str, query: Parameters | None = None) -> Steps[JsonObject]:
    """The JSON object behind a path."""
    return object_of((yield from sent(Ask("GET", path, query=query))))


def get_objects(path: str, query: Parameters | None = None) -> Steps[list[JsonObject]]:
    """The JSON array of objects behind a path."""
    return objects_of((yield from sent(Ask("GET", path, query=query))))


def act(path: str, action: str) -> Steps[JsonObject]:
    """POST ?action=... on a thing."""
    return object_of((yield from sent(Ask("POST", path, query={"action": action}))))


def operate(device_id: str, operations: Mapping[str, str],
            token: int | None = None) -> Steps[None]:
    """Have a device carry out operations, in order."""
    body: JsonObject = {"operations": [{"name": name, "value": value}
                                       for name, value in operations.items()]}
    yield from sent(Ask("POST", "/v1/resources/operation", body, {
        "resourceId": device_id, "token": token}))


def endpoint(service: str, strategy: str, version: str, protocol: str) -> Steps[JsonObject]:
    """One healthy endpoint of a service."""
    return (yield from get_object("/v1/discovery/one", {
        "service": service, "strategy": strategy or None, "version": version or None,
        "protocol": protocol or None}))


def wait(path: str, timeout_s: float | None, answer_s: float, seen: Seen | None,
         clock: Clock) -> Steps[JsonObject]:
    """A task or run once it is over; goes on while nobody answers, for a while.

    Raises: WaitTimeoutError.
    """
    began = clock()
    patience = Patience()
    last: JsonObject = {}
    poll_s = 1      # the first look comes soon, so that `seen` has something to show
    while True:
        left_s = None if timeout_s is None else timeout_s - (clock() - began)
        if left_s is not None and left_s <= 0 and last:
            raise WaitTimeoutError(f"not over after {timeout_s:g} s", last)
        wait_s = poll_s if left_s is None else max(0, min(poll_s, int(left_s)))
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        asked = clock()
        try:
            last = object_of((yield from sent(Ask("GET", path, headers=headers,
                                                  timeout_s=answer_s + wait_s))))
        except ClientError as error:
            if left_s is not None and left_s <= 0:
                raise
            yield Pause(patience.pause_s(error, clock()))
            continue
        patience = Patience()
        poll_s = POLL_S if seen is None else 1
        if seen is not None:
            seen(last)
        if last.get("state") in OVER:
            return last
        if clock() - asked < LOOK_S:
            yield Pause(LOOK_S if left_s is None else max(0.0, min(LOOK_S, left_s)))


def task_path(task_id: str) -> str:
    """Where a task is."""
    return f"/v1/tasks/{part(task_id)}"


def run_path(run_id: str) -> str:
    """Where a workflow run is."""
    return f"/v1/workflow-runs/{part(run_id)}"


class Pages:
    """A list, page after page. limit: at most so many items."""

    def __init__(self, path: str, query: Parameters | None, limit: int | None) -> None:
        self._left = limit
        page = PAGE_MAX if limit is None else min(PAGE_MAX, max(limit, 1))
        shown = None if limit is None else page
        self.ask: Ask | None = Ask("GET", path, query={**(query or {}), "limit": shown})
        """What is to be asked next; None when there is nothing more."""

    def take(self, answer: httpx.Response) -> list[JsonObject]:
        """The items of a page that are wanted."""
        found = objects_of(answer)
        following = answer.links.get("next", {}).get("url")
        if self._left is not None:
            found = found[:self._left]
            self._left -= len(found)
        self.ask = Ask("GET", following) if following and self._left != 0 else None
        return found


class Log:
    """What a process printed, page after page. which: the part of the query that names it."""

    def __init__(self, path: str, which: str, number: int | None) -> None:
        self._path = path
        self._which = which
        self._number = number
        self.finished = False
        """Whether there is nothing more for now."""

    def page(self, offset: int) -> Ask:
        """The request for what is there from offset on."""
        return Ask("GET", self._path, query={self._which: self._number, "offset": offset})

    def took(self, answer: httpx.Response) -> int:
        """A page came; where the next one begins. All are of one run of an instance."""
        self.finished = not answer.content
        if "plum-run" in answer.headers:
            self._number = int(answer.headers["plum-run"])
        return int(answer.headers.get("plum-next-offset", "0"))

    def rest(self, offset: int) -> Ask:
        """The request for all from offset on, as it comes."""
        return Ask("GET", self._path, query={self._which: self._number, "offset": offset,
                                             "follow": "true"})


def task_logs(task_id: str, attempt: int | None) -> Log:
    """What a task's process or worker said."""
    return Log(f"{task_path(task_id)}/logs", "attempt", attempt)


def instance_logs(instance_id: str, run: int | None) -> Log:
    """What a start of an instance printed."""
    return Log(f"/v1/instances/{part(instance_id)}/logs", "run", run)


class Feed:
    """The event log, across lines that are lost. after: the number of the last event."""

    def __init__(self, topics: str, after: int | None, patience_s: float = PATIENCE_S) -> None:
        self._topics = topics
        self._patience_s = patience_s
        self._patience = Patience(patience_s)
        self.after = after

    def ask(self) -> Steps[Ask]:
        """The request of the stream; where the log ends is asked for when nobody said where to
        begin."""
        if self.after is None:
            number = (yield from get_object("/v1/status")).get("nextEvent")
            self.after = (number if isinstance(number, int) else 1) - 1
        return Ask("GET", "/v1/events", query={"topics": self._topics or None},
                   headers={"Last-Event-ID": str(self.after), "Accept": "text/event-stream"})

    def heard(self, number: int) -> None:
        """An event came."""
        self._patience = Patience(self._patience_s)
        self.after = number

    def pause_s(self, error: ClientError, now: float) -> float:
        """How long to pause before the next line, or the trouble is raised."""
        return self._patience.pause_s(error, now)

    def ended(self, url: str) -> UnreachableError:
        """The line ended without trouble."""
        return UnreachableError(f"{url} closes the event stream at once")
