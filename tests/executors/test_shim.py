"""plum-shim itself: one start per directory, bounded logs, limits, and how it compiles."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from plumd.executors import shim
from plumd.executors.process_log import log_size, read_page, stream_ends
from tests.daemon.plant import wait_for

SOURCE = Path(__file__).parents[2] / "plumd" / "agent" / "shim.c"
FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE"]
STRICT = ["-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
PATH = {"PATH": os.environ["PATH"]}


def build(target: Path, *flags: str) -> Path:
    subprocess.run(["cc", *FLAGS, *flags, "-o", target, SOURCE], check=True)
    return target


@pytest.fixture(scope="module", params=["plain", "sanitized"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("shim") / "plum-shim"
    if request.param == "plain":
        return build(target, *STRICT)
    return build(target, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    # so deep that the socket's real path does not fit into sun_path
    path = tmp_path / ("d" * 60) / ("e" * 60) / "1"
    yield path
    shim.end_leftovers(path)


def spec(*argv: str, cwd: str = "/", env: dict[str, str] | None = None, stdin: bytes | None = None,
         log_bytes_max: int = 1 << 20, grace_ms: int = 10_000, memory_bytes: int = 0,
         pids: int = 0, cpu_percent: int = 0, cgroups: bool = True) -> shim.Spec:
    return shim.Spec(argv, PATH if env is None else env, cwd, stdin, "plum-test", grace_ms,
                     log_bytes_max, memory_bytes, cpu_percent, pids, cgroups)


def wait_end(directory: Path) -> None:
    line = shim.connect(directory)
    if line is not None:
        # a reset is an end too: it went before it took the line
        with line, suppress(ConnectionResetError):
            line.settimeout(20)
            while line.recv(256):
                pass


def carry_out(program: Path, directory: Path, wanted: shim.Spec) -> shim.Status:
    shim.prepare(directory, wanted)
    assert shim.launch(program, directory)
    wait_end(directory)
    status = shim.read_status(directory)
    assert status is not None
    return status


def shim_pid(directory: Path) -> int:
    return int((directory / "claim").read_text().split()[0])


def test_exit_code_streams_and_stdin(program: Path, directory: Path) -> None:
    status = carry_out(program, directory, spec("sh", "-c", "cat; echo no >&2; exit 41",
                                                stdin=b"given"))
    assert (status.exit_code, status.signal, status.executed) == (41, 0, True)
    out, err = stream_ends(directory, status.stdout_bytes, status.stderr_bytes, 100)
    assert (out.head, err.head) == (b"given", b"no\n")
    assert status.ended_ms >= status.started_ms > 1_600_000_000_000
    assert status.duration_us > 0
    assert status.peak_memory_bytes > 100_000


def test_many_shims_of_one_directory_start_once(program: Path, directory: Path) -> None:
    witness = directory.parent / "witness"
    shim.prepare(directory, spec("sh", "-c", f"echo started >> {witness}; cat", stdin=b""))
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(lambda _: shim.launch(program, directory), range(8)))
    wait_end(directory)
    assert first.count(True) == 1
    assert witness.read_text() == "started\n"
    # long after the end, with the spec there again, it still counts as started
    shim.prepare(directory, spec("sh", "-c", f"echo again >> {witness}"))
    assert not shim.launch(program, directory)
    assert witness.read_text() == "started\n"


def test_environment_is_what_the_spec_says_and_nothing_more(program: Path, directory: Path) -> None:
    wanted = spec("/usr/bin/env", env={"A": "1=2", "Ü": "ß"})
    status = carry_out(program, directory, wanted)
    out, _ = stream_ends(directory, status.stdout_bytes, status.stderr_bytes, 1000)
    assert sorted(out.head.decode().splitlines()) == ["A=1=2", "Ü=ß"]
    # it is deleted as soon as the command runs, for it may hold secrets
    assert not (directory / "spec").exists()


@pytest.mark.parametrize(("argv", "cwd", "stage", "text"), [
    (("no-such-command-here",), "/", "exec", "No such file or directory"),
    (("/etc/passwd",), "/", "exec", "Permission denied"),
    (("/bin/true",), "/nowhere", "workingDir", "No such file or directory"),
    (("true",), "/etc/passwd", "workingDir", "Not a directory"),
])
def test_failed_start_says_why(program: Path, directory: Path, argv: tuple[str, ...], cwd: str,
                               stage: str, text: str) -> None:
    status = carry_out(program, directory, spec(*argv, cwd=cwd))
    assert (status.failed_stage, status.failed_text) == (stage, text)
    assert not status.executed
    assert status.exit_code == -1


def test_a_text_without_interpreter_is_not_given_to_a_shell(program: Path, directory: Path) -> None:
    directory.mkdir(parents=True)
    script = directory / "script"
    script.write_text(f"touch {directory}/ran\n")
    script.chmod(0o755)
    status = carry_out(program, directory, spec("script", env={"PATH": f"/none:{directory}"}))
    assert (status.failed_stage, status.failed_text) == ("exec", "Exec format error")
    assert not (directory / "ran").exists()


def test_half_a_spec_starts_nothing(program: Path, directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "spec").write_bytes(b"arg=touch\0arg=ran\0")
    with pytest.raises(shim.NotStarted, match="not whole"):
        shim.launch(program, directory)
    assert not shim.was_claimed(directory)
    shim.prepare(directory, spec("true"))
    assert shim.launch(program, directory)
    wait_end(directory)


def test_a_long_log_keeps_head_and_tail(program: Path, directory: Path) -> None:
    lines = "".join(f"{number:07d}\n" for number in range(200_000)).encode()
    status = carry_out(program, directory, spec("cat", stdin=lines, log_bytes_max=1 << 18))
    on_disk = sum(file.stat().st_size for file in directory.glob("*.[0-9a-f]*"))
    assert status.stdout_bytes == len(lines) == log_size(directory)
    assert on_disk <= (1 << 18) * 1.1
    out, err = stream_ends(directory, status.stdout_bytes, status.stderr_bytes, 50_000)
    assert (out.head, out.tail) == (lines[:25_000], lines[-25_000:])
    assert out.left_out == len(lines) - 50_000
    assert err == (b"", b"", 0)
    at, left_out, seen = 0, 0, b""
    while True:
        page = read_page(directory, at, 10_000)
        for entry in page.entries:
            assert lines[entry.offset:entry.offset + len(entry.data)] == entry.data
            seen += entry.data
        at, left_out = page.next_offset, left_out + page.left_out
        if page.finished:
            break
    assert len(seen) + left_out == len(lines)
    assert lines.startswith(seen[:1 << 17])
    assert lines.endswith(seen[-(1 << 16):])


def test_streams_that_alternate_do_not_outgrow_the_cap(program: Path, directory: Path) -> None:
    code = "import os\nfor _ in range(3000):\n os.write(1, b'o'); os.write(2, b'e')\n"
    status = carry_out(program, directory, spec("python3", "-c", code, log_bytes_max=16384))
    assert (status.stdout_bytes, status.stderr_bytes) == (3000, 3000)
    on_disk = sum(file.stat().st_size for file in directory.glob("*.[0-9a-f]*"))
    assert on_disk <= 16384 * 1.2
    streams = {"stdout": b"o", "stderr": b"e"}
    for entry in read_page(directory, 0, 10_000).entries:
        assert set(entry.data) == set(streams[entry.stream])


def test_descendants_end_with_the_main_process(program: Path, directory: Path) -> None:
    code = "setsid sleep 600 & setsid sh -c 'trap \"\" TERM; sleep 600' & echo $$; exit 5"
    status = carry_out(program, directory, spec("sh", "-c", code))
    assert status.exit_code == 5
    assert status.stop_reason == ""
    assert [sent.signal for sent in status.signals] == [signal.SIGKILL]
    assert shim.end_leftovers(directory) == 0


def test_sigterm_to_the_shim_is_the_machine_going_down(program: Path, directory: Path) -> None:
    shim.prepare(directory, spec("sleep", "600"))
    assert shim.launch(program, directory)
    os.kill(shim_pid(directory), signal.SIGTERM)
    wait_end(directory)
    status = shim.read_status(directory)
    assert status is not None
    assert (status.stop_reason, status.signal) == ("shutdown", signal.SIGTERM)
    assert status.signals[0].processes == 1


def test_a_second_stop_may_only_shorten_the_grace(program: Path, directory: Path) -> None:
    directory.mkdir(parents=True)
    ready = directory / "ready"
    os.mkfifo(ready)
    shim.prepare(directory, spec("sh", "-c", f"trap '' TERM; echo > {ready}; "
                                             "while :; do sleep 600; done"))
    assert shim.launch(program, directory)
    assert ready.read_bytes() == b"\n"
    line = shim.connect(directory)
    assert line is not None
    with line:
        line.settimeout(20)
        line.send(shim.stop_request(600_000, "canceled"))
        assert line.recv(256).split()[0] == b"stopping"
        line.send(shim.stop_request(0, "timeout"))
        assert line.recv(256).split()[0] == b"killing"
        assert line.recv(256) == b""
    status = shim.read_status(directory)
    assert status is not None
    assert (status.stop_reason, status.signal) == ("canceled", signal.SIGKILL)


def test_memory_limit(program: Path, directory: Path) -> None:
    code = "b = bytearray(300 << 20); print(len(b))"
    status = carry_out(program, directory, spec("python3", "-c", code, memory_bytes=64 << 20))
    assert status.limits["memory"] in ("cgroup2", "cgroup1", "rlimit")
    if status.limits["memory"] == "rlimit":
        assert status.exit_code == 1
        pytest.skip("no memory cgroup may be made here: only the rlimit was tried")
    assert (status.signal, status.oom_kills) == (signal.SIGKILL, 1)
    assert status.peak_memory_bytes <= 64 << 20


def test_memory_limit_without_cgroups_is_an_rlimit(program: Path, directory: Path) -> None:
    code = "b = bytearray(300 << 20)"
    wanted = spec("python3", "-c", code, memory_bytes=200 << 20, cgroups=False)
    status = carry_out(program, directory, wanted)
    assert status.limits == {"memory": "rlimit"}
    assert status.group == ""
    assert status.exit_code == 1
    _, err = stream_ends(directory, status.stdout_bytes, status.stderr_bytes, 10_000)
    assert b"MemoryError" in err.head


def test_pids_and_cpu_limits(program: Path, directory: Path) -> None:
    code = ("import os\nn = 0\ntry:\n while n < 50:\n  if os.fork() == 0: os.pause()\n  n += 1\n"
            "except OSError: pass\nprint(n)").replace("os.pause", "__import__('signal').pause")
    status = carry_out(program, directory, spec("python3", "-c", code, pids=10, cpu_percent=50))
    if "pids" not in status.limits:
        pytest.skip("no pids cgroup may be made here")
    out, _ = stream_ends(directory, status.stdout_bytes, status.stderr_bytes, 100)
    assert out.head == b"9\n"
    assert status.limits["cpu"] == status.limits["pids"]


def test_groups_are_gone_afterwards(program: Path, directory: Path) -> None:
    shim.prepare(directory, spec("true", memory_bytes=64 << 20, pids=10))
    assert shim.launch(program, directory)
    groups = (directory / "claim").read_text().split()[1:]
    wait_end(directory)
    assert [group for group in groups if Path(group).exists()] == []


def test_a_full_disk_costs_output_but_not_the_exit_code(program: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk],
                             capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount here")
    try:
        directory = disk / "t" / "1"
        code = "head -c 3000000 /dev/zero; exit 6"
        status = carry_out(program, directory, spec("sh", "-c", code, log_bytes_max=64 << 20))
        assert (status.exit_code, status.log_errno) == (6, 28)
        assert status.stdout_bytes == 3_000_000 == log_size(directory) + status.lost_bytes
        out, _ = stream_ends(directory, status.stdout_bytes, 0, 4_000_000)
        assert len(out.head) + out.left_out == 3_000_000
        assert out.tail == b""
    finally:
        wait_for(lambda: subprocess.run(["umount", disk]).returncode == 0, "the shim is gone")
