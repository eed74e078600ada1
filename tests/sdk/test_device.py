"""A Python device against the real daemon, through outages, refusals and takeovers."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from plumd.sdk import AsyncClient, Device, DeviceReplaced, OperationFailed, ProblemError
from plumd.sdk.wire import JsonObject
from tests.daemon.running import BIN, Running, clean_environment

pytestmark = pytest.mark.daemon
ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def serving(device: Device) -> AsyncIterator[None]:
    """The device serves in this block, and ends well."""
    async with trio.open_nursery() as nursery:
        await nursery.start(device.serve)
        yield
        device.stop()


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    """Until it holds; a test that hangs here has found something."""
    while not await look():     # noqa: ASYNC110 - the daemon sets no event of ours
        await trio.sleep(0.01)


async def view(plum: AsyncClient, name: str) -> JsonObject:
    return await plum.get_object(f"/v1/resources/{name}")


async def state(plum: AsyncClient, name: str, key: str) -> object:
    """The newest value of a state."""
    states = (await view(plum, name))["states"]
    assert isinstance(states, dict)
    one = states.get(key)
    return one["value"] if isinstance(one, dict) else None


async def test_operations_arrive_as_what_they_are(shared_daemon: Running) -> None:
    device = Device("typed", shared_daemon.url, type="radar", node_id="n")
    got: list[object] = []
    device.state("power", type="int", unit="%", value=0)

    @device.operation("int", type="int", min=0, max=100, unit="%")
    def take_int(value: int) -> None:
        got.append(value)

    @device.operation("double", type="double")
    async def take_double(value: float) -> None:
        await trio.lowlevel.checkpoint()
        got.append(value)

    @device.operation("bool", type="bool")
    def take_bool(value: bool) -> None:
        got.append(value)

    @device.operation("text")
    def take_text(value: str) -> None:
        got.append(value)

    async with serving(device), AsyncClient(shared_daemon.url) as plum:
        found = await view(plum, "typed")
        assert (found["type"], found["nodeId"], found["transport"], found["health"]) == (
            "radar", "n", "poll", "Healthy")
        assert found["stateDesc"] == [{"name": "power", "type": "int", "unit": "%", "value": "0"}]
        await plum.operate("typed", {"int": "50", "double": "1e3", "bool": "true", "text": "ü"})
        assert got == [50, 1000.0, True, "ü"]
        assert [type(one) for one in got] == [int, float, bool, str]
        for name, value in (("int", "101"), ("double", "x"), ("none", "")):
            with pytest.raises(ProblemError) as refused:
                await plum.operate("typed", {name: value})
            assert refused.value.status == 422
        assert len(got) == 4


async def test_what_goes_wrong_in_a_handler_is_told(
        shared_daemon: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    device = Device("wrong", shared_daemon.url)
    done: list[str] = []

    @device.operation("ok")
    def ok(value: str) -> None:
        done.append(value)

    @device.operation("busy")
    def busy(value: str) -> None:
        assert value == "x"
        raise OperationFailed("not now \ud800", status=423)

    @device.operation("bug")
    def bug(value: str) -> None:
        raise ZeroDivisionError(value)

    @device.operation("leave")
    def leave(value: str) -> None:
        sys.exit(value)

    @device.operation("nursery")
    async def nursery(_value: str) -> None:
        async with trio.open_nursery():
            raise OperationFailed("jammed", status=423)

    @device.operation("odd")
    def odd(_value: str) -> None:
        raise OperationFailed("odd", status=7_000)

    async with serving(device), AsyncClient(shared_daemon.url) as plum:
        for name, status, words in (("busy", 423, "busy: not now ?"),
                                    ("bug", 500, "bug: ZeroDivisionError: x"),
                                    ("leave", 500, "leave: SystemExit: x"),
                                    ("nursery", 423, "nursery: jammed"),
                                    ("odd", 500, "odd: odd")):
            with pytest.raises(ProblemError) as failed:
                await plum.operate("wrong", {"ok": "1", name: "x", "never": "", })
            assert failed.value.status == 422
            with pytest.raises(ProblemError) as failed:
                await plum.operate("wrong", {"ok": name, name: "x"})
            assert (failed.value.status, failed.value.code) == (502, "device_refused")
            assert failed.value.document["deviceStatus"] == status
            assert failed.value.document["deviceBody"] == words
        assert done == ["busy", "bug", "leave", "nursery", "odd"], "up to the one that failed"


async def test_reports_arrive_in_order_at_once(shared_daemon: Running) -> None:
    device = Device("reports", shared_daemon.url)
    device.report({"early": True}, timestamp_ms=7)
    async with serving(device), AsyncClient(shared_daemon.url) as plum:
        for number in range(20):
            device.report({"n": number, "x": 0.5})
        device.report({"": "\0"})

        async def all_there() -> bool:
            return await state(plum, "reports", "") == "\0"

        await until(all_there)
        found = await plum.get("/v1/resources/states?resourceId=reports")
        assert isinstance(found, list)
        reports = [one for one in found if isinstance(one, dict)]
        numbers = [one["states"].get("n") for one in reports]  # type: ignore[union-attr]
        assert numbers == [None, *(str(number) for number in reversed(range(20))), None]
        assert reports[-1]["timestamp"] == 7
        assert await state(plum, "reports", "early") == "true"


async def test_a_report_from_a_handlers_thread(shared_daemon: Running) -> None:
    device = Device("threads", shared_daemon.url)

    @device.operation("go")
    def go(value: str) -> None:
        device.report({"went": value})

    async with serving(device), AsyncClient(shared_daemon.url) as plum:
        await plum.operate("threads", {"go": "far"})

        async def went() -> bool:
            return await state(plum, "threads", "went") == "far"

        await until(went)


async def test_the_other_program_takes_over(shared_daemon: Running) -> None:
    first, second = (Device("double", shared_daemon.url) for _ in range(2))
    got: list[str] = []

    @second.operation("who")
    def who(value: str) -> None:
        got.append(value)

    replaced = trio.Event()

    async def run_first(task_status: trio.TaskStatus[None]) -> None:
        with pytest.raises(DeviceReplaced):
            await first.serve(task_status=task_status)
        replaced.set()

    async with trio.open_nursery() as nursery, AsyncClient(shared_daemon.url) as plum:
        await nursery.start(run_first)

        async def waits() -> bool:
            # Its line is there when an operation reaches it.
            with pytest.raises(ProblemError) as answer:
                await plum.operate("double", {"nothing": ""})
            return answer.value.document.get("deviceStatus") == 404

        await until(waits)
        async with serving(second):
            await replaced.wait()
            await plum.operate("double", {"who": "second"})
            assert got == ["second"]


async def test_a_device_outlives_the_daemon(tmp_path: Path,
                                            caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with Running(tmp_path / "data") as daemon:
        device = Device("tough", daemon.url)
        got: list[str] = []

        @device.operation("go")
        def go(value: str) -> None:
            got.append(value)

        async with serving(device), AsyncClient(daemon.url) as plum:
            await plum.operate("tough", {"go": "1"})
            daemon.kill()
            for number in range(3):
                device.report({"n": number})
            await trio.to_thread.run_sync(daemon.start)

            async def operated() -> bool:
                try:
                    await plum.operate("tough", {"go": "2"})
                except ProblemError as problem:
                    return problem.code != "device_timeout"
                return True

            await until(operated)
            assert got[:2] == ["1", "2"]

            async def caught_up() -> bool:
                return await state(plum, "tough", "n") == "2"

            await until(caught_up)
            await plum.request("DELETE", "/v1/resources/tough")
            device.report({"n": 4})

            async def registered_again() -> bool:
                try:
                    return await state(plum, "tough", "n") == "4"
                except ProblemError:
                    return False

            await until(registered_again)


async def test_a_device_that_the_daemon_does_not_take(shared_daemon: Running) -> None:
    with pytest.raises(ProblemError) as refused:
        await Device("a\nb", shared_daemon.url).serve()
    assert refused.value.field == "resourceId"


async def test_stop_before_anybody_answers() -> None:
    device = Device("alone", "http://127.0.0.1:9")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.serve)
        await trio.lowlevel.checkpoint()
        device.stop()


def test_what_is_declared_wrongly() -> None:
    device = Device("x", "http://h")
    device.operation("a")(print)
    with pytest.raises(ValueError, match="already"):
        device.operation("a")(print)
    with pytest.raises(ValueError, match="wait_s"):
        Device("x", "http://h", wait_s=61)
    with pytest.raises(TypeError):
        device.report({"a": []})  # type: ignore[dict-item]


def plum(daemon: Running, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "plum", *words], capture_output=True, text=True, check=False,
                          env=clean_environment() | {"PLUM_SERVER": daemon.url}, timeout=60)


def test_the_example_as_a_program(shared_daemon: Running) -> None:
    """examples/radar.py: operated, looked at, and ended by SIGTERM."""
    with subprocess.Popen([sys.executable, "examples/radar.py", shared_daemon.url, "radar-7"],
                          cwd=ROOT, env=clean_environment(), stderr=subprocess.DEVNULL) as process:
        try:
            while plum(shared_daemon, "device", "op", "radar-7", "set-power=80").returncode:
                assert process.poll() is None
            shown = plum(shared_daemon, "device", "get", "radar-7").stdout
            assert "op set-power" in shown
            while '"power"' not in (shown := plum(
                    shared_daemon, "-o", "json", "device", "get", "radar-7").stdout):
                assert process.poll() is None
            refused = plum(shared_daemon, "device", "op", "radar-7", "set-power=101")
            assert refused.returncode == 2
            assert "operations[0].value" in refused.stderr
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
