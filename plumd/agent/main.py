"""Builds the agent's parts and holds their nursery tree.

    run
    ├── beats       tells the controller that the node lives
    ├── link        the session by which attempts of tasks come and results go
    ├── attempts    each process that a task asked for
    └── fleet       the instances of deployments

Leaving ends none of the processes: their keepers hold them, and the next agent finds them again.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from typing import Final

import trio

from plumd import notify
from plumd.agent import leaf, link
from plumd.agent.artifacts import Artifacts
from plumd.agent.attempts import Attempts
from plumd.agent.beats import Beats
from plumd.agent.fleet import Fleet, environment
from plumd.agent.http import Http
from plumd.agent.identity import identity, lock
from plumd.agent.instance import Surroundings
from plumd.agent.pages import Pages
from plumd.agent.reports import Reports
from plumd.agent.settings import Settings
from plumd.executors import shim
from plumd.executors.command import base_environment
from plumd.executors.hour_logs import HourLogs
from plumd.executors.os_process import OsProcess

log = logging.getLogger("plumd.agent")
QUIET_S: Final = 3600.0
"""Between two looks at whether the service manager is owed a word, where no watchdog wants one."""


async def run(settings: Settings, until_eof: bool = False) -> None:
    """The whole agent, until SIGTERM or SIGINT, or until stdin ends. Raises OSError, DataDirInUse.
    """
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = lock(settings.data_dir)
    if settings.cgroups:
        leaf.settle()
    try:
        await serve(settings, until_eof)
    finally:
        os.close(descriptor)


async def serve(settings: Settings, until_eof: bool) -> None:
    """Serve the node; the data directory is ours."""
    who = identity(settings.data_dir, settings.node_id)
    http = Http(settings.controller, settings.token)
    base_env = base_environment() | {"WORKER_NODE_ID": settings.node_id}
    processes = OsProcess(settings.data_dir, base_env=base_env,
                          controller_base=settings.controller, cgroups=settings.cgroups)
    artifacts = Artifacts(settings.data_dir, http, settings.cache_bytes)
    logs = HourLogs(settings.data_dir / "logs", settings.logs_bytes)
    attempts = Attempts(processes, link.worker_id_of(settings.node_id),
                        Pages(settings.data_dir, logs))
    beats = Beats(settings, who, Http(settings.controller, settings.token))
    fleet = fleet_of(settings, beats, http, artifacts, logs)
    async with trio.open_nursery() as nursery:
        leave = trio.Event()
        await nursery.start(watch_signals, leave)
        if until_eof:
            nursery.start_soon(watch_stdin, leave)
        await trio.to_thread.run_sync(attempts.recover)
        await trio.to_thread.run_sync(fleet.recover)
        await trio.to_thread.run_sync(artifacts.prune)
        await nursery.start(attempts.run)
        nursery.start_soon(fleet.run)
        nursery.start_soon(beats.run)
        nursery.start_soon(link.serve, settings, who, attempts, beats)
        log.info("the agent runs", extra={
            "node_id": settings.node_id, "controller": settings.controller,
            "processes": len(attempts.running), "instances": len(fleet.instances)})
        gc.collect()
        gc.freeze()
        notify.tell("READY=1", f"STATUS=node {settings.node_id} of {settings.controller}",
                    surely=True)
        nursery.start_soon(feed_watchdog)
        await leave.wait()
        notify.tell("STOPPING=1", surely=True)
        log.info("leaving; processes go on", extra={"processes": len(attempts.running)})
        nursery.cancel_scope.cancel()
    await http.close()


def fleet_of(settings: Settings, beats: Beats, http: Http, artifacts: Artifacts,
             logs: HourLogs) -> Fleet:
    """The instances of this node, with all that they share."""
    around = Surroundings(
        node_id=settings.node_id, env=base_environment() | environment(settings),
        cgroups=settings.cgroups, shim_path=shim.SHIM_PATH, http=http,
        artifacts=artifacts,
        reports=Reports(Http(settings.controller, settings.token)), logs=logs,
        may_start=lambda: not beats.taken.is_set())
    return Fleet(settings, around, http, beats)


async def watch_signals(leave: trio.Event, *, task_status: trio.TaskStatus[None]
                        = trio.TASK_STATUS_IGNORED) -> None:
    """The first SIGTERM or SIGINT lets the agent leave, the second ends it now."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if leave.is_set():
                raise SystemExit(128 + number)
            leave.set()


async def feed_watchdog() -> None:
    """Tell the service manager that the loop turns, and what it has not heard."""
    life = () if notify.watchdog_s() is None else ("WATCHDOG=1",)
    while notify.tell(*life):
        pause_s = notify.pause_s(QUIET_S)
        await trio.sleep(pause_s)


async def watch_stdin(leave: trio.Event) -> None:
    """Leave when whoever started the agent is gone."""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        while await stream.receive_some(4096):
            pass
    leave.set()
