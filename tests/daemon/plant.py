"""Workers as processes of their own, and a few words for asking the daemon about its tasks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import apsw
import msgspec

from tests.daemon.running import Running, clean_environment
from tests.soak.wire import Answer, Caller, Status, Task

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 30.0
LOOK_S = 0.02
LEASE_S = 3.0
"""Of the workers here: three beats of one second."""


class Line(NamedTuple):
    """What a worker wrote down: start, done, failed or cut. at_s: of the machine's clock."""

    word: str
    attempt_id: str
    worker_id: str
    at_s: float


class Hand:
    """One worker process; its record outlives it."""

    def __init__(self, daemon: Running, worker_id: str, capacity: int = 16) -> None:
        self.worker_id = worker_id
        self.record = daemon.data_dir.parent / f"{worker_id}.record"
        with (daemon.data_dir.parent / f"{worker_id}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.worker", daemon.url, worker_id,
                 str(self.record), str(capacity)],
                cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log)

    def lines(self) -> list[Line]:
        """Everything that it wrote down so far."""
        if not self.record.exists():
            return []
        found = (line.split(" ") for line in self.record.read_text().splitlines())
        return [Line(word, attempt_id, by, float(at_s)) for word, attempt_id, by, at_s in found]

    def count(self, word: str) -> int:
        """How often it wrote a word."""
        return sum(1 for line in self.lines() if line.word == word)

    def pause(self) -> None:
        """SIGSTOP: it is silent, and knows nothing of it."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()


@contextmanager
def hand(daemon: Running, worker_id: str, capacity: int = 16) -> Iterator[Hand]:
    """A worker that is registered; killed at the end, if it is still there."""
    one = Hand(daemon, worker_id, capacity)
    try:
        with Api(daemon) as api:
            wait_for(lambda: any(worker["workerId"] == worker_id for worker in api.workers()),
                     f"{worker_id} registers")
        yield one
    finally:
        one.kill()


def wait_for(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> float:
    """Look until something holds; answers after how many seconds it did."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < patience_s, f"not within {patience_s} s: {what}"
        time.sleep(LOOK_S)
    return time.monotonic() - begun


class Api(Caller):
    """A connection to a daemon, with the questions of these tests."""

    def __init__(self, daemon: Running) -> None:
        super().__init__(daemon.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def post(self, path: str, body: object = None, **headers: str) -> Answer:
        """A POST, whatever its answer."""
        return self.call("POST", path, body,
                         {name.replace("_", "-"): value for name, value in headers.items()})

    def submit(self, name: str, **fields: object) -> Task:
        """A task that must be taken."""
        answer = self.post("/v1/tasks", {"name": name, **fields})
        assert answer.status == 201, answer
        return msgspec.json.decode(answer.body, type=Task)

    def bulk(self, items: list[dict[str, object]]) -> list[str]:
        """Tasks that must be taken; their ids."""
        answer = self.post("/v1/tasks/bulk", {"tasks": items})
        assert answer.status == 200, answer
        found = msgspec.json.decode(answer.body, type=dict[str, list[dict[str, str]]])
        return [item["taskId"] for item in found["results"]]

    def task(self, task_id: str) -> Task:
        """A task as it is."""
        return msgspec.json.decode(self.get(f"/v1/tasks/{task_id}"), type=Task)

    def ended(self, task_id: str) -> Task:
        """A task at its end."""
        answer = self.call("GET", f"/v1/tasks/{task_id}",
                           headers={"Prefer": f"wait={PATIENCE_S:g}"})
        task = msgspec.json.decode(answer.body, type=Task)
        assert task.over, task
        return task

    def tasks(self, query: str = "") -> list[Task]:
        """All tasks."""
        return [task for page in self.pages(f"/v1/tasks?limit=1000{query}")
                for task in msgspec.json.decode(page, type=list[Task])]

    def workers(self) -> list[dict[str, object]]:
        """All workers."""
        found: list[dict[str, object]] = msgspec.json.decode(self.get("/v1/embedded-workers"))
        return found

    def state(self) -> Status:
        """How much is under way."""
        return self.status()


def crash(daemon: Running, api: Api) -> None:
    """kill -9 and a new start; the connection is dialled anew."""
    daemon.kill()
    daemon.start()
    api.close()


def rows(daemon: Running, statement: str) -> list[tuple[object, ...]]:
    """Ask the database file itself, which the daemon may have open."""
    db = apsw.Connection(str(daemon.data_dir / "plum.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(db.execute(statement))
    finally:
        db.close()


def change(daemon: Running, statement: str, values: tuple[apsw.SQLiteValue, ...] = ()) -> None:
    """Write to the file of a daemon that does not run."""
    db = apsw.Connection(str(daemon.data_dir / "plum.db"))
    try:
        db.execute(statement, values)
        assert db.changes() == 1, statement
    finally:
        db.close()


def resident_mb(pid: int) -> float:
    """How much memory a process has, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")
