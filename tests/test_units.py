"""The systemd units: what systemd itself says of them, and what plumd says to systemd."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from plumd import notify, units
from tests.agent.program import Agent
from tests.daemon.plant import wait_for
from tests.daemon.running import BIN, Running, clean_environment, free_port

UNITS = ("plumd.service", "plumd.socket", "plum-agent@.service")
EXPOSED_MAX = {"plumd.service": 12, "plum-agent@.service": 85}
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


@pytest.mark.parametrize(("program", "told"), [
    ("/opt/plum/bin/plumd", False), ("/home/ada/plum/.venv/bin/plumd", True)])
def test_whoever_installs_from_a_home_is_told(tmp_path: Path, program: str, told: bool) -> None:
    done = subprocess.run(
        [BIN / "plumd", "install-units", "--root", tmp_path, "--program", program],
        capture_output=True, text=True, check=True)
    assert (f"cannot start {program}" in done.stderr) is told
    assert "systemctl enable --now plumd.socket" in done.stderr


@pytest.mark.parametrize("name", UNITS)
def test_systemd_has_nothing_to_say_of_a_unit(installed: Path, name: str) -> None:
    done = analyze("--man=no", "verify", installed / name)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", EXPOSED_MAX)
def test_memory_that_kills_another_program_of_a_unit_does_not_stop_it(
        installed: Path, name: str) -> None:
    assert "OOMPolicy=continue" in (installed / name).read_text().splitlines()


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

    def fill(self) -> None:
        """Hear nothing more, until it listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, suppress(BlockingIOError):
            other.connect(self.path)
            while True:
                other.send(b"STATUS=", socket.MSG_DONTWAIT)

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
        assert said.startswith("EXTEND_TIMEOUT_USEC=60000000\nSTATUS=reading the database\n")
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


@contextmanager
def given(folder: Path, listeners: Sequence[socket.socket], *options: str) -> Iterator[Path]:
    """A plumd that is started with these sockets, as a manager does it; its log."""
    fds = [each.fileno() for each in listeners]
    program = ("import os, sys; "
               f"[os.dup2(fd, 100 + at) for at, fd in enumerate({fds})]; "
               f"[os.dup2(100 + at, 3 + at) for at in range({len(fds)})]; "
               f"os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='{len(fds)}'); "
               "os.execv(sys.argv[1], sys.argv[1:])")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "python", "-c", program, BIN / "plumd", "serve", "--data-dir", folder / "data",
             *options], pass_fds=fds, stdout=log, stderr=log, env=clean_environment())
    try:
        yield folder / "log"
    finally:
        process.terminate()
        assert process.wait(30) == 0


def answers(line: socket.socket, address: str | tuple[str, int]) -> bool:
    """Whether plumd is at an address, a path or host and port."""
    line.settimeout(60)
    with line, suppress(ConnectionRefusedError, FileNotFoundError):
        line.connect(address)
        line.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return line.recv(100).startswith(b"HTTP/1.1 200")
    return False


@pytest.mark.daemon
def test_plumd_takes_the_sockets_that_it_is_given(tmp_path: Path) -> None:
    """Whoever connects while it is away is served when it is back: none is refused."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        waiting = socket.create_connection(("127.0.0.1", port))
        waiting.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with given(tmp_path, [listener], "--listen", f"127.0.0.1:{port}"):
            waiting.settimeout(60)
            with waiting:
                assert waiting.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.daemon
def test_further_addresses_are_bound_beside_what_is_given(tmp_path: Path) -> None:
    """What stands for `listen` is given; of the two others one is given, too."""
    door, unwanted, second = tmp_path / "door", free_port(), free_port()
    with socket.create_server(("127.0.0.1", 0)) as listener, \
            socket.create_server(("127.0.0.1", second)) as grpc:
        with given(tmp_path, [listener, grpc], "--listen", f"127.0.0.1:{unwanted}",
                   "--grpc-listen", f"localhost:{second}", "--unix-socket", str(door)) as log:
            for each in (listener, grpc):
                assert answers(socket.socket(), each.getsockname())
            assert answers(socket.socket(socket.AF_UNIX), str(door))
            assert not answers(socket.socket(), ("127.0.0.1", unwanted))
            assert log.read_text().count(f":{second}") == 1
    third = free_port()
    with socket.socket(socket.AF_UNIX) as own, \
            socket.create_server(("127.0.0.1", 0)) as listener:
        own.bind(str(tmp_path / "own"))
        own.listen()
        with given(tmp_path, [own, listener], "--grpc-listen", f"127.0.0.1:{third}",
                   "--unix-socket", str(tmp_path / "own")):
            assert answers(socket.socket(), listener.getsockname())
            assert answers(socket.socket(), ("127.0.0.1", third))
            assert answers(socket.socket(socket.AF_UNIX), str(tmp_path / "own"))


@pytest.fixture
def deaf(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> Manager:
    """A manager whose queue is full, until it listens."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(notify, "OWED", [])
    manager.fill()
    return manager


def test_a_manager_that_does_not_hear_holds_up_nobody(deaf: Manager) -> None:
    heard: list[bool] = []
    speaker = threading.Thread(target=lambda: heard.append(notify.tell("STATUS=")), daemon=True)
    speaker.start()
    speaker.join(10)
    assert heard == [True]
    deaf.listen()
    assert notify.tell("STATUS=it hears again")
    assert deaf.listen().endswith("STATUS=it hears again")


def test_what_a_manager_must_hear_is_said_until_it_was_heard(deaf: Manager) -> None:
    assert notify.tell("READY=1", "MAINPID=7", surely=True)
    assert notify.tell("STATUS=lost")
    assert notify.pause_s(10) == notify.AGAIN_S, "not only when the next words are due"
    deaf.listen()
    assert notify.tell("STATUS=here")
    assert deaf.listen().endswith("READY=1\nMAINPID=7\nSTATUS=here")
    assert notify.pause_s(10) == 10
    assert notify.tell("STATUS=there")
    assert deaf.listen().count("READY=1") == 1


def test_of_what_a_manager_must_hear_only_the_last_still_counts(deaf: Manager) -> None:
    notify.tell("READY=1", surely=True)
    notify.tell("STOPPING=1", surely=True)
    deaf.listen()
    assert notify.tell()
    assert deaf.listen().endswith("STOPPING=1")
    assert "READY=1" not in deaf.listen()


def test_a_manager_that_is_away_for_a_moment_still_hears(
        tmp_path: Path, deaf: Manager) -> None:
    deaf.close()
    Path(deaf.path).unlink()
    assert notify.tell("READY=1", surely=True)
    back = Manager(tmp_path)
    assert notify.tell("WATCHDOG=1")
    assert back.listen() == "READY=1\nWATCHDOG=1"
    back.close()


@pytest.mark.daemon
def test_plumd_is_ready_for_a_manager_that_hears_late(tmp_path: Path, manager: Manager) -> None:
    manager.fill()
    with Running(tmp_path / "data", environment={"NOTIFY_SOCKET": manager.path}) as daemon:
        wait_for(lambda: f"READY=1\nMAINPID={daemon.pid}" in manager.listen(), "it is said again")


@pytest.mark.daemon
def test_an_agent_is_ready_for_a_manager_that_hears_late(
        tmp_path: Path, manager: Manager) -> None:
    manager.fill()
    with Agent(tmp_path / "agent", "http://127.0.0.1:9", "n1",
               environment={"NOTIFY_SOCKET": manager.path}) as agent:
        wait_for(lambda: "the agent runs" in agent.log.read_text(), "it runs")
        wait_for(lambda: "READY=1" in manager.listen(), "it is said again")


def test_a_large_database_is_given_time_to_be_read(
        tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    with (tmp_path / "plum.db").open("wb") as file:
        file.truncate(10 ** 10)
    notify.extend(tmp_path / "plum.db")
    assert "EXTEND_TIMEOUT_USEC=2060000000" in manager.listen(), "34 minutes for 10 GB"


def test_without_a_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_PID"):
        monkeypatch.delenv(name, raising=False)
    assert not notify.tell("READY=1")
    assert notify.watchdog_s() is None
    assert notify.inherited() == []
    monkeypatch.setenv("WATCHDOG_USEC", "500000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert notify.watchdog_s() is None
