"""Programs of our own beside the daemon, kept running: the agent, and the lookout (lookout.py).

Each ends when its stdin does, so it goes with the daemon, however that ends.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import trio

log = logging.getLogger("plumd.companion")
AGAIN_S: Final = 1.0
AGAIN_S_MAX: Final = 30.0
LEAVE_S: Final = 5.0
MANAGERS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""By which the daemon tells the service manager how it is itself; nobody else speaks for it."""
PYTHON: Final = (sys.executable, "-P", "-m")
"""Begins a program of ours, which reads no code from the folder where the daemon was begun."""

Live: TypeAlias = Callable[[trio.Process], Awaitable[object]]
"""What is done with a program while it runs; when this returns, it is told to leave."""


def agent_words(controller: str, node_id: str, data_dir: Path, log_level: str,
                log_format: str) -> list[str]:
    """How the agent is started, which makes the daemon's own machine a node, for who wants just
    that. The processes that it runs go on without it, and the next one finds them again."""
    return [*PYTHON, "plumd", "agent", "--until-eof", "--controller", controller,
            "--node-id", node_id, "--data-dir", str(data_dir), "--log-level", log_level,
            "--log-format", log_format]


async def keep(name: str, command: Sequence[str], live: Live = trio.Process.wait, *,
               stdout: int = subprocess.DEVNULL) -> None:
    """Keep a program running. Cancel: it is told to leave, and is gone when this returns."""
    pause_s = AGAIN_S
    while True:
        begun_s = trio.current_time()
        try:
            process = await trio.lowlevel.open_process(
                list(command), stdin=subprocess.PIPE, stdout=stdout, env={
                    name: value for name, value in os.environ.items() if name not in MANAGERS})
        except (OSError, RuntimeError) as error:    # no file, memory, process or thread is left
            why = f"it cannot be started: {error}"
        else:
            await _tend(process, live)
            why = f"exit code {process.returncode}"
        pause_s = AGAIN_S if trio.current_time() - begun_s > AGAIN_S_MAX else pause_s
        log.warning("a program beside the daemon ended", extra={
            "program": name, "reason": why, "again_s": pause_s})
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, AGAIN_S_MAX)


async def _tend(process: trio.Process, live: Live) -> None:
    """Until it is gone. Cancel: it is told to leave."""
    try:
        await live(process)
    finally:
        with trio.CancelScope(shield=True):
            assert process.stdin is not None, "it has a pipe"
            await process.stdin.aclose()
            with trio.move_on_after(LEAVE_S):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
