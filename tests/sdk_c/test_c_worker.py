"""The C worker against the real daemon: all that can happen to an attempt, and to the line."""

from __future__ import annotations

import collections
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumd.sdk.client import Client, Json, JsonObject
from tests.daemon.running import Running
from tests.sdk_c.building import HERE, Workshop
from tests.sdk_c.programs import Program, until

SCENARIOS = HERE / "scenarios.c"
KINDS = {
    "inline": ("asan", "0"), "threads": ("asan", "4"), "step": ("asan", "0", "step"),
    "poll": ("asan", "0", "poll"), "poll-threads": ("asan", "4", "poll"),
    "races": ("tsan", "8"), "poll-races": ("tsan", "8", "poll"),
}


def worker(workshop: Workshop, url: str, folder: Path, name: str, kind: str,
           *options: str) -> Program:
    """A worker of that kind, registered."""
    variant, *words = KINDS[kind]
    program = workshop.program(SCENARIOS, variant)
    running = Program(folder / f"{name}.out", program, url, name, *words, *options)
    running.wait_for("1 registered as")
    return running


def names(api: Client, worker_id: str) -> list[str]:
    """What tasks the daemon knows the worker by."""
    shown = api.get_object(f"/v1/embedded-workers/{worker_id}")["tasks"]
    assert isinstance(shown, list)
    return [str(name) for name in shown]


@pytest.fixture
def api(shared_daemon: Running) -> Iterator[Client]:
    with Client(shared_daemon.url) as client:
        yield client


def outcome(api: Client, name: str, payload: Json = None, **fields: float) -> JsonObject:
    """The task, over."""
    made = api.submit(name, payload, key=None, **fields)
    return api.wait_task(str(made["taskId"]), 60)


@pytest.mark.parametrize("kind", KINDS)
def test_attempts(kind: str, shared_daemon: Running, api: Client, workshop: Workshop,
                  tmp_path: Path) -> None:
    """Success, failure, text, bytes, deferral, a burst, drain: by every kind of line and thread."""
    with worker(workshop, shared_daemon.url, tmp_path, kind, kind) as running:
        value: Json = {"text": "é\"\\\n\u0000𝄞", "list": [1, -2.5e-3, None, True]}
        assert outcome(api, "echo", value)["result"] == value
        large = "é𝄞" * 170_000         # a megabyte of UTF-8
        assert outcome(api, "echo", large)["result"] == large
        assert outcome(api, "silent")["result"] is None
        assert outcome(api, "later")["result"] == "later"
        assert outcome(api, "text")["result"] == 'not "JSON"\né \ufffd'
        assert outcome(api, "bytes")["result"] == "AAEC/w=="
        failed = outcome(api, "fail", {"retry": False}, maxRetries=5)
        assert (failed["state"], failed["attempt"]) == ("Failed", 1)
        error = failed["error"]
        assert isinstance(error, dict)
        assert (error["code"], error["message"]) == ("broken", 'it "broke" \ufffd')
        assert error.get("detail") == {"at": 7}
        assert outcome(api, "fail", {"afterMs": 10}, maxRetries=2)["attempt"] == 3
        wrong = outcome(api, "no-json", maxRetries=5)["error"]
        assert isinstance(wrong, dict)
        assert wrong["code"] == "invalid_result"
        tasks: list[Json] = [{"name": "echo", "payload": number} for number in range(1_000)]
        made = api.request("POST", "/v1/tasks/bulk", {"tasks": tasks}).json()["results"]
        until(lambda: not any(api.tasks(name="echo", state="Pending"))
              and not any(api.tasks(name="echo", state="Running")))
        results = {str(one["taskId"]): one["result"] for one in api.tasks(name="echo")}
        assert [results[one["taskId"]] for one in made] == list(range(1_000))
        assert "ended 0: fine" in running.end()


@pytest.mark.parametrize("kind", ["threads", "races", "poll-threads"])
def test_cancel_timeout_and_progress(kind: str, shared_daemon: Running, api: Client,
                                     workshop: Workshop, tmp_path: Path) -> None:
    with worker(workshop, shared_daemon.url, tmp_path, "c" + kind, kind) as running:
        task_id = str(api.submit("nap", 600_000)["taskId"])
        until(lambda: isinstance(api.task(task_id)["progress"], dict))
        api.cancel_task(task_id)
        assert api.wait_task(task_id, 60)["state"] == "Canceled"
        running.wait_for(f"cancel {task_id} canceled")
        running.wait_for("1 canceled\n")
        assert outcome(api, "nap", 600_000, timeoutSec=0.2)["state"] == "Timeout"
        running.wait_for("1 timeout\n")
        # What it logs is there before the result, and belongs to its task.
        done = str(api.submit("nap", 5)["taskId"])
        api.wait_task(done, 60)
        assert b"".join(api.logs(done)) == b"napping\n"
        running.end()


def test_names_come_and_go(shared_daemon: Running, api: Client, workshop: Workshop,
                           tmp_path: Path) -> None:
    """At once, and with the next line again."""
    with worker(workshop, shared_daemon.url, tmp_path, "names", "threads") as running:
        assert outcome(api, "add", "extra")["result"] == "fine"
        assert outcome(api, "add", "extra")["result"] == "its state does not allow this"
        assert outcome(api, "drop", "text")["result"] == "fine"
        assert outcome(api, "drop", "text")["result"] == "there is no such thing"
        until(lambda: "extra" in names(api, "names") and "text" not in names(api, "names"))
        assert outcome(api, "extra", 4)["result"] == 4
        shared_daemon.restart()
        running.wait_for("1 registered as", 2)
        assert outcome(api, "extra", 5)["result"] == 5
        assert "text" not in names(api, "names")
        running.end()


@pytest.mark.parametrize("kind", ["threads", "poll-threads", "races"])
def test_a_controller_killed_and_started_again(kind: str, daemon: Running, workshop: Workshop,
                                               tmp_path: Path) -> None:
    """What runs goes on, results that ended meanwhile arrive, and nothing is started twice."""
    notes = tmp_path / "notes"
    with Client(daemon.url) as api, worker(workshop, daemon.url, tmp_path, "w", kind,
                                           f"notes={notes}") as running:
        ids = [str(api.submit("nap", 300 + 40 * number)["taskId"]) for number in range(12)]
        until(lambda: notes.exists() and notes.read_text().count("\n") >= 4)
        daemon.kill()
        until(lambda: notes.read_text().count("\n") >= 4)
        daemon.start()
        assert [api.wait_task(one, 60)["state"] for one in ids] == ["Succeeded"] * 12
        starts = collections.Counter(notes.read_text().split())
        assert set(starts) == set(ids)
        assert set(starts.values()) == {1}
        assert "given up 0" in running.end()
    daemon.kill()       # a clean stop would wait for the poll that the worker has left


def test_the_worker_is_killed_and_its_results_are_kept(daemon: Running, workshop: Workshop,
                                                       tmp_path: Path) -> None:
    """The daemon is away when attempts end; then the worker is killed: results are on disk."""
    notes, kept = tmp_path / "notes", tmp_path / "kept"
    kept.mkdir()
    options = (f"notes={notes}", f"dir={kept}")
    with Client(daemon.url) as api:
        with worker(workshop, daemon.url, tmp_path, "w", "threads", *options) as running:
            short = [str(api.submit("nap", 400)["taskId"]) for _ in range(3)]
            long = str(api.submit("nap", 500_000, maxRetries=0)["taskId"])
            until(lambda: notes.exists() and notes.read_text().count("\n") == 4)
            daemon.kill()
            journal = kept / "plum.journal"
            until(lambda: journal.read_bytes().count(b'"result":"rested"') == 3)
            running.process.kill()
            running.process.wait()
        daemon.start()
        with worker(workshop, daemon.url, tmp_path, "w", "threads", *options) as again:
            assert "4 results of before the restart are kept" in again.said
            assert [api.wait_task(one, 60)["result"] for one in short] == ["rested"] * 3
            assert [api.task(one)["attempt"] for one in short] == [1] * 3
            # What ran is given up at once and runs again as a new attempt: no lease is waited for.
            until(lambda: api.task(long)["attempt"] == 2)
            api.cancel_task(long)
            assert api.wait_task(long, 60)["state"] == "Canceled"
            again.end()
        starts = collections.Counter(notes.read_text().split())
        assert set(starts.values()) == {1}, "no attempt was started twice"
        assert not journal.exists(), "nothing is owed, so the next life is a new session"


def test_two_workers_cannot_share_a_directory(shared_daemon: Running, workshop: Workshop,
                                              tmp_path: Path) -> None:
    program = workshop.program(SCENARIOS, "asan")
    with worker(workshop, shared_daemon.url, tmp_path, "one", "threads", f"dir={tmp_path}") as one:
        with Program(tmp_path / "two.out", program, shared_daemon.url, "two", "1",
                     f"dir={tmp_path}") as two:
            assert two.process.wait(30) == 11, two.said
        one.end()
    missing = Program(tmp_path / "three.out", program, shared_daemon.url, "three", "1",
                      f"dir={tmp_path}/nowhere")
    assert missing.process.wait(30) == 11, missing.said


@pytest.mark.parametrize("kind", ["threads", "poll-threads"])
def test_another_process_under_the_same_id(kind: str, shared_daemon: Running, workshop: Workshop,
                                           tmp_path: Path) -> None:
    """The newcomer stays; the other ends and says why."""
    first = worker(workshop, shared_daemon.url, tmp_path, "same", kind)
    other = tmp_path / "other"
    other.mkdir()
    with first, worker(workshop, shared_daemon.url, other, "same", "threads") as second:
        assert first.process.wait(30) == 19, first.said
        second.end()


def test_stop_gives_back_what_runs(shared_daemon: Running, api: Client, workshop: Workshop,
                                   tmp_path: Path) -> None:
    with worker(workshop, shared_daemon.url, tmp_path, "stops", "threads") as running:
        task_id = str(api.submit("nap", 600_000, onLost="fail")["taskId"])
        until(lambda: api.task(task_id)["state"] == "Running")
        said = running.end(signal.SIGUSR1, code=21)
        assert "given up 1" in said
        lost = api.wait_task(task_id, 60)["error"]
        assert isinstance(lost, dict)
        assert lost["code"] == "lost"


def test_a_lease_that_ends(daemon: Running, workshop: Workshop, tmp_path: Path) -> None:
    """A daemon that is silent, not gone: the work is told to end before it runs elsewhere."""
    with Client(daemon.url) as api, worker(workshop, daemon.url, tmp_path, "w", "threads",
                                           "beat=300") as running:
        task_id = str(api.submit("nap", 600_000)["taskId"])
        until(lambda: api.task(task_id)["state"] == "Running")
        os.kill(daemon.pid, signal.SIGSTOP)
        running.wait_for(f"cancel {task_id} lost")
        os.kill(daemon.pid, signal.SIGCONT)
        until(lambda: api.task(task_id)["attempt"] == 2)
        api.cancel_task(task_id)
        api.wait_task(task_id, 60)
        running.end(code=21)


def test_a_peer_that_is_no_daemon(workshop: Workshop, tmp_path: Path) -> None:
    """It is left, with a pause; the worker lives on and can be drained."""
    program = workshop.program(SCENARIOS, "asan")
    wrong = (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
             b"Connection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n")
    nonsense = (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"\x00" * 100, wrong,
                b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with Program(tmp_path / "out", program, url, "w", "1") as running:
            for answer in nonsense:
                line, _ = server.accept()
                with line:
                    line.recv(65536)
                    line.sendall(answer)
            server.accept()[0].close()
            assert "no line to" in running.end()
