"""One instance of a deployment on this node: prepared, started, watched, started again, stopped.

    <data>/instances/<id>/assigned      what was wanted last, with the count of restarts
                          app/          the unpacked artifact, where it runs
                          runs/<n>/     one shim's directory a start, until it is over; its output
                                        is then with that of all others (hour_logs.py)
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, final

import msgspec
import trio

from plumd.agent import health
from plumd.agent.artifacts import Artifact, Artifacts, NotFetched, Refused, disk_words
from plumd.agent.assigned import Assigned, Backoff, Report, Stats
from plumd.agent.http import Http
from plumd.agent.process import NotStarted, Process
from plumd.agent.reports import Reports
from plumd.executors import shim
from plumd.executors.hour_logs import HourLogs, discard, discard_rest
from plumd.executors.os_process import memory_words, signal_name
from plumd.executors.trees import remove_tree

log = logging.getLogger("plumd.agent")
UNMOVED_RUNS: Final = 3
"""So many runs that are over keep their directories while the disk takes no more."""
LOG_BYTES_MAX: Final = 16 << 20
STRAY_S: Final = 5.0
"""So long a process that nobody knows may take to be killed."""
TERM_AT: Final = 2 / 3
"""Of a lease: then the instance is asked to end, so that it has a while before it is killed."""


class Kept(msgspec.Struct, frozen=True):
    """What an agent that comes after us must know."""

    assigned: Assigned
    restarts: int = 0
    over: str = ""
    """The phase in which it ended for good, "" while it shall run."""


class Surroundings(msgspec.Struct, frozen=True):
    """What all instances of a node share. env: what their environments start from."""

    node_id: str
    env: Mapping[str, str]
    cgroups: bool
    shim_path: Path
    http: Http
    artifacts: Artifacts
    reports: Reports
    logs: HourLogs
    may_start: Callable[[], bool]


@final
class Instance:
    """Follows `want` until it is to be gone; `run` carries it out."""

    def __init__(self, folder: Path, kept: Kept, around: Surroundings) -> None:
        self.folder = folder
        self.gone = False
        self._kept = kept
        self._wanted: Assigned | None = kept.assigned
        self._around = around
        self._changed = trio.Event()
        self._process: Process | None = None
        self._running_as: Assigned | None = None
        self._healthy: bool | None = False      # None: not yet known of a run that was found
        self._unwell = ""       # why it is not well, for people
        self._unheld = ""       # what is not as it was asked for all the same
        self._started_ms = 0
        self._pid = 0
        self._failures = 0
        self._lease_ms = 0      # by the clock of leases, until when it may run; 0 = no lease
        self._last: Report | None = None

    @property
    def assigned(self) -> Assigned:
        """What was wanted of it last."""
        return self._kept.assigned

    # ------------------------------------------------------------ what is wanted

    def want(self, assigned: Assigned | None) -> None:
        """From now on this is wanted; None: it is not wanted any more, not even known."""
        before, self._wanted = self._wanted, assigned
        if assigned is not None and (assigned != self.assigned or before is None):
            goes_on = (before is not None and before.wanted == assigned.wanted
                       and assigned.same_program(self.assigned)
                       and not assigned.asks_again(self.assigned))
            over = self._kept.over if goes_on else ""
            if over != self._kept.over:
                self._last = None       # what was said is true no more
            self._keep(msgspec.structs.replace(self._kept, assigned=assigned, over=over))
        if assigned is None or before is None or assigned != before:
            self._wake()

    def lease_until(self, at_ms: int) -> None:
        """The controller was heard: a fenced instance may run until then (CLOCK_BOOTTIME)."""
        if at_ms > self._lease_ms:
            self._lease_ms = at_ms
            self._wake()

    def told_again(self) -> None:
        """The controller does not know how it is: say it once more."""
        if self._last is not None:
            self._around.reports.tell(self._last)

    def _wake(self) -> None:
        self._changed.set()

    async def _news(self) -> None:
        await self._changed.wait()
        self._changed = trio.Event()

    def _shall_run(self) -> bool:
        """Whether a process of it shall be there."""
        wanted = self._wanted
        return (wanted is not None and wanted.wanted and not self._kept.over
                and self._may_run(wanted))

    def _may_run(self, wanted: Assigned) -> bool:
        """Whether its lease, if it has one, still holds for a while."""
        return wanted.fence is None or self._term_at_ms(wanted) > shim.boot_ms()

    def _term_at_ms(self, wanted: Assigned) -> int:
        assert wanted.fence is not None
        return self._lease_ms - round(wanted.fence.lease_ms * (1 - TERM_AT))

    # ------------------------------------------------------------ its life

    async def run(self) -> None:
        """Until it is gone. Cancel: a process that runs is left running."""
        number, goes_on = await trio.to_thread.run_sync(self._last_run)
        if goes_on:
            await self._follow(number, self.assigned, found=True)
        while self._wanted is not None:
            if self._shall_run() and self._around.may_start():
                number = await self._one_run(number + 1)
            elif self._wanted.wanted and self._kept.over:
                await self._news()
            elif self._wanted.wanted:
                await self._wait_or_look()
            else:
                self._say("Stopped")
                await self._news()
        self._say("Stopped")
        self.gone = True

    async def _wait_or_look(self) -> None:
        """The lease is over, or the node is not ours: until something changes, or a moment."""
        with trio.move_on_after(1.0):
            await self._news()

    async def _one_run(self, number: int) -> int:
        """Prepare, start and watch one run; its number."""
        wanted = self._wanted
        assert wanted is not None
        self._say("Starting")
        process = Process(self.folder / "runs" / str(number), self._around.shim_path)
        reason = ""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_unwanted, wanted, nursery.cancel_scope)
                await self._prepare(wanted)
                await process.start(self._spec(process.directory, wanted))
                nursery.cancel_scope.cancel()
        except* (Refused, NotFetched, NotStarted) as group:
            reason = str(group.exceptions[0])
        except* OSError as errors:
            found = errors.exceptions[0]
            assert isinstance(found, OSError), "what is prepared raises it alone"
            reason = disk_words(found, "preparing the start")
        if reason:
            await trio.to_thread.run_sync(remove_unstarted, process.directory)
            await self._failed(reason)
        elif process.was_started():
            await self._follow(number, wanted)
        return number

    async def _cancel_when_unwanted(self, wanted: Assigned, scope: trio.CancelScope) -> None:
        while self._shall_run() and self._wanted is not None and (
                self._wanted.same_program(wanted)):
            await self._news()
        scope.cancel()

    async def _prepare(self, wanted: Assigned) -> None:
        """Have the artifact there. Raises Refused, NotFetched."""
        artifact = Artifact(wanted.artifact_url, wanted.sha256 or "", wanted.size_bytes or 0)
        app, mark = self.folder / "app", self.folder / "app.is"
        name = f"{artifact.sha256} {artifact.url}"
        if artifact.url and not await trio.to_thread.run_sync(holds, mark, name, app):
            await trio.to_thread.run_sync(forget_mark, mark)
            await self._around.artifacts.unpacked(artifact, app)
            await trio.to_thread.run_sync(mark.write_text, name)
        if not artifact.url:
            await trio.to_thread.run_sync(partial(app.mkdir, parents=True, exist_ok=True))
        if not wanted.start_cmd and not await trio.to_thread.run_sync((app / "start.sh").is_file):
            raise Refused("the artifact has no start.sh, and the deployment no startCmd")

    def _spec(self, directory: Path, wanted: Assigned) -> shim.Spec:
        limits = wanted.limits
        app = self.folder / "app"
        argv: tuple[str, ...]
        if wanted.start_cmd:
            argv = ("/bin/sh", "-c", wanted.start_cmd)
        else:
            with (app / "start.sh").open("rb") as file:
                argv = ("./start.sh",) if file.read(2) == b"#!" else ("/bin/sh", "./start.sh")
            with suppress(OSError):
                (app / "start.sh").chmod(0o755)
        names = {
            "PLUM_INSTANCE_ID": wanted.instance_id, "PLUM_APP_NAME": wanted.app_name or "",
            "PLUM_APP_VERSION": wanted.app_version or "",
            "PLUM_DEPLOYMENT_ID": wanted.deployment_id, "WORKER_NODE_ID": self._around.node_id,
            shim.DIRECTORY_VARIABLE: str(directory)}
        if wanted.fence is not None:
            names["PLUM_FENCE_TOKEN"] = str(wanted.fence.token)
        return shim.Spec(
            argv=argv, env={**self._around.env, **(wanted.env or {}), **names}, cwd=str(app),
            stdin=None, name=f"plum-{self.folder.name[:100].replace('/', '-')}",
            grace_ms=wanted.grace_ms, log_bytes_max=LOG_BYTES_MAX,
            memory_bytes=(limits and limits.memory_bytes) or 0,
            cpu_percent=round((limits and limits.cpu_percent) or 0),
            pids=(limits and limits.pids) or 0, cgroups=self._around.cgroups,
            lease_at_ms=self._lease_ms if wanted.fence is not None else 0)

    # ------------------------------------------------------------ one run

    async def _follow(self, number: int, wanted: Assigned, *, found: bool = False) -> None:
        """Watch a run to its end, which is settled when this returns. found: an earlier agent
        started it, and what that said of its health stands until it is asked."""
        process = Process(self.folder / "runs" / str(number), self._around.shim_path)
        self._process, self._running_as = process, wanted
        age_s = shim.age_s(process.directory)
        begun_s = trio.current_time() - age_s
        seen = await process.look()
        self._pid, self._lease_ms = seen.pid, max(self._lease_ms, seen.lease_at_ms)
        self._unheld = seen.unheld and f"limits that nothing holds on this machine: {seen.unheld}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._steer, process, wanted)
            check = wanted.health_check
            self._healthy = True if check is None else None if found else False
            self._started_ms = time.time_ns() // 1_000_000 - round(1000 * age_s)
            if self._healthy is not None:
                self._say("Running", message=self._unheld)
            if check is not None:
                nursery.start_soon(health.watch, check, self._around.http, self._is_well, age_s)
            status = await process.wait()
            nursery.cancel_scope.cancel()
        self._process = self._running_as = None
        self._pid, self._healthy, self._started_ms, self._unwell = 0, False, 0, ""
        lived_s = trio.current_time() - begun_s
        await trio.to_thread.run_sync(self._note_over, number)
        async with trio.open_nursery() as nursery:      # the disk holds up no restart
            nursery.start_soon(trio.to_thread.run_sync, self._move_over)
            await self._settle(status, wanted, lived_s)

    async def measure(self) -> None:
        """Say what it uses, if it runs."""
        process = self._process
        usage = None if process is None else await process.usage()
        if (usage is not None and self._process is process and self._started_ms
                and self._healthy is not None):
            self._say("Running", message=self._unwell or self._unheld, stats=Stats(
                usage.cpu_us / 1e6, usage.memory_bytes, usage.peak_memory_bytes,
                usage.processes, usage.read_bytes, usage.written_bytes))

    def _is_well(self, well: bool) -> None:
        self._healthy = well
        self._unwell = "" if well else "the health check fails"
        self._say("Running", message=self._unwell or self._unheld)

    async def _steer(self, process: Process, ran: Assigned) -> None:
        """Stop the run when it shall not be, and renew its lease while it may."""
        while True:
            now = self._wanted
            if now is None or not now.wanted or not now.same_program(ran):
                await process.stop(ran.grace_ms, "stopped")
                await trio.sleep_forever()
            if ran.fence is None:
                await self._news()
                continue
            await process.tell(shim.lease_request(self._lease_ms))
            left_ms = self._term_at_ms(ran) - shim.boot_ms()
            if left_ms <= 0:
                await process.stop(min(ran.grace_ms, self._lease_ms - shim.boot_ms()), "lease")
                await trio.sleep_forever()
            with trio.move_on_after(left_ms / 1000):
                await self._news()

    async def _settle(self, status: shim.Status | None, ran: Assigned, lived_s: float) -> None:
        """What follows the end of a run."""
        backoff = ran.backoff or Backoff()
        if lived_s >= backoff.reset_sec:
            self._failures = 0
        wanted = self._wanted
        if wanted is None or not wanted.wanted:
            self._say("Stopped", status)
            return
        if not wanted.same_program(ran):
            return
        if status is not None and status.stop_reason == "lease":
            self._say("Stopped", status, message="stopped for want of contact with the controller")
            return
        restart = ran.restart or "on-failure"
        fine = (status is not None and status.exit_code == 0 and not status.failed_errno
                and status.stop_reason != shim.SHUTDOWN)
        if fine and restart != "always":
            self._end("Completed", status, left_behind(status))
        elif restart == "never":
            self._end("Failed", status, how_it_ended(status))
        else:
            await self._failed(how_it_ended(status), status)

    def _end(self, phase: str, status: shim.Status | None, message: str = "") -> None:
        self._keep(msgspec.structs.replace(self._kept, over=phase))
        self._say(phase, status, message)

    async def _failed(self, message: str, status: shim.Status | None = None) -> None:
        """Say it, and wait for the next try as long as it shall run."""
        backoff = self.assigned.backoff or Backoff()
        self._failures += 1
        pause_s = min(backoff.max_sec, backoff.first_sec * 2 ** min(self._failures - 1, 20))
        self._keep(msgspec.structs.replace(self._kept, restarts=self._kept.restarts + 1))
        self._say("Failed", status, f"{message}; again in {pause_s:g} s")
        log.warning("an instance failed", extra={
            "instance_id": self.assigned.instance_id, "reason": message, "again_s": pause_s})
        was = self.assigned
        with trio.move_on_after(pause_s):
            while self._shall_run() and self.assigned.same_program(was):
                await self._news()

    # ------------------------------------------------------------ words and files

    def _say(self, phase: str, status: shim.Status | None = None, message: str = "",
             stats: Stats | None = None) -> None:
        """Tell the controller."""
        if status is not None:
            stats = Stats((status.user_us + status.system_us) / 1e6, 0, status.peak_memory_bytes,
                          0, status.read_bytes, status.written_bytes, status.oom_kills)
        exited = status is not None and status.executed
        self._last = report = Report(
            self.assigned.instance_id, phase, int(time.time()), self._around.node_id,
            healthy=phase == "Running" and bool(self._healthy),
            exit_code=status.exit_code if exited and status is not None
            and status.exit_code >= 0 else None,
            signal=status.signal if status is not None else 0,
            restarts=self._kept.restarts, pid=self._pid if phase == "Running" else 0,
            started_at=self._started_ms if phase == "Running" else 0, message=message,
            stats=stats, generation=self.assigned.generation)
        self._around.reports.tell(report)

    def _keep(self, kept: Kept) -> None:
        """Write down what is wanted, for an agent that comes after us."""
        self._kept = kept
        try:
            write_kept(self.folder, kept)
        except OSError as error:
            log.warning("what is wanted of an instance cannot be written down", extra={
                "instance_id": kept.assigned.instance_id, "reason": str(error)})

    def _last_run(self) -> tuple[int, bool]:
        """The number of the latest run that was started, 0: none was; whether its end was never
        settled."""
        runs = self.folder / "runs"
        discard_rest(runs)
        self._move_over()
        started = [one for one in run_numbers(self.folder) if shim.was_claimed(runs / str(one))]
        if started and not (runs / str(started[-1]) / "over").exists():
            return started[-1], True
        return max([*started, self._around.logs.last(owner_of(self.folder.name))]), False

    def _note_over(self, number: int) -> None:
        """The run is settled."""
        with suppress(OSError):
            (self.folder / "runs" / str(number) / "over").touch()

    def _move_over(self) -> None:
        """Move the output of what is over to that of all others, and remove its directory."""
        owner, runs = owner_of(self.folder.name), self.folder / "runs"
        over = {(owner, one): runs / str(one) for one in run_numbers(self.folder)
                if (runs / str(one) / "over").exists()}
        try:
            self._around.logs.put(over.items(), time.time_ns() // 1_000_000)
            moved = list(over.values())
        except OSError as error:
            log.warning("the output of an instance stays where it is", extra={
                "instance_id": self.assigned.instance_id, "reason": str(error)})
            moved = list(over.values())[:-UNMOVED_RUNS]
        for directory in moved:
            discard(directory)


def how_it_ended(status: shim.Status | None) -> str:
    """The kernel's word, for people."""
    if status is None:
        return "its keeper was gone, so nobody knows how it ended"
    if status.failed_errno:
        return f"it could not be started: {status.failed_stage}: {status.failed_text}"
    if status.stop_reason == shim.SHUTDOWN:
        return "its machine was shut down"
    ended = (f"killed by {signal_name(status.signal)}" if status.signal
             else f"exit code {status.exit_code}")
    left = left_behind(status)
    return ended + memory_words(status) + (left and f"; {left}")


def left_behind(status: shim.Status | None) -> str:
    """What is said of an end with 0 that nobody asked for, after which something still ran; "" =
    nothing did. So it is with programs that go into the background."""
    if status is None or status.exit_code or status.stop_reason or not status.signals:
        return ""
    count = max(sent.processes for sent in status.signals)
    return (f"it left {count} process{'es' * (count > 1)} behind, which were ended: a program that "
            "is to go on must stay in the foreground")


def owner_of(folder_name: str) -> int:
    """What the output of an instance's runs is kept under, with their numbers."""
    return int.from_bytes(hashlib.blake2b(folder_name.encode(), digest_size=8).digest(), "big")


def remove_unstarted(directory: Path) -> None:
    """Nothing ran there, and nothing will."""
    if not shim.was_claimed(directory):
        remove_tree(directory)


def clear(folder: Path) -> None:
    """Remove the directory of an instance that nobody knows any more, as after a loss of power, and
    end whatever still runs there."""
    for number in run_numbers(folder):
        directory = folder / "runs" / str(number)
        with suppress(OSError):
            line = shim.connect(directory)
            if line is not None:
                with line:
                    line.settimeout(STRAY_S)
                    line.send(shim.stop_request(0, "unknown"))
                    while line.recv(256):
                        pass
        if shim.was_claimed(directory) and shim.read_status(directory) is None:
            shim.end_leftovers(directory)
    remove_tree(folder)


def run_numbers(folder: Path) -> list[int]:
    """The numbers of all runs that have a directory, in order."""
    with suppress(FileNotFoundError):
        return sorted(int(path.name) for path in (folder / "runs").iterdir()
                      if path.name.isdigit())
    return []


def write_kept(folder: Path, kept: Kept) -> None:
    """Whole or not at all. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    shim.put(folder / "assigned", msgspec.json.encode(kept))


def read_kept(folder: Path) -> Kept | None:
    """What an earlier agent wrote down; None: nothing that can be understood. Raises OSError."""
    with suppress(FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return msgspec.json.decode((folder / "assigned").read_bytes(), type=Kept)
    return None


def holds(mark: Path, name: str, app: Path) -> bool:
    """Whether app is the unpacked artifact of that name."""
    with suppress(OSError):
        return mark.read_text() == name and app.is_dir()
    return False


def forget_mark(mark: Path) -> None:
    """What was unpacked is about to change."""
    mark.unlink(missing_ok=True)
