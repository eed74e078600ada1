"""Builds all rooms and holds the nursery tree: the one place that knows everything.

    serve
    ├── engine.run            the loop that owns core and writer
    ├── carriers              attempts of the daemon's own executors
    ├── retention, expiry     slow work on timers
    ├── monitor               how busy all this is, once a second
    ├── services, devices, nodes  who is well, as memory knows it
    └── front                 connections, each its own task

Leaving is the tree unwound: doors first, then executors, the engine last.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

import plumd
from plumd import companion, logs, notify, signals
from plumd.alarms import Alarms
from plumd.api import alarms as alarm_routes
from plumd.api import (
    app,
    assignments,
    brokers,
    dag,
    device_history,
    device_leases,
    events,
    front,
    hooks,
    instance_logs,
    kv,
    locks,
    metrics,
    named_limits,
    pages,
    resources,
    schedule_bodies,
    schedules,
    service_policies,
    simulate,
    support,
    system,
    task_defs,
    task_lists,
    tasks,
    triggers,
    ui,
    webhooks,
    workers,
    workflow_files,
    workflow_runs,
    workflow_versions,
    workflows,
)
from plumd.api import apps as app_routes
from plumd.api import deployments as deployment_routes
from plumd.api import nodes as node_routes
from plumd.api import services as service_routes
from plumd.api.admission import Policy
from plumd.api.context import Context
from plumd.api.gate import Gate
from plumd.api.limits import Limits as DoorLimits
from plumd.api.routes import Route
from plumd.api.task_logs import TaskLogs
from plumd.artifacts import Artifacts
from plumd.attempt_logs import AttemptLogs
from plumd.builtin_calls import BuiltinCalls
from plumd.carrier import BuiltinCarrier, LocalCarrier
from plumd.clock import Clock, SystemClock, draw_seed, wall_steps
from plumd.config import Config
from plumd.deployments import Deployments
from plumd.devices import Devices
from plumd.engine import Engine
from plumd.errors import NotFound, PlumError
from plumd.executors.callback import Callback
from plumd.executors.grpc_client import GrpcClient
from plumd.executors.hour_logs import HourLogs
from plumd.executors.os_process import OsProcess
from plumd.executors.outgoing import Client
from plumd.executors.service import Service
from plumd.executors.targets import Policy as CallPolicy
from plumd.expiry import Expiry
from plumd.gathering import Gathering
from plumd.leases import Leases
from plumd.listeners import Listeners
from plumd.model import (
    BUILTIN_POOL,
    OS_PROCESS_POOL,
    SERVICE_POOL,
    Drain,
    Join,
    Limits,
    WorkerKind,
    attempt_text,
    id_text,
    parse_id,
)
from plumd.mqtt import Brokers
from plumd.nodes import Nodes
from plumd.operations import Operations
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.retention import DAY_MS, Keep, Retention
from plumd.services import Registry
from plumd.silence import Silence
from plumd.stats import Monitor
from plumd.store import instances
from plumd.store.blobs import Blobs
from plumd.store.definitions import Catalog
from plumd.store.store import Store
from plumd.stream.exchange import Exchanges
from plumd.stream.grpc import TaskService
from plumd.stream.websocket import Streams
from plumd.waits import Waits
from plumd.webhooks import Webhooks

log = logging.getLogger("plumd.daemon")
BUILTIN: Final = "local:builtin"
OS_PROCESS: Final = "local:os_process"
SERVICE: Final = "local:service"
SWITCH_S: Final = 0.0005
TELL_S: Final = 0.2
STATUS_S: Final = 10.0


class DataDirInUse(Exception):
    """Another daemon has this data directory."""


class Daemon:
    """All rooms, made but not started."""

    def __init__(self, config: Config, *, static: Path = ui.FOLDER) -> None:
        """static: where the built UI is, if it was built."""
        self.config = config
        self.reread: Callable[[], Config] = lambda: config
        self.data = Path(config.data_dir)
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = lock(self.data)
        clock = SystemClock()
        self.store = Store(config.database_path, clock=clock)
        self.blobs = Blobs(self.data / "blobs")
        catalog = Catalog(self.store)
        planner = Planner(catalog)
        self.outbox = Outbox(self.store)
        limits = Limits(tasks_max=config.tasks_max,
                        stop_grace_ms=round(config.stop_grace_sec * 1000),
                        home_node="" if config.os_process_slots else config.node_id)
        self.engine = Engine(self.store, clock, self.outbox, planner, limits, draw_seed(),
                             self.local_workers(), schedule_bodies.scheduled_task)
        kept = HourLogs(self.data / "logs", config.logs_bytes_max)
        self.processes = OsProcess(
            self.data, controller_base=f"http://{config.listen}", kept=kept)
        self.logs = AttemptLogs(self.data, kept=kept)
        self.gathering = Gathering(self.engine, kept, self.processes, self.logs)
        self.engine.lines = self.logs
        self.engine.read_blob = self.blobs.get
        self.client = Client(CallPolicy(tuple(
            ipaddress.ip_network(text) for text in config.outgoing_networks)))
        self.grpc_client = GrpcClient(self.client)
        self.build_fabric(clock)
        self.artifacts = Artifacts(self.data / "artifacts", self.store, clock, self.engine.write,
                                   self.engine.new_id, config.artifact_bytes_max)
        self.artifacts.removed = self.deployments.forget_app
        self.hook_client = Client(self.client.policy)       # nor do slow receivers of webhooks
        self.brokers = Brokers(self.engine, self.hook_client)
        self.webhooks = Webhooks(self.engine, self.hook_client, self.brokers)
        self.context = Context(self.engine, catalog, planner, self.blobs)
        self.streams = Streams(self.engine, self.blobs)
        self.exchanges = Exchanges(self.engine, self.blobs)
        self.carriers = self.register_carriers()
        self.answers = metrics.Answers()
        self.monitor = Monitor(self.engine, config.node_id)
        self.retention = Retention(self.engine, self.blobs, self.processes, Keep(
            round(config.retention_days * DAY_MS), round(config.run_retention_days * DAY_MS),
            config.events_max, config.finished_tasks_max))
        self.gate = Gate(
            Policy(frozenset(name.lower() for name in config.host_names), config.networks,
                   config.behind_proxy), streams_max=config.streams_max,
            observe=self.answers.observe)
        self.ui = ui.Ui(static)
        self.routes = self.all_routes()
        self.grpc = TaskService(
            app.build_app(self.routes, self.gate, deep=self.ui.deep()), self.engine, self.blobs,
            self.gate)

    def build_fabric(self, clock: Clock) -> None:
        """Services, devices, nodes, and what watches over them."""
        config = self.config
        self.registry = Registry(self.store, clock, self.engine.write,
                                 config.service_health_ttl_sec)
        self.registry.load()
        self.expiry = Expiry(self.engine)
        self.silence = Silence(self.engine)
        self.leases = Leases(self.store, clock, self.engine.write)
        self.leases.load()
        self.listeners = Listeners(self.engine)
        self.devices = Devices(self.store, clock, self.engine.write)
        self.devices.load()
        self.nodes = Nodes(self.store, clock, self.engine.write, config.node_ttl_sec)
        self.nodes.drain_worker = self.drain_worker
        self.nodes.load()
        self.deployments = Deployments(self.store, clock, self.engine.write, self.engine.new_id,
                                       self.nodes, self.registry)
        self.deployments.load()
        self.device_client = Client(self.client.policy)     # slow devices take no one else's calls
        self.operations = Operations(self.devices, self.device_client,
                                     lambda: id_text(self.engine.new_id()), self.leases)
        self.waits = Waits(self.engine, self.devices)
        self.alarms = Alarms(self.store, clock, self.engine.write, self.engine.new_id,
                             self.devices)
        self.alarms.load()

    def local_workers(self) -> list[Join]:
        """The daemon's own executors, as the core sees them."""
        found = [
            Join(BUILTIN, WorkerKind.LOCAL, "", (BUILTIN_POOL,), self.config.node_id,
                 capacity=1 << 30),
            Join(SERVICE, WorkerKind.LOCAL, "", (SERVICE_POOL,), self.config.node_id,
                 capacity=self.config.service_slots),
        ]
        if self.config.os_process_slots:
            found.append(Join(OS_PROCESS, WorkerKind.LOCAL, "", (OS_PROCESS_POOL,),
                              self.config.node_id, capacity=self.config.os_process_slots))
        return found

    def register_carriers(self) -> list[LocalCarrier]:
        """Whoever carries out what the core starts here."""
        reaching = LocalCarrier(self.engine, self.blobs, BuiltinCalls(
            self.client, self.engine.write, self.expiry, self.operations,
            self.config.builtin_http_hosts))
        self.outbox.register(BUILTIN, BuiltinCarrier(self.engine, self.blobs, reaching, self.waits))
        calls = Service(self.client, self.registry, self.grpc_client)
        self.health = self.registry.start_looking()
        processes, services, callbacks = (
            LocalCarrier(self.engine, self.blobs, executor)
            for executor in (self.processes, calls, Callback(self.client, self.grpc_client)))
        self.outbox.register(OS_PROCESS, processes)
        self.outbox.register(SERVICE, services)
        self.outbox.register_caller(callbacks)
        return [processes, services, callbacks, reaching]

    def all_routes(self) -> Sequence[Route]:
        """The table of all routes."""
        context = self.context
        task_handlers = tasks.Tasks(
            context, self.processes, TaskLogs(context, self.processes, self.logs),
            self.registry)
        state = system.System(context, self.config.node_id, self.config.trusted_networks,
                              self.monitor)
        node_handlers = node_routes.NodeRoutes(
            context, self.nodes, lambda: self.store.peek(instances.counts))
        runs = workflow_runs.WorkflowRuns(context)
        helper = support.Support(context, self.config, logs.RECENT.kept)
        flow_handlers = workflows.Workflows(context, runs, self.retention.poke)
        table = [
            *tasks.routes(task_handlers),
            *task_lists.routes(task_lists.TaskLists(context, task_handlers)),
            *task_defs.routes(task_defs.TaskDefs(context, task_handlers)),
            *workflows.routes(flow_handlers),
            *dag.routes(dag.Dags(context, flow_handlers, runs)),
            *workflow_files.routes(workflow_files.WorkflowFiles(context, flow_handlers)),
            *simulate.routes(simulate.Simulator(context, flow_handlers)),
            *workflow_versions.routes(workflow_versions.WorkflowVersions(context, flow_handlers)),
            *schedules.routes(schedules.Schedules(context)),
            *triggers.routes(triggers.Triggers(context, self.listeners, self.brokers)),
            *hooks.routes(hooks.Hooks(context)),
            *brokers.routes(brokers.Brokers(context, self.brokers)),
            *webhooks.routes(webhooks.Webhooks(context, self.webhooks)),
            *workflow_runs.routes(runs),
            *named_limits.routes(named_limits.NamedLimits(context)),
            *workers.routes(workers.Workers(context, self.exchanges)),
            *service_routes.routes(service_routes.Services(context, self.registry)),
            *service_policies.routes(service_policies.ServicePolicies(self.registry)),
            *kv.routes(kv.KeyValues(context, self.expiry)),
            *locks.routes(locks.Locks(self.leases)),
            *device_history.routes(device_history.DeviceHistory(context, self.devices)),
            *device_leases.routes(device_leases.DeviceLeases(self.leases, self.devices)),
            *alarm_routes.routes(alarm_routes.Alarms(context, self.alarms)),
            *resources.routes(resources.Resources(context, self.devices, self.operations,
                                                  self.retention.poke)),
            *node_routes.routes(node_handlers),
            *app_routes.routes(app_routes.Apps(context, self.artifacts)),
            *deployment_routes.routes(deployment_routes.DeploymentRoutes(
                context, self.deployments, self.config.artifact_hosts)),
            *assignments.routes(assignments.Assignments(context, self.deployments)),
            *instance_logs.routes(instance_logs.InstanceLogs(self.outbox, self.node_of)),
            front.STREAM_ROUTE,
            *events.routes(events.Events(context, self.monitor, node_handlers.wake)),
            *system.routes(state),
            *metrics.routes(metrics.Metrics(self.monitor, self.answers, metrics.Fabric(
                self.nodes, self.registry, self.devices, self.alarms, self.leases,
                self.webhooks, self.gathering.kept))),
            *support.routes(helper),
            *self.ui.routes(),
        ]
        helper.know(table)
        return [*table, *pages.page_routes(table, version=plumd.__version__,
                                           status=state.counts)]

    def node_of(self, instance_id: str) -> str:
        """An instance's node, "" when it has none yet. Raises: NotFound."""
        found = self.store.peek(instances.node_of, parse_id(instance_id) or 0)
        if found is None:
            raise NotFound("no such instance")
        return found

    def sockets(self) -> list[socket.socket]:
        """Where to listen: what the service manager holds stands for `listen`; further addresses
        are bound where it does not hold them, too. Raises OSError, ValueError."""
        held = notify.inherited()
        specs = [] if held else [self.config.listen]
        if self.config.grpc_listen:
            specs.append(self.config.grpc_listen)
        if self.config.unix_socket:
            specs.append(f"unix:{self.config.unix_socket}")
        return front.bind_beside(held, specs)

    async def serve(self, *, task_status: trio.TaskStatus[list[str]]
                    = trio.TASK_STATUS_IGNORED) -> None:
        """Run until SIGTERM or SIGINT; starts with the addresses that are listened on.

        Cancel: like a crash, but for the processes that are left running either way.
        """
        sockets = self.sockets()
        own = frozenset(each.getsockname()[:2] for each in sockets
                        if each.family != socket.AF_UNIX)
        for client in (self.client, self.device_client, self.hook_client):
            client.policy = msgspec.structs.replace(client.policy, listeners=own)
        leave = trio.Event()
        async with trio.open_nursery() as nursery:
            await self.end_strays()
            await nursery.start(self.artifacts.run)
            for carrier in self.carriers:
                await nursery.start(carrier.run)
            nursery.start_soon(self.store.run_checkpoints)
            nursery.start_soon(self.engine.run)
            nursery.start_soon(self.watch_clock)
            for room in (self.gathering, self.retention, self.monitor, self.registry,
                         self.expiry, self.silence, self.leases, self.waits, self.listeners,
                         self.devices,
                         self.alarms, self.nodes, self.deployments):
                nursery.start_soon(room.run)
            nursery.start_soon(self.health.run, self.client.policy)
            nursery.start_soon(self.client.run)
            nursery.start_soon(self.device_client.run)
            nursery.start_soon(self.hook_client.run)
            nursery.start_soon(self.webhooks.run)
            nursery.start_soon(self.brokers.run)
            nursery.start_soon(self.grpc_client.run)
            nursery.start_soon(self.logs.run)
            await nursery.start(signals.watch, leave, self.config, self.reread)
            gc.collect()
            gc.freeze()
            gc.enable()
            gc.set_threshold(50_000, 20, 50)
            async with trio.open_nursery() as doors:
                limits = DoorLimits(connections_max=self.config.connections_max,
                                    grace_s=self.config.shutdown_sec)
                closing = trio.Event()
                addresses = await doors.start(self.open_doors, sockets, closing, limits)
                log.info("listening", extra={"addresses": ", ".join(addresses)})
                task_status.started(addresses)
                notify.tell("READY=1", f"MAINPID={os.getpid()}", surely=True)
                nursery.start_soon(self.feed_watchdog)
                if self.config.agent:
                    nursery.start_soon(companion.keep, "agent", companion.agent_words(
                        own_url(addresses), self.config.node_id, self.data / "agent",
                        self.config.log_level, self.config.log_format))
                await leave.wait()
                log.info("leaving")
                notify.tell("STOPPING=1", surely=True)
                self.engine.stop_accepting()
                self.start_nothing_new()
                self.streams.drain()
                self.exchanges.drain()
                self.operations.drain()
                self.grpc.drain()
                await trio.sleep(TELL_S)        # so that workers hear it before their lines end
                closing.set()
            await self.wait_for_calls()
            nursery.cancel_scope.cancel()

    def start_nothing_new(self) -> None:
        """What waits goes on waiting; it is started when the daemon is back."""
        with contextlib.suppress(PlumError):    # the disk is down: then nothing is started anyway
            self.engine.post([Drain(join.worker_id) for join in self.local_workers()], urgent=True)

    def drain_worker(self, node_id: str, on: bool) -> None:
        """Let the agent of a node take no tasks, or take them again; it may have no session."""
        with contextlib.suppress(PlumError):
            self.engine.post([Drain(f"node:{node_id}", on)], urgent=True)

    async def wait_for_calls(self) -> None:
        """Let calls that are under way bring their answers home, for those die with the daemon;
        processes live on without it."""
        with trio.move_on_after(self.config.shutdown_sec):
            for carrier in self.carriers:
                if carrier.executor is not self.processes:
                    await carrier.wait_idle()

    async def watch_clock(self) -> None:
        """Let the engine know at once when the wall clock is set."""
        async for _ in wall_steps():
            with contextlib.suppress(PlumError):    # the disk is down; it looks when it is back
                self.engine.post((), urgent=True)

    async def feed_watchdog(self) -> None:
        """Tell the service manager how it goes, and that the engine's loop turns: the sign of life
        is given by a pass of it, not by a timer. A known outage of the disk counts as life."""
        while notify.tell(f"STATUS={self.status_line()}"):
            seen = self.engine.passes
            with contextlib.suppress(PlumError):
                self.engine.post((), urgent=True)
            await trio.sleep(notify.pause_s(STATUS_S))
            if self.engine.passes > seen:
                notify.tell("WATCHDOG=1")

    def status_line(self) -> str:
        """How much is under way, in a line."""
        _, pending, running, retrying = self.engine.core.counts_by_state()
        trouble = f"; {self.engine.down}" if self.engine.down else ""
        return f"{running} tasks run, {pending + retrying} wait{trouble}"

    async def end_strays(self) -> None:
        """Processes that the database does not know of: it was restored, or belongs elsewhere."""
        live = set(self.engine.core.held_by(OS_PROCESS))
        for pair in await trio.to_thread.run_sync(self.processes.sweep, live):
            log.warning("ended a stray process", extra={"attempt": attempt_text(*pair)})

    async def open_doors(self, sockets: Sequence[socket.socket], closing: trio.Event,
                         limits: DoorLimits, *, task_status: trio.TaskStatus[list[str]]
                         = trio.TASK_STATUS_IGNORED) -> None:
        """HTTP and the worker streams on one port, until `closing`."""
        await front.serve(
            self.grpc, routes=self.routes, gate=self.gate, sockets=sockets,
            stream_handler=self.streams.serve, shutdown=closing, limits=limits,
            task_status=task_status)

    def close(self) -> None:
        """Close the database and let the data directory go."""
        self.store.close()
        os.close(self._lock)


def lock(data: Path) -> int:
    """Hold the data directory against a second daemon. Raises: DataDirInUse."""
    fd = os.open(data / "plumd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise DataDirInUse(f"another plumd uses {data.absolute()}; --data-dir takes another "
                           "directory") from None
    return fd


def own_url(addresses: Sequence[str]) -> str:
    """The base URL for programs on this machine."""
    url = next(one for one in addresses if one.startswith("http"))
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


async def run(config: Config, reread: Callable[[], Config]) -> None:
    """The whole daemon, from an opened database to a closed one.

    reread: the settings as they are said now, for SIGHUP; raises ConfigError.
    """
    sys.setswitchinterval(SWITCH_S)
    notify.extend(config.database_path)
    daemon = Daemon(config)
    daemon.reread = reread
    try:
        await daemon.serve()
    finally:
        daemon.close()
