"""os_process: a command on this machine, run by a plum-shim of its own.

The process is the shim's child, not ours: it goes on when the daemon dies, and its exit code is
in a file when the daemon is back. So `run` only starts a shim, or finds the one that is there,
and then waits for the end of file on its socket; an idle daemon is woken by nothing.

    <data>/attempts/<task id>/<attempt>/    one shim's directory; see agent/shim.c
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

import msgspec
import trio

from plumd.errors import Invalid, NotFound
from plumd.executors import Attempt, Outcome, Stop, batch, process_log, shim
from plumd.executors.batch import CommandResult, signal_name
from plumd.executors.command import Batch, Command, base_environment, parse_command
from plumd.executors.hour_logs import HourLogs, read_log
from plumd.executors.process_log import LogPage
from plumd.executors.trees import remove_tree
from plumd.model import Ending, TaskError, id_text, parse_id

__all__ = ["Command", "LogPage", "OsProcess", "parse_command", "signal_name"]

LOG_BYTES_MAX: Final = 64 * 1024 * 1024
SHELL_SAYS: Final = 128
"""So much more than the number of the signal that ended its command is a shell's exit code."""
STREAM_BYTES_MAX: Final = 1024 * 1024
RESULT_BYTES_MAX: Final = 8 * 1024 * 1024
START_TRIES: Final = 100
START_PAUSE_S: Final = 0.02
CROWD_PAUSE_S: Final = 1.0
TAIL_PAUSE_S: Final = 0.15

_PASSING: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO,
                             errno.ENOSPC, errno.ETXTBSY, errno.ESTALE, errno.ETIMEDOUT})
"""Reasons for a failed start that may be gone at the next attempt."""


_CROWDED: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Reasons why a running shim cannot be reached just now."""


class ProcessResult(msgspec.Struct, frozen=True, rename="camel"):
    """What is kept of a process that ran. Times in ms and s, sizes in bytes.

    exit_code is None and signal named when a signal ended it. Of stdout and stderr long ones keep
    head and tail; *_bytes say how much was written. limits: how each wanted limit was held.
    commands: of a batch, what became of each.
    """

    command: str
    args: tuple[str, ...]
    working_dir: str
    exit_code: int | None
    signal: str | None
    stdout: str
    stderr: str
    stdout_bytes: int
    stderr_bytes: int
    stdout_truncated: bool
    stderr_truncated: bool
    duration_ms: int
    cpu_sec: float
    peak_memory_bytes: int
    read_bytes: int
    written_bytes: int
    limits: dict[str, str]
    commands: tuple[CommandResult, ...] | msgspec.UnsetType = msgspec.UNSET


class Job(NamedTuple):
    """The process of an attempt; batch: what it carries out, if it is a runner of ours."""

    command: Command
    batch: Batch | None = None


class _NoEnd(Exception):
    """The attempt has no status to tell of; outcome says what it has."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class OsProcess:
    """The executor of os_process tasks, and the keeper of their logs.

    data_dir: holds the attempts' directories.  base_env: what every command's environment starts
    from (default: the harmless part of ours).  controller_base: for CONTROLLER_BASE, "" = unset.
    cgroups=False: do without them, as on a machine that does not let us.  kept: where the logs are
    of what is over; None: in the attempts' directories, too.
    """

    name: ClassVar[str] = "os_process"

    def __init__(self, data_dir: Path, shim_path: Path | None = None,
                 base_env: Mapping[str, str] | None = None, controller_base: str = "", *,
                 log_bytes_max: int = LOG_BYTES_MAX, cgroups: bool = True,
                 kept: HourLogs | None = None) -> None:
        self.kept = kept
        self.ended: set[tuple[int, int]] = set()
        """Attempts that came to an end here and may have a log to be kept; who keeps it takes it
        out."""
        self.root = data_dir.absolute() / "attempts"
        self._shim = (shim_path or shim.SHIM_PATH).absolute()
        self._base_env = base_environment() if base_env is None else dict(base_env)
        if controller_base:
            self._base_env["CONTROLLER_BASE"] = controller_base
        self._log_bytes_max = log_bytes_max
        self._cgroups = cgroups

    def directory(self, task_id: int, number: int) -> Path:
        """Where everything about this attempt is."""
        return self.root / id_text(task_id) / str(number)

    # ---- running -----------------------------------------------------------------------------

    async def run(self, attempt: Attempt, stop: Stop) -> Outcome:
        """Run the command to its end, or take up the one that already runs; see Executor.run.

        Cancel: anywhere; the process and its shim go on.
        """
        directory = self.directory(attempt.task_id, attempt.number)
        try:
            job = job_of(attempt.payload)
        except Invalid as error:
            text = f"{error.field}: {error.detail}"
            return _failure(attempt, error.code, text, retryable=False)
        try:
            status = await self._end(directory, attempt, job, stop)
        except _NoEnd as ending:
            shim.close_log(directory)
            self._note_end(attempt)
            return ending.outcome
        outcome = await trio.to_thread.run_sync(_outcome, directory, attempt, job, status)
        self._note_end(attempt)
        return outcome

    def _is_kept(self, attempt: Attempt) -> bool:
        return self.kept is not None and self.kept.has((attempt.task_id, attempt.number))

    def _note_end(self, attempt: Attempt) -> None:
        if self.kept is not None:
            self.ended.add((attempt.task_id, attempt.number))

    async def _end(self, directory: Path, attempt: Attempt, job: Job,
                   stop: Stop) -> shim.Status:
        """How the process ended, having started it if it never was.

        Each turn settles where the attempt stands. The claim is looked at before the door: a shim
        opens its door before it claims, so claimed and no door means that it is gone, and before
        it goes it writes the status. What was claimed once never starts again, also when somebody
        removes the directory. Raises _NoEnd.
        """
        starts, claimed = 0, False
        while starts < START_TRIES:
            claimed = claimed or shim.was_claimed(directory)
            try:
                line = shim.connect(directory)
            except OSError as error:
                if error.errno not in _CROWDED:
                    raise
                await trio.sleep(CROWD_PAUSE_S)
                continue
            if line is not None:
                await self._watch(trio.socket.from_stdlib_socket(line), job.command, stop)
            status = shim.read_status(directory)
            if status is not None:
                return status
            if line is not None:            # it died, or it had too many lines: look again
                await trio.sleep(START_PAUSE_S)
                continue
            if claimed:
                await trio.to_thread.run_sync(shim.end_leftovers, directory)
                shim.bury(directory)
                raise _NoEnd(_lost(attempt))
            if stop.wanted.is_set():
                raise _NoEnd(_stopped(attempt, stop.reason, "before it started", None, None))
            if attempt.resumed and self._is_kept(attempt):
                raise _NoEnd(_lost(attempt, "an older database was restored: it ended before"))
            starts += 1
            claimed = await self._start(directory, attempt, job)
            if not claimed:
                await trio.sleep(START_PAUSE_S)
        raise _NoEnd(_failure(attempt, "start_failed", "plum-shim does not come up"))

    async def _start(self, directory: Path, attempt: Attempt, job: Job) -> bool:
        """Start a shim; False when another one was first. Raises _NoEnd.

        Cancel: at once; the start may go on behind our back, and is found by the next run.
        """
        spec = self._spec(directory, attempt, job.command)
        try:
            return await trio.to_thread.run_sync(
                partial(_prepare_and_launch, self._shim, directory, spec, job.batch),
                abandon_on_cancel=True)
        except (OSError, shim.NotStarted) as error:
            raise _NoEnd(_failure(attempt, "start_failed", f"plum-shim: {error}")) from None

    def _spec(self, directory: Path, attempt: Attempt, command: Command) -> shim.Spec:
        task_id, limits = id_text(attempt.task_id), command.limits
        env = self._base_env | command.env | {
            "PLUM_TASK_ID": task_id, "PLUM_ATTEMPT": str(attempt.number),
            "PLUM_TASK_NAME": attempt.name.replace("\0", ""),
            shim.DIRECTORY_VARIABLE: str(directory)}
        return shim.Spec(
            argv=(command.command, *command.args), env=env, cwd=command.working_dir,
            stdin=command.stdin, name=f"plum-{task_id}.{attempt.number}",
            grace_ms=round(command.kill_grace_sec * 1000), log_bytes_max=self._log_bytes_max,
            memory_bytes=limits.memory_bytes or 0, cpu_percent=round((limits.cpus or 0) * 100),
            pids=limits.pids or 0, cgroups=self._cgroups)

    async def _watch(self, line: trio.socket.SocketType, command: Command, stop: Stop) -> None:
        """Wait until the shim is gone, and pass on the wish to stop."""
        async def pass_on() -> None:
            await stop.wanted.wait()
            request = shim.stop_request(round(command.kill_grace_sec * 1000), stop.reason)
            with suppress(OSError):         # it is gone: the status tells
                await line.send(request)

        with line:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pass_on)
                with suppress(OSError):
                    while await line.recv(256):
                        pass
                nursery.cancel_scope.cancel()

    # ---- logs --------------------------------------------------------------------------------

    def read_log(self, task_id: int, number: int, offset: int, limit: int) -> LogPage:
        """At most limit bytes of an attempt's output from offset on (< 0: from the end).

        Reads files: call it in a thread.  Raises NotFound.
        """
        page = read_log(self.kept, (task_id, number), self.directory(task_id, number), offset,
                        limit)
        if page is None:
            raise NotFound("nothing is kept of this attempt's output")
        return page

    async def wait_log(self, task_id: int, number: int, offset: int) -> None:
        """Return as soon as the log goes beyond offset, or nothing more will come.

        Looks every 150 ms while somebody waits here, and else never.  Raises NotFound.
        Cancel: anywhere.
        """
        directory = self.directory(task_id, number)
        try:
            while not process_log.is_finished(directory):
                if process_log.log_size(directory) > offset:
                    return
                await trio.sleep(TAIL_PAUSE_S)
        except FileNotFoundError:
            if self.kept is not None and self.kept.has((task_id, number)):
                return
            raise NotFound("nothing is kept of this attempt's output") from None

    def stored(self) -> Iterator[tuple[int, int]]:
        """(task id, attempt number) of everything that has files here, in no order."""
        with suppress(FileNotFoundError):
            for task in self.root.iterdir():
                task_id = parse_id(task.name)
                if task_id is None:
                    continue
                for attempt in task.iterdir():
                    if attempt.name.isdigit():
                        yield task_id, int(attempt.name)

    def forget(self, task_id: int) -> bool:
        """Remove all files of a task; False, and nothing removed, while a process of it runs."""
        directory = self.root / id_text(task_id)
        with suppress(FileNotFoundError):
            for attempt in directory.iterdir():
                line = shim.connect(attempt)
                if line is not None:
                    line.close()
                    return False
            remove_tree(directory)
        return True

    def sweep(self, live: set[tuple[int, int]]) -> list[tuple[int, int]]:
        """End every process that is not live (running by the store's word); whom that concerned.

        Their output and status stay until `forget`.  Reads many directories: call it in a thread.
        """
        ended: list[tuple[int, int]] = []
        for task_id, number in self.stored():
            directory = self.directory(task_id, number)
            if (task_id, number) in live or process_log.is_finished(directory):
                continue
            line = shim.connect(directory)
            if line is not None:
                with line, suppress(OSError):
                    line.send(shim.stop_request(0, "unknown"))
                ended.append((task_id, number))
            elif shim.was_claimed(directory) and shim.read_status(directory) is None:
                shim.end_leftovers(directory)
                shim.close_log(directory)
                ended.append((task_id, number))
        return ended


def job_of(payload: bytes) -> Job:
    """What an attempt's payload asks for. Raises: Invalid."""
    found = parse_command(payload)
    return Job(batch.runner_of(found), found) if isinstance(found, Batch) else Job(found)


def _prepare_and_launch(shim_path: Path, directory: Path, spec: shim.Spec,
                        commands: Batch | None) -> bool:
    if commands is not None:
        batch.prepare(directory, commands)
    shim.prepare(directory, spec)
    return shim.launch(shim_path, directory)


# ---- what it came to -------------------------------------------------------------------------

def _failure(attempt: Attempt, code: str, message: str, *, retryable: bool = True) -> Outcome:
    error = TaskError(code, message, attempt=attempt.number, worker=attempt.worker_id or None)
    return Outcome(Ending.FAILED, error=error, retryable=retryable)


def _lost(attempt: Attempt, why: str = "plum-shim was gone before the process's end was written"
          ) -> Outcome:
    message = f"{why}: its exit code is unknown"
    error = TaskError("lost", message, attempt=attempt.number, worker=attempt.worker_id or None)
    return Outcome(Ending.LOST, error=error)


def _stopped(attempt: Attempt, reason: str, how: str, status: shim.Status | None,
             result: bytes | None) -> Outcome:
    timeout = reason == "timeout"
    error = _error(attempt, "timeout" if timeout else "canceled", f"stopped {how}", status)
    return Outcome(Ending.TIMEOUT if timeout else Ending.CANCELED, result=result, error=error)


def _error(attempt: Attempt, code: str, message: str, status: shim.Status | None) -> TaskError:
    """With the exit code or signal, and in detail the signals that were sent, and when."""
    exit_code = status.exit_code if status and status.executed else -1
    killed_by = status.signal if status and status.executed else 0
    detail = msgspec.json.encode({"signals": [
        {"signal": signal_name(sent.signal), "atMs": sent.at_ms, "processes": sent.processes}
        for sent in status.signals]}) if status and status.signals else None
    return TaskError(
        code, message, attempt=attempt.number, worker=attempt.worker_id or None,
        exit_code=exit_code if exit_code >= 0 else None,
        signal=signal_name(killed_by) if killed_by else None,
        detail=msgspec.Raw(detail) if detail else msgspec.UNSET)


def _outcome(directory: Path, attempt: Attempt, job: Job, status: shim.Status) -> Outcome:
    """What a status and the log beside it mean for the task. Reads files."""
    shim.bury(directory)
    if status.failed_errno:
        command = job.command
        what = command.working_dir if status.failed_stage == "workingDir" else command.command
        message = f"{status.failed_stage}: {what}: {status.failed_text}"
        error = _error(attempt, "start_failed", message, status)
        return Outcome(Ending.FAILED, error=error,
                       retryable=status.failed_errno in _PASSING)
    commands = None if job.batch is None else batch.results(directory, job.batch)
    result = _result(directory, job, status, commands)
    if status.stop_reason == shim.SHUTDOWN:
        error = _error(attempt, "lost", "the machine was shut down", status)
        return Outcome(Ending.LOST, result=result, error=error)
    if status.stop_reason:
        how = ", ".join(f"{signal_name(sent.signal)} ({sent.processes} processes)"
                        for sent in status.signals)
        how = f"by {how}" if not commands else f"by {how}: {batch.summary(commands)}"
        return _stopped(attempt, status.stop_reason, how, status, result)
    if status.exit_code == 0:
        return Outcome(Ending.SUCCEEDED, result=result)
    out_of_memory = status.oom_kills > 0 and is_kill(status)
    error = _error(attempt, "oom" if out_of_memory else "exit_status",
                   batch.summary(commands) if commands and not out_of_memory else _reason(status),
                   status)
    return Outcome(Ending.FAILED, result=result, error=error)


def _reason(status: shim.Status) -> str:
    """The kernel's word on why it did not exit with 0."""
    killed = status.signal > 0
    text = f"killed by {signal_name(status.signal)}" if killed else f"exit code {status.exit_code}"
    return text + memory_words(status)


def is_kill(status: shim.Status) -> bool:
    """Whether SIGKILL ended it, or the one process that it ran for, as a shell says it."""
    return status.signal == signal.SIGKILL or status.exit_code == SHELL_SAYS + signal.SIGKILL


def memory_words(status: shim.Status) -> str:
    """What the kernel did to the tree for want of memory, for the end of a sentence; "" = nothing.
    """
    if not status.oom_kills:
        return ""
    if is_kill(status):
        return " (out of memory)"
    return f" (the kernel killed {status.oom_kills} of its processes: out of memory)"


def _result(directory: Path, job: Job, status: shim.Status,
            commands: tuple[CommandResult, ...] | None) -> bytes:
    """The result as JSON; what escapes to more than it may be is cut further."""
    keep = STREAM_BYTES_MAX
    while True:
        encoded = msgspec.json.encode(_result_of(
            directory, job, status, keep, commands))
        if len(encoded) <= RESULT_BYTES_MAX or keep < 1024:
            return encoded
        keep //= 4


def _result_of(directory: Path, job: Job, status: shim.Status, keep: int,
               commands: tuple[CommandResult, ...] | None) -> ProcessResult:
    command = job.command
    out, err = process_log.stream_ends(directory, status.stdout_bytes, status.stderr_bytes, keep)
    limits = command.limits
    wanted = {"memory": limits.memory_bytes, "cpu": limits.cpus, "pids": limits.pids}
    return ProcessResult(
        command=command.command if commands is None else f"a batch of {len(commands)} commands",
        args=command.args if commands is None else (),
        working_dir=command.working_dir or str(shim.own_directory(directory)),
        exit_code=status.exit_code if status.exit_code >= 0 else None,
        signal=signal_name(status.signal) if status.signal else None,
        stdout=_text(out), stderr=_text(err),
        stdout_bytes=status.stdout_bytes, stderr_bytes=status.stderr_bytes,
        stdout_truncated=out.left_out > 0, stderr_truncated=err.left_out > 0,
        duration_ms=round(status.duration_us / 1000),
        cpu_sec=(status.user_us + status.system_us) / 1e6,
        peak_memory_bytes=status.peak_memory_bytes,
        read_bytes=status.read_bytes, written_bytes=status.written_bytes,
        limits={kind: status.limits.get(kind, "not held") for kind in wanted if wanted[kind]},
        commands=msgspec.UNSET if commands is None else commands)


def _text(ends: process_log.Ends) -> str:
    """As text: what is not UTF-8 is replaced, what is left out is said."""
    if not ends.left_out:
        return (ends.head + ends.tail).decode(errors="replace")
    head, tail = (part.decode(errors="replace") for part in (ends.head, ends.tail))
    return f"{head}\n[... {ends.left_out} bytes left out ...]\n{tail}"
