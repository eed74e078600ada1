"""The client of client.py for Trio programs: the same calls, each of them awaited.

    async with AsyncClient() as plum:
        task = await plum.submit("word-count", {"text": "one two"})
        task = await plum.wait_task(task["taskId"])
        async with plum.events("tasks", after=0) as events:
            async for event in events:
                ...

Streams stand in an `async with`, so that their lines are closed where they are left.
Cancel: anywhere; a request that was under way may have been carried out or not.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Self, TypeVar, cast

import httpx
import trio

from plumd.sdk import calls
from plumd.sdk.calls import Feed, Pages, Seen
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
    Steps,
    event_of,
    json_of,
    object_of,
    part,
    problem_of,
    request_of,
    server_url,
    stream_of,
    trusted,
    unreachable,
)

if TYPE_CHECKING:
    from plumd.sdk.kv import AsyncKV

T = TypeVar("T")


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """An asynchronous generator that is closed where its block ends."""
    try:
        yield items
    finally:
        assert isinstance(items, AsyncGenerator)
        await items.aclose()


async def end(answer: httpx.Response, body: AsyncIterator[bytes]) -> None:
    """Close an answer of which not everything was read.

    httpx's generators stand one in the other, and closing the outer one leaves the inner ones to
    the garbage collector. A cancellation ends them all from within.
    """
    with trio.CancelScope(shield=True) as scope:
        scope.cancel()
        async for _ in body:
            pass
    with trio.CancelScope(shield=True):
        await answer.aclose()


class AsyncClient:
    """One daemon's API, under Trio. Ended by `aclose` or as a context manager.

    Arguments and errors are those of Client.
    """

    def __init__(self, url: str | None = None, *, timeout_s: float = ANSWER_S,
                 token: str | None = None,
                 transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = server_url(url)
        self._timeout_s = timeout_s
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url, timeout=timeout_s, transport=transport, trust_env=False,
                headers=token_header(token), verify=trusted(self.url))
        except httpx.InvalidURL as error:
            raise ValueError(f"{self.url!r} is no URL: {error}") from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    def kv(self, namespace: str) -> AsyncKV:
        """A namespace of the key-value store, over this client."""
        from plumd.sdk.kv import AsyncKV  # which stands on this module

        return AsyncKV(namespace, self)

    # ------------------------------------------------------------ requests

    async def send(self, ask: Ask) -> httpx.Response:
        """Any request; its answer, if 2xx."""
        try:
            answer = await self._http.send(request_of(self._http, ask, self._timeout_s))
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise unreachable(self.url, error) from error
        if not answer.is_success:
            raise problem_of(answer)
        return answer

    async def follow(self, steps: Steps[T]) -> T:
        """Carry out the steps of a call; see wire.py."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await trio.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    answer = await self.send(step)
                except ClientError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return cast("T", end.value)

    async def chunks(self, ask: Ask, silence_s: float | None) -> AsyncIterator[bytes]:
        """The body of an answer as it comes."""
        asked = stream_of(self._http, ask, self._timeout_s, silence_s)
        try:
            answer = await self._http.send(asked, stream=True)
            body = answer.aiter_bytes()
            try:
                if not answer.is_success:
                    await answer.aread()
                    raise problem_of(answer)
                async for chunk in body:
                    yield chunk
            finally:
                await end(answer, body)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise unreachable(self.url, error) from error

    async def request(self, method: str, path: str, body: Json = NOTHING, *,
                      query: Parameters | None = None, headers: Mapping[str, str] | None = None,
                      timeout_s: float | None = None) -> httpx.Response:
        """Any request of the API, with a JSON body unless it is NOTHING; its answer, if 2xx."""
        return await self.send(Ask(method, path, body, query, headers, timeout_s))

    async def get(self, path: str, query: Parameters | None = None) -> Json:
        """The JSON behind a path."""
        return json_of(await self.send(Ask("GET", path, query=query)))

    async def get_object(self, path: str, query: Parameters | None = None) -> JsonObject:
        """The JSON object behind a path."""
        return object_of(await self.send(Ask("GET", path, query=query)))

    async def items(self, path: str, query: Parameters | None = None, *,
                    limit: int | None = None) -> AsyncIterator[JsonObject]:
        """A list's items, page after page as they are asked for; limit: at most so many."""
        pages = Pages(path, query, limit)
        while pages.ask is not None:
            for item in pages.take(await self.send(pages.ask)):
                yield item

    async def upload(self, path: str, content: AsyncIterator[bytes],
                     size_bytes: int) -> JsonObject:
        """POST bytes, piece by piece, to a route that takes a file; what it answers."""
        try:
            answer = await self._http.post(
                path, content=content, timeout=httpx.Timeout(self._timeout_s, read=None),
                headers={"Content-Type": "application/octet-stream",
                         "Content-Length": str(size_bytes)})
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise unreachable(self.url, error) from error
        if not answer.is_success:
            raise problem_of(answer)
        return object_of(answer)

    # ------------------------------------------------------------ tasks and workflows

    async def submit(self, name: str, payload: Json = NOTHING, *, key: str | None = None,
                     **fields: Json) -> JsonObject:
        """A new task; it is on disk when this returns. Arguments as of Client.submit."""
        return await self.follow(calls.submit(name, payload, key, fields))

    async def run_definition(self, def_id: str, payload: Json = NOTHING, *,
                             key: str | None = None, **fields: Json) -> JsonObject:
        """A new task of a definition; fields: timeoutSec, maxRetries, labels, priority."""
        return await self.follow(calls.run(f"/v1/task-defs/{part(def_id)}", payload, key, fields))

    async def run_workflow(self, workflow_id: str, payload: Json = NOTHING, *,
                           key: str | None = None, version: int | None = None,
                           up_to: str | None = None) -> JsonObject:
        """A new run of a workflow; the payload lies over every step's. version: None = the current
        one; up_to: the outer step that is the last one wanted, None = all."""
        fields = calls.given(version=version, upTo=up_to)
        return await self.follow(calls.run(f"/v1/workflows/{part(workflow_id)}", payload, key,
                                           fields))

    async def task(self, task_id: str) -> JsonObject:
        """A task as it is now."""
        return await self.get_object(calls.task_path(task_id))

    async def run(self, run_id: str) -> JsonObject:
        """A workflow run as it is now, with its steps."""
        return await self.get_object(calls.run_path(run_id))

    def tasks(self, *, limit: int | None = None,
              **query: str | int | None) -> AsyncIterator[JsonObject]:
        """Tasks, newest first; query: state, name, defId, runId, label="key=value"."""
        return self.items("/v1/tasks", query, limit=limit)

    async def act(self, path: str, action: str) -> JsonObject:
        """POST ?action=... on a thing, like start, cancel or rerun on a task."""
        return await self.follow(calls.act(path, action))

    async def cancel_task(self, task_id: str) -> JsonObject:
        """End a task; a running one is stopped first."""
        return await self.act(calls.task_path(task_id), "cancel")

    async def wait_task(self, task_id: str, timeout_s: float | None = None,
                        seen: Seen | None = None) -> JsonObject:
        """The task once it is over. Goes on through a restart of the daemon.

        seen: told how the task is whenever that was asked.  Raises: WaitTimeoutError.
        """
        return await self._wait(calls.task_path(task_id), timeout_s, seen)

    async def wait_run(self, run_id: str, timeout_s: float | None = None,
                       seen: Seen | None = None) -> JsonObject:
        """The workflow run once it is over; else as `wait_task`."""
        return await self._wait(calls.run_path(run_id), timeout_s, seen)

    async def _wait(self, path: str, timeout_s: float | None, seen: Seen | None) -> JsonObject:
        return await self.follow(calls.wait(path, timeout_s, self._timeout_s, seen,
                                            trio.current_time))

    # ------------------------------------------------------------ services and devices

    async def discover(self, service: str, *, version: str = "",
                       protocol: str = "") -> list[JsonObject]:
        """A service's healthy endpoints."""
        return await self.follow(calls.get_objects("/v1/discovery", {
            "service": service, "version": version or None, "protocol": protocol or None}))

    async def endpoint(self, service: str, *, strategy: str = "", version: str = "",
                       protocol: str = "") -> JsonObject:
        """One healthy endpoint by a strategy; ProblemError not_found when there is none."""
        return await self.follow(calls.endpoint(service, strategy, version, protocol))

    async def operate(self, device_id: str, operations: Mapping[str, str], *,
                token: int | None = None) -> None:
        """Have a device carry out operations, name by name; returns when it says that it has.

        token: of a lease on the device.
        """
        await self.follow(calls.operate(device_id, operations, token))

    # ------------------------------------------------------------ streams

    def logs(self, task_id: str, *, attempt: int | None = None, follow: bool = False,
             tail_bytes: int = 0) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """What a task's process printed, as bytes; with follow also what comes until its end.

        tail_bytes: begin so far before the end of what is there; 0 = at the beginning.
        """
        return closing(self._said(calls.task_logs(task_id, attempt), follow, -tail_bytes))

    def instance_logs(self, instance_id: str, *, run: int | None = None, follow: bool = False,
                      tail_bytes: int = 0) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """What one start of an instance printed; arguments as of Client.instance_logs."""
        return closing(self._said(calls.instance_logs(instance_id, run), follow, -tail_bytes))

    async def _said(self, log: calls.Log, follow: bool, offset: int) -> AsyncIterator[bytes]:
        while not follow and not log.finished:
            answer = await self.send(log.page(offset))
            yield answer.content
            offset = log.took(answer)
        if follow:
            async with closing(self.chunks(log.rest(offset), None)) as chunks:
                async for chunk in chunks:
                    yield chunk

    def events(self, topics: str = "", *, after: int | None = None,
               patience_s: float = PATIENCE_S,
               ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """The event log without end; arguments as of Client.events."""
        return closing(self._events(Feed(topics, after, patience_s)))

    async def _events(self, feed: Feed) -> AsyncIterator[Event]:
        while True:
            try:
                frames, asked = Frames(), await self.follow(feed.ask())
                async with closing(self.chunks(asked, SILENCE_S)) as chunks:
                    async for chunk in chunks:
                        for event in map(event_of, frames.feed(chunk)):
                            feed.heard(event.id)
                            yield event
                raise feed.ended(self.url)
            except ClientError as error:
                await trio.sleep(feed.pause_s(error, trio.current_time()))
