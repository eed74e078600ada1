"""The real program `plumd` on a free loopback port, for tests that start, kill and restart it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from tests.daemon import warm
from tests.daemon.warm import Fork

BIN = Path(sys.executable).parent
READY_S = 60.0
STOP_S = 20.0
LOOK_S = 0.02
LISTENING = re.compile(rb"listening addresses=http://127\.0\.0\.1:([0-9]+)")

_local = build_opener(ProxyHandler({}))


class NotReadyError(AssertionError):
    """The daemon did not come up; the message holds its log."""


class Running:
    """One daemon and its data directory. Also a context manager: it starts and stops.

    The first start takes a port that is free, later ones the same. options: flags of
    `plumd serve`.  environment: on top of the test's own, without its PLUM* names.
    """

    def __init__(self, data_dir: Path, *options: str,
                 environment: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.options = options
        self.environment = clean_environment() | dict(environment or {})
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self.port = 0
        self.process: Fork | subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None, "it was not started"
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it takes writes. Raises: NotReadyError."""
        assert self.process is None or self.process.poll() is not None, "it runs already"
        begun = self.log.stat().st_size if self.log.exists() else 0
        self.process = self.begin()
        until = time.monotonic() + READY_S
        while not self._ready(begun):
            if self.process.poll() is not None or time.monotonic() > until:
                said = self.log.read_text(errors="replace")
                self.kill()
                raise NotReadyError(f"plumd did not become ready:\n{said}")
            time.sleep(LOOK_S)

    def begin(self) -> Fork | subprocess.Popen[bytes]:
        """Start it and wait for nothing."""
        with self.log.open("ab") as log:
            return warm.begin(self.words, self.environment, log.fileno())

    @property
    def words(self) -> list[str]:
        """What follows the program's name."""
        return ["serve", "--data-dir", str(self.data_dir),
                "--listen", f"127.0.0.1:{self.port}", *self.options]

    def _ready(self, begun: int) -> bool:
        with self.log.open("rb") as log:
            log.seek(begun)
            found = LISTENING.search(log.read())
        if found is None:
            return False
        self.port = int(found[1])
        return is_ready(self.url)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code. Raises: subprocess.TimeoutExpired."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def restart(self) -> None:
        """Stop it cleanly, start it again on the same port and data."""
        assert self.stop() == 0
        self.start()

    def plum(self, *words: str, given: str | None = None,
             environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the program `plum` against it; given: its stdin."""
        return subprocess.run(
            [BIN / "plum", *words], input=given, capture_output=True, text=True, check=False,
            timeout=60, stdin=subprocess.DEVNULL if given is None else None,
            env=self.environment | {"PLUM_SERVER": self.url} | dict(environment or {}))


class Cold(Running):
    """The same, begun as people begin it: where its start or its weight is what a test is about."""

    def begin(self) -> subprocess.Popen[bytes]:
        """Start it and wait for nothing."""
        with self.log.open("ab") as log:
            return subprocess.Popen([BIN / "plumd", *self.words], stdin=subprocess.DEVNULL,
                                    stdout=log, stderr=log, env=self.environment)


def is_ready(url: str) -> bool:
    """Whether a daemon there takes writes."""
    try:
        with _local.open(url + "/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, ConnectionError, TimeoutError):
        return False


def clean_environment() -> dict[str, str]:
    """The test's environment without what would configure Plum."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith(("PLUM", "CONTROLLER_"))}


def free_port() -> int:
    """A port that nobody listens on; for programs that must be told one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
