"""A batch of commands: what batch_runner.py is given, and what became of each command.

    <attempt>/batch         what shall run
    <attempt>/batch.log     a line a command's beginning, a line a command's end
"""

from __future__ import annotations

import base64
import signal
import sys
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from plumd.executors import shim
from plumd.executors.command import Batch, Command

RUNNER: Final = Path(__file__).parent / "batch_runner.py"
BATCH: Final = "batch"
LOG: Final = "batch.log"


class Line(msgspec.Struct, frozen=True, rename="camel"):
    """A line of batch.log; code is unset where a command begins."""

    index: int
    offset: int
    at_ms: int = 0
    took_ms: int = 0
    code: int | UnsetType = UNSET
    failed: str = ""


class CommandResult(msgspec.Struct, frozen=True, rename="camel"):
    """One command of a batch. Of the log the bytes from logFrom to logTo were printed meanwhile.

    state: killed = it had begun when the attempt was ended; notRun = it never began.
    """

    index: int
    name: str
    command: str
    args: tuple[str, ...]
    state: Literal["succeeded", "failed", "killed", "notRun"]
    exit_code: int | None = None
    signal: str | None = None
    error: str = ""
    started_at: int | None = None
    duration_ms: int | None = None
    log_from: int | None = None
    log_to: int | None = None


DECODE: Final = msgspec.json.Decoder(Line).decode


def runner_of(batch: Batch) -> Command:
    """The command that carries a batch out."""
    return Command(sys.executable, ("-I", "-S", str(RUNNER)), batch.working_dir, env=batch.env,
                   kill_grace_sec=batch.kill_grace_sec, limits=batch.limits)


def prepare(directory: Path, batch: Batch) -> None:
    """Write down what shall run. Raises: OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    commands = [{"argv": [one.command, *one.args], "cwd": one.working_dir, "env": one.env,
                 "input": None if one.stdin is None else base64.b64encode(one.stdin).decode()}
                for one in batch.commands]
    shim.put(directory / BATCH, msgspec.json.encode(
        {"commands": commands, "stopOnError": batch.stop_on_error}))


def results(directory: Path, batch: Batch) -> tuple[CommandResult, ...]:
    """What became of each command. Reads a file."""
    begun: dict[int, Line] = {}
    ended: dict[int, Line] = {}
    try:
        text = (directory / LOG).read_bytes()
    except FileNotFoundError:
        text = b""
    for raw in text.split(b"\n")[:-1]:          # what was cut off by a crash is no line
        line = DECODE(raw)
        (begun if line.code is UNSET else ended)[line.index] = line
    return tuple(result_of(index, one, begun.get(index), ended.get(index))
                 for index, one in enumerate(batch.commands))


def result_of(index: int, one: Command, begun: Line | None, ended: Line | None) -> CommandResult:
    """One command's."""
    if begun is None:
        return CommandResult(index, one.name, one.command, one.args, "notRun")
    if ended is None or isinstance(ended.code, UnsetType):
        return CommandResult(index, one.name, one.command, one.args, "killed",
                             started_at=begun.at_ms, log_from=begun.offset)
    code = ended.code
    return CommandResult(
        index, one.name, one.command, one.args,
        "killed" if code == -signal.SIGKILL else "failed" if code else "succeeded",
        code if code >= 0 and not ended.failed else None, signal_name(-code) if code < 0 else None,
        ended.failed, begun.at_ms, ended.took_ms, begun.offset, ended.offset)


def signal_name(number: int) -> str:
    """SIGTERM for 15; a number without a name is SIG<number>."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def summary(found: tuple[CommandResult, ...]) -> str:
    """What went wrong, in a line."""
    bad = [one for one in found if one.state in ("failed", "killed")]
    left = [one for one in found if one.state == "notRun"]
    words = ", ".join(
        f"command {one.index}{f' ({one.name})' if one.name else ''}: " + (
            one.error or (f"killed by {one.signal}" if one.signal else "killed"
                          if one.exit_code is None else f"exit code {one.exit_code}"))
        for one in bad[:5])
    words += f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    if left:
        names = ", ".join(one.name or str(one.index) for one in left[:20])
        words += f"; not run: {names}" + (" ..." if len(left) > 20 else "")
    return words
