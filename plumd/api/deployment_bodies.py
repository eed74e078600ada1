"""Deployments on the wire: what is read, what is shown, and the one made of the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from plumd.deployments import Assigned, Deployments, Fence, Planned
from plumd.errors import Invalid
from plumd.fleet import (
    ENTRIES_MAX,
    PHASES,
    REPLICAS_MAX,
    Backoff,
    Body,
    Copy,
    Count,
    DeploymentEntry,
    Environment,
    HealthCheck,
    Labels,
    Name,
    NodeName,
    Phase,
    ProcessLimits,
    Rollout,
    Sec,
    Slot,
    Update,
    Used,
    slots_of,
)
from plumd.model import id_text
from plumd.placement import Reason
from plumd.store.deployments import DeploymentRow, VersionRow

Replicas = Count | Annotated[dict[NodeName, Count], Meta(max_length=REPLICAS_MAX)]
Url = Annotated[str, Meta(max_length=2_000)]
StartCmd = Annotated[str, Meta(max_length=8_000, pattern=r"^[^\x00]*$(?!\n)")]


class EntryWrite(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One program. artifactUrl: an app's url.  name: default the app's.

    replicas: how many, or how many on which node.  startCmd: default ./start.sh.
    """

    artifact_url: Annotated[Url, Meta(min_length=1)]
    name: Name = ""
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{64})?$(?!\n)")] = ""
    start_cmd: StartCmd = ""
    replicas: Replicas = 1
    selector: Labels = {}
    spread: Annotated[str, Meta(max_length=100)] = ""
    max_per_node: Count = 0
    env: Environment = {}
    stop_grace_sec: Sec = 10.0
    restart: Literal["always", "on-failure", "never"] = "on-failure"
    backoff: Backoff = Backoff()
    limits: ProcessLimits = ProcessLimits()
    health_check: HealthCheck | None = None
    failover: bool = True


class DeploymentWrite(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A deployment as it is written: entries, or, in the older form, one of them at the top."""

    name: Annotated[Name, Meta(min_length=1)]
    labels: Labels = {}
    entries: Annotated[list[EntryWrite], Meta(max_length=ENTRIES_MAX)] = []
    on_partition: Literal["keep", "fence"] = "keep"
    fence_after_sec: Sec = 120.0
    update: Update = Update()
    artifact_url: Url = ""
    start_cmd: StartCmd = ""
    replicas: Annotated[dict[NodeName, Count], Meta(max_length=REPLICAS_MAX)] | None = None


class DeploymentAnew(DeploymentWrite, frozen=True, rename="camel", omit_defaults=True,
                     forbid_unknown_fields=True):
    """The same, where no older program writes: what is not known is refused."""


class Scale(msgspec.Struct, frozen=True, rename="camel"):
    """How many copies an entry shall have; entry may be left out where there is but one."""

    replicas: Replicas | None = None
    entry: str = ""
    version: Annotated[int, Meta(ge=1, le=1 << 53)] | None = None


class InstanceView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A copy. state: its phase, or Unhealthy.  why: what keeps it from running or from ending;
    reason: the same for programs."""

    instance_id: str
    deployment_id: str
    entry: str
    ordinal: int
    generation: int
    version: int
    node_id: str | None
    state: str
    phase: str
    healthy: bool
    desired: str
    retired: str | None
    why: str | None
    reason: Reason | None
    exit_code: int | None
    signal: int | None
    restarts: int
    pid: int | None
    message: str
    app_name: str
    app_version: str
    started_at: int | None
    last_report_at: int | None
    stats: StatsView | None
    created_at: int


class DeploymentView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A deployment. ready: copies that run and are well, of `wanted`.  waits: why slots wait."""

    deployment_id: str
    name: str
    version: int
    state: str
    labels: dict[str, str]
    entries: tuple[DeploymentEntry, ...]
    on_partition: str
    fence_after_sec: float
    update: Update
    rollout: Rollout | None
    wanted: int
    ready: int
    failed: int
    instances: list[str]
    waits: list[Waits]
    created_at: int
    updated_at: int


class Waits(msgspec.Struct, frozen=True, rename="camel"):
    """Why a slot has no copy that runs, or one that should have gone; reason: for programs."""

    entry: str
    ordinal: int
    node_id: str | None
    why: str
    reason: Reason


class PlannedView(msgspec.Struct, frozen=True, rename="camel"):
    """Where a copy would go; nodeId null: nowhere, and why says why, reason for programs."""

    entry: str
    ordinal: int
    node_id: str | None
    why: str | None
    reason: Reason | None


class PlanView(msgspec.Struct, frozen=True, rename="camel"):
    """What would go where."""

    placed: int
    unplaced: int
    instances: list[PlannedView]


class VersionView(msgspec.Struct, frozen=True, rename="camel"):
    """What a version of a deployment said. note: why there is one."""

    version: int
    note: str
    created_at: int
    entries: tuple[DeploymentEntry, ...]


class AssignmentView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A copy as its node's agent is told of it. placedAt: when it was asked to begin, the last time
    (Unix ms); one that is over begins again when that changes."""

    instance_id: str
    deployment_id: str
    desired: str
    artifact_url: str
    start_cmd: str
    app_name: str
    app_version: str
    phase: str
    healthy: bool
    last_report_at: int
    sha256: str
    size_bytes: int
    env: dict[str, str]
    stop_grace_sec: float
    restart: str
    backoff: Backoff
    limits: ProcessLimits
    fence: Fence | None
    generation: int
    placed_at: int
    health_check: HealthCheck | None


class AssignmentsView(msgspec.Struct, frozen=True, rename="camel"):
    """All copies of a node. revision: another one whenever they change."""

    items: list[AssignmentView]
    revision: str


class AssignmentWrite(msgspec.Struct, frozen=True, rename="camel"):
    """Whether one copy shall run."""

    desired: Literal["Running", "Stopped"]


Amount = Annotated[float, Meta(ge=0, le=1 << 60)]


class StatsGiven(msgspec.Struct, frozen=True, rename="camel"):
    """What a copy uses, or used until its end."""

    cpu_sec: Amount = 0.0
    memory_bytes: Amount = 0.0
    peak_memory_bytes: Amount = 0.0
    processes: Amount = 0.0
    read_bytes: Amount = 0.0
    written_bytes: Amount = 0.0
    oom_kills: Amount = 0.0


class StatsView(msgspec.Struct, frozen=True, rename="camel"):
    """What a copy used when its agent looked last (`at`, Unix ms). cpuPercent: of one processor,
    since the look before."""

    cpu_sec: float
    cpu_percent: float
    memory_bytes: int
    peak_memory_bytes: int
    processes: int
    read_bytes: int
    written_bytes: int
    at: int


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """What an agent says of a copy. tsUnix: its own time, in seconds.  startedAt: Unix ms.

    nodeId and generation: as the agent knows them; the copy's own count.
    """

    instance_id: Annotated[Name, Meta(min_length=1)]
    phase: Literal["Pending", "Starting", "Running", "Stopped", "Failed", "Completed"]
    exit_code: Annotated[int, Meta(ge=-(1 << 31), le=1 << 32)] | None = None
    signal: Annotated[int, Meta(ge=0, le=128)] | None = None
    healthy: bool | None = None
    ts_unix: float = 0.0
    restarts: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    pid: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    message: Annotated[str, Meta(max_length=100_000)] = ""
    started_at: Annotated[int, Meta(ge=0, le=1 << 53)] = 0
    stats: StatsGiven | None = None
    node_id: Name = ""
    generation: Annotated[int, Meta(ge=0, le=1 << 53)] | None = None


class Statuses(msgspec.Struct, frozen=True, rename="camel"):
    """Several of them at once; copies that are not known are passed over."""

    items: Annotated[list[Status], Meta(max_length=1_000)]


def body_of(given: DeploymentWrite, host: str, room: Deployments,
            allowed_hosts: tuple[str, ...]) -> Body:
    """The deployment that is meant, each entry with its app. Raises: Invalid."""
    entries = given.entries
    if not entries:
        if not given.artifact_url:
            raise Invalid("a deployment has at least one entry", field="entries")
        entries = [EntryWrite(given.artifact_url, start_cmd=given.start_cmd,
                              replicas=1 if given.replicas is None else given.replicas)]
    made: list[DeploymentEntry] = []
    for index, one in enumerate(entries):
        where = f"entries[{index}]" if given.entries else ""
        made.append(entry_of(one, where, host, room, allowed_hosts,
                             {entry.name for entry in made}))
    return Body(given.name, tuple(made), given.labels, given.on_partition,
                given.fence_after_sec, given.update)


def entry_of(given: EntryWrite, where: str, host: str, room: Deployments,
             allowed_hosts: tuple[str, ...], names: set[str]) -> DeploymentEntry:
    """One entry, with a name of its own. Raises: Invalid."""
    field = f"{where}.artifactUrl" if where else "artifactUrl"
    url, app_name, app_version = given.artifact_url, "", ""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise Invalid(f"this is no URL: {error}", field=field) from None
    if parts.netloc and parts.netloc.lower() == host.lower() and (
            room.app_of(parts.path) is not None):
        url = parts.path
    app = room.app_of(url)
    if app is not None:
        app_name, app_version = app.name, app.version
        if given.sha256 and given.sha256.lower() != app.sha256:
            raise Invalid("this is not the sha256 of the app", field=f"{where}.sha256")
    elif not parts.netloc:
        raise Invalid("there is no such artifact; upload the app first", field=field)
    elif parts.scheme not in ("http", "https") or parts.hostname not in allowed_hosts:
        raise Invalid("an artifact lies on this controller, or on a host that the setting "
                      "artifact_hosts names", field=field)
    elif not given.sha256:
        raise Invalid("an artifact of another host needs its sha256", field=f"{where}.sha256")
    name = given.name or app_name or parts.path.rpartition("/")[2] or "app"
    if given.name and name in names:
        raise Invalid(f"two entries have the name {name!r}", field=f"{where}.name")
    number = 2
    while name in names:
        name = f"{given.name or app_name or 'app'}-{number}"
        number += 1
    fields = msgspec.structs.asdict(given)
    return DeploymentEntry(**{**fields, "name": name, "artifact_url": url, "app_name": app_name,
                    "app_version": app_version, "sha256": given.sha256.lower()})


def instance_view(copy: Copy, row: DeploymentRow | None, room: Deployments) -> InstanceView:
    """A copy as the API shows it."""
    entry = room.program(copy.deployment, copy.version, copy.entry)
    reason = None if copy.retired else room.waits(copy.deployment).get(copy.slot)
    stops = copy.held or bool(copy.retired) or row is None or not row.running
    return InstanceView(
        instance_id=id_text(copy.number), deployment_id=id_text(copy.deployment),
        entry=copy.entry, ordinal=copy.ordinal, generation=copy.generation, version=copy.version,
        node_id=copy.node_id or None, state=copy.state, phase=PHASES[copy.phase],
        healthy=bool(copy.healthy_ms), desired="Stopped" if stops else "Running",
        retired=copy.retired or None,
        why=None if reason is None else reason.text, reason=reason,
        exit_code=copy.exit_code, signal=copy.signal, restarts=copy.restarts,
        pid=copy.pid or None, message=copy.message,
        app_name=entry.app_name if entry is not None else "",
        app_version=entry.app_version if entry is not None else "",
        started_at=copy.started_ms or None, last_report_at=room.heard_ms(copy) or None,
        stats=stats_view(room.usage(copy.number)), created_at=copy.created_ms)


def stats_view(used: Used | None) -> StatsView | None:
    """What a copy uses, as the API shows it; None: nobody said."""
    if used is None:
        return None
    now = used.now
    return StatsView(now.cpu_sec, used.cpu_percent, round(now.memory_bytes),
                     round(now.peak_memory_bytes), round(now.processes), round(now.read_bytes),
                     round(now.written_bytes), used.at_ms)


def deployment_view(row: DeploymentRow, copies: list[Copy], room: Deployments) -> DeploymentView:
    """A deployment as the API shows it."""
    body = row.body
    current = [copy for copy in copies if not copy.retired]
    waits: Mapping[Slot, Reason] = room.waits(row.number) if row.running else {}
    return DeploymentView(
        deployment_id=id_text(row.number), name=body.name, version=row.version,
        state="Running" if row.running else "Stopped", labels=body.labels, entries=body.entries,
        on_partition=body.on_partition, fence_after_sec=body.fence_after_sec, update=body.update,
        rollout=row.rollout, wanted=sum(len(slots_of(entry)) for entry in body.entries),
        ready=sum(1 for copy in current if copy.phase is Phase.RUNNING and copy.healthy_ms),
        failed=sum(1 for copy in current if copy.phase is Phase.FAILED),
        instances=[id_text(copy.number) for copy in current],
        waits=[Waits(slot.entry, slot.ordinal, slot.pin or None, why.text, why)
               for slot, why in sorted(waits.items())],
        created_at=row.created_ms, updated_at=row.updated_ms)


def version_view(row: VersionRow) -> VersionView:
    """A version as the API shows it."""
    return VersionView(row.version, row.note, row.created_ms, row.body.entries)


def plan_view(planned: list[Planned]) -> PlanView:
    """A plan as the API shows it."""
    found = [PlannedView(one.entry, one.ordinal, one.node_id or None,
                         None if one.why is None else one.why.text, one.why)
             for one in planned]
    placed = sum(1 for one in planned if one.node_id)
    return PlanView(placed, len(found) - placed, found)


def assignment_view(one: Assigned) -> AssignmentView:
    """A copy as its agent reads it."""
    copy, entry, app = one.copy, one.entry, one.app
    return AssignmentView(
        instance_id=id_text(copy.number), deployment_id=id_text(copy.deployment),
        desired="Running" if one.running else "Stopped", artifact_url=entry.artifact_url,
        start_cmd=entry.start_cmd, app_name=entry.app_name, app_version=entry.app_version,
        phase=PHASES[copy.phase], healthy=bool(copy.healthy_ms), last_report_at=one.heard_ms,
        sha256=app.sha256 if app is not None else entry.sha256,
        size_bytes=app.size_bytes if app is not None else 0, env=entry.env,
        stop_grace_sec=entry.stop_grace_sec, restart=entry.restart, backoff=entry.backoff,
        limits=entry.limits, fence=one.fence, generation=copy.generation,
        placed_at=copy.placed_ms, health_check=entry.health_check)
