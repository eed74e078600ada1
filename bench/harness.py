"""A daemon of its own for each question, workers as processes, and what the machine is."""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from bench.load import Connection

START_S: Final = 60.0
LOOK_S: Final = 0.1
TICKS: Final = os.sysconf("SC_CLK_TCK")


class Figures(msgspec.Struct, frozen=True):
    """What one question came to. values: name with unit -> number."""

    question: str
    values: dict[str, float]
    digest: str
    """A hash of the results that were read back, so that a wrong answer is seen."""


def median(values: list[float]) -> float:
    """The middle one."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def percentile(values: list[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def digest_of(values: object) -> str:
    """Twelve hex digits of a value."""
    return hashlib.sha256(msgspec.json.encode(values)).hexdigest()[:12]


def machine() -> str:
    """One line about where this runs."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return (f"{os.cpu_count()} x {model}, Linux {platform.release()}, "
            f"Python {platform.python_version()}")


def fsync_ms(folder: Path) -> float:
    """The median time of a 4 KiB append with fdatasync, as a commit does it."""
    path, times = folder / "fsync.probe", []
    with path.open("wb") as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - begun) * 1000)
    path.unlink()
    return median(times)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    """A process's processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def status(pid: int, name: str) -> int:
    """A number from /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


class Daemon:
    """A running plumd."""

    def __init__(self, data: Path, port: int, flags: tuple[str, ...] = ()) -> None:
        self.data = data
        self.port = port
        self.flags = flags
        self.process = self.start()

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; returns when it answers."""
        self.process = self.begin(["serve", "--data-dir", str(self.data), "--listen",
                                   f"127.0.0.1:{self.port}", "--log-level", "warning",
                                   *self.flags])
        deadline = time.monotonic() + START_S
        while True:
            try:
                with Connection(self.port) as line:
                    line.call("GET", "/readyz")
                return self.process
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.01)

    def begin(self, words: list[str]) -> subprocess.Popen[bytes]:
        """Start plumd with these words."""
        return subprocess.Popen([sys.executable, "-m", "plumd", *words])

    def cpu_s(self) -> float:
        """Processor time so far."""
        return cpu_s(self.process.pid)

    def status(self, name: str) -> int:
        """A number from /proc/PID/status: VmRSS in kB, voluntary_ctxt_switches ..."""
        return status(self.process.pid, name)

    def commits(self) -> int:
        """Write transactions so far."""
        with Connection(self.port) as line:
            return int(line.json("GET", "/v1/status")["commits"])

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it cleanly."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()


def wait_for(condition: Callable[[], bool], what: str, within_s: float = START_S) -> None:
    """Look until something holds, seldom enough that looking is not the load that is measured."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"not within {within_s:g} s: {what}"
        time.sleep(LOOK_S)


@contextmanager
def daemon(flags: tuple[str, ...] = ()) -> Iterator[Daemon]:
    """A daemon on an empty directory, which goes with it."""
    data = Path(tempfile.mkdtemp(prefix="plum-bench-"))
    running = None
    try:
        running = Daemon(data, free_port(), flags)
        yield running
    finally:
        if running is not None:
            running.stop()
        shutil.rmtree(data, ignore_errors=True)


class Worker:
    """A worker process that runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def cpu_s(self) -> float:
        """Processor time so far."""
        return cpu_s(self.process.pid)

    def status(self, name: str) -> int:
        """A number from /proc/PID/status."""
        return status(self.process.pid, name)


@contextmanager
def worker(url: str, capacity: int, name: str = "noop", mode: str = "noop",
           kind: str = "python", ids: tuple[str, ...] = ()) -> Iterator[Worker]:
    """A worker process with one inline handler; returns when it is registered.

    kind: python, c (built here, by the plain compiler line), the same by long poll (python-poll,
    c-poll), or grpc.  ids: C only; so many workers in the one process.
    """
    module = "bench.grpc_worker" if kind == "grpc" else "bench.worker"
    words = [str(c_worker())] if kind.startswith("c") else [sys.executable, "-m", module]
    more = {"PLUM_BENCH_LONG_POLL": "1"} if kind.endswith("-poll") else {}
    process = subprocess.Popen([*words, url, str(capacity), name, mode, *ids],
                               stdout=subprocess.PIPE, env=os.environ | more)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield Worker(process)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@cache
def c_worker() -> Path:
    """bench/c_worker.c, compiled once; it goes when this program ends."""
    sdk = Path(__file__).parent.parent / "plumd/sdk/c"
    folder = tempfile.TemporaryDirectory(prefix="plum-bench-c-")
    atexit.register(folder.cleanup)
    out = Path(folder.name) / "c_worker"
    subprocess.run(["cc", "-O2", f"-I{sdk}", "-o", out, Path(__file__).parent / "c_worker.c",
                    sdk / "plum.c", "-lpthread"], check=True)
    return out
