"""A node whose disk is full says so, leaves nothing behind, and goes on when there is room again;
and output without end is kept in bounds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.agent.acting import zipped
from tests.daemon.plant import Api, resident_mb, wait_for
from tests.daemon.running import BIN, Running, clean_environment
from tests.machines.network import Machine, Network, child_of
from tests.soak.wire import Task

pytestmark = pytest.mark.daemon
DISK_MB = 90
"""A little above what agents leave free."""
OUTPUT_MB = 1_000


class Node:
    """An agent whose data directory is a small disk of its own."""

    def __init__(self, machine: Machine, folder: Path, daemon: Running) -> None:
        self.machine = machine
        self.disk = folder / "disk"
        self.disk.mkdir()
        machine.run("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "disk", str(self.disk))
        self.data = self.disk / "data"
        self.log = folder / "agent.log"
        self.way = machine.start([
            str(BIN / "plumd"), "agent", "--data-dir", str(self.data), "--controller", daemon.url,
            "--node-id", "full", "--no-cgroups"], self.log, clean_environment(),
            network=False)

    def files(self) -> set[str]:
        """All files and directories of the disk."""
        return set(self.machine.run("find", str(self.data), "-mindepth", "1").split())

    def attempts(self) -> list[str]:
        """What is kept of tasks."""
        return [one for one in self.files() if "/attempts/" in one]

    def fill(self) -> None:
        """Let nothing more fit."""
        self.machine.run("sh", "-c", f"cat /dev/zero > {self.disk}/filler 2>/dev/null || true")

    def empty(self) -> None:
        """Make room again."""
        self.machine.run("rm", f"{self.disk}/filler")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def daemon(tmp_path: Path, stack: ExitStack) -> Running:
    return stack.enter_context(Running(tmp_path / "data"))


@pytest.fixture
def node(tmp_path: Path, stack: ExitStack, daemon: Running) -> Node:
    made = Node(stack.enter_context(Network()).machine("full"), tmp_path, daemon)
    wait_for(lambda: nodes(daemon) == ["full"], "the node is there")
    return made


def nodes(daemon: Running) -> list[str]:
    return [str(one["nodeId"]) for one in
            httpx.get(f"{daemon.url}/v1/nodes", trust_env=False).json()]


def run(api: Api, script: str, **more: object) -> str:
    return api.submit("t", executor="os_process", targetKind="node", targetRef="full",
                      payload={"command": "sh", "args": ["-c", script]}, **more).task_id


def ended(api: Api, task_id: str) -> Task:
    wait_for(lambda: api.task(task_id).over, "the task ends", 120)
    return api.task(task_id)


def test_a_full_disk_is_told_and_nothing_stays(node: Node, daemon: Running) -> None:
    with Api(daemon) as api:
        assert ended(api, run(api, "echo fine")).state == "Succeeded"
        wait_for(lambda: not node.attempts(), "what is told is removed")
        before = node.files()
        node.fill()
        done = ended(api, run(api, "echo never"))
        assert done.state == "Failed"
        assert done.error is not None
        assert done.error.code == "start_failed"
        assert "No space left on device" in done.error.message
        wait_for(lambda: not node.attempts(), "nothing of it stays")
        assert node.files() == before

        with httpx.Client(base_url=daemon.url, trust_env=False) as http:
            data = zipped({"start.sh": "#!/bin/sh\nexec sleep 600\n", "big": os.urandom(1 << 20),
                           "meta.ini": "name=big\nversion=1\n"})
            url = http.post("/v1/apps/upload", files={
                "file": ("a.zip", data, "application/zip")}).json()["url"]
            node.empty()
            node.machine.run("sh", "-c", f"head -c {(DISK_MB - 40) << 20} /dev/zero > "
                             f"{node.disk}/filler")      # for an instance, not for an artifact
            made = http.post("/v1/deployments", json={"name": "big", "entries": [
                {"artifactUrl": url, "replicas": 1}]}).json()
            path = f"/v1/deployments/{made['deploymentId']}"
            assert http.post(path, params={"action": "start"}).status_code == 200

            def message() -> str:
                one, = http.get(f"{path}/instances").json()
                return str(one["message"])

            wait_for(lambda: "the node's disk is full" in message(), "it is told")
            assert "the node's disk is full" in node.log.read_text()
            assert not [one for one in node.files() if one.endswith((".zip", ".part", ".new"))]
            node.empty()
            wait_for(lambda: [one["state"] for one in http.get(f"{path}/instances").json()]
                     == ["Running"], "it runs when there is room", 120)
        assert ended(api, run(api, "echo fine")).state == "Succeeded"


def test_output_without_end_stays_in_bounds(node: Node, daemon: Running) -> None:
    with Api(daemon) as api:
        assert ended(api, run(api, "echo fine")).state == "Succeeded"
        agent = child_of(node.way.pid)
        assert agent is not None
        before = resident_mb(agent), resident_mb(daemon.pid)
        task = run(api, f"yes 0123456789012345678901234567890 | head -c {OUTPUT_MB << 20}; "
                   "echo the end", timeoutSec=600)
        most = 0.0

        def is_over() -> bool:
            nonlocal most
            most = max(most, resident_mb(agent) - before[0], resident_mb(daemon.pid) - before[1])
            return api.task(task).over

        wait_for(is_over, "it ends", 600)
        done = api.task(task)
        assert done.state == "Succeeded"
        assert most < 60, f"{most} MiB more"
        result = msgspec.json.decode(done.result, type=dict[str, object])
        assert result["stdoutBytes"] == (OUTPUT_MB << 20) + len("the end\n")
        assert str(result["stdout"]).endswith("the end\n")
        used = int(node.machine.run("du", "-sm", str(node.data)).split()[0])
        assert used < DISK_MB
