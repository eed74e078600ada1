"""What it costs, and what too much of it does: B10, B12, B14, B19, B20, B28."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.load import flood, head
from tests.daemon.plant import ROOT, Api, crash, resident_mb, rows, wait_for
from tests.daemon.running import Cold, Running

pytestmark = pytest.mark.daemon
READERS = 200
LOAD_S = 4.0
QUIET_S = 2.0
FLEET = 500
MIB = 1 << 20


@contextmanager
def limited(tmp_path: Path, *options: str) -> Iterator[Running]:
    """A daemon with flags."""
    with Cold(tmp_path / "data", *options) as running:
        yield running


class Flood(threading.Thread):
    """Many connections that ask the same thing again and again; any refusal is an error."""

    def __init__(self, port: int, connections: int, request: bytes) -> None:
        super().__init__(daemon=True)
        self.port, self.connections, self.request = port, connections, request
        self.done = 0
        self.error: Exception | None = None

    def run(self) -> None:
        until = time.monotonic() + LOAD_S
        try:
            self.done = flood(self.port, self.connections, self.request,
                              lambda _: time.monotonic() > until)
        except (OSError, ConnectionError) as error:
            self.error = error


def test_b10_two_hundred_readers_and_a_full_write_load(daemon: Running) -> None:
    with Api(daemon) as api:
        task_id = api.submit("builtin.echo", payload=[1, 2]).task_id
        body = b'{"name":"builtin.echo","payload":1}'
        floods = [
            Flood(daemon.port, READERS // 2, head("GET", f"/v1/tasks/{task_id}", 0)),
            Flood(daemon.port, READERS // 2, head("GET", "/v1/tasks?limit=20", 0)),
            Flood(daemon.port, 40, head("POST", "/v1/tasks", len(body)) + body)]
        for one in floods:
            one.start()
        for one in floods:
            one.join(60)
        assert [one.error for one in floods] == [None] * 3
        assert all(one.done >= one.connections for one in floods), [one.done for one in floods]
        wait_for(lambda: api.state().live == 0, "all that was written ends")
        assert len(api.tasks()) == floods[2].done + 1
    log = daemon.log.read_text()
    assert "Busy" not in log
    assert "Traceback" not in log


def test_b12_what_nobody_can_do_costs_nothing_while_it_waits(daemon: Running) -> None:
    with Api(daemon) as api:
        ids = api.bulk([{"name": "nobody.does", "payload": n} for n in range(300)])
        said, before = daemon.log.stat().st_size, api.state()
        time.sleep(QUIET_S)             # the promise is about time that passes
        after = api.state()
        assert after.pending == 300
        assert (after.commits, after.next_event) == (before.commits, before.next_event)
        assert daemon.log.stat().st_size == said
        assert len(rows(daemon, "SELECT id FROM tasks")) == 300
        why = api.get(f"/v1/tasks/{ids[0]}/why")
        assert b"no_worker" in why


def test_b14_beats_are_not_written(daemon: Running) -> None:
    fleet = subprocess.Popen(
        [sys.executable, "-m", "bench.fleet_worker", str(daemon.port), str(FLEET)], cwd=ROOT,
        stdout=subprocess.PIPE)
    try:
        assert fleet.stdout is not None
        assert fleet.stdout.readline() == b"connected\n"
        with Api(daemon) as api:
            before = api.state()
            assert before.workers >= FLEET
            time.sleep(QUIET_S)         # two seconds of 50 beats each
            after = api.state()
            assert (after.commits, after.workers) == (before.commits, before.workers)
    finally:
        fleet.kill()
        fleet.communicate()


def test_b19_too_many_tasks_are_refused_and_those_taken_are_kept(tmp_path: Path) -> None:
    with limited(tmp_path, "--tasks-max", "500") as daemon, Api(daemon) as api:
        ids = api.bulk([{"name": "nobody.does"}] * 400)
        answers = [api.post("/v1/tasks", {"name": "nobody.does"}) for _ in range(300)]
        taken = [answer for answer in answers if answer.ok]
        refused = [answer for answer in answers if not answer.ok]
        assert len(taken) == 100
        assert {answer.status for answer in refused} == {429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        many = api.post("/v1/tasks/bulk", {"tasks": [{"name": "nobody.does"}] * 10})
        assert (many.status, int(many.headers["retry-after"]) >= 1) == (429, True)
        before_mb = resident_mb(daemon.pid)
        for _ in range(1_000):
            assert api.post("/v1/tasks", {"name": "nobody.does", "payload": "x" * 4_000}
                            ).status == 429
        assert resident_mb(daemon.pid) - before_mb < 10
        assert len(api.tasks()) == api.state().pending == 500
        assert api.post(f"/v1/tasks/{ids[0]}?action=cancel").ok
        assert api.post("/v1/tasks", {"name": "nobody.does"}).status == 201
        assert api.post("/v1/tasks", {"name": "nobody.does"}).status == 429


def test_b20_large_values_live_in_files_and_too_large_ones_nowhere(daemon: Running) -> None:
    large, text = "x" * (100 << 10), "y" * (63 << 10)
    with Api(daemon) as api:
        one = api.submit("builtin.echo", payload=large)
        ended = api.ended(one.task_id)
        assert bytes(ended.result) == b'{"echo":"' + large.encode() + b'"}'
        api.ended(api.submit("builtin.echo", payload=text).task_id)
        number = int(one.task_id, 16)
        assert rows(daemon, f"SELECT payload FROM task_inputs WHERE id = {number}") == [(None,)]
        assert rows(daemon, f"SELECT result FROM task_results WHERE id = {number}") == [(None,)]
        assert rows(daemon, "SELECT count(*) FROM task_inputs WHERE payload IS NOT NULL") == [(1,)]
        blobs = [path for path in (daemon.data_dir / "blobs").rglob("*") if path.is_file()]
        assert len(blobs) == 2, "one for the payload, one for the result"
        before = api.state().commits
        refused = api.post("/v1/tasks", {"name": "builtin.echo", "payload": "z" * (16 * MIB)})
        assert refused.status == 413
        assert b"16777216" in refused.body or b"16 MiB" in refused.body, refused.body
        assert b'"too_large"' in refused.body
        assert api.state().commits == before
        crash(daemon, api)
        assert api.task(one.task_id).ending == ended.ending


def test_b28_the_daemon_is_small(tmp_path: Path) -> None:
    with limited(tmp_path) as daemon, Api(daemon) as api:
        assert resident_mb(daemon.pid) <= 80
        for _ in range(10):
            api.bulk([{"name": "nobody.does", "payload": {"n": 1}}] * 10_000)
        assert api.state().pending == 100_000
        assert resident_mb(daemon.pid) <= 250
        assert rows(daemon, "SELECT count(*) FROM tasks") == [(100_000,)]
