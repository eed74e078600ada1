"""The agent beside the daemon: makes the daemon's own machine a node, for who wants just that.

A program of its own like any agent. It ends when its stdin does, so it goes with the daemon,
however that ends; the processes that it runs go on, and the next one finds them again.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

log = logging.getLogger("plumd.companion")
AGAIN_S: Final = 1.0
AGAIN_S_MAX: Final = 30.0
LEAVE_S: Final = 5.0


def words(controller: str, node_id: str, data_dir: Path, log_level: str,
          log_format: str) -> list[str]:
    """How the agent is started."""
    return [sys.executable, "-m", "plumd", "agent", "--until-eof", "--controller", controller,
            "--node-id", node_id, "--data-dir", str(data_dir), "--log-level", log_level,
            "--log-format", log_format]


async def run(command: Sequence[str]) -> None:
    """Keep the agent running. Cancel: it is told to leave, and is gone when this returns."""
    pause_s = AGAIN_S
    while True:
        process = await trio.lowlevel.open_process(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        begun_s = trio.current_time()
        try:
            code = await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                assert process.stdin is not None, "it has a pipe"
                await process.stdin.aclose()
                with trio.move_on_after(LEAVE_S):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        pause_s = AGAIN_S if trio.current_time() - begun_s > AGAIN_S_MAX else pause_s
        log.warning("the agent beside the daemon ended", extra={
            "exit_code": code, "again_s": pause_s})
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, AGAIN_S_MAX)
