"""What users' code does that it should not: the worker and the device go on, or say so plainly."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
import pytest
import trio

from plumd.sdk import AsyncClient, Client, Device, TaskFailed, TurnedAway, Worker
from plumd.sdk.line import Line
from plumd.sdk.protocol import Down, PeerError, Result
from tests.daemon.running import Running
from tests.sdk.test_worker import Hall, attempt, code, hall, serving, worker

__all__ = ["hall", "worker"]        # fixtures


def failure(result: Result) -> tuple[str, str]:
    """Code and message."""
    assert result.error is not None
    return result.error.code, result.error.message


def odd_failure(**facts: object) -> TaskFailed:
    """Handlers are not always type-checked: what they give away may be anything."""
    failed = TaskFailed("later")
    for name, fact in facts.items():
        setattr(failed, name, fact)
    return failed


@pytest.mark.parametrize("inline", [False, True])
async def test_advice_of_wrong_types_fails_the_attempt_alone(hall: Hall, worker: Worker,
                                                             inline: bool) -> None:
    def give(payload: int) -> object:
        raise [odd_failure(message=OSError("disk"), code=507),
               odd_failure(retry_after_s="soon", retry="no"),
               odd_failure(message=None, retry=0, retry_after_s="2.5")][payload]

    worker.add_task("odd", give, inline=inline)
    worker.add_task("well", lambda _: 1, inline=inline)
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(*[attempt("odd", n, task=n + 1) for n in range(3)], attempt("well", task=9))
        results = await wire.hear_results(4)
    first, second, third = (results[f"{n:015x}"] for n in (1, 2, 3))
    assert failure(first) == ("507", "disk")
    assert (failure(second), second.retry, second.retry_after_sec) == (
        ("task_failed", "later"), True, None)
    assert (failure(third), third.retry, third.retry_after_sec) == (
        ("task_failed", "None"), False, 2.5)
    assert results[f"{9:015x}"].error is None


async def test_sys_exit_in_a_handler_ends_the_attempt_alone(hall: Hall, worker: Worker) -> None:
    def leave(_payload: object) -> None:
        sys.exit("no such option: --x")     # as argparse does

    @worker.task("async")
    async def leave_async(_payload: object) -> None:
        await trio.lowlevel.checkpoint()
        sys.exit(3)

    worker.add_task("thread", leave)
    worker.add_task("inline", leave, inline=True)
    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("thread", task=1), attempt("inline", task=2), attempt("async", task=3))
        results = await wire.hear_results(3)
    assert [failure(results[f"{n:015x}"]) for n in (1, 2, 3)] == [
        ("handler_error", "SystemExit: no such option: --x")] * 2 + [
        ("handler_error", "SystemExit: 3")]


async def test_one_error_in_a_nursery_is_that_error(hall: Hall, worker: Worker) -> None:
    @worker.task("one")
    async def one(_payload: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise TaskFailed("no disk", code="no_disk", retry=False)

    @worker.task("two")
    async def two(_payload: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ExceptionGroup("both", [TaskFailed("a"), ValueError("b")])

    async with serving(worker):
        wire, _ = await hall.answer()
        wire.give(attempt("one", task=1), attempt("two", task=2))
        results = await wire.hear_results(2)
    first, second = results[f"{1:015x}"], results[f"{2:015x}"]
    assert (failure(first), first.retry) == (("no_disk", "no disk"), False)
    assert code(second) == "handler_error"


class Refusal:
    """A line on which the daemon says that it does not want this worker."""

    answered = False

    async def send(self, message: bytes) -> None:
        del message
        await trio.lowlevel.checkpoint()

    async def receive(self) -> str:
        await trio.lowlevel.checkpoint()
        error = PeerError("session_replaced", "another process has this id")
        return msgspec.json.encode(Down(error=error)).decode()

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()

    async def close(self, code: int | None = None) -> None:
        del code
        await trio.lowlevel.checkpoint()


def test_run_raises_plain_errors() -> None:
    async def dial(_nursery: trio.Nursery) -> Line:
        await trio.lowlevel.checkpoint()
        return Refusal()

    worker = Worker(dial=dial)
    with pytest.raises(TurnedAway, match="another process"):
        worker.run()
    with pytest.raises(RuntimeError, match="serves once"):
        worker.run()


def test_a_device_serves_once() -> None:
    device = Device("x", "http://127.0.0.1:9")
    device.stop()
    device.run()
    with pytest.raises(RuntimeError, match="serves once"):
        device.run()


@pytest.mark.parametrize("make", [
    lambda token: Worker(token=token), lambda token: Worker(token=token, transport="long-poll"),
    lambda token: Client(token=token), lambda token: AsyncClient(token=token),
    lambda token: Device("x", token=token)], ids=["stream", "poll", "client", "async", "device"])
def test_a_token_that_no_header_can_carry(make: Callable[[str], object]) -> None:
    """Above all one that came from a file with its line break, which would begin a new header."""
    for token in ("secret\n", "", "sécret", "a b"):
        with pytest.raises(ValueError, match="token") as refused:
            make(token)
        assert token == "" or token not in str(refused.value)
    make("plum_abc-123=")


def test_what_cannot_be_sent_is_the_callers_mistake() -> None:
    """It is no trouble of the line's, which waiting would outlast."""
    with Client("http://127.0.0.1:9") as client, pytest.raises(ValueError, match="cannot be sent"):
        client.submit("builtin.echo", 1, key="a\nb")

    async def submit() -> None:
        async with AsyncClient("http://127.0.0.1:9") as plum:
            await plum.submit("builtin.echo", 1, key="ключ")

    with pytest.raises(ValueError, match="cannot be sent"):
        trio.run(submit)
    for url in ("http://127.0.0.1:99999", "http://127.0.0.1:x"):
        with pytest.raises(ValueError, match="is no URL"):
            Client(url)


def test_a_worker_that_no_daemon_would_take() -> None:
    for name in ("x" * 201, "local:disk"):
        with pytest.raises(ValueError, match="id"):
            Worker(worker_id=name)

    def numbers(payload: object) -> Iterator[object]:
        yield payload

    async def numbers_async(payload: object) -> AsyncIterator[object]:
        yield payload

    for handler in (numbers, numbers_async):
        with pytest.raises(ValueError, match="generator"):
            Worker().add_task("numbers", handler)


def test_run_in_a_thread_of_a_larger_program() -> None:
    """Signals are then the program's affair; it ends the worker, and the device, by a call."""
    worker, device = Worker("http://127.0.0.1:9"), Device("x", "http://127.0.0.1:9")
    for run, end in ((worker.run, worker.drain), (device.run, device.stop)):
        errors: list[BaseException] = []

        def serve(run: Callable[[], None] = run, errors: list[BaseException] = errors) -> None:
            try:
                run()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive(), errors
        end()
        thread.join(30)
        assert not thread.is_alive()
        assert errors == []


FORKED = """
import os, sys
from plumd.sdk import Client
plum = Client(sys.argv[1])
plum.get("/v1/status")      # its connection is kept
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        children = []
        break
    children.append(pid)
else:
    child = 4
for n in range(25):
    done = plum.submit("builtin.echo", [child, n], key=f"{os.getpid()}-{n}")
    assert plum.task(done["taskId"])["payload"] == [child, n], done
ends = [os.waitpid(pid, 0)[1] for pid in children]
os._exit(any(ends))
"""


@pytest.mark.daemon
def test_a_client_that_was_made_before_a_fork(shared_daemon: Running) -> None:
    """Each process has connections of its own: no answer goes to the other."""
    done = subprocess.run([sys.executable, "-c", FORKED, shared_daemon.url], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0, done.stderr
