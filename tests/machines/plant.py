"""A controller and agents on machines of the test's own: what a test asks and sees of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

import httpx
import msgspec

from tests.agent.acting import boot_ms, zipped
from tests.daemon.plant import wait_for
from tests.daemon.running import BIN, clean_environment
from tests.machines.network import SUBNET, Machine, Network, child_of
from tests.sdk_c.building import Workshop

TTL_S: Final = 4.0
BEAT_S: Final = 10.0
PORT: Final = 8080
HERE: Final = Path(__file__).parent
LIFE: Final = re.compile(r"[0-9]+-(?P<instance>[0-9a-z]+)-(?P<node>[a-z0-9]+)")


class Copy(msgspec.Struct, frozen=True, rename="camel"):
    """An instance as it is shown."""

    instance_id: str
    node_id: str | None
    state: str
    retired: str | None
    pid: int | None
    restarts: int
    message: str
    version: int


class Rollout(msgspec.Struct, frozen=True, rename="camel"):
    """How far a deployment's new version is."""

    state: str
    why: str = ""


class Deployment(msgspec.Struct, frozen=True, rename="camel"):
    """A deployment as it is shown."""

    deployment_id: str
    wanted: int
    ready: int
    version: int
    rollout: Rollout | None


class Life(NamedTuple):
    """One process of the service, by its own words: from when to when it lived, in ns."""

    instance: str
    node: str
    first_ns: int
    last_ns: int


class Node:
    """A machine and its agent."""

    def __init__(self, plant: Plant, machine: Machine) -> None:
        self.machine = machine
        self.name = machine.name
        self._plant = plant
        self._log = plant.folder / f"{machine.name}.log"
        self._way: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the agent."""
        words = [str(BIN / "plumd"), "agent", "--data-dir", str(self._plant.folder / self.name),
                 "--controller", self._plant.base, "--node-id", self.name, "--no-cgroups",
                 "--sync-sec", "60",      # so nothing here works only because somebody looks
                 "--beat-sec", f"{self._plant.beat_s:g}"]
        self._way = self.machine.start(words, self._log, clean_environment())
        wait_for(lambda: self._plant.health(self.name) == "Healthy", f"{self.name} is there")

    def signal(self, number: signal.Signals) -> None:
        """Send the agent a signal."""
        assert self._way is not None
        pid = child_of(self._way.pid)
        assert pid is not None
        os.kill(pid, number)
        if number == signal.SIGKILL:
            self._way.wait()

    def kill(self, pid: int | None) -> int:
        """kill -9 a process by its id on the machine; when, in ns."""
        assert pid, "it has no process"
        at_ns = boot_ms() * 1_000_000
        self.machine.run("kill", "-9", str(pid))
        return at_ns


class Plant:
    """The controller on a machine, three nodes, and the service, built and ready to be deployed."""

    def __init__(self, network: Network, workshop: Workshop, folder: Path,
                 ttl_s: float = TTL_S, beat_s: float = BEAT_S) -> None:
        self.folder = folder
        self.beat_s = beat_s
        self.diary = folder / "diary"
        self.diary.mkdir()
        self._apps: dict[str, str] = {}
        self._meter = workshop.program(HERE / "meter.cpp").read_bytes()
        self.controller = network.machine("controller")
        self.base = f"http://{self.controller.address}:{PORT}"
        door = str(folder / "api")
        self.api = httpx.Client(transport=httpx.HTTPTransport(uds=door),
                                base_url="http://localhost", timeout=20)
        self._daemon = self.controller.start(
            [str(BIN / "plumd"), "serve", "--data-dir", str(folder / "data"), "--listen",
             f"0.0.0.0:{PORT}", "--trusted-networks", SUBNET, "--unix-socket", door,
             "--node-ttl-sec", f"{ttl_s:g}", "--os-process-slots", "0"],
            folder / "controller.log", clean_environment())
        wait_for(self._is_ready, "the controller is ready")
        self.nodes = {name: Node(self, network.machine(name)) for name in ("n1", "n2", "n3")}
        for node in self.nodes.values():
            node.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.api.close()

    def _is_ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.folder / "api")):
                return False
        return self.api.get("/readyz").status_code == 200

    def health(self, name: str) -> str:
        """How a node is, "" when it was never seen."""
        answer = self.api.get(f"/v1/nodes/{name}")
        return str(answer.json()["health"]) if answer.status_code == 200 else ""

    # ------------------------------------------------------------ deployments

    def app(self, version: str, start: str = "") -> str:
        """The url of a version of the service; start: what start.sh does instead of running it."""
        if version not in self._apps:
            run = start or f'exec ./meter 9000 "{self.diary}"'
            data = zipped({"start.sh": f"#!/bin/sh\n{run}\n", "meter": self._meter,
                           "meta.ini": f"name=meter\nversion={version}\nservice=meter:http:9000\n"})
            answer = self.api.post("/v1/apps/upload", files={
                "file": ("a.zip", data, "application/zip")})
            assert answer.status_code == 200, answer.text
            self._apps[version] = str(answer.json()["url"])
        return self._apps[version]

    def body(self, version: str, replicas: int, start: str = "",
             partition: str = "keep") -> dict[str, object]:
        """A deployment of the service."""
        check = {"kind": "http", "port": 9000, "intervalSec": 0.2}
        return {"name": "meter", "entries": [{
            "artifactUrl": self.app(version, start), "replicas": replicas, "stopGraceSec": 5,
            "healthCheck": check}],
            "onPartition": partition, "update": {"minHealthySec": 0.5, "drainSec": 1}}

    @contextmanager
    def deployed(self, replicas: int, partition: str = "keep") -> Iterator[str]:
        """A deployment that runs and is well, by its id; gone, with all its processes, after."""
        for path in self.diary.iterdir():
            path.unlink()
        answer = self.api.post("/v1/deployments", json=self.body(
            "1", replicas, partition=partition))
        assert answer.is_success, answer.text
        found = str(answer.json()["deploymentId"])
        self.act(found, "start")
        self.wait_ready(found, replicas)
        yield found
        assert self.api.delete(f"/v1/deployments/{found}").is_success
        wait_for(lambda: not self.living(), "nothing of it lives any more")

    def act(self, deployment: str, action: str, **body: object) -> None:
        """An action that must be taken."""
        answer = self.api.post(f"/v1/deployments/{deployment}", params={"action": action},
                               json=body)
        assert answer.status_code == 200, answer.text

    def renew(self, deployment: str, body: dict[str, object]) -> None:
        """A new version."""
        answer = self.api.put(f"/v1/deployments/{deployment}", json=body)
        assert answer.is_success, answer.text

    def deployment(self, deployment: str) -> Deployment:
        """As it is."""
        return msgspec.json.decode(self.api.get(f"/v1/deployments/{deployment}").content,
                                   type=Deployment)

    def copies(self, deployment: str) -> list[Copy]:
        """Those that shall run."""
        found = msgspec.json.decode(
            self.api.get(f"/v1/deployments/{deployment}/instances").content, type=list[Copy])
        return [copy for copy in found if copy.retired is None]

    def copy(self, deployment: str) -> Copy:
        """The only one that shall run."""
        found, = self.copies(deployment)
        return found

    def wait_ready(self, deployment: str, count: int) -> None:
        """Until so many copies run, are well, and are found."""
        wait_for(lambda: self.deployment(deployment).ready == count, f"{count} are ready")
        wait_for(lambda: len(self.endpoints("meter")) == count, f"{count} are found")

    def endpoints(self, service: str) -> set[str]:
        """Where a service is found."""
        items = msgspec.json.decode(self.api.get(
            "/v1/discovery", params={"service": service}).content, type=list[dict[str, object]])
        return {str(item["ip"]) for item in items}

    # ------------------------------------------------------------ what processes say

    def lives(self) -> list[Life]:
        """All processes that lived since the deployment began, the first one first."""
        found = []
        for path in self.diary.iterdir():
            words = path.read_text().split()
            named = LIFE.fullmatch(path.name)
            assert named is not None, path.name
            if len(words) == 2:
                found.append(Life(named["instance"], named["node"], int(words[0]),
                                  int(words[1])))
        return sorted(found, key=lambda life: life.first_ns)

    def living(self) -> list[Life]:
        """Those that lived a moment ago."""
        return [life for life in self.lives() if life.last_ns > boot_ns() - 500_000_000]

    def wait_living(self, *instances: str) -> None:
        """Until those live, and no others. One that had no processor for a moment has not ended."""
        wait_for(lambda: sorted(life.instance for life in self.living()) == sorted(instances),
                 f"of {len(instances)} a process lives")

    def next_life(self, after_ns: int, patience_s: float = 30) -> Life:
        """The first process that began after that time."""
        def begun() -> list[Life]:
            return [life for life in self.lives() if life.first_ns > after_ns]

        wait_for(lambda: bool(begun()), "another process begins", patience_s)
        return begun()[0]

    def last_ns(self, instance: str) -> int:
        """Until when the last process of an instance lived, by its own words."""
        return max(life.last_ns for life in self.lives() if life.instance == instance)


def boot_ns() -> int:
    """The clock of the diaries."""
    return boot_ms() * 1_000_000


@contextmanager
def plant_of(workshop: Workshop, ttl_s: float = TTL_S,
             beat_s: float = BEAT_S) -> Iterator[Plant]:
    """A plant; its folder has a short name, for a socket is in it.

    ttl_s: a node is lost after so long without a word, its tasks after three of beat_s.
    """
    with Network() as network:
        folder = Path(tempfile.mkdtemp(prefix="plum-"))
        try:
            with Plant(network, workshop, folder, ttl_s, beat_s) as plant:
                yield plant
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class Calls:
    """A program on the controller's machine that calls the service all the time: what it met."""

    def __init__(self, plant: Plant) -> None:
        self._record = plant.folder / "calls"
        self._record.unlink(missing_ok=True)
        self._way = plant.controller.start(
            [sys.executable, str(HERE / "caller.py"), f"http://127.0.0.1:{PORT}", "meter",
             str(self._record)], plant.folder / "caller.log", clean_environment())

    def __enter__(self) -> Self:
        wait_for(lambda: len(self.said()) > 3, "the calls begin")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._way.kill()
        self._way.wait()

    def said(self) -> list[str]:
        """Of each call: the version that answered, or what went wrong."""
        return self._record.read_text().splitlines() if self._record.exists() else []

    def wrong(self) -> list[str]:
        """What went wrong."""
        return [line for line in self.said() if not line.isdigit()]

    def wait_for_more(self, count: int = 20) -> None:
        """Until so many more were made."""
        until = len(self.said()) + count
        wait_for(lambda: len(self.said()) >= until, "calls go on")
