"""AsyncClient: the same as Client but for the awaiting, and streams that close where they end."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import trio
from trio.testing import MockClock

from plumd.sdk import (
    KV,
    AsyncClient,
    AsyncKV,
    Client,
    ProblemError,
    UnreachableError,
    WaitTimeoutError,
)
from tests.daemon.running import Running
from tests.sdk.test_client import Server, problem

BASE = "http://plum.test"


class AsyncServer(httpx.AsyncBaseTransport):
    """Answers by a script, and remembers what was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.server = Server(*answers)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        return self.server(request)

    def client(self) -> AsyncClient:
        return AsyncClient(BASE, transport=self)


def names(kind: type) -> dict[str, list[str]]:
    """Public methods and their parameters."""
    return {name: list(inspect.signature(one).parameters)
            for name, one in vars(kind).items() if not name.startswith("_") and callable(one)}


@pytest.mark.parametrize(("blocking", "trio_form"), [(Client, AsyncClient), (KV, AsyncKV)])
def test_both_forms_have_the_same_methods(blocking: type, trio_form: type) -> None:
    ours, theirs = names(blocking), names(trio_form)
    theirs["close"] = theirs.pop("aclose")
    theirs.pop("changes", None)     # a step of its watch
    assert ours == theirs


async def test_waiting_outlives_an_outage(autojump_clock: MockClock) -> None:
    del autojump_clock
    begun = trio.current_time()
    server = AsyncServer(
        httpx.Response(200, json={"state": "Running"}), httpx.ConnectError("down"),
        problem(503, "overloaded"), httpx.Response(200, json={"state": "Failed"}))
    async with server.client() as plum:
        assert await plum.wait_task("1") == {"state": "Failed"}
    assert trio.current_time() - begun == pytest.approx(0.1 + 0.2 + 0.4)
    assert server.server.asked[0].headers["prefer"] == "wait=1"


async def test_waiting_gives_up(autojump_clock: MockClock) -> None:
    del autojump_clock
    async with AsyncServer(*[httpx.ConnectError("down")] * 100).client() as plum:
        with pytest.raises(UnreachableError):
            await plum.wait_run("1")
    async with AsyncServer(httpx.Response(200, json={"state": "Pending"})).client() as plum:
        with pytest.raises(WaitTimeoutError):
            await plum.wait_task("1", timeout_s=0)


async def test_events_resume_where_the_line_was_cut(autojump_clock: MockClock) -> None:
    del autojump_clock

    async def cut() -> AsyncIterator[bytes]:
        yield b'id: 5\nevent: task\ndata: {"n":5}\n\n'
        raise httpx.ReadError("cut")

    server = AsyncServer(
        httpx.Response(200, json={"nextEvent": 5}), httpx.Response(200, content=cut()),
        httpx.Response(200, content=b'id: 6\nevent: task\ndata: {"n":6}\n\n'))
    async with server.client() as plum, plum.events("tasks") as events:
        assert [(await anext(events)).id for _ in range(2)] == [5, 6]
    assert [one.headers.get("last-event-id") for one in server.server.asked] == [None, "4", "5"]


async def test_refusals_and_what_is_no_daemon() -> None:
    async with AsyncServer(problem(404, "not_found"), httpx.Response(200, text="<html>"),
                           problem(422, "invalid", field="topics")).client() as plum:
        with pytest.raises(ProblemError, match="not_found"):
            await plum.task("1")
        with pytest.raises(UnreachableError, match="not JSON"):
            await plum.task("1")
        with pytest.raises(ProblemError, match="topics"):
            async with plum.events("nonsense", after=0) as events:
                await anext(events)


@pytest.mark.daemon
async def test_the_real_daemon(shared_daemon: Running) -> None:
    async with AsyncClient(shared_daemon.url) as plum:
        task = await plum.submit("builtin.echo", {"n": 1}, labels={"part": "aio"}, key="once")
        over = await plum.wait_task(str(task["taskId"]), 20)
        assert over["result"] == {"echo": {"n": 1}}
        assert [one["taskId"] async for one in plum.tasks(label="part=aio")] == [task["taskId"]]
        definition = await plum.request("POST", "/v1/task-defs", {"name": "aio"})
        made = await plum.run_definition(json.loads(definition.content)["defId"], {"a": 1})
        assert (await plum.cancel_task(str(made["taskId"])))["taskId"] == made["taskId"]
        async with plum.events("tasks", after=0) as events:
            assert (await anext(events)).name == "task"
        script = "printf 'a\\033b'; printf 'c\\377'"
        noise = await plum.submit("noise", {"command": "sh", "args": ["-c", script]},
                                  executor="os_process")
        for follow in (True, False):
            async with plum.logs(str(noise["taskId"]), follow=follow) as logs:
                assert b"".join([chunk async for chunk in logs]) == b"a\x1bbc\xff"
            async with plum.logs(str(noise["taskId"]), follow=follow, tail_bytes=2) as logs:
                assert b"".join([chunk async for chunk in logs]) == b"c\xff"
        await plum.request("POST", "/v1/services/register", {
            "instanceId": "i", "serviceName": "s", "port": 1, "ip": "127.0.0.1"})
        assert (await plum.endpoint("s"))["port"] == 1
        assert len(await plum.discover("s")) == 1
        with pytest.raises(ProblemError):
            await plum.endpoint("s", version="9")


@pytest.mark.daemon
def test_services_from_the_blocking_client(shared_daemon: Running) -> None:
    with Client(shared_daemon.url) as plum:
        plum.request("POST", "/v1/services/register", {
            "instanceId": "j", "serviceName": "t", "port": 2, "ip": "127.0.0.1"})
        assert plum.endpoint("t", strategy="lazy")["port"] == 2
        assert [one["port"] for one in plum.discover("t")] == [2]
