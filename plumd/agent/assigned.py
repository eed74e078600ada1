"""What the controller wants to run on this node, as it says it."""

from __future__ import annotations

import hashlib
from typing import Final
from urllib.parse import quote

import msgspec

RUNNING: Final = "Running"
NAME_BYTES_MAX: Final = 150


def folder_of(instance_id: str) -> str:
    """The name of an instance's directory: its id, as far as that can be one."""
    name = quote(instance_id, safe=" ")
    if len(name) > NAME_BYTES_MAX or name in (".", "..") or not name:
        return "h-" + hashlib.sha256(instance_id.encode()).hexdigest()
    return name


class Backoff(msgspec.Struct, frozen=True, rename="camel"):
    """Pauses between restarts: first_sec, doubled up to max_sec; new after reset_sec of health."""

    first_sec: float = 0.5
    max_sec: float = 60.0
    reset_sec: float = 60.0


class Limits(msgspec.Struct, frozen=True, rename="camel"):
    """What the tree of an instance may use; None or 0 = no limit."""

    memory_bytes: int | None = None
    cpu_percent: float | None = None
    pids: int | None = None


class Fence(msgspec.Struct, frozen=True, rename="camel"):
    """The instance may only run while the controller is heard.

    lease_ms: so long after a request that was answered, counted from when it was sent.  away_ms:
    so long where nobody listens on the controller's machine, which is then there.
    """

    token: int | str
    lease_ms: int
    away_ms: int = 0


class Check(msgspec.Struct, frozen=True, rename="camel"):
    """How health is told: a GET that answers below 400, or a port that can be connected to.

    grace_sec: so long after the start a failure does not count.
    """

    kind: str
    port: int
    path: str = "/"
    interval_sec: float = 5.0
    timeout_sec: float = 2.0
    failures: int = 3
    grace_sec: float = 0.0


class Assigned(msgspec.Struct, frozen=True, rename="camel"):
    """One instance. Older controllers say the first nine keys.

    placed_at: when it was asked to begin, the last time.
    """

    instance_id: str
    desired: str = RUNNING
    deployment_id: str = ""
    artifact_url: str = ""
    start_cmd: str | None = None
    app_name: str | None = None
    app_version: str | None = None
    phase: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    env: dict[str, str] | None = None
    stop_grace_sec: float | None = None
    restart: str | None = None
    backoff: Backoff | None = None
    limits: Limits | None = None
    fence: Fence | None = None
    generation: int | None = None
    placed_at: int | None = None
    health_check: Check | None = None

    @property
    def wanted(self) -> bool:
        """Whether it shall run."""
        return self.desired == RUNNING

    @property
    def folder(self) -> str:
        """The name of its directory."""
        return folder_of(self.instance_id)

    @property
    def grace_ms(self) -> int:
        """Between SIGTERM and SIGKILL."""
        return round(1000 * (10.0 if self.stop_grace_sec is None else self.stop_grace_sec))

    def asks_again(self, before: Assigned) -> bool:
        """Whether it was asked to begin since then, even if nothing else was heard of that."""
        return None not in (self.placed_at, before.placed_at) and (
            self.placed_at != before.placed_at)

    def same_program(self, other: Assigned) -> bool:
        """Whether the two run alike, so that a running one may stay."""
        return (self.artifact_url, self.sha256, self.start_cmd, self.env, self.limits,
                self.fence and self.fence.token) == (
            other.artifact_url, other.sha256, other.start_cmd, other.env, other.limits,
            other.fence and other.fence.token)


class Assignments(msgspec.Struct, frozen=True, rename="camel"):
    """The answer of GET /v1/assignments; its items as they came. Older controllers say no revision.
    """

    items: list[msgspec.Raw]
    revision: str = ""


class Named(msgspec.Struct, frozen=True, rename="camel"):
    """As much of an item as can always be read."""

    instance_id: str


class Stats(msgspec.Struct, frozen=True, rename="camel"):
    """What an instance uses, or used until its end."""

    cpu_sec: float
    memory_bytes: int
    peak_memory_bytes: int
    processes: int
    read_bytes: int
    written_bytes: int
    oom_kills: int = 0


class Report(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What the controller is told of an instance."""

    instance_id: str
    phase: str
    ts_unix: int
    node_id: str
    healthy: bool | msgspec.UnsetType = msgspec.UNSET
    exit_code: int | None = None
    signal: int = 0
    restarts: int | msgspec.UnsetType = msgspec.UNSET
    pid: int = 0
    started_at: int = 0
    message: str = ""
    stats: Stats | None = None
    generation: int | None = None
