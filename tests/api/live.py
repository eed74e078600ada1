"""The real program and its clients, for the tests of the HTTP API as a whole."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import httpx

from tests.daemon.running import Running

WAIT_S = 30
"""How long a test is willing to wait for what should come at once."""
Json = dict[str, object]


class Api:
    """A client of a running daemon, with the questions that the tests ask again and again."""

    def __init__(self, daemon: Running) -> None:
        self.daemon = daemon
        self.http = httpx.Client(base_url=daemon.url, trust_env=False, timeout=WAIT_S + 60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.http.close()

    def ask(self, method: str, path: str, body: object = None, *,
            headers: Mapping[str, str] | None = None) -> httpx.Response:
        """One request; a body is sent as JSON, bytes as they are but declared as JSON."""
        content = None if body is None else (
            body if isinstance(body, bytes) else json.dumps(body).encode())
        given = {"content-type": "application/json"} if content is not None else {}
        return self.http.request(method, path, content=content,
                                 headers={**given, **dict(headers or {})})

    def get(self, path: str, **headers: str) -> Json:
        """What is at a path, which must be there."""
        return whole(self.ask("GET", path, headers=headers), 200)

    def items(self, path: str) -> list[Json]:
        """A list that is there."""
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        found: list[Json] = answer.json()
        return found

    def made(self, path: str, body: object = None, **headers: str) -> Json:
        """What a POST made."""
        return whole(self.ask("POST", path, body, headers=headers), 201)

    def done(self, method: str, path: str, body: object = None) -> Json:
        """What a request answered that must succeed with 200."""
        return whole(self.ask(method, path, body), 200)

    def gone(self, path: str) -> None:
        """Delete what must be there."""
        answer = self.ask("DELETE", path)
        assert answer.status_code == 204, answer.text
        assert answer.content == b""

    def task(self, name: str = "builtin.echo", **body: object) -> Json:
        """A new task."""
        return self.made("/v1/tasks", {"name": name, **body})

    def ended(self, task_id: object) -> Json:
        """A task once it is over."""
        task = self.get(f"/v1/tasks/{task_id}", prefer=f"wait={WAIT_S}")
        assert task["state"] in ("Succeeded", "Failed", "Timeout", "Canceled"), task
        return task

    def count(self) -> tuple[int, ...]:
        """How many tasks, definitions, workflows, runs, workers of both kinds and namespaces of
        keys there are."""
        return (*(sum(1 for _ in self.walk(path)) for path in (
            "/v1/tasks?limit=1000", "/v1/task-defs?limit=1000", "/v1/workflows?limit=1000",
            "/v1/workflow-runs?limit=1000", "/v1/workers?limit=1000",
            "/v1/embedded-workers?limit=1000")), len(listed(self.get("/v1/kv")["namespaces"])))

    def walk(self, path: str) -> Iterator[Json]:
        """Every item of a list, page by page along the Link headers."""
        following: str | None = path
        while following is not None:
            answer = self.ask("GET", following)
            assert answer.status_code == 200, answer.text
            yield from answer.json()
            following = next_page(answer)


@contextmanager
def no_defects(daemon: Running) -> Iterator[None]:
    """The daemon must live through the block, and find nothing in itself to complain about."""
    begun = daemon.pid
    yield
    assert daemon.pid == begun
    with Api(daemon) as api:
        assert api.get("/healthz") == {"status": "ok"}
        assert api.get("/readyz") == {"status": "ready"}
    log = daemon.log.read_text(errors="replace")
    for words in ("Traceback", "a commit failed", "request failed", "stream failed"):
        assert words not in log, log[max(0, log.index(words) - 2000):][:6000]


def serving(shared_daemon: Running) -> Iterator[Api]:
    """For `api = pytest.fixture(scope="module", name="api")(serving)` in a test file."""
    with no_defects(shared_daemon), Api(shared_daemon) as api:
        yield api


def whole(answer: httpx.Response, status: int) -> Json:
    """A JSON object with this status, properly declared."""
    assert answer.status_code == status, (answer.status_code, answer.text[:2000])
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    found: Json = answer.json()
    return found


def refused(answer: httpx.Response, status: int, code: str, field: str | None = None,
            *more: str) -> Json:
    """A problem document with this status, code and field; more: its further members."""
    assert answer.status_code == status, (answer.status_code, answer.text[:2000])
    assert answer.headers["content-type"] == "application/problem+json"
    problem: Json = answer.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["type"] == f"/docs/errors#{code}"
    assert problem["detail"]
    assert problem["title"]
    assert problem.get("field") == field, problem
    assert set(problem) - {"type", "title", "status", "code", "detail", "field"} == set(more)
    return problem


def listed(value: object) -> list[Json]:
    """A part of an answer that must be a list of objects."""
    assert isinstance(value, list), value
    return value


def next_page(answer: httpx.Response) -> str | None:
    """Where the Link header points to, None on the last page."""
    link = answer.headers.get("link")
    if link is None:
        return None
    found = re.fullmatch(r'<([^>]+)>; rel="next"', link)
    assert found is not None, link
    return found[1]


def raw_exchange(daemon: Running, data: bytes, *, more: Sequence[bytes] = ()) -> bytes:
    """Send bytes on a connection of its own; all that comes back until the end."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=WAIT_S) as line:
        line.sendall(data)
        for each in more:
            line.sendall(each)
        answer = b""
        while chunk := line.recv(65536):
            answer += chunk
        return answer
