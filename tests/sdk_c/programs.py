"""C programs that run beside a test, and what they print."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.sdk_c.building import environment

PATIENCE_S = 30.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; AssertionError when it does not come."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


class Program:
    """A program that runs, and what it printed."""

    def __init__(self, out: Path, *words: str | Path) -> None:
        self.out = out
        with out.open("wb") as file:
            self.process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT,
                                            env=environment())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def said(self) -> str:
        """All that it printed so far."""
        return self.out.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until it printed this so often."""
        until(lambda: self.said.count(text) >= times or self.process.poll() is not None)
        assert self.said.count(text) >= times, self.said

    def end(self, number: int = signal.SIGTERM, code: int = 0) -> str:
        """Send it a signal; what it printed when it has ended with this exit code."""
        self.process.send_signal(number)
        assert self.process.wait(PATIENCE_S) == code, self.said
        return self.said
