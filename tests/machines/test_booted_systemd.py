"""Controller and agents as units of real systemds, each with an address of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.agent.acting import zipped
from tests.daemon.plant import wait_for
from tests.daemon.running import clean_environment
from tests.machines.booted import Box, check_systemd
from tests.machines.network import SUBNET, Network
from tests.soak.wire import Task

pytestmark = pytest.mark.daemon
PORT = 8080
DOOR = "run/plum.api"
SOCKET = f"""[Socket]
ListenStream=
ListenStream=0.0.0.0:{PORT}
ListenStream=/{DOOR}
"""


class Copy(msgspec.Struct, frozen=True, rename="camel"):
    """An instance as it is shown."""

    instance_id: str
    node_id: str | None
    state: str
    pid: int | None
    restarts: int
    message: str


class Site:
    """Three boxes: the controller's and those of two nodes."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.folder = folder
        self.controller = network.add("c", Box)
        self.nodes = {name: network.add(name, Box) for name in ("n1", "n2")}
        self.settings = self.controller.root / "etc/plum/plumd.toml"
        self.settings.write_text(f'listen = "{self.controller.address}:{PORT}"\n'
                                 f'trusted_networks = ["{SUBNET}"]\n')
        self.controller.drop_in("plumd.socket", SOCKET)
        self.controller.systemctl("enable", "--now", "plumd.socket", "plumd.service")
        for name, box in self.nodes.items():
            (box.root / "etc/plum/agent.env").write_text(
                f"CONTROLLER_BASE=http://{self.controller.address}:{PORT}\n")
            box.systemctl("enable", "--now", f"plum-agent@{name}.service")
        self.api = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.controller.root / DOOR)),
            base_url="http://localhost", timeout=30)
        wait_for(lambda: self.healthy() == set(self.nodes), "both nodes are there")

    def healthy(self) -> set[str]:
        """The nodes that are heard."""
        return {str(node["nodeId"]) for node in self.api.get("/v1/nodes").json()
                if node["health"] == "Healthy"}

    def submit(self, node: str, script: str, **payload: object) -> str:
        """A task on a node: its id."""
        answer = self.api.post("/v1/tasks", json={
            "name": "t", "executor": "os_process", "targetKind": "node", "targetRef": node,
            "payload": {"command": "sh", "args": ["-c", script], **payload}})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["taskId"])

    def task(self, task_id: str) -> Task:
        """As it is."""
        return msgspec.json.decode(self.api.get(f"/v1/tasks/{task_id}").content, type=Task)

    def wait_running(self, task_id: str) -> None:
        """Until its process runs."""
        wait_for(lambda: self.task(task_id).state == "Running", "the task runs")

    def ended(self, task_id: str) -> Task:
        """At its end."""
        wait_for(lambda: self.task(task_id).over, "the task ends")
        return self.task(task_id)

    def copies(self) -> list[Copy]:
        """All instances."""
        return msgspec.json.decode(self.api.get("/v1/instances").content, type=list[Copy])

    @contextmanager
    def deployed(self, start: str, **entry: object) -> Iterator[None]:
        """An instance on n1 that runs this; nothing of it is left after."""
        name = f"app-{os.urandom(4).hex()}"
        data = zipped({"start.sh": f"#!/bin/sh\n{start}\n",
                       "meta.ini": f"name={name}\nversion=1\n"})
        url = self.api.post("/v1/apps/upload", files={
            "file": ("a.zip", data, "application/zip")}).json()["url"]
        made = self.api.post("/v1/deployments", json={"name": name, "entries": [
            {"artifactUrl": url, "replicas": {"n1": 1}, **entry}]}).json()
        path = f"/v1/deployments/{made['deploymentId']}"
        assert self.api.post(path, params={"action": "start"}).status_code == 200
        yield
        assert self.api.delete(path).is_success
        wait_for(lambda: self.processes(start) == 0, "nothing of it is left")

    def processes(self, words: str) -> int:
        """How many processes of n1 have these words in their command lines."""
        found = self.nodes["n1"].run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        return found.count(words)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    check_systemd()
    with Network() as network:
        made = Site(network, tmp_path_factory.mktemp("site"))
        yield made
        made.api.close()


def main_pid(box: Box, unit: str) -> int:
    return int(box.shows(unit, "MainPID"))


def kill_main(box: Box, unit: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a unit's main process a signal, and wait until systemd has another one."""
    before = main_pid(box, unit)
    box.run("kill", f"-{number.value}", str(before))
    wait_for(lambda: main_pid(box, unit) not in (0, before)
             and box.shows(unit, "ActiveState") == "active", f"{unit} is back", 60)


def test_units_start_and_say_how_they_are(site: Site) -> None:
    assert site.controller.shows("plumd.service", "ActiveState") == "active"
    assert "0 tasks run, 0 wait" in site.controller.shows("plumd.service", "StatusText")
    assert site.controller.shows("plumd.service", "User") == "plum"
    assert "node n1 of" in site.nodes["n1"].shows("plum-agent@n1.service", "StatusText")
    assert {node["ip"] for node in site.api.get("/v1/nodes").json()} == {
        box.address for box in site.nodes.values()}
    done = site.ended(site.submit("n2", "hostname; id -u"))
    assert done.state == "Succeeded"


def test_reload_reads_the_settings_again(site: Site) -> None:
    box = site.controller
    before, text = main_pid(box, "plumd.service"), site.settings.read_text()
    site.settings.write_text(text + "retention_days = 7\n")
    box.systemctl("reload", "plumd.service")
    wait_for(lambda: "need_a_restart=retention_days" in box.journal("plumd.service"),
             "it says what waits for a restart")
    site.settings.write_text(text)
    assert main_pid(box, "plumd.service") == before


def test_the_journal_has_facts_as_fields(site: Site) -> None:
    """What an operator asks of it, on the controller's machine and on a node's."""
    listening = site.controller.run(
        "journalctl", "--no-pager", "--output=cat", "--unit=plumd", "PLUM_LOGGER=plumd.daemon",
        "--output-fields=PLUM_ADDRESSES,MESSAGE", "--grep=listening", "--lines=1")
    assert f":{PORT}" in listening
    with site.deployed("exit 7", backoff={"firstSec": 60}):
        wait_for(lambda: "exit code 7" in " ".join(one.message for one in site.copies()),
                 "it fails")
        instance = site.copies()[0].instance_id
        said = site.nodes["n1"].run(
            "journalctl", "--no-pager", "--output=cat", "--unit=plum-agent@n1",
            f"PLUM_INSTANCE_ID={instance}", "--priority=warning")
        assert said.startswith("an instance failed ")
        assert "reason=exit code 7" in said


def test_what_runs_outlives_killed_daemons(site: Site) -> None:
    """kill -9 of the controller and of the agent: tasks and instances go on, and can be ended."""
    agent, unit = site.nodes["n1"], "plum-agent@n1.service"
    task = site.submit("n1", "echo begun; while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 3")
    with site.deployed("exec sleep 1234"):
        wait_for(lambda: [copy.state for copy in site.copies()] == ["Running"], "it runs")
        site.wait_running(task)
        before, = site.copies()
        for _ in range(2):
            kill_main(site.controller, "plumd.service")
            kill_main(agent, unit)
        wait_for(lambda: "n1" in site.healthy(), "the agent is heard")
        assert site.processes("sleep 1234") == 1
        (agent.root / "tmp/end").touch()
        done = site.ended(task)
        assert (done.state, done.attempt) == ("Failed", 1)
        assert done.error is not None
        assert done.error.exit_code == 3
        after, = site.copies()
        assert (after.pid, after.restarts) == (before.pid, 0)
    assert int(agent.shows(unit, "NRestarts")) >= 2


def test_endpoints_are_looked_at_from_inside_the_unit(site: Site) -> None:
    """The lookout is as closed in as the daemon, gives way to it, and goes with each one that is
    killed."""
    box = site.controller

    def lookouts() -> list[str]:
        return box.run("sh", "-c", "pgrep -f plumd.lookou[t] || true").split()

    def is_gone(pid: str) -> bool:
        return pid not in lookouts()

    answer = site.api.post("/v1/services/register", json={
        "instanceId": "x", "ip": site.nodes["n1"].address, "endpoints": [
            {"serviceName": "s", "port": 9, "protocol": "tcp", "labels": {"healthCheck": "tcp"}}]})
    assert answer.is_success, answer.text
    for _ in range(2):
        wait_for(lambda: "refused" in site.api.get("/v1/services").json()[0]["why"],
                 "somebody looked")
        before, = lookouts()
        assert "SCHED_IDLE" in box.run("chrt", "--pid", before)
        kill_main(box, "plumd.service")
        wait_for(partial(is_gone, before), "it is gone")
    assert site.api.delete("/v1/services", params={"instanceId": "x"}).is_success


def test_a_daemon_that_hangs_is_aborted_and_restarted(site: Site) -> None:
    box = site.controller
    box.drop_in("plumd.service", "[Service]\nWatchdogSec=3\n")
    box.systemctl("restart", "plumd.service")
    kill_main(box, "plumd.service", signal.SIGSTOP)
    assert "Watchdog timeout" in box.journal("plumd.service")
    box.drop_in("plumd.service", "")
    box.systemctl("restart", "plumd.service")
    wait_for(lambda: site.healthy() == set(site.nodes), "the nodes are back")


def test_a_task_out_of_memory_leaves_the_agent_alone(site: Site) -> None:
    agent, unit = site.nodes["n1"], "plum-agent@n1.service"
    before = main_pid(agent, unit)
    hog = "exec python3 -c 'import time; x = bytearray(1 << 29); time.sleep(100)'"
    done = site.ended(site.submit("n1", hog, limits={"memoryBytes": 64 << 20}))
    assert done.state == "Failed"
    assert done.error is not None
    assert (done.error.code, done.error.signal) == ("oom", "SIGKILL")
    assert "out of memory" in done.error.message
    done = site.ended(site.submit("n1", f"({hog}); exit $?", limits={"memoryBytes": 64 << 20}))
    assert done.error is not None
    assert (done.error.code, done.error.exit_code) == ("oom", 137), "a shell stood before it"
    with site.deployed(hog, limits={"memoryBytes": 64 << 20}, restart="never"):
        wait_for(lambda: [copy.state for copy in site.copies()] == ["Failed"], "it fails")
        assert "out of memory" in site.copies()[0].message
    assert main_pid(agent, unit) == before


def test_a_restart_refuses_no_connection(site: Site) -> None:
    record = site.folder / "knocks"
    way = site.nodes["n2"].start(
        [sys.executable, str(Path(__file__).with_name("knocker.py")), site.controller.address,
         str(PORT), str(record)], site.folder / "knocker.log", clean_environment(),
        rest=False)

    def said() -> list[str]:
        return record.read_text().splitlines() if record.exists() else []

    wait_for(lambda: len(said()) > 5, "it knocks")
    for _ in range(3):
        site.controller.systemctl("restart", "plumd.service")
        count = len(said())
        wait_for(lambda: len(said()) > count + 5, "it is let in")      # noqa: B023 - at once
    way.kill()
    assert set(said()) == {"200"}


def test_stop_ends_the_controller_and_no_program(site: Site) -> None:
    task = site.submit("n2", "sleep 3; echo over")
    site.wait_running(task)
    site.controller.systemctl("stop", "plumd.socket", "plumd.service")
    assert site.controller.shows("plumd.service", "Result") == "success"
    assert site.controller.shows("plumd.service", "ActiveState") == "inactive"
    site.controller.systemctl("start", "plumd.socket", "plumd.service")
    assert site.ended(task).state == "Succeeded"
    for name, box in site.nodes.items():
        box.systemctl("stop", f"plum-agent@{name}.service")
        assert box.shows(f"plum-agent@{name}.service", "Result") == "success"
