"""The systemd units: what systemd itself says of them, and what plumd says to systemd."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumd import notify, units
from tests.agent.program import Agent
from tests.daemon.plant import wait_for
from tests.daemon.running import BIN, Running

UNITS = ("plumd.service", "plumd.socket", "plum-agent@.service")
EXPOSED_MAX = {"plumd.service": 20, "plum-agent@.service": 85}
"""By `systemd-analyze security`, in tenths; docs/systemd.md says why the agent has its number."""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A root with the units, calling a program that is there."""
    done = subprocess.run([BIN / "plumd", "install-units", "--root", tmp_path, "--program",
                           "/bin/true"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "systemctl enable --now" in done.stderr
    assert len(done.stdout.split()) == len(units.PLACES) + 1
    return tmp_path / "etc/systemd/system"


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: apt-get install systemd")
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True)


@pytest.mark.parametrize("name", UNITS)
def test_systemd_has_nothing_to_say_of_a_unit(installed: Path, name: str) -> None:
    done = analyze("--man=no", "verify", installed / name)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", EXPOSED_MAX)
def test_units_are_as_closed_as_they_can_be(installed: Path, name: str) -> None:
    done = analyze("security", "--offline=yes", f"--threshold={EXPOSED_MAX[name]}",
                   installed / name)
    assert done.returncode == 0, done.stdout


class Manager:
    """What a service manager does, as far as it concerns plumd."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self.heard: list[str] = []
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._line.bind(self.path)
        self._line.setblocking(False)

    def listen(self) -> str:
        """All that was said so far."""
        while True:
            try:
                self.heard.append(self._line.recv(4096).decode())
            except BlockingIOError:
                return "\n".join(self.heard)

    def close(self) -> None:
        self._line.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


@pytest.mark.daemon
def test_plumd_tells_its_manager_how_it_goes(tmp_path: Path, manager: Manager) -> None:
    names = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "300000"}
    with Running(tmp_path / "data", environment=names) as daemon:
        said = manager.listen()
        assert f"READY=1\nMAINPID={daemon.pid}" in said
        wait_for(lambda: manager.listen().count("WATCHDOG=1") >= 3, "the watchdog is fed")
        assert "STATUS=0 tasks run, 0 wait" in manager.listen()
        assert daemon.stop() == 0
        assert "STOPPING=1" in manager.listen()


@pytest.mark.daemon
def test_an_agent_tells_its_manager_too(tmp_path: Path, manager: Manager) -> None:
    names = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "300000"}
    with Agent(tmp_path / "agent", "http://127.0.0.1:9", "n1", environment=names) as agent:
        wait_for(lambda: "READY=1" in manager.listen(), "it is ready")
        wait_for(lambda: manager.listen().count("WATCHDOG=1") >= 3, "the watchdog is fed")
        assert agent.stop() == 0
        assert "STOPPING=1" in manager.listen()


@pytest.mark.daemon
def test_plumd_takes_the_sockets_that_it_is_given(tmp_path: Path) -> None:
    """Whoever connects while it is away is served when it is back: none is refused."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        waiting = socket.create_connection(("127.0.0.1", port))
        waiting.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        program = (f"import os, sys; os.dup2({listener.fileno()}, 3); "
                   "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
                   "os.execv(sys.argv[1], sys.argv[1:])")
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [BIN / "python", "-c", program, BIN / "plumd", "serve", "--data-dir",
                 tmp_path / "data", "--listen", f"127.0.0.1:{port}"],
                pass_fds=[listener.fileno()], stdout=log, stderr=log)
        try:
            waiting.settimeout(60)
            assert waiting.recv(100).startswith(b"HTTP/1.1 200")
        finally:
            waiting.close()
            process.terminate()
            assert process.wait(30) == 0


def test_without_a_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_PID"):
        monkeypatch.delenv(name, raising=False)
    assert not notify.tell("READY=1")
    assert notify.watchdog_s() is None
    assert notify.inherited() == []
    monkeypatch.setenv("WATCHDOG_USEC", "500000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert notify.watchdog_s() is None
