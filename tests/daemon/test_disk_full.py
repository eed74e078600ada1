"""B23: the disk refuses. Reads go on, writes are refused with a reason, and it all comes back."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.daemon.plant import Api, crash, hand, wait_for
from tests.daemon.running import Cold, Running
from tests.soak.wire import Answer, NoAnswerError, Task

pytestmark = pytest.mark.daemon
TMPFS_MB = 72
"""The write-ahead log alone is made 32 MiB long at the start."""
TEXT = "x" * 60_000
ENOUGH = 2_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is soon full; only root can mount one."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: a full disk is tried on a tmpfs, which only root can mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "plum-test", folder],
                          capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"NOT RUN: a tmpfs cannot be mounted here: {done.stderr}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def submit(api: Api, text: str = "small") -> Answer:
    return api.post("/v1/tasks", {"name": "nobody.does", "payload": text})


def write_until_refused(api: Api) -> tuple[list[str], Answer]:
    """(the tasks that were acknowledged, the first refusal)."""
    taken: list[str] = []
    for _ in range(ENOUGH):
        answer = submit(api, TEXT)
        if not answer.ok:
            return taken, answer
        taken.append(msgspec.json.decode(answer.body, type=Task).task_id)
    raise AssertionError("the disk did not become full")


def check_refusal(answer: Answer) -> None:
    """503 with a code, a reason for people, and when to come again."""
    assert answer.status == 503, answer
    said = msgspec.json.decode(answer.body, type=dict[str, msgspec.Raw])
    assert bytes(said["code"]) in (b'"storage_unavailable"', b'"outcome_unknown"')
    assert len(said["detail"]) > 20
    assert int(answer.headers["retry-after"]) >= 1


def works_again(api: Api) -> bool:
    try:
        return submit(api).ok
    except NoAnswerError:
        return False


def reads_go_on(api: Api, daemon: Running, known: str) -> None:
    """Everything but writing works, and the daemon is taken for alive."""
    assert daemon.process is not None
    assert daemon.process.poll() is None, daemon.log.read_text()[-3_000:]
    assert api.call("GET", "/healthz").status == 200
    assert api.task(known).task_id == known
    assert api.call("GET", "/v1/tasks?limit=5").status == 200
    assert api.call("GET", "/v1/status").status == 200


def test_b23_a_full_disk(small_disk: Path) -> None:
    with Cold(small_disk / "data") as daemon, Api(daemon) as api:
        first = msgspec.json.decode(submit(api).body, type=Task).task_id
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(28 << 20))
        taken, refusal = write_until_refused(api)
        check_refusal(refusal)
        reads_go_on(api, daemon, first)
        more, refusal = write_until_refused(api)
        check_refusal(refusal)
        ballast.unlink()
        took_s = wait_for(lambda: works_again(api), "it writes again")
        assert took_s < 10
        assert {first, *taken, *more} <= {task.task_id for task in api.tasks()}
        crash(daemon, api)
        assert {first, *taken, *more} <= {task.task_id for task in api.tasks()}
        assert daemon.stop() == 0


def forbid_growth(daemon: Running, bytes_max: int) -> None:
    """No file of the daemon may be written to beyond so many bytes: EFBIG, as from a quota."""
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (bytes_max, hard))


def test_b23_a_file_that_cannot_be_written(daemon: Running) -> None:
    """Also with work in hand: it ends when the disk is back, and nothing runs twice."""
    with hand(daemon, "w") as worker, Api(daemon) as api:
        ids = [api.submit("soak.async", payload={"ms": 700}).task_id for _ in range(8)]
        nap = api.submit("builtin.delay", payload={"seconds": 1.0}).task_id
        wait_for(lambda: worker.count("start") == 8, "they run")
        forbid_growth(daemon, 4_096)
        check_refusal(submit(api))
        reads_go_on(api, daemon, ids[0])
        assert api.call("GET", "/readyz").status == 503
        wait_for(lambda: worker.count("done") == 8, "the worker is done, and nobody can note it")
        check_refusal(api.post(f"/v1/tasks/{nap}?action=cancel"))
        time.sleep(1.0)     # an outage has a length
        reads_go_on(api, daemon, ids[0])
        assert {api.task(task_id).state for task_id in ids} == {"Running"}
        forbid_growth(daemon, resource.RLIM_INFINITY)
        wait_for(lambda: works_again(api), "it writes again")
        for task_id in (*ids, nap):
            ended = api.ended(task_id)
            assert (ended.state, ended.attempt) == ("Succeeded", 1)
        assert worker.count("start") == 8, "none ran twice"
        crash(daemon, api)
        assert {api.task(task_id).state for task_id in (*ids, nap)} == {"Succeeded"}


def test_b23_a_log_that_cannot_grow(daemon: Running) -> None:
    """Small writes still fit in, large ones do not: each is answered as it is."""
    with Api(daemon) as api:
        ids = [api.submit("nobody.does", payload=TEXT).task_id for _ in range(100)]
        forbid_growth(daemon, 33 << 20)
        taken, refusal = write_until_refused(api)
        check_refusal(refusal)
        reads_go_on(api, daemon, ids[0])
        forbid_growth(daemon, resource.RLIM_INFINITY)
        wait_for(lambda: works_again(api), "it writes again")
        assert {*ids, *taken} <= {task.task_id for task in api.tasks()}


def test_b23_no_room_to_copy_the_log_into_the_database(small_disk: Path) -> None:
    """The log has its room, so writes are taken; what cannot be done is what tidies up."""
    with Cold(small_disk / "data") as daemon, Api(daemon) as api:
        (small_disk / "ballast").write_bytes(bytes(36 << 20))
        ids = [api.submit("nobody.does", payload=TEXT).task_id for _ in range(250)]
        reads_go_on(api, daemon, ids[0])
        (small_disk / "ballast").unlink()
        wait_for(lambda: works_again(api), "it writes again")
        assert set(ids) <= {task.task_id for task in api.tasks()}
        crash(daemon, api)
        assert set(ids) <= {task.task_id for task in api.tasks()}
