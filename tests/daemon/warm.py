"""The program `plumd` as a fork of a process that has read all its code: from `main` on all is the
same, without the half second in which Python reads it.

Three kinds of process: one server for each process of pytest, which imports and forks; for each
program a keeper, which waits for it; and the program. It is for tests of what plumd does once it
runs. Where it dies and comes again, or is weighed, it is begun as people begin it (running.Cold).
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent.parent
ORDER_BYTES_MAX: Final = 1 << 20


class Order(NamedTuple):
    """A program that shall run."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str


class Fork:
    """A program that was begun so, with as much of Popen's face as tests of plumd use."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self.pid = int(line.recv(32))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. Raises: subprocess.TimeoutExpired."""
        if self.returncode is None:
            self._line.settimeout(timeout)
            try:
                said = self._line.recv(32)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("plumd", timeout or 0) from None
            self._line.close()
            self.returncode = int(said)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the program, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def begin(arguments: Sequence[str], environment: Mapping[str, str], output: int) -> Fork:
    """Start `plumd` with what follows its name. output: a descriptor for all that it prints."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        order = Order(list(arguments), dict(environment), os.getcwd())
        socket.send_fds(server(), [json.dumps(order).encode()], [output, theirs.fileno()])
    return Fork(ours)


@cache
def server() -> socket.socket:
    """The way to the server of this process, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen([sys.executable, "-m", "tests.daemon.warm"], cwd=ROOT,
                                   stdin=theirs.fileno())

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# ------------------------------------------------------------ the other side


def serve() -> None:
    """The server: carry out orders from stdin to its end."""
    for program in ("plumd.daemon", "plumd.agent.main"):
        import_module(program)      # what each of them would have to read by itself
    gc.freeze()     # so that no program writes to these pages only to look for rubbish in them
    with socket.socket(fileno=os.dup(0)) as orders:
        while True:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)   # keepers are waited for by nobody
            text, descriptors, _, _ = socket.recv_fds(orders, ORDER_BYTES_MAX, 2)
            if not text:
                return
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                orders.close()
                keep(Order(*json.loads(text)), *descriptors)
            for each in descriptors:
                os.close(each)


def keep(order: Order, output: int, line: int) -> None:
    """The keeper: begin the program, tell its pid, and when it ends its exit code."""
    pid = os.fork()
    if pid == 0:
        os.close(line)
        become(order, output)
    os.write(line, b"%d" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(line, b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def become(order: Order, output: int) -> None:
    """The program. It ends by SystemExit, which leads out of this module as out of its own."""
    from plumd.__main__ import main

    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(output)
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environment)
    sys.argv = [str(Path(sys.executable).with_name("plumd")), *order.arguments]
    main()


if __name__ == "__main__":
    serve()
