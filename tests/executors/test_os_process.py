"""The os_process executor with real processes: ends, stops, restarts of the daemon, logs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from plumd.errors import Invalid, NotFound
from plumd.executors import Attempt, Outcome, Stop, shim
from plumd.executors.hour_logs import HourLogs
from plumd.executors.os_process import Command, OsProcess, ProcessResult, parse_command
from plumd.model import Ending

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "plumd" / "agent" / "shim.c"


@pytest.fixture(scope="module")
def shim_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("shim") / "plum-shim"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE"]
    subprocess.run(["cc", *flags, "-o", target, SOURCE], check=True)
    return target


@pytest.fixture
def executor(tmp_path: Path, shim_path: Path) -> Iterator[OsProcess]:
    made = OsProcess(tmp_path, shim_path)
    yield made
    made.sweep(set())       # whatever a failed test left running


def attempt(task_id: int = 1, number: int = 1, **payload: object) -> Attempt:
    return Attempt(task_id, number, "a.task", json.dumps(payload).encode(), worker_id="here")


def shell(code: str, *args: str, task_id: int = 1, **payload: object) -> Attempt:
    words = {"command": "sh", "args": ["-c", code, "sh", *args]}
    return Attempt(task_id, 1, "a.task", json.dumps(words | payload).encode(), worker_id="here")


def result(outcome: Outcome) -> ProcessResult:
    assert outcome.result is not None
    return msgspec.json.decode(outcome.result, type=ProcessResult)


def pids_of(executor: OsProcess, task_id: int = 1) -> set[int]:
    """Living processes of an attempt, its shim not among them."""
    wanted = f"{shim.DIRECTORY_VARIABLE}={executor.directory(task_id, 1)}".encode()
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.add(int(name))
    return found


def shim_pid(executor: OsProcess, task_id: int = 1) -> int:
    return int((executor.directory(task_id, 1) / "claim").read_text().split()[0])


def private_memory_kb(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines()
               if line.startswith("Private_"))


async def wait_text(executor: OsProcess, text: bytes, task_id: int = 1) -> None:
    """Until the attempt has written this."""
    seen, at = b"", 0
    with trio.fail_after(20):
        while text not in seen:
            try:
                await executor.wait_log(task_id, 1, at)
            except NotFound:            # its directory is not made yet
                await trio.sleep(0.005)
                continue
            page = executor.read_log(task_id, 1, at, 65536)
            seen += b"".join(entry.data for entry in page.entries)
            at = page.next_offset
            assert text in seen or not page.finished, seen


class Running:
    """One `run` in a nursery, its outcome kept."""

    def __init__(self, executor: OsProcess, what: Attempt) -> None:
        self.executor, self.what, self.stop = executor, what, Stop()
        self.outcome: Outcome | None = None
        self.scope = trio.CancelScope()
        self.done = trio.Event()

    async def run(self) -> None:
        with self.scope:
            self.outcome = await self.executor.run(self.what, self.stop)
        self.done.set()

    async def wait(self) -> Outcome:
        with trio.fail_after(20):
            await self.done.wait()
        assert self.outcome is not None
        return self.outcome


# ---- payloads --------------------------------------------------------------------------------

@pytest.mark.parametrize(("payload", "field", "text"), [
    (b"null", "payload", "object"),
    (b'"ls"', "payload", "object"),
    (b"{", "payload", "not JSON"),
    (b'{"command":"\xff"}', "payload", "not JSON"),
    (b"{}", "payload", "command"),
    (b'{"command":""}', "payload.command", "length"),
    (b'{"command":"ls","shell":true,"user":"x"}', "payload.shell", "unknown: shell, user"),
    (b'{"command":"ls","args":["a",2]}', "payload.args[1]", "str"),
    (b'{"command":"ls","args":["a\\u0000b"]}', "payload.args[0]", "NUL"),
    (b'{"command":"ls","workingDir":"tmp"}', "payload.workingDir", "absolute"),
    (b'{"command":"ls","env":{"A=B":"1"}}', "payload.env.A=B", "not a name"),
    (b'{"command":"ls","env":{"A":1}}', "payload.env[...]", "str"),
    (b'{"command":"ls","killGraceSec":-1}', "payload.killGraceSec", ">= 0"),
    (b'{"command":"ls","killGraceSec":1e9}', "payload.killGraceSec", "<= 3600"),
    (b'{"command":"ls","limits":{"memoryBytes":0}}', "payload.limits.memoryBytes", ">= 1"),
    (b'{"command":"ls","limits":{"disk":1}}', "payload.limits", "disk"),
])
def test_bad_payloads_are_refused_with_the_field(payload: bytes, field: str, text: str) -> None:
    with pytest.raises(Invalid, match=re.escape(text)) as caught:
        parse_command(payload)
    assert caught.value.field == field


@pytest.mark.parametrize(("value", "stdin"), [
    ("plain ü\n", "plain ü\n".encode()), ({"a": [1, None]}, b'{"a": [1, null]}'),
    (None, None), ("", b""), (5, b"5"), (False, b"false"),
])
def test_input_becomes_stdin(value: object, stdin: bytes | None) -> None:
    payload = json.dumps({"command": "cat", "input": value}, ensure_ascii=False)
    command = parse_command(payload.encode())
    assert isinstance(command, Command)
    assert command.stdin == stdin


async def test_a_bad_payload_fails_for_good(executor: OsProcess) -> None:
    outcome = await executor.run(attempt(command="ls", shell=True), Stop())
    assert (outcome.ending, outcome.retryable) == (Ending.FAILED, False)
    assert outcome.error is not None
    assert outcome.error.code == "invalid"
    assert "shell" in outcome.error.message


# ---- ends ------------------------------------------------------------------------------------

async def test_success(executor: OsProcess, tmp_path: Path) -> None:
    outcome = await executor.run(
        shell("pwd; printf '[%s]' \"$@\"; cat; echo no >&2", "a b", "$(id)", "*",
              input={"x": "y"}, workingDir=str(tmp_path)), Stop())
    assert (outcome.ending, outcome.error) == (Ending.SUCCEEDED, None)
    got = result(outcome)
    assert got.stdout == f'{tmp_path}\n[a b][$(id)][*]{{"x": "y"}}'
    assert (got.stderr, got.exit_code, got.signal) == ("no\n", 0, None)
    assert (got.command, got.args[0], got.working_dir) == ("sh", "-c", str(tmp_path))
    assert 0 <= got.duration_ms < 10_000
    assert not got.stdout_truncated
    assert not got.stderr_truncated


async def test_exit_code_is_a_failure_with_its_result(executor: OsProcess) -> None:
    outcome = await executor.run(shell("echo partial; exit 7"), Stop())
    assert (outcome.ending, outcome.retryable) == (Ending.FAILED, True)
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.message) == ("exit_status", "exit code 7")
    assert (outcome.error.exit_code, outcome.error.signal) == (7, None)
    assert (outcome.error.attempt, outcome.error.worker) == (1, "here")
    assert result(outcome).stdout == "partial\n"


async def test_death_by_signal_is_named(executor: OsProcess) -> None:
    outcome = await executor.run(shell("kill -SEGV $$"), Stop())
    assert outcome.error is not None
    assert outcome.error.message == "killed by SIGSEGV"
    assert (outcome.error.exit_code, outcome.error.signal) == (None, "SIGSEGV")
    assert (result(outcome).exit_code, result(outcome).signal) == (None, "SIGSEGV")


async def test_out_of_memory_is_the_kernels_word(executor: OsProcess) -> None:
    outcome = await executor.run(
        attempt(command=sys.executable, args=["-c", "x = bytearray(300 << 20)"],
                limits={"memoryBytes": 64 << 20}), Stop())
    if result(outcome).limits["memory"] == "rlimit":
        pytest.skip("no memory cgroup may be made here")
    assert outcome.error is not None
    assert outcome.error.message == "killed by SIGKILL (out of memory)"


@pytest.mark.parametrize(("payload", "text"), [
    ({"command": "no-such-command"}, "exec: no-such-command: No such file or directory"),
    ({"command": "/etc/passwd"}, "exec: /etc/passwd: Permission denied"),
    ({"command": "true", "workingDir": "/nowhere"},
     "workingDir: /nowhere: No such file or directory"),
])
async def test_what_cannot_start(executor: OsProcess, payload: dict[str, object],
                                 text: str) -> None:
    what = Attempt(1, 1, "a.task", json.dumps(payload).encode())
    outcome = await executor.run(what, Stop())
    assert (outcome.ending, outcome.retryable, outcome.result) == (Ending.FAILED, False, None)
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.message) == ("start_failed", text)
    assert outcome.error.exit_code is None


async def test_a_missing_shim_is_an_outcome(tmp_path: Path) -> None:
    executor = OsProcess(tmp_path, tmp_path / "not-there")
    outcome = await executor.run(attempt(command="true"), Stop())
    assert outcome.error is not None
    assert (outcome.error.code, outcome.retryable) == ("start_failed", True)
    assert executor.read_log(1, 1, 0, 10).finished


async def test_environment(tmp_path: Path, shim_path: Path,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    monkeypatch.setenv("LC_TIME", "C")
    executor = OsProcess(tmp_path, shim_path, controller_base="http://127.0.0.1:1")
    outcome = await executor.run(
        attempt(0x2a, 3, command="env", env={"OWN": "a\nb", "PLUM_TASK_ID": "no"}), Stop())
    lines = result(outcome).stdout.splitlines()
    assert {"PLUM_TASK_ID=00000000000002a", "PLUM_ATTEMPT=3", "PLUM_TASK_NAME=a.task",
            "CONTROLLER_BASE=http://127.0.0.1:1", "LC_TIME=C", "OWN=a", "b"} <= set(lines)
    assert any(line.startswith("PATH=/") for line in lines)
    assert "hush" not in result(outcome).stdout


async def test_a_base_environment_replaces_ours(tmp_path: Path, shim_path: Path) -> None:
    only = tmp_path / "bin"
    only.mkdir()
    (only / "tool").symlink_to("/usr/bin/env")
    executor = OsProcess(tmp_path, shim_path, {"PATH": str(only)})
    outcome = await executor.run(attempt(command="tool"), Stop())
    assert {line.partition("=")[0] for line in result(outcome).stdout.splitlines()} == {
        "PATH", "PLUM_TASK_ID", "PLUM_ATTEMPT", "PLUM_TASK_NAME", "PLUM_ATTEMPT_DIR"}
    (only / "tool").unlink()
    outcome = await executor.run(attempt(2, command="ls"), Stop())
    assert outcome.error is not None
    assert outcome.error.code == "start_failed"


async def test_without_a_working_directory_it_gets_one_of_its_own(executor: OsProcess) -> None:
    first = await executor.run(shell("pwd"), Stop())
    work = shim.own_directory(executor.directory(1, 1))
    assert result(first).stdout == f"{work}\n"
    assert "work" not in os.listdir(work.parent)
    second = await executor.run(shell("echo x > kept", task_id=2), Stop())
    assert (Path(result(second).working_dir) / "kept").read_text() == "x\n"


# ---- output ----------------------------------------------------------------------------------

async def test_output_that_is_not_utf8(executor: OsProcess) -> None:
    outcome = await executor.run(shell(r"printf 'a\377\000\033[31mb'"), Stop())
    assert result(outcome).stdout == "a\ufffd\0\x1b[31mb"
    assert executor.read_log(1, 1, 0, 100).entries[0].data == b"a\xff\0\x1b[31mb"


async def test_much_output_costs_neither_disk_nor_memory(tmp_path: Path,
                                                         shim_path: Path) -> None:
    executor = OsProcess(tmp_path, shim_path, log_bytes_max=4 << 20)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    code = "echo first; head -c 52428800 /dev/zero; echo last; echo done >&2; cat gate"
    running = Running(executor, shell(code, workingDir=str(tmp_path)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await wait_text(executor, b"done\n")
        private_kb = private_memory_kb(shim_pid(executor))
        gate.write_bytes(b"")
        outcome = await running.wait()
    assert private_kb < 1024
    directory = executor.directory(1, 1)
    assert sum(file.stat().st_size for file in directory.iterdir()) < (4 << 20) * 1.1
    got = result(outcome)
    assert got.stdout_bytes == 52428800 + 11
    assert got.stdout_truncated
    assert got.stdout.startswith("first\n\0")
    assert "bytes left out" in got.stdout
    assert got.stdout.endswith("\0last\n")
    assert outcome.result is not None
    assert len(outcome.result) < 16 << 20


async def test_tail_while_it_runs(executor: OsProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    running = Running(executor, shell("printf 'h\\303'; cat gate; printf '\\251llo'; echo e >&2",
                                      workingDir=str(tmp_path)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await wait_text(executor, b"h")
        page = executor.read_log(1, 1, 0, 100)
        # the é is not whole yet, so its first byte waits
        assert [entry.data for entry in page.entries] == [b"h"]
        assert (page.next_offset, page.size, page.finished) == (1, 2, False)
        with trio.move_on_after(0.3) as waiting:
            await executor.wait_log(1, 1, page.size)
        assert waiting.cancelled_caught
        gate.write_bytes(b"")
        await running.wait()
    page = executor.read_log(1, 1, page.next_offset, 100)
    assert "".join(entry.data.decode() for entry in page.entries if entry.stream == "stdout"
                   ) == "éllo"
    assert "".join(entry.data.decode() for entry in page.entries if entry.stream == "stderr"
                   ) == "e\n"
    assert page.finished
    await executor.wait_log(1, 1, page.next_offset)
    assert b"".join(entry.data for entry in executor.read_log(1, 1, -2, 100).entries) == b"e\n"
    with pytest.raises(NotFound):
        executor.read_log(99, 1, 0, 100)


# ---- stops -----------------------------------------------------------------------------------

DAEMONS = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(6):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(1, b'x')
        while {busy}:
            pass
        signal.pause()
os.write(2, b'forked')
while True:
    signal.pause()
"""


@pytest.mark.parametrize("cgroups", [True, False])
@pytest.mark.parametrize("busy", [True, False])
async def test_stop_ends_a_tree_that_hides_and_ignores(tmp_path: Path, shim_path: Path,
                                                       cgroups: bool, busy: bool) -> None:
    executor = OsProcess(tmp_path, shim_path, cgroups=cgroups)
    running = Running(executor, attempt(
        command=sys.executable, args=["-c", DAEMONS.format(busy=busy)], killGraceSec=0.3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await wait_text(executor, b"forked")
        page = executor.read_log(1, 1, 0, 100)
        while page.size < 12:
            await executor.wait_log(1, 1, page.size)
            page = executor.read_log(1, 1, 0, 100)
        groups = (executor.directory(1, 1) / "claim").read_text().split()[1:]
        assert len(pids_of(executor)) == 7
        began = time.monotonic()
        running.stop.ask("canceled")
        outcome = await running.wait()
        elapsed = time.monotonic() - began
    assert pids_of(executor) == set()
    assert not any(map(os.path.exists, groups))
    assert 0.3 <= elapsed < 1.3
    assert outcome.ending == Ending.CANCELED
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.signal) == ("canceled", "SIGKILL")
    assert outcome.error.detail is not msgspec.UNSET
    sent = json.loads(bytes(outcome.error.detail))["signals"]
    assert [entry["signal"] for entry in sent] == ["SIGTERM", "SIGKILL"]
    assert sent[0]["processes"] == sent[1]["processes"] == 7
    assert 250 <= sent[1]["atMs"] - sent[0]["atMs"] < 1300
    assert result(outcome).signal == "SIGKILL"


async def test_timeout_with_a_process_that_goes_when_asked(executor: OsProcess) -> None:
    running = Running(executor, shell("trap 'echo bye; exit 0' TERM; echo up; "
                                      "while :; do sleep 600 & wait; done", killGraceSec=15))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await wait_text(executor, b"up\n")
        running.stop.ask("timeout")
        outcome = await running.wait()
    assert outcome.ending == Ending.TIMEOUT
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.exit_code) == ("timeout", 0)
    assert "SIGTERM" in outcome.error.message
    assert "SIGKILL" not in outcome.error.message
    assert result(outcome).stdout == "up\nbye\n"


async def test_stop_before_the_start_starts_nothing(executor: OsProcess, tmp_path: Path) -> None:
    running = Running(executor, shell(f"touch {tmp_path}/ran"))
    running.stop.ask("canceled")
    await running.run()
    outcome = await running.wait()
    assert outcome.ending == Ending.CANCELED
    assert not (tmp_path / "ran").exists()


# ---- the daemon goes and comes back ----------------------------------------------------------

DAEMON = """
import sys, trio
from pathlib import Path
from plumd.executors import Attempt, Stop
from plumd.executors.os_process import OsProcess
import msgspec

async def main():
    executor = OsProcess(Path(sys.argv[1]), Path(sys.argv[2]))
    attempts = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Attempt])
    async with trio.open_nursery() as nursery:
        for each in attempts:
            nursery.start_soon(executor.run, each, Stop())

trio.run(main)
"""


async def test_killed_daemon_and_twenty_processes(executor: OsProcess, tmp_path: Path,
                                                  shim_path: Path) -> None:
    gates = [tmp_path / "gate0", tmp_path / "gate1"]

    def task(number: int, *, resumed: bool) -> Attempt:
        code = "echo up; until [ -e \"$1\" ]; do sleep 0.05; done; exit $2"
        return Attempt(number, 1, "t", json.dumps({
            "command": "sh", "args": ["-c", code, "sh", str(gates[number % 2]), str(number)],
        }).encode(), resumed=resumed)

    numbers = range(1, 21)
    daemon = await trio.lowlevel.open_process(
        [sys.executable, "-c", DAEMON, tmp_path, shim_path], cwd=ROOT, stdin=subprocess.PIPE)
    assert daemon.stdin is not None
    await daemon.stdin.send_all(msgspec.json.encode([task(each, resumed=False)
                                                     for each in numbers]))
    await daemon.stdin.aclose()
    for number in numbers:
        await wait_text(executor, b"up\n", number)
    daemon.kill()
    await daemon.wait()
    gates[0].touch()                        # half of them end while nobody is there
    for number in range(2, 21, 2):
        with trio.fail_after(20):
            await executor.wait_log(number, 1, 3)
    running = {each: Running(executor, task(each, resumed=True)) for each in (*numbers, 21)}
    async with trio.open_nursery() as nursery:
        for number in (*range(1, 19), 20):
            nursery.start_soon(running[number].run)
        # 19 is stopped after the restart, 21 was claimed but never started
        nursery.start_soon(running[19].run)
        running[19].stop.ask("canceled")
        assert (await running[19].wait()).ending == Ending.CANCELED
        nursery.start_soon(running[21].run)
        await wait_text(executor, b"up\n", 21)
        gates[1].touch()
        for number in (*range(1, 19), 20, 21):
            outcome = await running[number].wait()
            assert outcome.error is not None
            assert outcome.error.exit_code == number
            assert result(outcome).stdout == "up\n"


async def test_leaving_and_coming_back(executor: OsProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    what = shell("echo up >> count; echo up; cat gate; exit 9", workingDir=str(tmp_path))
    leaving = Running(executor, what)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leaving.run)
        await wait_text(executor, b"up\n")
        leaving.scope.cancel()
    assert leaving.outcome is None
    assert len(pids_of(executor)) == 2
    async with trio.open_nursery() as nursery:
        both = [Running(executor, what), Running(executor, what)]
        for each in both:
            nursery.start_soon(each.run)
        gate.write_bytes(b"")
        outcomes = [await each.wait() for each in both]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].error is not None
    assert outcomes[0].error.exit_code == 9
    assert (tmp_path / "count").read_text() == "up\n"
    # and the same again from the files alone
    assert await executor.run(what, Stop()) == outcomes[0]


async def test_a_stop_said_before_the_crash_keeps_its_reason(executor: OsProcess) -> None:
    what = shell("echo up; exec sleep 600")
    running = Running(executor, what)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await wait_text(executor, b"up\n")
        running.stop.ask("timeout")
        await running.wait()
    outcome = await executor.run(msgspec.structs.replace(what, resumed=True), Stop())
    assert outcome.ending == Ending.TIMEOUT


@pytest.mark.parametrize("cgroups", [True, False])
@pytest.mark.parametrize("watched", [True, False])
async def test_a_killed_shim_leaves_nothing_and_is_lost(tmp_path: Path, shim_path: Path,
                                                        cgroups: bool, watched: bool) -> None:
    executor = OsProcess(tmp_path, shim_path, cgroups=cgroups)
    what = shell("setsid sleep 600 & (trap '' TERM; setsid sleep 600) & echo up; sleep 600")
    running = Running(executor, what)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await wait_text(executor, b"up\n")
        if not watched:
            running.scope.cancel()
            await running.done.wait()
        os.kill(shim_pid(executor), signal.SIGKILL)
        if not watched:
            running = Running(executor, msgspec.structs.replace(what, resumed=True))
            nursery.start_soon(running.run)
        outcome = await running.wait()
    assert outcome.ending == Ending.LOST
    assert outcome.error is not None
    assert outcome.error.code == "lost"
    assert pids_of(executor) == set()
    assert executor.read_log(1, 1, 0, 100).finished


# ---- housekeeping ----------------------------------------------------------------------------

def open_files() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return {entry for entry in found if not entry.endswith("/fd")}


def children() -> set[int]:
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found.add(int(name))
    return found


async def test_what_ran_does_not_run_again_when_its_directory_is_removed(
        executor: OsProcess, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    outcomes: list[Outcome] = []
    one = shell('echo x >> "$1"; echo on; while ! [ -e "$1.end" ]; do sleep 0.01; done', str(runs))

    async def run() -> None:
        outcomes.append(await executor.run(one, Stop()))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await wait_text(executor, b"on")
            shutil.rmtree(executor.root)
            (tmp_path / "runs.end").touch()
    assert outcomes[0].ending == Ending.LOST
    assert runs.read_text() == "x\n"


async def test_a_hundred_runs_leak_nothing(executor: OsProcess) -> None:
    await executor.run(attempt(1, command="true"), Stop())
    files, family = open_files(), children()
    outcomes = []

    async def one(task_id: int) -> None:
        outcomes.append(await executor.run(attempt(task_id, command="true"), Stop()))

    for first in range(2, 102, 10):
        async with trio.open_nursery() as nursery:
            for task_id in range(first, first + 10):
                nursery.start_soon(one, task_id)
    assert [outcome.ending for outcome in outcomes] == [Ending.SUCCEEDED] * 100
    assert open_files() == files
    assert children() == family
    names = {file.name for file in executor.directory(50, 1).iterdir()}
    assert names == {"claim", "status"}
    assert len(set(executor.stored())) == 101


SUBREAPER = """
import ctypes, os, sys, trio
from pathlib import Path
from plumd.executors import Attempt, Stop
from plumd.executors.os_process import OsProcess

async def main():
    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
    executor = OsProcess(Path(sys.argv[1]), Path(sys.argv[2]))
    for task_id in range(20):
        await executor.run(Attempt(task_id, 1, "t", b'{"command": "true"}'), Stop())

trio.run(main)
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("no children")
"""


async def test_a_daemon_that_inherits_orphans_buries_its_shims(tmp_path: Path,
                                                               shim_path: Path) -> None:
    done = await trio.run_process([sys.executable, "-c", SUBREAPER, tmp_path, shim_path],
                                  cwd=ROOT, capture_stdout=True)
    assert done.stdout == b"no children\n"


async def test_forget_and_sweep(executor: OsProcess) -> None:
    running = [Running(executor, shell("echo up; sleep 600", task_id=each)) for each in (1, 2)]
    await executor.run(attempt(3, command="true"), Stop())
    async with trio.open_nursery() as nursery:
        for each in running:
            nursery.start_soon(each.run)
        for task_id in (1, 2):
            await wait_text(executor, b"up\n", task_id)
        assert not executor.forget(1)
        assert executor.sweep({(1, 1)}) == [(2, 1)]
        swept = await running[1].wait()
        assert running[0].outcome is None
        running[0].stop.ask("canceled")
        await running[0].wait()
    assert swept.error is not None
    assert swept.error.signal == "SIGKILL"
    assert set(executor.stored()) == {(1, 1), (2, 1), (3, 1)}
    for task_id in (1, 2, 3, 4):
        assert executor.forget(task_id)
    assert set(executor.stored()) == set()


async def test_what_ended_does_not_begin_again_with_an_older_database(tmp_path: Path,
                                                                      shim_path: Path) -> None:
    executor = OsProcess(tmp_path, shim_path, kept=HourLogs(tmp_path / "logs", 1 << 30))
    first = shell("echo once >> count", workingDir=str(tmp_path))
    await executor.run(first, Stop())
    assert executor.ended == {(1, 1)}
    assert executor.kept is not None
    executor.kept.put([((1, 1), executor.directory(1, 1))], 0)
    assert executor.forget(1)
    again = await executor.run(msgspec.structs.replace(first, resumed=True), Stop())
    assert again.ending == Ending.LOST
    assert again.error is not None
    assert "older database" in again.error.message
    assert (tmp_path / "count").read_text() == "once\n"
