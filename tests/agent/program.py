"""The real program `plumd agent`, for tests that start, kill and restart it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.daemon import warm
from tests.daemon.running import STOP_S, clean_environment

RUNS = b"the agent runs"


class Agent:
    """One agent and its data directory. Also a context manager: it starts, stops, and kills all
    that it had started."""

    def __init__(self, data_dir: Path, controller: str, node_id: str, *options: str,
                 environment: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.words = ["agent", "--data-dir", str(data_dir), "--controller",
                      controller, "--node-id", node_id, "--sync-sec", "1", *options]
        self.environment = clean_environment() | dict(environment or {})
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self.process: warm.Fork | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.stop()
        for pid in self.leftovers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = warm.begin(self.words, self.environment, log.fileno())

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def leftovers(self) -> list[int]:
        """Living processes, but the agent, whose environment or command line names the data
        directory."""
        mark = str(self.data_dir).encode()
        own = {os.getpid(), *([] if self.process is None else [self.pid])}
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                text = (Path(f"/proc/{name}/environ").read_bytes()
                        + Path(f"/proc/{name}/cmdline").read_bytes())
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark in text and int(name) not in own and state != "Z":
                found.append(int(name))
        return found
