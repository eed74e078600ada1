"""Runs the commands of a batch one after the other. A program of its own, of the standard library
alone: it is started under plum-shim as the process of an attempt, so it outlives the daemon.

    python -I -S batch_runner.py        in an attempt's environment, with PLUM_ATTEMPT_DIR

It reads `batch` from that directory and adds lines of JSON to `batch.log`: one when a command
begins, one when it has ended, each with how much output there was by then. SIGTERM reaches the
command that runs as it reaches this program, which then begins no other one. Its exit code is that
of the first command that failed, 0 when none did.
"""

import base64
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from typing import TypedDict

CANNOT = 127


class Step(TypedDict):
    """One command. input: for its stdin, in base64."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    input: str | None


class Batch(TypedDict):
    """What the file `batch` holds."""

    commands: list[Step]
    stopOnError: bool


class Runner:
    """The batch of one attempt."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.stopping = False
        self.log = os.open(os.path.join(directory, "batch.log"),
                           os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.line = self.shim()

    def shim(self) -> socket.socket | None:
        """A line to the shim; None: without it the places in the output are a little off."""
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        descriptor = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            line.connect(f"/proc/self/fd/{descriptor}/sock")
        except OSError:
            line.close()
            return None
        finally:
            os.close(descriptor)
        return line

    def settled(self) -> int:
        """How much output the shim has written down, once it has all that was printed so far.

        It answers after it has read what is there, so no pause is needed between two looks.
        """
        while self.line is not None and (unread(1) or unread(2)):
            try:
                self.line.send(b"status")
                if not self.line.recv(128):
                    break
            except OSError:
                break
        size = 0
        for name in os.listdir(self.directory):
            kind, _, start = name.partition(".")
            if kind == "log":
                path = os.path.join(self.directory, name)
                size = max(size, int(start, 16) + os.stat(path).st_size)
        return size

    def tell(self, **facts: object) -> None:
        """Add a line, whole."""
        os.write(self.log, json.dumps(facts).encode() + b"\n")

    def run(self, batch: Batch) -> int:
        """All commands, or those until one fails; the exit code."""
        code = 0
        for index, command in enumerate(batch["commands"]):
            if self.stopping:
                return code or 128 + signal.SIGTERM
            own = self.carry(index, command)
            code = code or own
            if own and batch["stopOnError"]:
                break
        return code

    def carry(self, index: int, command: Step) -> int:
        """One command to its end; its exit code as a shell has it."""
        begun = time.monotonic()
        self.tell(index=index, atMs=time.time_ns() // 1_000_000, offset=self.settled())
        failed, code = "", CANNOT
        try:
            process = subprocess.Popen(
                command["argv"], cwd=command["cwd"] or None, env=os.environ | command["env"],
                stdin=subprocess.DEVNULL if command["input"] is None else subprocess.PIPE)
        except OSError as error:
            failed = f"{error.filename or command['argv'][0]}: {error.strerror}"
        else:
            data = None if command["input"] is None else base64.b64decode(command["input"])
            process.communicate(data)
            code = process.returncode
        self.tell(index=index, code=code, failed=failed, offset=self.settled(),
                  tookMs=round((time.monotonic() - begun) * 1000))
        return code if code >= 0 else 128 - code

    def stop(self, number: int, frame: object) -> None:
        """The attempt shall end."""
        del number, frame
        self.stopping = True


def unread(descriptor: int) -> int:
    """How many bytes of a pipe its reader has not read yet; 0 where it is none."""
    try:
        answer = fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4)
    except OSError:
        return 0
    found: int = struct.unpack("i", answer)[0]
    return found


def main() -> int:
    """The program."""
    runner = Runner(os.environ["PLUM_ATTEMPT_DIR"])
    signal.signal(signal.SIGTERM, runner.stop)
    with open(os.path.join(runner.directory, "batch"), encoding="utf-8") as file:
        batch: Batch = json.load(file)
    return runner.run(batch)


if __name__ == "__main__":
    sys.exit(main())
