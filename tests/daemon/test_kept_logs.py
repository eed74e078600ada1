"""What ended runs printed: in the files of their hours, whole whenever the daemon is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.plant import PATIENCE_S, Api, crash, wait_for
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
SPEAKER = """
import sys
import trio
from plumd.sdk import Context, Worker
worker = Worker(sys.argv[1], capacity=200)

@worker.task("speak")
async def speak(payload: int, context: Context) -> None:
    context.log(f"this is number {payload}")

trio.run(worker.serve)
"""


@contextmanager
def speaker(daemon: Running) -> Iterator[None]:
    """A worker that logs a line of each attempt."""
    process = subprocess.Popen([sys.executable, "-c", SPEAKER, daemon.url],
                               env=daemon.environment)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def inodes(daemon: Running) -> int:
    """Files and directories of all that was printed."""
    return sum(len(folders) + len(files) for name in ("attempts", "logs")
               for _, folders, files in os.walk(daemon.data_dir / name))


def shell(api: Api, code: str) -> str:
    payload = {"command": "sh", "args": ["-c", code]}
    return api.submit("a.job", executor="os_process", payload=payload).task_id


def logs(api: Api, task_id: str, query: str = "") -> str:
    return api.get(f"/v1/tasks/{task_id}/logs{query}").decode()


def test_ten_thousand_runs_are_as_many_files_as_hours(daemon: Running) -> None:
    with Api(daemon) as api:
        still = shell(api, "echo up; sleep 600")
        wait_for(lambda: "up" in logs(api, still), "one runs all the time")
        alone = inodes(daemon)
        with speaker(daemon):
            ids = [task_id for at in range(0, 10_000, 1_000) for task_id in api.bulk(
                [{"name": "speak", "executor": "embedded", "payload": number}
                 for number in range(at, at + 1_000)])]
            wait_for(lambda: api.state().live == 1, "all but one end", 4 * PATIENCE_S)
            # the hour may turn once, and each of them has two files
            wait_for(lambda: inodes(daemon) <= alone + 4, "their logs are moved", 4 * PATIENCE_S)
        crash(daemon, api)
        for number in (0, 1, 77, 4_999, 9_999):
            assert logs(api, ids[number]) == f"this is number {number}\n"
        assert logs(api, still) == "up\n"
        api.post(f"/v1/tasks/{still}?action=cancel")
        api.ended(still)


def test_logs_are_whole_whenever_the_daemon_is_killed(daemon: Running) -> None:
    """Before the end, between the end and the move, in the middle of moves, and after them."""
    with Api(daemon) as api:
        ids = dict[str, str]()
        for number in range(60):
            text = f"{number} says hello\n" * (1 + number % 3)
            ids[shell(api, f"printf '%s' '{text}'; sleep 0.{number % 10}")] = text
            if number % 20 == 10:
                crash(daemon, api)
        for task_id, text in ids.items():
            assert api.ended(task_id).state == "Succeeded"
            assert logs(api, task_id) == text
        crash(daemon, api)
        for task_id, text in ids.items():
            assert logs(api, task_id, "?follow=true") == text
        wait_for(lambda: not list((daemon.data_dir / "attempts").iterdir()), "they are moved")
        for task_id, text in ids.items():
            assert logs(api, task_id, "?offset=3") == text[3:]


def test_one_who_follows_sees_no_seam(daemon: Running) -> None:
    """A slow reader's next page is in another place than the one before; so is a new reader's."""
    with Api(daemon) as api:
        task = shell(api, "seq 1 200000")
        api.ended(task)
        begun = logs(api, task, "?limit=1000")
        directory = daemon.data_dir / "attempts" / task
        wait_for(lambda: not directory.exists(), "it is moved")
        whole = begun + logs(api, task, "?offset=1000&limit=16777216")
        assert whole == "".join(f"{number}\n" for number in range(1, 200_001))
        assert logs(api, task, "?follow=true") == whole


def test_files_that_a_process_left_stay(daemon: Running) -> None:
    with Api(daemon) as api:
        task = shell(api, "echo hello; echo left > a.file")
        api.ended(task)
        directory = daemon.data_dir / "attempts" / task / "1"
        wait_for(lambda: not (directory / "status").exists(), "its log is moved")
        wait_for(lambda: sorted(path.name for path in directory.iterdir())
                 == ["closed", "moved", "work"], "all else is gone")
        assert (directory / "work" / "a.file").read_text() == "left\n"
        crash(daemon, api)
        assert logs(api, task, "?follow=true") == "hello\n"
        wait_for(lambda: count_moved(daemon) == 1, "it is not moved twice")


def count_moved(daemon: Running) -> int:
    """Entries of all indexes."""
    places: list[Path] = [*daemon.data_dir.glob("logs/*.idx"), *daemon.data_dir.glob("logs/*.key")]
    return sum(path.stat().st_size for path in places) // 36
