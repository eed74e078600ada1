"""Programs beside the daemon: what is done when one cannot be started."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from plumd import companion


@pytest.mark.parametrize("error", [
    OSError(24, "Too many open files"), RuntimeError("can't start new thread")])
async def test_one_that_cannot_be_started_is_tried_again(
        monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, error: Exception) -> None:
    assert autojump_clock.autojump_threshold == 0
    tried: list[float] = []
    begin, begun = trio.lowlevel.open_process, trio.Event()

    async def often_fail(command: list[str], *, stdin: int, stdout: int,
                         env: dict[str, str]) -> trio.Process:
        tried.append(trio.current_time())
        if len(tried) < 4:
            raise error
        return await begin(command, stdin=stdin, stdout=stdout, env=env)

    async def live(process: trio.Process) -> None:
        begun.set()
        await process.wait()

    monkeypatch.setattr(trio.lowlevel, "open_process", often_fail)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(companion.keep, "one", ["/bin/cat"], live)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert tried == [0, 1, 3, 7]


async def test_none_speaks_to_the_service_manager_in_the_daemons_name(
        monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "OTHER"):
        monkeypatch.setenv(name, "1")
    said = bytearray()
    async with trio.open_nursery() as nursery:
        async def live(process: trio.Process) -> None:
            assert process.stdout is not None
            async for data in process.stdout:
                said.extend(data)
            nursery.cancel_scope.cancel()

        nursery.start_soon(partial(companion.keep, "one", ["/usr/bin/env"], live,
                                   stdout=subprocess.PIPE))
    names = {line.partition("=")[0] for line in said.decode().splitlines()}
    assert "OTHER" in names
    assert not names & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}


def test_the_agent_reads_no_code_where_the_daemon_was_begun() -> None:
    words = companion.agent_words("http://[::1]:1", "n", Path("data"), "info", "text")
    assert tuple(words[:3]) == companion.PYTHON
    assert "-P" in companion.PYTHON
