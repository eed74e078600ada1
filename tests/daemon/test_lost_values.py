"""B22: a large value whose file is gone or damaged concerns its own task; all others go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.daemon.plant import Api, hand, wait_for
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
LARGE = "x" * 100_000


class Shown(msgspec.Struct, rename="camel"):
    """What a single task shows of its values."""

    payload: object
    omitted: tuple[str, ...]


def shown(api: Api, task_id: str) -> Shown:
    return msgspec.json.decode(api.get(f"/v1/tasks/{task_id}"), type=Shown)


def start(api: Api, task_id: str) -> None:
    assert api.post(f"/v1/tasks/{task_id}?action=start", {}).ok


def blobs(daemon: Running) -> list[Path]:
    return [path for path in (daemon.data_dir / "blobs").rglob("*") if path.is_file()]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:70_000])


@pytest.mark.parametrize("spoil", [Path.unlink, cut])
def test_what_needs_the_value_fails_and_all_else_goes_on(
        daemon: Running, spoil: Callable[[Path], None]) -> None:
    with Api(daemon) as api:
        whole = api.submit("builtin.echo", payload=LARGE[1:])
        api.ended(whole.task_id)
        kept = set(blobs(daemon))
        tasks = [api.submit(name, payload=LARGE, autoStart=False)
                 for name in ("builtin.echo", "soak.async")]
        for path in set(blobs(daemon)) - kept:
            spoil(path)
        for task in tasks:
            start(api, task.task_id)
        assert shown(api, tasks[1].task_id).omitted == ("payload",)
        again = api.post(f"/v1/tasks/{tasks[1].task_id}?action=rerun", {})
        assert (again.status, b'"value_lost"' in again.body) == (500, True)
        small = api.submit("soak.async", payload={"ms": 1})
        with hand(daemon, "worker"):
            ends = [api.ended(task.task_id) for task in tasks]
            assert [one.error.code for one in ends if one.error] == ["value_lost"] * 2
            assert api.ended(small.task_id).state == "Succeeded"
            wait_for(lambda: api.state().live == 0, "nothing is left")
        assert shown(api, whole.task_id) == Shown(LARGE[1:], ())
    daemon.kill()
    daemon.start()
    with Api(daemon) as api:
        assert shown(api, tasks[0].task_id).omitted == ("payload",)


def test_a_large_echo_waits_for_a_disk_that_refuses(daemon: Running) -> None:
    with Api(daemon) as api:
        task = api.submit("builtin.echo", payload=LARGE, autoStart=False)
        [payload] = blobs(daemon)
        folder = daemon.data_dir / "blobs"
        # Its name is a file, so that nothing can be put there: also where the test is root.
        for number in range(256):
            stub = folder / f"{number:02x}"
            if stub != payload.parent:
                stub.write_text("")
        start(api, task.task_id)
        wait_for(lambda: api.task(task.task_id).state == "Running", "it has begun")
        assert api.submit("builtin.echo", payload="small").task_id
        for number in range(256):
            stub = folder / f"{number:02x}"
            if stub != payload.parent:
                stub.unlink()
        assert api.ended(task.task_id).state == "Succeeded"
