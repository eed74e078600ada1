"""Names that change and log lines, through both doors, against the real program."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from plumd.sdk import Context, Worker
from tests.api.live import WAIT_S, Api, Json, listed, refused, serving
from tests.stream.test_stream_api import line

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def log_of(api: Api, task_id: object, query: str = "") -> str:
    answer = api.ask("GET", f"/v1/tasks/{task_id}/logs{query}")
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_names_change_on_a_stream_and_are_shown_at_once(api: Api) -> None:
    since = api.get("/v1/status")["nextEvent"]
    waiting = api.task("n.late")
    async with line(api.daemon, "n-stream") as worker:
        await worker.register("a", "n.one")
        kept = api.task("n.one")
        attempt = await worker.attempt()
        assert attempt["id"] == kept["taskId"]
        await worker.say(tasks=["n.late", "n.late", "n.other"])
        attempt = await worker.attempt()
        assert attempt["id"] == waiting["taskId"], "and nothing that it holds comes again"
        assert api.get("/v1/embedded-workers/n-stream")["tasks"] == ["n.late", "n.other"]
        listed = await trio.to_thread.run_sync(api.daemon.plum, "worker", "list")
        assert "n.late" in listed.stdout
        await worker.report({"id": kept["taskId"]}, {"id": waiting["taskId"]})
        assert api.ended(kept["taskId"])["state"] == "Succeeded"
        await worker.say(tasks=[])
        left = api.task("n.late")
        assert api.get(f"/v1/tasks/{left['taskId']}")["state"] == "Pending"
        said = api.daemon.plum("events", "--from", str(since), "--topics", "workers", "--count",
                               "3", "-o", "json").stdout
        assert said.count("n-stream") == 3
        await worker.say(tasks=["!builtin"])
        assert await worker.code() == 1001


async def test_how_a_worker_is_reached_and_what_becomes_of_it(api: Api) -> None:
    """By each way in, and the events that tell a screen to look again."""
    start = int(str(api.get("/v1/status")["nextEvent"]))

    def shown(worker_id: str) -> tuple[object, ...]:
        worker = api.get(f"/v1/embedded-workers/{worker_id}")
        return worker["kind"], worker["transport"], worker["address"], worker["state"]

    async with line(api.daemon, "n-way") as worker:
        await worker.register("a", "w.one")
        assert shown("n-way") == ("embedded", "websocket", "127.0.0.1", "online")
        await worker.say(tasks=["w.two"])
        await until(lambda: api.get("/v1/embedded-workers/n-way")["tasks"] == ["w.two"])
        for action, state in (("drain", "draining"), ("drain", "draining"), ("resume", "online")):
            api.done("POST", f"/v1/embedded-workers/n-way?action={action}")
            assert shown("n-way")[3] == state
        await worker.cut()
    await until(lambda: shown("n-way") == ("embedded", None, None, "away"))
    async with line(api.daemon, "n-way") as worker:
        await worker.register("a", "w.two")
        assert shown("n-way")[3] == "online"
    exchange(api, "n-way-poll", register={"session": "p", "tasks": ["w.x"]}, session="p",
             holding=[])
    assert shown("n-way-poll") == ("embedded", "long-poll", "127.0.0.1", "online")
    exchange(api, "n-way-poll", session="p", holding=[], bye=True)
    told = [(item["data"]["id"], item["data"]["what"])      # type: ignore[index]
            for item in api.walk("/v1/events/history?topics=workers")
            if int(str(item["seq"])) >= start][::-1]
    assert [what for worker_id, what in told if worker_id == "n-way"][:6] == [
        "online", "changed", "draining", "resumed", "away", "online"]
    assert [what for worker_id, what in told if worker_id == "n-way-poll"] == ["online", "left"]


async def until(true: Callable[[], bool]) -> None:
    """Look until it is so."""
    with trio.fail_after(WAIT_S):
        while not true():       # noqa: ASYNC110 - it is in another process
            await trio.sleep(0.01)


async def test_a_rename_beside_attempts_that_come(api: Api) -> None:
    """What is given out while the names change is given once."""
    async with line(api.daemon, "n-race") as worker:
        await worker.register("a", "r.x", capacity=50)
        tasks = [api.task("r.x")["taskId"] for _ in range(20)]
        for number in range(20):
            await worker.say(tasks=["r.x", f"r.{number}"])
        seen: dict[str, int] = {}
        while len(seen) < 20:
            down = await worker.hear()
            for attempt in listed(down.get("attempts", [])):
                seen[str(attempt["id"])] = seen.get(str(attempt["id"]), 0) + 1
        assert sorted(seen) == sorted(map(str, tasks))


def exchange(api: Api, worker_id: str, **up: object) -> Json:
    return api.done("POST", f"/v1/embedded-workers/{worker_id}/exchange", up)


def test_names_change_and_lines_come_by_long_poll(api: Api) -> None:
    exchange(api, "n-poll", register={"session": "p", "tasks": ["p.one"]}, session="p", holding=[])
    task = api.task("p.late")
    assert "attempts" not in exchange(api, "n-poll", session="p", holding=[])
    down = exchange(api, "n-poll", session="p", holding=[], tasks=["p.late"], waitSec=5)
    if "attempts" not in down:
        down = exchange(api, "n-poll", session="p", holding=[], waitSec=5)
    [attempt] = listed(down["attempts"])
    assert attempt["id"] == task["taskId"]
    exchange(api, "n-poll", session="p", holding=[attempt["id"]],
             logs=[{"id": attempt["id"], "text": "by long poll"}])
    assert log_of(api, task["taskId"]) == "by long poll\n"
    answer = api.ask("POST", "/v1/embedded-workers/n-poll/exchange", {
        "session": "p", "holding": [], "tasks": ["ok", "!x"]})
    refused(answer, 422, "invalid", "tasks[1]")
    assert api.get("/v1/embedded-workers/n-poll")["tasks"] == ["p.late"]
    for bad in ([{"id": "1", "text": "x" * 4097}], [{"id": "?", "text": ""}],
                [{"id": "1", "text": ""}] * 1001, [{"text": ""}]):
        answer = api.ask("POST", "/v1/embedded-workers/n-poll/exchange", {
            "session": "p", "holding": [], "logs": bad})
        assert answer.status_code in (400, 422), answer.text


async def test_lines_of_an_attempt_are_its_log_and_those_of_a_stale_one_are_nowhere(
        api: Api) -> None:
    async with line(api.daemon, "l-one") as worker:
        await worker.register("a", "l.one")
        path = api.task("l.one", maxRetries=1)["taskId"]
        first = await worker.attempt()
        assert log_of(api, path) == ""
        await worker.say(logs=[{"id": first["id"], "text": "eins ü"}, {"id": "abc", "text": "no"},
                               {"id": first["id"], "text": "zwei\n"}])
        await worker.say(logs=[{"id": first["id"], "text": "with the result"}], seq=1,
                         results=[{"id": first["id"], "error": {"message": "again"}}])
        worker.seq = 1
        while "attempts" not in (down := await worker.hear()):
            pass
        [second] = listed(down["attempts"])
        assert second["id"] == f"{first['id']}.2"
        await worker.say(logs=[{"id": first["id"], "text": "too late"},
                               {"id": second["id"], "text": "of the second"}])
        await worker.report({"id": second["id"]})
    assert log_of(api, path, "?attempt=1") == "eins ü\nzwei\nwith the result\n"
    assert log_of(api, path) == "of the second\n"
    page = api.ask("GET", f"/v1/tasks/{path}/logs?attempt=1&offset=8&limit=5")
    assert (page.text, page.headers["plum-next-offset"], page.headers["plum-finished"]) == (
        "zwei\n", "13", "false")
    assert api.daemon.plum("task", "logs", str(path)).stdout == "of the second\n"
    api.gone(f"/v1/tasks/{path}")
    assert api.ask("GET", f"/v1/tasks/{path}/logs").status_code == 404


async def test_counted_lines_are_acknowledged_and_kept_once(api: Api) -> None:
    """By both doors."""
    async with line(api.daemon, "l-count") as worker:
        down = await worker.register("a", "l.count")
        assert down["registered"] == {"leaseSec": 30, "beatSec": 10, "logAcks": True}
        task = api.task("l.count")
        attempt = await worker.attempt()
        for seq, texts in enumerate((["eins \u00fc"], ["eins \u00fc", "zwei"]), start=7):
            logs, at = [], 0
            for text in texts:
                logs.append({"id": attempt["id"], "text": text, "at": at})
                at += len(text.encode()) + 1
            await worker.say(logs=logs, logSeq=seq)
            assert await worker.hear() == {"logAck": seq}
        assert log_of(api, task["taskId"]) == "eins \u00fc\nzwei\n"
        await worker.report({"id": attempt["id"]})
    exchange(api, "l-count-poll", register={"session": "p", "tasks": ["l.count-poll"]},
             session="p", holding=[])
    task = api.task("l.count-poll")
    down = {}
    while "attempts" not in down:
        down = exchange(api, "l-count-poll", session="p", holding=[], waitSec=5)
    [attempt] = listed(down["attempts"])
    for seq in (1, 1, 2):
        down = exchange(api, "l-count-poll", session="p", holding=[attempt["id"]], waitSec=60,
                        logSeq=seq, logs=[{"id": attempt["id"], "text": "a", "at": 2 * (seq - 1)}])
        assert down == {"logAck": seq}, "at once"
    assert log_of(api, task["taskId"]) == "a\na\n"
    down = exchange(api, "l-count-poll", session="p", holding=[attempt["id"]], seq=1, logSeq=3,
                    logs=[{"id": attempt["id"], "text": "b", "at": 4}],
                    results=[{"id": attempt["id"]}])
    assert (down["ack"], down["logAck"]) == (1, 3)
    assert log_of(api, task["taskId"]) == "a\na\nb\n"


async def test_lines_of_another_worker_are_dropped(api: Api) -> None:
    async with line(api.daemon, "l-mine") as mine, line(api.daemon, "l-other") as other:
        await mine.register("a", "l.mine")
        task = api.task("l.mine")
        attempt = await mine.attempt()
        await other.register("b", "l.other")
        await other.say(logs=[{"id": attempt["id"], "text": "not mine"}])
        await other.say(beat=True)
        await mine.say(logs=[{"id": attempt["id"], "text": "mine"}])
        await mine.report({"id": attempt["id"]})
    assert log_of(api, task["taskId"]) == "mine\n"


async def test_a_log_is_followed_while_it_grows(api: Api) -> None:
    begun, go_on = trio.Event(), trio.Event()
    worker = Worker(api.daemon.url, worker_id="l-follow")

    @worker.task("l.follow")
    async def talk(payload: None, context: Context) -> None:
        del payload
        context.log("first")
        begun.set()
        await go_on.wait()
        context.log("second")

    def follow(task_id: object) -> bytes:
        said = b""
        with api.http.stream("GET", f"/v1/tasks/{task_id}/logs?follow=true") as answer:
            for piece in answer.iter_bytes():
                said += piece
                if said == b"first\n":
                    trio.from_thread.run_sync(go_on.set)
        return said

    async with trio.open_nursery() as nursery:
        await nursery.start(worker.serve)
        task = await trio.to_thread.run_sync(api.task, "l.follow")
        await begun.wait()
        assert await trio.to_thread.run_sync(follow, task["taskId"]) == b"first\nsecond\n"
        worker.drain()
    assert api.ended(task["taskId"])["state"] == "Succeeded"


def test_a_log_of_what_said_nothing(api: Api) -> None:
    task = api.task()
    api.ended(task["taskId"])
    refused(api.ask("GET", f"/v1/tasks/{task['taskId']}/logs"), 404, "not_found")
    waits = api.task("l.nobody")
    refused(api.ask("GET", f"/v1/tasks/{waits['taskId']}/logs?follow=true"), 404, "not_found")
