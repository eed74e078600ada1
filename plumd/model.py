"""The nouns: ids, states, commands and what comes back, as frozen Structs; bodies.py has the
definitions.

Inside, times are integer Unix milliseconds (`_ms`) and payloads are JSON bytes that nobody parses
unless they must. The wire's camelCase is made by `rename`; the same Structs give the OpenAPI types.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NewType, TypeAlias

import msgspec

TaskId = NewType("TaskId", int)
RunId = NewType("RunId", int)
DefId = NewType("DefId", int)
WorkflowId = NewType("WorkflowId", int)

INLINE_BYTES_MAX: Final = 64 * 1024
VALUE_BYTES_MAX: Final = 16 * 1024 * 1024
BULK_ITEMS_MAX: Final = 10_000
BULK_BYTES_MAX: Final = 32 * 1024 * 1024
NAME_CHARS_MAX: Final = 200
SEC_MAX: Final = 315_360_000
BUILTIN_PREFIX: Final = "builtin."
BUILTIN_POOL: Final = "!builtin"
SERVICE_POOL: Final = "!service"
OS_PROCESS_POOL: Final = "!os_process"
"""What the daemon's own executors join as; task names may not begin with `!`."""
AGENT_PREFIX: Final = "node:"
"""What the worker ids of agents begin with; the node's id follows."""


def id_text(number: int) -> str:
    """The id as users see it: fixed width, so text order is time order."""
    return f"{number:015x}"


def parse_id(text: str) -> int | None:
    """The number behind an id's text; None when it is no id."""
    if not 0 < len(text) <= 16 or not text.isascii() or not text.isalnum():
        return None
    try:
        number = int(text, 16)
    except ValueError:
        return None
    return number if number < 1 << 63 else None


def attempt_text(task_id: int, number: int) -> str:
    """An attempt's id on the wire: the task's id for the first, `<taskId>.<n>` for later ones."""
    return f"{task_id:015x}" if number == 1 else f"{task_id:015x}.{number}"


def parse_attempt(text: str) -> tuple[int, int] | None:
    """(task id, attempt number) behind an attempt's id; None when it is none."""
    if len(text) == 15 and text.isalnum() and text.isascii():      # a first attempt, as most are
        number = parse_id(text)
        return None if number is None else (number, 1)
    head, dot, tail = text.partition(".")
    task_id = parse_id(head)
    if task_id is None:
        return None
    if not dot:
        return task_id, 1
    if not (tail.isascii() and tail.isdigit() and len(tail) < 10):
        return None
    return task_id, int(tail)


class TaskState(IntEnum):
    """Where a task stands. From SUCCEEDED on it never changes again."""

    QUEUED = 0      # created, not started
    PENDING = 1     # waits for a worker, or for its due time
    RUNNING = 2     # an attempt is claimed by a worker
    RETRYING = 3    # waits between two attempts
    SUCCEEDED = 4
    FAILED = 5
    TIMEOUT = 6
    CANCELED = 7


TASK_STATES: Final = tuple(state.name.capitalize() for state in TaskState)


class Ending(IntEnum):
    """How an attempt ended."""

    SUCCEEDED = 0
    FAILED = 1
    TIMEOUT = 2
    CANCELED = 3
    LOST = 4


ENDINGS: Final = tuple(ending.name.lower() for ending in Ending)


class Kind(IntEnum):
    """Which executor a task asks for."""

    EMBEDDED = 0
    SERVICE = 1
    OS_PROCESS = 2


KINDS: Final = tuple(kind.name.lower() for kind in Kind)


class OnLost(IntEnum):
    """What follows when an attempt is lost with its worker."""

    RETRY = 0
    FAIL = 1


ON_LOST: Final = tuple(choice.name.lower() for choice in OnLost)


class TaskError(msgspec.Struct, frozen=True, rename="camel", omit_defaults=False):
    """Why a task did not succeed, with the attempt and the worker that owned the failure."""

    code: str
    message: str
    attempt: int = 0
    worker: str | None = None
    node: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    detail: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """More facts as JSON: the signals sent and when, an answer's status and body."""


class Submit(msgspec.Struct, frozen=True, gc=False):
    """Command: one new task. The engine draws task_id; 0 in due_ms means now."""

    task_id: int
    name: str
    kind: int = Kind.EMBEDDED
    target_kind: str = ""
    target_ref: str = ""
    def_id: int = 0
    def_version: int = 0
    priority: int = 5
    timeout_ms: int = 300_000
    queue_timeout_ms: int = 0
    max_retries: int = 0
    on_lost: int = OnLost.RETRY
    due_ms: int = 0
    auto_start: bool = True
    run_id: int = 0
    step: int = -1
    origin_id: int = 0
    scheduled_ms: int = 0
    payload: bytes | None = None
    blob: str = ""
    """sha256 of the file that holds a large payload; payload is None then."""
    labels: tuple[tuple[str, str], ...] = ()
    concurrency_key: str = ""
    concurrency_limit: int = 0
    on_conflict: int = 0


ON_CONFLICT: Final = ("queue", "skip", "cancel")
"""What a task does whose key is full: wait, not run at all, or end the oldest of its key."""


class SetLimit(msgspec.Struct, frozen=True, gc=False):
    """Command: a key's named limit: so many at once, and so many begin in rate_per_ms; 0 = any."""

    key: str
    concurrency: int = 0
    rate_count: int = 0
    rate_per_ms: int = 0


class Start(msgspec.Struct, frozen=True, gc=False):
    """Command: a Queued task may go."""

    task_id: int


class Cancel(msgspec.Struct, frozen=True, gc=False):
    """Command: end this task; a running attempt is stopped first."""

    task_id: int


class Finish(msgspec.Struct, frozen=True):
    """Command: what a worker or executor says of an attempt that ended."""

    task_id: int
    attempt: int
    worker_id: str
    ending: int = Ending.SUCCEEDED
    result: bytes | None = None
    error: TaskError | None = None
    retryable: bool = True
    retry_after_ms: int = 0
    blob: str = ""
    """sha256 of the file that holds a large result; result is None then."""
    reached: bool = True
    """False: the call never came to the worker, or a session gave the attempt back before it began:
    another worker may have it at once."""


class Nap(msgspec.Struct, frozen=True):
    """Command: a builtin delay; the core's own timer ends the attempt at until_ms with result."""

    task_id: int
    attempt: int
    until_ms: int
    result: bytes


class WorkerKind(IntEnum):
    """How attempts reach a worker."""

    SESSION = 0     # it pulls or streams
    CALLBACK = 1    # its URL is called
    LOCAL = 2       # an executor of this daemon


class Join(msgspec.Struct, frozen=True):
    """Command: a worker is here and says what it is, what it can and what it holds.

    session: drawn by the worker once per process start. The same session again is a reconnect:
    claims that it does not hold are sent again. Another session replaces the old one, and what
    the old one held is lost. holding: (task id, attempt) pairs, running or not yet acknowledged.
    """

    worker_id: str
    kind: int
    session: str
    tasks: tuple[str, ...]
    node_id: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    capacity: int = 4
    lease_ms: int = 30_000
    url: str = ""
    instance_id: str = ""
    app_name: str = ""
    app_version: str = ""
    holding: tuple[tuple[int, int], ...] = ()


class Detach(msgspec.Struct, frozen=True):
    """Command: a session's line dropped. Its lease runs on; nothing new is sent to it."""

    worker_id: str
    session: str


class Ahead(msgspec.Struct, frozen=True):
    """Command: how many attempts a session wants in hand beyond its capacity, until it says
    otherwise or its line drops."""

    worker_id: str
    session: str
    count: int


class Leave(msgspec.Struct, frozen=True):
    """Command: a worker says goodbye or is deleted; what it still holds is lost at once."""

    worker_id: str


class Drain(msgspec.Struct, frozen=True):
    """Command: a worker takes no new attempts but ends those that it has (on=False undoes it).

    own: it says so itself, which holds for its session; what others say holds until they undo it.
    """

    worker_id: str
    on: bool = True
    own: bool = False


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What a command came to. code is "" when it was accepted, else an error code of errors.py."""

    code: str = ""
    detail: str = ""
    state: int = -1
    attempt: int = 0
    value: int = 0
    """What else a command answers: the slot of a trigger, the count of a backfill."""

    @property
    def ok(self) -> bool:
        """Whether it was accepted."""
        return not self.code


ACCEPTED: Final = Reply()


class Ended(msgspec.Struct, frozen=True, gc=False):
    """From the core: an attempt (or a task that never ran, attempt 0) came to an end.

    state: the task's state after it; terminal ones are final.  code: why, when the core itself
    ended it ("" when `report` says).  report: the Finish that ended it, if one did.
    """

    task_id: int
    attempt: int
    ending: int
    state: int
    worker_id: str
    node_id: str
    started_ms: int
    ended_ms: int
    code: str
    report: Finish | None
    name: str
    run_id: int
    step: int
    cancel_ms: int


class Limits(msgspec.Struct, frozen=True):
    """The core's bounds and paces. Times are milliseconds."""

    tasks_max: int = 10_000_000
    workers_max: int = 50_000
    idle_classes_max: int = 256
    timers_per_tick: int = 256
    alarms_per_tick: int = 64
    age_ms_per_priority: int = 60_000
    backoff_base_ms: int = 1_000
    backoff_cap_ms: int = 300_000
    lost_extra: int = 3
    stop_grace_ms: int = 10_000
    restart_grace_ms: int = 20_000
    """At least so long a worker may stay away after a restart: its own pauses reach 15 s."""
    home_node: str = ""
    """The node whose agent runs processes that name no node; "" = the daemon runs them."""


class Meters(msgspec.Struct, frozen=True):
    """What the core has counted since it was made. The four ends are tasks, lost are attempts.

    wait, run: histograms of the time from ready to started and from started to ended; bucket i
    counts times below 2**i us and, but for the first, not below 2**(i - 1) us.
    """

    submitted: int = 0
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    timeout: int = 0
    canceled: int = 0
    lost: int = 0
    stale: int = 0
    wait_us: int = 0
    run_us: int = 0
    wait: tuple[int, ...] = (0,) * 42
    run: tuple[int, ...] = (0,) * 42


class Cause(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One true reason why a task waits. code is stable; message is for people."""

    code: str
    message: str
    workers: int = 0
    ahead: int = 0
    until_ms: int = 0


# What goes into the core and what comes out, as plain tuples where many pass a second.
CoreCommand: TypeAlias = (Submit | Start | Cancel | Finish | Nap | Join | Detach | Leave | Drain
                          | Ahead | SetLimit)
Row: TypeAlias = tuple[
    int, int, str, int, str, str, int, int, int, int, int, int, int, int, int, int, int, int,
    str | None, int, int, int, str, int,
]
Created: TypeAlias = tuple[Submit, int, int, int, str | None, int, int, int, int]
"""(command, created_ms, state, attempt, worker_id, due_ms, started_ms, finished_ms, cancel_ms)"""
Changed: TypeAlias = tuple[int, int, int, int, str | None, int, int, int, int, int]
"""(state, attempt, failures, lost, worker_id, due_ms, started_ms, finished_ms, cancel_ms, id)"""
TaskEvent: TypeAlias = tuple[str, int, str, int, int, str, int, int]
"""("task", task_id, name, state, attempt, worker_id, run_id, at_ms)"""
WorkerEvent: TypeAlias = tuple[str, str, str, int]
"""("worker", worker_id, what, at_ms); what: online, changed (its names, its slots ...), away (its
line dropped), draining, resumed, offline (its lease ran out) or left"""
StartEffect: TypeAlias = tuple[str, int, int, int, str, int, int, int, bool]
"""(worker_id, worker kind, task_id, attempt, name, timeout_ms, has_input, started_ms, resumed)"""
StopEffect: TypeAlias = tuple[str, int, int, str]
"""(worker_id, task_id, attempt, "canceled" | "timeout" | "stale")"""
Step: TypeAlias = tuple[
    list[Created], list[Changed], list[Ended], list[TaskEvent | WorkerEvent], list[StartEffect],
    list[StopEffect], list[tuple[str, str]], list[Join], list[tuple[str, str]],
]
"""(created, changed, ended, events, starts, stops, kicks, joined, gone); a kick is (worker_id,
session) whose line must be closed, gone is (worker_id, "left" | "offline")"""
