"""Batches of commands in one attempt: ends one by one, output in its places, stops, restarts."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from plumd.errors import Invalid
from plumd.executors import Attempt, Outcome, Stop, batch
from plumd.executors.batch import CommandResult
from plumd.executors.command import Batch, Command
from plumd.executors.os_process import OsProcess, parse_command
from plumd.model import Ending
from tests.executors.test_os_process import (
    Running,
    executor,
    pids_of,
    result,
    shim_path,
    shim_pid,
    wait_text,
)

__all__ = ["executor", "shim_path"]


def sh(code: str, **more: object) -> dict[str, object]:
    return {"command": "sh", "args": ["-c", code], **more}


def attempt(*commands: dict[str, object], **more: object) -> Attempt:
    payload = {"commands": list(commands), **more}
    return Attempt(1, 1, "a.task", json.dumps(payload).encode(), worker_id="here")


@asynccontextmanager
async def begun(running: Running) -> AsyncIterator[None]:
    """It runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        yield


async def run(executor: OsProcess, *commands: dict[str, object], **more: object) -> Outcome:
    return await executor.run(attempt(*commands, **more), Stop())


def commands_of(outcome: Outcome) -> Sequence[CommandResult]:
    found = result(outcome).commands
    assert not isinstance(found, msgspec.UnsetType)
    return found


def printed(executor: OsProcess, one: CommandResult) -> bytes:
    """What the log has between a command's two places."""
    assert one.log_from is not None
    assert one.log_to is not None
    page = executor.read_log(1, 1, one.log_from, one.log_to - one.log_from)
    return b"".join(entry.data for entry in page.entries)


async def test_each_command_has_its_end_and_its_place_in_the_output(executor: OsProcess) -> None:
    outcome = await run(
        executor, sh("echo first; echo oops >&2"),
        {"command": "cat", "input": "second\n", "name": "copy"},
        sh("pwd; echo $A $B", env={"B": "2"}, workingDir="/"), sh("true"),
        env={"A": "1"})
    assert outcome.ending is Ending.SUCCEEDED, outcome.error
    found = commands_of(outcome)
    assert [one.state for one in found] == ["succeeded"] * 4
    assert [one.exit_code for one in found] == [0] * 4
    assert found[1].name == "copy"
    assert sorted(printed(executor, found[0]).split()) == [b"first", b"oops"]
    assert [printed(executor, one) for one in found[1:]] == [b"second\n", b"/\n1 2\n", b""]
    assert found[0].log_from == 0
    assert all(one.started_at and one.duration_ms is not None for one in found)
    whole = result(outcome)
    assert whole.command == "a batch of 4 commands"
    assert whole.stdout == "first\nsecond\n/\n1 2\n"


async def test_the_first_failure_ends_it_and_the_rest_is_named(executor: OsProcess) -> None:
    outcome = await run(executor, sh("true"), sh("exit 7", name="bad"), sh("true", name="later"),
                        sh("true"))
    assert outcome.ending is Ending.FAILED
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.exit_code) == ("exit_status", 7)
    assert outcome.error.message == "command 1 (bad): exit code 7; not run: later, 3"
    assert [one.state for one in commands_of(outcome)] == [
        "succeeded", "failed", "notRun", "notRun"]


async def test_all_run_when_errors_do_not_stop_it(executor: OsProcess) -> None:
    outcome = await run(executor, sh("exit 3"), {"command": "no-such-program"},
                        sh("kill -9 $$"), sh("echo end"), stopOnError=False)
    assert outcome.ending is Ending.FAILED
    assert outcome.error is not None
    assert outcome.error.exit_code == 3
    found = commands_of(outcome)
    assert [one.state for one in found] == ["failed", "failed", "killed", "succeeded"]
    assert found[1].error == "no-such-program: No such file or directory"
    assert found[1].exit_code is None
    assert found[2].signal == "SIGKILL"
    assert "no-such-program" in outcome.error.message
    assert result(outcome).stdout == "end\n"


async def test_a_stop_kills_the_one_that_runs_and_names_those_that_do_not(
        executor: OsProcess) -> None:
    running = Running(executor, attempt(
        sh("echo one"), sh("echo two; sleep 60 & sleep 60", name="long"), sh("echo three"),
        killGraceSec=0.5))
    async with begun(running):
        await wait_text(executor, b"two\n")
        running.stop.ask("timeout")
        outcome = await running.wait()
    assert outcome.ending is Ending.TIMEOUT
    assert outcome.error is not None
    assert "command 1 (long): killed by SIGTERM" in outcome.error.message
    assert "not run: 2" in outcome.error.message
    assert [one.state for one in commands_of(outcome)] == ["succeeded", "failed", "notRun"]
    assert pids_of(executor) == set()


async def test_what_ignores_sigterm_is_killed_with_the_runner(executor: OsProcess) -> None:
    running = Running(executor, attempt(
        sh("trap '' TERM; echo deaf; while :; do sleep 1; done"), sh("echo never"),
        killGraceSec=0.3))
    async with begun(running):
        await wait_text(executor, b"deaf\n")
        running.stop.ask("canceled")
        outcome = await running.wait()
    assert outcome.ending is Ending.CANCELED
    found = commands_of(outcome)
    assert [one.state for one in found] == ["killed", "notRun"]
    assert pids_of(executor) == set()


async def test_it_goes_on_while_the_daemon_is_away(executor: OsProcess, tmp_path: Path,
                                                   shim_path: Path) -> None:
    gate = tmp_path / "gate"
    running = Running(executor, attempt(
        sh(f"echo waits; until test -e {gate}; do sleep 0.05; done"), sh("echo after")))
    async with begun(running):
        await wait_text(executor, b"waits\n")
        running.scope.cancel()          # the daemon dies
        await running.done.wait()
        gate.touch()
        await wait_text(executor, b"after\n")
        again = OsProcess(tmp_path, shim_path)
        resumed = msgspec.structs.replace(running.what, resumed=True)
        outcome = await again.run(resumed, Stop())
    assert outcome.ending is Ending.SUCCEEDED
    assert [one.state for one in commands_of(outcome)] == ["succeeded"] * 2


async def test_a_shim_that_dies_leaves_an_attempt_that_is_lost(executor: OsProcess) -> None:
    running = Running(executor, attempt(sh("echo on; sleep 60"), sh("true")))
    async with begun(running):
        await wait_text(executor, b"on\n")
        os.kill(shim_pid(executor), signal.SIGKILL)
        outcome = await running.wait()
    assert outcome.ending is Ending.LOST
    assert pids_of(executor) == set()


async def test_much_output_on_both_streams_keeps_its_places(executor: OsProcess) -> None:
    outcome = await run(executor, *(
        sh(f"i=0; while [ $i -lt 300 ]; do echo {mark * 60}; echo {mark * 50} >&2; "
           "i=$((i+1)); done") for mark in "abc"))
    assert outcome.ending is Ending.SUCCEEDED
    for mark, one in zip(b"abc", commands_of(outcome), strict=True):
        assert set(printed(executor, one)) == {mark, 10}
        assert one.log_to is not None
        assert one.log_from is not None
        assert one.log_to - one.log_from == 300 * (61 + 51)


@pytest.mark.parametrize(("payload", "field"), [
    ({"commands": []}, "payload.commands"),
    ({"commands": [{}]}, "payload.commands[0]"),
    ({"commands": [{"command": "a"}], "command": "b"}, "payload.command"),
    ({"commands": [{"command": "a"}], "input": "b"}, "payload.input"),
    ({"commands": [{"command": "a"}, {"command": "a", "args": ["\0"]}]},
     "payload.commands[1].args[0]"),
    ({"commands": [{"command": "a", "workingDir": "b"}]}, "payload.commands[0].workingDir"),
    ({"commands": [{"command": "a", "limits": {"pids": 5}}]}, "payload.commands[0]"),
    ({"commands": [{"command": "a"}], "stopOnError": 1}, "payload.stopOnError"),
    ({"command": "a", "name": "b"}, "payload.name"),
    ({"commands": [{"command": "a"}] * 1001}, "payload.commands"),
])
def test_what_is_wrong_is_named(payload: object, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_command(json.dumps(payload).encode())
    assert refused.value.field == field


@given(st.integers(0, 600))
def test_a_log_that_was_cut_off_anywhere_is_read(cut: int) -> None:
    lines = b"".join(msgspec.json.encode(line) + b"\n" for line in (
        batch.Line(0, 0, 5), batch.Line(0, 3, code=0), batch.Line(1, 3, 6),
        batch.Line(1, 9, code=-15)))
    two = Batch((Command("a"), Command("b"), Command("c")))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "batch.log").write_bytes(lines[:cut])
        states = [one.state for one in batch.results(Path(folder), two)]
    assert states[2] == "notRun"
    assert states in (
        ["notRun"] * 3, ["killed", "notRun", "notRun"], ["succeeded", "notRun", "notRun"],
        ["succeeded", "killed", "notRun"], ["succeeded", "failed", "notRun"])
