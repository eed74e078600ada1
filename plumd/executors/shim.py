"""plum-shim seen from outside: leave it a spec, start it, ask it, read what it wrote at the end.

All functions are synchronous and quick (one may wait for a dead shim's leftovers); the head of
agent/shim.c says what the files in an attempt's directory are.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from plumd.executors.process_log import CLOSED, STATUS

SHIM_PATH: Final = Path(__file__).parent.parent / "agent" / "plum-shim"
DIRECTORY_VARIABLE: Final = "PLUM_ATTEMPT_DIR"
LEFTOVERS_S_MAX: Final = 2.0
SHUTDOWN: Final = "shutdown"
"""Why a shim stopped its process that was itself asked to end: the machine goes down."""

_STARTED: Final = 0
_ALREADY: Final = 3


class Sent(msgspec.Struct, frozen=True, rename="camel"):
    """A signal that the shim sent to the tree. processes: how many were alive then."""

    signal: int
    at_ms: int
    processes: int


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """How a process ended. Of exit_code and signal one says it: exit_code -1, signal 0 = not so.

    failed_stage, failed_errno, failed_text: why it could not start ("" and 0: it could).
    stop_reason: what the first stop said, or SHUTDOWN.
    lost_bytes, log_errno: output that the disk did not take.  group: "cgroup2" or "".
    limits: which limits are held, and by what.
    """

    pid: int
    executed: bool
    exit_code: int
    signal: int
    failed_stage: str
    failed_errno: int
    failed_text: str
    started_ms: int
    ended_ms: int
    duration_us: int
    user_us: int
    system_us: int
    read_bytes: int
    written_bytes: int
    peak_memory_bytes: int
    oom_kills: int
    stdout_bytes: int
    stderr_bytes: int
    lost_bytes: int
    log_errno: int
    group: str
    limits: dict[str, str]
    stop_reason: str
    signals: tuple[Sent, ...]


class Spec(NamedTuple):
    """What a shim is asked to run. cwd "" = a directory of the attempt's own; limits: 0 = none.

    lease_at_ms: by CLOCK_BOOTTIME; then it is killed unless the lease is renewed. 0 = no lease.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    stdin: bytes | None
    name: str
    grace_ms: int
    log_bytes_max: int
    memory_bytes: int = 0
    cpu_percent: int = 0
    pids: int = 0
    cgroups: bool = True
    lease_at_ms: int = 0


def own_directory(directory: Path) -> Path:
    """Where a command runs that names no directory; goes with the attempt, at once when empty."""
    return directory / "work"


def prepare(directory: Path, spec: Spec) -> None:
    """Make the directory and put the spec into it, whole or not at all.

    Raises OSError: disk full, no permission.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not spec.cwd:
        own_directory(directory).mkdir(mode=0o700, exist_ok=True)
    records = [f"arg={word}" for word in spec.argv]
    records += [f"env={key}={value}" for key, value in spec.env.items()]
    records += [f"cwd={spec.cwd or own_directory(directory)}", f"name={spec.name}",
                f"grace_ms={spec.grace_ms}", f"log_bytes={spec.log_bytes_max}",
                f"memory_bytes={spec.memory_bytes}", f"cpu_percent={spec.cpu_percent}",
                f"pids={spec.pids}", f"cgroups={int(spec.cgroups)}",
                f"lease_at_ms={spec.lease_at_ms}", "end=", ""]
    if spec.stdin is not None:
        put(directory / "stdin", spec.stdin)
    put(directory / "spec", "\0".join(records).encode())
    (directory / CLOSED).unlink(missing_ok=True)


def put(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that a shim never reads half of it. Raises OSError."""
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)        # the disk is full, and this would fill it further
        raise


class NotStarted(Exception):
    """The shim could not start anything; the text says why. Nothing was claimed."""


def launch(shim_path: Path, directory: Path) -> bool:
    """Start the shim of this directory; False when another one has, or had, the attempt.

    Raises NotStarted, OSError (no such program).  Blocks some milliseconds: call it in a thread.
    """
    done = subprocess.run([shim_path, directory], env={}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode not in (_STARTED, _ALREADY):
        raise NotStarted(done.stderr.decode(errors="replace").strip()
                         or f"plum-shim ended with {done.returncode}")
    return done.returncode == _STARTED


def connect(directory: Path) -> socket.socket | None:
    """A line to the running shim; its end of file is the attempt's end. None: no shim runs.

    Raises BlockingIOError when too many wait at its door already.
    """
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        line.setblocking(False)
        line.connect(f"/proc/self/fd/{descriptor}/sock")    # the real path may be over 107 bytes
    except (FileNotFoundError, ConnectionRefusedError):
        line.close()
        return None
    except OSError:
        line.close()
        raise
    finally:
        os.close(descriptor)
    return line


def stop_request(grace_ms: int, reason: str) -> bytes:
    """What to send over the line so that the tree ends; reason: lower-case letters."""
    return f"stop {grace_ms} {reason}".encode()


def tail_request(offset: int) -> bytes:
    """What to send to be told, once, as soon as the log goes beyond this."""
    return f"tail {offset}".encode()


def lease_request(at_ms: int) -> bytes:
    """What to send to put the end of the lease off until then (CLOCK_BOOTTIME)."""
    return f"lease {at_ms}".encode()


def boot_ms() -> int:
    """The clock that leases are counted by: it goes on while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Usage(NamedTuple):
    """What a process's tree uses. cpu_us and the bytes read and written are sums so far."""

    cpu_us: int
    memory_bytes: int
    processes: int
    peak_memory_bytes: int
    read_bytes: int
    written_bytes: int


STATS_REQUEST: Final = b"stats"


def parse_usage(answer: bytes) -> Usage | None:
    """The answer to STATS_REQUEST; None when it is another's."""
    word, _, rest = answer.partition(b" ")
    numbers = [int(part) for part in rest.split()] if word == b"stats" else []
    return Usage(*numbers) if len(numbers) == len(Usage._fields) else None


def read_status(directory: Path) -> Status | None:
    """How the process ended; None when that was never written, or cannot be read."""
    try:
        return msgspec.json.decode((directory / STATUS).read_bytes(), type=Status)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def was_claimed(directory: Path) -> bool:
    """Whether the process may have been started, some time."""
    try:
        return (directory / "claim").stat().st_size > 0
    except FileNotFoundError:
        return False


def age_s(directory: Path) -> float:
    """How long ago its process was started, by the wall clock; 0 where nobody knows."""
    try:
        return max(0.0, time.time() - (directory / "claim").stat().st_mtime)
    except OSError:
        return 0.0


def bury(directory: Path) -> None:
    """Reap the ended shim where we are the one to inherit it: as PID 1 of a container, say.

    Reaps no other child than a shim, and waits at most 0.1 s.
    """
    try:
        pid = int((directory / "claim").read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return
    for _ in range(50):
        try:
            name, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        except OSError:
            return
        if not name.endswith("(plum-shim") or int(fields.split()[1]) != os.getpid():
            return
        with suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return
        time.sleep(0.002)


def close_log(directory: Path) -> None:
    """Tell the readers of its log that nothing more will come, where no status says it."""
    with suppress(FileNotFoundError):
        (directory / CLOSED).touch()


def end_leftovers(directory: Path) -> int:
    """Kill what a shim that died left of its process's tree; how many processes that took.

    By its cgroup, and by the variable that each of its processes inherited. Waits until they are
    gone, at most 2 s: call it in a thread.
    """
    groups = _claimed_groups(directory)
    killed: set[int] = set()
    deadline = time.monotonic() + LEFTOVERS_S_MAX
    while found := _leftovers(directory, groups):
        for group in groups:
            with suppress(OSError):
                (group / "cgroup.kill").write_text("1")
        for pid in found:
            _kill_if_ours(pid, directory, groups)
        killed |= found
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    for group in groups:
        with suppress(OSError):
            group.rmdir()
    return len(killed)


def _claimed_groups(directory: Path) -> list[Path]:
    try:
        return [Path(line) for line in (directory / "claim").read_text().splitlines()[1:]]
    except FileNotFoundError:
        return []


def _leftovers(directory: Path, groups: Sequence[Path]) -> set[int]:
    members = _members(groups)
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return members | {pid for pid in pids if _inherited(pid, directory)}


def _members(groups: Sequence[Path]) -> set[int]:
    members: set[int] = set()
    for group in groups:
        with suppress(OSError):
            members |= {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
    return members


def _inherited(pid: int, directory: Path) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"{DIRECTORY_VARIABLE}={directory}".encode() in variables


def _kill_if_ours(pid: int, directory: Path, groups: Sequence[Path]) -> None:
    """By a pidfd taken before the last look, so that it cannot hit a newcomer with that pid."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if pid in _members(groups) or _inherited(pid, directory):
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)
