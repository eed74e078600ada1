"""Machines of the test's own: each has a network, processes and mounts of its own, on one bridge.

A machine is held by one process, the init of its process namespace. Nothing has a name that could
stay behind: when the holder dies, because the test was killed too, the kernel ends everything on
the machine and forgets its network. Nothing of the host's own network is touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn, Self, TypeVar

import pytest

from tests.daemon.plant import wait_for

TOOLS: Final = ("ip", "nsenter", "unshare", "setpriv")
BRIDGE: Final = "br0"
WIRE: Final = Path(__file__).with_name("wire.py")
SUBNET: Final = "10.77.0.0/24"
TIED: Final = ("setpriv", "--pdeathsig", "KILL")
"""Whoever is started so dies with whoever started it."""
REST: Final = ("env", "--ignore-signal=CHLD", "sleep", "infinity")
"""An init that does nothing, and leaves no zombies."""


def check_tools() -> None:
    """Skip where namespaces cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not here: apt-get install iproute2 util-linux")
    probe = subprocess.run(["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--cgroup",
                            "--fork", "true"], capture_output=True, text=True)
    if probe.returncode:
        cannot(f"root may not make namespaces here: {probe.stderr.strip()}")


def cannot(reason: str) -> NoReturn:
    """No package brings what this kernel, or who started us, does not give: that is told as a
    failure that is expected here, not as a test that was left out."""
    pytest.xfail(f"THE TESTS OF WHOLE MACHINES DID NOT RUN: {reason}")


def held(*words: str) -> tuple[subprocess.Popen[bytes], int]:
    """Namespaces by `unshare`, with these options: their holder, and the id of their init."""
    process = subprocess.Popen([*TIED, "unshare", "--fork", "--kill-child", *words, "--", *REST])
    wait_for(lambda: child_of(process.pid) is not None, "the namespaces are there")
    inner = child_of(process.pid)
    assert inner is not None
    wait_for(lambda: Path(f"/proc/{inner}/comm").read_text() == "sleep\n", "its init rests")
    return process, inner


def child_of(pid: int) -> int | None:
    """The first child of a process."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else None


class Machine:
    """One of them. address: where the others find it."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self.name = name
        self.address = f"10.77.0.{number}"
        self._port = f"v{number}"
        self._network = network
        self._ways: list[subprocess.Popen[bytes]] = []
        self._wires: list[Wire] = []
        self._holder, self.init = self.boot()
        network.inside("ip", "link", "add", self._port, "type", "veth", "peer", "name", "e0",
                       "netns", str(self.init))
        network.inside("ip", "link", "set", self._port, "master", BRIDGE, "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "e0")
        self.run("ip", "link", "set", "e0", "up")

    def boot(self) -> tuple[subprocess.Popen[bytes], int]:
        """The holder of its namespaces, and its first process."""
        return held("--net", "--pid", "--mount", "--mount-proc")

    @property
    def way_in(self) -> list[str]:
        """Words before a command that runs there."""
        return ["nsenter", f"--target={self.init}", "--net", "--pid", "--mount", "--"]

    def run(self, *words: str) -> str:
        """Run a command there, to its end; what it printed."""
        return subprocess.run([*self.way_in, *words], check=True, capture_output=True,
                              text=True, timeout=60).stdout

    def start(self, words: list[str], log: Path, environment: Mapping[str, str], *,
              network: bool = True, rest: bool = True) -> subprocess.Popen[bytes]:
        """Start a command there. What is answered is the way in, whose child is the command.

        network: whether its network is the machine's.  rest: whether its processes and mounts are;
        without it the answer is the command itself.
        """
        words_in = ["nsenter", f"--target={self.init}", *(["--net"] if network else []),
                    *(["--pid", "--mount"] if rest else []), "--"]
        way_in = [*words_in, *TIED] if rest else words_in
        with log.open("ab") as said:
            way = subprocess.Popen([*TIED, *way_in, *words], env=dict(environment),
                                   stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        self._ways.append(way)
        return way

    def unplug(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        self._network.inside("ip", "link", "set", self._port, "nomaster")

    def plug_in(self) -> None:
        """As before."""
        self._network.inside("ip", "link", "set", self._port, "master", BRIDGE)

    def wire(self) -> Wire:
        """From now on its frames go over a wire that can lose and delay them."""
        made = Wire(self._network, self._port)
        self._wires.append(made)
        return made

    def close(self) -> None:
        """Cut the power."""
        self._holder.kill()
        self._holder.wait()
        for way in self._ways:
            way.kill()          # it stops with what it led to, and would not go on by itself
            way.wait()
        for wire in self._wires:
            wire.close()


class Wire:
    """What is between a machine's port and the bridge; it begins without a fault."""

    def __init__(self, network: Network, port: str) -> None:
        near, far, own = f"{port}n", f"{port}f", f"{port}b"
        for tap in (near, far):
            network.inside("ip", "tuntap", "add", "mode", "tap", "name", tap)
        network.inside("ip", "link", "add", own, "type", "bridge")
        for link, master in ((port, own), (near, own), (far, BRIDGE)):
            network.inside("ip", "link", "set", link, "master", master, "up")
        network.inside("ip", "link", "set", own, "up")
        self.process = subprocess.Popen(
            [*TIED, *network.way_in, sys.executable, str(WIRE), near, far],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.be()

    def be(self, *, sent: float = 0.0, received: float = 0.0, delay_s: float = 0.0) -> None:
        """Be so, now. sent, received: how much is lost of what the machine sends and receives.
        delay_s: how long a frame takes, one way."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{sent} {received} {delay_s}\n".encode())
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"set\n"

    def close(self) -> None:
        """End it, and the way with it."""
        with self.process:
            self.process.kill()


M = TypeVar("M", bound=Machine)


class Network:
    """A bridge in a namespace of its own, and the machines on it."""

    def __init__(self) -> None:
        check_tools()
        self._holder, self._init = held("--net")
        self.machines: list[Machine] = []

    def __enter__(self) -> Self:
        self.inside("ip", "link", "add", BRIDGE, "type", "bridge")
        self.inside("ip", "link", "set", BRIDGE, "up")
        return self

    def __exit__(self, *exc_info: object) -> None:
        for machine in self.machines:
            machine.close()
        self._holder.kill()
        self._holder.wait()

    def inside(self, *words: str) -> None:
        """Run a command in the bridge's namespace."""
        subprocess.run([*self.way_in, *words], check=True, capture_output=True, timeout=60)

    @property
    def way_in(self) -> list[str]:
        """Words before a command that runs in the bridge's namespace."""
        return ["nsenter", f"--net=/proc/{self._init}/ns/net", "--"]

    def machine(self, name: str) -> Machine:
        """One more."""
        return self.add(name, Machine)

    def add(self, name: str, kind: type[M]) -> M:
        """One more, of a kind."""
        made = kind(self, name, len(self.machines) + 1)
        self.machines.append(made)
        return made
