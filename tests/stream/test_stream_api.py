"""A worker's session by WebSocket against the real program: what stands on the wire."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from tests.api.live import WAIT_S, Api, Json, listed, serving
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


class Line:
    """A worker's end, played by hand."""

    def __init__(self, ws: WebSocketConnection, stream: trio.SocketStream) -> None:
        self.ws = ws
        self.stream = stream
        self.seq = 0

    async def say(self, **up: object) -> None:
        await self.ws.send_message(json.dumps(up))

    async def hear(self) -> Json:
        with trio.fail_after(WAIT_S):
            down: Json = json.loads(await self.ws.get_message())
        return down

    async def register(self, session: str, *tasks: str, holding: tuple[object, ...] = (),
                       **more: object) -> Json:
        """Register and hear the answer, which must say so."""
        await self.say(register={"session": session, "tasks": list(tasks), **more},
                       holding=list(holding))
        down = await self.hear()
        assert down["registered"]["leaseSec"] > 0, down  # type: ignore[index]
        return down

    async def attempt(self) -> Json:
        """The one attempt that comes next."""
        down = await self.hear()
        [attempt] = listed(down["attempts"])
        return attempt

    async def report(self, *results: Json) -> Json:
        """Say how attempts ended; the acknowledgement."""
        self.seq += 1
        await self.say(seq=self.seq, results=list(results))
        while True:
            down = await self.hear()
            if "ack" in down:
                assert down["ack"] == self.seq
                return down

    async def code(self) -> int:
        """The code with which the daemon closes the line."""
        with trio.fail_after(WAIT_S):
            with pytest.raises(ConnectionClosed) as closed:
                await self.pass_over()
        assert closed.value.reason is not None
        return int(closed.value.reason.code)

    async def pass_over(self) -> None:
        """Read without end."""
        while True:
            await self.ws.get_message()

    async def cut(self) -> None:
        """Break the line off without a word, as a network does."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await trio.aclose_forcefully(self.stream)


@asynccontextmanager
async def line(daemon: Running, worker_id: str) -> AsyncIterator[Line]:
    """An open line to the daemon."""
    async with trio.open_nursery() as nursery:
        stream = await trio.open_tcp_stream("127.0.0.1", daemon.port)
        async with stream:
            ws = await wrap_client_stream(
                nursery, stream, f"127.0.0.1:{daemon.port}",
                f"/v1/embedded-workers/{worker_id}/stream", max_message_size=40 << 20)
            yield Line(ws, stream)
            with trio.move_on_after(1), suppress(ConnectionClosed):
                await ws.aclose()
        nursery.cancel_scope.cancel()


async def test_attempts_results_and_acknowledgements(api: Api) -> None:
    task = api.task("s.one", payload={"x": "ü"}, timeoutSec=7)
    async with line(api.daemon, "s-one") as worker:
        down = await worker.register("a", "s.one", nodeId="n", capacity=2, beatSec=5,
                                     labels={"k": "v"}, instanceId="i", appName="p",
                                     appVersion="2")
        assert down["registered"] == {"leaseSec": 15, "beatSec": 5, "logAcks": True}
        if "attempts" not in down:
            down = await worker.hear()
        assert down["attempts"] == [{"id": task["taskId"], "name": "s.one", "payload": {"x": "ü"},
                                     "timeoutSec": 7}]
        shown = api.get("/v1/embedded-workers/s-one")
        assert (shown["health"], shown["running"], shown["attempts"], shown["labels"]) == (
            "Healthy", 1, [task["taskId"]], {"k": "v"})
        await worker.say(progress=[{"id": task["taskId"], "ratio": 0.5, "text": "half"}])
        await worker.say(beat=True)
        down = await worker.report({"id": task["taskId"], "result": {"y": [1, None]}})
        assert down == {"ack": 1}
        done = api.get(f"/v1/tasks/{task['taskId']}")
        assert (done["state"], done["result"], done["worker"]) == (
            "Succeeded", {"y": [1, None]}, "s-one")
        # The same once more, and what never was: refused, and nothing changes.
        down = await worker.report({"id": task["taskId"], "error": {"message": "late"}},
                                   {"id": "abc", "result": 1})
        assert [one["id"] for one in down["refused"]] == [task["taskId"], "0" * 12 + "abc"]  # type: ignore[attr-defined]
        assert api.get(f"/v1/tasks/{task['taskId']}") == done


async def test_failures_and_retries(api: Api) -> None:
    async with line(api.daemon, "s-fail") as worker:
        await worker.register("a", "s.fail")
        task = api.task("s.fail", maxRetries=5)
        first = await worker.attempt()
        await worker.report({"id": first["id"], "retryAfterSec": 0.05,
                             "error": {"code": "odd", "message": "m", "detail": {"d": 1}}})
        second = await worker.attempt()
        assert second["id"] == f"{task['taskId']}.2"
        assert second["attempt"] == 2
        await worker.report({"id": second["id"], "retry": False, "error": {"message": "enough"}})
        done = api.ended(task["taskId"])
        assert done["state"] == "Failed"
        error = done["error"]
        assert isinstance(error, dict)
        assert (error["code"], error["message"], error["attempt"], error["worker"]) == (
            "failed", "enough", 2, "s-fail")
        past = api.items(f"/v1/tasks/{task['taskId']}/attempts")[0]
        assert past["error"]["detail"] == {"d": 1}  # type: ignore[index]


async def test_cancel_and_timeout_are_told(api: Api) -> None:
    async with line(api.daemon, "s-stop") as worker:
        await worker.register("a", "s.stop")
        task = api.task("s.stop")
        attempt = await worker.attempt()
        asked = api.done("POST", f"/v1/tasks/{task['taskId']}?action=cancel")
        assert asked["state"] == "Running"
        assert asked["cancelRequestedAt"]
        assert await worker.hear() == {"cancel": [{"id": attempt["id"]}]}
        await worker.report({"id": attempt["id"], "stopped": True})
        assert api.ended(task["taskId"])["state"] == "Canceled"
        slow = api.task("s.stop", timeoutSec=0.05)
        attempt = await worker.attempt()
        assert await worker.hear() == {"cancel": [{"id": attempt["id"], "reason": "timeout"}]}
        await worker.report({"id": attempt["id"], "stopped": True})
        assert api.ended(slow["taskId"])["state"] == "Timeout"


async def test_a_result_that_crosses_a_cancel_is_not_kept(api: Api) -> None:
    async with line(api.daemon, "s-cross") as worker:
        await worker.register("a", "s.cross")
        task = api.task("s.cross")
        attempt = await worker.attempt()
        api.done("POST", f"/v1/tasks/{task['taskId']}?action=cancel")
        await worker.report({"id": attempt["id"], "result": 1})
        done = api.ended(task["taskId"])
        assert done["state"] in ("Canceled", "Succeeded")
        assert (done["result"] is None) == (done["state"] == "Canceled")


async def test_capacity_and_drain(api: Api) -> None:
    async with line(api.daemon, "s-drain") as worker:
        await worker.register("a", "s.drain", capacity=1)
        first, second = api.task("s.drain"), api.task("s.drain")
        attempt = await worker.attempt()
        assert attempt["id"] == first["taskId"]
        await worker.say(drain=True)
        await worker.report({"id": attempt["id"]})
        assert api.get("/v1/embedded-workers/s-drain")["health"] == "Draining"
        assert api.get(f"/v1/tasks/{second['taskId']}")["state"] == "Pending"
        api.done("POST", "/v1/embedded-workers/s-drain?action=resume")
        attempt = await worker.attempt()
        assert attempt["id"] == second["taskId"]
        await worker.report({"id": attempt["id"]})
        await worker.say(bye=True)
        assert await worker.code() in (1000, 1001)
    assert api.ask("GET", "/v1/embedded-workers/s-drain").status_code == 404


async def test_what_is_asked_for_ahead_and_given_back(api: Api) -> None:
    tasks = [api.task("s.ahead")["taskId"] for _ in range(4)]
    async with line(api.daemon, "s-ahead") as quick, line(api.daemon, "s-other") as other:
        down = await quick.register("a", "s.ahead", capacity=1)
        [attempt] = listed((down if "attempts" in down else await quick.hear())["attempts"])
        assert attempt["id"] == tasks[0]
        await quick.say(ahead=2)
        down = await quick.hear()
        assert [one["id"] for one in listed(down["attempts"])] == tasks[1:3]
        shown = api.get("/v1/embedded-workers/s-ahead")
        assert (shown["capacity"], shown["running"]) == (1, 3)
        await quick.say(ahead=0)
        await quick.report({"id": tasks[2], "error": {"code": "returned"}})
        down = await other.register("b", "s.ahead", capacity=1)
        [attempt] = listed((down if "attempts" in down else await other.hear())["attempts"])
        assert (attempt["id"], attempt["attempt"]) == (f"{tasks[2]}.2", 2)
        await other.report({"id": attempt["id"]})
        shown = api.get(f"/v1/tasks/{tasks[2]}")
        assert (shown["state"], shown["worker"]) == ("Succeeded", "s-other")
        history = listed(api.done("GET", f"/v1/tasks/{tasks[2]}/attempts"))
        assert [one["ending"] for one in history] == ["lost", "succeeded"]


async def test_a_line_that_is_back_says_what_it_holds(api: Api) -> None:
    held, lost = api.task("s.back"), api.task("s.back")
    async with line(api.daemon, "s-back") as worker:
        down = await worker.register("a", "s.back")
        got = listed(down.get("attempts", []))
        while len(got) < 2:
            got += listed((await worker.hear())["attempts"])
        await worker.cut()
    async with line(api.daemon, "s-back") as worker:
        down = await worker.register("a", "s.back", holding=(held["taskId"],))
        if "attempts" not in down:
            down = await worker.hear()
        assert [one["id"] for one in down["attempts"]] == [lost["taskId"]]  # type: ignore[attr-defined]
        await worker.report({"id": held["taskId"], "result": 1}, {"id": lost["taskId"]})
    for task in (held, lost):
        done = api.ended(task["taskId"])
        assert (done["state"], done["attempt"]) == ("Succeeded", 1)


async def test_a_new_session_loses_what_the_old_one_held(api: Api) -> None:
    again, once = api.task("s.new"), api.task("s.new", onLost="fail")
    async with line(api.daemon, "s-new") as worker:
        down = await worker.register("a", "s.new")
        got = listed(down.get("attempts", []))
        while len(got) < 2:
            got += listed((await worker.hear())["attempts"])
        await worker.cut()
    async with line(api.daemon, "s-new") as worker:
        down = await worker.register("b", "s.new", holding=(again["taskId"],))
        while "attempts" not in down:
            assert {one["reason"] for one in down.get("cancel", [])} <= {"stale"}  # type: ignore[attr-defined]
            down = await worker.hear()
        [attempt] = listed(down["attempts"])
        assert attempt["id"] == f"{again['taskId']}.2"
        late = await worker.report({"id": again["taskId"], "result": "of the first"})
        assert late["refused"] == [{"id": again["taskId"], "attempt": 2}]
        await worker.report({"id": attempt["id"], "result": "of the second"})
    assert api.ended(again["taskId"])["result"] == "of the second"
    done = api.ended(once["taskId"])
    assert (done["state"], done["error"]["code"]) == ("Failed", "lost")  # type: ignore[index]


async def test_two_processes_with_one_id(api: Api) -> None:
    async with line(api.daemon, "s-twin") as first, line(api.daemon, "s-twin") as second:
        await first.register("a", "s.twin")
        await second.register("b", "s.twin")
        down = await first.hear()
        assert down["error"]["code"] == "session_replaced"  # type: ignore[index]
        assert await first.code() == 1001
        task = api.task("s.twin")
        attempt = await second.attempt()
        await second.report({"id": attempt["id"], "result": 2})
        assert api.ended(task["taskId"])["result"] == 2
        assert api.get("/v1/embedded-workers/s-twin")["health"] == "Healthy"


async def test_deleting_a_worker_closes_its_line(api: Api) -> None:
    async with line(api.daemon, "s-deleted") as worker:
        await worker.register("a", "s.deleted")
        api.gone("/v1/embedded-workers/s-deleted")
        assert await worker.code() in (1000, 1001)


@pytest.mark.parametrize(("worker_id", "task"), [
    ("local:builtin", "fine"), ("local%3Aos_process", "fine"), ("s-thief", "!os_process"),
    ("s-thief", "!builtin"), ("x" * 201, "fine")])
async def test_nobody_takes_the_place_of_the_daemons_own_executors(
        api: Api, worker_id: str, task: str) -> None:
    before = api.count()
    async with line(api.daemon, worker_id) as worker:
        await worker.say(register={"session": "a", "tasks": [task]}, holding=[])
        assert (await worker.hear())["error"]["code"] == "invalid"  # type: ignore[index]
        assert await worker.code() == 1001
    assert api.ended(api.task()["taskId"])["worker"] == "local:builtin"
    assert api.count() == (before[0] + 1, *before[1:])


BAD_FIRST = [
    b"", b"{", b"null", b"[]", b"\xff", b"{}", b'{"beat": true}',
    b'{"session": "a", "holding": []}', b'{"register": {"session": "a"}, "holding": []}',
    b'{"register": {"session": "a", "tasks": []}}',
    b'{"register": {"session": "", "tasks": []}, "holding": []}',
    b'{"register": {"session": "a", "tasks": [""]}, "holding": []}',
    b'{"register": {"session": "a", "tasks": [], "version": 2}, "holding": []}',
    b'{"register": {"session": "a", "tasks": [], "capacity": 0}, "holding": []}',
    b'{"register": {"session": "a", "tasks": []}, "holding": ["../x"]}',
    b"[" * 100_000,
]
BAD_LATER = [
    b"x", b'{"results": [{"id": "1"}]}', b'{"seq": 1}', b'{"seq": 1, "results": [{"id": "zz"}]}',
    b'{"register": {"session": "a", "tasks": []}, "holding": []}',
    b'{"progress": [{"id": "1", "ratio": 2}]}', b'{"seq": 1, "results": [{"id": "1", "result": ',
]


@pytest.mark.parametrize("kind", [str, bytes])
async def test_bad_messages_get_a_clean_close_and_change_nothing(api: Api, kind: type) -> None:
    before = api.count()
    for message in BAD_FIRST:
        async with line(api.daemon, "s-bad") as worker:
            if kind is bytes or message == b"\xff":
                await worker.ws.send_message(message)
            else:
                await worker.ws.send_message(message.decode())
            assert await worker.code() == 1002, message
    assert api.count() == before
    for message in BAD_LATER:
        async with line(api.daemon, "s-bad") as worker:
            await worker.register("a", "s.bad")
            await worker.ws.send_message(message if kind is bytes else message.decode())
            assert await worker.code() == 1002, message
    assert api.count() == (*before[:5], before[5] + 1, *before[6:])      # one embedded worker
    api.gone("/v1/embedded-workers/s-bad")


async def test_a_message_over_the_bound(api: Api) -> None:
    async with line(api.daemon, "s-long") as worker:
        await worker.register("a", "s.long")
        with suppress(ConnectionClosed):
            await worker.ws.send_message(" " * ((32 << 20) + 1))
        assert await worker.code() in (1002, 1006, 1009)
    api.gone("/v1/embedded-workers/s-long")


async def test_large_payloads_and_results(api: Api) -> None:
    text = "x" * (3 << 20)
    async with line(api.daemon, "s-large") as worker:
        await worker.register("a", "s.large")
        task = api.task("s.large", payload=text)
        attempt = await worker.attempt()
        assert attempt["payload"] == text
        await worker.report({"id": attempt["id"], "result": text + "!"})
    done = api.ended(task["taskId"])
    assert done["result"] == text + "!"
    [listed] = api.items("/v1/tasks?name=s.large")
    assert listed["omitted"] == ["payload", "result"]


async def test_a_session_outlives_a_kill_of_the_daemon(tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon, Api(daemon) as api:
        async with line(daemon, "s-kill") as worker:
            await worker.register("a", "s.kill")
            task = api.task("s.kill")
            attempt = await worker.attempt()
            daemon.kill()
            await worker.code()
        daemon.start()
        async with line(daemon, "s-kill") as worker:
            await worker.register("a", "s.kill", holding=(attempt["id"],))
            assert await worker.report({"id": attempt["id"], "result": "kept"}) == {"ack": 1}
        done = api.ended(task["taskId"])
        assert (done["state"], done["result"], done["attempt"]) == ("Succeeded", "kept", 1)


async def test_a_daemon_that_leaves_says_so(tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon, Api(daemon):
        async with line(daemon, "s-leave") as worker:
            await worker.register("a", "s.leave")
            assert daemon.process is not None
            daemon.process.terminate()
            assert (await worker.hear())["drain"] is True
            assert await worker.code() == 1001
        assert await trio.to_thread.run_sync(daemon.process.wait, WAIT_S) == 0
