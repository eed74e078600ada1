"""The nouns of deployments: what is to run where, and the copies that do, as Structs.

A deployment has entries, an entry has slots, and a slot is filled by one copy (an instance) at a
time; while it moves or is renewed, by two. A copy stays on its node for ever: one that moves ends,
and another one, with an id of its own, begins.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

REPLICAS_MAX: Final = 1_000
ENTRIES_MAX: Final = 100
FENCE_MARGIN_MS: Final = 1_000
"""So long before its node counts as lost, a fenced copy is gone by itself; a quarter of a time that
is short."""

Name: TypeAlias = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
NodeName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200,
                                          pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
Labels: TypeAlias = Annotated[
    dict[Annotated[str, Meta(max_length=100)], Annotated[str, Meta(max_length=500)]],
    Meta(max_length=64)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=REPLICAS_MAX)]
Sec: TypeAlias = Annotated[float, Meta(ge=0, le=86_400)]
Environment: TypeAlias = Annotated[
    dict[Annotated[str, Meta(max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)")],
         Annotated[str, Meta(max_length=32_768, pattern=r"^[^\x00]*$(?!\n)")]],
    Meta(max_length=256)]


class Phase(IntEnum):
    """What a copy is doing, as its agent says; LOST is said by the controller."""

    PENDING = 0
    STARTING = 1
    RUNNING = 2
    STOPPED = 3
    FAILED = 4
    COMPLETED = 5
    LOST = 6


PHASES: Final = ("Pending", "Starting", "Running", "Stopped", "Failed", "Completed", "Lost")
OVER: Final = frozenset({Phase.STOPPED, Phase.FAILED, Phase.COMPLETED, Phase.LOST})


class HealthCheck(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How the agent finds out whether a copy is well. graceSec: so long it may fail at first."""

    kind: Literal["http", "tcp", "grpc"]
    port: Annotated[int, Meta(ge=1, le=65_535)]
    path: Annotated[str, Meta(max_length=1_000, pattern=r"^/[^\x00-\x20\x7f]*$(?!\n)")] = "/"
    interval_sec: Annotated[float, Meta(ge=0.1, le=3_600)] = 5.0
    timeout_sec: Annotated[float, Meta(ge=0.1, le=600)] = 2.0
    failures: Annotated[int, Meta(ge=1, le=100)] = 3
    grace_sec: Sec = 0.0


class ProcessLimits(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What a copy may use, which its node must have to spare. 0 = no bound. 100 % is one CPU."""

    memory_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 0
    cpu_percent: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    pids: Annotated[int, Meta(ge=0, le=4_194_304)] = 0


class Backoff(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Between restarts: firstSec, then twice as long each time, up to maxSec; after resetSec of
    health it begins anew."""

    first_sec: Annotated[float, Meta(ge=0.05, le=3_600)] = 0.5
    max_sec: Annotated[float, Meta(ge=0.05, le=86_400)] = 60.0
    reset_sec: Annotated[float, Meta(ge=0, le=86_400)] = 60.0


class DeploymentEntry(msgspec.Struct, frozen=True, rename="camel"):
    """One program of a deployment. replicas: how many, or how many on which node.

    selector: labels that a node must have.  spread: a label; copies are spread evenly over its
    values, "" = over nodes.  maxPerNode: 0 = any number.  failover: false = a copy waits for its
    lost node instead of moving.
    """

    name: Name = ""
    artifact_url: Annotated[str, Meta(max_length=2_000)] = ""
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{64})?$(?!\n)")] = ""
    app_name: Name = ""
    app_version: Name = ""
    start_cmd: Annotated[str, Meta(max_length=8_000, pattern=r"^[^\x00]*$(?!\n)")] = ""
    replicas: Count | Annotated[dict[NodeName, Count], Meta(max_length=REPLICAS_MAX)] = 1
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

    @property
    def program(self) -> DeploymentEntry:
        """What makes a copy of it another one when it changes: not where and how often."""
        return msgspec.structs.replace(self, replicas=1, selector={}, spread="", max_per_node=0,
                                       failover=True)


class Update(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How copies are renewed when their program changes, or their node is drained.

    maxParallel: slots at once.  minHealthySec: so long a new copy must be well to count.
    deadlineSec: until then it must be.  autoReturn: go back when it is not.  surge: the new copy
    comes before the old one goes, where that is possible.  drainSec: between the end of discovery
    of an old copy and its stop.
    """

    max_parallel: Annotated[int, Meta(ge=1, le=REPLICAS_MAX)] = 1
    min_healthy_sec: Sec = 5.0
    deadline_sec: Annotated[float, Meta(ge=0.1, le=86_400)] = 120.0
    auto_return: bool = True
    surge: bool = True
    drain_sec: Sec = 2.0


class Body(msgspec.Struct, frozen=True, rename="camel"):
    """A deployment as a version of it says. onPartition: see docs/deployments.md."""

    name: Name
    entries: tuple[DeploymentEntry, ...]
    labels: Labels = {}
    on_partition: Literal["keep", "fence"] = "keep"
    fence_after_sec: Sec = 120.0
    update: Update = Update()

    @property
    def fenced(self) -> bool:
        """Whether there may never be two copies of a slot."""
        return self.on_partition == "fence"


class Slot(NamedTuple):
    """A place that one copy fills. pin: the node that its entry names, "" = any."""

    entry: str
    pin: str
    ordinal: int


class Copy(msgspec.Struct):
    """An instance: one copy on one node. Its owner is Deployments, which writes what changes.

    version: of the deployment, that says what it runs.  token: grows with each copy.  replaces:
    the copy that goes when this one is well.  retired: why it shall end for good, "" = it shall
    not; then it is told to stop from stop_ms on.  held: somebody stopped this one alone.
    """

    number: int
    deployment: int
    entry: str
    pin: str
    ordinal: int
    generation: int
    version: int
    token: int
    replaces: int
    node_id: str
    retired: str
    stop_ms: int
    held: bool
    phase: Phase
    healthy_ms: int
    exit_code: int | None
    signal: int | None
    restarts: int
    pid: int
    message: str
    started_ms: int
    reported_ms: int
    placed_ms: int
    created_ms: int

    @property
    def slot(self) -> Slot:
        """Where it belongs."""
        return Slot(self.entry, self.pin, self.ordinal)

    @property
    def gone(self) -> bool:
        """Whether it surely runs no more, or was never placed."""
        return not self.node_id or self.phase in OVER

    @property
    def state(self) -> str:
        """One word for people: its phase, or Unhealthy."""
        if self.phase is Phase.RUNNING and not self.healthy_ms:
            return "Unhealthy"
        return PHASES[self.phase]


class Rollout(msgspec.Struct, frozen=True, rename="camel"):
    """The renewal of a deployment's copies. fromVersion: what was well before.

    state: rolling, done; returning, returned: it failed and the version before is back; failed: it
    failed and nothing is renewed any more.
    """

    version: int
    from_version: int
    state: Literal["rolling", "done", "returning", "returned", "failed"]
    since: int
    ended: int = 0
    why: str = ""

    @property
    def under_way(self) -> bool:
        """Whether copies are still to be renewed."""
        return self.state in ("rolling", "returning")


def lease_ms(ttl_s: float) -> int:
    """So long a fenced copy may run after a word of the controller, which takes its node for lost
    after ttl_s."""
    return round(ttl_s * 1000) - min(FENCE_MARGIN_MS, round(ttl_s * 250))


def slots_of(entry: DeploymentEntry) -> list[Slot]:
    """The places of an entry."""
    if isinstance(entry.replicas, int):
        return [Slot(entry.name, "", index) for index in range(entry.replicas)]
    return [Slot(entry.name, node, index) for node, count in sorted(entry.replicas.items())
            for index in range(count)]


class Usage(msgspec.Struct, frozen=True):
    """What a copy's processes use, by its agent's word. Bytes; what is read and written so far."""

    cpu_sec: float
    memory_bytes: float
    peak_memory_bytes: float
    processes: float
    read_bytes: float
    written_bytes: float


class Used(msgspec.Struct, frozen=True):
    """The same as it was at a time; it is known since the start of the daemon alone.

    cpu_percent: of one processor, between the look before and this one.
    """

    now: Usage
    cpu_percent: float
    at_ms: int
